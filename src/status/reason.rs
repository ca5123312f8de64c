//! Why the cache did what it did: the values of `detail` in `Cache-Status`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $token:literal,)*) => {
        /// Why: the `detail` parameter of `Cache-Status` and the `reason` of the log line.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The reason with this token.
            pub fn from_token(token: &str) -> Option<Reason> {
                Reason::ALL.iter().copied().find(|reason| reason.as_str() == token)
            }

            /// The stable token.
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
    /// The method is not POST.
    Method = "method",
    /// The endpoint changes state, or is not known to be cacheable.
    Endpoint = "endpoint",
    /// The request's content type is not JSON.
    ContentType = "content-type",
    /// The request body is compressed, or the response has a content coding other than gzip and br.
    ContentEncoding = "content-encoding",
    /// The request has no body.
    BodyEmpty = "body-empty",
    /// The request body is JSON, but not an object.
    NotAnObject = "not-an-object",
    /// The request references state that the provider keeps, or creates a job.
    ServerState = "server-state",
    /// Not stored: the response is a stream, and its protocol is not known.
    Stream = "stream",
    /// The stored response cannot be converted to the mode that the client requested, or lacks the usage that it requested.
    NotConvertible = "not-convertible",
    /// The body of the request or of the response is larger than `CACHE_MAX_BYTES`.
    TooLarge = "too-large",
    /// The request body is nested too deeply, or has too many members.
    TooComplex = "too-complex",
    /// The response is sampled: neither `temperature` 0 nor a seed (`CACHE_WHEN`).
    Sampled = "sampled",
    /// The client sent `Cache-Control: no-store`.
    NoStore = "no-store",
    /// The lifetime is 0, by `X-Proxy-TTL`, `CACHE_TTL` or `CACHE_MAX_TTL`.
    TtlZero = "ttl-zero",
    /// The client sent `X-Proxy-Refresh: true`.
    Refresh = "refresh",
    /// The client sent `Cache-Control: no-cache`.
    NoCache = "no-cache",
    /// The entry is older than the client's `Cache-Control: max-age`.
    MaxAge = "max-age",
    /// The entry has expired.
    Expired = "expired",
    /// The response came from the isolate's memory.
    Memory = "memory",
    /// The response came from the Durable Object, before the store showed it.
    Coalesced = "coalesced",
    /// The entry has expired, and is served while it is revalidated (`STALE_WHILE_REVALIDATE`).
    StaleWhileRevalidate = "stale-while-revalidate",
    /// `RESPOND_WITH_CACHE` is off.
    ReadDisabled = "read-disabled",
    /// `STORE_CACHE` is off.
    StoreDisabled = "store-disabled",
    /// The client sent `Cache-Control: only-if-cached`, and there is no usable entry.
    OnlyIfCached = "only-if-cached",
    /// The store did not respond within `STORE_TIMEOUT_MS`.
    StoreTimeout = "store-timeout",
    /// The store failed.
    StoreError = "store-error",
    /// No store is bound.
    StoreMissing = "store-missing",
    /// The stored entry is damaged, has another version, or cannot be decrypted with any known secret.
    EntryCorrupt = "entry-corrupt",
    /// The upstream could not be reached, or the connection failed before the response began.
    UpstreamUnreachable = "upstream-unreachable",
    /// The upstream did not begin to respond within `TIMEOUT`.
    UpstreamTimeout = "upstream-timeout",
    /// The upstream responded with 429 or 5xx, and a stale response is served instead.
    UpstreamError = "upstream-error",
    /// The content type is JSON, and the body is not.
    InvalidJson = "invalid-json",
    /// A control header is invalid, or a header of the cache key or of the response is not UTF-8.
    InvalidHeader = "invalid-header",
    /// The client's proxy token is missing or wrong.
    InvalidToken = "invalid-token",
    /// The client has exceeded the rate limit.
    RateLimited = "rate-limited",
    /// A variable is invalid.
    Misconfigured = "misconfigured",
    /// Not stored: the status is not that of a complete, final response.
    Status = "status",
    /// Not stored: a newer response for the same cache key has been stored, or the entry has been deleted.
    Superseded = "superseded",
    /// Not stored: the response body is empty.
    ResponseEmpty = "response-empty",
    /// Not stored: `Vary` is `*` or names a header that is not part of the cache key.
    Vary = "vary",
    /// Not stored: the body is neither JSON nor a stream and has no length, so a truncated one would look complete.
    LengthUnknown = "length-unknown",
    /// Not stored: the response was truncated.
    Truncated = "truncated",
    /// Not stored: the response paused for longer than `IDLE_TIMEOUT`.
    Stalled = "stalled",
    /// Not stored: the response should be JSON, and is not.
    ResponseNotJson = "response-not-json",
    /// Not stored: the response has a content type that the endpoint does not produce.
    ResponseType = "response-type",
    /// Not stored: the response contains an error.
    ErrorBody = "error-body",
    /// Not stored: the response says that it is not complete.
    NotCompleted = "not-completed",
    /// Not stored: the response ran out of tokens (`CACHE_ADMISSION`).
    Incomplete = "incomplete",
    /// Not stored: the request is in JSON mode, and the text of the response is not JSON (`CACHE_ADMISSION`).
    InvalidJsonAnswer = "invalid-json-answer",
    /// Not stored: the arguments of a function call are not JSON (`CACHE_ADMISSION`).
    InvalidToolArguments = "invalid-tool-arguments",
    /// Not stored: a content filter ended the response.
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
