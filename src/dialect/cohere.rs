//! Cohere chat, version 2 (API reference, "Chat with Streaming").

use super::{Mark, text};
use crate::capture::cut_short;
use crate::sse::Event;
use crate::status::Reason;
use serde_json::{Map, Value};

/// What an event says about its stream.
pub(super) fn mark(value: &Value) -> Mark {
    if text(value, "type") != "message-end" {
        return Mark::Progress;
    }
    match value.pointer("/delta/finish_reason").and_then(Value::as_str) {
        Some(reason) if cut_short(reason) => Mark::Fault(Reason::ContentFilter),
        _ if value.pointer("/delta/error").is_some_and(|error| !error.is_null()) => Mark::Fault(Reason::ErrorBody),
        _ => Mark::Terminal,
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
