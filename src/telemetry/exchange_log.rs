//! What is written about an exchange: one line of JSON, without credentials, prompts or answers.

use crate::http::message::RequestHead;
use crate::key::Key;
use crate::status::{Outcome, Reason, Report};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Longest path or model name that is written, in characters.
const LONGEST: usize = 200;

/// What the deciding floor knows about an exchange.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Facts {
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
    pub outcome: Option<Outcome>,
    /// Why.
    pub reason: Option<Reason>,
    /// The question's name.
    pub key: Option<Key>,
    /// More, where `DEBUG` is on.
    pub debug: Option<Debug>,
}

/// What `DEBUG` adds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Debug {
    /// The URL that is asked, without its query (which may hold a key).
    pub upstream: String,
    /// The names of the request's headers.
    pub request_headers: Vec<String>,
    /// The whole value of `Cache-Status`.
    pub cache_status: Option<String>,
}

impl Facts {
    /// The facts of a request's head.
    pub fn of(request: &RequestHead) -> Facts {
        Facts { method: request.method.to_string(), route: short(&request.path), ..Facts::default() }
    }

    /// Adds what came of it.
    pub fn note(&mut self, status: u16, report: &Report) {
        self.status = Some(status);
        self.outcome = Some(report.outcome);
        self.reason = report.reason;
        if let Some(debug) = &mut self.debug {
            debug.cache_status = Some(report.cache_status());
        }
    }
}

/// What the edge measured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measures {
    /// Milliseconds from the request to its reply's head.
    pub ms: u64,
    /// Milliseconds of those that the upstream took; `None`: it was not asked.
    pub upstream_ms: Option<u64>,
    /// How often the upstream was asked again.
    pub retries: u32,
    /// Size of the answer's body, if it is known.
    pub bytes: Option<u64>,
    /// The part that the request had in a flight.
    pub flight: Option<Part>,
    /// Milliseconds that it waited for another's answer.
    pub waited_ms: Option<u64>,
}

/// A request's part in a flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Its question was asked.
    Leader,
    /// It got the answer of another's.
    Follower,
}

#[derive(Serialize)]
struct Line<'a> {
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
    flight: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_stored: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<&'a Debug>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// As much of a path or a name as is written.
pub fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// The log line around the milliseconds that the request took: what comes before their number, and what after it.
pub fn around_ms(facts: &Facts, measures: Measures) -> (String, String) {
    let line = line(facts, Measures { ms: 0, ..measures }, Ok(()));
    // No text inside the line has a quotation mark that is not escaped.
    let (before, after) = line.split_once(r#""ms":0,"upstream_ms""#).unwrap_or((&line, ""));
    (format!(r#"{before}"ms":"#), format!(r#","upstream_ms"{after}"#))
}

/// The log line. `kept`: what came of storing the answer, where that was tried.
pub fn line(facts: &Facts, measures: Measures, kept: Result<(), Reason>) -> String {
    let line = Line {
        method: &facts.method,
        route: &facts.route,
        provider: &facts.provider,
        model: facts.model.as_deref(),
        status: facts.status,
        cache: facts.outcome.map(Outcome::as_str),
        reason: facts.reason.or(kept.err()).map(Reason::as_str),
        key: facts.key.map(|key| key.to_string().chars().take(12).collect()),
        ms: measures.ms,
        upstream_ms: measures.upstream_ms,
        retries: measures.retries,
        bytes: measures.bytes,
        flight: measures.flight,
        waited_ms: measures.waited_ms,
        // What the first reason would hide.
        not_stored: kept.err().filter(|why| facts.reason.is_some_and(|first| first != *why)).map(Reason::as_str),
        debug: facts.debug.as_ref(),
    };
    // Strings and numbers always serialise.
    serde_json::to_string(&line).unwrap_or_default()
}
