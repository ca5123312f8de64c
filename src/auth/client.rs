//! Authenticates a client and finds its tenant.
//!
//! With `PROXY_TOKENS` a client sends one of the operator's tokens in place of an API key. The token is removed from the
//! request first, so that no later step can forward, key or log it.

use crate::config::secret::SecretDigests;
use crate::config::{Config, Dialects};
use crate::http::fields;
use crate::http::fields::{credential, is_empty};
use crate::http::message::RequestHead;
use crate::key::Tenant;
use crate::key::headers::{CREDENTIAL_HEADERS, is_credential, may_hold_secret};
use crate::status::error::{ErrorKind, ProxyError};
use http::{HeaderMap, HeaderValue, Method};
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};

/// An authenticated client.
#[derive(Debug, Clone)]
pub struct Client {
    /// The tenant, whose stored responses it shares.
    pub tenant: Tenant,
    /// It sends no credential for the upstream, so that the operator's may be sent.
    pub lacks_credential: bool,
    /// The request is a CORS preflight without a token. It has no credentials, and gets none.
    pub is_preflight: bool,
    /// The name under which its requests are counted: a digest.
    pub rate_limit_key: String,
}

impl Client {
    /// The client of a request, from which its token is removed. `None`: it is not authorised.
    pub fn authenticate(config: &Config, request: &mut RequestHead) -> Option<Client> {
        let token = config.auth.proxy_tokens.as_ref().and_then(|tokens| strip_tokens(tokens, request));
        let is_preflight = config.auth.proxy_tokens.is_some() && token.is_none();
        if is_preflight && !is_cors_preflight(request) {
            return None;
        }
        if is_preflight {
            // Browsers send no credentials with a preflight.
            for (name, _) in fields::collect(&request.headers, &may_hold_secret) {
                request.headers.remove(name);
            }
            request.headers.remove(http::header::SEC_WEBSOCKET_PROTOCOL);
            strip_query_keys(request, |_| true);
        }
        let in_query = query_keys(request).any(|key| !key.is_empty());
        let rate_limit_key = rate_limit_key(token, &fields::collect(&request.headers, &may_hold_secret), request);
        let credentials = fields::collect(&request.headers, &is_credential);
        let own = in_query || credentials.iter().any(|(name, value)| !is_empty(name, value));
        // Empty credentials do not identify a tenant.
        let credentials: Vec<_> =
            credentials.into_iter().filter(|(name, value)| own || !is_empty(name, value)).collect();
        let tenant = match token {
            _ if config.cache.shared_scope => Tenant::Shared,
            Some(token) if !own => Tenant::Token(token, credentials),
            // A credential in the query is part of the URL, which is keyed.
            _ => Tenant::Credentials(credentials),
        };
        Some(Client { tenant, lacks_credential: !own && !is_preflight, is_preflight, rate_limit_key })
    }
}

/// The error for a client without a token.
pub fn unauthorized() -> ProxyError {
    let message = "Missing or invalid proxy token. Send one of PROXY_TOKENS as the API key: as Authorization: Bearer, \
                   x-api-key, api-key, x-goog-api-key or ?key=.";
    ProxyError::new(ErrorKind::InvalidToken, message)
}

/// Removes all tokens from a request. Returns the first.
fn strip_tokens(tokens: &SecretDigests, request: &mut RequestHead) -> Option<[u8; 32]> {
    let mut first = None;
    // A token is accepted in few fields, and removed from every field that may hold a secret.
    let mut remaining = HeaderMap::with_capacity(request.headers.len());
    for (name, value) in &request.headers {
        let is_holder = CREDENTIAL_HEADERS.contains(&name.as_str());
        if !may_hold_secret(name.as_str()) && name != http::header::SEC_WEBSOCKET_PROTOCOL {
            remaining.append(name, value.clone());
            continue;
        }
        if is_holder {
            first = first.or(tokens.find(credential(value)));
        }
        if let Some(value) = without_tokens(tokens, value) {
            remaining.append(name, value);
        }
    }
    request.headers = remaining;
    // A query without a token stays as it came.
    let in_query = query_keys(request).find_map(|key| tokens.find(&key));
    if let Some(token) = in_query {
        first = first.or(Some(token));
        strip_query_keys(request, |key| tokens.find(key).is_some());
    }
    first
}

/// A field's value without the tokens in it; `None`: nothing is left. The Workers runtime joins the values of a repeated field
/// with commas; a WebSocket protocol has its key after a dot.
fn without_tokens(tokens: &SecretDigests, value: &HeaderValue) -> Option<HeaderValue> {
    let is_token = |part: &[u8]| {
        let part = part.trim_ascii();
        let ends = [b' ', b'\t', b'.'].map(|mark| part.iter().position(|b| *b == mark));
        let rests = ends.into_iter().flatten().filter_map(|at| part.get(at.saturating_add(1)..));
        std::iter::once(part).chain(rests).any(|text| tokens.find(text.trim_ascii()).is_some())
    };
    let parts: Vec<&[u8]> = value.as_bytes().split(|b| *b == b',').collect();
    let remaining: Vec<&[u8]> = parts.iter().copied().filter(|part| !is_token(part)).collect();
    // A value without a token stays as it came.
    if remaining.len() == parts.len() && !is_token(value.as_bytes()) {
        return Some(value.clone());
    }
    let remaining = remaining.join(&b","[..]);
    HeaderValue::from_bytes(remaining.trim_ascii()).ok().filter(|value| !value.is_empty())
}

/// Removes keys from a request's query.
fn strip_query_keys(request: &mut RequestHead, is_dropped: impl Fn(&[u8]) -> bool) {
    let Some(query) = request.query.take() else { return };
    let remaining: Vec<&str> =
        query.split('&').filter(|pair| !key_of(pair).is_some_and(|key| is_dropped(&key))).collect();
    request.query = (!remaining.is_empty()).then(|| remaining.join("&"));
}

fn query_keys(request: &RequestHead) -> impl Iterator<Item = Vec<u8>> + '_ {
    request.query.iter().flat_map(|query| query.split('&')).filter_map(key_of)
}

/// The value of a `key=…` in a query.
fn key_of(pair: &str) -> Option<Vec<u8>> {
    let (name, value) = pair.split_once('=')?;
    percent_decode_str(name).eq(*b"key").then(|| percent_decode_str(value).collect())
}

/// The Fetch standard, "CORS-preflight fetch".
fn is_cors_preflight(request: &RequestHead) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(http::header::ORIGIN)
        && request.headers.contains_key(http::header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The method and the fields of a preflight that names a control, our own or one of these products. The upstream does not know
/// controls, so the proxy responds itself.
pub fn preflight_for_controls(request: &RequestHead, products: Dialects) -> Option<(&str, &str)> {
    let requested = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
    let fields = requested(http::header::ACCESS_CONTROL_REQUEST_HEADERS)?;
    let is_control = |field: &str| {
        let field = field.trim().to_ascii_lowercase();
        field.starts_with("x-proxy-") || products.own(&field).is_some()
    };
    let method = requested(http::header::ACCESS_CONTROL_REQUEST_METHOD)?;
    (is_cors_preflight(request) && fields.split(',').any(is_control)).then_some((method, fields))
}

/// Requests are counted by proxy token, else by credentials, else by address.
fn rate_limit_key(token: Option<[u8; 32]>, credentials: &[(String, Vec<u8>)], request: &RequestHead) -> String {
    let mut hasher = Sha256::new();
    let mut push = |item: &[u8]| {
        hasher.update((item.len() as u64).to_be_bytes());
        hasher.update(item);
    };
    push(b"reprise-client-1");
    let keys: Vec<_> = query_keys(request).collect();
    if let Some(token) = token {
        push(b"token");
        push(&token);
    } else if credentials.is_empty() && keys.is_empty() {
        push(b"address");
        push(request.headers.get("cf-connecting-ip").map_or(&[], HeaderValue::as_bytes));
    } else {
        push(b"credentials");
        for (name, value) in credentials {
            push(name.as_bytes());
            push(value);
        }
        keys.iter().for_each(|key| push(key));
    }
    hex::encode(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn request(headers: &[(&'static str, &str)], query: Option<&str>) -> RequestHead {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        RequestHead {
            method: Method::POST,
            origin: String::new(),
            path: "/v1/x".to_owned(),
            query: query.map(str::to_owned),
            headers: map,
            invalid_header: None,
        }
    }

    const TOKENS: (&str, &str) = ("PROXY_TOKENS", "one, two");

    #[test]
    fn a_token_is_accepted_wherever_clients_send_an_api_key() {
        let config = Config::from_vars(&[TOKENS]).unwrap();
        for (headers, query) in [
            (vec![("authorization", "Bearer two")], None),
            (vec![("authorization", "bearer  two ")], None),
            (vec![("x-api-key", "one")], None),
            (vec![("api-key", "one")], None),
            (vec![("x-goog-api-key", "two")], None),
            (vec![], Some("alt=sse&key=two")),
            (vec![], Some("k%65y=t%77o")),
            (vec![("x-api-key", "one"), ("authorization", "Bearer one"), ("x-auth-token", "two")], Some("key=two")),
        ] {
            let mut request = request(&headers, query);
            let client = Client::authenticate(&config, &mut request).unwrap();
            assert!(request.headers.is_empty(), "{headers:?}");
            assert!(!request.query.unwrap_or_default().contains("key"), "{query:?}");
            assert!(client.lacks_credential && matches!(client.tenant, Tenant::Token(..)));
        }
    }

    #[test]
    fn requests_without_a_known_token_are_refused() {
        let config = Config::from_vars(&[TOKENS]).unwrap();
        for (headers, query) in [
            (vec![], None),
            (vec![("authorization", "Bearer three")], None),
            (vec![("authorization", "Bearer ")], None),
            (vec![("authorization", "Bearerone")], None),
            (vec![("authorization", "Basic one")], None),
            (vec![("authorization", "Bearer One")], None),
            (vec![("authorization", "Bearer one, two")], None),
            (vec![("authorization", "Bearer one,")], None),
            (vec![("x-auth-token", "one")], None),
            (vec![("cookie", "one")], None),
            (vec![("x-proxy-token", "one")], None),
            (vec![], Some("token=one")),
            (vec![], Some("key=")),
            (vec![], Some("key=one%00")),
        ] {
            assert!(Client::authenticate(&config, &mut request(&headers, query)).is_none(), "{headers:?} {query:?}");
        }
    }

    #[test]
    fn a_credential_beside_the_token_is_the_tenant_and_is_forwarded() {
        let config = Config::from_vars(&[TOKENS]).unwrap();
        let mut one = request(&[("x-api-key", "one"), ("authorization", "Bearer sk")], None);
        let mut two = request(&[("api-key", "two"), ("authorization", "Bearer sk")], None);
        let clients = [&mut one, &mut two].map(|request| Client::authenticate(&config, request).unwrap());
        assert!(clients.iter().all(|client| !client.lacks_credential));
        assert!(clients[0].tenant == clients[1].tenant && clients[0].rate_limit_key != clients[1].rate_limit_key);
        assert_eq!(one.headers.len(), 1);
        let mut in_query = request(&[("x-goog-api-key", "one")], Some("key=AI&a=b"));
        assert!(!Client::authenticate(&config, &mut in_query).unwrap().lacks_credential);
        assert_eq!(in_query.query.as_deref(), Some("key=AI&a=b"));
        for (name, joined, left) in [
            ("authorization", "Bearer sk, Bearer one", "Bearer sk"),
            ("x-api-key", "two, sk", "sk"),
            ("authorization", "Token two", ""),
            ("x-goog-api-key", "Bearer\ttwo", ""),
            ("sec-websocket-protocol", "realtime, openai-insecure-api-key.two", "realtime"),
        ] {
            let mut joined = request(&[("api-key", "one"), (name, joined)], None);
            Client::authenticate(&config, &mut joined).unwrap();
            let value = joined.headers.get(name).map_or("", |value| value.to_str().unwrap());
            assert_eq!((value, joined.headers.contains_key("api-key")), (left, false), "{name}");
        }
        let mut repeated = request(&[("authorization", "Bearer sk"), ("authorization", "Bearer one")], None);
        Client::authenticate(&config, &mut repeated).unwrap();
        assert_eq!(repeated.headers.get_all("authorization").iter().collect::<Vec<_>>(), ["Bearer sk"]);
    }

    #[test]
    fn each_token_is_a_tenant_unless_the_scope_is_shared() {
        let tenant = |config: &Config, token: &str, more: &[(&'static str, &str)]| {
            let headers = [&[("x-api-key", token)], more].concat();
            Client::authenticate(config, &mut request(&headers, None)).unwrap().tenant
        };
        let own = Config::from_vars(&[TOKENS]).unwrap();
        assert!(tenant(&own, "one", &[]) == tenant(&own, "one", &[]));
        assert!(tenant(&own, "one", &[]) != tenant(&own, "two", &[]));
        assert!(tenant(&own, "one", &[]) == tenant(&own, "one", &[("cookie", "c")]));
        assert!(tenant(&own, "one", &[("api-key", "a")]) != tenant(&own, "one", &[("api-key", "b")]));
        let shared = Config::from_vars(&[TOKENS, ("CACHE_SCOPE", "shared")]).unwrap();
        assert!(tenant(&shared, "one", &[]) == tenant(&shared, "two", &[]));
    }

    #[test]
    fn a_preflight_needs_no_token_and_carries_no_credentials() {
        let config = Config::from_vars(&[TOKENS]).unwrap();
        let headers =
            [("origin", "https://a"), ("access-control-request-method", "POST"), ("authorization", "Bearer x")];
        let preflight = || RequestHead { method: Method::OPTIONS, ..request(&headers, Some("a=b&key=c")) };
        let mut sent = preflight();
        let client = Client::authenticate(&config, &mut sent).unwrap();
        assert!(client.is_preflight && !client.lacks_credential);
        assert!(!sent.headers.contains_key("authorization"));
        assert_eq!(sent.query.as_deref(), Some("a=b"));
        for name in ["origin", "access-control-request-method"] {
            let mut other = preflight();
            other.headers.remove(name);
            assert!(Client::authenticate(&config, &mut other).is_none(), "{name}");
        }
        assert!(Client::authenticate(&config, &mut request(&headers, None)).is_none());
    }

    #[test]
    fn requests_are_counted_by_token_then_credential_then_address() {
        let open = Config::from_vars(&[]).unwrap();
        let closed = Config::from_vars(&[TOKENS]).unwrap();
        let counted = |config: &Config, headers: &[(&'static str, &str)], query| {
            Client::authenticate(config, &mut request(headers, query)).unwrap().rate_limit_key
        };
        let a = counted(&closed, &[("x-api-key", "one"), ("authorization", "Bearer a")], None);
        assert_eq!(a, counted(&closed, &[("x-api-key", "one"), ("authorization", "Bearer b")], None));
        assert_ne!(a, counted(&closed, &[("x-api-key", "two"), ("authorization", "Bearer a")], None));
        assert!(a.len() == 64 && !a.contains("one"));
        assert_ne!(counted(&open, &[], Some("key=a")), counted(&open, &[], Some("key=b")));
        let from = |address| counted(&open, &[("cf-connecting-ip", address)], None);
        assert_ne!(from("::1"), from("::2"));
        let known = |address| counted(&open, &[("cf-connecting-ip", address), ("api-key", "k")], None);
        assert_eq!(known("::1"), known("::2"));
    }
}
