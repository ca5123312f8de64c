//! What is written about an exchange: one line of JSON, without credentials, prompts or answers.

use crate::http::message::RequestHead;
use crate::key::CacheKey;
use crate::status::{CacheOutcome, CacheStatus, Reason};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::rc::Rc;

/// Longest path or model name that is written, in characters.
const MAX_CHARS: usize = 200;

/// What the deciding floor knows about an exchange.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LogFields {
    /// The request's method.
    pub method: String,
    /// Its path, without the query (which may hold a key).
    pub route: String,
    /// The provider's name; empty where none is asked.
    pub provider: Cow<'static, str>,
    /// The model that the request names.
    pub model: Option<String>,
    /// The status that the client gets.
    pub status: Option<u16>,
    /// What the cache did.
    pub outcome: Option<CacheOutcome>,
    /// Why.
    pub reason: Option<Reason>,
    /// The question's name.
    pub key: Option<CacheKey>,
    /// More, where `DEBUG` is on.
    pub debug: Option<DebugFields>,
}

/// What `DEBUG` adds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DebugFields {
    /// The URL that is asked, without its query (which may hold a key).
    pub upstream: String,
    /// The names of the request's headers.
    pub request_headers: Vec<String>,
    /// The whole value of `Cache-Status`.
    pub cache_status: Option<String>,
}

impl LogFields {
    /// The facts of a request's head.
    pub fn of(request: &RequestHead) -> LogFields {
        LogFields { method: request.method.to_string(), route: truncate(&request.path), ..LogFields::default() }
    }

    /// Adds what came of it.
    pub fn record(&mut self, status: u16, cache_status: &CacheStatus) {
        self.status = Some(status);
        self.outcome = Some(cache_status.outcome);
        self.reason = cache_status.reason;
        if let Some(debug) = &mut self.debug {
            debug.cache_status = Some(cache_status.to_header_value());
        }
    }
}

/// What the edge measured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measurements {
    /// Milliseconds from the request to its reply's head.
    pub ms: u64,
    /// Milliseconds of those that the upstream took; `None`: it was not asked.
    pub upstream_ms: Option<u64>,
    /// How often the upstream was asked again.
    pub retries: u32,
    /// Size of the answer's body, if it is known.
    pub bytes: Option<u64>,
    /// The part that the request had in a flight.
    pub coalesce_role: Option<CoalesceRole>,
    /// Milliseconds that it waited for another's answer.
    pub waited_ms: Option<u64>,
}

/// A request's part in a flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CoalesceRole {
    /// Its question was asked.
    Leader,
    /// It got the answer of another's.
    Follower,
}

/// Where log lines go.
pub trait LogSink {
    /// Writes the line of an exchange and counts it. `stored`: whether the response was stored, where that was tried.
    fn write(&self, fields: &LogFields, measurements: &Measurements, stored: Result<(), Reason>);
    /// An exchange has ended without a line: a defect.
    fn unfinished(&self, fields: &LogFields);
}

/// The log line of one exchange, to be written exactly once: by [`ExchangeLog::finish`], or by whoever it is delegated to.
#[must_use]
pub struct ExchangeLog {
    fields: LogFields,
    sink: Option<Rc<dyn LogSink>>,
}

impl ExchangeLog {
    /// The log of an exchange that has begun.
    pub fn new(fields: LogFields, sink: Rc<dyn LogSink>) -> ExchangeLog {
        ExchangeLog { fields, sink: Some(sink) }
    }

    /// What is known so far.
    pub fn fields(&self) -> &LogFields {
        &self.fields
    }

    /// What is known so far, to be added to.
    pub fn fields_mut(&mut self) -> &mut LogFields {
        &mut self.fields
    }

    /// Writes the line.
    pub fn finish(mut self, measurements: &Measurements, stored: Result<(), Reason>) {
        if let Some(sink) = self.sink.take() {
            sink.write(&self.fields, measurements, stored);
        }
    }

    /// Another part of the program writes the line: the task that stores the response, or the Durable Object.
    pub fn delegate(mut self) {
        self.sink = None;
    }

    /// There is no line: liveness probes are not logged.
    pub fn discard(mut self) {
        self.sink = None;
    }
}

impl Drop for ExchangeLog {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.unfinished(&self.fields);
        }
    }
}

#[derive(Serialize)]
struct LogLine<'a> {
    method: &'a str,
    route: &'a str,
    provider: &'a str,
    model: Option<&'a str>,
    status: Option<u16>,
    cache: Option<&'a str>,
    reason: Option<&'a str>,
    key: Option<String>,
    ms: u64,
    upstream_ms: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u32,
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coalesce_role: Option<CoalesceRole>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_stored: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<&'a DebugFields>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// As much of a path or a name as is written.
pub fn truncate(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

/// The log line around the milliseconds that the request took: what comes before their number, and what after it.
pub fn line_around_ms(log_fields: &LogFields, measurements: Measurements) -> (String, String) {
    let line = line(log_fields, Measurements { ms: 0, ..measurements }, Ok(()));
    // No text inside the line has a quotation mark that is not escaped.
    let (before, after) = line.split_once(r#""ms":0,"upstream_ms""#).unwrap_or((&line, ""));
    (format!(r#"{before}"ms":"#), format!(r#","upstream_ms"{after}"#))
}

/// The log line. `stored`: what came of storing the answer, where that was tried.
pub fn line(log_fields: &LogFields, measurements: Measurements, stored: Result<(), Reason>) -> String {
    let line = LogLine {
        method: &log_fields.method,
        route: &log_fields.route,
        provider: &log_fields.provider,
        model: log_fields.model.as_deref(),
        status: log_fields.status,
        cache: log_fields.outcome.map(CacheOutcome::as_str),
        reason: log_fields.reason.or(stored.err()).map(Reason::as_str),
        key: log_fields.key.map(|key| key.to_string().chars().take(12).collect()),
        ms: measurements.ms,
        upstream_ms: measurements.upstream_ms,
        retries: measurements.retries,
        bytes: measurements.bytes,
        coalesce_role: measurements.coalesce_role,
        waited_ms: measurements.waited_ms,
        // What the first reason would hide.
        not_stored: stored.err().filter(|why| log_fields.reason.is_some_and(|first| first != *why)).map(Reason::as_str),
        debug: log_fields.debug.as_ref(),
    };
    // Strings and numbers always serialise.
    serde_json::to_string(&line).unwrap_or_default()
}
