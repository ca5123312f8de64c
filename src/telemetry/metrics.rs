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

    /// All counters: the name and labels of each sample, and its value. Times are in milliseconds.
    pub fn samples(&self) -> Vec<(String, u64)> {
        let mut samples = Vec::new();
        for (cache, status, n) in &self.requests {
            samples.push((format!("requests{{cache=\"{cache}\",status=\"{status}\"}}"), *n));
        }
        for (family, counters) in [("reasons", &self.reasons), ("not_stored", &self.not_stored)] {
            for (reason, _, n) in counters {
                samples.push((format!("{family}{{reason=\"{reason}\"}}"), *n));
            }
        }
        for (family, n) in [
            ("response_bytes", self.bytes),
            ("upstream_requests", self.upstream_requests),
            ("upstream_retries", self.retries),
            ("fast_path_hits", self.fast_path_hits),
            (SECONDS, self.upstream_ms),
        ] {
            samples.push((family.to_owned(), n));
        }
        samples
    }

    /// The text of `/metrics` for this isolate.
    pub fn text(&self) -> String {
        text(&self.samples(), "of this isolate since it began")
    }
}

/// The family whose samples are in milliseconds and whose text is in seconds.
const SECONDS: &str = "upstream_seconds";
/// The families, and what they count.
const FAMILIES: [(&str, &str); 8] = [
    ("requests", "Requests by what the cache did and the status"),
    ("reasons", "Requests by the reason that Cache-Status gave"),
    ("not_stored", "Responses that were not stored, by the reason"),
    ("response_bytes", "Bytes of responses whose length was known"),
    ("upstream_requests", "Requests that were forwarded to the upstream"),
    ("upstream_retries", "Retries of failed upstream requests"),
    ("fast_path_hits", "Hits that were served without parsing the request again"),
    (SECONDS, "Seconds until the upstream's response heads"),
];

/// The text of `/metrics`. `samples`: as in [`Metrics::samples`]. `scope`: whose they are.
pub fn text(samples: &[(String, u64)], scope: &str) -> String {
    const LABELLED: [&str; 3] = ["requests", "reasons", "not_stored"];
    let mut out = String::new();
    for (family, help) in FAMILIES {
        let _ = writeln!(out, "# HELP reprise_{family}_total {help}, {scope}.");
        let _ = writeln!(out, "# TYPE reprise_{family}_total counter");
        if !LABELLED.contains(&family) {
            let n = samples.iter().find(|(sample, _)| sample == family).map_or(0, |(_, n)| *n);
            let _ = match family {
                SECONDS => writeln!(out, "reprise_{family}_total {}.{:03}", n / 1000, n % 1000),
                _ => writeln!(out, "reprise_{family}_total {n}"),
            };
        }
        for (sample, n) in samples {
            if let Some(labels) = sample.strip_prefix(family).filter(|rest| rest.starts_with('{')) {
                let _ = writeln!(out, "reprise_{family}_total{labels} {n}");
            }
        }
    }
    out
}

/// What counters have grown by since an earlier reading.
pub fn growth(samples: &[(String, u64)], before: &[(String, u64)]) -> Vec<(String, u64)> {
    let grown = samples.iter().map(|(sample, n)| {
        let earlier = before.iter().find(|(name, _)| name == sample).map_or(0, |(_, n)| *n);
        (sample.clone(), n.saturating_sub(earlier))
    });
    grown.filter(|(_, n)| *n > 0).collect()
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
        assert_eq!(text, super::text(&metrics.samples(), "of this isolate since it began"));
        let families = text.lines().filter(|line| line.starts_with("# HELP"));
        assert!(super::text(&[], "of nobody").contains("\nreprise_fast_path_hits_total 0\n"));
        let before = metrics.samples();
        metrics.count(&log_fields, &Measurements::default(), Ok(()));
        let mut growth = growth(&metrics.samples(), &before);
        growth.sort();
        let expected = [("reasons{reason=\"store-timeout\"}", 1), ("requests{cache=\"MISS\",status=\"200\"}", 1)];
        assert_eq!(growth, expected.map(|(sample, n)| (sample.to_owned(), n)));
        assert!(families.clone().count() == 8 && families.clone().all(|line| line.contains("isolate")));
    }
}
