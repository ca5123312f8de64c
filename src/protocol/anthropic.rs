//! Anthropic messages (API reference, "Streaming Messages").

use super::finish_reason::reject_finish_reason;
use super::open_parts::OpenParts;
use super::{Accumulate, EventKind, object, text};
use crate::http::sse::Event;
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// The kind of an event.
pub(super) fn event_kind(value: &Value) -> EventKind {
    match text(value, "type") {
        "message_stop" => EventKind::Terminal,
        "message_delta" => {
            let end = value.get("delta").map_or("", |delta| text(delta, "stop_reason"));
            reject_finish_reason(end).map_or(EventKind::Delta, EventKind::Error)
        }
        _ => EventKind::Delta,
    }
}

/// Records the blocks, and the message, which ends with its stop reason.
pub(super) fn track(value: &Value, parts: &mut OpenParts) {
    let index = value.get("index").and_then(Value::as_u64);
    match text(value, "type") {
        "message_start" => parts.begin("message", None),
        "message_delta" => {
            let ends = value.get("delta").is_some_and(|delta| !text(delta, "stop_reason").is_empty());
            parts.update("message", None, false, ends);
        }
        "content_block_start" | "content_block_delta" => parts.begin("block", index),
        "content_block_stop" => parts.end("block", index),
        _ => {}
    }
}

/// Types of block that are not converted: their deltas are of other types, or they change the blocks around them.
const NOT_CONVERTED: [&str; 2] = ["compaction", "fallback"];

/// Why a message ended: `null` at its start, the value at its end.
const STOP: [&str; 3] = ["stop_reason", "stop_sequence", "stop_details"];

/// A message while its events arrive.
#[derive(Debug, Default)]
pub(super) struct Message {
    whole: Option<Object>,
    blocks: Vec<Block>,
    ended: bool,
}

impl Accumulate for Message {
    /// `None`: the event is unknown or out of order.
    fn add(&mut self, chunk: Value) -> Option<()> {
        if text(&chunk, "type") == "ping" {
            return Some(());
        }
        if self.ended || (text(&chunk, "type") == "message_start") != self.whole.is_none() {
            return None;
        }
        match text(&chunk, "type") {
            "message_start" => {
                let [Value::Object(whole)] = take(chunk, ["message"])? else {
                    return None;
                };
                if whole.get("content") != Some(&json!([])) {
                    return None;
                }
                self.whole = Some(whole);
            }
            "content_block_start" => {
                let [index, block] = take(chunk, ["index", "content_block"])?;
                let known = block.is_object() && !NOT_CONVERTED.contains(&text(&block, "type"));
                if !known || position(&index)? != self.blocks.len() {
                    return None;
                }
                self.blocks.push(Block { block, input: None, open: true });
            }
            "content_block_delta" => {
                let [index, delta] = take(chunk, ["index", "delta"])?;
                self.open_block(&index)?.add(delta)?;
            }
            "content_block_stop" => {
                let [index] = take(chunk, ["index"])?;
                self.open_block(&index)?.open = false;
            }
            "message_delta" => self.add_end(chunk)?,
            "message_stop" => {
                let [] = take(chunk, [])?;
                self.ended = true;
            }
            _ => return None,
        }
        Some(())
    }

    fn finish(self: Box<Self>) -> Option<Value> {
        let mut whole = self.whole?;
        let stopped = whole.get("stop_reason")?.as_str().is_some_and(|reason| !reason.is_empty());
        let content: Option<Vec<Value>> = self.blocks.into_iter().map(Block::finish).collect();
        whole.insert("content".to_owned(), Value::Array(content?));
        (self.ended && stopped).then_some(Value::Object(whole))
    }
}

impl Message {
    fn open_block(&mut self, index: &Value) -> Option<&mut Block> {
        self.blocks.get_mut(position(index)?).filter(|block| block.open)
    }

    /// Adds the fields of the end. Usage counts are totals, so the last one counts.
    fn add_end(&mut self, chunk: Value) -> Option<()> {
        let [delta, usage, context, transformations] =
            take(chunk, ["delta", "usage", "context_management", "input_transformations"])?;
        let (Value::Object(mut delta), Value::Object(usage)) = (delta, usage) else {
            return None;
        };
        let whole = self.whole.as_mut()?;
        let totals = whole.get_mut("usage")?.as_object_mut()?;
        // `null` means no change.
        totals.extend(usage.into_iter().filter(|(_, value)| !value.is_null()));
        for name in STOP {
            if delta.contains_key(name) {
                whole.entry(name).or_insert(Value::Null);
            }
        }
        delta.insert("context_management".to_owned(), context);
        delta.insert("input_transformations".to_owned(), transformations);
        whole.extend(delta.into_iter().filter(|(_, value)| !value.is_null()));
        Some(())
    }
}

/// A content block while its deltas arrive.
#[derive(Debug)]
struct Block {
    block: Value,
    /// A tool's input: the fragments of its JSON text.
    input: Option<String>,
    open: bool,
}

impl Block {
    /// Adds a delta. `None`: it is unknown, or of another type of block.
    fn add(&mut self, delta: Value) -> Option<()> {
        match (text(&self.block, "type"), text(&delta, "type")) {
            ("text", "text_delta") => self.append("text", delta),
            ("thinking", "thinking_delta") => self.append("thinking", delta),
            ("thinking", "signature_delta") => {
                // The official clients store the last one only, so there must be no more than one.
                if text(&self.block, "signature").is_empty() {
                    let [signature @ Value::String(_)] = take(delta, ["signature"])? else {
                        return None;
                    };
                    self.block.as_object_mut()?.insert("signature".to_owned(), signature);
                    return Some(());
                }
                None
            }
            ("text", "citations_delta") => {
                let [citation @ Value::Object(_)] = take(delta, ["citation"])? else {
                    return None;
                };
                let citations = self.block.as_object_mut()?.entry("citations").or_insert(Value::Null);
                if citations.is_null() {
                    *citations = json!([]);
                }
                citations.as_array_mut()?.push(citation);
                Some(())
            }
            ("tool_use" | "server_tool_use" | "mcp_tool_use", "input_json_delta") => {
                let [Value::String(more)] = take(delta, ["partial_json"])? else {
                    return None;
                };
                self.input.get_or_insert_default().push_str(&more);
                Some(())
            }
            _ => None,
        }
    }

    /// Adds a fragment to the text of this name.
    fn append(&mut self, name: &str, delta: Value) -> Option<()> {
        let [Value::String(more)] = take(delta, [name])? else {
            return None;
        };
        let Value::String(so_far) = self.block.get_mut(name)? else {
            return None;
        };
        so_far.push_str(&more);
        Some(())
    }

    fn finish(mut self) -> Option<Value> {
        if let Some(input) = self.input {
            let input = if input.is_empty() { json!({}) } else { serde_json::from_str(&input).ok()? };
            let initial = self.block.as_object_mut()?.insert("input".to_owned(), input);
            // If the block has an initial input and fragments too, it is unknown which counts.
            if initial.is_some_and(|initial| initial != json!({})) {
                return None;
            }
        }
        (!self.open).then_some(self.block)
    }
}

/// Takes these members out of an event. `None`: it has others beside its type, which would be lost.
fn take<const N: usize>(event: Value, names: [&str; N]) -> Option<[Value; N]> {
    let Value::Object(mut members) = event else {
        return None;
    };
    members.remove("type");
    let taken = names.map(|name| members.remove(name).unwrap_or_default());
    members.values().all(Value::is_null).then_some(taken)
}

fn position(index: &Value) -> Option<usize> {
    usize::try_from(index.as_u64()?).ok()
}

/// The usage counts that the end of a stream repeats.
const TOTALS: [&str; 8] = [
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
    "server_tool_use",
    "iterations",
    "fallback_credit",
];

/// Object to stream: the message without its content, the blocks, and the stop reason.
pub(super) fn to_events(mut whole: Object) -> Option<Vec<Event>> {
    let Value::Array(content) = whole.insert("content".to_owned(), json!([]))? else {
        return None;
    };
    whole.get("stop_reason")?.as_str().filter(|reason| !reason.is_empty())?;
    let mut delta = Object::new();
    for name in STOP.into_iter().chain(["container"]) {
        if let Some(value) = whole.get_mut(name) {
            delta.insert(name.to_owned(), value.take());
        }
    }
    // All clients read the output tokens from the end. Only newer ones read the other counts there.
    let usage = whole.get_mut("usage")?.as_object_mut()?;
    let totals = TOTALS.into_iter().filter_map(|name| Some((name.to_owned(), usage.get(name)?.clone())));
    let totals: Object = totals.filter(|(_, value)| !value.is_null()).collect();
    usage.insert("output_tokens".to_owned(), 0.into()).filter(Value::is_number)?;

    let mut events = vec![event("message_start", [("message", Value::Object(whole))])];
    for (index, block) in content.into_iter().enumerate() {
        let Value::Object(block) = block else {
            return None;
        };
        let (block, deltas) = split(block)?;
        events.push(event("content_block_start", [("index", index.into()), ("content_block", Value::Object(block))]));
        let deltas =
            deltas.into_iter().map(|delta| event("content_block_delta", [("index", index.into()), ("delta", delta)]));
        events.extend(deltas);
        events.push(event("content_block_stop", [("index", index.into())]));
    }
    events.push(event("message_delta", [("delta", Value::Object(delta)), ("usage", Value::Object(totals))]));
    events.push(event("message_stop", []));
    Some(events)
}

/// A block as it begins, and its deltas.
fn split(mut block: Object) -> Option<(Object, Vec<Value>)> {
    let mut deltas = Vec::new();
    match block.get("type")?.as_str()? {
        "text" => {
            cut(&mut block, "text", "text_delta", &mut deltas)?;
            if let Some(Value::Array(citations)) = block.get_mut("citations") {
                if !citations.iter().all(Value::is_object) {
                    return None;
                }
                let citations = citations.drain(..);
                deltas.extend(citations.map(|one| object([("type", "citations_delta".into()), ("citation", one)])));
            }
        }
        "thinking" => {
            cut(&mut block, "thinking", "thinking_delta", &mut deltas)?;
            // Some compatible providers have none.
            if block.get("signature").is_some_and(Value::is_string) {
                cut(&mut block, "signature", "signature_delta", &mut deltas)?;
            }
        }
        "tool_use" | "server_tool_use" => {
            let input = block.insert("input".to_owned(), json!({}))?;
            let json = if input == json!({}) { String::new() } else { input.to_string() };
            deltas.push(object([("type", "input_json_delta".into()), ("partial_json", json.into())]));
        }
        kind if NOT_CONVERTED.contains(&kind) => return None,
        // Other types have no deltas.
        _ => {}
    }
    Some((block, deltas))
}

/// Moves a text from its block into a delta.
fn cut(block: &mut Object, name: &str, kind: &str, deltas: &mut Vec<Value>) -> Option<()> {
    let Value::String(text) = block.get_mut(name)? else {
        return None;
    };
    if !text.is_empty() {
        deltas.push(object([("type", kind.into()), (name, std::mem::take(text).into())]));
    }
    Some(())
}

fn event<const N: usize>(kind: &str, members: [(&str, Value); N]) -> Event {
    let mut data = Object::new();
    data.insert("type".to_owned(), kind.into());
    data.extend(members.map(|(name, value)| (name.to_owned(), value)));
    Event::named(kind, Value::Object(data).to_string())
}

#[cfg(test)]
mod tests {
    use super::super::accumulated;
    use super::*;

    fn to_object(chunks: Vec<Value>) -> Option<Value> {
        accumulated(Box::<Message>::default(), chunks.into_iter().map(Some))
    }

    fn events(object: &Value) -> Option<Vec<Event>> {
        to_events(object.as_object().unwrap().clone())
    }

    fn values(events: &[Event]) -> Vec<Value> {
        events.iter().map(|event| serde_json::from_str(&event.data).unwrap()).collect()
    }

    fn message(content: Value) -> Value {
        json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content,
            "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": 3, "cache_read_input_tokens": null, "output_tokens": 5, "service_tier": "standard"},
            "future": [1]
        })
    }

    /// A stream of one block, with these deltas.
    fn stream(block: Value, deltas: &[Value]) -> Vec<Value> {
        let mut chunks = vec![
            json!({"type": "message_start", "message": {
                "content": [], "stop_reason": null, "usage": {"input_tokens": 1, "output_tokens": 1, "tier": "a"}}}),
            json!({"type": "content_block_start", "index": 0, "content_block": block}),
            json!({"type": "ping"}),
        ];
        chunks.extend(deltas.iter().map(|delta| json!({"type": "content_block_delta", "index": 0, "delta": delta})));
        chunks.push(json!({"type": "content_block_stop", "index": 0}));
        chunks.push(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
            "usage": {"input_tokens": null, "output_tokens": 9, "server_tool_use": {"n": 1}}}));
        chunks.push(json!({"type": "message_stop"}));
        chunks
    }

    fn block(block: Value, deltas: &[Value]) -> Option<Value> {
        Some(to_object(stream(block, deltas))?["content"][0].clone())
    }

    #[test]
    fn a_message_streams_as_its_provider_streams_it() {
        let input: Value = serde_json::from_str(r#"{"n":1.0,"big":12345678901234567890123}"#).unwrap();
        let object = message(json!([
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "hi", "citations": [{"type": "char_location"}]},
            {"type": "tool_use", "id": "t_1", "name": "f", "input": input, "caller": {"type": "direct"}},
            {"type": "tool_use", "id": "t_2", "name": "f", "input": {}},
        ]));
        let events = events(&object).unwrap();
        let lines: Vec<&str> = events.iter().map(|event| event.data.as_str()).collect();
        assert_eq!(
            lines,
            [
                r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":3,"cache_read_input_tokens":null,"output_tokens":0,"service_tier":"standard"},"future":[1]}}"#,
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"sig"}}"#,
                r#"{"type":"content_block_stop","index":0}"#,
                r#"{"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"x"}}"#,
                r#"{"type":"content_block_stop","index":1}"#,
                r#"{"type":"content_block_start","index":2,"content_block":{"type":"text","text":"","citations":[]}}"#,
                r#"{"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"hi"}}"#,
                r#"{"type":"content_block_delta","index":2,"delta":{"type":"citations_delta","citation":{"type":"char_location"}}}"#,
                r#"{"type":"content_block_stop","index":2}"#,
                r#"{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"t_1","name":"f","input":{},"caller":{"type":"direct"}}}"#,
                r#"{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"n\":1.0,\"big\":12345678901234567890123}"}}"#,
                r#"{"type":"content_block_stop","index":3}"#,
                r#"{"type":"content_block_start","index":4,"content_block":{"type":"tool_use","id":"t_2","name":"f","input":{}}}"#,
                r#"{"type":"content_block_delta","index":4,"delta":{"type":"input_json_delta","partial_json":""}}"#,
                r#"{"type":"content_block_stop","index":4}"#,
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"input_tokens":3,"output_tokens":5}}"#,
                r#"{"type":"message_stop"}"#,
            ]
        );
        assert!(events.iter().zip(values(&events)).all(|(event, value)| value["type"] == event.name.as_str()));
        assert_eq!(to_object(values(&events)).map(|back| back.to_string()), Some(object.to_string()));
    }

    #[test]
    fn deltas_are_merged() {
        let of = |kind: &str, name: &str, value: &str| json!({"type": kind, name: value});
        assert_eq!(
            to_object(stream(
                json!({"type": "text", "text": ""}),
                &[of("text_delta", "text", "a"), of("text_delta", "text", "b")]
            )),
            Some(json!({
                "content": [{"type": "text", "text": "ab"}], "stop_reason": "end_turn", "stop_sequence": null,
                "usage": {"input_tokens": 1, "output_tokens": 9, "tier": "a", "server_tool_use": {"n": 1}}
            }))
        );
        let tool = |input: Value| json!({"type": "tool_use", "input": input});
        let input = |json: &str| of("input_json_delta", "partial_json", json);
        assert_eq!(block(tool(json!({})), &[input("{\"a\":"), input(""), input("1}")]), Some(tool(json!({"a": 1}))));
        assert_eq!(block(tool(json!({})), &[input("")]), Some(tool(json!({}))));
        assert_eq!(block(tool(json!({"a": 1})), &[]), Some(tool(json!({"a": 1}))));
        assert_eq!(block(tool(json!({"a": 1})), &[input("{}")]), None);
        assert_eq!(block(tool(json!({})), &[input("{\"a\":")]), None);
        let text = json!({"type": "text", "text": "", "citations": null});
        let citation = json!({"type": "citations_delta", "citation": {"a": 1}});
        assert_eq!(
            block(text, &[citation.clone(), citation]),
            Some(json!({"type": "text", "text": "", "citations": [{"a": 1}, {"a": 1}]}))
        );
    }

    #[test]
    fn a_stream_that_would_lose_a_part_has_no_object() {
        let text = || json!({"type": "text", "text": ""});
        let delta = |kind: &str, name: &str| json!({"type": kind, name: "a"});
        assert_eq!(block(text(), &[delta("novel_delta", "text")]), None);
        assert_eq!(block(text(), &[delta("thinking_delta", "thinking")]), None);
        assert_eq!(block(text(), &[json!({"type": "text_delta", "text": "a", "novelty": 1})]), None);
        let signed = delta("signature_delta", "signature");
        assert!(block(json!({"type": "thinking", "thinking": ""}), std::slice::from_ref(&signed)).is_some());
        assert_eq!(block(json!({"type": "thinking", "thinking": ""}), &[signed.clone(), signed]), None);
        assert_eq!(block(json!({"type": "compaction", "content": null}), &[]), None);

        let whole = stream(text(), &[delta("text_delta", "text")]);
        assert!(to_object(whole.clone()).is_some());
        // Every event but the ping and the delta has to be there once.
        for left_out in (0..whole.len()).filter(|index| ![2, 3].contains(index)) {
            let mut less = whole.clone();
            less.remove(left_out);
            assert_eq!(to_object(less), None, "{left_out}");
        }
        for doubled in [0, 1, 4, 6] {
            let mut more = whole.clone();
            more.insert(doubled, more[doubled].clone());
            assert_eq!(to_object(more), None, "{doubled}");
        }
        let mut unknown = whole;
        unknown.insert(1, json!({"type": "novelty"}));
        assert_eq!(to_object(unknown), None);
    }

    #[test]
    fn an_object_that_cannot_be_streamed_has_no_stream() {
        assert!(events(&message(json!([]))).is_some());
        for content in [
            json!([{"type": "compaction", "content": "a"}]),
            json!([{"type": "text"}]),
            json!([{"type": "text", "text": "", "citations": [1]}]),
            json!([{"type": "thinking", "thinking": null}]),
            json!([{"text": "a"}]),
            json!(["a"]),
            json!("a"),
        ] {
            assert_eq!(events(&message(content.clone())), None, "{content}");
        }
        for name in ["stop_reason", "usage"] {
            let mut object = message(json!([]));
            object[name] = Value::Null;
            assert_eq!(events(&object), None, "{name}");
        }
    }
}
