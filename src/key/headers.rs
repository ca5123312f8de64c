//! Which request header fields are part of the cache key, and which may hold a credential.

use crate::http::fields::{collect, is_lossy, matches_any};
use crate::http::forwarding::{CLIENT_AND_ROUTE, CLIENT_AND_ROUTE_EXCEPTIONS, is_forwarded};
use http::{HeaderMap, HeaderName};

/// The fields that carry a client's credential, besides `?key=`. They make the tenant, so the key has them once.
pub const CREDENTIAL_HEADERS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// Whether a field carries a client's credential.
pub fn is_credential(name: &str) -> bool {
    CREDENTIAL_HEADERS.contains(&name)
}

/// Whether a field may hold a secret by its name: the credentials, and every field that calls itself a key, a token or a
/// secret. Proxy tokens are removed from all of these.
pub fn may_hold_secret(name: &str) -> bool {
    if !is_forwarded(name) || matches_any(name, &UNKEYED_HEADERS) {
        return false;
    }
    is_credential(name)
        || ["key", "token", "secret"].iter().any(|ending| name.ends_with(ending))
        || ["auth", "jwt", "password"].iter().any(|word| name.contains(word))
}

/// Forwarded fields that never change a response: telemetry, and what concerns one hop or one attempt. Every other forwarded
/// field is keyed, because a list of the fields that do change responses cannot be complete. `*` at the end stands for any
/// ending.
pub const UNKEYED_HEADERS: [&str; 30] = [
    "user-agent",
    "content-length",
    "accept-encoding",
    "x-stainless-*",
    "x-fern-*",
    "x-goog-api-client",
    "x-server-timeout",
    "x-ms-client-request-id",
    "x-ms-date",
    "x-ms-useragent",
    "idempotency-key",
    "x-idempotency-key",
    "x-request-id",
    "x-client-request-id",
    "x-correlation-id",
    "traceparent",
    "tracestate",
    "baggage",
    "sentry-trace",
    "b3",
    "x-b3-*",
    "x-datadog-*",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "http-referer",
    "x-title",
    "x-openrouter-title",
    "sec-*",
    "priority",
    "pragma",
];

/// Whether a request field is part of the key by its name. (`accept`, `accept-language` and `content-type` are by their values.)
pub fn is_keyed(name: &str) -> bool {
    is_forwarded(name) && !is_credential(name) && !matches_any(name, &UNKEYED_HEADERS)
}

/// Whether a field of the key is not UTF-8, so that different values become equal.
pub fn has_lossy_value(request: &HeaderMap) -> bool {
    let keyed = |name: &str| is_credential(name) || is_keyed(name);
    request.iter().any(|(name, value)| keyed(name.as_str()) && is_lossy(value.as_bytes()))
}

/// The fields of a forwarded request that are part of its key: (name, value), in order of name. `stream`: the request is for a
/// stream. `ignored`: names that the operator or the client leaves out.
pub fn key_headers(request: &HeaderMap, stream: bool, ignored: &[&str]) -> Vec<(String, Vec<u8>)> {
    collect(request, &|name| match name {
        _ if ignored.contains(&name) => false,
        "accept" => !accepts_default(request, stream),
        // JavaScript's fetch adds `*`, which means the same as no field (RFC 9110, section 12.5.4).
        "accept-language" => single_value(request, http::header::ACCEPT_LANGUAGE).as_deref() != Some("*"),
        "content-type" => !is_plain_json(request),
        _ => is_keyed(name),
    })
}

/// Whether `Accept` names what the endpoint responds with anyway. Official clients send `application/json` with requests for
/// a stream too. Every other value, with weights or with several types, may choose another representation (RFC 9110, section
/// 12.5.1).
fn accepts_default(request: &HeaderMap, stream: bool) -> bool {
    match single_value(request, http::header::ACCEPT).as_deref() {
        Some("*/*" | "application/json") => true,
        Some("text/event-stream") => stream,
        _ => false,
    }
}

/// The value of a field that came once, in lower case.
fn single_value(request: &HeaderMap, name: HeaderName) -> Option<String> {
    let mut values = request.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim().to_ascii_lowercase();
    values.next().is_none().then_some(value)
}

/// Whether `Content-Type` is `application/json` in UTF-8, which JSON is by definition (RFC 8259, section 8.1).
fn is_plain_json(request: &HeaderMap) -> bool {
    let value = single_value(request, http::header::CONTENT_TYPE).unwrap_or_default();
    let mut parts = value.split(';').map(str::trim);
    let utf8 = |parameter: &str| matches!(parameter, "" | "charset=utf-8" | "charset=\"utf-8\"" | "charset=utf8");
    parts.next() == Some("application/json") && parts.all(utf8)
}

/// The request fields that the fast path leaves out of its comparison: neither the key nor any decision before the upstream
/// depends on them. `*` at the end stands for any ending, `!` at the beginning for an exception.
pub fn fast_path_ignored_headers() -> impl Iterator<Item = String> {
    // The length decides whether the body is read.
    let unkeyed = UNKEYED_HEADERS.iter().filter(|name| **name != "content-length");
    let ignored = unkeyed.chain(&CLIENT_AND_ROUTE).map(|pattern| (*pattern).to_owned());
    ignored.chain(CLIENT_AND_ROUTE_EXCEPTIONS.iter().map(|pattern| format!("!{pattern}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    fn names(pairs: &[(&'static str, &str)], stream: bool) -> Vec<String> {
        key_headers(&map(pairs), stream, &[]).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn secrets_are_recognised_by_name() {
        for name in [
            "authorization",
            "x-api-key",
            "api-key",
            "x-goog-api-key",
            "x-auth-token",
            "ocp-apim-subscription-key",
            "helicone-auth",
        ] {
            assert!(may_hold_secret(name), "{name}");
        }
        for name in [
            "idempotency-key",
            "user-agent",
            "x-stainless-lang",
            "traceparent",
            "x-request-id",
            "proxy-authorization",
            "sec-websocket-key",
            "cookie",
        ] {
            assert!(!may_hold_secret(name), "{name}");
        }
    }

    #[test]
    fn every_end_to_end_field_is_keyed() {
        for name in [
            "groq-model-version",
            "x-policy-id",
            "accepts",
            "openai-beta",
            "anthropic-version",
            "anthropic-beta",
            "openai-organization",
            "x-goog-user-project",
            "api-version",
            "origin",
            "accept-language",
            "x-auth-token",
            "x-sort-key",
            "x-ms-region",
            "x-openrouter-categories",
            "x-model-id",
            "x-session-id",
            "cf-aig-cache-ttl",
            "ext-test",
            "x-dashscope-plugin",
            "modal-key",
            "x-amzn-bedrock-guardrailidentifier",
            "x-use-cache",
            "prefer",
            "range",
            "x-http-method-override",
            "referer",
        ] {
            assert_eq!(names(&[(name, "v")], false), [name], "{name}");
            let differs = |value: &str| key_headers(&map(&[(name, value)]), false, &[]);
            assert_ne!(differs("a"), differs("b"), "{name}");
        }
    }

    #[test]
    fn telemetry_and_hop_fields_are_not_keyed() {
        for name in [
            "user-agent",
            "x-stainless-retry-count",
            "x-stainless-timeout",
            "x-stainless-helper-method",
            "x-fern-sdk-version",
            "x-goog-api-client",
            "x-ms-client-request-id",
            "x-idempotency-key",
            "traceparent",
            "x-b3-traceid",
            "x-datadog-trace-id",
            "sec-fetch-mode",
            "sec-ch-ua",
            "x-title",
            "http-referer",
            "x-forwarded-for",
            "cf-ray",
            "cookie",
            "via",
            "connection",
            "x-proxy-ttl",
            "cache-control",
            "authorization",
            "x-api-key",
        ] {
            assert!(names(&[(name, "v")], false).is_empty(), "{name}");
        }
    }

    #[test]
    fn accept_is_keyed_unless_it_is_the_default() {
        for default in ["*/*", "application/json", " Application/JSON "] {
            assert!(names(&[("accept", default)], false).is_empty(), "{default}");
            assert!(names(&[("accept", default)], true).is_empty(), "{default}");
        }
        assert!(names(&[("accept", "text/event-stream")], true).is_empty());
        assert_eq!(names(&[("accept", "text/event-stream")], false), ["accept"]);
        for other in [
            "audio/mpeg",
            "application/json;q=0.1, text/csv",
            "application/json, text/plain, */*",
            "text/event-stream;q=1",
            "application/json; charset=iso-8859-1",
            "application/octet-stream",
        ] {
            assert_eq!(names(&[("accept", other)], true), ["accept"], "{other}");
        }
    }

    #[test]
    fn accept_language_is_keyed_unless_it_is_any() {
        assert!(names(&[("accept-language", "*")], false).is_empty());
        for other in ["de", "*;q=0.5", "de, *"] {
            assert_eq!(names(&[("accept-language", other)], false), ["accept-language"], "{other}");
        }
    }

    #[test]
    fn content_type_is_keyed_unless_it_is_json_in_utf8() {
        for plain in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\""] {
            assert!(names(&[("content-type", plain)], false).is_empty(), "{plain}");
        }
        for other in ["application/foo+json", "application/json; charset=utf-16", "application/json; profile=x"] {
            assert_eq!(names(&[("content-type", other)], false), ["content-type"], "{other}");
        }
    }

    #[test]
    fn ignored_names_are_left_out() {
        let request = map(&[("x-session-id", "1"), ("openai-beta", "b")]);
        let keyed = key_headers(&request, false, &["x-session-id"]);
        assert_eq!(keyed, [("openai-beta".to_owned(), b"b".to_vec())]);
    }

    #[test]
    fn the_fast_path_ignores_no_keyed_field() {
        let all: Vec<String> = fast_path_ignored_headers().collect();
        let (exceptions, ignored): (Vec<&String>, Vec<&String>) = all.iter().partition(|name| name.starts_with('!'));
        for name in ignored {
            for ending in ["", "ip", "token", "session", "key"] {
                let name = name.replace('*', ending);
                let excepted = exceptions.iter().any(|exception| name.starts_with(exception.trim_matches(['!', '*'])));
                assert!(excepted || !is_keyed(&name), "{name}");
            }
        }
    }
}
