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

/// Words of a filter. Each provider has names of its own, so a list of names cannot be complete.
const FILTER_WORDS: [&str; 12] = [
    "filter",
    "safety",
    "sensitive",
    "block",
    "prohibit",
    "violat",
    "moderat",
    "guardrail",
    "censor",
    "flagged",
    "toxic",
    "recitation",
];

/// Words of a failure.
const FAILURE_WORDS: [&str; 12] = [
    "error",
    "fail",
    "cancel",
    "abort",
    "timeout",
    "timed",
    "interrupt",
    "insufficient",
    "malformed",
    "unexpected",
    "overload",
    "disconnect",
];

/// Why a response with this finish reason is not stored. `None`: it may be.
pub(crate) fn reject_finish_reason(finish_reason: &str) -> Option<Reason> {
    let lowercase = finish_reason.to_ascii_lowercase();
    let has_word = |words: &[&str]| words.iter().any(|word| lowercase.contains(word));
    let is_one_of = |names: &[&str]| names.iter().any(|name| finish_reason.eq_ignore_ascii_case(name));
    if is_one_of(&FILTERED) || has_word(&FILTER_WORDS) {
        Some(Reason::ContentFilter)
    } else if is_one_of(&FAILED) || has_word(&FAILURE_WORDS) {
        Some(Reason::NotCompleted)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_failures_are_recognised_by_their_words() {
        for reason in [
            "content_filter",
            "guardrail_intervened",
            "safety_block",
            "policy_violation",
            "moderation",
            "CONTENT_FILTERED",
            "censored",
            "blocked_by_admin",
            "Prohibited",
            "flagged",
            "Refusal",
        ] {
            assert_eq!(reject_finish_reason(reason), Some(Reason::ContentFilter), "{reason}");
        }
        for reason in [
            "error",
            "server_error",
            "failed",
            "cancelled",
            "CANCELED",
            "aborted",
            "timeout",
            "timed_out",
            "interrupted",
            "engine_overloaded",
            "insufficient_quota",
            "malformed_output",
            "client_disconnected",
            "Other",
        ] {
            assert_eq!(reject_finish_reason(reason), Some(Reason::NotCompleted), "{reason}");
        }
    }

    #[test]
    fn other_ends_may_be_stored() {
        for reason in [
            "",
            "stop",
            "length",
            "tool_calls",
            "function_call",
            "end_turn",
            "max_tokens",
            "stop_sequence",
            "tool_use",
            "pause_turn",
            "COMPLETE",
            "MAX_TOKENS",
            "STOP",
            "STOP_SEQUENCE",
            "TOOL_CALL",
            "eos_token",
            "eos",
            "model_length",
            "completed",
            "model_context_window_exceeded",
            "normal",
            "finished",
        ] {
            assert_eq!(reject_finish_reason(reason), None, "{reason}");
        }
    }
}
