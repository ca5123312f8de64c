//! The credential that goes upstream: the client's own, or else the operator's key.
//!
//! Proxy tokens have been removed from the request before ([`crate::auth::client`]).

use crate::http::fields::is_empty;
use crate::http::message::RequestHead;
use crate::key::headers as key_headers;
use crate::routing::route::Target;
use http::{HeaderName, HeaderValue};

/// The field with the operator's key, if the request carries no credential of its own. Empty credentials are then removed, so
/// that all clients without one are the same tenant.
pub fn inject_operator_key(target: &Target, request: &mut RequestHead) -> Option<(HeaderName, HeaderValue)> {
    let key = target.upstream.key.as_ref()?;
    let in_query = |pair: &str| pair.strip_prefix("key=").is_some_and(|key| !key.is_empty());
    let in_url = request.query.as_deref().is_some_and(|query| query.split('&').any(in_query));
    let is_credential = |name: &HeaderName| key_headers::is_credential(name.as_str());
    let in_header =
        |(name, value): (&HeaderName, &HeaderValue)| is_credential(name) && !is_empty(name.as_str(), value.as_bytes());
    if in_url || is_in_protocol(request) || request.headers.iter().any(in_header) {
        return None;
    }
    let empty: Vec<HeaderName> = request.headers.keys().filter(|name| is_credential(name)).cloned().collect();
    for name in empty {
        request.headers.remove(name);
    }
    target.upstream.auth_style.header(key, &target.url)
}

/// Whether a browser's WebSocket carries a key where a script can put one (OpenAI's realtime API).
fn is_in_protocol(request: &RequestHead) -> bool {
    let named = request.headers.get(http::header::SEC_WEBSOCKET_PROTOCOL);
    let named = named.filter(|_| request.headers.contains_key(http::header::UPGRADE));
    named.and_then(|protocols| protocols.to_str().ok()).is_some_and(|protocols| protocols.contains("api-key"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::providers::Upstream;
    use crate::config::secret::HeaderSecret as Secret;
    use http::{HeaderMap, Method};
    use std::rc::Rc;
    use url::Url;

    fn sent(key: Option<&str>, pairs: &[(&'static str, &str)], query: Option<&str>) -> (Option<String>, usize) {
        let mut upstream = Upstream::new("anthropic", Url::parse("http://h").unwrap());
        upstream.key = key.map(|key| Secret::new(key).unwrap());
        let url = "http://h/v1/messages".to_owned();
        let target = Target {
            upstream: Rc::new(upstream),
            url,
            endpoint: None,
            prefix: "/anthropic".to_owned(),
            proxy_origin: String::new(),
        };
        let pair = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        let mut request = RequestHead {
            method: Method::POST,
            origin: String::new(),
            path: "/anthropic/v1/messages".to_owned(),
            query: query.map(str::to_owned),
            headers: pairs.iter().map(pair).collect::<HeaderMap>(),
            invalid_header: None,
        };
        let header = inject_operator_key(&target, &mut request);
        (header.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())), request.headers.len())
    }

    #[test]
    fn the_operators_key_is_sent_for_clients_without_a_credential() {
        let ours = Some("x-api-key: k".to_owned());
        assert_eq!(sent(Some("k"), &[], None), (ours.clone(), 0));
        assert_eq!(sent(Some("k"), &[("authorization", "Bearer "), ("x-api-key", "")], None), (ours.clone(), 0));
        assert_eq!(sent(Some("k"), &[("cookie", "a=b"), ("user-agent", "u")], Some("key=&a=b")), (ours, 2));
        for own in ["authorization", "x-api-key", "api-key", "x-goog-api-key"] {
            assert_eq!(sent(Some("k"), &[(own, "c")], None), (None, 1), "{own}");
        }
        for other in [
            "x-csrf-token",
            "x-author",
            "x-sort-key",
            "x-goog-iap-jwt-assertion",
            "x-auth-token",
            "x-authenticated-user",
            "x-cache-key",
            "x-partition-key",
            "x-xsrf-token",
            "x-authority",
            "x-page-token",
            "x-monkey",
            "x-turkey",
            "x-co-author",
        ] {
            assert_eq!(sent(Some("k"), &[(other, "c")], None).0.as_deref(), Some("x-api-key: k"), "{other}");
        }
        let socket = ("sec-websocket-key", "x");
        assert_eq!(sent(Some("k"), &[socket], None).0.as_deref(), Some("x-api-key: k"));
        let protocol = ("sec-websocket-protocol", "realtime, openai-insecure-api-key.c");
        assert_eq!(sent(Some("k"), &[socket, protocol, ("upgrade", "websocket")], None), (None, 3));
        assert_eq!(sent(Some("k"), &[protocol], None).0.as_deref(), Some("x-api-key: k"));
        assert_eq!(sent(Some("k"), &[], Some("a=b&key=c")), (None, 0));
        assert_eq!(sent(None, &[("authorization", "Bearer")], None), (None, 1));
    }
}
