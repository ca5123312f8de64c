//! OpenAI responses (API reference, "Streaming events"). The terminal event has the complete object.

use super::open_parts::OpenParts;
use super::{Accumulate, EventKind, items, text};
use crate::http::sse::Event;
use crate::status::Reason;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};

type Object = Map<String, Value>;

/// The kind of an event.
pub(super) fn event_kind(value: &Value) -> EventKind {
    match text(value, "type") {
        "response.completed" if value.pointer("/response/status") == Some(&Value::from("completed")) => {
            EventKind::Terminal
        }
        "response.completed" | "response.incomplete" | "response.cancelled" => EventKind::Error(Reason::NotCompleted),
        "response.failed" | "error" => EventKind::Error(Reason::ErrorBody),
        _ => EventKind::Delta,
    }
}

/// Whether an event has output in it.
pub(super) fn has_output(value: &Value) -> bool {
    let output = value.pointer("/response/output").and_then(Value::as_array);
    text(value, "type") == "response.output_item.done" || output.is_some_and(|output| !output.is_empty())
}

/// Records the output items. The object in the terminal event has all of them.
pub(super) fn track(value: &Value, parts: &mut OpenParts) {
    let index = value.get("output_index").and_then(Value::as_u64);
    match text(value, "type") {
        "response.output_item.added" => parts.begin("item", index),
        "response.output_item.done" => parts.end("item", index),
        "response.completed" => {
            let output = value.pointer("/response/output").and_then(Value::as_array);
            (0u64..).zip(output.into_iter().flatten()).for_each(|(index, _)| parts.end("item", Some(index)));
        }
        _ => {}
    }
}

/// The events whose content the complete object repeats, as the official client knows them: names and actions. Audio is not
/// among them, because the object does not have it.
const REPEATED: [(&str, &[&str]); 24] = [
    ("created", &[""]),
    ("queued", &[""]),
    ("in_progress", &[""]),
    ("output_item", &["added", "done"]),
    ("content_part", &["added", "done"]),
    ("output_text", &["delta", "done", "annotation.added"]),
    ("refusal", &["delta", "done"]),
    ("function_call_arguments", &["delta", "done"]),
    ("custom_tool_call_input", &["delta", "done"]),
    ("mcp_call_arguments", &["delta", "done"]),
    ("reasoning_text", &["delta", "done"]),
    ("reasoning_summary_part", &["added", "done"]),
    ("reasoning_summary_text", &["delta", "done"]),
    ("code_interpreter_call_code", &["delta", "done"]),
    ("shell_call_command", &["added", "delta", "done"]),
    ("shell_call_output_content", &["delta", "done"]),
    ("code_interpreter_call", &["in_progress", "interpreting", "completed"]),
    ("file_search_call", &["in_progress", "searching", "completed"]),
    ("web_search_call", &["in_progress", "searching", "completed"]),
    ("image_generation_call", &["in_progress", "generating", "partial_image", "completed"]),
    ("mcp_call", &["in_progress", "completed", "failed"]),
    ("mcp_list_tools", &["in_progress", "completed", "failed"]),
    ("compaction", &["compacting"]),
    ("completed", &[""]),
];

fn is_repeated(kind: &str) -> bool {
    let Some(kind) = kind.strip_prefix("response.") else {
        return kind == "keepalive";
    };
    let (name, does) = kind.split_once('.').unwrap_or((kind, ""));
    REPEATED.iter().any(|(known, all)| *known == name && all.contains(&does))
}

/// The object of a stream while its events arrive: that of the terminal event, unless the stream has content that it lacks.
#[derive(Debug, Default)]
pub(super) struct Whole {
    seen: BTreeSet<u64>,
    done: BTreeMap<u64, Value>,
    completed: Option<Value>,
}

impl Accumulate for Whole {
    fn add(&mut self, mut chunk: Value) -> Option<()> {
        let kind = text(&chunk, "type").to_owned();
        if !is_repeated(&kind) || (self.completed.is_some() && kind != "keepalive") {
            return None;
        }
        match chunk.get("output_index") {
            Some(index) => _ = self.seen.insert(index.as_u64()?),
            // An event without an index concerns the response.
            None if kind.matches('.').count() < 2 => {}
            None => return None,
        }
        match kind.as_str() {
            "response.output_item.done" => {
                self.done.insert(chunk.get("output_index")?.as_u64()?, chunk.get_mut("item")?.take());
            }
            "response.completed" => self.completed = Some(chunk),
            _ => {}
        }
        Some(())
    }

    fn finish(self: Box<Self>) -> Option<Value> {
        let Value::Object(mut completed) = self.completed? else {
            return None;
        };
        let Value::Object(mut whole) = completed.remove("response")? else {
            return None;
        };
        let beside = completed
            .iter()
            .any(|(name, value)| !["type", "sequence_number"].contains(&name.as_str()) && !value.is_null());
        if beside || whole.get("status") != Some(&"completed".into()) {
            return None;
        }
        let output = whole.entry("output").or_insert(Value::Null);
        // Some servers leave the output out of the terminal event. It consists of the finished items.
        if output.is_null() && self.done.len() == self.seen.len() {
            *output = Value::Array(self.done.into_values().collect());
        }
        (output.as_array()?.len() >= self.seen.len()).then_some(Value::Object(whole))
    }
}

/// Makes the events of a stream, in numbered order.
#[derive(Default)]
struct Stream {
    events: Vec<Event>,
}

/// A member of an event. Several of them name a position in the response.
type Member = (&'static str, Value);

impl Stream {
    fn push(&mut self, kind: &str, place: &[Member], members: Vec<Member>) {
        let mut data = Object::new();
        data.insert("type".to_owned(), kind.into());
        data.extend(place.iter().cloned().chain(members).map(|(name, value)| (name.to_owned(), value)));
        data.insert("sequence_number".to_owned(), self.events.len().into());
        self.events.push(Event::named(kind, Value::Object(data).to_string()));
    }

    /// A text: one delta, and the complete text.
    fn text(&mut self, stem: &str, place: &[Member], name: &'static str, value: &Value) {
        if value != "" {
            self.push(&format!("{stem}.delta"), place, vec![("delta", value.clone())]);
        }
        self.push(&format!("{stem}.done"), place, vec![(name, value.clone())]);
    }

    /// The events of an item.
    fn item(&mut self, index: usize, item: &Value) -> Option<()> {
        let kind = text(item, "type");
        let at = vec![("output_index", index.into())];
        let place = vec![("item_id", item.get("id")?.clone()), ("output_index", index.into())];
        let work = WORK.iter().find(|(of, _)| *of == kind && text(item, "status") == "completed");

        self.push("response.output_item.added", &at, vec![("item", added(item)?)]);
        if work.is_some() {
            self.push(&format!("response.{kind}.in_progress"), &place, vec![]);
        }
        match kind {
            "message" => self.parts(&place, item.get("content")?, "message")?,
            "reasoning" => {
                self.parts(&place, item.get("summary").unwrap_or(&Value::Null), "summary")?;
                self.parts(&place, item.get("content").unwrap_or(&Value::Null), "reasoning")?;
            }
            _ => {}
        }
        if let Some((name, stem)) = streamed(item) {
            self.text(stem, &place, name, item.get(name)?);
        }
        if let Some((_, step)) = work {
            for step in step.iter().chain(&["completed"]) {
                self.push(&format!("response.{kind}.{step}"), &place, vec![]);
            }
        }
        self.push("response.output_item.done", &at, vec![("item", item.clone())]);
        Some(())
    }

    /// The events of the parts of a message, of reasoning or of its summary.
    fn parts(&mut self, place: &[Member], parts: &Value, of: &str) -> Option<()> {
        let parts = match parts {
            Value::Array(parts) => parts.as_slice(),
            // Reasoning may have no visible parts.
            Value::Null if of != "message" => &[],
            _ => return None,
        };
        let (stem, index_name) = match of {
            "summary" => ("response.reasoning_summary_part", "summary_index"),
            _ => ("response.content_part", "content_index"),
        };
        for (index, part) in parts.iter().enumerate() {
            let mut place = place.to_vec();
            place.push((index_name, index.into()));
            let text_of = match (of, text(part, "type")) {
                ("message", "output_text") => Some(("text", "response.output_text")),
                ("message", "refusal") => Some(("refusal", "response.refusal")),
                ("reasoning", "reasoning_text") => Some(("text", "response.reasoning_text")),
                ("summary", "summary_text") => Some(("text", "response.reasoning_summary_text")),
                (_, "" | "reasoning_text") | ("reasoning", _) => return None,
                // A part of an unknown type has no deltas.
                _ => None,
            };
            let mut begun = part.clone();
            if let Some((name, _)) = text_of {
                *begun.get_mut(name).filter(|text| text.is_string())? = "".into();
                for name in ["annotations", "logprobs"] {
                    begun.get_mut(name).and_then(Value::as_array_mut).into_iter().for_each(Vec::clear);
                }
            }
            self.push(&format!("{stem}.added"), &place, vec![("part", begun)]);
            match text_of {
                Some((_, stem @ "response.output_text")) => self.output_text(stem, &place, part)?,
                Some((name, stem)) => self.text(stem, &place, name, part.get(name)?),
                None => {}
            }
            self.push(&format!("{stem}.done"), &place, vec![("part", part.clone())]);
        }
        Some(())
    }

    /// The one text with log probabilities and annotations.
    fn output_text(&mut self, stem: &str, place: &[Member], part: &Value) -> Option<()> {
        let value = part.get("text")?;
        let logprobs = part.get("logprobs").filter(|logprobs| logprobs.is_array()).cloned();
        let logprobs = logprobs.unwrap_or_else(|| json!([]));
        if value != "" {
            let delta = vec![("delta", value.clone()), ("logprobs", logprobs.clone())];
            self.push(&format!("{stem}.delta"), place, delta);
        }
        for (index, annotation) in items(part, "annotations").enumerate() {
            let added = vec![("annotation", annotation.clone()), ("annotation_index", index.into())];
            self.push(&format!("{stem}.annotation.added"), place, added);
        }
        self.push(&format!("{stem}.done"), place, vec![("text", value.clone()), ("logprobs", logprobs)]);
        Some(())
    }
}

/// Types of item with a text that has deltas: the name of the text, and that of its events.
const TEXTS: [(&str, &str, &str); 4] = [
    ("function_call", "arguments", "response.function_call_arguments"),
    ("custom_tool_call", "input", "response.custom_tool_call_input"),
    ("mcp_call", "arguments", "response.mcp_call_arguments"),
    ("code_interpreter_call", "code", "response.code_interpreter_call_code"),
];

fn streamed(item: &Value) -> Option<(&'static str, &'static str)> {
    let (_, name, stem) = TEXTS.iter().find(|(of, ..)| *of == text(item, "type"))?;
    item.get(*name)?.is_string().then_some((*name, *stem))
}

/// Types of item whose progress has events, with those between beginning and end.
const WORK: [(&str, &[&str]); 5] = [
    ("web_search_call", &["searching"]),
    ("file_search_call", &["searching"]),
    ("code_interpreter_call", &["interpreting"]),
    ("image_generation_call", &["generating"]),
    ("mcp_call", &[]),
];

/// An item as it is added: without its texts, and with all other fields.
fn added(item: &Value) -> Option<Value> {
    let mut added = item.as_object()?.clone();
    let emptied = match text(item, "type") {
        "message" => vec![("content", json!([]))],
        "reasoning" => vec![("content", json!([])), ("summary", json!([]))],
        // Images are large, so only the finished item has it.
        "image_generation_call" => vec![("result", Value::Null)],
        _ => streamed(item).into_iter().map(|(name, _)| (name, "".into())).collect(),
    };
    for (name, empty) in emptied {
        if let Some(value) = added.get_mut(name).filter(|value| !value.is_null()) {
            *value = empty;
        }
    }
    if let Some(status) = added.get_mut("status").filter(|status| *status == "completed") {
        *status = "in_progress".into();
    }
    Some(Value::Object(added))
}

/// Object to stream: the response as it begins, the events of its items, and the complete response.
pub(super) fn to_events(whole: Object) -> Option<Vec<Event>> {
    if whole.get("status") != Some(&"completed".into()) {
        return None;
    }
    let output = whole.get("output")?.as_array()?;
    let mut stream = Stream::default();
    let begun = begun(&whole);
    stream.push("response.created", &[], vec![("response", begun.clone())]);
    stream.push("response.in_progress", &[], vec![("response", begun)]);
    // The official client tells the items apart by their names, and fails if two are equal.
    let mut names = HashSet::new();
    for (index, item) in output.iter().enumerate() {
        if !names_of(item)?.into_iter().all(|name| names.insert(name)) {
            return None;
        }
        stream.item(index, item)?;
    }
    stream.push("response.completed", &[], vec![("response", Value::Object(whole))]);
    Some(stream.events)
}

/// The response before any output.
fn begun(whole: &Object) -> Value {
    let begun = whole.iter().map(|(name, value)| {
        let value = match name.as_str() {
            "status" => "in_progress".into(),
            "output" => json!([]),
            "output_text" => "".into(),
            "usage" | "completed_at" | "moderation" => Value::Null,
            _ => value.clone(),
        };
        (name.clone(), value)
    });
    Value::Object(begun.collect())
}

/// The names that only one item may have: its id, and for some types the id of the call.
fn names_of(item: &Value) -> Option<Vec<String>> {
    let named = |name| Some(text(item, name)).filter(|name| !name.is_empty());
    let kind = named("type")?;
    let mut names = vec![format!("id {}", named("id")?)];
    if matches!(kind, "function_call" | "custom_tool_call" | "shell_call" | "shell_call_output") {
        names.push(format!("{kind} {}", named("call_id")?));
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::super::accumulated;
    use super::*;

    fn to_object(chunks: Vec<Value>) -> Option<Value> {
        accumulated(Box::<Whole>::default(), chunks.into_iter().map(Some))
    }

    fn events(object: &Value) -> Option<Vec<Event>> {
        to_events(object.as_object().unwrap().clone())
    }

    fn values(events: &[Event]) -> Vec<Value> {
        events.iter().map(|event| serde_json::from_str(&event.data).unwrap()).collect()
    }

    fn response(output: Value) -> Value {
        json!({
            "id": "resp_1", "object": "response", "status": "completed", "completed_at": 7, "error": null,
            "output": output, "usage": {"total_tokens": 3}, "future": {"a": [1]}
        })
    }

    fn kinds(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.name.strip_prefix("response.").unwrap()).collect()
    }

    #[test]
    fn a_response_streams_as_its_provider_streams_it() {
        let object = response(json!([
            {"id": "rs_1", "type": "reasoning", "encrypted_content": "x", "content": [{"type": "reasoning_text", "text": "a"}],
             "summary": [{"type": "summary_text", "text": "s"}]},
            {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "phase": "final_answer",
             "content": [
                {"type": "output_text", "text": "hi", "annotations": [{"type": "file_path"}],
                 "logprobs": [{"token": "hi", "logprob": -0.1}]},
                {"type": "refusal", "refusal": "no"},
                {"type": "hologram", "data": 1}]},
            {"id": "fc_1", "type": "function_call", "call_id": "c_1", "name": "f", "arguments": "{}", "status": "completed"},
            {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"query": "q"}},
            {"id": "x_1", "type": "novelty", "data": 1.0}
        ]));
        let events = events(&object).unwrap();
        assert_eq!(
            kinds(&events).join(" "),
            "created in_progress \
             output_item.added \
             reasoning_summary_part.added reasoning_summary_text.delta reasoning_summary_text.done reasoning_summary_part.done \
             content_part.added reasoning_text.delta reasoning_text.done content_part.done output_item.done \
             output_item.added \
             content_part.added output_text.delta output_text.annotation.added output_text.done content_part.done \
             content_part.added refusal.delta refusal.done content_part.done \
             content_part.added content_part.done output_item.done \
             output_item.added function_call_arguments.delta function_call_arguments.done output_item.done \
             output_item.added web_search_call.in_progress web_search_call.searching web_search_call.completed output_item.done \
             output_item.added output_item.done \
             completed"
        );
        let values = values(&events);
        for (number, value) in values.iter().enumerate() {
            assert_eq!(value["sequence_number"], json!(number));
        }
        let begun = json!({
            "id": "resp_1", "object": "response", "status": "in_progress", "completed_at": null, "error": null,
            "output": [], "usage": null, "future": {"a": [1]}
        });
        assert_eq!(values[0], json!({"type": "response.created", "response": begun, "sequence_number": 0}));
        assert_eq!(
            values[12]["item"],
            json!({
                "id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "phase": "final_answer", "content": []
            })
        );
        assert_eq!(
            events[14].data,
            r#"{"type":"response.output_text.delta","item_id":"msg_1","output_index":1,"content_index":0,"#.to_owned()
                + r#""delta":"hi","logprobs":[{"token":"hi","logprob":-0.1}],"sequence_number":14}"#
        );
        assert_eq!(to_object(values), Some(object));
    }

    #[test]
    fn a_stream_whose_end_has_less_than_the_stream_is_no_object() {
        let item = json!({"id": "ws_1", "type": "web_search_call", "status": "completed"});
        let whole = response(json!([item]));
        let ended = |output: Option<Value>, items: &[&str], beside: Value| {
            let mut response = whole.clone();
            response.as_object_mut().unwrap().remove("output");
            response.as_object_mut().unwrap().extend(output.map(|output| ("output".to_owned(), output)));
            let mut chunks: Vec<Value> =
                items.iter().map(|kind| json!({"type": kind, "output_index": 0, "item": item})).collect();
            chunks.push(json!({"type": "response.completed", "response": response, "beside": beside}));
            to_object(chunks)
        };
        let (added, done) = ("response.output_item.added", "response.output_item.done");
        assert_eq!(ended(Some(json!([item])), &[added, done], Value::Null), Some(whole.clone()));
        assert_eq!(ended(Some(json!([item])), &[], Value::Null), Some(whole.clone()));
        assert_eq!(ended(Some(Value::Null), &[added, done], Value::Null), Some(whole.clone()));
        assert_eq!(ended(None, &[added, done], Value::Null), Some(whole.clone()));
        assert_eq!(ended(None, &[added], Value::Null), None);
        assert_eq!(ended(Some(json!([])), &[added, done], Value::Null), None);
        assert_eq!(ended(Some(json!([item])), &[added, done], json!(1)), None);
        assert_eq!(ended(Some(json!([item])), &["response.audio.delta"], Value::Null), None);
        assert_eq!(ended(Some(json!([item])), &["response.novelty.delta"], Value::Null), None);
        let placeless = json!({"type": "response.output_text.delta", "delta": "a"});
        assert_eq!(
            to_object(vec![placeless, json!({"type": "response.completed", "response": response(json!([]))})]),
            None
        );
        assert_eq!(to_object(vec![json!({"type": added, "output_index": 0, "item": item})]), None);
    }

    #[test]
    fn what_the_official_client_cannot_follow_is_no_stream() {
        let fine = json!({"id": "a", "type": "function_call", "call_id": "c", "arguments": ""});
        assert!(events(&response(json!([fine]))).is_some());
        for output in [
            json!([fine, fine]),
            json!([fine, {"id": "b", "type": "function_call", "call_id": "c", "arguments": ""}]),
            json!([{"type": "message", "content": []}]),
            json!([{"id": "", "type": "message", "content": []}]),
            json!([{"id": "a", "type": "function_call", "arguments": ""}]),
            json!([{"id": "a", "type": "message"}]),
            json!([{"id": "a", "type": "message", "content": [{"type": "output_text"}]}]),
            json!([{"id": "a", "type": "message", "content": [{"type": "reasoning_text", "text": ""}]}]),
            json!([{"id": "a", "type": "reasoning", "summary": [], "content": [{"type": "novelty"}]}]),
            json!([1]),
            Value::Null,
        ] {
            assert_eq!(events(&response(output.clone())), None, "{output}");
        }
        let mut incomplete = response(json!([]));
        incomplete["status"] = "incomplete".into();
        assert_eq!(events(&incomplete), None);
    }
}
