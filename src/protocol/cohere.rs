//! Cohere chat, version 2 (API reference, "Chat with Streaming"). Version 1 is stored but not converted.

use super::finish_reason::reject_finish_reason;
use super::open_parts::OpenParts;
use super::{Accumulate, EventKind, accumulated, object, parse, text};
use crate::http::sse::Event;
use crate::status::Reason;
use serde_json::map::Entry;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

type Object = Map<String, Value>;

/// The kind of an event.
pub(super) fn event_kind(value: &Value) -> EventKind {
    let (reason, error) = if text(value, "type") == "message-end" {
        (value.pointer("/delta/finish_reason"), value.pointer("/delta/error"))
    } else if text(value, "event_type") == "stream-end" {
        (value.get("finish_reason"), None)
    } else {
        return EventKind::Delta;
    };
    let reason = reason.and_then(Value::as_str).unwrap_or_default();
    if let Some(reason) = reject_finish_reason(reason) {
        return EventKind::Error(reason);
    }
    match error {
        Some(error) if !error.is_null() => EventKind::Error(Reason::ErrorBody),
        _ if reason.is_empty() => EventKind::Delta,
        _ => EventKind::Terminal,
    }
}

/// Whether an event has content, a tool call or a plan in it.
pub(super) fn has_output(value: &Value) -> bool {
    const AROUND: [&str; 6] = ["message-start", "message-end", "stream-start", "stream-end", "debug", "ping"];
    let (kind, old_kind) = (text(value, "type"), text(value, "event_type"));
    !AROUND.iter().any(|around| *around == kind || *around == old_kind)
}

/// Records the blocks of content and tool calls.
pub(super) fn track(value: &Value, parts: &mut OpenParts) {
    let index = value.get("index").and_then(Value::as_u64);
    match text(value, "type") {
        "content-start" | "content-delta" => parts.begin("content", index),
        "content-end" => parts.end("content", index),
        "tool-call-start" | "tool-call-delta" => parts.begin("tool call", index),
        "tool-call-end" => parts.end("tool call", index),
        "citation-start" => parts.begin("citation", index),
        "citation-end" => parts.end("citation", index),
        _ => {}
    }
}

/// Fields that a message has as empty at its start.
const INITIALLY_EMPTY: [&str; 4] = ["content", "tool_plan", "tool_calls", "citations"];

/// A response while its events arrive.
#[derive(Debug, Default)]
pub(super) struct Whole {
    id: Option<Value>,
    message: Object,
    content: BTreeMap<u64, Object>,
    tool_plan: String,
    tool_calls: BTreeMap<u64, Object>,
    citations: Vec<Value>,
    logprobs: Vec<Value>,
    end: Option<Object>,
}

impl Accumulate for Whole {
    fn add(&mut self, chunk: Value) -> Option<()> {
        let Value::Object(mut event) = chunk else {
            return None;
        };
        // The end is last.
        if self.end.is_some() {
            return None;
        }
        let kind = event.remove("type")?;
        let index = event.remove("index").unwrap_or_default().as_u64();
        let delta = event.remove("delta").unwrap_or_default();
        match kind.as_str()? {
            "message-start" if self.id.is_none() => {
                self.id = Some(event.remove("id")?);
                self.message = without_empty_fields(only("message", delta)?)?;
            }
            "content-start" => {
                let Value::Object(block) = of_message("content", delta)? else {
                    return None;
                };
                start(&mut self.content, index?, block)?;
            }
            "content-delta" => {
                let block = self.content.get_mut(&index?)?;
                add_parts(block, of_message("content", delta)?)?;
                self.logprobs.extend(event.remove("logprobs").filter(|item| !item.is_null()));
            }
            "tool-plan-delta" => self.tool_plan.push_str(of_message("tool_plan", delta)?.as_str()?),
            "tool-call-start" => {
                let Value::Object(call) = of_message("tool_calls", delta)? else {
                    return None;
                };
                start(&mut self.tool_calls, index?, call)?;
            }
            "tool-call-delta" => {
                let call = self.tool_calls.get_mut(&index?)?;
                add_parts(call, of_message("tool_calls", delta)?)?;
            }
            "citation-start" => {
                let citation = of_message("citations", delta)?;
                self.citations.push(Some(citation).filter(Value::is_object)?);
            }
            "content-end" => ended(&self.content, index, delta)?,
            "tool-call-end" => ended(&self.tool_calls, index, delta)?,
            "citation-end" if delta.is_null() => {}
            "message-end" => {
                let same = event.remove("id").is_none_or(|id| self.id.as_ref() == Some(&id));
                let Value::Object(delta) = delta else {
                    return None;
                };
                self.end = same.then_some(delta);
            }
            _ => return None,
        }
        event.values().all(Value::is_null).then_some(())
    }

    fn finish(self: Box<Self>) -> Option<Value> {
        let mut end = self.end?;
        let mut message = self.message;
        let mut put = |name: &str, value: Value| message.insert(name.to_owned(), value);
        if !self.content.is_empty() {
            put("content", in_order(self.content)?);
        }
        if !self.tool_plan.is_empty() {
            put("tool_plan", self.tool_plan.into());
        }
        if !self.tool_calls.is_empty() {
            put("tool_calls", in_order(self.tool_calls)?);
        }
        if !self.citations.is_empty() {
            put("citations", self.citations.into());
        }
        let mut whole = Object::new();
        whole.insert("id".to_owned(), self.id?);
        whole.insert("finish_reason".to_owned(), end.remove("finish_reason").filter(Value::is_string)?);
        whole.insert("message".to_owned(), Value::Object(message));
        whole.extend(end.remove("usage").map(|usage| ("usage".to_owned(), usage)));
        if !self.logprobs.is_empty() {
            whole.insert("logprobs".to_owned(), self.logprobs.into());
        }
        // An error is not a response, and other fields are unknown.
        end.values().all(Value::is_null).then_some(Value::Object(whole))
    }
}

/// The value of an object's only member.
fn only(name: &str, value: Value) -> Option<Value> {
    let Value::Object(mut members) = value else {
        return None;
    };
    let value = members.remove(name)?;
    members.is_empty().then_some(value)
}

/// The value that a delta adds to this field of the message.
fn of_message(name: &str, delta: Value) -> Option<Value> {
    only(name, only("message", delta)?)
}

/// The message as it begins, without its empty fields: the plain API leaves them out.
fn without_empty_fields(message: Value) -> Option<Object> {
    let Value::Object(mut message) = message else {
        return None;
    };
    for name in INITIALLY_EMPTY {
        if message.shift_remove(name).is_some_and(|value| !is_empty(&value)) {
            return None;
        }
    }
    Some(message)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn start(blocks: &mut BTreeMap<u64, Object>, index: u64, block: Object) -> Option<()> {
    blocks.insert(index, block).is_none().then_some(())
}

fn ended(blocks: &BTreeMap<u64, Object>, index: Option<u64>, delta: Value) -> Option<()> {
    (delta.is_null() && blocks.contains_key(&index?)).then_some(())
}

/// The blocks by their index. `None`: one is missing.
fn in_order(blocks: BTreeMap<u64, Object>) -> Option<Value> {
    let complete = (0u64..).zip(blocks.keys()).all(|(expected, index)| expected == *index);
    complete.then(|| blocks.into_values().map(Value::Object).collect())
}

/// Fields whose text arrives in fragments.
const FRAGMENTED: [&str; 3] = ["text", "thinking", "arguments"];

/// Adds the fields of an object. Fragments are joined; any other field has one value.
fn add_parts(whole: &mut Object, parts: Value) -> Option<()> {
    let Value::Object(parts) = parts else {
        return None;
    };
    for (name, value) in parts {
        match whole.entry(name) {
            Entry::Vacant(slot) => {
                slot.insert(value);
            }
            Entry::Occupied(mut slot) => match (FRAGMENTED.contains(&slot.key().as_str()), slot.get_mut(), value) {
                (_, _, Value::Null) => {}
                (_, slot @ Value::Null, value) => *slot = value,
                (true, Value::String(so_far), Value::String(more)) => so_far.push_str(&more),
                (false, Value::Object(whole), parts @ Value::Object(_)) => add_parts(whole, parts)?,
                (_, so_far, value) if *so_far == value => {}
                _ => return None,
            },
        }
    }
    Some(())
}

/// Object to stream: the message's beginning, its plan, its content, its citations, its tool calls, and its end.
pub(super) fn to_events(mut whole: Object) -> Option<Vec<Event>> {
    let id = whole.shift_remove("id")?;
    let Value::Object(mut message) = whole.shift_remove("message")? else {
        return None;
    };
    let [content, tool_plan, tool_calls, citations] =
        INITIALLY_EMPTY.map(|name| message.shift_remove(name).filter(|value| !is_empty(value)));
    let mut logprobs = list(whole.shift_remove("logprobs"))?;
    let mut end = Object::new();
    for name in ["finish_reason", "usage"] {
        end.extend(whole.shift_remove(name).map(|value| (name.to_owned(), value)));
    }
    // A stream has no other fields.
    if !whole.is_empty() || !end.get("finish_reason").is_some_and(Value::is_string) {
        return None;
    }
    let announcement = json!({"content": [], "tool_plan": "", "tool_calls": [], "citations": []});
    message.extend(announcement.as_object().cloned()?);

    let mut events = Vec::new();
    let mut push = |event: Value| events.push(Event::named(text(&event, "type"), event.to_string()));
    push(json!({"type": "message-start", "id": id, "delta": {"message": message}}));
    if let Some(plan) = tool_plan {
        push(
            json!({"type": "tool-plan-delta", "delta": of(object([("tool_plan", plan.is_string().then_some(plan)?)]))}),
        );
    }
    let blocks = list(content)?;
    let last = blocks.len().checked_sub(1);
    let mut citations = list(citations)?;
    for (index, block) in blocks.into_iter().enumerate() {
        let (block, name, fragments) = opened(block, &mut logprobs)?;
        push(json!({"type": "content-start", "index": index, "delta": of(object([("content", block)]))}));
        for (fragment, logprobs) in fragments {
            let delta = of(json!({"content": {name: fragment}}));
            let mut event = json!({"type": "content-delta", "index": index, "delta": delta});
            if let (Some(event), Some(logprobs)) = (event.as_object_mut(), logprobs) {
                event.insert("logprobs".to_owned(), logprobs);
            }
            push(event);
        }
        if last == Some(index) {
            cited(std::mem::take(&mut citations)).for_each(&mut push);
        }
        push(json!({"type": "content-end", "index": index}));
    }
    if !logprobs.is_empty() {
        return None;
    }
    cited(citations).for_each(&mut push);
    for (index, mut call) in list(tool_calls)?.into_iter().enumerate() {
        let arguments = call.get_mut("function").and_then(|function| function.get_mut("arguments"));
        let arguments = arguments.filter(|value| value.is_string()).map(|value| std::mem::replace(value, "".into()));
        push(json!({"type": "tool-call-start", "index": index, "delta": of(object([("tool_calls", call)]))}));
        if let Some(arguments) = arguments.filter(|value| !is_empty(value)) {
            let delta = of(json!({"tool_calls": {"function": {"arguments": arguments}}}));
            push(json!({"type": "tool-call-delta", "index": index, "delta": delta}));
        }
        push(json!({"type": "tool-call-end", "index": index}));
    }
    push(json!({"type": "message-end", "delta": end}));
    // An item of the wrong type, for example, cannot be converted back.
    accumulated(Box::<Whole>::default(), events.iter().map(|event| parse(&event.data)))?;
    Some(events)
}

/// A delta that adds to the message.
fn of(parts: Value) -> Value {
    object([("message", parts)])
}

/// The items of a list that may be missing.
fn list(value: Option<Value>) -> Option<Vec<Value>> {
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(items)) => Some(items),
        Some(_) => None,
    }
}

/// A fragment of a text, and its log probabilities.
type Fragment = (Value, Option<Value>);

/// A content block as it begins, the name of its text, and the fragments that follow. A text that log probabilities
/// spell out is cut as they are.
fn opened(block: Value, logprobs: &mut Vec<Value>) -> Option<(Value, &'static str, Vec<Fragment>)> {
    let mut block = block;
    let kind = text(&block, "type");
    let name = ["text", "thinking"].into_iter().find(|name| *name == kind)?;
    let Value::String(content_text) = std::mem::replace(block.get_mut(name)?, "".into()) else {
        return None;
    };
    let spelled: String = logprobs.iter().map(|item| text(item, "text")).collect();
    let fragments = if name == "text" && spelled == content_text {
        logprobs.drain(..).map(|item| (text(&item, "text").into(), Some(item))).collect()
    } else if content_text.is_empty() {
        Vec::new()
    } else {
        vec![(content_text.into(), None)]
    };
    Some((block, name, fragments))
}

/// The events of citations, each complete at its start.
fn cited(citations: Vec<Value>) -> impl Iterator<Item = Value> {
    citations.into_iter().enumerate().flat_map(|(index, citation)| {
        let delta = of(object([("citations", citation)]));
        [
            json!({"type": "citation-start", "index": index, "delta": delta}),
            json!({"type": "citation-end", "index": index}),
        ]
    })
}

#[cfg(test)]
mod tests {
    use crate::http::sse::Event;
    use crate::protocol::{Protocol, ResponseMode};
    use crate::status::Reason;
    use serde_json::{Value, json};

    fn events(chunks: &Value) -> Vec<Event> {
        chunks.as_array().unwrap().iter().map(|chunk| Event::data(chunk.to_string())).collect()
    }

    fn to_object(chunks: &Value) -> Option<Value> {
        Protocol::Cohere.to_object(&events(chunks))
    }

    /// A stream with these events between its beginning and its end.
    fn stream(between: &[Value]) -> Value {
        let mut chunks = vec![json!({"type": "message-start", "id": "i", "delta": {"message":
            {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}}})];
        chunks.extend_from_slice(between);
        chunks.push(json!({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": {"tokens": {}}}}));
        Value::Array(chunks)
    }

    fn start(index: u64, kind: &str) -> Value {
        json!({"type": "content-start", "index": index, "delta": {"message": {"content": {"type": kind, kind: ""}}}})
    }

    fn delta(index: u64, kind: &str, text: &str) -> Value {
        json!({"type": "content-delta", "index": index, "delta": {"message": {"content": {kind: text}}}})
    }

    #[test]
    fn a_stream_ends_with_its_finish_reason() {
        let end = |reason: &str, error: Value| {
            let end = json!({"type": "message-end", "delta": {"finish_reason": reason, "error": error}});
            json!([start(0, "text"), {"type": "content-end", "index": 0}, end])
        };
        let old = |reason: &str| {
            let end = json!({"event_type": "stream-end", "is_finished": true, "finish_reason": reason});
            json!([{"event_type": "text-generation", "text": "a"}, end])
        };
        for (chunks, outcome) in [
            (end("COMPLETE", json!(null)), Ok(())),
            (end("TOOL_CALL", json!(null)), Ok(())),
            (end("COMPLETE", json!("e")), Err(Reason::ErrorBody)),
            (end("ERROR", json!("e")), Err(Reason::NotCompleted)),
            (end("TIMEOUT", json!(null)), Err(Reason::NotCompleted)),
            (old("COMPLETE"), Ok(())),
            (old("ERROR_TOXIC"), Err(Reason::ContentFilter)),
            (old("USER_CANCEL"), Err(Reason::NotCompleted)),
            (json!([{"type": "content-end", "index": 0}]), Err(Reason::Truncated)),
            (end("", json!(null)), Err(Reason::Truncated)),
            (stream(&[]), Err(Reason::ResponseEmpty)),
            (stream(&[start(0, "text"), delta(0, "text", "a")]), Err(Reason::Truncated)),
            (stream(&[json!({"type": "tool-call-start", "index": 0})]), Err(Reason::Truncated)),
            (stream(&[json!({"type": "novelty"})]), Ok(())),
            (stream(&[json!({"code": 1, "message": "m"})]), Err(Reason::ErrorBody)),
            (stream(&[json!({"detail": "d"})]), Err(Reason::ErrorBody)),
        ] {
            assert_eq!(Protocol::Cohere.check(&events(&chunks)), outcome, "{chunks}");
        }
        assert_eq!(to_object(&old("COMPLETE")), None);
    }

    #[test]
    fn events_are_merged() {
        let chunks = stream(&[
            json!({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I "}}}),
            json!({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "will"}}}),
            start(0, "thinking"),
            delta(0, "thinking", "hm"),
            json!({"type": "content-end", "index": 0}),
            start(1, "text"),
            delta(1, "text", "a"),
            json!({"type": "citation-start", "index": 0, "delta": {"message": {"citations": {"start": 0, "end": 1}}}}),
            json!({"type": "citation-end", "index": 0}),
            delta(1, "text", "b"),
            json!({"type": "content-end", "index": 1}),
            json!({"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls":
                {"id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}}}}),
            json!({"type": "tool-call-delta", "index": 0, "delta": {"message": {"tool_calls": {"function": {"arguments": "{"}}}}}),
            json!({"type": "tool-call-delta", "index": 0, "delta": {"message": {"tool_calls": {"function": {"arguments": "}"}}}}}),
            json!({"type": "tool-call-end", "index": 0}),
        ]);
        let expected = json!({
            "id": "i",
            "finish_reason": "COMPLETE",
            "message": {
                "role": "assistant",
                "tool_plan": "I will",
                "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "ab"}],
                "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                "citations": [{"start": 0, "end": 1}],
            },
            "usage": {"tokens": {}},
        });
        assert_eq!(to_object(&chunks), Some(expected));
    }

    #[test]
    fn an_event_that_cannot_be_converted_gives_none() {
        for between in [
            vec![json!({"type": "debug", "prompt": "p"})],
            vec![json!({"type": "content-pause", "index": 0})],
            vec![delta(0, "text", "a")],
            vec![start(1, "text")],
            vec![start(0, "text"), start(0, "text")],
            vec![start(0, "text"), json!({"type": "content-end", "index": 0, "new": 1})],
            vec![json!({"type": "message-end", "delta": {"finish_reason": "COMPLETE"}})],
            vec![json!({"type": "message-start", "id": "j", "delta": {"message": {}}})],
        ] {
            assert_eq!(to_object(&stream(&between)), None, "{between:?}");
        }
        assert_eq!(to_object(&json!([])), None);
    }

    #[test]
    fn an_object_that_cannot_be_streamed_is_not() {
        let object = |message: Value, more: Value| {
            let mut object = json!({"id": "i", "finish_reason": "COMPLETE", "message": message});
            object.as_object_mut().unwrap().append(more.as_object().cloned().as_mut().unwrap());
            Protocol::Cohere.to_events(object, ResponseMode::default())
        };
        let text = json!({"content": [{"type": "text", "text": "ab"}]});
        assert!(object(text.clone(), json!({})).is_some());
        assert!(object(text.clone(), json!({"logprobs": [{"text": "a"}, {"text": "b"}]})).is_some());
        assert!(object(text.clone(), json!({"logprobs": [{"text": "a"}]})).is_none());
        assert!(object(text, json!({"meta": {}})).is_none());
        assert!(object(json!({"content": [{"type": "image", "image": "x"}]}), json!({})).is_none());
        assert!(object(json!({"content": "ab"}), json!({})).is_none());
        assert!(object(json!({"citations": [1]}), json!({})).is_none());
        // Empty lists are left out.
        let made = object(json!({"role": "assistant", "citations": []}), json!({})).unwrap();
        let expected = json!({"id": "i", "finish_reason": "COMPLETE", "message": {"role": "assistant"}});
        assert_eq!(Protocol::Cohere.to_object(&made), Some(expected));
    }
}
