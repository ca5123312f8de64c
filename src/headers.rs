//! Which header plays which part: on the way up, in the key, in the store.

use http::{HeaderMap, HeaderName};

/// Hop-by-hop headers (RFC 9110, section 7.6.1), which concern one connection only.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that describe the way to us, speak to us, or are made anew for the way on.
const NOT_FORWARDED: [&str; 17] = [
    "host",
    "content-length",
    "expect",
    "cache-control",
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-originating-ip",
    "x-forwarded",
    "cdn-loop",
];

/// Families of the same.
const NOT_FORWARDED_FAMILIES: [&str; 7] =
    ["x-proxy-", "x-forwarded-", "x-original-forwarded-", "x-vercel-", "x-appengine-", "x-envoy-", "cf-"];

/// Whether a request header reaches the upstream.
fn is_forwarded(name: &str) -> bool {
    !HOP_BY_HOP.contains(&name) && !NOT_FORWARDED.contains(&name) && !starts_with_any(name, &NOT_FORWARDED_FAMILIES)
}

/// The headers of a request as the upstream gets them. `upgrade`: the protocol switch itself is passed on (WebSocket).
pub fn forwarded(request: &HeaderMap, upgrade: bool) -> HeaderMap {
    let named = named_by_connection(request);
    let mut out = HeaderMap::with_capacity(request.len());
    for (name, value) in request {
        let switches = upgrade && (name == http::header::UPGRADE);
        if switches || (is_forwarded(name.as_str()) && !named.contains(name)) {
            out.append(name, value.clone());
        }
    }
    out
}

/// What `Connection` names is hop-by-hop too.
fn named_by_connection(request: &HeaderMap) -> Vec<HeaderName> {
    request
        .get_all(http::header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

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
const VARIANT_FAMILIES: [&str; 17] = [
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
const VARIANTS: [&str; 9] = [
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
pub fn is_variant(name: &str) -> bool {
    let account = ACCOUNT_ENDINGS.iter().any(|ending| name.ends_with(ending));
    let named = account || VARIANTS.contains(&name) || starts_with_any(name, &VARIANT_FAMILIES);
    named && !TELEMETRY.contains(&name) && !is_credential(name) && is_forwarded(name)
}

/// Whether a header that belongs in the key has lost bytes on its way: where the platform could not read them as UTF-8,
/// different values look alike.
pub fn is_blurred(request: &HeaderMap) -> bool {
    const LOST: &[u8] = "\u{fffd}".as_bytes();
    let keyed = |name: &str| is_credential(name) || is_variant(name) || name == "accept";
    let lost = |value: &[u8]| value.windows(LOST.len()).any(|window| window == LOST);
    request.iter().any(|(name, value)| keyed(name.as_str()) && lost(value.as_bytes()))
}

/// The request headers that change answers, for the key: (name, value), in order of name.
pub fn variants(request: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let special = |name: &str| match name {
        "accept" => !accepts_the_usual(request),
        "content-type" => essence(request) != "application/json",
        _ => false,
    };
    collect(request, &|name| is_variant(name) || special(name))
}

/// Whether the caller would take what every endpoint gives by itself. Clients differ in how they say that.
fn accepts_the_usual(request: &HeaderMap) -> bool {
    const USUAL: [&str; 4] = ["*/*", "application/json", "text/event-stream", "application/octet-stream"];
    request
        .get_all(http::header::ACCEPT)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|range| std::str::from_utf8(range).ok())
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .any(|range| USUAL.iter().any(|usual| range.eq_ignore_ascii_case(usual)))
}

/// The headers whose name passes, as (name, value), in order of name; the values of one name in their order.
pub fn collect(headers: &HeaderMap, passes: &dyn Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).filter(|name| passes(name)).collect();
    names.sort_unstable();
    let mut pairs = Vec::new();
    for name in names {
        let values = headers.get_all(name).iter();
        pairs.extend(values.map(|value| (name.to_owned(), value.as_bytes().to_vec())));
    }
    pairs
}

/// A header's value, trimmed and in lower case; empty where there is none, and several values joined by commas.
pub fn text(headers: &HeaderMap, name: HeaderName) -> String {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.map(|value| value.trim().to_ascii_lowercase()).collect::<Vec<_>>().join(",")
}

/// What `Content-Length` says.
pub fn content_length(headers: &HeaderMap) -> Option<usize> {
    let value = headers.get(http::header::CONTENT_LENGTH)?;
    // A length that does not fit is certainly too large.
    Some(value.to_str().ok()?.parse().unwrap_or(usize::MAX))
}

/// Whether a header describes the bytes of a body, which a conversion changes.
pub fn describes_bytes(name: &str) -> bool {
    matches!(name, "content-md5" | "content-digest" | "repr-digest" | "digest")
}

/// Response headers that are true of other bytes only: those of an answer that is changed on its way.
pub const OF_OTHER_BYTES: [&str; 8] = [
    "content-length",
    "content-encoding",
    "etag",
    "accept-ranges",
    "content-md5",
    "content-digest",
    "repr-digest",
    "digest",
];

/// Request headers that are new with every request, and that no step before the upstream looks at: a name, or the
/// beginning of one where it ends in `*`.
pub const TELL_NOTHING: [&str; 16] = [
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

/// Whether a request header is one of [`TELL_NOTHING`].
pub fn tells_nothing(name: &str) -> bool {
    TELL_NOTHING.iter().any(|known| match known.strip_suffix('*') {
        Some(family) => name.starts_with(family),
        None => name == *known,
    })
}

/// The media type without parameters, lower case; empty where there is none.
pub fn essence(headers: &HeaderMap) -> String {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// Whether a media type's essence is that of a stream of events.
pub fn is_event_stream(essence: &str) -> bool {
    matches!(essence, "text/event-stream" | "application/x-ndjson")
}

/// Whether a media type is JSON: `application/json` or `*/*+json`.
pub fn is_json(essence: &str) -> bool {
    let structured = |(kind, subtype): (&str, &str)| !kind.is_empty() && subtype.ends_with("+json");
    essence == "application/json" || essence.split_once('/').is_some_and(structured)
}

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
const NOT_STORED_FAMILIES: [&str; 13] = [
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
        && !starts_with_any(name, &NOT_STORED_FAMILIES)
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

fn starts_with_any(name: &str, families: &[&str]) -> bool {
    families.iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn forwards_what_is_end_to_end_and_not_ours() {
        let request = map(&[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("host", "a"),
            ("x-proxy-ttl", "1"),
            ("cache-control", "no-cache"),
            ("cf-ray", "1"),
            ("x-forwarded-for", "1"),
            ("upgrade", "websocket"),
            ("authorization", "Bearer k"),
            ("user-agent", "u"),
        ]);
        let names = |upgrade| {
            let mut names: Vec<_> = forwarded(&request, upgrade).keys().map(|name| name.to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(names(false), ["authorization", "user-agent"]);
        assert_eq!(names(true), ["authorization", "upgrade", "user-agent"]);
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
            assert!(variants(&map(&[("accept", usual)])).is_empty(), "{usual}");
        }
        assert_eq!(variants(&map(&[("accept", "audio/mpeg")])).len(), 1);
        assert!(variants(&map(&[("content-type", "application/json; charset=utf-8")])).is_empty());
        assert_eq!(variants(&map(&[("content-type", "application/foo+json")])).len(), 1);
    }

    #[test]
    fn json_media_types() {
        for yes in ["application/json", "application/problem+json", "text/x+json"] {
            assert!(is_json(yes), "{yes}");
        }
        for no in ["", "application/jsonl", "application/x-ndjson", "+json", "text/json-seq", "multipart/form-data"] {
            assert!(!is_json(no), "{no}");
        }
    }

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
