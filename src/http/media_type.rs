//! Media types (RFC 9110, section 8.3).

use http::HeaderMap;

/// The media type without parameters, in lower case; empty without a `Content-Type`.
pub fn essence(headers: &HeaderMap) -> String {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// Whether a media type's essence is that of a stream of events.
pub fn is_event_stream(essence: &str) -> bool {
    matches!(essence, "text/event-stream" | "application/x-ndjson")
}

/// Whether a media type is JSON: `application/json` or `*/*+json`.
pub fn is_json(essence: &str) -> bool {
    let structured = |(kind, subtype): (&str, &str)| !kind.is_empty() && subtype.ends_with("+json");
    essence == "application/json" || essence.split_once('/').is_some_and(structured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_media_types() {
        for yes in ["application/json", "application/problem+json", "text/x+json"] {
            assert!(is_json(yes), "{yes}");
        }
        for no in ["", "application/jsonl", "application/x-ndjson", "+json", "text/json-seq", "multipart/form-data"] {
            assert!(!is_json(no), "{no}");
        }
    }
}
