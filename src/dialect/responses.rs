//! OpenAI responses (API reference, "Streaming events"). The terminal event carries the whole object.

use super::{Mark, text};
use crate::sse::Event;
use crate::status::Reason;
use serde_json::{Map, Value};

/// What an event says about its stream.
pub(super) fn mark(value: &Value) -> Mark {
    match text(value, "type") {
        "response.completed" if value.pointer("/response/status") == Some(&Value::from("completed")) => Mark::Terminal,
        "response.completed" | "response.incomplete" | "response.cancelled" => Mark::Fault(Reason::NotCompleted),
        "response.failed" | "error" => Mark::Fault(Reason::ErrorBody),
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
