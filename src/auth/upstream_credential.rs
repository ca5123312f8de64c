//! On whose credential does a request go upstream? On the caller's own; the operator's serves only who brings none.
//!
//! A token that lets a caller in has been taken off the request before ([`crate::auth::client`]): what is left is its own.

use crate::http::fields::is_empty;
use crate::http::message::RequestHead;
use crate::key::headers as key_headers;
use crate::routing::route::Target;
use http::{HeaderName, HeaderValue};

/// The header with the operator's key, if this request is to carry it. What stood in the place of a credential and is
/// none is then taken off the request, so that all who bring nothing are one party.
pub fn inject_operator_key(target: &Target, request: &mut RequestHead) -> Option<(HeaderName, HeaderValue)> {
    let key = target.upstream.key.as_ref()?;
    let in_query = |pair: &str| pair.strip_prefix("key=").is_some_and(|key| !key.is_empty());
    let in_url = request.query.as_deref().is_some_and(|query| query.split('&').any(in_query));
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

/// Whether a provider might take it. (A cookie tells callers apart, but it is the browser's, not the provider's key; and a
/// WebSocket's key opens nothing.)
fn is_credential(name: &HeaderName) -> bool {
    key_headers::is_credential(name.as_str()) && name != http::header::COOKIE && name != http::header::SEC_WEBSOCKET_KEY
}

/// Whether a browser's WebSocket brings a key in the one place that it can choose (OpenAI's realtime API).
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
        let target = Target { upstream: Rc::new(upstream), url: "http://h/v1/messages".to_owned(), endpoint: None };
        let pair = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        let mut request = RequestHead {
            method: Method::POST,
            path: "/anthropic/v1/messages".to_owned(),
            query: query.map(str::to_owned),
            headers: pairs.iter().map(pair).collect::<HeaderMap>(),
            invalid_header: None,
        };
        let header = inject_operator_key(&target, &mut request);
        (header.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())), request.headers.len())
    }

    #[test]
    fn the_operators_key_serves_who_brings_none() {
        let ours = Some("x-api-key: k".to_owned());
        assert_eq!(sent(Some("k"), &[], None), (ours.clone(), 0));
        assert_eq!(sent(Some("k"), &[("authorization", "Bearer "), ("x-api-key", "")], None), (ours.clone(), 0));
        assert_eq!(sent(Some("k"), &[("cookie", "a=b"), ("user-agent", "u")], Some("key=&a=b")), (ours, 2));
        for own in ["authorization", "x-api-key", "api-key", "x-goog-api-key", "x-auth-token"] {
            assert_eq!(sent(Some("k"), &[(own, "c")], None), (None, 1), "{own}");
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
