//! Counters in Prometheus' text format 0.0.4, in base units.

use crate::status::{CacheOutcome, Reason};
use crate::telemetry::exchange_log::{LogFields, Measurements};
use std::fmt::Write;

/// The counters of this isolate.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By outcome and status. There are few enough for a linear search.
    requests: Vec<(&'static str, u16, u64)>,
    /// By the reason in `Cache-Status`.
    reasons: Vec<(&'static str, u16, u64)>,
    /// Responses that were not stored, by reason.
    not_stored: Vec<(&'static str, u16, u64)>,
    bytes: u64,
    upstream_requests: u64,
    upstream_ms: u64,
    retries: u64,
    fast_path_hits: u64,
}

impl Metrics {
    /// Counters at zero.
    pub const fn new() -> Metrics {
        Metrics {
            requests: Vec::new(),
            reasons: Vec::new(),
            not_stored: Vec::new(),
            bytes: 0,
            upstream_requests: 0,
            upstream_ms: 0,
            retries: 0,
            fast_path_hits: 0,
        }
    }

    /// Counts a hit of the fast path.
    pub fn count_fast_path(&mut self, log_fields: &LogFields, measurements: &Measurements) {
        self.count(log_fields, measurements, Ok(()));
        add(&mut self.fast_path_hits, 1);
    }

    /// Counts a request whose log line is written.
    pub fn count(&mut self, log_fields: &LogFields, measurements: &Measurements, stored: Result<(), Reason>) {
        let cache = log_fields.outcome.map_or("NONE", CacheOutcome::as_str);
        increment(&mut self.requests, cache, log_fields.status.unwrap_or(0));
        if let Some(reason) = log_fields.reason {
            increment(&mut self.reasons, reason.as_str(), 0);
        }
        if let Err(reason) = stored {
            increment(&mut self.not_stored, reason.as_str(), 0);
        }
        add(&mut self.bytes, measurements.bytes.unwrap_or(0));
        add(&mut self.retries, u64::from(measurements.retries));
        if let Some(ms) = measurements.upstream_ms {
            add(&mut self.upstream_requests, 1);
            add(&mut self.upstream_ms, ms);
        }
    }

    /// The text of `/metrics`.
    pub fn text(&self) -> String {
        let mut out = String::new();
        family(&mut out, "requests", "Requests by what the cache did and the status");
        for (cache, status, n) in &self.requests {
            let _ = writeln!(out, "reprise_requests_total{{cache=\"{cache}\",status=\"{status}\"}} {n}");
        }
        family(&mut out, "reasons", "Requests by the reason that Cache-Status gave");
        for (reason, _, n) in &self.reasons {
            let _ = writeln!(out, "reprise_reasons_total{{reason=\"{reason}\"}} {n}");
        }
        family(&mut out, "not_stored", "Responses that were not stored, by the reason");
        for (reason, _, n) in &self.not_stored {
            let _ = writeln!(out, "reprise_not_stored_total{{reason=\"{reason}\"}} {n}");
        }
        for (name, help, n) in [
            ("response_bytes", "Bytes of responses whose length was known", self.bytes),
            ("upstream_requests", "Requests that were forwarded to the upstream", self.upstream_requests),
            ("upstream_retries", "Retries of failed upstream requests", self.retries),
            ("fast_path_hits", "Hits that were served without parsing the request again", self.fast_path_hits),
        ] {
            family(&mut out, name, help);
            let _ = writeln!(out, "reprise_{name}_total {n}");
        }
        family(&mut out, "upstream_seconds", "Seconds until the upstream's response heads");
        let (seconds, ms) = (self.upstream_ms / 1000, self.upstream_ms % 1000);
        let _ = writeln!(out, "reprise_upstream_seconds_total {seconds}.{ms:03}");
        out
    }
}

fn family(out: &mut String, name: &str, help: &str) {
    let _ = writeln!(out, "# HELP reprise_{name}_total {help}, of this isolate since it began.");
    let _ = writeln!(out, "# TYPE reprise_{name}_total counter");
}

fn increment(counters: &mut Vec<(&'static str, u16, u64)>, word: &'static str, status: u16) {
    match counters.iter_mut().find(|counter| counter.0 == word && counter.1 == status) {
        Some(counter) => add(&mut counter.2, 1),
        None => counters.push((word, status, 1)),
    }
}

fn add(counter: &mut u64, n: u64) {
    *counter = counter.saturating_add(n);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_status_and_reason() {
        let mut metrics = Metrics::new();
        let log_fields = LogFields {
            status: Some(200),
            outcome: Some(CacheOutcome::Miss),
            reason: Some(Reason::StoreTimeout),
            ..LogFields::default()
        };
        let measurements =
            Measurements { bytes: Some(7), upstream_ms: Some(30), retries: 2, ..Measurements::default() };
        metrics.count(&log_fields, &measurements, Err(Reason::Truncated));
        metrics.count(&log_fields, &Measurements::default(), Ok(()));
        let text = metrics.text();
        for line in [
            "reprise_requests_total{cache=\"MISS\",status=\"200\"} 2",
            "reprise_reasons_total{reason=\"store-timeout\"} 2",
            "reprise_not_stored_total{reason=\"truncated\"} 1",
            "reprise_response_bytes_total 7",
            "reprise_upstream_seconds_total 0.030",
            "reprise_upstream_requests_total 1",
            "reprise_upstream_retries_total 2",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        let families = text.lines().filter(|line| line.starts_with("# HELP"));
        assert!(families.clone().count() == 8 && families.clone().all(|line| line.contains("isolate")));
    }
}
