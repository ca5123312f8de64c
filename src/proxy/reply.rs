//! What does the client get? Heads of hits, changes to passing heads, and the proxy's own replies.

use crate::cache::entry;
use crate::config::Config;
use crate::http::fields::is_digest_header;
use crate::routing::route;
use crate::status::error::{ErrorKind, ProxyError};
use crate::status::{CacheOutcome, CacheStatus};
use crate::telemetry::exchange_log::LogFields;
use http::StatusCode;
use serde_json::{Value, json};

/// A whole answer of the proxy's own.
#[derive(Debug, Clone)]
pub struct ProxyResponse {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// For the log; `None` for the liveness probe, which touches nothing.
    pub log_fields: Option<Box<LogFields>>,
}

/// Changes to the upstream's head on its way to the client; everything else in it stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replaces any header of this name.
    pub set: (&'static str, String),
    /// Comes after any header of this name: caches add to `Cache-Status` in order (RFC 9211, section 2).
    pub append: (&'static str, String),
}

const CACHE_STATUS: &str = "cache-status";
/// The platform does not say when a caller may ask again. Its periods are of 10 or 60 seconds, and clients do not obey as
/// much as a minute.
const RETRY_AFTER: &str = "10";
const X_CACHE_STATUS: &str = "x-cache-status";

/// What is added to a head that passes.
pub fn header_edits(cache_status: &CacheStatus) -> HeaderEdits {
    HeaderEdits { set: (X_CACHE_STATUS, cache_status.outcome.as_str().to_owned()), append: (CACHE_STATUS, cache_status.to_header_value()) }
}

/// The headers of a hit. `rendered`: its bytes are not the stored ones; `kind`: nor is its content type.
pub fn hit(head: &entry::EntryHead, rendered: bool, kind: Option<&str>, cache_status: &CacheStatus, now: u64) -> Vec<(String, String)> {
    let mut headers = head.headers.clone();
    if rendered {
        headers.retain(|(name, _)| !is_digest_header(name));
    }
    if let Some(kind) = kind {
        headers.retain(|(name, _)| name != "content-type");
        headers.push(("content-type".to_owned(), kind.to_owned()));
    }
    // An answer that has just been asked for is not one from the cache (RFC 9111, section 5.1).
    if cache_status.outcome != CacheOutcome::Coalesced {
        headers.push(("age".to_owned(), head.age(now).to_string()));
    }
    headers.extend(explanation(cache_status));
    headers
}

fn explanation(cache_status: &CacheStatus) -> [(String, String); 2] {
    [(CACHE_STATUS.to_owned(), cache_status.to_header_value()), (X_CACHE_STATUS.to_owned(), cache_status.outcome.as_str().to_owned())]
}

fn reply(status: StatusCode, body: Vec<u8>, log_fields: Option<LogFields>) -> ProxyResponse {
    ProxyResponse {
        status: status.as_u16(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body,
        log_fields: log_fields.map(|log_fields| Box::new(LogFields { status: Some(status.as_u16()), ..log_fields })),
    }
}

fn json_reply(status: StatusCode, body: &Value, log_fields: Option<LogFields>) -> ProxyResponse {
    reply(status, body.to_string().into_bytes(), log_fields)
}

/// An error that the proxy finds by itself.
pub fn refusal(error: &ProxyError, log_fields: LogFields) -> ProxyResponse {
    // What a caller wants from the store alone and does not get is a miss; the rest never came as far as the cache.
    let outcome = match error.kind {
        ErrorKind::OnlyIfCached => CacheOutcome::Miss,
        _ => CacheOutcome::Bypass,
    };
    let mut cache_status = CacheStatus::new(outcome);
    cache_status.reason = error.kind.reason();
    cache_status.key = log_fields.key;
    failure(error, &cache_status, log_fields)
}

/// An error in place of an answer, with what the cache did.
pub fn failure(error: &ProxyError, cache_status: &CacheStatus, mut log_fields: LogFields) -> ProxyResponse {
    log_fields.record(error.kind.status().as_u16(), cache_status);
    let mut reply = reply(error.kind.status(), error.body(), Some(log_fields));
    reply.headers.extend(explanation(cache_status));
    reply.headers.extend(challenge(error.kind));
    reply
}

/// An error for the operator, whose calls have nothing to do with the cache's answers.
pub fn operator_error(error: &ProxyError, log_fields: LogFields) -> ProxyResponse {
    let mut reply = reply(error.kind.status(), error.body(), Some(log_fields));
    reply.headers.extend(challenge(error.kind));
    reply
}

/// What has been deleted for the operator, and where to go on.
pub fn deleted(n: usize, cursor: Option<&str>, log_fields: LogFields) -> ProxyResponse {
    json_reply(StatusCode::OK, &json!({"deleted": n, "cursor": cursor}), Some(log_fields))
}

/// `/metrics`.
pub fn metrics(text: String, log_fields: LogFields) -> ProxyResponse {
    let mut reply = reply(StatusCode::OK, text.into_bytes(), Some(log_fields));
    reply.headers = vec![("content-type".to_owned(), "text/plain; version=0.0.4; charset=utf-8".to_owned())];
    reply
}

/// What HTTP wants said along with an error (RFC 9110, sections 11.6.1 and 10.2.3).
fn challenge(kind: ErrorKind) -> Option<(String, String)> {
    let (name, value) = match kind {
        ErrorKind::InvalidToken => ("www-authenticate", "Bearer realm=\"reprise\""),
        ErrorKind::RateLimited => ("retry-after", RETRY_AFTER),
        _ => return None,
    };
    Some((name.to_owned(), value.to_owned()))
}

/// `/healthz`.
pub fn alive() -> ProxyResponse {
    json_reply(StatusCode::OK, &json!({"ok": true}), None)
}

/// `/health`: `answered` tells whether the upstream at `target` gave any HTTP answer.
pub fn health(target: &str, answered: bool, log_fields: LogFields) -> ProxyResponse {
    if answered {
        let body = json!({"status": "healthy", "target": target});
        json_reply(StatusCode::OK, &body, Some(log_fields))
    } else {
        let error = "The upstream gave no answer within 5 seconds. Check that it is up and that its base URL is right.";
        let body = json!({"status": "unhealthy", "error": error});
        json_reply(StatusCode::SERVICE_UNAVAILABLE, &body, Some(log_fields))
    }
}

/// `/`.
pub fn index(config: &Config, log_fields: LogFields) -> ProxyResponse {
    let mut routes = route::prefixes(config);
    routes.extend(["/health", "/healthz"].map(String::from));
    let body = json!({
        "ok": true,
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "routes": routes,
    });
    json_reply(StatusCode::OK, &body, Some(log_fields))
}

/// Any other path.
pub fn not_found(config: &Config, log_fields: LogFields) -> ProxyResponse {
    let message = format!(
        "No such route. Point the client's base URL at one of the prefixes {}.",
        route::prefixes(config).join(", ")
    );
    let error = ProxyError::new(ErrorKind::NotFound, message);
    reply(error.kind.status(), error.body(), Some(log_fields))
}
