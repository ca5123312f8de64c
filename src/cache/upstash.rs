//! Commands to Redis through Upstash's REST API, and its replies (Upstash documentation, "REST API"). A command is a JSON array
//! that is posted to the base URL; a reply is `{"result":…}` or `{"error":"…"}`.
//!
//! JSON strings are Unicode and entries are bytes, so values are stored as base64.

use crate::json;
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

/// The largest request that Upstash accepts, in bytes.
pub const MAX_REQUEST: usize = 10_000_000;

/// The largest reply to one of our commands, in bytes: a value that was set in one request, and the JSON around it.
pub const MAX_RESPONSE: usize = MAX_REQUEST + 1_000;

/// The server's reply is an error, or not a reply to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandError;

/// The command that reads a key.
pub fn get(key: &str) -> String {
    json!(["GET", name(key)]).to_string()
}

/// The command that sets a key, which expires after `ttl` seconds or never. `None`: it is too large for Upstash.
pub fn set(key: &str, value: &[u8], ttl: Option<u64>) -> Option<String> {
    let value = BASE64_STANDARD.encode(value);
    let command = match ttl {
        Some(ttl) => json!(["SET", name(key), value, "EX", ttl.max(1)]),
        None => json!(["SET", name(key), value]),
    };
    Some(command.to_string()).filter(|command| command.len() <= MAX_REQUEST)
}

/// The command that deletes keys, with the names from [`parse_scan`].
pub fn delete(names: &[String]) -> String {
    let command: Vec<&str> = std::iter::once("DEL").chain(names.iter().map(String::as_str)).collect();
    json!(command).to_string()
}

/// The command that deletes a key.
pub fn del(key: &str) -> String {
    delete(&[name(key)])
}

/// The command that looks for keys with a prefix among the next `count` keys. `cursor`: from [`parse_scan`].
pub fn scan(prefix: &str, cursor: Option<&str>, count: usize) -> String {
    json!(["SCAN", cursor.unwrap_or("0"), "MATCH", format!("{}*", name(prefix)), "COUNT", count]).to_string()
}

/// The result of a scan: the cursor, unless it has ended, and the names.
///
/// # Errors
/// [`CommandError`].
pub fn parse_scan(response: &[u8]) -> Result<(Option<String>, Vec<String>), CommandError> {
    let result = result(response)?;
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(CommandError);
    let cursor = text(result.get(0).ok_or(CommandError)?)?;
    let names =
        result.get(1).and_then(Value::as_array).ok_or(CommandError)?.iter().map(text).collect::<Result<_, _>>()?;
    Ok((Some(cursor).filter(|cursor| cursor != "0"), names))
}

/// The number of deleted keys.
///
/// # Errors
/// [`CommandError`].
pub fn parse_deleted(response: &[u8]) -> Result<usize, CommandError> {
    let n = result(response)?.as_u64().ok_or(CommandError)?;
    usize::try_from(n).map_err(|_| CommandError)
}

/// The name in the database, which other programs may use too.
fn name(key: &str) -> String {
    format!("reprise:{key}")
}

/// Checks that a write succeeded.
///
/// # Errors
/// [`CommandError`].
pub fn parse_set(response: &[u8]) -> Result<(), CommandError> {
    if result(response)? == "OK" { Ok(()) } else { Err(CommandError) }
}

fn result(response: &[u8]) -> Result<Value, CommandError> {
    let mut response: Value = json::from_slice(response).ok_or(CommandError)?;
    let failed = response.get("error").is_some_and(|error| !error.is_null());
    response.get_mut("result").filter(|_| !failed).map(Value::take).ok_or(CommandError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_json_arrays() {
        assert_eq!(get("k"), r#"["GET","reprise:k"]"#);
        assert_eq!(set("k", &[0, 255], None).unwrap(), r#"["SET","reprise:k","AP8="]"#);
        assert_eq!(set("k", b"", Some(0)).unwrap(), r#"["SET","reprise:k","","EX",1]"#);
        assert_eq!(set("k", &vec![0; 8_000_000], None), None);
        assert_eq!(del("k"), r#"["DEL","reprise:k"]"#);
        assert_eq!(scan("t:", None, 9), r#"["SCAN","0","MATCH","reprise:t:*","COUNT",9]"#);
        assert_eq!(scan("t:", Some("17"), 9), r#"["SCAN","17","MATCH","reprise:t:*","COUNT",9]"#);
    }

    #[test]
    fn replies_are_read_or_rejected() {
        for bad in [&b"{\"error\":\"WRONGPASS\"}"[..], b"", b"<html>", b"{\"result\":7}", b"[]"] {
            assert_eq!(parse_set(bad), Err(CommandError));
        }
        assert_eq!(parse_set(br#"{"result":"OK"}"#), Ok(()));
        assert_eq!(parse_scan(br#"{"result":["0",[]]}"#), Ok((None, vec![])));
        assert_eq!(parse_scan(br#"{"result":["17",["a"]]}"#), Ok((Some("17".to_owned()), vec!["a".to_owned()])));
        assert_eq!((parse_deleted(br#"{"result":2}"#), parse_deleted(br#"{"error":"x"}"#)), (Ok(2), Err(CommandError)));
        assert_eq!(parse_set(br#"{"result":null}"#), Err(CommandError));
    }
}
