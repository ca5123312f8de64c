//! Which response fields are stored with a response, and which are passed on to the clients that share it.

use crate::http::fields::{matches_any, starts_with_any};
use crate::http::forwarding::HOP_BY_HOP;

/// Response fields that belong to one exchange, one connection or one moment (RFC 9111, section 3.1), not to the response.
/// References are relative to the requested URL.
const NOT_STORED: [&str; 36] = [
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
    "location",
    "content-location",
    "link",
    "refresh",
    "operation-location",
    "azure-asyncoperation",
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

/// Prefixes of the same: CDNs and caches on the way.
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

/// The fields that are stored and shared where all clients are one tenant (`CACHE_SCOPE=shared`): those that describe the
/// response and name no account. A list of account fields cannot be complete.
const STORED_FOR_ALL: [&str; 26] = [
    "content-type",
    "content-language",
    "content-disposition",
    "content-md5",
    "content-digest",
    "repr-digest",
    "digest",
    "access-control-*",
    "cross-origin-resource-policy",
    "timing-allow-origin",
    "x-content-type-options",
    "x-request-id",
    "request-id",
    "x-amzn-requestid",
    "x-amzn-request-id",
    "x-ms-request-id",
    "apim-request-id",
    "openai-model",
    "openai-version",
    "openai-processing-ms",
    "x-envoy-upstream-service-time",
    "x-model",
    "x-model-version",
    "deprecation",
    "sunset",
    "warning",
];

/// Whether a response field is stored. `shared`: other tenants read the entry.
pub fn is_stored(name: &str, shared: bool) -> bool {
    !HOP_BY_HOP.contains(&name)
        && !NOT_STORED.contains(&name)
        && !starts_with_any(name, &NOT_STORED_PREFIXES)
        && !name.contains("ratelimit")
        && !name.contains("rate-limit")
        && (!shared || matches_any(name, &STORED_FOR_ALL))
}

/// Whether a response field is passed on to clients that share the response while it is received. `shared`: they are
/// different tenants.
pub fn is_shared(name: &str, shared: bool) -> bool {
    const FRAMING: [&str; 2] = ["content-encoding", "content-length"];
    const OF_OTHER_STATUSES: [&str; 5] =
        ["retry-after", "retry-after-ms", "www-authenticate", "x-should-retry", "location"];
    is_stored(name, shared) || FRAMING.contains(&name) || OF_OTHER_STATUSES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_of_the_response_itself_are_stored() {
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
    }

    #[test]
    fn a_shared_entry_names_no_account() {
        for no in [
            "openai-organization",
            "openai-project",
            "x-litellm-key-spend",
            "x-litellm-key-max-budget",
            "x-litellm-response-cost",
            "anthropic-organization-id",
            "anthropic-workspace-id",
            "x-groq-organization-id",
            "x-credits-remaining",
            "x-account-balance",
            "x-openrouter-credits",
            "x-kong-consumer-username",
            "x-ms-user-quota-remaining",
            "x-customer-id",
            "x-team-id",
            "x-billing-plan",
            "x-user-email",
            "x-subscription-tier",
            "x-api-key-name",
            "x-portkey-trace-id",
            "x-venice-balance-usd",
        ] {
            assert!(!is_stored(no, true) && !is_shared(no, true), "{no}");
        }
        for yes in
            ["content-type", "x-request-id", "openai-model", "access-control-allow-origin", "content-disposition"]
        {
            assert!(is_stored(yes, true), "{yes}");
        }
        assert!(is_shared("location", true) && !is_stored("location", false));
    }
}
