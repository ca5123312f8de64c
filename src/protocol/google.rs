//! Google `streamGenerateContent` (Gemini API reference). Each chunk is a partial `GenerateContentResponse`.

use super::finish_reason::reject_finish_reason;
use super::open_parts::OpenParts;
use super::{Accumulate, EventKind, accumulated, is_set, items, text};
use crate::http::sse::Event;
use crate::status::Reason;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

type Object = Map<String, Value>;

/// The kind of an event.
pub(super) fn event_kind(value: &Value) -> EventKind {
    if value.get("promptFeedback").is_some_and(|feedback| is_set(feedback, "blockReason")) {
        return EventKind::Error(Reason::ContentFilter);
    }
    let mut event_kind = EventKind::Delta;
    for candidate in items(value, "candidates") {
        let end = text(candidate, "finishReason");
        if let Some(reason) = reject_finish_reason(end) {
            return EventKind::Error(reason);
        }
        if is_end(end) {
            event_kind = EventKind::Terminal;
        }
    }
    event_kind
}

fn is_end(reason: &str) -> bool {
    !matches!(reason, "" | "FINISH_REASON_UNSPECIFIED")
}

/// `None`: the index is not a number.
fn index_of(candidate: &Value) -> Option<u64> {
    // Some chunks of a stream leave out an index of zero.
    candidate.get("index").map_or(Some(0), Value::as_u64)
}

/// Whether an event is part of a response.
pub(super) fn is_progress(value: &Value) -> bool {
    const MEMBERS: [&str; 5] = ["candidates", "usageMetadata", "promptFeedback", "modelVersion", "responseId"];
    MEMBERS.iter().any(|name| is_set(value, name))
}

/// Records the candidates in a chunk. A candidate that had ended is open again if more content comes.
pub(super) fn track(value: &Value, parts: &mut OpenParts) {
    for candidate in items(value, "candidates") {
        let has_content = candidate.pointer("/content/parts/0").is_some();
        parts.update("candidate", index_of(candidate), has_content, is_end(text(candidate, "finishReason")));
    }
}

/// A response while its chunks arrive.
#[derive(Debug, Default)]
pub(super) struct Whole {
    fields: Object,
    candidates: BTreeMap<u64, Candidate>,
}

impl Accumulate for Whole {
    fn add(&mut self, chunk: Value) -> Option<()> {
        let Value::Object(chunk) = chunk else {
            return None;
        };
        for (name, value) in chunk {
            match (name.as_str(), value) {
                ("candidates", Value::Array(fragments)) => add_candidates(&mut self.candidates, fragments)?,
                // Counts are totals.
                ("usageMetadata", value @ Value::Object(_)) => {
                    self.fields.insert(name, value);
                }
                (_, value) => add_field(&mut self.fields, name, value)?,
            }
        }
        Some(())
    }

    fn finish(self: Box<Self>) -> Option<Value> {
        let candidates: Option<Vec<Value>> = self.candidates.into_values().map(Candidate::finish).collect();
        let mut whole = Object::new();
        whole.insert("candidates".to_owned(), Value::Array(candidates.filter(|candidates| !candidates.is_empty())?));
        whole.extend(self.fields.into_iter().filter(|(name, _)| name != "candidates"));
        Some(Value::Object(whole))
    }
}

fn add_candidates(candidates: &mut BTreeMap<u64, Candidate>, fragments: Vec<Value>) -> Option<()> {
    let mut seen = Vec::new();
    for fragment in fragments {
        let index = index_of(&fragment)?;
        // Two candidates with one index cannot be told apart.
        if seen.contains(&index) {
            return None;
        }
        seen.push(index);
        let Value::Object(fragment) = fragment else {
            return None;
        };
        candidates.entry(index).or_default().add(fragment)?;
    }
    Some(())
}

/// A candidate while its chunks arrive.
#[derive(Debug, Default)]
struct Candidate {
    content: Option<Object>,
    parts: Option<Vec<Object>>,
    others: Object,
}

impl Candidate {
    fn add(&mut self, fragment: Object) -> Option<()> {
        for (name, value) in fragment {
            match (name.as_str(), value) {
                ("content", Value::Object(content)) => self.add_content(content)?,
                // Each chunk has its own rating. Google's accumulator keeps the last one.
                ("safetyRatings", value @ Value::Array(_)) => {
                    self.others.insert(name, value);
                }
                // If several chunks have them, it is unknown whether they are totals.
                ("logprobsResult" | "avgLogprobs" | "tokenCount", value) => {
                    if self.others.insert(name, value).is_some() {
                        return None;
                    }
                }
                ("finishReason", Value::String(reason)) if !is_end(&reason) => {}
                (_, value) => add_field(&mut self.others, name, value)?,
            }
        }
        Some(())
    }

    fn add_content(&mut self, content: Object) -> Option<()> {
        let whole = self.content.get_or_insert_default();
        for (name, value) in content {
            match (name.as_str(), value) {
                ("parts", Value::Array(parts)) => {
                    let whole = self.parts.get_or_insert_default();
                    for part in parts {
                        let Value::Object(part) = part else {
                            return None;
                        };
                        whole.push(part);
                    }
                }
                (_, value) => add_field(whole, name, value)?,
            }
        }
        Some(())
    }

    fn finish(self) -> Option<Value> {
        self.others.get("finishReason").and_then(Value::as_str)?;
        let mut whole = Object::new();
        if let Some(content) = self.content {
            let mut content = content;
            if let Some(parts) = self.parts {
                content.insert("parts".to_owned(), Value::Array(joined(parts)?));
            }
            whole.insert("content".to_owned(), Value::Object(content));
        }
        whole.extend(self.others);
        Some(Value::Object(whole))
    }
}

/// The parts of all chunks as a plain response has them. Consecutive texts become one part, and empty ones are left out. A part
/// with a thought signature stays as it is, because clients send it back.
fn joined(parts: Vec<Object>) -> Option<Vec<Value>> {
    if parts.iter().any(is_call_fragment) || parts.iter().filter(|part| is_audio(part)).nth(1).is_some() {
        return None;
    }
    let mut whole: Vec<Object> = Vec::new();
    let mut empty = None;
    for part in parts {
        let Some(more) = plain_text(&part) else {
            whole.push(part);
            continue;
        };
        if more.is_empty() {
            empty = Some(part);
            continue;
        }
        let last =
            whole.last_mut().filter(|last| plain_text(last).is_some() && last.get("thought") == part.get("thought"));
        match last.and_then(|last| last.get_mut("text")) {
            Some(Value::String(so_far)) => so_far.push_str(more),
            _ => whole.push(part),
        }
    }
    // A response without any text has one empty part.
    whole.extend(empty.filter(|_| whole.is_empty()));
    Some(whole.into_iter().map(Value::Object).collect())
}

/// The text of a part that has no other fields, but for `thought`.
fn plain_text(part: &Object) -> Option<&str> {
    let plain = part.keys().all(|name| matches!(name.as_str(), "text" | "thought"));
    part.get("text").filter(|_| plain)?.as_str()
}

/// A function call in fragments (`streamFunctionCallArguments`).
fn is_call_fragment(part: &Object) -> bool {
    part.get("functionCall").is_some_and(|call| is_set(call, "partialArgs") || is_set(call, "willContinue"))
}

/// Audio: a stream has it in fragments, a part for each.
fn is_audio(part: &Object) -> bool {
    part.get("inlineData").is_some_and(|data| text(data, "mimeType").starts_with("audio/"))
}

/// Adds a field. If it has two values, the one that includes the other counts. `None`: neither does.
fn add_field(whole: &mut Object, name: String, value: Value) -> Option<()> {
    let slot = whole.entry(name).or_insert(Value::Null);
    if covers(&value, slot) {
        *slot = value;
        return Some(());
    }
    covers(slot, &value).then_some(())
}

/// Whether `full` includes all of `part`.
fn covers(full: &Value, part: &Value) -> bool {
    match (full, part) {
        (_, Value::Null) => true,
        (Value::Object(full), Value::Object(part)) => {
            part.iter().all(|(name, part)| full.get(name).is_some_and(|full| covers(full, part)))
        }
        (Value::Array(full), Value::Array(part)) => {
            full.len() >= part.len() && full.iter().zip(part).all(|(full, part)| covers(full, part))
        }
        _ => full == part,
    }
}

/// Object to stream: one chunk, as Google streams a short response.
pub(super) fn to_events(whole: Object) -> Option<Vec<Event>> {
    let chunk = Value::Object(whole);
    let event = Event::data(chunk.to_string());
    // The chunk has to be convertible back.
    accumulated(Box::<Whole>::default(), [Some(chunk)])?;
    Some(vec![event])
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

    fn check(chunks: &Value) -> Result<(), Reason> {
        Protocol::Google.check(&events(chunks))
    }

    fn to_object(chunks: &Value) -> Option<Value> {
        Protocol::Google.to_object(&events(chunks))
    }

    /// A chunk of candidate 0 with these parts and more.
    fn chunk(parts: Value, more: Value) -> Value {
        let mut candidate = json!({"content": {"parts": parts, "role": "model"}});
        candidate.as_object_mut().unwrap().append(more.as_object().cloned().as_mut().unwrap());
        json!({"candidates": [candidate]})
    }

    fn parts(chunks: &[Value]) -> Option<Value> {
        let mut chunks = chunks.to_vec();
        chunks.push(json!({"candidates": [{"finishReason": "STOP"}]}));
        Some(to_object(&Value::Array(chunks))?["candidates"][0]["content"]["parts"].take())
    }

    #[test]
    fn a_stream_is_complete_when_every_candidate_has_ended() {
        let content = |index: u64| json!({"index": index, "content": {"parts": [{"text": "a"}]}});
        let ends = |index: u64| json!({"index": index, "finishReason": "STOP"});
        for (chunks, outcome) in [
            (json!([{"candidates": [content(0)]}, {"candidates": [ends(0)]}]), Ok(())),
            (json!([{"candidates": [content(0), content(1)]}, {"candidates": [ends(0), ends(1)]}]), Ok(())),
            (json!([{"candidates": [content(0), content(1)]}, {"candidates": [ends(0)]}]), Err(Reason::Truncated)),
            // Some servers send a finish reason with every chunk. The last chunk counts.
            (json!([{"candidates": [ends(0)]}, {"candidates": [content(0)]}]), Err(Reason::Truncated)),
            (json!([{"candidates": [ends(0)]}, {"candidates": [content(0)]}, {"candidates": [ends(0)]}]), Ok(())),
            // A chunk without content does not undo the end.
            (
                json!([{"candidates": [ends(0)]}, {"candidates": [{"groundingMetadata": {}}]}, {"usageMetadata": {}}]),
                Ok(()),
            ),
            (json!([{"candidates": [{"finishReason": "FINISH_REASON_UNSPECIFIED"}]}]), Err(Reason::Truncated)),
            (json!([{"candidates": [{"finishReason": "SAFETY"}]}]), Err(Reason::ContentFilter)),
            (json!([{"promptFeedback": {"blockReason": "OTHER"}}]), Err(Reason::ContentFilter)),
            (json!([{"error": {"code": 503}}]), Err(Reason::ErrorBody)),
            (json!([{"usageMetadata": {}}]), Err(Reason::Truncated)),
        ] {
            assert_eq!(check(&chunks), outcome, "{chunks}");
        }
    }

    #[test]
    fn plain_texts_are_joined_and_nothing_else() {
        let text = |text: &str| chunk(json!([{"text": text}]), json!({}));
        let thought = |text: &str| chunk(json!([{"text": text, "thought": true}]), json!({}));
        let call = chunk(json!([{"functionCall": {"name": "f"}, "thoughtSignature": "s"}, {"text": ""}]), json!({}));
        let signed = chunk(json!([{"text": "", "thoughtSignature": "s"}]), json!({}));
        for (chunks, expected) in [
            (vec![text("a"), text(""), text("b")], json!([{"text": "ab"}])),
            (
                vec![thought("a"), thought("b"), text("c"), thought("d")],
                json!([{"text": "ab", "thought": true}, {"text": "c"}, {"text": "d", "thought": true}]),
            ),
            (
                vec![text("a"), call.clone(), call, text("b"), signed],
                json!([
                    {"text": "a"},
                    {"functionCall": {"name": "f"}, "thoughtSignature": "s"},
                    {"functionCall": {"name": "f"}, "thoughtSignature": "s"},
                    {"text": "b"},
                    {"text": "", "thoughtSignature": "s"},
                ]),
            ),
            (vec![text(""), text("")], json!([{"text": ""}])),
        ] {
            assert_eq!(parts(&chunks), Some(expected), "{chunks:?}");
        }
    }

    #[test]
    fn fragments_other_than_text_are_not_merged() {
        let audio = chunk(json!([{"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "AA=="}}]), json!({}));
        assert!(parts(std::slice::from_ref(&audio)).is_some());
        assert_eq!(parts(&[audio.clone(), audio]), None);
        for call in [json!({"name": "f", "willContinue": true}), json!({"partialArgs": [{"jsonPath": "$.a"}]})] {
            assert_eq!(parts(&[chunk(json!([{"functionCall": call}]), json!({}))]), None);
        }
        let logprobs = chunk(json!([]), json!({"logprobsResult": {"chosenCandidates": [{"token": "a"}]}}));
        assert!(parts(std::slice::from_ref(&logprobs)).is_some());
        assert_eq!(parts(&[logprobs.clone(), logprobs]), None);
    }

    #[test]
    fn metadata_counts_in_its_fullest_form() {
        let grounded = |metadata: Value| chunk(json!([{"text": "a"}]), json!({"groundingMetadata": metadata}));
        let merged = |metadata: [Value; 3]| {
            let mut chunks: Vec<Value> = metadata.into_iter().map(grounded).collect();
            chunks.push(json!({"candidates": [{"finishReason": "STOP"}]}));
            Some(to_object(&Value::Array(chunks))?["candidates"][0]["groundingMetadata"].take())
        };
        let full = json!({"chunks": [1, 2], "queries": ["q"]});
        assert_eq!(merged([json!({}), json!({"chunks": [1]}), full.clone()]), Some(full.clone()));
        assert_eq!(merged([full.clone(), json!(null), json!({})]), Some(full));
        assert_eq!(merged([json!({"chunks": [1]}), json!({}), json!({"chunks": [2]})]), None);
    }

    #[test]
    fn two_responses_in_one_stream_are_not_converted() {
        let end = json!({"finishReason": "STOP"});
        assert_eq!(to_object(&json!([{"candidates": [end, end]}])), None);
        assert_eq!(to_object(&json!([{"candidates": [end], "responseId": "a"}, {"responseId": "b"}])), None);
        assert_eq!(to_object(&json!([{"candidates": [{"index": 0.5, "finishReason": "STOP"}]}])), None);
        assert_eq!(to_object(&json!([])), None);
        assert_eq!(Protocol::Google.to_events(json!({"candidates": [{"content": {}}]}), ResponseMode::default()), None);
    }
}
