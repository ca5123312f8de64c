//! Anthropic messages (API reference, "Streaming Messages").

use super::{Mark, text};
use crate::capture::cut_short;
use crate::sse::Event;
use crate::status::Reason;
use serde_json::{Map, Value};

/// What an event says about its stream.
pub(super) fn mark(value: &Value) -> Mark {
    match text(value, "type") {
        "message_stop" => Mark::Terminal,
        "message_delta" if cut_short(value.get("delta").map_or("", |delta| text(delta, "stop_reason"))) => {
            Mark::Fault(Reason::ContentFilter)
        }
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
