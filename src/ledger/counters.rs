//! The counts of an isolate since its last batch.

use crate::key::CacheKey;
use crate::protocol::usage::Usage;
use serde::Serialize;

const HOUR_MS: u64 = 3_600_000;
/// How many rows and how many entries are counted until a batch is taken. Others are left out, so totals may be low.
const MAX_ROWS: usize = 2_000;
/// How many numbers a row has.
const NUMBERS: usize = 13;

/// A request that is counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Record<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// The endpoint's name; empty: it is not one that computes a response.
    pub endpoint: &'a str,
    /// The model that the request named, or an empty string.
    pub model: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// What the cache did, and why.
    pub outcome: &'static str,
    /// Why; empty: no reason was given.
    pub reason: &'static str,
    /// The cache key, if the request has one.
    pub key: Option<CacheKey>,
    /// When its entry was stored and expires, in milliseconds since 1970, if there is one.
    pub entry: Option<(u64, Option<u64>)>,
    /// How many requests there were. 0: only tokens are added.
    pub requests: u64,
    /// Whether the response was one that tokens are charged for.
    pub is_charged: bool,
    /// Bytes of the response's body.
    pub bytes: u64,
    /// What a stored or shared response had cost.
    pub saved: Option<(Usage, u64)>,
    /// What the upstream charged, and how long it took, in milliseconds.
    pub spent: (Usage, u64),
}

impl Record<'_> {
    /// Requests, requests without known usage, bytes, tokens saved and spent (input, output, cached input, cache write),
    /// milliseconds saved and spent.
    fn numbers(&self) -> [u64; NUMBERS] {
        let (saved, saved_ms) = self.saved.unwrap_or_default();
        let (spent, spent_ms) = self.spent;
        let unmetered = self.is_charged && saved == Usage::default() && spent == Usage::default();
        let n = Option::unwrap_or_default;
        [
            self.requests,
            u64::from(unmetered),
            self.bytes,
            n(saved.input),
            n(saved.output),
            n(saved.cached_input),
            n(saved.cache_write),
            n(spent.input),
            n(spent.output),
            n(spent.cached_input),
            n(spent.cache_write),
            saved_ms,
            spent_ms,
        ]
    }
}

/// What requests of one kind in one hour have added up to.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    /// Hours since 1970.
    hour: u64,
    provider: String,
    endpoint: String,
    model: String,
    namespace: String,
    outcome: &'static str,
    reason: &'static str,
    numbers: [u64; NUMBERS],
}

/// What the requests of one cache key have added up to.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct EntryRow {
    key: CacheKey,
    provider: String,
    endpoint: String,
    model: String,
    namespace: String,
    requests: u64,
    hits: u64,
    /// Tokens saved: input, output.
    tokens: [u64; 2],
    /// Milliseconds saved.
    ms: u64,
    /// Size of the last response, in bytes.
    bytes: u64,
    /// When it was last requested, in milliseconds since 1970.
    last_at: u64,
    /// When it was stored, likewise. 0: unknown.
    stored_at: u64,
    /// When it expires, likewise. 0: never, or unknown.
    expires_at: u64,
}

/// Where a request has been counted, for equal ones.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    batch: u64,
    hour: u64,
    row: Option<usize>,
    entry: Option<usize>,
}

/// The counts since the last batch.
#[derive(Debug, Default)]
pub struct Counters {
    rows: Vec<Row>,
    entries: Vec<EntryRow>,
    batch: u64,
}

impl Counters {
    /// Nothing counted.
    pub const fn new() -> Counters {
        Counters { rows: Vec::new(), entries: Vec::new(), batch: 0 }
    }

    /// Counts a request at `now` (milliseconds since 1970). `slot`: where an equal one was counted.
    pub fn count(&mut self, record: &Record<'_>, now: u64, slot: Option<Slot>) -> Slot {
        let hour = now / HOUR_MS;
        let slot = slot.filter(|slot| slot.batch == self.batch && slot.hour == hour).unwrap_or_else(|| Slot {
            batch: self.batch,
            hour,
            row: self.row(record, hour),
            entry: record.key.and_then(|key| self.entry(record, key)),
        });
        let numbers = record.numbers();
        if let Some(row) = slot.row.and_then(|at| self.rows.get_mut(at)) {
            row.numbers.iter_mut().zip(numbers).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        }
        if let Some(entry) = slot.entry.and_then(|at| self.entries.get_mut(at)) {
            let add = |sum: &mut u64, n: u64| *sum = sum.saturating_add(n);
            add(&mut entry.requests, record.requests);
            if let Some((usage, ms)) = record.saved {
                add(&mut entry.hits, record.requests);
                let tokens = [usage.input, usage.output].map(Option::unwrap_or_default);
                entry.tokens.iter_mut().zip(tokens).for_each(|(sum, n)| add(sum, n));
                add(&mut entry.ms, ms);
            }
            entry.bytes = record.bytes.max(entry.bytes);
            entry.last_at = now;
            if let Some((stored_at, expires_at)) = record.entry {
                entry.stored_at = stored_at;
                entry.expires_at = expires_at.unwrap_or(0);
            }
        }
        slot
    }

    fn row(&mut self, record: &Record<'_>, hour: u64) -> Option<usize> {
        let is_same = |row: &Row| {
            row.hour == hour
                && row.outcome == record.outcome
                && row.reason == record.reason
                && row.model == record.model
                && row.endpoint == record.endpoint
                && row.provider == record.provider
                && row.namespace == record.namespace
        };
        let found = self.rows.iter().position(is_same);
        found.or_else(|| {
            let row = || Row {
                hour,
                provider: record.provider.to_owned(),
                endpoint: record.endpoint.to_owned(),
                model: record.model.to_owned(),
                namespace: record.namespace.to_owned(),
                outcome: record.outcome,
                reason: record.reason,
                numbers: [0; NUMBERS],
            };
            push(&mut self.rows, row)
        })
    }

    fn entry(&mut self, record: &Record<'_>, key: CacheKey) -> Option<usize> {
        let found = self.entries.iter().position(|entry| entry.key == key);
        found.or_else(|| {
            let entry = || EntryRow {
                key,
                provider: record.provider.to_owned(),
                endpoint: record.endpoint.to_owned(),
                model: record.model.to_owned(),
                namespace: record.namespace.to_owned(),
                requests: 0,
                hits: 0,
                tokens: [0; 2],
                ms: 0,
                bytes: 0,
                last_at: 0,
                stored_at: 0,
                expires_at: 0,
            };
            push(&mut self.entries, entry)
        })
    }

    /// Takes what has been counted, as JSON, and begins a new batch. `totals`: what the counters of `/metrics` have grown by.
    /// `None`: there is nothing.
    pub fn take(&mut self, totals: &[(String, u64)]) -> Option<String> {
        #[derive(Serialize)]
        struct Batch<'a> {
            rows: &'a [Row],
            entries: &'a [EntryRow],
            totals: &'a [(String, u64)],
        }
        if self.rows.is_empty() && totals.is_empty() {
            return None;
        }
        let json = serde_json::to_string(&Batch { rows: &self.rows, entries: &self.entries, totals }).ok();
        self.rows.clear();
        self.entries.clear();
        self.batch = self.batch.wrapping_add(1);
        json
    }
}

fn push<T>(list: &mut Vec<T>, item: impl FnOnce() -> T) -> Option<usize> {
    let at = list.len();
    (at < MAX_ROWS).then(|| {
        list.push(item());
        at
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn hit() -> Record<'static> {
        Record {
            provider: "openai",
            endpoint: "chat/completions",
            model: "gpt-4o",
            outcome: "HIT",
            reason: "memory",
            key: CacheKey::from_hex(&"a".repeat(64)),
            requests: 1,
            entry: Some((5, None)),
            is_charged: true,
            bytes: 10,
            saved: Some((Usage { input: Some(3), output: Some(2), cached_input: Some(1), ..Usage::default() }, 40)),
            ..Record::default()
        }
    }

    fn taken(counters: &mut Counters) -> Value {
        serde_json::from_str(&counters.take(&[]).unwrap()).unwrap()
    }

    #[test]
    fn equal_requests_add_up_in_one_row() {
        let mut counters = Counters::new();
        let slot = counters.count(&hit(), 3_600_000, None);
        counters.count(&hit(), 3_600_001, Some(slot));
        counters.count(&hit(), 3_600_002, None);
        let batch = taken(&mut counters);
        assert_eq!(
            batch["rows"],
            json!([{
                "hour": 1, "provider": "openai", "endpoint": "chat/completions", "model": "gpt-4o", "namespace": "",
                "outcome": "HIT", "reason": "memory", "numbers": [3, 0, 30, 9, 6, 3, 0, 0, 0, 0, 0, 120, 0]
            }])
        );
        let entry = &batch["entries"][0];
        assert_eq!((&entry["requests"], &entry["hits"], &entry["tokens"]), (&json!(3), &json!(3), &json!([9, 6])));
        assert_eq!((&entry["bytes"], &entry["last_at"]), (&json!(10), &json!(3_600_002)));
        assert_eq!((&entry["stored_at"], &entry["expires_at"]), (&json!(5), &json!(0)));
        assert_eq!(counters.take(&[]), None);
    }

    #[test]
    fn a_slot_of_another_batch_or_hour_is_not_used() {
        let mut counters = Counters::new();
        let slot = counters.count(&hit(), 0, None);
        counters.count(&hit(), HOUR_MS, Some(slot));
        assert_eq!(taken(&mut counters)["rows"].as_array().unwrap().len(), 2);
        counters.count(&Record { model: "other", ..hit() }, 0, None);
        counters.count(&hit(), 0, Some(slot));
        let rows = taken(&mut counters)["rows"].clone();
        assert_eq!(rows[1]["model"], "gpt-4o");
        assert_eq!((&rows[0]["numbers"][0], &rows[1]["numbers"][0]), (&json!(1), &json!(1)));
    }

    #[test]
    fn a_charged_response_without_usage_is_unmetered() {
        let mut counters = Counters::new();
        counters.count(&Record { saved: None, outcome: "MISS", ..hit() }, 0, None);
        counters.count(&Record { saved: None, outcome: "MISS", is_charged: false, ..hit() }, 0, None);
        assert_eq!(taken(&mut counters)["rows"][0]["numbers"], json!([2, 1, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn the_number_of_rows_is_limited() {
        let mut counters = Counters::new();
        for n in 0..=MAX_ROWS {
            counters.count(&Record { model: &n.to_string(), ..hit() }, 0, None);
        }
        assert_eq!(taken(&mut counters)["rows"].as_array().unwrap().len(), MAX_ROWS);
    }
}
