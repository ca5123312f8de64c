//! Who is this caller, may it come in, and whose credential goes upstream?
//!
//! With `PROXY_TOKENS` a caller shows one of the operator's tokens where its client puts an API key. The token is taken
//! out of the request before anything else looks at it, so that nothing behind this can forward, key or write it.

use crate::config::Config;
use crate::config::secret::SecretDigests;
use crate::http::fields;
use crate::http::fields::{credential, is_empty};
use crate::http::message::RequestHead;
use crate::key::Tenant;
use crate::key::headers as key_headers;
use crate::status::error::{ErrorKind, ProxyError};
use http::{HeaderMap, HeaderValue, Method};
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};

/// Where clients put an API key, besides `?key=`.
const CREDENTIAL_HEADERS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// A caller who may come in.
#[derive(Debug, Clone)]
pub struct Client {
    /// Whose answers it shares.
    pub tenant: Tenant,
    /// It brings no credential for the upstream, so that an operator's may be sent.
    pub lacks_credential: bool,
    /// A browser's question whether it may ask: without credentials by its nature, and it must get none.
    pub is_preflight: bool,
    /// Under which name its requests are counted: a digest.
    pub rate_limit_key: String,
}

impl Client {
    /// The caller of a request, out of which its token is taken. `None`: it may not come in.
    pub fn authenticate(config: &Config, request: &mut RequestHead) -> Option<Client> {
        let token = config.auth.proxy_tokens.as_ref().and_then(|tokens| strip_tokens(tokens, request));
        let is_preflight = config.auth.proxy_tokens.is_some() && token.is_none();
        if is_preflight && !is_cors_preflight(request) {
            return None;
        }
        if is_preflight {
            // Whatever it brings is not a browser's.
            for (name, _) in fields::collect(&request.headers, &key_headers::is_credential) {
                request.headers.remove(name);
            }
            request.headers.remove(http::header::SEC_WEBSOCKET_PROTOCOL);
            strip_query_keys(request, |_| true);
        }
        let in_query = query_keys(request).any(|key| !key.is_empty());
        let presented = CREDENTIAL_HEADERS
            .iter()
            .flat_map(|name| request.headers.get_all(*name).iter().map(move |value| (*name, value)));
        let own = in_query || presented.into_iter().any(|(name, value)| !is_empty(name, value.as_bytes()));
        let credentials = fields::collect(&request.headers, &key_headers::is_credential);
        let rate_limit_key = rate_limit_key(token, &credentials, request);
        // What stands in the place of a credential and is none tells nobody apart.
        let credentials: Vec<_> =
            credentials.into_iter().filter(|(name, value)| own || !is_empty(name, value)).collect();
        let tenant = match token {
            _ if config.cache.shared_scope => Tenant::Shared,
            Some(token) if !own => Tenant::Token(token, credentials),
            // One in the query is part of the URL.
            _ => Tenant::Credentials(credentials),
        };
        Some(Client { tenant, lacks_credential: !own && !is_preflight, is_preflight, rate_limit_key })
    }
}

/// The error for a caller without a token.
pub fn unauthorized() -> ProxyError {
    let message = "This proxy asks for a token, and the request has none that it knows. Send one of PROXY_TOKENS as the \
                   API key: as Authorization: Bearer, x-api-key, api-key, x-goog-api-key or ?key=.";
    ProxyError::new(ErrorKind::InvalidToken, message)
}

/// Takes all tokens out of a request. Gives the first.
fn strip_tokens(tokens: &SecretDigests, request: &mut RequestHead) -> Option<[u8; 32]> {
    let mut first = None;
    // A token is accepted in few places, but leaves from none.
    let mut kept = HeaderMap::with_capacity(request.headers.len());
    for (name, value) in &request.headers {
        let is_holder = CREDENTIAL_HEADERS.contains(&name.as_str());
        if !key_headers::is_credential(name.as_str()) && name != http::header::SEC_WEBSOCKET_PROTOCOL {
            kept.append(name, value.clone());
            continue;
        }
        if is_holder {
            first = first.or(tokens.find(credential(value)));
        }
        if let Some(value) = without_tokens(tokens, value) {
            kept.append(name, value);
        }
    }
    request.headers = kept;
    // What has no token in it stays as it was written.
    let in_query = query_keys(request).find_map(|key| tokens.find(&key));
    if let Some(token) = in_query {
        first = first.or(Some(token));
        strip_query_keys(request, |key| tokens.find(key).is_some());
    }
    first
}

/// A header's value without the tokens in it; `None`: nothing is left. Where a header came more than once the platform gives
/// its values as one, with commas; a WebSocket's protocols carry a key behind a dot.
fn without_tokens(tokens: &SecretDigests, value: &HeaderValue) -> Option<HeaderValue> {
    let is_token = |part: &[u8]| {
        let part = part.trim_ascii();
        let ends = [b' ', b'\t', b'.'].map(|mark| part.iter().position(|b| *b == mark));
        let rests = ends.into_iter().flatten().filter_map(|at| part.get(at.saturating_add(1)..));
        std::iter::once(part).chain(rests).any(|text| tokens.find(text.trim_ascii()).is_some())
    };
    let parts: Vec<&[u8]> = value.as_bytes().split(|b| *b == b',').collect();
    let kept: Vec<&[u8]> = parts.iter().copied().filter(|part| !is_token(part)).collect();
    // What has no token in it stays as it was written.
    if kept.len() == parts.len() && !is_token(value.as_bytes()) {
        return Some(value.clone());
    }
    let kept = kept.join(&b","[..]);
    HeaderValue::from_bytes(kept.trim_ascii()).ok().filter(|value| !value.is_empty())
}

/// Takes keys out of a request's query.
fn strip_query_keys(request: &mut RequestHead, is_dropped: impl Fn(&[u8]) -> bool) {
    let Some(query) = request.query.take() else { return };
    let kept: Vec<&str> = query.split('&').filter(|pair| !key_of(pair).is_some_and(|key| is_dropped(&key))).collect();
    request.query = (!kept.is_empty()).then(|| kept.join("&"));
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

/// A token is counted whatever else its holder sends; without one the credentials are, and without those the address.
fn rate_limit_key(token: Option<[u8; 32]>, credentials: &[(String, Vec<u8>)], request: &RequestHead) -> String {
    let mut hasher = Sha256::new();
    let mut push = |item: &[u8]| {
        hasher.update((item.len() as u64).to_be_bytes());
        hasher.update(item);
    };
    push(b"reprise-caller-1");
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

    fn config(vars: &[(&str, &str)]) -> Config {
        let find = |name: &str| vars.iter().find(|(key, _)| *key == name);
        Config::read(|name| find(name).map(|(_, value)| (*value).to_owned())).unwrap()
    }

    fn request(headers: &[(&'static str, &str)], query: Option<&str>) -> RequestHead {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        RequestHead {
            method: Method::POST,
            path: "/v1/x".to_owned(),
            query: query.map(str::to_owned),
            headers: map,
            invalid_header: None,
        }
    }

    const TOKENS: (&str, &str) = ("PROXY_TOKENS", "one, two");

    #[test]
    fn a_token_may_stand_wherever_a_client_puts_its_key() {
        let config = config(&[TOKENS]);
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
    fn everyone_else_stays_outside() {
        let config = config(&[TOKENS]);
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
    fn a_credential_of_its_own_is_the_party_and_goes_on() {
        let config = config(&[TOKENS]);
        let mut one = request(&[("x-api-key", "one"), ("authorization", "Bearer sk")], None);
        let mut two = request(&[("api-key", "two"), ("authorization", "Bearer sk")], None);
        let callers = [&mut one, &mut two].map(|request| Client::authenticate(&config, request).unwrap());
        assert!(callers.iter().all(|client| !client.lacks_credential));
        assert!(callers[0].tenant == callers[1].tenant && callers[0].rate_limit_key != callers[1].rate_limit_key);
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
    fn each_token_is_a_party_unless_the_scope_is_shared() {
        let tenant = |config: &Config, token: &str, more: &[(&'static str, &str)]| {
            let headers = [&[("x-api-key", token)], more].concat();
            Client::authenticate(config, &mut request(&headers, None)).unwrap().tenant
        };
        let own = config(&[TOKENS]);
        assert!(tenant(&own, "one", &[]) == tenant(&own, "one", &[]));
        assert!(tenant(&own, "one", &[]) != tenant(&own, "two", &[]));
        assert!(tenant(&own, "one", &[]) != tenant(&own, "one", &[("cookie", "c")]));
        let shared = config(&[TOKENS, ("CACHE_SCOPE", "shared")]);
        assert!(tenant(&shared, "one", &[]) == tenant(&shared, "two", &[]));
    }

    #[test]
    fn a_preflight_comes_in_with_nothing() {
        let config = config(&[TOKENS]);
        let headers =
            [("origin", "https://a"), ("access-control-request-method", "POST"), ("authorization", "Bearer x")];
        let preflight = || RequestHead { method: Method::OPTIONS, ..request(&headers, Some("a=b&key=c")) };
        let mut asked = preflight();
        let client = Client::authenticate(&config, &mut asked).unwrap();
        assert!(client.is_preflight && !client.lacks_credential);
        assert!(!asked.headers.contains_key("authorization"));
        assert_eq!(asked.query.as_deref(), Some("a=b"));
        for name in ["origin", "access-control-request-method"] {
            let mut other = preflight();
            other.headers.remove(name);
            assert!(Client::authenticate(&config, &mut other).is_none(), "{name}");
        }
        assert!(Client::authenticate(&config, &mut request(&headers, None)).is_none());
    }

    #[test]
    fn callers_are_counted_by_token_then_credential_then_address() {
        let open = config(&[]);
        let closed = config(&[TOKENS]);
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
