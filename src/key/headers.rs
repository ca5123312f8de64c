//! Which header plays which part: on the way up, in the key, in the store.

use crate::http::fields::{collect, starts_with_any};
use crate::http::forwarding::is_forwarded;
use crate::http::media_type::essence;
use http::HeaderMap;

/// Names of credentials that need no rule.
const CREDENTIALS: [&str; 5] = ["authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"];

/// Whether a request header says who asks: the known ones, and whatever calls itself a key, a token or a secret, so
/// that an unknown provider's callers are kept apart too.
pub fn is_credential(name: &str) -> bool {
    if !is_forwarded(name) || name == "idempotency-key" || name == "x-idempotency-key" {
        return false;
    }
    CREDENTIALS.contains(&name)
        || ["key", "token", "secret"].iter().any(|ending| name.ends_with(ending))
        || ["auth", "jwt", "password"].iter().any(|word| name.contains(word))
}

/// Families of headers that choose a version, a model, a route or an account.
const KEYED_PREFIXES: [&str; 17] = [
    "openai-",
    "anthropic-",
    "x-goog-",
    "x-model",
    "x-provider",
    "x-portkey-",
    "helicone-",
    "x-litellm-",
    "x-openrouter-",
    "x-venice-",
    "x-target-",
    "x-upstream",
    "x-base-url",
    "x-deployment",
    "x-ms-",
    "azureml-",
    "x-amzn-bedrock-",
];

/// Single names of the same kind; `origin` because a browser's answer carries its permission to be read.
const KEYED: [&str; 9] = [
    "api-version",
    "x-api-version",
    "origin",
    "prefer",
    "extra-parameters",
    "x-bill-to",
    "x-use-cache",
    "x-wait-for-model",
    "x-compute-type",
];

/// Telemetry that shares a family's name.
const TELEMETRY: [&str; 4] = ["x-goog-api-client", "x-ms-client-request-id", "x-ms-date", "x-ms-useragent"];

/// How a header that names an account ends.
const ACCOUNT_ENDINGS: [&str; 4] = ["account-id", "org-id", "tenant-id", "organization-id"];

/// Whether a request header changes answers by its name alone (`accept` and `content-type` do by their value).
pub fn is_keyed(name: &str) -> bool {
    let account = ACCOUNT_ENDINGS.iter().any(|ending| name.ends_with(ending));
    let named = account || KEYED.contains(&name) || starts_with_any(name, &KEYED_PREFIXES);
    named && !TELEMETRY.contains(&name) && !is_credential(name) && is_forwarded(name)
}

/// Whether a header that belongs in the key has lost bytes on its way: where the platform could not read them as UTF-8,
/// different values look alike.
pub fn has_lossy_utf8(request: &HeaderMap) -> bool {
    const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
    let keyed = |name: &str| is_credential(name) || is_keyed(name) || name == "accept";
    let lost = |value: &[u8]| value.windows(REPLACEMENT.len()).any(|window| window == REPLACEMENT);
    request.iter().any(|(name, value)| keyed(name.as_str()) && lost(value.as_bytes()))
}

/// The request headers that change answers, for the key: (name, value), in order of name.
pub fn key_headers(request: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let special = |name: &str| match name {
        "accept" => !accepts_default_types(request),
        "content-type" => essence(request) != "application/json",
        _ => false,
    };
    collect(request, &|name| is_keyed(name) || special(name))
}

/// Whether the caller would take what every endpoint gives by itself. Clients differ in how they say that.
fn accepts_default_types(request: &HeaderMap) -> bool {
    const DEFAULT_TYPES: [&str; 4] = ["*/*", "application/json", "text/event-stream", "application/octet-stream"];
    request
        .get_all(http::header::ACCEPT)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|range| std::str::from_utf8(range).ok())
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .any(|range| DEFAULT_TYPES.iter().any(|usual| range.eq_ignore_ascii_case(usual)))
}

/// Request headers that are new with every request, and that no step before the upstream looks at: a name, or the
/// beginning of one where it ends in `*`.
pub const FAST_PATH_IGNORED_HEADERS: [&str; 16] = [
    "cf-*",
    "x-forwarded-*",
    "x-real-ip",
    "true-client-ip",
    "cdn-loop",
    "forwarded",
    "via",
    "traceparent",
    "tracestate",
    "baggage",
    "x-request-id",
    "x-client-request-id",
    "x-correlation-id",
    "idempotency-key",
    "x-idempotency-key",
    "x-stainless-retry-count",
];

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn tells_credentials_from_telemetry() {
        for name in [
            "authorization",
            "x-api-key",
            "api-key",
            "x-goog-api-key",
            "cookie",
            "x-auth-token",
            "ocp-apim-subscription-key",
            "helicone-auth",
        ] {
            assert!(is_credential(name), "{name}");
        }
        for name in
            ["idempotency-key", "user-agent", "x-stainless-lang", "traceparent", "x-request-id", "proxy-authorization"]
        {
            assert!(!is_credential(name), "{name}");
        }
    }

    #[test]
    fn accept_counts_only_where_it_is_particular() {
        for usual in ["*/*", "application/json", "application/json, text/plain, */*", "text/event-stream;q=1"] {
            assert!(key_headers(&map(&[("accept", usual)])).is_empty(), "{usual}");
        }
        assert_eq!(key_headers(&map(&[("accept", "audio/mpeg")])).len(), 1);
        assert!(key_headers(&map(&[("content-type", "application/json; charset=utf-8")])).is_empty());
        assert_eq!(key_headers(&map(&[("content-type", "application/foo+json")])).len(), 1);
    }
}
