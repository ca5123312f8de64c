//! The cache's result: the values of `X-Cache-Status` and `Cache-Status` (RFC 9211).

use super::reason::Reason;
use crate::key::CacheKey;
use serde::{Deserialize, Serialize};

/// The cache's result: `X-Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheOutcome {
    /// A stored response was served.
    Hit,
    /// There was no usable entry; the request was forwarded.
    Miss,
    /// The request bypassed the cache.
    Bypass,
    /// The entry was stale; the request was forwarded.
    Expired,
    /// The client requested a new response; the request was forwarded and the entry replaced.
    Refresh,
    /// A stale response was served, because the upstream failed or the request must not be forwarded.
    Stale,
    /// A stale response was served, and is revalidated in the background.
    Updating,
    /// The response is that to an equal request which was in flight.
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

/// Why a request was forwarded (RFC 9211, section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fwd {
    /// The cache does not handle this request.
    Bypass,
    /// The method's semantics require it.
    Method,
    /// No entry under this key.
    UriMiss,
    /// An entry was fresh, but the request's directives did not allow its use.
    Request,
    /// The entry was stale.
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

/// This cache's part of `Cache-Status` for one exchange, and its `X-Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus {
    /// The cache's result.
    pub outcome: CacheOutcome,
    /// Why the request was forwarded. `None`: it was a hit, or the proxy responded by itself.
    pub fwd: Option<Fwd>,
    /// The status of the upstream's response, once it is known.
    pub fwd_status: Option<u16>,
    /// Whether the response is that to another client's request.
    pub collapsed: bool,
    /// Remaining freshness in seconds, negative if the entry is stale. `None`: there is no entry, or it never expires.
    pub ttl: Option<i64>,
    /// The cache key, if the request has one.
    pub key: Option<CacheKey>,
    /// Why.
    pub reason: Option<Reason>,
}

impl CacheStatus {
    /// A status with nothing but the outcome.
    pub const fn new(outcome: CacheOutcome) -> Self {
        CacheStatus { outcome, fwd: None, fwd_status: None, collapsed: false, ttl: None, key: None, reason: None }
    }

    /// The status of a request that bypasses the cache.
    pub const fn bypass(fwd: Fwd, reason: Reason) -> Self {
        let mut cache_status = CacheStatus::new(CacheOutcome::Bypass);
        cache_status.fwd = Some(fwd);
        cache_status.reason = Some(reason);
        cache_status
    }

    /// This cache's member of `Cache-Status` (RFC 9211).
    pub fn to_header_value(self) -> String {
        let mut value = String::from("reprise");
        // Where the upstream failed, the request was forwarded, so the stale response is not a hit (RFC 9211, section 2.1).
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
    fn is_a_member_of_rfc_9211() {
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
