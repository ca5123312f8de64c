//! The fast path responds as the slow path does, and compares everything that affects the response.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use reprise::testing::{
    CacheKey, CacheOutcome, CacheableRequest, CachedResponse, Config, Decision, EntryHead, FastPathPlan, LogFields,
    Lookup, OnBody, OnHead, OnLookup, OnRequest, RequestHead, ResponseMode, Usage, dialect_header_names,
    fast_path_ignored_headers, on_head,
};

const BODY: &[u8] = br#"{"model":"m","messages":[{"role":"user","content":"a text"}]}"#;

type Vars<'a> = &'a [(&'a str, &'a str)];

/// A request with these header fields under this configuration, after steps 1 and 2.
fn request(vars: Vars<'_>, headers: &[(&str, &str)]) -> (CacheableRequest, LogFields) {
    request_with(vars, headers, "/proxy/chat/completions", BODY)
}

fn request_with(vars: Vars<'_>, headers: &[(&str, &str)], path: &str, body: &[u8]) -> (CacheableRequest, LogFields) {
    let find = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let config = Config::read(find).unwrap();
    let defaults = [("content-type", "application/json"), ("authorization", "Bearer tok-a"), ("x-api-key", "k")];
    let mut map = HeaderMap::new();
    for (name, value) in defaults.iter().chain(headers) {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let (method, path) = (Method::POST, path.to_owned());
    let head = RequestHead { method, origin: String::new(), path, query: None, headers: map, invalid_header: None };
    let mut log = LogFields::of(&head);
    let OnHead::Decided(OnRequest::ReadBody(pending)) = on_head(&config, head, true, &mut log) else {
        panic!("not read")
    };
    let OnBody::LookUp(request) = pending.with_body(&config, body, true, &mut log) else { panic!("not cacheable") };
    (*request, log)
}

fn plan(vars: Vars<'_>, headers: &[(&str, &str)]) -> Option<FastPathPlan> {
    let (request, log) = request(vars, headers);
    FastPathPlan::new(&request, &log)
}

const CONFIGURATIONS: [Vars<'static>; 3] = [
    &[],
    &[("PROXY_TOKENS", "tok-a,tok-b")],
    &[
        ("CACHE_SCOPE", "shared"),
        ("ALLOW_ANONYMOUS", "true"),
        ("CACHE_ENCRYPTION_KEY", "a secret of thirty-two characters"),
    ],
];

/// Everything in a plan that a response depends on.
fn shown(plan: &FastPathPlan) -> String {
    format!("{plan:?} {:?}", plan.salt.as_ref().map(|salt| *salt.as_bytes()))
}

#[test]
fn ignored_headers_do_not_change_the_plan() {
    for vars in CONFIGURATIONS {
        let plain = shown(&plan(vars, &[]).unwrap());
        for name in fast_path_ignored_headers().filter(|name| !name.starts_with('!')) {
            let names = ["ray", "connecting-ip", "access-token", "authorization", "for", "websocket-protocol"]
                .map(|end| name.replace('*', end));
            for name in names {
                for value in ["", "1", "tok-b", "Bearer tok-b", "no-cache", "\u{fffd}"] {
                    let same = shown(&plan(vars, &[(name.as_str(), value)]).unwrap());
                    assert_eq!(same, plain, "{name}: {value}");
                }
            }
        }
    }
}

#[test]
fn headers_of_other_products_are_compared() {
    let (exceptions, ignored): (Vec<String>, Vec<String>) =
        fast_path_ignored_headers().partition(|pattern| pattern.starts_with('!'));
    let matches = |name: &str, pattern: &String| match pattern.trim_start_matches('!').strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern.trim_start_matches('!'),
    };
    for name in dialect_header_names() {
        let is_ignored = ignored.iter().any(|pattern| matches(name, pattern));
        assert!(!is_ignored || exceptions.iter().any(|pattern| matches(name, pattern)), "{name}");
    }
}

#[test]
fn a_request_that_must_be_parsed_each_time_has_no_plan() {
    assert!(plan(&[], &[]).is_some());
    for header in [("cache-control", "no-cache"), ("cache-control", "no-store"), ("x-proxy-refresh", "true")] {
        assert!(plan(&[], &[header]).is_none(), "{header:?}");
    }
    assert!(plan(&[("DEBUG", "true")], &[]).is_none());
    assert!(plan(&[("RESPOND_WITH_CACHE", "false")], &[]).is_none());
    assert!(plan(&[("STRIP_THINK", "true")], &[]).is_none());
}

#[test]
fn the_plan_of_a_large_request_is_small() {
    let long = "m".repeat(1_000_000);
    let body = format!(r#"{{"model":"{long}","messages":[]}}"#);
    let (request, log) = request_with(&[], &[], &format!("/proxy/openai/{long}/chat/completions"), body.as_bytes());
    assert!(shown(&FastPathPlan::new(&request, &log).unwrap()).len() < 2_000);
}

const STORED_AT: u64 = 1_700_000_000_000;

fn entries() -> impl Strategy<Value = EntryHead> {
    let expires = prop_oneof![Just(None), (1u64..20_000).prop_map(|ms| Some(STORED_AT + ms))];
    (expires, any::<bool>(), any::<bool>()).prop_map(|(expires_at, stream, include_usage)| EntryHead {
        key: CacheKey::from_hex(&"0".repeat(64)).unwrap(),
        status: 200,
        headers: vec![("content-type".into(), "application/json".into()), ("x-request-id".into(), "r".into())],
        stored_at: STORED_AT,
        expires_at,
        valid_until: None,
        stream,
        requested_mode: ResponseMode { stream, include_usage },
        has_usage: include_usage,
        endpoint: "chat/completions".into(),
        model: Some("m".to_owned()),
        usage: Usage { input: Some(1234), ..Usage::default() },
        upstream_ms: Some(4210),
        sketch_len: 0,
    })
}

fn directives() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let directive = |text| ("cache-control", text);
    prop_oneof![
        Just(vec![]),
        prop::sample::select(vec!["max-age=0", "max-age=3", "max-age=100", "only-if-cached", "stale-if-error=9"])
            .prop_map(move |text| vec![directive(text)]),
    ]
}

/// A response's head and its log line.
type Seen = (u16, Vec<(String, String)>, String);

fn seen(response: CachedResponse, log: &LogFields) -> Seen {
    (response.status, response.headers, format!("{log:?}"))
}

/// The slow path's response, if the entry is fresh and served verbatim.
fn slow_path((request, mut log): (CacheableRequest, LogFields), lookup: &Lookup, now: u64) -> Option<Seen> {
    match request.on_lookup(lookup, now, &mut log) {
        OnLookup::Decided(Decision::Serve(response))
            if response.body.is_none() && log.outcome == Some(CacheOutcome::Hit) =>
        {
            Some(seen(response, &log))
        }
        _ => None,
    }
}

proptest! {
    #[test]
    fn the_fast_path_responds_as_the_slow_path(
        head in entries(), headers in directives(), later in 0u64..30_000, in_memory: bool, stale: bool, ahead in 0.0..1.0,
    ) {
        let vars: Vars<'_> = if stale { &[("STALE_WHILE_REVALIDATE", "5")] } else { &[] };
        let now = STORED_AT + later;
        let lookup = if in_memory { Lookup::InMemory(head.clone()) } else { Lookup::Stored(head.clone()) };
        let at = |now| slow_path(request(vars, &headers), &lookup, now);
        let hit = plan(vars, &headers).unwrap().hit(&head, in_memory, now);
        let until = hit.as_ref().map(|hit| hit.valid_until);
        let fast = hit.map(|hit| seen(hit.response, &hit.log));
        prop_assert_eq!(&fast, &at(now));
        if let Some(until) = until {
            prop_assert!(now < until && until <= now + 1000);
            // `as` is exact below 2^53.
            let between = now + ((until - now) as f64 * ahead) as u64;
            prop_assert_eq!(&at(between), &fast, "at {}", between);
            prop_assert_eq!(&at(until - 1), &fast, "before {}", until);
            prop_assert_ne!(&at(until), &fast, "at {}", until);
        }
    }
}
