//! A hundred thousand pairs of requests that differ in who asks, through the flow to their keys: no two of them meet.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reprise::config::Config;
use reprise::flow::{self, OnRequest, OnBody, RequestHead};
use reprise::key::{CacheKey, EncryptionSalt};
use std::collections::HashMap;

const PAIRS: usize = 100_000;
const TOKENS: [&str; 4] = ["tok-a", "tok-b", "tok-ab", "tok-a-b"];
const BODY: &[u8] = br#"{"model":"m","messages":[{"role":"user","content":"the same question"}]}"#;

/// A generator with a seed, so that a failure comes again (Steele, Lea, Flood: SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 33).unwrap() % sides
    }

    fn pick<'a>(&mut self, among: &[&'a str]) -> &'a str {
        among[self.roll(among.len())]
    }
}

/// Who asks, in all that must keep answers apart. Values are alike on purpose: what is one's end may be another's start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Asker {
    closed: bool,
    token: &'static str,
    headers: Vec<(&'static str, String)>,
    namespace: String,
    key_in_query: String,
}

const WORDS: [&str; 8] = ["", "a", "b", "ab", "a b", "a,b", "tok-a", "shared"];

impl Asker {
    fn random(dice: &mut Dice) -> Asker {
        let closed = dice.roll(2) == 0;
        let token = if closed { dice.pick(&TOKENS) } else { "" };
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
            let value = dice.pick(&WORDS);
            // One that is a token itself is taken out, and so separates nobody.
            if !value.is_empty() && dice.roll(3) == 0 && !TOKENS.contains(&value) {
                headers.push((name, format!("{value}{}", dice.roll(2))));
            }
        }
        let namespace = format!("{}{}", dice.pick(&WORDS), dice.pick(&WORDS)).trim().to_owned();
        let key_in_query = if dice.roll(4) == 0 { format!("q{}", dice.roll(9)) } else { String::new() };
        Asker { closed, token, headers, namespace, key_in_query }
    }

    /// What keeps this asker's answers apart: with a credential of its own its token does not.
    fn identity(&self) -> Asker {
        let own = !self.key_in_query.is_empty()
            || self.headers.iter().any(|(name, _)| matches!(*name, "x-api-key" | "api-key"));
        Asker { token: if own { "" } else { self.token }, closed: self.closed && !own, ..self.clone() }
    }

    fn ask(&self, open: &Config, closed: &Config) -> (CacheKey, EncryptionSalt) {
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
            path: "/v1/chat/completions".to_owned(),
            query: (!self.key_in_query.is_empty()).then(|| format!("key={}", self.key_in_query)),
            headers,
            invalid_header: None,
        };
        let config = if self.closed { closed } else { open };
        let OnRequest::Read(pending) = flow::arrive(config, request, true) else { panic!("{self:?} is not read") };
        let OnBody::Ask(question) = pending.with_body(config, BODY, true) else { panic!("{self:?} is not asked") };
        (question.key, question.salt.unwrap())
    }
}

#[test]
fn a_hundred_thousand_pairs_of_askers_share_no_key() {
    let config = |tokens: Option<String>| {
        Config::read(|name| match name {
            "PROXY_TOKENS" => tokens.clone(),
            "CACHE_ENCRYPTION_KEY" => Some("secret".to_owned()),
            _ => None,
        })
        .unwrap()
    };
    let (open, closed) = (config(None), config(Some(TOKENS.join(","))));
    let mut dice = Dice(2026);
    let mut owners: HashMap<CacheKey, Asker> = HashMap::new();
    let mut sealings: HashMap<EncryptionSalt, CacheKey> = HashMap::new();
    let mut different = 0;
    for _ in 0..PAIRS {
        let pair = [(); 2].map(|()| Asker::random(&mut dice));
        let keys = [0, 1].map(|i| pair[i].ask(&open, &closed));
        let same = pair[0].identity() == pair[1].identity();
        assert_eq!(keys[0] == keys[1], same, "{pair:?}");
        different += usize::from(!same);
        for (asker, (key, salt)) in pair.iter().zip(keys) {
            // Not only the pair: everyone who ever came to this key is the same asker.
            let owner = owners.entry(key).or_insert_with(|| asker.identity());
            assert_eq!(*owner, asker.identity());
            assert_eq!(*sealings.entry(salt).or_insert(key), key);
        }
    }
    assert!(different > PAIRS * 9 / 10, "only {different} pairs differ");
    assert!(owners.len() > PAIRS, "only {} askers", owners.len());
}
