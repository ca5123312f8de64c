//! A hundred thousand pairs of requests by different tenants, through steps 1 and 2 to their cache keys: no two are equal.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reprise::testing::{CacheKey, Config, EncryptionSalt, LogFields, OnBody, OnHead, OnRequest, RequestHead, on_head};
use std::collections::HashMap;

const PAIRS: usize = 100_000;
const TOKENS: [&str; 4] = ["tok-a", "tok-b", "tok-ab", "tok-a-b"];
const BODY: &[u8] = br#"{"model":"m","messages":[{"role":"user","content":"the same text"}]}"#;

fn pick<'a>(random: &mut fastrand::Rng, among: &[&'a str]) -> &'a str {
    among[random.usize(..among.len())]
}

/// The sender of a request: everything that must separate responses. Values are similar on purpose: the end of one may be
/// the start of another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sender {
    closed: bool,
    token: &'static str,
    headers: Vec<(&'static str, String)>,
    namespace: String,
    key_in_query: String,
}

const WORDS: [&str; 8] = ["", "a", "b", "ab", "a b", "a,b", "tok-a", "shared"];

impl Sender {
    fn random(random: &mut fastrand::Rng) -> Sender {
        let closed = random.usize(..2) == 0;
        let token = if closed { pick(random, &TOKENS) } else { "" };
        let mut headers = Vec::new();
        for name in [
            "x-api-key",
            "api-key",
            "cookie",
            "x-auth-token",
            "openai-organization",
            "openai-project",
            "anthropic-version",
            "anthropic-beta",
            "openai-beta",
        ] {
            let value = pick(random, &WORDS);
            // A proxy token is removed from every field, so it does not separate tenants there.
            if !value.is_empty() && random.usize(..3) == 0 && !TOKENS.contains(&value) {
                headers.push((name, format!("{value}{}", random.usize(..2))));
            }
        }
        let namespace = format!("{}{}", pick(random, &WORDS), pick(random, &WORDS)).trim().to_owned();
        let key_in_query = if random.usize(..4) == 0 { format!("q{}", random.usize(..9)) } else { String::new() };
        Sender { closed, token, headers, namespace, key_in_query }
    }

    /// The identity of the sender's tenant. A client's own credential replaces its token. Cookies are not forwarded, so they do
    /// not count.
    fn identity(&self) -> Sender {
        let own = !self.key_in_query.is_empty()
            || self.headers.iter().any(|(name, _)| matches!(*name, "x-api-key" | "api-key"));
        let headers = self.headers.iter().filter(|(name, _)| *name != "cookie").cloned().collect();
        Sender { token: if own { "" } else { self.token }, closed: self.closed && !own, headers, ..self.clone() }
    }

    fn key(&self, open: &Config, closed: &Config) -> (CacheKey, EncryptionSalt) {
        let mut headers = HeaderMap::new();
        let mut add = |name: &'static str, value: &str| {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        };
        add("content-type", "application/json");
        if self.closed {
            add("x-goog-api-key", self.token);
        }
        for (name, value) in &self.headers {
            add(name, value);
        }
        if !self.namespace.is_empty() {
            add("x-proxy-namespace", &self.namespace);
        }
        let request = RequestHead {
            method: Method::POST,
            origin: String::new(),
            path: "/v1/chat/completions".to_owned(),
            query: (!self.key_in_query.is_empty()).then(|| format!("key={}", self.key_in_query)),
            headers,
            invalid_header: None,
        };
        let config = if self.closed { closed } else { open };
        let mut log = LogFields::default();
        let OnHead::Decided(OnRequest::ReadBody(pending)) = on_head(config, request, true, &mut log) else {
            panic!("{self:?}: not read")
        };
        let OnBody::LookUp(request) = pending.with_body(config, BODY, true, &mut log) else {
            panic!("{self:?}: bypassed")
        };
        (request.key, request.salt.unwrap())
    }
}

#[test]
fn different_tenants_have_different_keys() {
    let config = |tokens: Option<String>| {
        Config::read(|name| match name {
            "PROXY_TOKENS" => tokens.clone(),
            "CACHE_ENCRYPTION_KEY" => Some("secret".to_owned()),
            _ => None,
        })
        .unwrap()
    };
    let (open, closed) = (config(None), config(Some(TOKENS.join(","))));
    let mut random = fastrand::Rng::with_seed(2026);
    let mut owners: HashMap<CacheKey, Sender> = HashMap::new();
    let mut salts: HashMap<EncryptionSalt, CacheKey> = HashMap::new();
    let mut different = 0;
    for _ in 0..PAIRS {
        let pair = [(); 2].map(|()| Sender::random(&mut random));
        let keys = [0, 1].map(|i| pair[i].key(&open, &closed));
        let same = pair[0].identity() == pair[1].identity();
        assert_eq!(keys[0] == keys[1], same, "{pair:?}");
        different += usize::from(!same);
        for (sender, (key, salt)) in pair.iter().zip(keys) {
            // Not only the pair: every request with this key is by the same tenant.
            let owner = owners.entry(key).or_insert_with(|| sender.identity());
            assert_eq!(*owner, sender.identity());
            assert_eq!(*salts.entry(salt).or_insert(key), key);
        }
    }
    assert!(different > PAIRS * 9 / 10, "only {different} pairs differ");
    assert!(owners.len() > PAIRS, "only {} tenants", owners.len());
}
