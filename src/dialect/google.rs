//! Google `streamGenerateContent` (Gemini API reference). Each chunk is a partial `GenerateContentResponse`.

use super::{Mark, is_set, items, text};
use crate::capture::cut_short;
use crate::sse::Event;
use crate::status::Reason;
use serde_json::{Map, Value};

/// What an event says about its stream.
pub(super) fn mark(value: &Value) -> Mark {
    if value.get("promptFeedback").is_some_and(|feedback| is_set(feedback, "blockReason")) {
        return Mark::Fault(Reason::ContentFilter);
    }
    let mut mark = Mark::Progress;
    for candidate in items(value, "candidates") {
        match text(candidate, "finishReason") {
            "" | "FINISH_REASON_UNSPECIFIED" => {}
            reason if cut_short(reason) => return Mark::Fault(Reason::ContentFilter),
            _ => mark = Mark::Terminal,
        }
    }
    mark
}

/// Stream to object.
pub(super) fn to_object(_chunks: Vec<Value>) -> Option<Value> {
    None
}

/// Object to stream.
pub(super) fn to_events(_object: Map<String, Value>) -> Option<Vec<Event>> {
    None
}
