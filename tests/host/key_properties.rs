//! Which changes of a request change its cache key, and which do not.

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use reprise::testing::{CacheKey, Document, KeyInput, MatchMode, Select, Tenant, collect, is_credential, key_headers};

/// A JSON value whose spelling is still open: object members in some order, numbers as tokens.
#[derive(Debug, Clone, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
    /// A JSON Schema: its members' order is part of its value.
    Schema(Box<Json>),
}

/// Chooses how a value is spelled, by a fixed sequence of random numbers.
struct Spelling<'a> {
    choices: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl<'a> Spelling<'a> {
    fn new(choices: &'a [u8]) -> Self {
        Spelling { choices: choices.iter().cycle() }
    }

    fn choose(&mut self, among: usize) -> usize {
        usize::from(*self.choices.next().unwrap()) % among
    }

    fn blank(&mut self, out: &mut String) {
        out.push_str(["", "", " ", "\n\t", "\r  "][self.choose(5)]);
    }

    fn text(&mut self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            let must = matches!(character, '"' | '\\' | '\0'..='\u{1f}');
            match self.choose(if must { 2 } else { 3 }) {
                0 => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let digits = format!("{unit:04x}");
                        let upper = self.choose(2) == 0;
                        out.push_str("\\u");
                        out.push_str(&if upper { digits.to_uppercase() } else { digits });
                    }
                }
                1 => match character {
                    '"' | '\\' | '/' => out.extend(['\\', character]),
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    '\u{8}' => out.push_str("\\b"),
                    '\u{c}' => out.push_str("\\f"),
                    '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04X}", u32::from(character))),
                    other => out.push(other),
                },
                _ => out.push(character),
            }
        }
        out.push('"');
    }

    fn value(&mut self, value: &Json, ordered: bool, out: &mut String) {
        self.blank(out);
        match value {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(token) => out.push_str(token),
            Json::Text(text) => self.text(text, out),
            Json::Schema(inner) => self.value(inner, true, out),
            Json::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    self.value(item, ordered, out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                if !ordered {
                    for last in (1..members.len()).rev() {
                        let other = self.choose(last + 1);
                        members.swap(last, other);
                    }
                }
                out.push('{');
                for (index, (key, item)) in members.into_iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    self.blank(out);
                    self.text(key, out);
                    self.blank(out);
                    out.push(':');
                    self.value(item, ordered, out);
                }
                self.blank(out);
                out.push('}');
            }
        }
        self.blank(out);
    }
}

fn spell(value: &Json, choices: &[u8]) -> String {
    let mut out = String::new();
    Spelling::new(choices).value(value, false, &mut out);
    out
}

fn number() -> impl Strategy<Value = Json> {
    "-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?".prop_map(Json::Number)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{0,3}", "[\\x00-\\x7f]{0,6}", "\\PC{0,6}"]
}

/// Names that never hold a schema.
fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-e]{1,2}", "k\\PC{0,3}", Just("content".to_owned()), Just("k\"\\\n".to_owned())]
}

fn unique(members: Vec<(String, Json)>) -> Vec<(String, Json)> {
    let mut seen = std::collections::HashSet::new();
    members.into_iter().filter(|(key, _)| seen.insert(key.clone())).collect()
}

fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![Just(Json::Null), any::<bool>().prop_map(Json::Bool), number(), text().prop_map(Json::Text)];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
            prop::collection::vec((name(), inner), 0..5).prop_map(|members| Json::Object(unique(members))),
        ]
    })
}

fn object(pairs: Vec<(&str, Json)>) -> Json {
    Json::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// A request body: anything at the top, and schemas where the providers have them.
fn body() -> impl Strategy<Value = Json> {
    let members = prop::collection::vec((name(), json()), 1..5).prop_map(unique);
    (members, json(), json(), json(), json(), json()).prop_map(|(members, content, metadata, a, b, c)| {
        let schema = |value| Json::Schema(Box::new(value));
        let text = |text: &str| Json::Text(text.to_owned());
        let message = object(vec![("role", text("user")), ("content", schema(content))]);
        let function = object(vec![("name", text("f")), ("parameters", schema(a)), ("strict", Json::Bool(true))]);
        let tools = Json::Array(vec![object(vec![("type", text("function")), ("function", function)])]);
        let format = object(vec![("name", text("n")), ("schema", schema(b))]);
        let format = object(vec![("json_schema", format), ("type", text("json_schema"))]);
        // Only parameters have their keys sorted.
        let mut members: Vec<_> = members.into_iter().map(|(name, value)| (name, schema(value))).collect();
        members.push(("metadata".to_owned(), metadata));
        members.push(("messages".to_owned(), Json::Array(vec![message])));
        members.push(("tools".to_owned(), tools));
        members.push(("response_format".to_owned(), format));
        members.push(("generationConfig".to_owned(), object(vec![("responseSchema", schema(c))])));
        Json::Object(members)
    })
}

struct Sender {
    namespace: Vec<u8>,
    headers: HeaderMap,
    method: String,
    url: String,
    mode: MatchMode,
    ignored: Vec<String>,
}

impl Default for Sender {
    fn default() -> Self {
        Sender {
            namespace: Vec::new(),
            headers: HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer k"))]),
            method: "POST".to_owned(),
            url: "https://h/v1/chat/completions".to_owned(),
            mode: MatchMode::Exact,
            ignored: Vec::new(),
        }
    }
}

impl Sender {
    fn key(&self, body: &str) -> CacheKey {
        let document = Document::parse(body.as_bytes()).unwrap_or_else(|error| panic!("{error}: {body}"));
        KeyInput {
            namespace: &self.namespace,
            tenant: &Tenant::Credentials(collect(&self.headers, &is_credential)),
            method: &self.method,
            url: &self.url,
            key_headers: &key_headers(&self.headers, false, &[]),
            mode: self.mode,
            ignored: &self.ignored,
            body: body.as_bytes(),
            document: &document,
        }
        .key()
    }
}

fn key(body: &str) -> CacheKey {
    Sender::default().key(body)
}

/// Changes one thing inside a value. `false`: there was nothing to change at this place.
fn change(value: &mut Json, path: &[u8], ordered: bool) -> bool {
    let (step, rest) = path.split_first().unwrap_or((&0, &[]));
    let step = usize::from(*step);
    match value {
        Json::Null => *value = Json::Bool(false),
        Json::Bool(inner) => *inner = !*inner,
        Json::Number(token) => {
            *token = match token.strip_suffix(".0") {
                Some(shorter) => shorter.to_owned(),
                None if token.contains(['.', 'e', 'E']) => format!("{token}1"),
                None => format!("{token}.0"),
            }
        }
        Json::Text(text) => text.push('x'),
        Json::Schema(inner) => return change(inner, path, true),
        Json::Array(items) if items.is_empty() => items.push(Json::Null),
        Json::Object(members) if members.is_empty() => members.push(("new".to_owned(), Json::Null)),
        Json::Array(items) => {
            let at = step % items.len();
            match step % 3 {
                0 if !rest.is_empty() => return change(&mut items[at], rest, ordered),
                1 if items.len() > 1 && items[0] != items[at] => items.swap(0, at),
                _ => {
                    items.remove(at);
                }
            }
        }
        Json::Object(members) => {
            let at = step % members.len();
            match step % 4 {
                0 if ordered && members.len() > 1 && at > 0 => members.swap(0, at),
                // Absence is not null, and null is not absence.
                1 => {
                    members.remove(at);
                }
                2 => members.push(("new".to_owned(), Json::Null)),
                _ if !rest.is_empty() => return change(&mut members[at].1, rest, ordered),
                _ => members[at].0.push('x'),
            }
            let distinct = unique(members.clone()).len() == members.len();
            return distinct;
        }
    }
    true
}

fn choices() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 7..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn spelling_and_order_never_change_the_key(body in body(), one in choices(), other in choices()) {
        prop_assert_eq!(key(&spell(&body, &one)), key(&spell(&body, &other)));
    }

    #[test]
    fn any_change_changes_the_key(body in body(), path in choices(), spelling in choices()) {
        let mut changed = body.clone();
        prop_assume!(change(&mut changed, &path, false) && changed != body);
        prop_assert_ne!(key(&spell(&body, &spelling)), key(&spell(&changed, &spelling)));
    }

    #[test]
    fn stream_and_stream_options_never_change_the_key(body in body(), stream in json(), options in json(), spelling in choices()) {
        let mut with_mode = body.clone();
        if let Json::Object(members) = &mut with_mode {
            members.push(("stream".to_owned(), stream));
            members.push(("stream_options".to_owned(), options));
        }
        prop_assert_eq!(key(&spell(&body, &spelling)), key(&spell(&with_mode, &spelling)));
    }

    #[test]
    fn a_body_with_a_duplicate_key_is_compared_by_its_bytes(body in body(), spelling in choices()) {
        let text = spell(&body, &spelling);
        let twice = |extra: &str| text.trim().strip_suffix('}').map(|open| format!("{open},{extra}}}")).unwrap();
        let (a, b) = (twice("\"zz\":1,\"zz\":2"), twice("\"zz\":2,\"zz\":1"));
        prop_assert_ne!(key(&a), key(&b));
        prop_assert_ne!(key(&a), key(&format!(" {a}")));
        prop_assert_eq!(key(&a), key(&a));
    }

    #[test]
    fn every_part_of_the_request_is_in_the_key(a in parts(), b in parts()) {
        let body = r#"{"model":"m","user":"u"}"#;
        let key_of = |parts: &[String; 8]| {
            let mut headers = HeaderMap::new();
            for (name, value) in ["authorization", "x-api-key", "openai-organization", "anthropic-version"].into_iter().zip(parts) {
                if !value.is_empty() {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            Sender {
                headers,
                namespace: parts[4].clone().into_bytes(),
                url: format!("https://h/{}", parts[5]),
                ignored: (!parts[6].is_empty()).then(|| parts[6].clone()).into_iter().collect(),
                mode: if parts[7].is_empty() { MatchMode::Exact } else { MatchMode::Chat },
                ..Sender::default()
            }.key(body)
        };
        let equal = a[..7] == b[..7] && a[7].is_empty() == b[7].is_empty();
        prop_assert_eq!(key_of(&a) == key_of(&b), equal);
    }

    #[test]
    fn any_bytes_are_parsed_or_rejected(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let ours = Document::parse(&bytes).is_ok();
        // `serde_json` follows RFC 8259 too, but for its depth limit and lone surrogates.
        if let Ok(text) = std::str::from_utf8(&bytes) && !text.contains("\\u") {
            prop_assert_eq!(ours, serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
        } else {
            prop_assert!(!ours || bytes.windows(2).any(|pair| pair == b"\\u"));
        }
    }

    #[test]
    fn json_is_parsed_as_rfc_8259_defines_it(text in "[\\[\\]{}:,\" \\\\/a-fnrtu0-9.eE+\\-truefalsnl]{0,24}") {
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        let ours = Document::parse(text.as_bytes()).is_ok();
        if text.contains("\\u") {
            prop_assert!(ours || !theirs);
        } else {
            prop_assert_eq!(ours, theirs);
        }
    }
}

fn parts() -> impl Strategy<Value = [String; 8]> {
    prop::array::uniform8("[ab]{0,1}")
}

#[test]
fn easily_confused_bodies_have_different_keys() {
    for (a, b) in [
        (r#"{"n":1}"#, r#"{"n":1.0}"#),
        (r#"{"n":1}"#, r#"{"n":1e0}"#),
        (r#"{"n":9007199254740992}"#, r#"{"n":9007199254740993}"#),
        (r#"{"n":0}"#, r#"{"n":-0}"#),
        (r#"{"m":null}"#, "{}"),
        (r#"{"m":""}"#, r#"{"m":null}"#),
        (r#"{"messages":[{"content":null,"tool_calls":[]}]}"#, r#"{"messages":[{"tool_calls":[]}]}"#),
        (r#"{"a":"1"}"#, r#"{"a":1}"#),
        (r#"{"a":"\ud800"}"#, r#"{"a":"\ud801"}"#),
        (r#"{"a":"\ud800"}"#, r#"{"a":"\\ud800"}"#),
        (r#"{"a":"é"}"#, "{\"a\":\"e\u{301}\"}"),
        (r#"{"a":"b\u0000"}"#, r#"{"a":"b"}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        (r#"[{"a":1}]"#, r#"{"a":1}"#),
    ] {
        assert_ne!(key(a), key(b), "{a} {b}");
    }
}

#[test]
fn chat_matching_compares_the_conversation_alone() {
    let sender = Sender { mode: MatchMode::Chat, ..Sender::default() };
    let base = sender.key(r#"{"model":"a","temperature":1,"messages":[{"role":"user","content":"q"}]}"#);
    let other = sender.key(r#"{"messages":[{"content":"q","role":"user"}],"tools":[1],"model":"b"}"#);
    assert_eq!(base, other);
    let named = sender.key(r#"{"messages":[{"content":"q","role":"user","name":"n"}]}"#);
    let instructed = sender.key(r#"{"system":"s","messages":[{"role":"user","content":"q"}]}"#);
    assert_ne!(base, named);
    assert_ne!(base, instructed);
    assert_ne!(sender.key(r#"{"model":"a"}"#), sender.key(r#"{"model":"b"}"#));
}

/// The work is counted, not timed: the bytes written, and the number of pieces, are proportional to the text.
#[test]
fn a_long_body_is_linear() {
    let nested = format!("{}1{}", "{\"b\":0,\"a\":".repeat(90_000), "}".repeat(90_000));
    let wide = format!("{{\"z\":[{}0]}}", "{\"b\":\"x\",\"a\":[]},".repeat(300_000));
    let text = format!("{{\"a\":\"{}\"}}", "x\\n".repeat(3_000_000));
    for body in [nested, wide, text] {
        let document = Document::parse(body.as_bytes()).unwrap();
        let (mut bytes, mut pieces) = (0, 0);
        let written = document.write_canonical(Select::Except(&[]), &mut |piece| {
            bytes += piece.len();
            pieces += 1;
        });
        assert_eq!(written, Ok(()));
        assert!(bytes <= 3 * body.len(), "{bytes} bytes for {}", body.len());
        assert!(pieces <= body.len(), "{pieces} pieces for {}", body.len());
    }
}
