//! OpenAI chat completions (API reference, "Chat completion chunk object") and compatible APIs.

use super::finish_reason::reject_finish_reason;
use super::open_parts::OpenParts;
use super::{Accumulate, EventKind, ResponseMode, is_set, items, object, parse, text};
use crate::http::sse::Event;
use crate::json::{JsonCursor, TextEdits};
use crate::status::Reason;
use serde::de::IgnoredAny;
use serde_json::map::Entry;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

type Object = Map<String, Value>;

/// The kind of a chunk. `[DONE]` ends its stream.
pub(super) fn event_kind(value: &Value) -> EventKind {
    for choice in items(value, "choices") {
        if is_set(choice, "error") {
            return EventKind::Error(Reason::ErrorBody);
        }
        if let Some(reason) = reject_finish_reason(text(choice, "finish_reason")) {
            return EventKind::Error(reason);
        }
    }
    EventKind::Delta
}

/// Whether a chunk carries usage and nothing else.
pub(super) fn is_usage(value: &Value) -> bool {
    let has_choices = value.get("choices").is_some_and(|choices| !choices.is_null() && choices != &json!([]));
    is_set(value, "usage") && !has_choices
}

/// Removes the usage from a stream, chunk by chunk, for a client that did not request it.
#[derive(Debug)]
pub struct UsageRemover {
    /// An object of the last values of the fields around the choices.
    seen: Value,
}

impl Default for UsageRemover {
    fn default() -> UsageRemover {
        UsageRemover { seen: Value::Object(Object::new()) }
    }
}

/// An event without its usage.
#[derive(Debug, PartialEq, Eq)]
pub enum WithoutUsage {
    /// All of it: it has none.
    Unchanged,
    /// Nothing.
    Nothing,
    /// This data.
    Data(Vec<u8>),
}

impl UsageRemover {
    /// Reads the next event. A usage chunk keeps fields that no chunk before it has had, such as citations.
    pub fn remove(&mut self, data: &str) -> WithoutUsage {
        let Some(chunk) = parse(data).filter(Value::is_object) else { return WithoutUsage::Unchanged };
        if is_usage(&chunk) {
            if is_repeated_but_for_usage(&chunk, std::slice::from_ref(&self.seen)) {
                return WithoutUsage::Nothing;
            }
            let mut edits = TextEdits::default();
            for member in JsonCursor::root(data).members().filter(|member| member.key.eq_str("usage")) {
                edits.replace(member.value.range(), b"null".to_vec());
            }
            return WithoutUsage::Data(edits.apply(data));
        }
        if let (Value::Object(seen), Value::Object(chunk)) = (&mut self.seen, chunk) {
            seen.extend(chunk.into_iter().filter(|(name, _)| name != "choices"));
        }
        WithoutUsage::Unchanged
    }
}

/// Whether a usage chunk has nothing else that is not in another chunk too.
pub(super) fn is_repeated_but_for_usage(usage: &Value, others: &[Value]) -> bool {
    let is_repeated = |(name, value): (&String, &Value)| {
        matches!(name.as_str(), "choices" | "usage" | "created")
            || CHUNK_ONLY.contains(&name.as_str())
            || value.is_null()
            || others.iter().any(|other| other.get(name) == Some(value))
    };
    usage.as_object().is_some_and(|members| members.iter().all(is_repeated))
}

/// Whether a chunk has choices or usage, or is a typed event that is not an error.
pub(super) fn is_progress(value: &Value) -> bool {
    const OF_ERRORS: [&str; 6] = ["code", "detail", "errors", "message", "msg", "status"];
    let is_typed = !text(value, "type").is_empty() && !OF_ERRORS.iter().any(|name| is_set(value, name));
    value.get("choices").is_some_and(Value::is_array) || is_set(value, "usage") || is_typed
}

/// Whether a choice of a chunk has more in it than a role.
fn has_content(choice: &Value) -> bool {
    let is_content = |(name, value): (&String, &Value)| name != "role" && !value.is_null() && value != "";
    let delta = choice.get("delta").and_then(Value::as_object);
    !text(choice, "text").is_empty() || delta.is_some_and(|delta| delta.iter().any(is_content))
}

/// Whether a chunk has a choice with content or an end.
pub(super) fn has_output(value: &Value) -> bool {
    items(value, "choices").any(|choice| !text(choice, "finish_reason").is_empty() || has_content(choice))
}

/// Records the choices in a chunk. A choice that had ended is open again if more content comes.
pub(super) fn track(value: &Value, parts: &mut OpenParts) {
    for choice in items(value, "choices") {
        let index = choice.get("index").map_or(Some(0), Value::as_u64);
        parts.update("choice", index, has_content(choice), !text(choice, "finish_reason").is_empty());
    }
}

/// Fields of a chunk that the object does not have. `p` is Mistral's padding.
const CHUNK_ONLY: [&str; 3] = ["obfuscation", "object", "p"];

/// Fields that may change from chunk to chunk. The object has the last value.
const CHANGING: [&str; 9] = [
    "created",
    "usage",
    "service_tier",
    "system_fingerprint",
    "x_groq",
    "finish_reason",
    "native_finish_reason",
    "stop_reason",
    "content_filter_results",
];

/// Adds a field that the object has once. `None`: its value has changed.
pub(super) fn add_once(whole: &mut Object, name: String, value: Value) -> Option<()> {
    match whole.entry(name) {
        Entry::Vacant(slot) => {
            slot.insert(value);
        }
        Entry::Occupied(mut slot) => {
            let changes = CHANGING.contains(&slot.key().as_str());
            let nothing_yet = slot.get().is_null() || slot.get() == "";
            match value {
                Value::Null => {}
                Value::String(text) if text.is_empty() => {}
                value if changes || nothing_yet => *slot.get_mut() = value,
                value if *slot.get() == value => {}
                _ => return None,
            }
        }
    }
    Some(())
}

/// Adds the fields around the choices of a chunk. Gives its choices, each with its index. `None`: the chunk is not one of the
/// same response.
pub(super) fn add_envelope(whole: &mut Object, chunk: Value) -> Option<Vec<(u64, Object)>> {
    let Value::Object(chunk) = chunk else {
        return None;
    };
    let mut choices = None;
    for (name, value) in chunk {
        match value {
            Value::Array(list) if name == "choices" => choices = Some(list),
            value if !CHUNK_ONLY.contains(&name.as_str()) => add_once(whole, name, value)?,
            _ => {}
        }
    }
    let choice = |choice: Value| match choice {
        Value::Object(choice) => Some((choice.get("index")?.as_u64()?, choice)),
        _ => None,
    };
    choices?.into_iter().map(choice).collect()
}

/// The object of a stream while its chunks arrive.
#[derive(Debug, Default)]
pub(super) struct Whole {
    envelope: Object,
    choices: BTreeMap<u64, Choice>,
}

impl Accumulate for Whole {
    fn add(&mut self, chunk: Value) -> Option<()> {
        for (index, choice) in add_envelope(&mut self.envelope, chunk)? {
            self.choices.entry(index).or_default().add(choice)?;
        }
        Some(())
    }

    fn finish(mut self: Box<Self>) -> Option<Value> {
        self.envelope.insert("object".to_owned(), "chat.completion".into());
        let choices: Option<Vec<Value>> =
            self.choices.into_iter().map(|(index, choice)| choice.finish(index)).collect();
        self.envelope.insert("choices".to_owned(), Value::Array(choices.filter(|choices| !choices.is_empty())?));
        Some(Value::Object(self.envelope))
    }
}

/// A choice while its chunks arrive.
#[derive(Debug, Default)]
struct Choice {
    message: Object,
    tool_calls: BTreeMap<u64, Object>,
    logprobs: Value,
    /// The other fields beside the delta. The last value counts.
    others: Object,
}

impl Choice {
    /// Adds a chunk's choice. `None`: a part of it cannot be merged.
    fn add(&mut self, mut choice: Object) -> Option<()> {
        choice.remove("index");
        // Together sends the text twice.
        let content = choice.get("delta").map_or("", |delta| text(delta, "content"));
        if choice.get("text").is_some_and(|text| text == content) {
            choice.shift_remove("text");
        }
        match choice.remove("delta") {
            None | Some(Value::Null) => {}
            Some(Value::Object(delta)) => self.add_delta(delta)?,
            Some(_) => return None,
        }
        add_logprobs(&mut self.logprobs, choice.remove("logprobs").unwrap_or_default())?;
        for (name, value) in choice {
            // A response of another kind beside the deltas.
            if matches!(name.as_str(), "message" | "text") {
                return None;
            }
            add_once(&mut self.others, name, value)?;
        }
        Some(())
    }

    fn add_delta(&mut self, delta: Object) -> Option<()> {
        for (name, value) in delta {
            match name.as_str() {
                // Together numbers its fragments.
                "token_id" => {}
                "tool_calls" if value.is_null() => {}
                "tool_calls" => {
                    self.message.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                    let Value::Array(calls) = value else {
                        return None;
                    };
                    for call in calls {
                        self.add_tool_call(call)?;
                    }
                }
                "function_call" | "audio" => add_parts(&mut self.message, name, value)?,
                _ => add_field(&mut self.message, name, value)?,
            }
        }
        Some(())
    }

    fn add_tool_call(&mut self, call: Value) -> Option<()> {
        let Value::Object(mut call) = call else {
            return None;
        };
        // Without an index, the call of a fragment is unknown.
        let index = call.remove("index")?.as_u64()?;
        let whole = self.tool_calls.entry(index).or_default();
        for (name, value) in call {
            match name.as_str() {
                "function" | "custom" => add_parts(whole, name, value)?,
                _ => add_field(whole, name, value)?,
            }
        }
        Some(())
    }

    fn finish(mut self, index: u64) -> Option<Value> {
        text_of(&self.others, "finish_reason").filter(|reason| !reason.is_empty())?;
        if let Some(calls) = self.message.get_mut("tool_calls") {
            for call in self.tool_calls.values() {
                let named =
                    ["function", "custom"].iter().any(|part| call.get(*part).is_some_and(|p| is_set(p, "name")));
                // The arguments of two calls under one index would be joined.
                let arguments = call.get("function").map_or("", |function| text(function, "arguments"));
                let one = arguments.is_empty() || serde_json::from_str::<IgnoredAny>(arguments).is_ok();
                if !named || !one {
                    return None;
                }
            }
            *calls = Value::Array(self.tool_calls.into_values().map(Value::Object).collect());
        }
        let mut message = Object::new();
        message.insert("role".to_owned(), "assistant".into());
        message.insert("content".to_owned(), Value::Null);
        message.insert("refusal".to_owned(), Value::Null);
        message.extend(self.message);
        let mut choice = Object::new();
        choice.insert("index".to_owned(), index.into());
        choice.insert("message".to_owned(), Value::Object(message));
        choice.insert("logprobs".to_owned(), self.logprobs);
        choice.extend(self.others);
        Some(Value::Object(choice))
    }
}

fn text_of<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

/// The fields in which providers send the reasoning.
const REASONING: [&str; 4] = ["reasoning_content", "reasoning", "reasoning_details", "thinking"];

/// Fields whose text arrives in fragments.
const FRAGMENTED: [&str; 9] =
    ["content", "refusal", "reasoning_content", "reasoning", "thinking", "arguments", "input", "data", "transcript"];

/// Adds a field. Fragments are joined; any other field has one value.
fn add_field(whole: &mut Object, name: String, value: Value) -> Option<()> {
    match whole.entry(name) {
        Entry::Vacant(slot) => {
            slot.insert(value);
        }
        Entry::Occupied(mut slot) => match (FRAGMENTED.contains(&slot.key().as_str()), slot.get_mut(), value) {
            (_, _, Value::Null) => {}
            (_, slot @ Value::Null, value) => *slot = value,
            (true, Value::String(so_far), Value::String(more)) => so_far.push_str(&more),
            (false, Value::String(so_far), value @ Value::String(_)) if so_far.is_empty() => *slot.get_mut() = value,
            (false, Value::String(_), Value::String(more)) if more.is_empty() => {}
            // Two equal lists may be two parts of one.
            (false, so_far, value) if *so_far == value && !value.is_array() => {}
            (false, so_far, Value::Array(more)) if more.is_empty() && so_far.is_array() => {}
            (false, Value::Array(so_far), value @ Value::Array(_)) if so_far.is_empty() => *slot.get_mut() = value,
            _ => return None,
        },
    }
    Some(())
}

/// Adds the fields of an object.
fn add_parts(whole: &mut Object, name: String, parts: Value) -> Option<()> {
    let slot = whole.entry(name).or_insert(Value::Null);
    match (slot, parts) {
        (_, Value::Null) => Some(()),
        (slot @ Value::Null, parts @ Value::Object(_)) => {
            *slot = parts;
            Some(())
        }
        (Value::Object(whole), Value::Object(parts)) => {
            parts.into_iter().try_for_each(|(name, value)| add_field(whole, name, value))
        }
        _ => None,
    }
}

/// Adds log probabilities, an object of arrays.
pub(super) fn add_logprobs(whole: &mut Value, more: Value) -> Option<()> {
    match (whole, more) {
        (_, Value::Null) => {}
        (whole @ Value::Null, more) => *whole = more,
        (Value::Object(whole), Value::Object(more)) => {
            for (name, value) in more {
                match (whole.entry(name).or_insert(Value::Null), value) {
                    (_, Value::Null) => {}
                    (slot @ Value::Null, value) => *slot = value,
                    (Value::Array(items), Value::Array(more)) => items.extend(more),
                    _ => return None,
                }
            }
        }
        _ => return None,
    }
    Some(())
}

/// Makes the chunks of a stream. They have the fields around the choices in common.
pub(super) struct Chunks {
    shared: Object,
    /// Fields of the first chunk alone.
    first: Object,
    usage: Value,
    response_mode: ResponseMode,
    events: Vec<Event>,
}

impl Chunks {
    /// Takes the object apart into its choices and the fields around them. `None`: the client wants usage and there is none.
    pub(super) fn new(mut whole: Object, kind: &str, response_mode: ResponseMode) -> Option<(Vec<Value>, Chunks)> {
        let Value::Array(choices) = whole.remove("choices")? else {
            return None;
        };
        // Each choice has to end, and to have its own index.
        let ended = |choice: &Value| !text(choice, "finish_reason").is_empty();
        let mut indexes = BTreeSet::new();
        let indexed =
            |choice: &Value| choice.get("index").and_then(Value::as_u64).is_some_and(|index| indexes.insert(index));
        if choices.is_empty() || !choices.iter().all(ended) || !choices.iter().all(indexed) {
            return None;
        }
        let usage = whole.remove("usage").unwrap_or_default();
        if response_mode.include_usage && usage.is_null() {
            return None;
        }
        let mut shared = Object::new();
        for name in ["id", "object", "created", "model", "service_tier", "system_fingerprint"] {
            if let Some(value) = whole.shift_remove(name) {
                shared.insert(name.to_owned(), value);
            }
        }
        shared.insert("object".to_owned(), kind.into());
        Some((choices, Chunks { shared, first: whole, usage, response_mode, events: Vec::new() }))
    }

    /// Adds a chunk with one choice.
    pub(super) fn push(&mut self, choice: Value) {
        let usage = self.response_mode.include_usage.then_some(Value::Null);
        self.chunk(Value::Array(vec![choice]), usage);
    }

    /// Adds the usage chunk, if the client wants it, and the end.
    pub(super) fn finish(mut self) -> Vec<Event> {
        if self.response_mode.include_usage {
            let usage = self.usage.take();
            self.chunk(Value::Array(Vec::new()), Some(usage));
        }
        self.events.push(Event::data("[DONE]"));
        self.events
    }

    fn chunk(&mut self, choices: Value, usage: Option<Value>) {
        let mut chunk = self.shared.clone();
        chunk.append(&mut self.first);
        chunk.insert("choices".to_owned(), choices);
        chunk.extend(usage.map(|usage| ("usage".to_owned(), usage)));
        self.events.push(Event::data(Value::Object(chunk).to_string()));
    }
}

/// Object to stream: for each choice its role, the parts of its message, and its end.
pub(super) fn to_events(whole: Object, response_mode: ResponseMode) -> Option<Vec<Event>> {
    let (choices, mut chunks) = Chunks::new(whole, "chat.completion.chunk", response_mode)?;
    for choice in choices {
        let Value::Object(mut choice) = choice else {
            return None;
        };
        let index = choice.remove("index")?;
        let Value::Object(mut message) = choice.shift_remove("message")? else {
            return None;
        };
        let mut logprobs = choice.shift_remove("logprobs").unwrap_or_default();
        let finish_reason = choice.shift_remove("finish_reason").unwrap_or_default();
        let mut delta = |delta: Value, logprobs: Value| {
            let choice =
                [("index", index.clone()), ("delta", delta), ("logprobs", logprobs), ("finish_reason", Value::Null)];
            chunks.push(object(choice));
        };
        // The first delta has the role, and each text as empty (more follows) or `null`.
        let mut opening = object([("role", message.shift_remove("role").unwrap_or_else(|| "assistant".into()))]);
        for name in ["content", "refusal"] {
            if let (Some(value), Some(opening)) = (message.get(name), opening.as_object_mut()) {
                let initial = if value.is_string() { "".into() } else { Value::Null };
                opening.insert(name.to_owned(), initial);
            }
        }
        delta(opening, Value::Null);
        // Reasoning precedes the text.
        let mut parts: Object = REASONING.iter().filter_map(|name| message.shift_remove_entry(*name)).collect();
        parts.append(&mut message);
        for (name, value) in parts {
            let value = match (name.as_str(), value) {
                (_, Value::Null) => continue,
                // No provider streams content in parts.
                ("content", value) if !value.is_string() => return None,
                ("tool_calls", Value::Array(calls)) => Value::Array(indexed(calls)?),
                (_, value) => value,
            };
            let probabilities =
                if matches!(name.as_str(), "content" | "refusal") { logprobs.take() } else { Value::Null };
            delta(object([(&name, value)]), probabilities);
        }
        if !logprobs.is_null() {
            delta(json!({}), logprobs);
        }
        let mut end = Object::new();
        end.insert("index".to_owned(), index);
        end.insert("delta".to_owned(), json!({}));
        end.insert("logprobs".to_owned(), Value::Null);
        end.insert("finish_reason".to_owned(), finish_reason);
        end.append(&mut choice);
        chunks.push(Value::Object(end));
    }
    Some(chunks.finish())
}

/// Tool calls as in a delta, each with its index.
fn indexed(calls: Vec<Value>) -> Option<Vec<Value>> {
    calls
        .into_iter()
        .enumerate()
        .map(|(index, call)| {
            let Value::Object(call) = call else {
                return None;
            };
            let mut fragment = Object::new();
            fragment.insert("index".to_owned(), index.into());
            fragment.extend(call.into_iter().filter(|(name, _)| name != "index"));
            Some(Value::Object(fragment))
        })
        .collect()
}
