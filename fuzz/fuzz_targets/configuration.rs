//! Any variables give a configuration or an error that names a variable. Any request is handled without a panic.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use reprise::testing::{Config, LogFields, OnHead, OnRequest, RequestHead, on_head};

const VARIABLES: [&str; 16] = [
    "OPENAI_BASE_URL",
    "PROXY_PATH_PREFIX",
    "PROXY_TOKENS",
    "ADMIN_TOKEN",
    "CACHE_ENCRYPTION_KEY",
    "CACHE_TTL",
    "CACHE_MAX_TTL",
    "CACHE_SCOPE",
    "CACHE_PATHS",
    "KEY_IGNORE",
    "CACHE_MAX_BYTES",
    "TIMEOUT",
    "STALE_IF_ERROR",
    "UPSTASH_REDIS_REST_URL",
    "UPSTASH_REDIS_REST_TOKEN",
    "DEBUG",
];
const HEADERS: [&str; 10] = [
    "cache-control",
    "x-proxy-ttl",
    "x-proxy-namespace",
    "x-proxy-ignore",
    "x-proxy-match",
    "authorization",
    "x-api-key",
    "connection",
    "content-type",
    "accept",
];

type Input = (Vec<(u8, String)>, Vec<(u8, Vec<u8>)>, String, Option<String>, Vec<u8>);

fuzz_target!(|input: Input| {
    let (variables, headers, path, query, body) = input;
    let name = |which: &u8| VARIABLES[usize::from(*which) % VARIABLES.len()];
    let find = |wanted: &str| variables.iter().find(|(which, _)| name(which) == wanted).map(|(_, value)| value.clone());
    let config = Config::read(find).or_else(|error| {
        assert!(!error.variable.is_empty());
        Config::read(|_| None)
    });
    let config = config.expect("no variable is required");
    let mut map = HeaderMap::new();
    for (which, value) in &headers {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            map.append(HeaderName::from_static(HEADERS[usize::from(*which) % HEADERS.len()]), value);
        }
    }
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let path = format!("/{path}");
        let request = RequestHead {
            method,
            origin: String::new(),
            path,
            query: query.clone(),
            headers: map.clone(),
            invalid_header: None,
        };
        let mut log = LogFields::of(&request);
        if let OnHead::Decided(OnRequest::ReadBody(pending)) = on_head(&config, request, true, &mut log) {
            let _ = pending.with_body(&config, &body, true, &mut log);
        }
    }
});
