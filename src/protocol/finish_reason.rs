//! Finish reasons that forbid storing a response.

use crate::status::Reason;

/// A filter ended the response: OpenAI, Bedrock, Anthropic, Google, Cohere.
const FILTERED: [&str; 14] = [
    "sensitive",
    "content_filter",
    "content_filtered",
    "refusal",
    "SAFETY",
    "IMAGE_SAFETY",
    "RECITATION",
    "IMAGE_RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "IMAGE_PROHIBITED_CONTENT",
    "SPII",
    "LANGUAGE",
    "ERROR_TOXIC",
];

/// The response failed: Mistral, OpenRouter, Google, Cohere.
const FAILED: [&str; 19] = [
    "abort",
    "aborted",
    "network_error",
    "insufficient_system_resource",
    // Ollama's, for requests that only load or unload a model.
    "load",
    "unload",
    "error",
    "ERROR",
    "ERROR_LIMIT",
    "TIMEOUT",
    "USER_CANCEL",
    "OTHER",
    "IMAGE_OTHER",
    "NO_IMAGE",
    "MALFORMED_FUNCTION_CALL",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MALFORMED_RESPONSE",
    "MISSING_THOUGHT_SIGNATURE",
];

/// Why a response with this finish reason is not stored. `None`: it may be.
pub(crate) fn reject_finish_reason(finish_reason: &str) -> Option<Reason> {
    if FILTERED.contains(&finish_reason) {
        Some(Reason::ContentFilter)
    } else if FAILED.contains(&finish_reason) {
        Some(Reason::NotCompleted)
    } else {
        None
    }
}
