//! Reads `UPSTREAMS` and the operator's keys.

use super::env::Vars;
use super::secret::HeaderSecret;
use super::{ConfigError, web_base};
use crate::config::providers::{DEFAULT, Upstream, built_in};
use crate::json::canonical::Document;
use crate::json::{JsonCursor, Member};
use std::rc::Rc;
use url::Url;

const VARIABLE: &str = "UPSTREAMS";

/// First path segments that are routes of the proxy.
const RESERVED: [&str; 9] = ["proxy", "v1", "api", "health", "healthz", "metrics", "dashboard", "admin", DEFAULT];

/// Every upstream that a path names: the built-in ones, and those of `UPSTREAMS`.
///
/// # Errors
/// A mistake in `UPSTREAMS`, with its place, or an invalid key.
pub(super) fn named<F: Fn(&str) -> Option<String>>(
    vars: &Vars<'_, F>,
    default: &Upstream,
) -> Result<Vec<Rc<Upstream>>, ConfigError> {
    let mut all = built_in();
    if let Some(text) = vars.text(VARIABLE) {
        read(&text, &mut all)?;
    }
    for upstream in &mut all {
        // `OPENAI_API_KEY` belongs to the default upstream. It goes to OpenAI only if that is the default upstream.
        let is_of_default = upstream.name == "openai" && upstream.base.origin() != default.base.origin();
        upstream.key = if is_of_default { None } else { key(vars, upstream)? };
    }
    Ok(all.into_iter().map(Rc::new).collect())
}

/// The operator's key for an upstream.
///
/// # Errors
/// A variable that holds no key.
pub(super) fn key<F: Fn(&str) -> Option<String>>(
    vars: &Vars<'_, F>,
    upstream: &Upstream,
) -> Result<Option<HeaderSecret>, ConfigError> {
    let variable = upstream.key_variable();
    let Some(text) = vars.text(&variable) else {
        return Ok(None);
    };
    match HeaderSecret::new(&text) {
        Some(secret) => Ok(Some(secret)),
        None => Err(ConfigError::new(variable, "must be a key without spaces. Correct or unset it.")),
    }
}

fn error_at(at: usize, expected: &str) -> ConfigError {
    ConfigError::new(VARIABLE, format!("has a mistake at byte {at}: expected {expected}. Correct it there."))
}

fn read(text: &str, all: &mut Vec<Upstream>) -> Result<(), ConfigError> {
    let document = Document::parse(text.as_bytes())
        .map_err(|error| ConfigError::new(VARIABLE, format!("is not JSON: {error}. Correct it there.")))?;
    if !document.is_object() {
        return Err(error_at(0, "an object of names and base URLs"));
    }
    let mut seen: Vec<String> = Vec::new();
    for Member { key, value } in JsonCursor::root(text).members() {
        let at = key.range().start;
        let name = key.as_string().filter(|name| is_name(name));
        let name = name
            .ok_or_else(|| error_at(at, "a name of lower-case letters, digits, '-', '_' and '.', one path segment"))?;
        if RESERVED.contains(&name.as_str()) {
            return Err(error_at(at, "another name: this one is a route of the proxy"));
        }
        let known = all.iter().position(|upstream| upstream.name == name);
        let upstream = read_upstream(&name, value, known.and_then(|at| all.get(at)))?;
        if seen.contains(&upstream.key_variable()) {
            return Err(error_at(at, "a name that is not here yet"));
        }
        seen.push(upstream.key_variable());
        let same_variable = |other: &Upstream| other.name != name && other.key_variable() == upstream.key_variable();
        if all.iter().any(same_variable) {
            return Err(error_at(at, "a name that differs from the built-in ones by more than punctuation"));
        }
        match known.and_then(|at| all.get_mut(at)) {
            Some(slot) => *slot = upstream,
            None => all.push(upstream),
        }
    }
    Ok(())
}

/// Whether it is a path segment that needs no encoding.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    name.bytes().all(plain) && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// Reads one upstream. `known`: the built-in upstream of this name, whose options stay unless they are overridden.
fn read_upstream(name: &str, value: JsonCursor<'_>, known: Option<&Upstream>) -> Result<Upstream, ConfigError> {
    if value.is_string() {
        return Ok(Upstream::new(name, base(value)?));
    }
    if !value.is_object() {
        return Err(error_at(value.range().start, "a base URL, or an object with base_url"));
    }
    let mut at_base = known.map(|known| known.base.clone());
    let mut unsupported_params = None;
    let mut float_embeddings_only = None;
    let mut seen: Vec<String> = Vec::new();
    for Member { key, value } in value.members() {
        let member = key.as_string().unwrap_or_default();
        if seen.contains(&member) {
            return Err(error_at(key.range().start, "a key that is not here yet"));
        }
        match member.as_str() {
            "base_url" => at_base = Some(base(value)?),
            "drop_params" => unsupported_params = Some(names(value)?),
            "embeddings" => float_embeddings_only = Some(embeddings(value)?),
            _ => return Err(error_at(key.range().start, "base_url, drop_params or embeddings")),
        }
        seen.push(member);
    }
    let Some(at_base) = at_base else {
        return Err(error_at(value.range().start, "a base_url in this object"));
    };
    let mut upstream = Upstream::new(name, at_base);
    upstream.unsupported_params = unsupported_params.unwrap_or(upstream.unsupported_params);
    upstream.float_embeddings_only = float_embeddings_only.unwrap_or(upstream.float_embeddings_only);
    Ok(upstream)
}

fn base(value: JsonCursor<'_>) -> Result<Url, ConfigError> {
    let at = value.range().start;
    let text = value.as_string().ok_or_else(|| error_at(at, "a base URL"))?;
    web_base(&text).map_err(|message| ConfigError::new(VARIABLE, format!("has a base URL at byte {at} that {message}")))
}

fn names(value: JsonCursor<'_>) -> Result<Vec<String>, ConfigError> {
    if !value.is_array() {
        return Err(error_at(value.range().start, "a list of parameter names"));
    }
    let name = |item: JsonCursor<'_>| item.as_string().ok_or_else(|| error_at(item.range().start, "a parameter name"));
    value.items().map(name).collect()
}

fn embeddings(value: JsonCursor<'_>) -> Result<bool, ConfigError> {
    match value {
        value if value.eq_str("float") => Ok(true),
        value if value.eq_str("base64") => Ok(false),
        value => Err(error_at(value.range().start, "\"float\" (numbers only) or \"base64\" (both encodings)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Upstream>, String> {
        let mut all = built_in();
        read(text, &mut all).map(|()| all).map_err(|error| error.message)
    }

    fn one(text: &str, name: &str) -> Upstream {
        parsed(text).unwrap().into_iter().find(|upstream| upstream.name == name).unwrap()
    }

    #[test]
    fn upstreams_are_added_and_overridden() {
        assert_eq!(one(r#"{"my-llm.2":"http://h:1/v1"}"#, "my-llm.2").base.as_str(), "http://h:1/v1");
        let venice = one(r#"{"venice":{"base_url":"http://h"}}"#, "venice");
        assert_eq!((venice.unsupported_params.len(), venice.float_embeddings_only), (3, true));
        let venice = one(r#"{"venice":{"drop_params":[],"embeddings":"base64"}}"#, "venice");
        assert_eq!((venice.base.host_str(), venice.unsupported_params.len()), (Some("api.venice.ai"), 0));
        assert!(!venice.float_embeddings_only);
        let mine = one(r#"{"a":{"embeddings":"float","drop_params":["x","y"],"base_url":"http://h"}}"#, "a");
        assert_eq!((mine.unsupported_params, mine.float_embeddings_only), (vec!["x".to_owned(), "y".to_owned()], true));
        assert_eq!(parsed("{}").unwrap().len(), built_in().len());
    }

    #[test]
    fn a_mistake_is_reported_with_its_place() {
        for (text, at) in [
            ("[]", 0),
            ("\"https://h\"", 0),
            (r#"{"a":"https://h""#, 16),
            (r#"{"A":"https://h"}"#, 1),
            (r#"{"a/b":"https://h"}"#, 1),
            (r#"{"":"https://h"}"#, 1),
            (r#"{"..":"https://h"}"#, 1),
            (r#"{"proxy":"https://h"}"#, 1),
            (r#"{"admin":"https://h"}"#, 1),
            (r#"{"a":7}"#, 5),
            (r#"{"a":null}"#, 5),
            (r#"{"a":{}}"#, 5),
            (r#"{"a":"h/v1"}"#, 5),
            (r#"{"a":"ftp://h"}"#, 5),
            (r#"{"a":"https://u:geheim@h"}"#, 5),
            (r#"{"a":"https://h?key=geheim"}"#, 5),
            (r#"{"a":{"base_url":"https://h","basurl":1}}"#, 29),
            (r#"{"a":{"base_url":1}}"#, 17),
            (r#"{"a":{"base_url":"https://h","drop_params":"x"}}"#, 43),
            (r#"{"a":{"base_url":"https://h","drop_params":["x",1]}}"#, 48),
            (r#"{"a":{"base_url":"https://h","embeddings":"int8"}}"#, 42),
            (r#"{"a":"https://h","a":"https://i"}"#, 17),
            (r#"{"a-b":"https://h","a_b":"https://i"}"#, 19),
            (r#"{"a":{"base_url":"https://h","base_url":"https://i"}}"#, 29),
        ] {
            let message = parsed(text).unwrap_err();
            assert!(message.contains(&format!("at byte {at}")), "{text}: {message}");
            assert!(!message.contains("geheim"), "{message}");
        }
    }
}
