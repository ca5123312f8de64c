//! Header fields between client, proxy and upstream, in whole exchanges.

use crate::platform::{Host, Reply, Request, UpstreamResponse};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use std::collections::BTreeMap;

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"q"}]}"#;
const COMPLETION: &str = r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}]}"#;

type Fields<'a> = &'a [(&'static str, &'a str)];

fn fields(pairs: Fields<'_>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_static(name), value.parse().unwrap());
    }
    map
}

fn host(vars: &[(&str, &str)]) -> Host {
    let mut all = BTreeMap::from([("OPENAI_BASE_URL".to_owned(), "https://h/v1".to_owned())]);
    all.extend(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Host::new(&all)
}

fn completion(headers: Fields<'_>) -> UpstreamResponse {
    let headers = fields(&[&[("content-type", "application/json")], headers].concat());
    let body = COMPLETION.as_bytes().to_vec();
    UpstreamResponse { status: StatusCode::OK, headers, body, unreachable: false, truncated: false }
}

fn post(host: &mut Host, headers: Fields<'_>, response: &UpstreamResponse) -> Reply {
    post_to(host, "/proxy/chat/completions", headers, BODY, response)
}

fn post_to(host: &mut Host, target: &str, headers: Fields<'_>, body: &str, response: &UpstreamResponse) -> Reply {
    let defaults = [("content-type", "application/json"), ("authorization", "Bearer k")];
    let mut all = fields(&defaults);
    for (name, value) in &fields(headers) {
        all.insert(name, value.clone());
    }
    let request =
        Request { method: Method::POST, target: target.to_owned(), headers: all, body: Some(body.as_bytes().to_vec()) };
    host.exchange(1_800_000_000_000, &request, response)
}

fn outcome(reply: &Reply) -> &str {
    reply.headers.get("x-cache-status").map_or("", |value| value.to_str().unwrap())
}

/// The outcomes of two requests, one after the other.
fn outcomes(vars: &[(&str, &str)], first: Fields<'_>, second: Fields<'_>) -> [String; 2] {
    let mut host = host(vars);
    [first, second].map(|headers| outcome(&post(&mut host, headers, &completion(&[]))).to_owned())
}

#[test]
fn a_header_that_may_choose_the_response_separates_entries() {
    for name in ["groq-model-version", "x-policy-id", "accepts", "x-auth-token", "x-http-method-override"] {
        assert_eq!(outcomes(&[], &[(name, "a")], &[(name, "b")]), ["MISS", "MISS"], "{name}");
        assert_eq!(outcomes(&[], &[(name, "a")], &[(name, "a")]), ["MISS", "HIT"], "{name}");
    }
    let shared = [("CACHE_SCOPE", "shared"), ("ALLOW_ANONYMOUS", "true")];
    assert_eq!(outcomes(&shared, &[("x-sort-key", "a")], &[("x-sort-key", "b")]), ["MISS", "MISS"]);
    assert_eq!(outcomes(&shared, &[("x-api-key", "a")], &[("x-api-key", "b")]), ["MISS", "HIT"]);
}

#[test]
fn a_header_that_connection_names_is_neither_sent_nor_keyed() {
    let dropped: Fields<'_> = &[("connection", "openai-beta"), ("openai-beta", "v2")];
    assert_eq!(outcomes(&[], dropped, &[("openai-beta", "v2")]), ["MISS", "MISS"]);
    assert_eq!(outcomes(&[], dropped, &[]), ["MISS", "HIT"]);
}

#[test]
fn a_weighted_accept_or_another_charset_separates_entries() {
    let json = ("accept", "application/json");
    for (name, value) in [
        ("accept", "application/json;q=0.1, text/csv"),
        ("accept", "text/csv"),
        ("content-type", "application/json; charset=utf-16"),
        ("content-type", "application/vnd.api+json"),
    ] {
        assert_eq!(outcomes(&[], &[json], &[(name, value)]), ["MISS", "MISS"], "{name}: {value}");
    }
    assert_eq!(outcomes(&[], &[json], &[("content-type", "application/json; charset=utf-8")]), ["MISS", "HIT"]);
}

#[test]
fn ignored_headers_do_not_separate_entries_but_the_set_does() {
    let (one, other) = (("x-session-id", "1"), ("x-session-id", "2"));
    let vars = [("KEY_IGNORE", "header:X-Session-Id,@identity")];
    assert_eq!(outcomes(&vars, &[one], &[other]), ["MISS", "HIT"]);
    let ignore = ("x-proxy-ignore", "header:x-session-id");
    assert_eq!(outcomes(&[], &[one, ignore], &[other, ignore]), ["MISS", "HIT"]);
    assert_eq!(outcomes(&[], &[one, ignore], &[one]), ["MISS", "MISS"]);
}

#[test]
fn identity_fields_are_left_out_of_the_key() {
    let mut host = host(&[("KEY_IGNORE", "@identity")]);
    let bodies = ["", r#","user":"u""#, r#","safety_identifier":"s","metadata":{"a":"b"},"prompt_cache_key":"k""#];
    let outcomes = bodies.map(|more| {
        let body = format!(r#"{{"model":"m","messages":[]{more}}}"#);
        outcome(&post_to(&mut host, "/proxy/chat/completions", &[], &body, &completion(&[]))).to_owned()
    });
    assert_eq!(outcomes, ["MISS", "HIT", "HIT"]);
}

#[test]
fn cookies_are_neither_forwarded_nor_handed_on_nor_keyed() {
    let mut host = host(&[]);
    let response = completion(&[("set-cookie", "AWSALB=1"), ("set-cookie", "b=2"), ("x-request-id", "r")]);
    for (cookie, expected) in [("CF_Authorization=jwt", "MISS"), ("AWSALB=1", "HIT")] {
        let reply = post(&mut host, &[("cookie", cookie)], &response);
        assert_eq!(outcome(&reply), expected);
        assert!(!reply.headers.contains_key("set-cookie") && reply.headers.contains_key("x-request-id"));
    }
    let uncached = post_to(&mut host, "/proxy/files", &[("cookie", "a=b")], BODY, &response);
    assert!(!uncached.headers.contains_key("set-cookie"));
    assert!(host.calls().iter().all(|call| !call.headers.contains_key("cookie")));
}

#[test]
fn redirects_stay_below_the_prefix() {
    let mut host = host(&[]);
    for (target, location, expected) in [
        ("/v1/chat/completions", "/v1/other?a", "/v1/other?a"),
        ("/proxy/files", "https://h/v1/files/f", "/proxy/files/f"),
        ("/groq/openai/v1/files", "/openai/v1/f", "/groq/openai/v1/f"),
        ("/proxy/files", "/login", "https://h/login"),
    ] {
        let mut response = completion(&[("location", location)]);
        response.status = StatusCode::TEMPORARY_REDIRECT;
        let reply = post_to(&mut host, target, &[], BODY, &response);
        assert_eq!((reply.status, reply.headers["location"].to_str().unwrap()), (307, expected), "{target}");
    }
}

#[test]
fn a_misspelt_control_is_refused() {
    let mut host = host(&[]);
    let reply = post(&mut host, &[("x-proxy-namspace", "run-1")], &completion(&[]));
    assert_eq!(reply.status, 400);
    assert!(String::from_utf8(reply.body).unwrap().contains("x-proxy-namespace"));
    assert!(host.calls().is_empty());
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
}

#[test]
fn no_cache_refreshes_plain_requests_only() {
    let refresh = [("cache-control", "no-cache")];
    assert_eq!(outcomes(&[], &[], &refresh), ["MISS", "REFRESH"]);
    let stream = r#"{"model":"m","messages":[],"stream":true}"#;
    let mut host = host(&[]);
    let chunk = r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":"stop"}]}"#;
    let mut response = completion(&[]);
    response.headers.insert("content-type", "text/event-stream".parse().unwrap());
    response.body = format!("data: {chunk}\n\ndata: [DONE]\n\n").into_bytes();
    let steps: [(Fields<'_>, &str); 3] =
        [(&refresh, "MISS"), (&refresh, "HIT"), (&[("x-proxy-refresh", "true")], "REFRESH")];
    for (headers, expected) in steps {
        let reply = post_to(&mut host, "/proxy/chat/completions", headers, stream, &response);
        assert_eq!(outcome(&reply), expected);
    }
}

#[test]
fn only_cacheable_endpoints_refuse_a_body_that_is_no_json() {
    let mut host = host(&[]);
    let refused = post_to(&mut host, "/proxy/chat/completions", &[], "{", &completion(&[]));
    assert_eq!(refused.status, 400);
    let passed = post_to(&mut host, "/proxy/files", &[], "{", &completion(&[]));
    assert_eq!((passed.status, outcome(&passed)), (200, "BYPASS"));
    assert_eq!(host.calls().len(), 1);
}

fn preflight(host: &mut Host, headers: Fields<'_>, body: Option<&[u8]>) -> Reply {
    let defaults = [("origin", "https://app.example"), ("access-control-request-method", "POST")];
    let request = Request {
        method: Method::OPTIONS,
        target: "/proxy/chat/completions".to_owned(),
        headers: fields(&[&defaults, headers].concat()),
        body: body.map(<[u8]>::to_vec),
    };
    let mut response = completion(&[("access-control-allow-origin", "*")]);
    response.status = StatusCode::NO_CONTENT;
    host.exchange(1_800_000_000_000, &request, &response)
}

#[test]
fn preflights_need_no_token_and_pass_with_a_body_in_name() {
    let mut host = host(&[("PROXY_TOKENS", "t")]);
    assert_eq!(preflight(&mut host, &[], None).status, 204);
    assert_eq!(preflight(&mut host, &[], Some(b"")).status, 204);
    assert_eq!(preflight(&mut host, &[], Some(b"x")).status, 401);
    assert_eq!(host.calls().len(), 2);
}

#[test]
fn the_proxy_responds_to_preflights_for_its_controls() {
    for vars in [&[("PROXY_TOKENS", "t")][..], &[]] {
        let mut host = host(vars);
        for body in [None, Some(&b""[..])] {
            let wanted = "authorization,content-type,X-Proxy-TTL";
            let reply = preflight(&mut host, &[("access-control-request-headers", wanted)], body);
            assert_eq!(reply.status, 204);
            assert_eq!(reply.headers["access-control-allow-headers"], wanted);
            assert_eq!(reply.headers["access-control-allow-origin"], "*");
            assert_eq!(reply.headers["access-control-allow-methods"], "POST");
        }
        preflight(&mut host, &[("access-control-request-headers", "authorization")], None);
        assert_eq!(host.calls().len(), 1, "only the one without controls is the upstream's");
    }
}

#[test]
fn our_headers_are_exposed_where_the_upstream_allows_the_origin() {
    let mut host = host(&[]);
    let response =
        completion(&[("access-control-allow-origin", "*"), ("access-control-expose-headers", "x-request-id")]);
    for expected in ["MISS", "HIT"] {
        let reply = post(&mut host, &[("origin", "https://app.example")], &response);
        assert_eq!(outcome(&reply), expected);
        let exposed: Vec<_> = reply.headers.get_all("access-control-expose-headers").iter().collect();
        let exposed = exposed.iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(", ");
        assert!(exposed.contains("x-request-id") && exposed.contains("cache-status"), "{expected}: {exposed}");
    }
    let plain = post(&mut host, &[], &completion(&[]));
    assert!(!plain.headers.contains_key("access-control-expose-headers"));
}

#[test]
fn embeddings_of_floats_share_an_entry_where_there_is_no_base64() {
    let mut host = host(&[("UPSTREAMS", r#"{"floats":{"base_url":"https://f/v1","embeddings":"float"}}"#)]);
    let mut response = completion(&[]);
    response.body = br#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5]}]}"#.to_vec();
    let mut outcomes = Vec::new();
    for format in ["", r#","encoding_format":"float""#, r#","encoding_format":null"#, r#","encoding_format":"base64""#]
    {
        let body = format!(r#"{{"model":"m","input":"q"{format}}}"#);
        let reply = post_to(&mut host, "/floats/embeddings", &[], &body, &response);
        outcomes.push((outcome(&reply).to_owned(), String::from_utf8(reply.body).unwrap().contains("[0.5]")));
    }
    let expected = [("MISS", true), ("HIT", true), ("HIT", true), ("HIT", false)];
    assert_eq!(outcomes, expected.map(|(outcome, floats)| (outcome.to_owned(), floats)));
}
