//! Responses to the client: heads of stored responses, changes to the upstream's head, and the proxy's own responses.

use crate::cache::dialects::ReplyFields;
use crate::cache::entry::EntryHead;
use crate::config::Config;
use crate::http::fields::is_digest_header;
use crate::routing::location;
use crate::routing::route::{self, Target};
use crate::status::error::{ErrorKind, ProxyError};
use crate::status::{CacheOutcome, CacheStatus};
use crate::telemetry::exchange_log::LogFields;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::borrow::Cow;

/// A response of the proxy's own.
#[derive(Debug, Clone)]
pub struct ProxyResponse {
    /// The HTTP status.
    pub status: u16,
    /// All header fields.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// A stored response.
#[derive(Debug)]
pub struct CachedResponse {
    /// The HTTP status.
    pub status: u16,
    /// All header fields.
    pub headers: Vec<(String, String)>,
    /// The body; `None`: the stored one, verbatim.
    pub body: Option<Vec<u8>>,
}

/// Changes to the upstream's head on its way to the client. Everything else in it stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Removed.
    pub remove: &'static [&'static str],
    /// Each replaces any field of its name.
    pub set: Vec<(Cow<'static, str>, String)>,
    /// Each comes after any field of its name: caches add to `Cache-Status` in order (RFC 9211, section 2).
    pub append: Vec<(&'static str, String)>,
}

/// Fields that a browser keeps for a whole host. It knows only the proxy's, so the cookies of one upstream would be sent to all
/// others, and reports about the proxy to an upstream.
const FOR_THE_HOST: [&str; 10] = [
    "set-cookie",
    "set-cookie2",
    "alt-svc",
    "clear-site-data",
    "expect-ct",
    "nel",
    "public-key-pins",
    "report-to",
    "reporting-endpoints",
    "strict-transport-security",
];
const CACHE_STATUS: &str = "cache-status";
const X_CACHE_STATUS: &str = "x-cache-status";
const X_CACHE_SAVED: &str = "x-cache-saved";
const X_SHOULD_RETRY: &str = "x-should-retry";
const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const EXPOSE_HEADERS: &str = "access-control-expose-headers";
/// The fields of ours that a browser lets a script read (Fetch standard, "CORS protocol").
const EXPOSED: &str = "cache-status, x-cache-status, x-cache-saved, age, retry-after, x-should-retry";
/// The Workers runtime does not say when the next request is allowed. Its periods are 10 or 60 seconds, and official clients
/// ignore waits of a minute.
const RETRY_AFTER_SECONDS: &str = "10";
const PREFLIGHT_MAX_AGE_SECONDS: &str = "600";

/// The changes to the upstream's head. `target`: the requested endpoint. `retries`: the number of retries of the request.
pub fn header_edits(
    config: &Config,
    status: &CacheStatus,
    fields: &ReplyFields,
    target: &Target,
    headers: &HeaderMap,
    retries: u32,
) -> HeaderEdits {
    let fields = fields.headers(status, None);
    let exposed = exposed(&fields);
    let mut set = location::mapped_fields(config, target, headers);
    set.push((X_CACHE_STATUS.into(), status.outcome.as_str().to_owned()));
    set.extend(fields.into_iter().map(|(name, value)| (name.into(), value)));
    let failed = status.fwd_status.is_some_and(|status| status >= 400);
    if failed && retries > 0 && !headers.contains_key(X_SHOULD_RETRY) {
        let (name, value) = should_not_retry();
        set.push((name.into(), value));
    }
    let mut append = vec![(CACHE_STATUS, status.to_header_value())];
    if headers.contains_key(ALLOW_ORIGIN) {
        append.push((EXPOSE_HEADERS, exposed));
    }
    HeaderEdits { remove: &FOR_THE_HOST, set, append }
}

/// The names of the fields of ours, with these further ones.
fn exposed(fields: &[(&'static str, String)]) -> String {
    let further = fields.iter().map(|(name, _)| *name);
    std::iter::once(EXPOSED).chain(further).collect::<Vec<_>>().join(", ")
}

/// Official clients read this field. Without it their retries would multiply ours.
fn should_not_retry() -> (&'static str, String) {
    (X_SHOULD_RETRY, "false".to_owned())
}

/// The header fields of a stored response. `converted`: its bytes are not the stored ones. `content_type`: in place of the
/// stored one.
pub fn hit(
    head: &EntryHead,
    converted: bool,
    content_type: Option<&str>,
    status: &CacheStatus,
    fields: &ReplyFields,
    now: u64,
) -> Vec<(String, String)> {
    let fields = fields.headers(status, Some(head.age(now)));
    let mut headers = head.headers.clone();
    if converted {
        headers.retain(|(name, _)| !is_digest_header(name));
    }
    if let Some(content_type) = content_type {
        headers.retain(|(name, _)| name != "content-type");
        headers.push(("content-type".to_owned(), content_type.to_owned()));
    }
    // A coalesced response has just been generated, so it has no age (RFC 9111, section 5.1).
    if status.outcome != CacheOutcome::Coalesced {
        headers.push(("age".to_owned(), head.age(now).to_string()));
    }
    if headers.iter().any(|(name, _)| name == ALLOW_ORIGIN) {
        headers.push((EXPOSE_HEADERS.to_owned(), exposed(&fields)));
    }
    headers.extend(cache_headers(status));
    headers.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
    headers.extend(saved(head).map(|value| (X_CACHE_SAVED.to_owned(), value)));
    headers
}

/// What the response had cost: a dictionary (RFC 9651, section 3.2) of what is known. `None`: nothing is.
fn saved(head: &EntryHead) -> Option<String> {
    let members = [
        ("input_tokens", head.usage.input),
        ("output_tokens", head.usage.output),
        ("cached_input_tokens", head.usage.cached_input),
        ("ms", head.upstream_ms),
    ];
    let known: Vec<String> =
        members.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?))).collect();
    (!known.is_empty()).then(|| known.join(", "))
}

fn cache_headers(status: &CacheStatus) -> [(String, String); 2] {
    [
        (CACHE_STATUS.to_owned(), status.to_header_value()),
        (X_CACHE_STATUS.to_owned(), status.outcome.as_str().to_owned()),
    ]
}

fn json_response(status: StatusCode, body: &Value, log: &mut LogFields) -> ProxyResponse {
    response(status, body.to_string().into_bytes(), log)
}

fn response(status: StatusCode, body: Vec<u8>, log: &mut LogFields) -> ProxyResponse {
    log.status = Some(status.as_u16());
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    ProxyResponse { status: status.as_u16(), headers, body }
}

/// An error that the proxy finds by itself.
pub fn refusal(error: &ProxyError, log: &mut LogFields) -> ProxyResponse {
    // A client that accepts stored responses only, and gets none, is a miss. No other error reaches the cache.
    let outcome = match error.kind {
        ErrorKind::OnlyIfCached => CacheOutcome::Miss,
        _ => CacheOutcome::Bypass,
    };
    let mut status = CacheStatus::new(outcome);
    status.reason = error.kind.reason();
    status.key = log.key;
    failure(error, &status, log)
}

/// An error in place of the upstream's response, with what the cache did.
pub fn failure(error: &ProxyError, status: &CacheStatus, log: &mut LogFields) -> ProxyResponse {
    log.record(error.kind.status().as_u16(), status);
    let mut response = response(error.kind.status(), error.body(), log);
    response.headers.extend(cache_headers(status));
    readable_error(response, error.kind)
}

/// The same where the upstream failed. `retries`: how often the request was retried.
pub fn upstream_failure(error: &ProxyError, status: &CacheStatus, retries: u32, log: &mut LogFields) -> ProxyResponse {
    let mut response = failure(error, status, log);
    if retries > 0 {
        let (name, value) = should_not_retry();
        response.headers.push((name.to_owned(), value));
    }
    response
}

/// An error with the fields that HTTP wants beside it, and that a browser shows to a script of any site.
fn readable_error(mut response: ProxyResponse, kind: ErrorKind) -> ProxyResponse {
    response.headers.extend(error_headers(kind));
    let cors = [(ALLOW_ORIGIN, "*"), (EXPOSE_HEADERS, EXPOSED)];
    response.headers.extend(cors.map(|(name, value)| (name.to_owned(), value.to_owned())));
    response
}

/// The response to a CORS preflight for control fields, which no upstream would allow. `method` and `fields`: those requested.
pub fn preflight(method: &str, fields: &str, log: &mut LogFields) -> ProxyResponse {
    let mut response = response(StatusCode::NO_CONTENT, Vec::new(), log);
    let headers = [
        (ALLOW_ORIGIN, "*"),
        ("access-control-allow-methods", method),
        ("access-control-allow-headers", fields),
        ("access-control-max-age", PREFLIGHT_MAX_AGE_SECONDS),
    ];
    response.headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    response
}

/// An error for the operator, whose calls do not concern the cache.
pub fn admin_error(error: &ProxyError, log: &mut LogFields) -> ProxyResponse {
    readable_error(response(error.kind.status(), error.body(), log), error.kind)
}

/// The response to a deletion: the number of deleted entries, and the cursor of the next call.
pub fn deleted(n: usize, cursor: Option<&str>, log: &mut LogFields) -> ProxyResponse {
    json_response(StatusCode::OK, &json!({"deleted": n, "cursor": cursor}), log)
}

/// What an operator asked for, as JSON.
pub fn admin_json(text: String, log: &mut LogFields) -> ProxyResponse {
    let mut response = response(StatusCode::OK, text.into_bytes(), log);
    response.headers.push(("cache-control".to_owned(), "no-store".to_owned()));
    response
}

/// `/metrics`.
pub fn metrics(text: String, log: &mut LogFields) -> ProxyResponse {
    let mut response = response(StatusCode::OK, text.into_bytes(), log);
    response.headers = vec![("content-type".to_owned(), "text/plain; version=0.0.4; charset=utf-8".to_owned())];
    response
}

/// The fields beside an error: those that HTTP wants (RFC 9110, sections 11.6.1 and 10.2.3), and whether a retry can help.
fn error_headers(kind: ErrorKind) -> impl Iterator<Item = (String, String)> {
    let field = match kind {
        ErrorKind::InvalidToken => Some(("www-authenticate", "Bearer realm=\"reprise\"".to_owned())),
        ErrorKind::RateLimited => Some(("retry-after", RETRY_AFTER_SECONDS.to_owned())),
        _ => None,
    };
    let permanent = (!kind.is_transient()).then(should_not_retry);
    field.into_iter().chain(permanent).map(|(name, value)| (name.to_owned(), value))
}

/// `/healthz`.
pub fn liveness() -> ProxyResponse {
    json_response(StatusCode::OK, &json!({"ok": true}), &mut LogFields::default())
}

/// `/health`. `responded`: whether the upstream at `target` gave any HTTP response.
pub fn health(target: &str, responded: bool, log: &mut LogFields) -> ProxyResponse {
    if responded {
        return json_response(StatusCode::OK, &json!({"status": "healthy", "target": target}), log);
    }
    let error = "The upstream did not respond within 5 seconds. Check that it is up and that its base URL is right.";
    json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "unhealthy", "error": error}), log)
}

/// `/`.
pub fn index(config: &Config, log: &mut LogFields) -> ProxyResponse {
    let mut routes = route::prefixes(config);
    routes.extend(["/health", "/healthz"].map(String::from));
    let body = json!({
        "ok": true,
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "routes": routes,
    });
    json_response(StatusCode::OK, &body, log)
}

/// Any other path.
pub fn not_found(config: &Config, log: &mut LogFields) -> ProxyResponse {
    let message = format!(
        "No such route. Point the client's base URL at one of the prefixes {}.",
        route::prefixes(config).join(", ")
    );
    let error = ProxyError::new(ErrorKind::NotFound, message);
    readable_error(response(error.kind.status(), error.body(), log), error.kind)
}
