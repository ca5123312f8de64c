//! Is this answer whole, valid, and worth keeping?

use crate::cache::entry::{Entry, EntryHead};
use crate::cache::stored_headers;
use crate::http::fields;
use crate::http::media_type;
use crate::json::canonical::Document;
use crate::key::CacheKey;
use crate::protocol::finish_reason::reject_finish_reason;
use crate::protocol::{Protocol, ResponseMode};
use crate::routing::endpoint::Endpoint;
use crate::status::Reason;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;

/// An answer on its way into the store: opened on its head, fed its body, and an [`Entry`] only once it is complete.
#[derive(Debug)]
pub struct Capture {
    key: CacheKey,
    endpoint: Endpoint,
    status: u16,
    headers: Vec<(String, String)>,
    essence: String,
    /// The grammar of a stream; `None`: the answer is plain.
    stream: Option<Protocol>,
    requested_mode: ResponseMode,
    /// What `Content-Length` promises of the bytes that we see.
    expected_len: Option<usize>,
    max_bytes: usize,
    lifetime_ms: Option<u64>,
    body: Vec<u8>,
}

/// What a capture needs to know besides the answer.
#[derive(Debug, Clone, Copy)]
pub struct CaptureOptions {
    /// The cache key.
    pub key: CacheKey,
    /// What was asked.
    pub endpoint: Endpoint,
    /// How the answer was wanted.
    pub response_mode: ResponseMode,
    /// The largest body kept, in bytes.
    pub max_bytes: usize,
    /// Milliseconds to expiry; `None`: never.
    pub lifetime_ms: Option<u64>,
    /// Whether others than the asker will read the entry.
    pub shared: bool,
}

impl Capture {
    /// Begins with the upstream's status and headers.
    ///
    /// # Errors
    /// Why the answer is not kept, where its head tells already.
    pub fn open(capture_options: CaptureOptions, status: StatusCode, response: &HeaderMap) -> Result<Capture, Reason> {
        // 202: the answer is still to come; 204, 205: there is none; 206: it is a part.
        if !status.is_success() || matches!(status.as_u16(), 202 | 204..=206) {
            return Err(Reason::Status);
        }
        let essence = media_type::essence(response);
        let stream = Protocol::of(capture_options.endpoint)
            .filter(|protocol| protocol.is_stream(&essence, capture_options.response_mode.stream));
        // A stream in no grammar that we know has no end that we could recognise.
        if stream.is_none() && media_type::is_event_stream(&essence) {
            return Err(Reason::Stream);
        }
        let length = fields::content_length(response);
        if length.is_some_and(|length| length > capture_options.max_bytes) {
            return Err(Reason::TooLarge);
        }
        let coding = fields::joined_lowercase(response, http::header::CONTENT_ENCODING);
        let coded = !matches!(coding.as_str(), "" | "identity");
        // The platform decodes these two alone; of others we would store the coded bytes.
        if coded && !matches!(coding.as_str(), "gzip" | "br") {
            return Err(Reason::ContentEncoding);
        }
        let kept = fields::collect(response, &|name| stored_headers::is_stored(name, capture_options.shared));
        Ok(Capture {
            key: capture_options.key,
            endpoint: capture_options.endpoint,
            status: status.as_u16(),
            headers: kept
                .into_iter()
                .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
                .collect(),
            essence,
            stream,
            requested_mode: capture_options.response_mode,
            expected_len: length.filter(|_| !coded),
            max_bytes: capture_options.max_bytes,
            lifetime_ms: capture_options.lifetime_ms,
            body: Vec::new(),
        })
    }

    /// Takes the next piece of the body, as decoded from any content coding.
    ///
    /// # Errors
    /// [`Reason::TooLarge`]: the answer is not kept and the capture is over.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Reason> {
        if self.body.len().saturating_add(piece.len()) > self.max_bytes {
            return Err(Reason::TooLarge);
        }
        self.body.extend_from_slice(piece);
        Ok(())
    }

    /// The body ended without an error. `now`: milliseconds since 1970.
    ///
    /// # Errors
    /// Why the answer is not kept.
    pub fn finish(self, now: u64) -> Result<Entry, Reason> {
        if self.expected_len.is_some_and(|len| len != self.body.len()) {
            return Err(Reason::Truncated);
        }
        let has_usage = match self.stream {
            Some(protocol) => {
                let events = protocol.events(&self.body)?;
                protocol.check(&events)?;
                protocol.has_usage(&events)
            }
            None => {
                self.check_body()?;
                false
            }
        };
        Ok(Entry {
            head: EntryHead {
                key: self.key,
                valid_until: None,
                status: self.status,
                headers: self.headers,
                stored_at: now,
                expires_at: self.lifetime_ms.map(|ms| now.saturating_add(ms)),
                stream: self.stream.is_some(),
                requested_mode: self.requested_mode,
                has_usage,
            },
            body: self.body,
        })
    }

    fn check_body(&self) -> Result<(), Reason> {
        if self.body.is_empty() {
            return Err(Reason::ResponseEmpty);
        }
        if self.endpoint.responds_with_json() || media_type::is_json(&self.essence) {
            return check_json(self.endpoint, &self.body);
        }
        // A page where sound was asked for is somebody's error, whatever its status.
        let page = self.endpoint == Endpoint::Speech && self.essence.starts_with("text/");
        if page { Err(Reason::ResponseType) } else { Ok(()) }
    }
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default, alias = "finishReason")]
    finish_reason: Value,
    #[serde(default)]
    error: Value,
}

/// Whether a JSON body is an answer.
fn check_json(endpoint: Endpoint, body: &[u8]) -> Result<(), Reason> {
    let document = Document::parse(body).map_err(|_| Reason::ResponseNotJson)?;
    if !document.is_object() && body.trim_ascii_start().first() != Some(&b'[') {
        return Err(Reason::ResponseNotJson);
    }
    let says = |field: &str, value: &str| document.fields(field).all(|found| found == value);
    if !says("error", "null") {
        return Err(Reason::ErrorBody);
    }
    let is_response = endpoint == Endpoint::Responses || document.fields("object").any(|found| found == "\"response\"");
    let completed = document.fields("status").next().is_some() && says("status", "\"completed\"");
    if is_response && !completed {
        return Err(Reason::NotCompleted);
    }
    // Anthropic's, vLLM's and Cloudflare's errors, should they come with a good status.
    let failed = |field: &str, value: &str| document.fields(field).any(|found| found == value);
    if failed("type", "\"error\"") || failed("object", "\"error\"") || failed("success", "false") {
        return Err(Reason::ErrorBody);
    }
    if endpoint == Endpoint::Ollama && !says("done", "true") {
        return Err(Reason::NotCompleted);
    }
    for choices in ["choices", "candidates"].iter().flat_map(|name| document.fields(name)) {
        let choices: Vec<Choice> = serde_json::from_str(choices).map_err(|_| Reason::NotCompleted)?;
        for choice in choices {
            if !choice.error.is_null() {
                return Err(Reason::ErrorBody);
            }
            if let Some(reason) = choice.finish_reason.as_str().and_then(reject_finish_reason) {
                return Err(reason);
            }
        }
    }
    let blocked = |feedback: &str| {
        let feedback = serde_json::from_str::<Value>(feedback);
        feedback.is_ok_and(|feedback| feedback.get("blockReason").is_some())
    };
    let ends = ["stop_reason", "finish_reason", "done_reason"].iter().flat_map(|name| document.fields(name));
    if let Some(reason) = ends.filter_map(|end| reject_finish_reason(end.trim_matches('"'))).next() {
        return Err(reason);
    }
    if document.fields("promptFeedback").any(blocked) {
        return Err(Reason::ContentFilter);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn capture_options(endpoint: Endpoint) -> CaptureOptions {
        CaptureOptions {
            key: CacheKey::from_hex(&"0".repeat(64)).unwrap(),
            endpoint,
            response_mode: ResponseMode::default(),
            max_bytes: 1000,
            lifetime_ms: Some(5),
            shared: false,
        }
    }

    fn capture(endpoint: Endpoint, kind: &'static str, body: &[u8]) -> Result<Entry, Reason> {
        let head = headers(&[("content-type", kind), ("x-request-id", "r"), ("set-cookie", "s")]);
        let mut capture = Capture::open(capture_options(endpoint), StatusCode::OK, &head)?;
        for piece in body.chunks(3) {
            capture.push(piece)?;
        }
        capture.finish(10)
    }

    #[test]
    fn a_good_answer_becomes_an_entry() {
        let entry = capture(Endpoint::ChatCompletions, "application/json", b"{\"a\":1}").unwrap();
        assert_eq!(entry.body, b"{\"a\":1}");
        assert_eq!(
            entry.head.headers,
            [("content-type".into(), "application/json".into()), ("x-request-id".into(), "r".into())]
        );
        assert_eq!((entry.head.stored_at, entry.head.expires_at), (10, Some(15)));
    }

    #[test]
    fn what_is_no_answer_is_not_kept() {
        use Endpoint::*;
        for (endpoint, body, reason) in [
            (ChatCompletions, "", Reason::ResponseEmpty),
            (ChatCompletions, "{\"a\":", Reason::ResponseNotJson),
            (ChatCompletions, "<html>", Reason::ResponseNotJson),
            (ChatCompletions, "\"x\"", Reason::ResponseNotJson),
            (ChatCompletions, r#"{"error":{"message":"m"}}"#, Reason::ErrorBody),
            (ChatCompletions, r#"{"error":"m"}"#, Reason::ErrorBody),
            (ChatCompletions, r#"{"error":null,"error":1}"#, Reason::ErrorBody),
            (
                ChatCompletions,
                r#"{"choices":[{"finish_reason":"stop"},{"finish_reason":"content_filter"}]}"#,
                Reason::ContentFilter,
            ),
            (ChatCompletions, r#"{"choices":[{"error":{"code":1}}]}"#, Reason::ErrorBody),
            (ChatCompletions, r#"{"choices":7}"#, Reason::NotCompleted),
            (Responses, r#"{"status":"incomplete"}"#, Reason::NotCompleted),
            (Responses, r#"{}"#, Reason::NotCompleted),
            (Ollama, r#"{"done":false}"#, Reason::NotCompleted),
            (GenerateContent, r#"{"candidates":[{"finishReason":"SAFETY"}]}"#, Reason::ContentFilter),
            (GenerateContent, r#"{"promptFeedback":{"blockReason":"OTHER"}}"#, Reason::ContentFilter),
            (Messages, r#"{"stop_reason":"refusal"}"#, Reason::ContentFilter),
        ] {
            assert_eq!(capture(endpoint, "application/json", body.as_bytes()), Err(reason), "{body}");
        }
    }

    #[test]
    fn answers_with_unusual_but_sound_fields_are_kept() {
        use Endpoint::*;
        for (endpoint, body) in [
            (Responses, r#"{"status":"completed","error":null}"#),
            (ChatCompletions, r#"{"choices":[{"finish_reason":null,"error":null}]}"#),
            (Compute, "[[0.1]]"),
            (Ollama, r#"{"done":true}"#),
        ] {
            assert!(capture(endpoint, "text/plain", body.as_bytes()).is_ok(), "{body}");
        }
        assert!(capture(Speech, "audio/mpeg", &[0, 1, 2]).is_ok());
        assert!(capture(Custom, "text/plain", b"x").is_ok());
        assert_eq!(capture(Speech, "text/html", b"x"), Err(Reason::ResponseType));
        assert_eq!(capture(Custom, "application/json", b"{"), Err(Reason::ResponseNotJson));
    }

    #[test]
    fn the_head_decides_early() {
        let open = |status: u16, pairs: &[(&'static str, &'static str)]| {
            let status = StatusCode::from_u16(status).unwrap();
            Capture::open(capture_options(Endpoint::Compute), status, &headers(pairs)).err()
        };
        for status in [202, 204, 206, 301, 304, 400, 401, 429, 500, 529] {
            assert_eq!(open(status, &[]), Some(Reason::Status), "{status}");
        }
        assert_eq!(open(200, &[("content-type", "text/event-stream; charset=utf-8")]), Some(Reason::Stream));
        assert_eq!(open(200, &[("content-length", "1001")]), Some(Reason::TooLarge));
        assert_eq!(open(200, &[("content-length", "1000")]), None);
    }

    #[test]
    fn a_body_shorter_than_promised_is_truncated() {
        let finish = |pairs: &[(&'static str, &'static str)]| {
            let mut capture =
                Capture::open(capture_options(Endpoint::Speech), StatusCode::OK, &headers(pairs)).unwrap();
            capture.push(b"1234").unwrap();
            capture.finish(0).err()
        };
        assert_eq!(finish(&[("content-length", "5")]), Some(Reason::Truncated));
        assert_eq!(finish(&[("content-length", "4")]), None);
        assert_eq!(finish(&[("content-length", "3"), ("content-encoding", "gzip")]), None);
    }

    #[test]
    fn the_limit_holds_without_a_content_length() {
        let mut capture = Capture::open(capture_options(Endpoint::Speech), StatusCode::OK, &headers(&[])).unwrap();
        assert_eq!(capture.push(&[0; 1000]), Ok(()));
        assert_eq!(capture.push(&[0; 1]), Err(Reason::TooLarge));
    }
}
