//! Which request headers reach the upstream.

use super::fields::starts_with_any;
use http::{HeaderMap, HeaderName};

/// Hop-by-hop headers (RFC 9110, section 7.6.1), which concern one connection only.
pub const HOP_BY_HOP: [&str; 10] = [
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

/// Conditional and range headers (RFC 9110, sections 13.1 and 14.2).
pub const CONDITIONAL_HEADERS: [&str; 6] =
    ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range"];

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
const NOT_FORWARDED_PREFIXES: [&str; 7] =
    ["x-proxy-", "x-forwarded-", "x-original-forwarded-", "x-vercel-", "x-appengine-", "x-envoy-", "cf-"];

/// Whether a request header reaches the upstream.
pub fn is_forwarded(name: &str) -> bool {
    !HOP_BY_HOP.contains(&name) && !NOT_FORWARDED.contains(&name) && !starts_with_any(name, &NOT_FORWARDED_PREFIXES)
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
}
