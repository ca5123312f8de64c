//! Why the cache did what it did.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $token:literal,)*) => {
        /// Why: the `detail` parameter of `Cache-Status` and the `reason` of the log line.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The reason with this token.
            pub fn from_token(token: &str) -> Option<Reason> {
                Reason::ALL.iter().copied().find(|reason| reason.as_str() == token)
            }

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
        Reason::from_token(&token).ok_or_else(|| serde::de::Error::custom("not a reason"))
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
    /// The coalescer still had the response, where the store did not show it yet.
    Coalesced = "coalesced",
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
    ResponseEmpty = "answer-empty",
    /// Not stored: the answer broke off.
    Truncated = "truncated",
    /// Not stored: the answer paused for longer than `IDLE_TIMEOUT`.
    Stalled = "stalled",
    /// Not stored: the answer is not JSON where it should be.
    ResponseNotJson = "answer-not-json",
    /// Not stored: the answer is of a kind that the endpoint does not give.
    ResponseType = "answer-type",
    /// Not stored: the answer carries an error.
    ErrorBody = "error-body",
    /// Not stored: the answer says itself that it is not complete.
    NotCompleted = "not-completed",
    /// Not stored: a filter ended the answer.
    ContentFilter = "content-filter",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_documented() {
        let readme = include_str!("../../README.md");
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
