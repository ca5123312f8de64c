//! The words for what the cache did and why: one enum each, with total maps to the header and log tokens.

use super::reason::Reason;
use crate::key::CacheKey;
use serde::{Deserialize, Serialize};

/// What the cache did, as `X-Cache-Status` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheOutcome {
    /// Answered from the cache.
    Hit,
    /// Not in the cache; the upstream was asked.
    Miss,
    /// The cache took no part in the answer.
    Bypass,
    /// An entry was there but too old; the upstream was asked.
    Expired,
    /// The caller wanted a new answer; the upstream was asked and the entry replaced.
    Refresh,
    /// Answered from the cache with an entry past its lifetime, because the upstream could not or may not be asked.
    Stale,
    /// Answered from the cache with an entry past its lifetime, while the upstream is asked for the next callers.
    Updating,
    /// The upstream was being asked the same already; its answer is shared.
    Coalesced,
}

impl CacheOutcome {
    /// The value of `X-Cache-Status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            CacheOutcome::Hit => "HIT",
            CacheOutcome::Miss => "MISS",
            CacheOutcome::Bypass => "BYPASS",
            CacheOutcome::Expired => "EXPIRED",
            CacheOutcome::Refresh => "REFRESH",
            CacheOutcome::Stale => "STALE",
            CacheOutcome::Updating => "UPDATING",
            CacheOutcome::Coalesced => "COALESCED",
        }
    }
}

/// The largest integer of a structured field (RFC 9651, section 3.3.1).
const MAX_INTEGER: i64 = 999_999_999_999_999;

/// Why a request went on to the upstream: RFC 9211, section 2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fwd {
    /// The cache is set up not to handle this request.
    Bypass,
    /// The method's semantics require it.
    Method,
    /// No entry under this key.
    UriMiss,
    /// An entry was fresh, but the request's directives did not allow its use.
    Request,
    /// An entry was there but stale.
    Stale,
}

impl Fwd {
    /// The token of the `fwd` parameter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fwd::Bypass => "bypass",
            Fwd::Method => "method",
            Fwd::UriMiss => "uri-miss",
            Fwd::Request => "request",
            Fwd::Stale => "stale",
        }
    }
}

/// All that is said about one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus {
    /// What the cache did.
    pub outcome: CacheOutcome,
    /// Why the request went on; `None` on a hit and where the proxy answered by itself.
    pub fwd: Option<Fwd>,
    /// The upstream's status, once it is known.
    pub fwd_status: Option<u16>,
    /// Whether the answer is that of another caller's request.
    pub collapsed: bool,
    /// Seconds of freshness left, below 0 once it is over; `None` where the entry never expires or there is none.
    pub ttl: Option<i64>,
    /// What the question is called, where it has a name.
    pub key: Option<CacheKey>,
    /// Why.
    pub reason: Option<Reason>,
}

impl CacheStatus {
    /// A report with nothing but the outcome.
    pub const fn new(outcome: CacheOutcome) -> Self {
        CacheStatus { outcome, fwd: None, fwd_status: None, collapsed: false, ttl: None, key: None, reason: None }
    }

    /// A report on a request that the cache lets by.
    pub const fn bypass(fwd: Fwd, reason: Reason) -> Self {
        let mut cache_status = CacheStatus::new(CacheOutcome::Bypass);
        cache_status.fwd = Some(fwd);
        cache_status.reason = Some(reason);
        cache_status
    }

    /// This cache's member of `Cache-Status` (RFC 9211).
    pub fn to_header_value(self) -> String {
        let mut value = String::from("reprise");
        // A stored answer that stands in for a failed one was forwarded, and so is no hit (RFC 9211, section 2.1).
        if matches!(self.outcome, CacheOutcome::Hit | CacheOutcome::Stale | CacheOutcome::Updating)
            && self.fwd.is_none()
        {
            value.push_str("; hit");
        }
        if let Some(fwd) = self.fwd {
            value.push_str("; fwd=");
            value.push_str(fwd.as_str());
        }
        if let Some(status) = self.fwd_status {
            value.push_str(&format!("; fwd-status={status}"));
        }
        if self.collapsed {
            value.push_str("; collapsed");
        }
        if let Some(ttl) = self.ttl {
            let ttl = ttl.clamp(-MAX_INTEGER, MAX_INTEGER);
            value.push_str(&format!("; ttl={ttl}"));
        }
        if let Some(key) = &self.key {
            value.push_str(&format!("; key=\"{key}\""));
        }
        if let Some(reason) = self.reason {
            value.push_str("; detail=");
            value.push_str(reason.as_str());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_rfc_9211() {
        let mut cache_status = CacheStatus::new(CacheOutcome::Hit);
        cache_status.ttl = Some(30);
        assert_eq!(cache_status.to_header_value(), "reprise; hit; ttl=30");
        for (ttl, text) in [(i64::MAX, "999999999999999"), (i64::MIN, "-999999999999999")] {
            cache_status.ttl = Some(ttl);
            assert_eq!(cache_status.to_header_value(), format!("reprise; hit; ttl={text}"));
        }
        let mut cache_status = CacheStatus::bypass(Fwd::Method, Reason::Method);
        cache_status.fwd_status = Some(200);
        assert_eq!(cache_status.to_header_value(), "reprise; fwd=method; fwd-status=200; detail=method");
    }
}
