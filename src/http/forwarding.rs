//! Which request fields are forwarded to the upstream.

use super::fields::matches_any;
use http::{HeaderMap, HeaderName};

/// Hop-by-hop fields (RFC 9110, section 7.6.1), which concern one connection only.
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

/// Fields that instruct this cache, or that are written anew for the next hop.
const FOR_THIS_PROXY: [&str; 5] = ["host", "content-length", "expect", "cache-control", "x-proxy-*"];

/// Fields that describe the client, its session and its way to this proxy. No step before the upstream reads them. `*` at
/// the end stands for any ending.
pub const CLIENT_AND_ROUTE: [&str; 89] = [
    // Cookies are between a browser and one site; no API client needs them.
    "cookie",
    "cookie2",
    // RFC 7239, RFC 9110 section 7.6.3, RFC 8586, and what came before them.
    "forwarded",
    "forwarded-*",
    "via",
    "cdn-loop",
    "x-forwarded",
    "x-forwarded-*",
    "x-original-forwarded-*",
    "x-original-host",
    "x-original-url",
    "x-original-uri",
    "x-original-proto",
    "x-original-remote-*",
    "x-rewrite-url",
    "x-real-*",
    "x-remote-*",
    "x-client-ip",
    "x-client-geo-*",
    "x-cluster-client-ip",
    "x-originating-ip",
    "true-client-ip",
    "client-ip",
    "proxy-client-ip",
    "wl-proxy-*",
    "x-proxyuser-ip",
    "x-geo-*",
    "x-geoip-*",
    "geoip-*",
    // Content delivery networks and hosting platforms in front of this proxy.
    "cf-*",
    "cloudfront-*",
    "x-amz-cf-*",
    "akamai-*",
    "x-akamai-*",
    "x-edgescape",
    "x-edgescape-*",
    "fastly-*",
    "x-fastly-*",
    "fly-*",
    "x-vercel-*",
    "x-nf-*",
    "x-appengine-*",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-azure-ref",
    "x-azure-fdid",
    "x-arr-*",
    "x-envoy-*",
    "x-railway-*",
    "x-sucuri-*",
    "incap-*",
    "do-connecting-ip",
    "ali-cdn-*",
    "x-cdn-*",
    "x-request-start",
    "x-queue-start",
    "x-scheme",
    "x-nginx-*",
    "x-haproxy-*",
    "x-waws-*",
    "x-appservice-*",
    "x-site-deployment-id",
    "was-default-hostname",
    "disguised-host",
    "x-render-*",
    "rndr-*",
    "x-heroku-*",
    "x-k8s-*",
    "x-istio-*",
    "l5d-*",
    // Sessions and certificates that a gateway in front of this proxy has checked.
    "x-goog-iap-*",
    "x-goog-authenticated-user-*",
    "x-amzn-oidc-*",
    "x-amzn-mtls-*",
    "x-ms-client-principal*",
    "x-ms-token-*",
    "x-auth-request-*",
    "x-authentik-*",
    "x-pomerium-*",
    "x-vouch-*",
    "x-webauth-*",
    "remote-*",
    "tailscale-*",
    "teleport-*",
    "ssl-client-*",
    "x-ssl-*",
    "x-client-cert*",
    "client-cert*",
    "x-forward-*",
];

/// Exceptions to [`CLIENT_AND_ROUTE`]: Cloudflare's AI Gateway is an upstream, and these are for it.
pub const CLIENT_AND_ROUTE_EXCEPTIONS: [&str; 1] = ["cf-aig-*"];

/// Whether a request field reaches the upstream.
pub fn is_forwarded(name: &str) -> bool {
    let about_client = matches_any(name, &CLIENT_AND_ROUTE) || is_client_address(name);
    !HOP_BY_HOP.contains(&name)
        && !matches_any(name, &FOR_THIS_PROXY)
        && (!about_client || matches_any(name, &CLIENT_AND_ROUTE_EXCEPTIONS))
}

/// Whether a field holds a client's address or is a forwarding field, by the words of its name. Each proxy has a name of its
/// own for these, so a list of names cannot be complete.
fn is_client_address(name: &str) -> bool {
    const ADDRESSES: [&str; 6] = ["ip", "ipv4", "ipv6", "ipaddr", "addr", "address"];
    const OWNERS: [&str; 17] = [
        "",
        "ip",
        "client",
        "remote",
        "real",
        "user",
        "proxyuser",
        "socket",
        "source",
        "src",
        "peer",
        "origin",
        "originating",
        "connecting",
        "visitor",
        "host",
        "x",
    ];
    let words = || name.split(['-', '_']);
    if words().any(|word| word == "forwarded") {
        return true;
    }
    let Some(last) = words().next_back() else { return false };
    let before = words().rev().nth(1).unwrap_or_default();
    // An e-mail or postal address is no address of a client, unless the word before says so.
    let is_address = match last {
        "address" => OWNERS.contains(&before),
        _ => ADDRESSES.contains(&last),
    };
    let is_compound = |address: &str| last.strip_suffix(address).is_some_and(|owner| OWNERS.contains(&owner));
    let is_port = last == "port" && matches!(before, "client" | "remote" | "real" | "peer" | "source" | "src");
    is_address || is_port || ADDRESSES.into_iter().any(|address| address != last && is_compound(address))
}

/// The header fields of a request as the upstream gets them. `upgrade`: the protocol switch is passed on (WebSocket).
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

/// The fields that `Connection` names are hop-by-hop too (RFC 9110, section 7.6.1).
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
    fn only_end_to_end_fields_are_forwarded() {
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
    fn client_addresses_are_not_forwarded() {
        for name in [
            "cloudfront-viewer-address",
            "cloudfront-viewer-country",
            "x-akamai-edgescape",
            "x-nf-client-connection-ip",
            "x-proxyuser-ip",
            "wl-proxy-client-ip",
            "client-ip",
            "forwarded-for",
            "x-remote-addr",
            "remote-addr",
            "x-remote-ip",
            "x-real-ip",
            "x-real-port",
            "x-client-ip",
            "x-clientip",
            "clientip",
            "http-client-ip",
            "http_x_forwarded_for",
            "x-originating-ip",
            "x-user-ip",
            "x-source-ip",
            "x-peer-address",
            "client-address",
            "ali-cdn-real-ip",
            "cdn-src-ip",
            "eo-client-ip",
            "eo-connecting-ip",
            "do-connecting-ip",
            "incap-client-ip",
            "x-sucuri-clientip",
            "fastly-client-ip",
            "fly-forwarded-port",
            "x-envoy-external-address",
            "x-azure-clientip",
            "x-azure-socketip",
            "x-appengine-user-ip",
            "x-vercel-ip-city",
            "x-client-geo-location",
            "x-geoip-country",
            "x-arr-clientcert",
            "x-railway-edge",
            "x-ip",
            "cf-connecting-ipv6",
            "cf-pseudo-ipv4",
            "cf-access-jwt-assertion",
            "x-goog-iap-jwt-assertion",
            "x-amzn-oidc-data",
            "cookie",
            "x-request-start",
            "x-nginx-proxy",
            "disguised-host",
            "rndr-id",
            "l5d-dst-canonical",
            "x-ip-address",
            "client-ip-address",
            "x-originating-ip-address",
            "x-ipaddress",
            "x-forward-for",
            "x-auth-request-access-token",
            "x-auth-request-email",
            "x-ms-token-aad-access-token",
            "x-pomerium-jwt-assertion",
            "x-authentik-jwt",
            "remote-user",
            "remote-email",
            "tailscale-user-login",
            "teleport-jwt-assertion",
            "x-amzn-mtls-clientcert-subject",
            "x-ssl-client-dn",
            "client-cert",
            "x-client-cert-chain",
        ] {
            assert!(!is_forwarded(name), "{name}");
        }
    }

    #[test]
    fn fields_that_only_look_like_addresses_are_forwarded() {
        for name in [
            "x-trip",
            "x-zip",
            "x-skip",
            "x-membership",
            "x-email-address",
            "x-provider-port",
            "x-descrip",
            "x-relationship",
            "x-real",
            "cf-aig-cache-ttl",
            "cf-aig-authorization",
            "x-goog-user-project",
            "x-ms-region",
            "azureml-model-deployment",
            "x-client-name",
            "x-amzn-bedrock-guardrailidentifier",
            "openai-organization",
            "origin",
            "x-request-id",
        ] {
            assert!(is_forwarded(name), "{name}");
        }
    }
}
