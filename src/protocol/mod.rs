//! The streaming protocols, a file for each: when a stream is complete, its object, the stream of an object, and its usage.
//!
//! A conversion is complete or does not take place: for a stream or object with a part that cannot be converted faithfully it
//! is `None`, and the request goes to the upstream.

pub mod answer;
mod anthropic;
mod chat;
mod cohere;
mod completions;
mod conversion_watch;
pub mod error_body;
pub mod finish_reason;
mod google;
mod ollama;
mod open_parts;
mod responses;
pub mod result;
pub mod usage;

use crate::http::media_type;
use crate::http::sse::{self, Event, Framing};
use crate::json::canonical::Document;
use crate::json::{self, JsonCursor};
use crate::routing::endpoint::Endpoint;
use crate::status::Reason;
pub use chat::{UsageRemover, WithoutUsage};
pub use conversion_watch::{ConversionWatch, MAX_CONVERTED};
use error_body::reports_error;
use open_parts::OpenParts;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt::Debug;

/// A streaming protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OpenAI chat completions and compatible APIs.
    Chat,
    /// OpenAI's legacy completions.
    Completions,
    /// OpenAI responses.
    Responses,
    /// Anthropic messages.
    Anthropic,
    /// Google `streamGenerateContent`.
    Google,
    /// Cohere chat, version 2.
    Cohere,
    /// Ollama chat and generate.
    Ollama,
}

/// The kind of an event of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventKind {
    /// More events follow.
    Delta,
    /// The response is complete.
    Terminal,
    /// The response is not stored, for this reason.
    Error(Reason),
}

/// The mode in which a client wants the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResponseMode {
    /// As a stream of events.
    pub stream: bool,
    /// With a final usage chunk (`stream_options.include_usage`).
    pub include_usage: bool,
}

impl Protocol {
    /// All of them, for tests.
    #[cfg(not(target_arch = "wasm32"))]
    pub const ALL: [Protocol; 7] = [
        Protocol::Chat,
        Protocol::Completions,
        Protocol::Responses,
        Protocol::Anthropic,
        Protocol::Google,
        Protocol::Cohere,
        Protocol::Ollama,
    ];

    /// An endpoint's streaming protocol. `None`: it does not stream, or in an unknown protocol.
    pub fn of(endpoint: Endpoint) -> Option<Protocol> {
        match endpoint {
            Endpoint::ChatCompletions => Some(Protocol::Chat),
            Endpoint::Completions => Some(Protocol::Completions),
            Endpoint::Responses => Some(Protocol::Responses),
            Endpoint::Messages => Some(Protocol::Anthropic),
            Endpoint::GenerateContent | Endpoint::StreamGenerateContent => Some(Protocol::Google),
            Endpoint::CohereChat => Some(Protocol::Cohere),
            Endpoint::Ollama => Some(Protocol::Ollama),
            Endpoint::Speech | Endpoint::Compute(_) | Endpoint::Custom => None,
        }
    }

    /// Whether a body of this media type (without parameters) is a stream. `requested`: the client wants one.
    pub fn is_stream(self, essence: &str, requested: bool) -> bool {
        match self {
            Protocol::Ollama => essence == "application/x-ndjson",
            // Without `alt=sse` Google streams one JSON array.
            Protocol::Google => essence == "text/event-stream" || requested && media_type::is_json(essence),
            _ => essence == "text/event-stream",
        }
    }

    /// The events of a complete body.
    ///
    /// # Errors
    /// [`Reason::Truncated`] if it ends inside an event, [`Reason::ResponseNotJson`] if it is not a stream.
    pub fn events(self, body: &[u8]) -> Result<Vec<Event>, Reason> {
        if self == Protocol::Google && body.trim_ascii_start().first() == Some(&b'[') {
            let items: Vec<&RawValue> = json::from_slice(body).ok_or(Reason::ResponseNotJson)?;
            return Ok(items.into_iter().map(|item| Event::data(item.get())).collect());
        }
        let framing = if self == Protocol::Ollama { Framing::Lines } else { Framing::Events };
        sse::decode(framing, body).map_err(|_| Reason::Truncated)
    }

    /// Checks that a stream is complete and may be stored.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(self, events: &[Event]) -> Result<(), Reason> {
        if events.iter().all(is_done) {
            return Err(Reason::ResponseEmpty);
        }
        let mut terminal = false;
        let mut empty = true;
        let mut parts = OpenParts::default();
        for event in events {
            let event_kind = if is_done(event) {
                self.done_kind()
            } else {
                let value = parse(&event.data).ok_or(Reason::ResponseNotJson)?;
                empty = empty && !self.has_output(&value);
                self.track(&value, &mut parts);
                self.event_kind(event, &value)
            };
            match event_kind {
                EventKind::Delta => {}
                EventKind::Terminal => terminal = true,
                EventKind::Error(reason) => return Err(reason),
            }
        }
        match (terminal && parts.have_ended(), empty) {
            (true, false) => Ok(()),
            (true, true) => Err(Reason::ResponseEmpty),
            (false, _) => Err(Reason::Truncated),
        }
    }

    fn event_kind(self, event: &Event, value: &Value) -> EventKind {
        if event.name == "error" || reports_error(JsonCursor::root(&event.data)) || !self.is_progress(value) {
            return EventKind::Error(Reason::ErrorBody);
        }
        match self {
            Protocol::Chat | Protocol::Completions => chat::event_kind(value),
            Protocol::Responses => responses::event_kind(value),
            Protocol::Anthropic => anthropic::event_kind(value),
            Protocol::Google => google::event_kind(value),
            Protocol::Cohere => cohere::event_kind(value),
            Protocol::Ollama => ollama::event_kind(value),
        }
    }

    /// Whether an event is one of this protocol. Typed events of a type that is not known yet are.
    fn is_progress(self, value: &Value) -> bool {
        match self {
            Protocol::Chat | Protocol::Completions => chat::is_progress(value),
            Protocol::Responses | Protocol::Anthropic => !text(value, "type").is_empty(),
            Protocol::Google => google::is_progress(value),
            Protocol::Cohere => ["type", "event_type"].iter().any(|name| !text(value, name).is_empty()),
            Protocol::Ollama => ollama::is_progress(value),
        }
    }

    /// Whether an event has a part of the response in it.
    fn has_output(self, value: &Value) -> bool {
        match self {
            Protocol::Chat | Protocol::Completions => chat::has_output(value),
            Protocol::Responses => responses::has_output(value),
            Protocol::Anthropic => text(value, "type") == "content_block_start",
            Protocol::Google => items(value, "candidates").next().is_some(),
            Protocol::Cohere => cohere::has_output(value),
            Protocol::Ollama => ollama::has_output(value),
        }
    }

    /// Records what begins and ends in an event.
    fn track(self, value: &Value, parts: &mut OpenParts) {
        match self {
            Protocol::Chat | Protocol::Completions => chat::track(value, parts),
            Protocol::Responses => responses::track(value, parts),
            Protocol::Anthropic => anthropic::track(value, parts),
            Protocol::Google => google::track(value, parts),
            Protocol::Cohere => cohere::track(value, parts),
            Protocol::Ollama => ollama::track(value, parts),
        }
    }

    /// What `data: [DONE]` means: the end in OpenAI's older protocols. Some servers send it in other protocols too.
    fn done_kind(self) -> EventKind {
        match self {
            Protocol::Chat | Protocol::Completions => EventKind::Terminal,
            _ => EventKind::Delta,
        }
    }

    /// Whether only clients that request usage get this event.
    fn is_usage(self, event: &Event) -> bool {
        self.separates_usage() && parse(&event.data).is_some_and(|value| chat::is_usage(&value))
    }

    /// Whether a stream ends in its usage, in a chunk of its own or (OpenRouter) beside the last choice.
    pub fn has_usage(self, events: &[Event]) -> bool {
        let last = events.iter().rfind(|event| !is_done(event));
        let tells = |event: &Event| parse(&event.data).is_some_and(|value| is_set(&value, "usage"));
        self.separates_usage() && (last.is_some_and(tells) || events.iter().any(|event| self.is_usage(event)))
    }

    /// Whether clients choose if the stream ends in a usage chunk.
    pub fn separates_usage(self) -> bool {
        matches!(self, Protocol::Chat | Protocol::Completions)
    }

    /// A stream's bytes without the final usage chunk. Every other byte stays. `None`: more than usage would be lost.
    pub fn without_usage(self, body: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(body).ok()?;
        let (usage, wanted): (Vec<Event>, Vec<Event>) =
            self.events(body).ok()?.into_iter().partition(|event| self.is_usage(event));
        let others: Vec<Value> = wanted.iter().filter_map(|event| parse(&event.data)).collect();
        let is_repeated =
            |event: &Event| parse(&event.data).is_some_and(|value| chat::is_repeated_but_for_usage(&value, &others));
        if !usage.iter().all(is_repeated) {
            return None;
        }
        // An event with the blank line after it, as the provider wrote it.
        let blank_line = if text.contains("\r\n\r\n") { "\r\n\r\n" } else { "\n\n" };
        let only_usage = |block: &&str| {
            let events = sse::decode(Framing::Events, block.as_bytes()).unwrap_or_default();
            events.iter().any(|event| self.is_usage(event))
        };
        let rest: String = text.split_inclusive(blank_line).filter(|block| !only_usage(block)).collect();
        (self.events(rest.as_bytes()).ok()? == wanted).then(|| rest.into_bytes())
    }

    /// The object of a complete stream, as the official client's accumulator builds it.
    pub fn to_object(self, events: &[Event]) -> Option<Value> {
        let events = events.iter().filter(|event| !is_done(event));
        accumulated(self.accumulator(), events.map(|event| parse(&event.data)))
    }

    fn accumulator(self) -> Box<dyn Accumulate> {
        match self {
            Protocol::Chat => Box::<chat::Whole>::default(),
            Protocol::Completions => Box::<completions::Whole>::default(),
            Protocol::Responses => Box::<responses::Whole>::default(),
            Protocol::Anthropic => Box::<anthropic::Message>::default(),
            Protocol::Google => Box::<google::Whole>::default(),
            Protocol::Cohere => Box::<cohere::Whole>::default(),
            Protocol::Ollama => Box::<ollama::Whole>::default(),
        }
    }

    /// A stream of an object, with its terminal event.
    pub fn to_events(self, object: Value, response_mode: ResponseMode) -> Option<Vec<Event>> {
        let Value::Object(object) = object else {
            return None;
        };
        match self {
            Protocol::Chat => chat::to_events(object, response_mode),
            Protocol::Completions => completions::to_events(object, response_mode),
            Protocol::Responses => responses::to_events(object),
            Protocol::Anthropic => anthropic::to_events(object),
            Protocol::Google => google::to_events(object),
            Protocol::Cohere => cohere::to_events(object),
            Protocol::Ollama => ollama::to_events(object),
        }
    }

    /// A stored body in the mode that `response_mode` wants: (content type, body).
    pub fn convert(self, body: &[u8], response_mode: ResponseMode) -> Option<(&'static str, Vec<u8>)> {
        if !response_mode.stream {
            let object = self.to_object(&self.events(body).ok()?)?;
            return Some(("application/json", serde_json::to_vec(&object).ok()?));
        }
        let events = self.to_events(parse(std::str::from_utf8(body).ok()?)?, response_mode)?;
        // Our own streams have to be storable.
        self.check(&events).ok()?;
        let mut out = Vec::new();
        if self == Protocol::Ollama {
            events.iter().for_each(|event| event.write_line(&mut out));
            return Some(("application/x-ndjson", out));
        }
        events.iter().for_each(|event| event.write_sse(&mut out));
        Some(("text/event-stream; charset=utf-8", out))
    }
}

/// Builds the object of a stream from its events.
trait Accumulate: Debug {
    /// Adds an event. `None`: the object has no place for it, so the stream has no object.
    fn add(&mut self, event: Value) -> Option<()>;

    /// The object. `None`: the stream is not complete.
    fn finish(self: Box<Self>) -> Option<Value>;
}

/// The object of these events. `None` among them: one cannot be read.
fn accumulated(
    mut accumulator: Box<impl Accumulate + ?Sized>,
    events: impl IntoIterator<Item = Option<Value>>,
) -> Option<Value> {
    events.into_iter().try_for_each(|event| accumulator.add(event?))?;
    accumulator.finish()
}

/// Whether an event is `data: [DONE]`, which is not JSON.
fn is_done(event: &Event) -> bool {
    event.data.trim() == "[DONE]"
}

/// Reads a JSON text. `serde_json` marks number tokens by a key of its own. It would misread a text with such a key, so that
/// text counts as unreadable.
fn parse(text: &str) -> Option<Value> {
    const KEYS: [&str; 2] = ["\"$serde_json::private::Number\":", "\"$serde_json::private::RawValue\":"];
    let suspicious = text.contains("serde_json") || text.contains("\\u00");
    let misread = suspicious
        && Document::parse(text.as_bytes()).is_ok_and(|document| KEYS.iter().any(|key| document.contains(key)));
    if misread { None } else { serde_json::from_str(text).ok() }
}

/// Whether a value is more than `null`, `false` or an empty string, list or object.
fn is_filled(value: JsonCursor<'_>) -> bool {
    match value.text() {
        "null" | "false" | "\"\"" => false,
        _ if value.is_object() => value.members().next().is_some(),
        _ if value.is_array() => value.items().next().is_some(),
        _ => true,
    }
}

/// Whether an object has this member with a value other than `null`.
fn is_set(value: &Value, name: &str) -> bool {
    value.get(name).is_some_and(|value| !value.is_null())
}

/// The items of an array. Other values have none.
fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// A string member, or an empty string.
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// An object of these members, in this order.
fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(protocol: Protocol, chunks: &[Value]) -> Result<(), Reason> {
        let mut events: Vec<Event> = chunks.iter().map(|chunk| Event::data(chunk.to_string())).collect();
        if protocol.done_kind() == EventKind::Terminal {
            events.push(Event::data("[DONE]"));
        }
        protocol.check(&events)
    }

    fn delta(index: u64) -> Value {
        json!({"choices": [{"index": index, "delta": {"content": "a"}, "finish_reason": null}]})
    }

    fn end(index: u64) -> Value {
        json!({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]})
    }

    #[test]
    fn every_choice_of_a_chat_has_to_end() {
        let usage = json!({"choices": [], "usage": {"total_tokens": 1}});
        for (chunks, outcome) in [
            (vec![delta(0), end(0)], Ok(())),
            (vec![delta(0), end(0), usage.clone()], Ok(())),
            (vec![delta(0), delta(1), end(1), end(0)], Ok(())),
            (vec![delta(0)], Err(Reason::Truncated)),
            (vec![delta(0), usage.clone()], Err(Reason::Truncated)),
            (vec![delta(0), delta(1), end(0)], Err(Reason::Truncated)),
            (vec![delta(0), end(0), delta(0)], Err(Reason::Truncated)),
            (vec![json!({"choices": [{"delta": {"content": "a"}}]})], Err(Reason::Truncated)),
            (vec![json!({"choices": [{"delta": {"content": "a"}, "finish_reason": ""}]})], Err(Reason::Truncated)),
            (vec![json!({"choices": [{"text": "a"}]})], Err(Reason::Truncated)),
            (vec![usage], Err(Reason::ResponseEmpty)),
        ] {
            assert_eq!(check(Protocol::Chat, &chunks), outcome, "{chunks:?}");
            assert_eq!(check(Protocol::Completions, &chunks), outcome, "{chunks:?}");
        }
    }

    #[test]
    fn a_chunk_of_another_kind_is_an_error() {
        for chunk in [
            json!({"code": "DataInspectionFailed", "message": "m"}),
            json!({"code": 1, "message": "m", "choices": []}),
            json!({"detail": "d"}),
            json!({"base_resp": {"status_code": 1013, "status_msg": "m"}}),
            json!({"base_resp": {"status_code": 1013}, "choices": []}),
            json!({"errors": [{"message": "m"}]}),
            json!({"errors": [{"message": "m"}], "choices": []}),
            json!({"x_groq": {"error": "over capacity"}, "choices": []}),
            json!({"error_code": 336_100, "error_msg": "m"}),
            json!({"message": "m", "type": "rate_limited"}),
            json!({"type": "error"}),
            json!({"success": false}),
            json!({"id": "i", "object": "chat.completion.chunk"}),
            json!({"choices": null}),
            json!({}),
            json!([]),
            json!("a"),
            json!(null),
        ] {
            let chunks = [delta(0), chunk.clone(), end(0)];
            assert_eq!(check(Protocol::Chat, &chunks), Err(Reason::ErrorBody), "{chunk}");
        }
        let others = [
            json!({"choices": [], "prompt_filter_results": []}),
            json!({"type": "novelty", "data": 1}),
            json!({"choices": [], "base_resp": {"status_code": 0}, "code": 0, "errors": null, "x_groq": {"id": "r"}}),
        ];
        for chunk in others {
            assert_eq!(check(Protocol::Chat, &[delta(0), chunk.clone(), end(0)]), Ok(()), "{chunk}");
        }
    }

    #[test]
    fn every_block_of_a_typed_stream_has_to_end() {
        let anthropic = [
            json!({"type": "message_start", "message": {}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
            json!({"type": "message_stop"}),
        ];
        let responses = [
            json!({"type": "response.output_item.added", "output_index": 0, "item": {}}),
            json!({"type": "response.output_item.done", "output_index": 0, "item": {}}),
            json!({"type": "response.completed", "response": {"status": "completed"}}),
        ];
        let ollama = [json!({"response": "a", "done": false}), json!({"response": "", "done": true})];
        for (protocol, whole, needed) in [
            (Protocol::Anthropic, &anthropic[..], &[3, 4, 5][..]),
            (Protocol::Responses, &responses[..], &[1, 2]),
            (Protocol::Ollama, &ollama[..], &[0, 1]),
        ] {
            assert_eq!(check(protocol, whole), Ok(()), "{protocol:?}");
            for left_out in needed {
                let mut less = whole.to_vec();
                less.remove(*left_out);
                assert!(check(protocol, &less).is_err(), "{protocol:?} without {left_out}");
            }
            for chunk in
                [json!({"code": "c", "message": 1}), json!({"detail": "d"}), json!({"errors": ["e"]}), json!({})]
            {
                let more = [std::slice::from_ref(&chunk), whole].concat();
                assert_eq!(check(protocol, &more), Err(Reason::ErrorBody), "{protocol:?} {chunk}");
            }
        }
        let code = json!({"type": "response.code_interpreter_call_code.done", "code": "print()", "output_index": 0});
        assert_eq!(check(Protocol::Responses, &[&[code], &responses[..]].concat()), Ok(()));
        let novelty = json!({"type": "novelty"});
        assert_eq!(
            check(Protocol::Anthropic, &[&anthropic[..1], std::slice::from_ref(&novelty), &anthropic[1..]].concat()),
            Ok(())
        );
        assert_eq!(check(Protocol::Responses, &[&[novelty], &responses[..]].concat()), Ok(()));
        let null_reason = json!({"type": "message_delta", "delta": {"stop_reason": null}});
        assert_eq!(
            check(Protocol::Anthropic, &[&anthropic[..4], &[null_reason], &anthropic[5..]].concat()),
            Err(Reason::Truncated)
        );
        let empty = [&anthropic[..1], &anthropic[4..]].concat();
        assert_eq!(check(Protocol::Anthropic, &empty), Err(Reason::ResponseEmpty));
        // The whole object repeats the items.
        let completed = json!({"type": "response.completed", "response": {"status": "completed", "output": [{}]}});
        assert_eq!(check(Protocol::Responses, &[responses[0].clone(), completed]), Ok(()));
        assert_eq!(check(Protocol::Responses, &responses[2..]), Err(Reason::ResponseEmpty));
        let goes_on = [ollama[0].clone(), ollama[1].clone(), ollama[0].clone()];
        assert_eq!(check(Protocol::Ollama, &goes_on), Err(Reason::Truncated));
        assert_eq!(check(Protocol::Google, &[json!({"code": 1, "message": "m"})]), Err(Reason::ErrorBody));
    }

    #[test]
    fn a_usage_chunk_is_left_out_only_if_nothing_is_lost() {
        let body = |more: &str| {
            let chunk =
                r#"{"id":"i","created":1,"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}"#;
            format!(
                "data: {chunk}\n\ndata: {{\"id\":\"i\",\"created\":2,\"choices\":[],\"usage\":{{\"a\":1}}{more}}}\n\ndata: [DONE]\n\n"
            )
        };
        for more in ["", r#","citations":null"#, r#","obfuscation":"x""#] {
            let left = Protocol::Chat.without_usage(body(more).as_bytes()).unwrap();
            assert!(!String::from_utf8(left).unwrap().contains("usage"), "{more}");
        }
        for more in [r#","citations":["u"]"#, r#","search_results":[]"#, r#","timings":{"a":1}"#, r#","new":7"#] {
            assert_eq!(Protocol::Chat.without_usage(body(more).as_bytes()), None, "{more}");
        }
    }

    #[test]
    fn marked_numbers_are_not_read() {
        assert!(parse(r#"{"a":1.50}"#).is_some_and(|value| format!("{value}") == r#"{"a":1.50}"#));
        assert_eq!(parse(r#"{"a":{"$serde_json::private::Number" : "1"}}"#), None);
        assert!(parse(r#"{"a":"$serde_json::private::Number","b":"\"$serde_json::private::Number\":"}"#).is_some());
        assert_eq!(parse(r#"{"a":{"\u0024serde\u005fjson::private::Number":"1"}}"#), None);
    }
}
