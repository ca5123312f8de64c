//! Retries: whether to retry after a failure, and how long to wait before that.
//!
//! Statuses and waits are those of OpenAI's and Anthropic's official clients (`x-should-retry`, `retry-after-ms`).
//! `Retry-After` is read as in RFC 9110, section 10.2.3. Backoff has full jitter.

use crate::json;
use http::HeaderMap;
use serde_json::Value;
use std::time::UNIX_EPOCH;

/// The operator's configuration of retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// `MAX_RETRIES`: how often a failed request is retried at most.
    pub max_retries: u32,
    /// `BASE_RETRY_DELAY`, in milliseconds: the longest first wait. Each further wait may be twice as long.
    pub base_delay_ms: u64,
    /// `RATE_LIMIT_WAIT`, in milliseconds: the wait after a 429 that states none.
    pub rate_limit_wait_ms: u64,
}

/// Whether a request may be sent twice (RFC 9110, section 9.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetrySafety {
    /// It computes a response without changing state, or its method is idempotent.
    Idempotent,
    /// It may change state. It is retried only if the failure proves that the upstream did not process it.
    OnlyIfUnprocessed,
}

/// The result of an attempt.
#[derive(Debug, Clone, Copy)]
pub enum AttemptResult<'a> {
    /// No response: there was no connection, or it broke.
    NoResponse,
    /// A response.
    Response {
        /// Its HTTP status.
        status: u16,
        /// Its headers.
        headers: &'a HeaderMap,
    },
}

/// When an attempt ended.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// The number of attempts so far, this one included.
    pub attempts: u32,
    /// Milliseconds since 1970.
    pub now: u64,
    /// Milliseconds left of `TIMEOUT`.
    pub left_ms: u64,
    /// A random number from 0 to 1.
    pub random: f64,
}

impl Policy {
    /// The milliseconds to wait before the next attempt; `None`: the client gets this result. No wait is longer than the time
    /// left.
    pub fn wait(&self, retry_safety: RetrySafety, outcome: AttemptResult<'_>, at: Attempt) -> Option<u64> {
        if at.attempts > self.max_retries || !may_retry(retry_safety, outcome) {
            return None;
        }
        let requested = match outcome {
            AttemptResult::NoResponse => None,
            AttemptResult::Response { status, headers } => {
                retry_after(headers, at.now).or_else(|| (status == 429).then_some(self.rate_limit_wait_ms))
            }
        };
        let wait = requested.unwrap_or_else(|| full_jitter(self.backoff_cap(at.attempts), at.random));
        (wait < at.left_ms).then_some(wait)
    }

    /// The milliseconds to wait before a write to a store is retried; `None`: it is not. Never less than the base delay,
    /// because KV takes one write a second for each key.
    pub fn write_retry_delay(&self, attempts: u32, left_ms: u64, random: f64) -> Option<u64> {
        let base = self.base_delay_ms;
        let wait = base.saturating_add(full_jitter(self.backoff_cap(attempts), random));
        (attempts <= self.max_retries && wait < left_ms).then_some(wait)
    }

    fn backoff_cap(&self, attempts: u32) -> u64 {
        let doublings = attempts.saturating_sub(1);
        self.base_delay_ms.saturating_mul(2u64.saturating_pow(doublings))
    }
}

/// A random share of a wait.
fn full_jitter(backoff_cap: u64, random: f64) -> u64 {
    // `as` saturates and cannot fail.
    (backoff_cap as f64 * random) as u64
}

fn may_retry(retry_safety: RetrySafety, outcome: AttemptResult<'_>) -> bool {
    let AttemptResult::Response { status, headers } = outcome else {
        // The Workers runtime does not distinguish a refused connection from a broken one, so this proves nothing.
        return retry_safety == RetrySafety::Idempotent;
    };
    let advice = headers.get("x-should-retry").map(|value| value.as_bytes().to_ascii_lowercase());
    match (retry_safety, advice.as_deref()) {
        (_, Some(b"false")) => false,
        (RetrySafety::Idempotent, Some(b"true")) if status >= 400 => true,
        (RetrySafety::Idempotent, _) => is_transient(status),
        // 521 and 523: Cloudflare's edge could not connect to the upstream.
        (RetrySafety::OnlyIfUnprocessed, _) => {
            matches!(status, 429 | 521 | 523) || (status == 503 && headers.contains_key(http::header::RETRY_AFTER))
        }
    }
}

/// Whether the failure may be transient: the statuses that official clients retry, and those of Cloudflare's edge for an
/// upstream that did not respond.
fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 409 | 429 | 500 | 502 | 503 | 504 | 529 | 520..=526 | 530)
}

/// The wait that the upstream requests, in milliseconds (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: u64) -> Option<u64> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| *number >= 0.0 && number.is_finite());
    // `as` saturates and cannot fail.
    if let Some(ms) = text("retry-after-ms").and_then(number) {
        return Some(ms.ceil() as u64);
    }
    let value = text("retry-after")?;
    if let Some(seconds) = number(value) {
        return Some((seconds * 1000.0).ceil() as u64);
    }
    let date = httpdate::parse_http_date(value).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(u64::try_from(date.as_millis()).ok()?.saturating_sub(now))
}

/// Whether the body of a 429 has OpenAI's code `insufficient_quota`, after which no wait helps.
pub fn is_quota_exhausted(body: &[u8]) -> bool {
    let Some(body) = json::from_slice::<Value>(body) else { return false };
    ["/error/code", "/error/type"].iter().any(|at| body.pointer(at).is_some_and(|word| word == "insufficient_quota"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { max_retries: 5, base_delay_ms: 1_000, rate_limit_wait_ms: 30_000 };
    /// 2015-10-21 07:28:00 UTC.
    const NOW: u64 = 1_445_412_480_000;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn at(attempts: u32, random: f64) -> Attempt {
        Attempt { attempts, now: NOW, left_ms: 300_000, random }
    }

    fn after(retry_safety: RetrySafety, status: u16, pairs: &[(&'static str, &str)]) -> Option<u64> {
        POLICY.wait(retry_safety, AttemptResult::Response { status, headers: &headers(pairs) }, at(1, 0.5))
    }

    fn always(status: u16, pairs: &[(&'static str, &str)]) -> Option<u64> {
        after(RetrySafety::Idempotent, status, pairs)
    }

    fn if_unprocessed(status: u16, pairs: &[(&'static str, &str)]) -> Option<u64> {
        after(RetrySafety::OnlyIfUnprocessed, status, pairs)
    }

    #[test]
    fn only_transient_failures_are_retried() {
        for status in 100..600 {
            let transient = [408, 409, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 529, 530];
            assert_eq!(always(status, &[]).is_some(), transient.contains(&status), "{status}");
        }
    }

    #[test]
    fn an_unsafe_request_is_retried_only_if_it_was_not_processed() {
        for status in 100..600 {
            assert_eq!(if_unprocessed(status, &[]).is_some(), [429, 521, 523].contains(&status), "{status}");
        }
        assert_eq!(if_unprocessed(503, &[("retry-after", "2")]), Some(2_000));
        assert_eq!(if_unprocessed(500, &[("retry-after", "2")]), None);
        assert_eq!(if_unprocessed(500, &[("x-should-retry", "true")]), None);
        assert_eq!(if_unprocessed(429, &[("x-should-retry", "false")]), None);
        let none = POLICY.wait(RetrySafety::OnlyIfUnprocessed, AttemptResult::NoResponse, at(1, 0.5));
        assert_eq!(none, None);
    }

    #[test]
    fn backoff_is_exponential_with_full_jitter() {
        let wait =
            |attempts, random| POLICY.wait(RetrySafety::Idempotent, AttemptResult::NoResponse, at(attempts, random));
        assert_eq!((1..=6).map(|n| wait(n, 1.0)).collect::<Vec<_>>(), {
            [Some(1_000), Some(2_000), Some(4_000), Some(8_000), Some(16_000), None]
        });
        assert_eq!((wait(3, 0.0), wait(3, 0.25)), (Some(0), Some(1_000)));
    }

    #[test]
    fn no_configuration_overflows() {
        let policy = Policy { max_retries: u32::MAX, base_delay_ms: u64::MAX, rate_limit_wait_ms: u64::MAX };
        let at = Attempt { attempts: u32::MAX, now: u64::MAX, left_ms: u64::MAX, random: 0.5 };
        assert!(policy.wait(RetrySafety::Idempotent, AttemptResult::NoResponse, at).is_some());
        assert_eq!(policy.write_retry_delay(u32::MAX, 10_000, 1.0), None);
    }

    #[test]
    fn a_requested_wait_is_used() {
        assert_eq!(always(503, &[("retry-after", "7")]), Some(7_000));
        assert_eq!(always(503, &[("retry-after", "0.25")]), Some(250));
        assert_eq!(always(503, &[("retry-after", "0")]), Some(0));
        assert_eq!(always(503, &[("retry-after", "Wed, 21 Oct 2015 07:28:09 GMT")]), Some(9_000));
        assert_eq!(always(503, &[("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT")]), Some(0));
        assert_eq!(always(503, &[("retry-after", "9"), ("retry-after-ms", "12.5")]), Some(13));
        for unreadable in ["soon", "-1", "NaN", "inf", ""] {
            assert_eq!(always(503, &[("retry-after", unreadable)]), Some(500), "{unreadable}");
        }
        assert_eq!(always(429, &[]), Some(30_000));
        assert_eq!(always(429, &[("retry-after", "1")]), Some(1_000));
    }

    #[test]
    fn x_should_retry_decides() {
        assert_eq!(always(500, &[("x-should-retry", "false")]), None);
        assert!(always(404, &[("x-should-retry", "TRUE")]).is_some());
        assert_eq!(always(200, &[("x-should-retry", "true")]), None);
        assert_eq!(always(404, &[("x-should-retry", "perhaps")]), None);
    }

    #[test]
    fn no_wait_is_longer_than_the_time_left() {
        let wait = |left_ms, value| {
            let headers = headers(&[("retry-after", value)]);
            let outcome = AttemptResult::Response { status: 503, headers: &headers };
            POLICY.wait(RetrySafety::Idempotent, outcome, Attempt { left_ms, ..at(1, 0.5) })
        };
        assert_eq!((wait(5_001, "5"), wait(5_000, "5"), wait(300_000, "1e300")), (Some(5_000), None, None));
    }

    #[test]
    fn writes_to_one_key_are_a_second_apart() {
        assert_eq!(POLICY.write_retry_delay(1, 60_000, 0.0), Some(1_000));
        assert_eq!(POLICY.write_retry_delay(3, 60_000, 1.0), Some(5_000));
        assert_eq!(POLICY.write_retry_delay(6, 60_000, 0.0), None);
        assert_eq!(POLICY.write_retry_delay(1, 900, 0.0), None);
    }

    #[test]
    fn an_exhausted_quota_is_recognised() {
        assert!(is_quota_exhausted(
            br#"{"error":{"message":"m","type":"insufficient_quota","code":"insufficient_quota"}}"#
        ));
        assert!(is_quota_exhausted(br#"{"error":{"code":"insufficient_quota"}}"#));
        assert!(is_quota_exhausted(br#"{"error":{"type":"insufficient_quota","code":null}}"#));
        for other in [&br#"{"error":{"code":"rate_limit_exceeded"}}"#[..], b"", b"insufficient_quota", b"[]", b"{}"] {
            assert!(!is_quota_exhausted(other));
        }
    }
}
