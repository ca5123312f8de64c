//! Which response headers are stored with a response, and which are shared while it comes in.

use crate::http::fields::starts_with_any;
use crate::http::forwarding::HOP_BY_HOP;

/// Response headers that belong to one exchange, one connection or one moment rather than to the answer.
const NOT_STORED: [&str; 30] = [
    "set-cookie",
    "set-cookie2",
    "content-encoding",
    "content-length",
    "date",
    "age",
    "expires",
    "cache-control",
    "pragma",
    "vary",
    "etag",
    "last-modified",
    "accept-ranges",
    "content-range",
    "retry-after",
    "server",
    "server-timing",
    "via",
    "alt-svc",
    "nel",
    "report-to",
    "reporting-endpoints",
    "strict-transport-security",
    "www-authenticate",
    "authentication-info",
    "clear-site-data",
    "cache-status",
    "x-cache-status",
    "x-served-by",
    "x-should-retry",
];

/// Families of the same: CDNs and caches on the way.
const NOT_STORED_PREFIXES: [&str; 13] = [
    "cf-",
    "cdn-",
    "x-cache",
    "x-amz-cf-",
    "x-akamai-",
    "akamai-",
    "x-fastly-",
    "fastly-",
    "x-vercel-",
    "x-envoy-",
    "x-timer",
    "fly-",
    "x-azure-ref",
];

/// Whether a response header is kept with the answer. `shared`: the entry will be read by others than its asker.
pub fn is_stored(name: &str, shared: bool) -> bool {
    let personal = shared && (name.ends_with("-organization") || name.ends_with("-organization-id"));
    !HOP_BY_HOP.contains(&name)
        && !NOT_STORED.contains(&name)
        && !starts_with_any(name, &NOT_STORED_PREFIXES)
        && !name.contains("ratelimit")
        && !name.contains("rate-limit")
        && !personal
}

/// Whether a response header is for all who share an answer while it comes in. `shared`: they are not one party.
pub fn is_shared(name: &str, shared: bool) -> bool {
    const FRAMING: [&str; 2] = ["content-encoding", "content-length"];
    const OF_ERRORS: [&str; 4] = ["retry-after", "retry-after-ms", "www-authenticate", "x-should-retry"];
    is_stored(name, shared) || FRAMING.contains(&name) || OF_ERRORS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_what_belongs_to_the_answer() {
        for yes in [
            "content-type",
            "x-request-id",
            "request-id",
            "openai-model",
            "openai-organization",
            "access-control-allow-origin",
        ] {
            assert!(is_stored(yes, false), "{yes}");
        }
        for no in [
            "set-cookie",
            "x-ratelimit-limit-requests",
            "anthropic-ratelimit-tokens-reset",
            "connection",
            "content-encoding",
            "content-length",
            "date",
            "cf-ray",
            "cf-cache-status",
            "transfer-encoding",
        ] {
            assert!(!is_stored(no, false), "{no}");
        }
        assert!(!is_stored("openai-organization", true));
    }
}
