//! The log line of an exchange: JSON, without credentials, prompts or response bodies.

use crate::http::message::RequestHead;
use crate::key::CacheKey;
use crate::ledger::counters::Record;
use crate::protocol::usage::Usage;
use crate::status::{CacheOutcome, CacheStatus, Reason};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::rc::Rc;

/// The longest path or model name that is logged, in characters.
const MAX_CHARS: usize = 200;

/// The fields of an exchange's log line that the core sets.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LogFields {
    /// The request's method.
    pub method: String,
    /// The request's path, without the query, which may hold a key.
    pub route: String,
    /// The provider's name. Empty: the request has no upstream.
    pub provider: Cow<'static, str>,
    /// The name of the endpoint. Empty: it is not one that computes a response.
    #[serde(default)]
    pub endpoint: Cow<'static, str>,
    /// The model that the request names.
    pub model: Option<String>,
    /// The namespace of the cache key, which the ledger counts by and the line leaves out.
    #[serde(default)]
    pub namespace: String,
    /// The status that the client gets.
    pub status: Option<u16>,
    /// The cache's result.
    pub outcome: Option<CacheOutcome>,
    /// Why.
    pub reason: Option<Reason>,
    /// The cache key.
    pub key: Option<CacheKey>,
    /// What the stored response had cost, if one was served.
    #[serde(default)]
    pub saved: Option<Saved>,
    /// When the response was stored and expires, if it was served from the store or is stored.
    #[serde(default)]
    pub entry: Option<EntryTimes>,
    /// More fields, if `DEBUG` is on.
    pub debug: Option<DebugFields>,
}

/// When a response was stored, and when it expires, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EntryTimes {
    /// When it was stored.
    pub stored_at: u64,
    /// When it expires. `None`: never.
    pub expires_at: Option<u64>,
}

/// What the upstream took for a response when it was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Saved {
    /// Tokens.
    pub usage: Usage,
    /// Milliseconds.
    pub ms: Option<u64>,
}

/// What `DEBUG` adds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DebugFields {
    /// The upstream URL, without the query, which may hold a key.
    pub upstream: String,
    /// The names of the request's headers.
    pub request_headers: Vec<String>,
    /// The whole value of `Cache-Status`.
    pub cache_status: Option<String>,
}

impl LogFields {
    /// The fields that a request's head determines.
    pub fn of(request: &RequestHead) -> LogFields {
        LogFields { method: request.method.to_string(), route: truncate(&request.path), ..LogFields::default() }
    }

    /// What the ledger counts. `None`: the request could not have been proxied.
    pub fn ledger_record(&self, measurements: &Measurements, stored: Result<(), Reason>) -> Option<Record<'_>> {
        const FREE: [&str; 2] = ["count_tokens", "moderations"];
        let outcome = self.outcome?;
        let is_success = self.status.is_some_and(|status| (200..300).contains(&status));
        // What those who read the running response of another request save is counted at its end.
        let is_read_along = measurements.coalesce_role == Some(CoalesceRole::Follower) && self.saved.is_none();
        let waited_ms = measurements.waited_ms.unwrap_or(0);
        Some(Record {
            outcome: outcome.as_str(),
            reason: self.reason.or(stored.err()).map_or("", Reason::as_str),
            requests: 1,
            is_charged: is_success
                && !is_read_along
                && !self.endpoint.is_empty()
                && !FREE.contains(&self.endpoint.as_ref()),
            bytes: measurements.bytes.unwrap_or(0),
            saved: self.saved.map(|saved| (saved.usage, saved.ms.unwrap_or(0).saturating_sub(waited_ms))),
            spent: (measurements.spent, measurements.upstream_ms.unwrap_or(0)),
            ..self.ledger_row()
        })
    }

    /// What the ledger counts at the end of a response that others have read along. `usage`: of all of these together.
    pub fn ledger_record_shared(&self, usage: Usage) -> Record<'_> {
        Record {
            outcome: CacheOutcome::Coalesced.as_str(),
            reason: self.reason.map_or("", Reason::as_str),
            saved: Some((usage, 0)),
            ..self.ledger_row()
        }
    }

    fn ledger_row(&self) -> Record<'_> {
        Record {
            provider: &self.provider,
            endpoint: &self.endpoint,
            model: self.model.as_deref().unwrap_or_default(),
            namespace: &self.namespace,
            key: self.key,
            entry: self.entry.map(|entry| (entry.stored_at, entry.expires_at)),
            ..Record::default()
        }
    }

    /// Adds the outcome.
    pub fn record(&mut self, status: u16, cache_status: &CacheStatus) {
        self.status = Some(status);
        self.outcome = Some(cache_status.outcome);
        self.reason = cache_status.reason;
        if let Some(debug) = &mut self.debug {
            debug.cache_status = Some(cache_status.to_header_value());
        }
    }
}

/// The platform's measurements of an exchange.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measurements {
    /// Milliseconds from the request to the head of the response.
    pub ms: u64,
    /// Milliseconds of these that the upstream took. `None`: the request was not forwarded.
    pub upstream_ms: Option<u64>,
    /// The number of retries of the upstream request.
    pub retries: u32,
    /// The size of the response body, if it is known.
    pub bytes: Option<u64>,
    /// The request's role, if it was coalesced.
    pub coalesce_role: Option<CoalesceRole>,
    /// Milliseconds that a follower waited for the leader's response.
    pub waited_ms: Option<u64>,
    /// The tokens that the upstream charged for its response.
    pub spent: Usage,
}

/// A request's role in a coalesced fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CoalesceRole {
    /// It was forwarded.
    Leader,
    /// It got the response to the leader's request.
    Follower,
}

/// A sink of log lines.
pub trait LogSink {
    /// Writes the line of an exchange and counts it. `stored`: whether the response was stored, if that was tried.
    fn write(&self, fields: &LogFields, measurements: &Measurements, stored: Result<(), Reason>);
    /// Counts what clients have saved that read the response along. `usage`: of all of them together.
    fn count_shared(&self, fields: &LogFields, usage: Usage);
    /// An exchange has ended without a line: a defect.
    fn unfinished(&self, fields: &LogFields);
}

/// The log line of one exchange. It must be written exactly once: by [`ExchangeLog::finish`], or by the task that it is
/// delegated to.
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

    /// The fields so far.
    pub fn fields(&self) -> &LogFields {
        &self.fields
    }

    /// The fields so far, mutable.
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
    input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
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

/// Shortens a path or a name to what is logged.
pub fn truncate(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

/// The log line in two parts, before and after the number of milliseconds that the request took.
pub fn line_around_ms(log_fields: &LogFields, measurements: Measurements) -> (String, String) {
    let line = line(log_fields, Measurements { ms: 0, ..measurements }, Ok(()));
    // Quotation marks inside strings are escaped, so no string can contain this.
    let (before, after) = line.split_once(r#""ms":0,"upstream_ms""#).unwrap_or((&line, ""));
    (format!(r#"{before}"ms":"#), format!(r#","upstream_ms"{after}"#))
}

/// The log line. `stored`: whether the response was stored, if that was tried.
pub fn line(log_fields: &LogFields, measurements: Measurements, stored: Result<(), Reason>) -> String {
    // Those that were saved, where the response was stored.
    let usage = log_fields.saved.map_or(measurements.spent, |saved| saved.usage);
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
        input_tokens: usage.input,
        output_tokens: usage.output,
        coalesce_role: measurements.coalesce_role,
        waited_ms: measurements.waited_ms,
        // Named separately if another reason was given first.
        not_stored: stored.err().filter(|why| log_fields.reason.is_some_and(|first| first != *why)).map(Reason::as_str),
        debug: log_fields.debug.as_ref(),
    };
    // Strings and numbers always serialise.
    serde_json::to_string(&line).unwrap_or_default()
}
