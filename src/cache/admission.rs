//! May a response be stored?

use crate::cache::entry::{Entry, EntryHead};
use crate::cache::{expiry, stored_headers};
use crate::http::fields;
use crate::http::media_type;
use crate::http::sse::Event;
use crate::json::JsonCursor;
use crate::json::canonical::Document;
use crate::key::CacheKey;
use crate::key::headers::{is_credential, is_keyed};
use crate::protocol::answer::{Answer, AnswerRules};
use crate::protocol::error_body::{is_job, is_only_explanation, reports_error};
use crate::protocol::finish_reason::reject_finish_reason;
use crate::protocol::result::carries_result;
use crate::protocol::usage::Usage;
use crate::protocol::{Protocol, ResponseMode};
use crate::routing::endpoint::Endpoint;
use crate::status::Reason;
use http::{HeaderMap, HeaderName, StatusCode};
use serde::Deserialize;
use serde_json::Value;

/// A response that may be stored: opened with its head, given its body, and an [`Entry`] only if it is complete.
#[derive(Debug)]
pub struct Capture {
    key: CacheKey,
    endpoint: Endpoint,
    status: u16,
    headers: Vec<(String, String)>,
    essence: String,
    /// The protocol of a stream. `None`: the response is not a stream.
    stream: Option<Protocol>,
    requested_mode: ResponseMode,
    /// The length of the decoded body, if `Content-Length` has it.
    expected_len: Option<usize>,
    max_bytes: usize,
    lifetime_ms: Option<u64>,
    rules: AnswerRules,
    body: Vec<u8>,
}

/// Options of a capture, from the request.
#[derive(Debug, Clone, Copy)]
pub struct CaptureOptions {
    /// The cache key.
    pub key: CacheKey,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The mode in which the client wants the response.
    pub response_mode: ResponseMode,
    /// The largest body that is stored, in bytes.
    pub max_bytes: usize,
    /// The lifetime in milliseconds. `None`: unlimited.
    pub lifetime_ms: Option<u64>,
    /// Whether other clients read the entry.
    pub shared: bool,
    /// What the response has to be, besides complete.
    pub rules: AnswerRules,
}

impl Capture {
    /// Opens a capture with the upstream's status and headers.
    ///
    /// # Errors
    /// Why the response is not stored, if its head decides.
    pub fn open(capture_options: CaptureOptions, status: StatusCode, response: &HeaderMap) -> Result<Capture, Reason> {
        // 202: the result follows later. 204 and 205: there is none. 206: it is a part.
        if !status.is_success() || matches!(status.as_u16(), 202 | 204..=206) {
            return Err(Reason::Status);
        }
        let essence = media_type::essence(response);
        let stream = Protocol::of(capture_options.endpoint)
            .filter(|protocol| protocol.is_stream(&essence, capture_options.response_mode.stream));
        // The end of a stream in an unknown protocol cannot be recognised.
        if stream.is_none() && media_type::is_event_stream(&essence) {
            return Err(Reason::Stream);
        }
        if !has_keyed_variants(response) {
            return Err(Reason::Vary);
        }
        let length = fields::content_length(response);
        let is_json = capture_options.endpoint.responds_with_json() || media_type::is_json(&essence);
        // The end of JSON and of a stream is in the bytes. Any other body that ends with the connection may be half of one.
        let chunked = fields::joined_lowercase(response, http::header::TRANSFER_ENCODING).ends_with("chunked");
        if stream.is_none() && !is_json && length.is_none() && !chunked {
            return Err(Reason::LengthUnknown);
        }
        if length.is_some_and(|length| length > capture_options.max_bytes) {
            return Err(Reason::TooLarge);
        }
        let coding = fields::joined_lowercase(response, http::header::CONTENT_ENCODING);
        let encoded = !matches!(coding.as_str(), "" | "identity");
        // The Workers runtime decodes only these. Bodies in other codings would be stored encoded.
        if encoded && !matches!(coding.as_str(), "gzip" | "br") {
            return Err(Reason::ContentEncoding);
        }
        let mut stored = fields::collect(response, &|name| stored_headers::is_stored(name, capture_options.shared));
        // It may lead around this proxy: see `routing::location`.
        stored.retain(|(_, value)| !fields::is_url(value));
        // An entry holds text. A hit would have another value.
        if stored.iter().any(|(_, value)| fields::is_lossy(value)) {
            return Err(Reason::InvalidHeader);
        }
        Ok(Capture {
            key: capture_options.key,
            endpoint: capture_options.endpoint,
            status: status.as_u16(),
            headers: stored
                .into_iter()
                .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
                .collect(),
            essence,
            stream,
            requested_mode: capture_options.response_mode,
            expected_len: length.filter(|_| !encoded),
            max_bytes: capture_options.max_bytes,
            lifetime_ms: capture_options.lifetime_ms,
            rules: capture_options.rules,
            body: Vec::new(),
        })
    }

    /// Adds a chunk of the body, without its content coding.
    ///
    /// # Errors
    /// [`Reason::TooLarge`]: the response is not stored.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Reason> {
        if self.body.len().saturating_add(chunk.len()) > self.max_bytes {
            return Err(Reason::TooLarge);
        }
        self.body.extend_from_slice(chunk);
        Ok(())
    }

    /// The body ended without an error. `now`: milliseconds since 1970.
    ///
    /// # Errors
    /// Why the response is not stored.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn finish(self, now: u64) -> Result<Entry, Reason> {
        self.finish_with_usage(now).0
    }

    /// The same, and the tokens that the response was charged with, stored or not.
    pub fn finish_with_usage(self, now: u64) -> (Result<Entry, Reason>, Usage) {
        let text = || std::str::from_utf8(&self.body).ok();
        let events = self.stream.map(|protocol| (protocol, protocol.events(&self.body)));
        let usage = match &events {
            Some((_, events)) => events.as_ref().map(|events| Usage::of_events(events)).unwrap_or_default(),
            None => text().map(Usage::of_object).unwrap_or_default(),
        };
        let checked = self.check(events, now);
        (checked.map(|(has_usage, valid_until)| self.into_entry(has_usage, valid_until, usage, now)), usage)
    }

    /// Checks that the response is complete: whether it ends in its usage, and when it is gone. `events`: those of a stream.
    fn check(
        &self,
        events: Option<(Protocol, Result<Vec<Event>, Reason>)>,
        now: u64,
    ) -> Result<(bool, Option<u64>), Reason> {
        if self.expected_len.is_some_and(|len| len != self.body.len()) {
            return Err(Reason::Truncated);
        }
        let valid_until = |text: &str| expiry::valid_until(self.endpoint, text, now);
        let (has_usage, valid_until) = match events {
            Some((protocol, events)) => {
                let events = events?;
                protocol.check(&events)?;
                Answer::check(self.rules, protocol, events.iter().map(|event| event.data.as_str()))?;
                (protocol.has_usage(&events), events.iter().filter_map(|event| valid_until(&event.data)).min())
            }
            None => {
                self.check_body()?;
                (false, std::str::from_utf8(&self.body).ok().and_then(valid_until))
            }
        };
        if valid_until.is_some_and(|until| until <= now) {
            return Err(Reason::Expired);
        }
        Ok((has_usage, valid_until))
    }

    fn into_entry(self, has_usage: bool, valid_until: Option<u64>, usage: Usage, now: u64) -> Entry {
        let expires_at = self.lifetime_ms.map(|ms| now.saturating_add(ms));
        Entry {
            head: EntryHead {
                key: self.key,
                status: self.status,
                headers: self.headers,
                stored_at: now,
                expires_at: expires_at.into_iter().chain(valid_until).min(),
                valid_until,
                stream: self.stream.is_some(),
                requested_mode: self.requested_mode,
                has_usage,
                endpoint: self.endpoint.name().into(),
                model: None,
                usage,
                upstream_ms: None,
                sketch_len: 0,
            },
            sketch: Vec::new(),
            body: self.body,
        }
    }

    fn check_body(&self) -> Result<(), Reason> {
        if self.body.is_empty() {
            return Err(Reason::ResponseEmpty);
        }
        let looks_like_json = matches!(self.body.trim_ascii_start().first(), Some(b'{' | b'['));
        let is_json = media_type::is_json(&self.essence) || (looks_like_json && Document::parse(&self.body).is_ok());
        if self.endpoint == Endpoint::Speech {
            return if is_json || !is_audio(&self.essence) { Err(Reason::ResponseType) } else { Ok(()) };
        }
        if is_json || self.endpoint.responds_with_json() {
            check_json(self.endpoint, &self.body)?;
            let (protocol, rules) = match Protocol::of(self.endpoint) {
                Some(protocol) => (protocol, self.rules),
                // Some of the others have choices too.
                None => (Protocol::Chat, self.rules.without_json()),
            };
            return Answer::check(rules, protocol, std::str::from_utf8(&self.body).into_iter());
        }
        // A page in place of the response is an error, whatever its status.
        if self.essence == "text/html" { Err(Reason::ResponseType) } else { Ok(()) }
    }
}

fn is_audio(essence: &str) -> bool {
    const BYTES: [&str; 3] = ["application/octet-stream", "application/ogg", "binary/octet-stream"];
    essence.starts_with("audio/") || BYTES.contains(&essence)
}

/// Whether the cache key has each header field that `Vary` names (RFC 9111, section 4.1).
fn has_keyed_variants(response: &HeaderMap) -> bool {
    // The upstream gets the same value of these from every client.
    const SAME_FOR_ALL: [&str; 3] = ["accept-encoding", "cookie", "host"];
    let is_in_key = |name: &[u8]| {
        let name = HeaderName::from_bytes(name).ok().filter(|name| name != "*");
        name.is_some_and(|name| {
            SAME_FOR_ALL.contains(&name.as_str()) || is_credential(name.as_str()) || is_keyed(name.as_str())
        })
    };
    let values = response.get_all(http::header::VARY).iter();
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    names.filter(|name| !name.is_empty()).all(is_in_key)
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default, alias = "finishReason")]
    finish_reason: Value,
    #[serde(default)]
    error: Value,
}

/// Checks that a JSON body is a complete response with a result.
fn check_json(endpoint: Endpoint, body: &[u8]) -> Result<(), Reason> {
    let document = Document::parse(body).map_err(|_| Reason::ResponseNotJson)?;
    if !document.is_object() && body.trim_ascii_start().first() != Some(&b'[') {
        return Err(Reason::ResponseNotJson);
    }
    if document.is_empty() {
        return Err(Reason::ResponseEmpty);
    }
    let text = std::str::from_utf8(body).map_err(|_| Reason::ResponseNotJson)?;
    let root = JsonCursor::root(text);
    if reports_error(root) || (endpoint == Endpoint::Custom && is_only_explanation(root)) {
        return Err(Reason::ErrorBody);
    }
    if is_job(root, endpoint == Endpoint::Custom) {
        return Err(Reason::NotCompleted);
    }
    let field_is = |field: &str, value: &str| document.fields(field).all(|found| found == value);
    let is_response = endpoint == Endpoint::Responses || document.fields("object").any(|found| found == "\"response\"");
    let completed = document.fields("status").next().is_some() && field_is("status", "\"completed\"");
    if is_response && !completed {
        return Err(Reason::NotCompleted);
    }
    if endpoint == Endpoint::Ollama && !field_is("done", "true") {
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
    if carries_result(endpoint, &document) { Ok(()) } else { Err(Reason::ResponseType) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::endpoint::Computation;
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
            rules: AnswerRules::default(),
        }
    }

    fn capture(endpoint: Endpoint, kind: &'static str, body: &[u8]) -> Result<Entry, Reason> {
        let head = headers(&[
            ("content-type", kind),
            ("x-request-id", "r"),
            ("set-cookie", "s"),
            ("transfer-encoding", "chunked"),
        ]);
        let mut capture = Capture::open(capture_options(endpoint), StatusCode::OK, &head)?;
        for piece in body.chunks(3) {
            capture.push(piece)?;
        }
        capture.finish(10)
    }

    const CHAT: &str = r#"{"choices":[{"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}]}"#;

    #[test]
    fn a_complete_response_becomes_an_entry() {
        let entry = capture(Endpoint::ChatCompletions, "application/json", CHAT.as_bytes()).unwrap();
        assert_eq!(entry.body, CHAT.as_bytes());
        assert_eq!(
            entry.head.headers,
            [("content-type".into(), "application/json".into()), ("x-request-id".into(), "r".into())]
        );
        assert_eq!((entry.head.stored_at, entry.head.expires_at), (10, Some(15)));
    }

    #[test]
    fn errors_and_incomplete_responses_are_not_stored() {
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
            (Responses, r#"{"output":[{"type":"message"}]}"#, Reason::NotCompleted),
            (Ollama, r#"{"done":false}"#, Reason::NotCompleted),
            (GenerateContent, r#"{"candidates":[{"finishReason":"SAFETY"}]}"#, Reason::ContentFilter),
            (GenerateContent, r#"{"promptFeedback":{"blockReason":"OTHER"}}"#, Reason::ContentFilter),
            (Messages, r#"{"stop_reason":"refusal"}"#, Reason::ContentFilter),
            // Errors of MiniMax, Qianfan, Cloudflare, Spring, iFlytek and Groq.
            (Custom, r#"{"a":1,"base_resp":{"status_code":1004,"status_msg":"m"}}"#, Reason::ErrorBody),
            (Custom, r#"{"error_code":17,"error_msg":"m"}"#, Reason::ErrorBody),
            (Custom, r#"{"success":false,"errors":[{"code":1}]}"#, Reason::ErrorBody),
            (Custom, r#"{"code":"InvalidApiKey","message":"m"}"#, Reason::ErrorBody),
            (Custom, r#"{"status":"failed"}"#, Reason::ErrorBody),
            (Custom, r#"{"code":10007,"message":"m"}"#, Reason::ErrorBody),
            (Custom, r#"{"x_groq":{"error":"e"}}"#, Reason::ErrorBody),
            // Jobs.
            (Custom, r#"{"id":"1","status":"CREATED"}"#, Reason::NotCompleted),
            (Custom, r#"{"output":{"task_id":"1","task_status":"PENDING"}}"#, Reason::NotCompleted),
            (Custom, r#"{"task_id":"1"}"#, Reason::NotCompleted),
            (Custom, r#"{"id":"1","polling_url":"https://a"}"#, Reason::NotCompleted),
            (Custom, r#"{"name":"operations/1","done":false}"#, Reason::NotCompleted),
            (Custom, r#"{"object":"fine_tuning.job"}"#, Reason::NotCompleted),
            (Compute(Computation::Images), r#"{"task_id":"1","task_status":"PROCESSING"}"#, Reason::NotCompleted),
        ] {
            assert_eq!(capture(endpoint, "application/json", body.as_bytes()), Err(reason), "{body}");
        }
    }

    /// Each endpoint, with responses that carry its result and responses that do not.
    fn results() -> Vec<(Endpoint, Vec<&'static str>, Vec<&'static str>)> {
        use Computation::*;
        use Endpoint::*;
        vec![
            (
                ChatCompletions,
                vec![
                    CHAT,
                    r#"{"choices":[{"finish_reason":null,"error":null,"message":{"content":"a"}}],"base_resp":{"status_code":0}}"#,
                    r#"{"choices":[{"message":{"role":"assistant","content":null,"tool_calls":[{"id":"c"}]}}]}"#,
                    r#"{"choices":[{"message":{"role":"assistant","content":""},"finish_reason":"length"}]}"#,
                    r#"{"choices":[{"text":"a","index":0}],"code":0,"message":"Success"}"#,
                ],
                vec![
                    r#"{"choices":[]}"#,
                    r#"{"choices":[{}]}"#,
                    r#"{"choices":[{"message":{}}]}"#,
                    r#"{"choices":[{"message":{"role":"assistant","content":null}}]}"#,
                    r#"{"choices":[{"message":"m"}]}"#,
                    r#"{"choices":[{"message":{"content":"a"}},{}]}"#,
                    r#"{"choices":[{"message":{"content":"a"}}],"choices":[]}"#,
                    r#"{"detail":"Not Found"}"#,
                    r#"{"result":"a"}"#,
                ],
            ),
            (
                Completions,
                vec![r#"{"choices":[{"text":"a"}]}"#],
                vec![r#"{"choices":[{"text":7}]}"#, r#"{"text":"a"}"#],
            ),
            (
                Responses,
                vec![r#"{"status":"completed","error":null,"output":[{"type":"message"}]}"#],
                vec![r#"{"status":"completed"}"#, r#"{"status":"completed","output":[]}"#],
            ),
            (
                Messages,
                vec![r#"{"content":[{"type":"text","text":"a"}],"stop_reason":"end_turn"}"#],
                vec![r#"{"type":"message"}"#, r#"{"content":[]}"#, r#"{"content":"a"}"#, r#"{"content":[{}]}"#],
            ),
            (
                GenerateContent,
                vec![r#"{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}]}"#],
                vec![r#"{"usageMetadata":{"totalTokenCount":1}}"#, r#"{"candidates":[]}"#, r#"{"candidates":[{}]}"#],
            ),
            (
                CohereChat,
                vec![
                    r#"{"id":"i","message":{"role":"assistant","content":[{"type":"text","text":"a"}]}}"#,
                    r#"{"message":{"role":"assistant","tool_calls":[{"id":"t"}]}}"#,
                    r#"{"text":"a","generation_id":"g"}"#,
                    r#"{"text":"","tool_calls":[{"name":"f"}]}"#,
                ],
                vec![r#"{"message":"invalid api token"}"#, r#"{"message":{"role":"assistant"}}"#, r#"{"text":""}"#],
            ),
            (
                Ollama,
                vec![
                    r#"{"done":true,"message":{"role":"assistant","content":"a"}}"#,
                    r#"{"done":true,"response":"a"}"#,
                    r#"{"done":true,"message":{"content":"","tool_calls":[{"function":{"name":"f"}}]}}"#,
                ],
                vec![r#"{"done":true}"#, r#"{"done":true,"response":""}"#, r#"{"done":true,"message":{"role":"a"}}"#],
            ),
            (
                Compute(Embeddings),
                vec![
                    r#"{"data":[{"embedding":[0.1]},{"embedding":"AAAA"}]}"#,
                    r#"{"embeddings":[[-0.1],[1]]}"#,
                    r#"{"embeddings":{"float":[[0.1]],"int8":[[1]]}}"#,
                    r#"{"embedding":[0.1]}"#,
                    r#"{"embedding":{"values":[0.1]}}"#,
                    r#"{"embeddings":[{"values":[0.1]}]}"#,
                    "[[0.1]]",
                ],
                vec![
                    r#"{"data":[]}"#,
                    r#"{"data":[{"embedding":[]}]}"#,
                    r#"{"data":[{"embedding":[0.1]},{"object":"e"}]}"#,
                    r#"{"embeddings":{}}"#,
                    r#"{"embeddings":{"float":[]}}"#,
                    r#"{"embeddings":[[]]}"#,
                    r#"{"embedding":{}}"#,
                    r#"[{"error":"m"}]"#,
                    "[[]]",
                    r#"["a"]"#,
                ],
            ),
            (
                Compute(Moderations),
                vec![r#"{"results":[{"flagged":false}]}"#],
                vec![r#"{"results":[]}"#, r#"{"id":"m"}"#],
            ),
            (
                Compute(Images),
                vec![r#"{"data":[{"url":"u"}]}"#, r#"{"data":[{"b64_json":"AA=="}]}"#],
                vec![r#"{"data":[]}"#, r#"{"data":[{"url":null}]}"#, r#"{"created":1}"#],
            ),
            (
                Compute(TokenCount),
                vec![r#"{"input_tokens":7}"#, r#"{"totalTokens":7}"#],
                vec![r#"{"input_tokens":"7"}"#, r#"{"totalTokens":null}"#],
            ),
            (
                Compute(Rerank),
                vec![
                    r#"{"results":[{"index":0,"relevance_score":0.9}]}"#,
                    r#"{"data":[{"index":0,"relevance_score":0.9}]}"#,
                    r#"[{"index":0,"score":0.9}]"#,
                ],
                vec![r#"{"results":[]}"#, r#"[{"error":"m","error_type":"overloaded"}]"#, r#"{"results":[{}]}"#],
            ),
            (
                Compute(Classify),
                vec![r#"{"classifications":[{"prediction":"a"}]}"#],
                vec![r#"{"classifications":[]}"#, r#"{"meta":{"a":1}}"#],
            ),
            (Compute(Ocr), vec![r#"{"pages":[{"markdown":"a"}]}"#], vec![r#"{"pages":[]}"#, r#"{"model":"m"}"#]),
            (
                Compute(Generate),
                vec![
                    r#"{"generations":[{"text":"a"}]}"#,
                    r#"{"completions":[{"data":{}}]}"#,
                    r#"{"generated_text":"a"}"#,
                ],
                vec![r#"{"generations":[]}"#, r#"{"generations":[{"text":""}]}"#],
            ),
            (Compute(Edits), vec![r#"{"choices":[{"text":"a"}]}"#], vec![r#"{"choices":[]}"#]),
            (Compute(Answers), vec![r#"{"answers":["a"]}"#], vec![r#"{"answers":[]}"#]),
            (Custom, vec![r#"{"a":1}"#], vec!["[1]", r#"[{"error":1}]"#]),
        ]
    }

    #[test]
    fn a_response_has_to_carry_its_result() {
        for (endpoint, results, others) in results() {
            for body in results {
                assert!(capture(endpoint, "application/json", body.as_bytes()).is_ok(), "{endpoint:?} {body}");
            }
            for body in others {
                let captured = capture(endpoint, "application/json", body.as_bytes());
                assert_eq!(captured, Err(Reason::ResponseType), "{endpoint:?} {body}");
            }
            for body in ["{}", "[]", r#"{"detail":"d"}"#, r#"{"base_resp":{"status_code":1}}"#, r#"[{"error":{}}]"#] {
                let captured = capture(endpoint, "application/json", body.as_bytes());
                assert!(captured.is_err(), "{endpoint:?} {body}");
            }
        }
    }

    #[test]
    fn other_bodies_are_checked_by_their_type() {
        use Endpoint::*;
        for (endpoint, essence, body, outcome) in [
            (Speech, "audio/mpeg", "\0\u{1}", Ok(())),
            (Speech, "application/octet-stream", "\0\u{1}", Ok(())),
            (Custom, "text/plain", "x", Ok(())),
            (Speech, "text/html", "x", Err(Reason::ResponseType)),
            (Speech, "application/json", r#"{"audio":"AA=="}"#, Err(Reason::ResponseType)),
            (Speech, "audio/mpeg", r#" {"detail":"d"}"#, Err(Reason::ResponseType)),
            (Custom, "text/html", "x", Err(Reason::ResponseType)),
            (Custom, "text/plain", r#"{"error":"e"}"#, Err(Reason::ErrorBody)),
            (Custom, "application/json", "{", Err(Reason::ResponseNotJson)),
            (Compute(Computation::Embeddings), "text/plain", "[[0.1]]", Ok(())),
        ] {
            let captured = capture(endpoint, essence, body.as_bytes()).map(|_| ());
            assert_eq!(captured, outcome, "{endpoint:?} {essence} {body}");
        }
    }

    #[test]
    fn a_body_without_a_length_has_to_show_its_end() {
        let open = |endpoint, pairs: &[(&'static str, &'static str)]| {
            Capture::open(capture_options(endpoint), StatusCode::OK, &headers(pairs)).err()
        };
        let audio = ("content-type", "audio/mpeg");
        assert_eq!(open(Endpoint::Speech, &[audio]), Some(Reason::LengthUnknown));
        assert_eq!(open(Endpoint::Custom, &[("content-type", "text/plain")]), Some(Reason::LengthUnknown));
        assert_eq!(open(Endpoint::Speech, &[audio, ("content-encoding", "gzip")]), Some(Reason::LengthUnknown));
        assert_eq!(open(Endpoint::Speech, &[audio, ("content-length", "3")]), None);
        assert_eq!(open(Endpoint::Speech, &[audio, ("transfer-encoding", "chunked")]), None);
        assert_eq!(open(Endpoint::ChatCompletions, &[]), None);
        assert_eq!(open(Endpoint::Custom, &[("content-type", "application/json")]), None);
    }

    #[test]
    fn a_response_that_varies_by_an_unkeyed_header_is_not_stored() {
        let open = |vary: &'static str| {
            let response = headers(&[("vary", vary)]);
            Capture::open(capture_options(Endpoint::ChatCompletions), StatusCode::OK, &response).err()
        };
        for vary in ["*", "Origin, *", "User-Agent", "Origin, X-Request-Id", "traceparent", "\"Origin\""] {
            assert_eq!(open(vary), Some(Reason::Vary), "{vary}");
        }
        for vary in ["", "Accept-Encoding", "accept-encoding,Origin", "Cookie, Authorization", "X-Api-Key", "Accept"] {
            assert_eq!(open(vary), None, "{vary}");
        }
    }

    #[test]
    fn fields_with_a_url_are_not_stored() {
        let response =
            headers(&[("x-poll", "https://h/v1/x"), ("access-control-allow-origin", "https://h"), ("link", "</a>")]);
        let capture = Capture::open(capture_options(Endpoint::ChatCompletions), StatusCode::OK, &response).unwrap();
        assert_eq!(capture.headers, [("access-control-allow-origin".to_owned(), "https://h".to_owned())]);
    }

    #[test]
    fn a_response_with_a_header_that_is_not_text_is_not_stored() {
        let open = |value: &[u8]| {
            let response =
                HeaderMap::from_iter([(HeaderName::from_static("x-region"), HeaderValue::from_bytes(value).unwrap())]);
            Capture::open(capture_options(Endpoint::ChatCompletions), StatusCode::OK, &response).err()
        };
        assert_eq!(open(b"Z\xfcrich"), Some(Reason::InvalidHeader));
        assert_eq!(open("Z\u{fffd}rich".as_bytes()), Some(Reason::InvalidHeader));
        assert_eq!(open("Zürich".as_bytes()), None);
    }

    #[test]
    fn a_response_that_ends_lives_no_longer() {
        let images = Endpoint::Compute(Computation::Images);
        let capture = |lifetime_ms, body: &str, now| {
            let options = CaptureOptions { lifetime_ms, ..capture_options(images) };
            let mut capture = Capture::open(options, StatusCode::OK, &headers(&[])).unwrap();
            capture.push(body.as_bytes()).unwrap();
            capture.finish(now).map(|entry| (entry.head.expires_at, entry.head.valid_until))
        };
        let body = r#"{"data":[{"url":"https://a"}]}"#;
        assert_eq!(capture(None, body, 10), Ok((Some(3_600_010), Some(3_600_010))));
        assert_eq!(capture(Some(5), body, 10), Ok((Some(15), Some(3_600_010))));
        let body = r#"{"data":[{"b64_json":"AA=="}],"expires_at":7}"#;
        assert_eq!(capture(None, body, 6_999), Ok((Some(7_000), Some(7_000))));
        assert_eq!(capture(None, body, 7_000), Err(Reason::Expired));
    }

    #[test]
    fn a_head_may_rule_out_storing() {
        let open = |status: u16, pairs: &[(&'static str, &'static str)]| {
            let status = StatusCode::from_u16(status).unwrap();
            Capture::open(capture_options(Endpoint::Compute(Computation::Embeddings)), status, &headers(pairs)).err()
        };
        for status in [202, 204, 206, 301, 304, 400, 401, 429, 500, 529] {
            assert_eq!(open(status, &[]), Some(Reason::Status), "{status}");
        }
        assert_eq!(open(200, &[("content-type", "text/event-stream; charset=utf-8")]), Some(Reason::Stream));
        assert_eq!(open(200, &[("content-length", "1001")]), Some(Reason::TooLarge));
        assert_eq!(open(200, &[("content-length", "1000")]), None);
    }

    #[test]
    fn a_body_shorter_than_its_content_length_is_truncated() {
        let finish = |pairs: &[(&'static str, &'static str)]| {
            let response = headers(&[&[("content-type", "audio/mpeg")], pairs].concat());
            let mut capture = Capture::open(capture_options(Endpoint::Speech), StatusCode::OK, &response).unwrap();
            capture.push(b"1234").unwrap();
            capture.finish(0).err()
        };
        assert_eq!(finish(&[("content-length", "5")]), Some(Reason::Truncated));
        assert_eq!(finish(&[("content-length", "4")]), None);
        assert_eq!(finish(&[("content-length", "3"), ("content-encoding", "gzip")]), None);
    }

    #[test]
    fn the_size_limit_holds_without_a_content_length() {
        let mut capture =
            Capture::open(capture_options(Endpoint::ChatCompletions), StatusCode::OK, &headers(&[])).unwrap();
        assert_eq!(capture.push(&[0; 1000]), Ok(()));
        assert_eq!(capture.push(&[0; 1]), Err(Reason::TooLarge));
    }
}
