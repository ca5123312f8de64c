//! Ollama chat and generate (its API documentation): one JSON object a line, the last with `"done": true`.

use super::Mark;
use crate::sse::Event;
use serde_json::{Map, Value};

/// What a line says about its stream.
pub(super) fn mark(value: &Value) -> Mark {
    match value.get("done") {
        Some(Value::Bool(true)) => Mark::Terminal,
        _ => Mark::Progress,
    }
}

/// Stream to object.
pub(super) fn to_object(_chunks: Vec<Value>) -> Option<Value> {
    None
}

/// Object to stream.
pub(super) fn to_events(_object: Map<String, Value>) -> Option<Vec<Event>> {
    None
}
