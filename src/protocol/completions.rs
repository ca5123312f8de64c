//! OpenAI's legacy completions (API reference, "Completions"). A chunk is a partial completion.

use super::chat::{Chunks, add_envelope, add_logprobs, add_once};
use super::{Accumulate, ResponseMode, object};
use crate::http::sse::Event;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const KIND: &str = "text_completion";

/// The object of a stream while its chunks arrive.
#[derive(Debug, Default)]
pub(super) struct Whole {
    envelope: Map<String, Value>,
    choices: BTreeMap<u64, Map<String, Value>>,
}

impl Accumulate for Whole {
    fn add(&mut self, chunk: Value) -> Option<()> {
        for (index, choice) in add_envelope(&mut self.envelope, chunk)? {
            let whole = self.choices.entry(index).or_default();
            for (name, value) in choice {
                match (name.as_str(), whole.get_mut(&name), value) {
                    ("text", Some(Value::String(so_far)), Value::String(more)) => so_far.push_str(&more),
                    ("logprobs", slot, value) if slot.is_some() => add_logprobs(slot?, value)?,
                    (_, _, value) => add_once(whole, name, value)?,
                }
            }
        }
        Some(())
    }

    fn finish(mut self: Box<Self>) -> Option<Value> {
        self.envelope.insert("object".to_owned(), KIND.into());
        let aligned = |choice: &Map<String, Value>| {
            let lists = choice.get("logprobs").and_then(Value::as_object).into_iter().flat_map(Map::values);
            let mut lengths = lists.filter_map(Value::as_array).map(Vec::len);
            lengths.next().is_none_or(|first| lengths.all(|length| length == first))
        };
        let finished = |choice: &Map<String, Value>| choice.get("finish_reason").is_some_and(Value::is_string);
        if self.choices.is_empty() || !self.choices.values().all(|choice| finished(choice) && aligned(choice)) {
            return None;
        }
        let choices = self.choices.into_values().map(Value::Object).collect();
        self.envelope.insert("choices".to_owned(), Value::Array(choices));
        Some(Value::Object(self.envelope))
    }
}

/// Object to stream: for each choice its text, then its end.
pub(super) fn to_events(whole: Map<String, Value>, response_mode: ResponseMode) -> Option<Vec<Event>> {
    let (choices, mut chunks) = Chunks::new(whole, KIND, response_mode)?;
    for choice in choices {
        let Value::Object(mut choice) = choice else {
            return None;
        };
        let index = choice.get("index")?.clone();
        let text = choice.insert("text".to_owned(), "".into())?;
        let logprobs = choice.insert("logprobs".to_owned(), Value::Null).unwrap_or_default();
        chunks.push(object([("text", text), ("index", index), ("logprobs", logprobs), ("finish_reason", Value::Null)]));
        chunks.push(Value::Object(choice));
    }
    Some(chunks.finish())
}
