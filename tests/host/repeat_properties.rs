//! The short way for repeated requests gives what the long way gives, and leaves nothing out of the comparison that counts.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use reprise::config::Config;
use reprise::protocol::ResponseMode;
use reprise::entry;
use reprise::flow::{self, OnRequest, Lookup, OnLookup, OnBody, CacheableRequest, CachedResponse, RequestHead, Decision};
use reprise::headers::FAST_PATH_IGNORED_HEADERS;
use reprise::status::CacheOutcome;

const BODY: &[u8] = br#"{"model":"m","messages":[{"role":"user","content":"a question"}]}"#;

/// The question of a request with these headers, with these settings.
fn question(vars: &[(&str, &str)], headers: &[(&str, &str)]) -> CacheableRequest {
    question_of(vars, headers, "/proxy/chat/completions", BODY)
}

fn question_of(vars: &[(&str, &str)], headers: &[(&str, &str)], path: &str, body: &[u8]) -> CacheableRequest {
    let find = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let config = Config::read(find).unwrap();
    let usual = [("content-type", "application/json"), ("authorization", "Bearer tok-a"), ("x-api-key", "k")];
    let mut map = HeaderMap::new();
    for (name, value) in usual.iter().chain(headers) {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let head = RequestHead { method: Method::POST, path: path.to_owned(), query: None, headers: map, invalid_header: None };
    let OnRequest::Read(pending) = flow::arrive(&config, head, true) else { panic!("not read") };
    let OnBody::Ask(question) = pending.with_body(&config, body, true) else { panic!("not asked") };
    *question
}

const SETTINGS: [&[(&str, &str)]; 3] = [
    &[],
    &[("PROXY_TOKENS", "tok-a,tok-b")],
    &[
        ("CACHE_SCOPE", "shared"),
        ("ALLOW_ANONYMOUS", "true"),
        ("CACHE_ENCRYPTION_KEY", "a secret of thirty-two characters"),
    ],
];

/// Everything that an answer is made of.
fn repeated(question: &CacheableRequest) -> String {
    format!("{:?} {:?}", question.repeat().unwrap(), question.repeat().unwrap().salt.map(|s| *s.as_bytes()))
}

#[test]
fn what_tells_nothing_changes_nothing() {
    for vars in SETTINGS {
        let plain = repeated(&question(vars, &[]));
        for name in FAST_PATH_IGNORED_HEADERS {
            // A family's members may have any name.
            let members =
                ["ray", "connecting-ip", "access-token", "authorization", "for"].map(|end| name.replace('*', end));
            for name in members {
                for value in ["", "1", "tok-b", "Bearer tok-b", "no-cache", "\u{fffd}"] {
                    assert_eq!(repeated(&question(vars, &[(name.as_str(), value)])), plain, "{name}: {value}");
                }
            }
        }
    }
}

#[test]
fn what_is_read_anew_each_time_has_no_short_way() {
    assert!(question(&[], &[]).repeat().is_some());
    for header in [("cache-control", "no-cache"), ("cache-control", "no-store"), ("x-proxy-refresh", "true")] {
        assert!(question(&[], &[header]).repeat().is_none(), "{header:?}");
    }
    assert!(question(&[("DEBUG", "true")], &[]).repeat().is_none());
    assert!(question(&[("RESPOND_WITH_CACHE", "false")], &[]).repeat().is_none());
    assert!(question(&[("STRIP_THINK", "true")], &[]).repeat().is_none());
}

#[test]
fn what_is_left_of_a_question_is_small() {
    let long = "m".repeat(1_000_000);
    let body = format!(r#"{{"model":"{long}","messages":[]}}"#);
    let question = question_of(&[], &[], &format!("/proxy/openai/{long}/chat/completions"), body.as_bytes());
    assert!(repeated(&question).len() < 2_000);
}

const STORED_AT: u64 = 1_700_000_000_000;

fn entries() -> impl Strategy<Value = entry::EntryHead> {
    let expires = prop_oneof![Just(None), (1u64..20_000).prop_map(|ms| Some(STORED_AT + ms))];
    (expires, any::<bool>(), any::<bool>()).prop_map(|(expires_at, stream, include_usage)| entry::EntryHead {
        status: 200,
        headers: vec![("content-type".into(), "application/json".into()), ("x-request-id".into(), "r".into())],
        stored_at: STORED_AT,
        expires_at,
        stream,
        requested_mode: ResponseMode { stream, include_usage },
        has_usage: include_usage,
    })
}

fn policy() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let directive = |text| ("cache-control", text);
    prop_oneof![
        Just(vec![]),
        prop::sample::select(vec!["max-age=0", "max-age=3", "max-age=100", "only-if-cached", "stale-if-error=9"])
            .prop_map(move |text| vec![directive(text)]),
    ]
}

/// All of an answer's head, and of its log line.
type Seen = (u16, Vec<(String, String)>, String);

fn seen(replay: CachedResponse) -> Seen {
    (replay.status, replay.headers, format!("{:?}", replay.log_fields))
}

/// What the long way makes of an entry, where it is fresh and goes out as it is.
fn long_way(question: CacheableRequest, found: &Lookup, now: u64) -> Option<Seen> {
    match question.look(found, now) {
        OnLookup::Decided(Decision::CachedResponse(replay))
            if replay.body.is_none() && replay.log_fields.outcome == Some(CacheOutcome::Hit) =>
        {
            Some(seen(*replay))
        }
        _ => None,
    }
}

proptest! {
    #[test]
    fn gives_what_the_long_way_gives(
        head in entries(), headers in policy(), later in 0u64..30_000, remembered: bool, stale: bool, ahead in 0.0..1.0,
    ) {
        let vars: &[_] = if stale { &[("STALE_WHILE_REVALIDATE", "5")] } else { &[] };
        let now = STORED_AT + later;
        let found = if remembered { Lookup::Remembered(head.clone()) } else { Lookup::Entry(head.clone()) };
        let repeat = question(vars, &headers).repeat().unwrap();
        let at = |now| long_way(question(vars, &headers), &found, now);
        let short = repeat.answer(&head, remembered, now);
        let until = short.as_ref().map(|again| again.until);
        let short = short.map(|again| seen(again.replay));
        prop_assert_eq!(&short, &at(now));
        if let Some(until) = until {
            prop_assert!(now < until && until <= now + 1000);
            // `as` is exact below 2^53.
            let between = now + ((until - now) as f64 * ahead) as u64;
            prop_assert_eq!(&at(between), &short, "at {}", between);
            prop_assert_eq!(&at(until - 1), &short, "before {}", until);
            prop_assert_ne!(&at(until), &short, "at {}", until);
        }
    }
}
