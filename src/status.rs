//! The words for what the cache did and why: one enum each, with total maps to the header and log tokens.

use crate::key::Key;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the cache did, as `X-Cache-Status` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
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

impl Outcome {
    /// The value of `X-Cache-Status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Hit => "HIT",
            Outcome::Miss => "MISS",
            Outcome::Bypass => "BYPASS",
            Outcome::Expired => "EXPIRED",
            Outcome::Refresh => "REFRESH",
            Outcome::Stale => "STALE",
            Outcome::Updating => "UPDATING",
            Outcome::Coalesced => "COALESCED",
        }
    }
}

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

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $token:literal,)*) => {
        /// Why: the `detail` parameter of `Cache-Status` and the `reason` of the log line.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// Its stable token.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $token,)* }
            }
        }
    };
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reason, D::Error> {
        let token = String::deserialize(deserializer)?;
        let named = Reason::ALL.iter().find(|reason| reason.as_str() == token);
        named.copied().ok_or_else(|| serde::de::Error::custom("not a reason"))
    }
}

reasons! {
    /// Only POST is cached.
    Method = "method",
    /// The endpoint changes state, or is not known to compute an answer.
    Endpoint = "endpoint",
    /// The request body is not JSON by its content type.
    ContentType = "content-type",
    /// The request body is compressed.
    ContentEncoding = "content-encoding",
    /// There is no request body.
    BodyEmpty = "body-empty",
    /// The request body is JSON but not an object.
    NotAnObject = "not-an-object",
    /// The request names state that the provider keeps.
    ServerState = "server-state",
    /// Not stored: the answer streams in a grammar that is not known.
    Stream = "stream",
    /// The entry is in the other mode, or lacks the usage that the caller wants, and cannot be converted faithfully.
    NotConvertible = "not-convertible",
    /// A body is larger than `CACHE_MAX_BYTES`.
    TooLarge = "too-large",
    /// The request body is nested too deeply, or has too many members, to be keyed.
    TooComplex = "too-complex",
    /// `Cache-Control: no-store`.
    NoStore = "no-store",
    /// A lifetime of 0: `X-Proxy-TTL`, `CACHE_TTL` or `CACHE_MAX_TTL`.
    TtlZero = "ttl-zero",
    /// `X-Proxy-Refresh: true`.
    Refresh = "refresh",
    /// `Cache-Control: no-cache`.
    NoCache = "no-cache",
    /// The entry is older than `Cache-Control: max-age` allows.
    MaxAge = "max-age",
    /// The entry's lifetime is over.
    Expired = "expired",
    /// The answer was in the memory of the isolate.
    Memory = "memory",
    /// The answer was still in its flight, where the store did not show it yet.
    Flight = "flight",
    /// The entry's lifetime is over, and it answers while the upstream is asked: `STALE_WHILE_REVALIDATE`.
    StaleWhileRevalidate = "stale-while-revalidate",
    /// `RESPOND_WITH_CACHE` is off.
    ReadDisabled = "read-disabled",
    /// `STORE_CACHE` is off.
    StoreDisabled = "store-disabled",
    /// `Cache-Control: only-if-cached`, and there is no usable entry.
    OnlyIfCached = "only-if-cached",
    /// The store did not answer within `STORE_TIMEOUT_MS`.
    StoreTimeout = "store-timeout",
    /// The store failed.
    StoreError = "store-error",
    /// No store is bound.
    StoreMissing = "store-missing",
    /// The stored entry is damaged, of another version, or not sealed with a secret that is known.
    EntryCorrupt = "entry-corrupt",
    /// The upstream could not be reached, or broke off before its answer began.
    UpstreamUnreachable = "upstream-unreachable",
    /// The upstream did not begin its answer within `TIMEOUT`.
    UpstreamTimeout = "upstream-timeout",
    /// The upstream answered with 429 or 5xx, and an entry past its lifetime stands in.
    UpstreamError = "upstream-error",
    /// The body claims to be JSON but is not.
    InvalidJson = "invalid-json",
    /// A control header, or one that belongs in the key, could not be read.
    InvalidHeader = "invalid-header",
    /// The caller shows no token that the proxy knows.
    InvalidToken = "invalid-token",
    /// The caller has asked too often.
    RateLimited = "rate-limited",
    /// A variable could not be read.
    Misconfigured = "misconfigured",
    /// Not stored: the status says that this is no final answer.
    Status = "status",
    /// Not stored: meanwhile a newer answer to the same question has been, or its entry was deleted.
    Superseded = "superseded",
    /// Not stored: the answer is empty.
    AnswerEmpty = "answer-empty",
    /// Not stored: the answer broke off.
    Truncated = "truncated",
    /// Not stored: the answer paused for longer than `IDLE_TIMEOUT`.
    Stalled = "stalled",
    /// Not stored: the answer is not JSON where it should be.
    AnswerNotJson = "answer-not-json",
    /// Not stored: the answer is of a kind that the endpoint does not give.
    AnswerType = "answer-type",
    /// Not stored: the answer carries an error.
    ErrorBody = "error-body",
    /// Not stored: the answer says itself that it is not complete.
    NotCompleted = "not-completed",
    /// Not stored: a filter ended the answer.
    ContentFilter = "content-filter",
}

/// All that is said about one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// What the cache did.
    pub outcome: Outcome,
    /// Why the request went on; `None` on a hit and where the proxy answered by itself.
    pub fwd: Option<Fwd>,
    /// The upstream's status, once it is known.
    pub fwd_status: Option<u16>,
    /// Whether the answer is that of another caller's request.
    pub collapsed: bool,
    /// Seconds of freshness left, below 0 once it is over; `None` where the entry never expires or there is none.
    pub ttl: Option<i64>,
    /// What the question is called, where it has a name.
    pub key: Option<Key>,
    /// Why.
    pub reason: Option<Reason>,
}

impl Report {
    /// A report with nothing but the outcome.
    pub const fn new(outcome: Outcome) -> Self {
        Report { outcome, fwd: None, fwd_status: None, collapsed: false, ttl: None, key: None, reason: None }
    }

    /// A report on a request that the cache lets by.
    pub const fn bypass(fwd: Fwd, reason: Reason) -> Self {
        let mut report = Report::new(Outcome::Bypass);
        report.fwd = Some(fwd);
        report.reason = Some(reason);
        report
    }

    /// This cache's member of `Cache-Status` (RFC 9211).
    pub fn cache_status(&self) -> String {
        let mut value = String::from("reprise");
        // A stored answer that stands in for a failed one was forwarded, and so is no hit (RFC 9211, section 2.1).
        if matches!(self.outcome, Outcome::Hit | Outcome::Stale | Outcome::Updating) && self.fwd.is_none() {
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
        let mut report = Report::new(Outcome::Hit);
        report.ttl = Some(30);
        assert_eq!(report.cache_status(), "reprise; hit; ttl=30");
        let mut report = Report::bypass(Fwd::Method, Reason::Method);
        report.fwd_status = Some(200);
        assert_eq!(report.cache_status(), "reprise; fwd=method; fwd-status=200; detail=method");
    }

    #[test]
    fn every_reason_is_documented() {
        let readme = include_str!("../README.md");
        for reason in Reason::ALL {
            assert!(readme.contains(&format!("`{}`", reason.as_str())), "{}", reason.as_str());
        }
    }

    #[test]
    fn every_reason_has_its_own_token() {
        let mut tokens: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), Reason::ALL.len());
        let token = |t: &str| t.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        assert!(tokens.iter().all(|t| token(t)));
    }
}
