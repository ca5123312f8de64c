//! What is said to a Redis behind Upstash's REST API, and what it answers (Upstash documentation, "REST API"): a command is
//! a JSON array posted to the base URL, an answer is `{"result":…}` or `{"error":"…"}`.
//!
//! Strings in JSON are Unicode, entries are any bytes: a value is kept as base64.

use crate::json;
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

/// What Upstash takes as one request, in bytes.
pub const MAX_REQUEST: usize = 10_000_000;

/// The longest answer that can be one to a command of ours, in bytes: whatever was set in one request, and its frame.
pub const MAX_ANSWER: usize = MAX_REQUEST + 1_000;

/// The server's answer is no answer to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// The command that reads a key.
pub fn get(key: &str) -> String {
    json!(["GET", name(key)]).to_string()
}

/// The command that sets a key, to be forgotten after `ttl` seconds or never. `None`: it is larger than Upstash takes.
pub fn set(key: &str, value: &[u8], ttl: Option<u64>) -> Option<String> {
    let value = BASE64_STANDARD.encode(value);
    let command = match ttl {
        Some(ttl) => json!(["SET", name(key), value, "EX", ttl.max(1)]),
        None => json!(["SET", name(key), value]),
    };
    Some(command.to_string()).filter(|command| command.len() <= MAX_REQUEST)
}

/// The command that forgets keys, which are named as [`scanned`] names them.
pub fn delete(names: &[String]) -> String {
    let command: Vec<&str> = std::iter::once("DEL").chain(names.iter().map(String::as_str)).collect();
    json!(command).to_string()
}

/// The command that forgets one key.
pub fn forget(key: &str) -> String {
    delete(&[name(key)])
}

/// The command that looks for keys with a prefix among the next `count` of all. `cursor`: as [`scanned`] gave it.
pub fn scan(prefix: &str, cursor: Option<&str>, count: usize) -> String {
    json!(["SCAN", cursor.unwrap_or("0"), "MATCH", format!("{}*", name(prefix)), "COUNT", count]).to_string()
}

/// What a scan found: where it goes on, if it is not over, and the names.
///
/// # Errors
/// [`Refused`] as there.
pub fn scanned(answer: &[u8]) -> Result<(Option<String>, Vec<String>), Refused> {
    let result = result(answer)?;
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(Refused);
    let cursor = text(result.get(0).ok_or(Refused)?)?;
    let names = result.get(1).and_then(Value::as_array).ok_or(Refused)?.iter().map(text).collect::<Result<_, _>>()?;
    Ok((Some(cursor).filter(|cursor| cursor != "0"), names))
}

/// How many keys are forgotten.
///
/// # Errors
/// [`Refused`] as there.
pub fn deleted(answer: &[u8]) -> Result<usize, Refused> {
    let n = result(answer)?.as_u64().ok_or(Refused)?;
    usize::try_from(n).map_err(|_| Refused)
}

/// Keys are set apart from whatever else lives in the database.
fn name(key: &str) -> String {
    format!("reprise:{key}")
}

/// Whether a write was done.
///
/// # Errors
/// [`Refused`] as there.
pub fn stored(answer: &[u8]) -> Result<(), Refused> {
    if result(answer)? == "OK" { Ok(()) } else { Err(Refused) }
}

fn result(answer: &[u8]) -> Result<Value, Refused> {
    let mut answer: Value = json::read(answer).ok_or(Refused)?;
    let failed = answer.get("error").is_some_and(|error| !error.is_null());
    answer.get_mut("result").filter(|_| !failed).map(Value::take).ok_or(Refused)
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
        assert_eq!(forget("k"), r#"["DEL","reprise:k"]"#);
        assert_eq!(scan("t:", None, 9), r#"["SCAN","0","MATCH","reprise:t:*","COUNT",9]"#);
        assert_eq!(scan("t:", Some("17"), 9), r#"["SCAN","17","MATCH","reprise:t:*","COUNT",9]"#);
    }

    #[test]
    fn answers_are_read_or_refused() {
        for bad in [&b"{\"error\":\"WRONGPASS\"}"[..], b"", b"<html>", b"{\"result\":7}", b"[]"] {
            assert_eq!(stored(bad), Err(Refused));
        }
        assert_eq!(stored(br#"{"result":"OK"}"#), Ok(()));
        assert_eq!(scanned(br#"{"result":["0",[]]}"#), Ok((None, vec![])));
        assert_eq!(scanned(br#"{"result":["17",["a"]]}"#), Ok((Some("17".to_owned()), vec!["a".to_owned()])));
        assert_eq!((deleted(br#"{"result":2}"#), deleted(br#"{"error":"x"}"#)), (Ok(2), Err(Refused)));
        assert_eq!(stored(br#"{"result":null}"#), Err(Refused));
    }
}
