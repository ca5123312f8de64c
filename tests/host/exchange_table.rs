//! The exchange table on the host: every case of `tests/exchanges/` through the deciding floor, with a clock, a store
//! and an upstream that are plain values. The format is described beside the cases.

use crate::platform::{Got, Upstream, World};
use base64::prelude::{BASE64_STANDARD, Engine};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reprise::testing::RequestHead;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const ORIGIN: &str = "http://upstream.test:8080";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    #[allow(dead_code)]
    name: String,
    #[allow(dead_code)]
    section: String,
    #[allow(dead_code)]
    kind: Option<String>,
    only: Option<String>,
    why: Option<String>,
    #[serde(default)]
    vars: BTreeMap<String, String>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    advance: Option<u64>,
    #[serde(default)]
    request: Message,
    #[serde(default)]
    upstream: Message,
    #[serde(default)]
    expect: Expect,
}

/// A request or an upstream's answer.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Message {
    method: Option<String>,
    path: Option<String>,
    status: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, Option<String>>,
    json: Option<Value>,
    body: Option<String>,
    base64: Option<String>,
    repeat: Option<Repeat>,
    #[serde(default)]
    refuse: bool,
    cut: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeat {
    #[serde(default)]
    head: String,
    unit: String,
    times: usize,
    #[serde(default)]
    tail: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Expect {
    calls: Option<usize>,
    status: Option<u16>,
    cache: Option<String>,
    /// Kept as a value: `null` is an expectation too.
    #[serde(default, deserialize_with = "present_value")]
    detail: Option<Value>,
    body: Option<Value>,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    sent: Option<Sent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    method: Option<String>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    body: Option<Value>,
}

fn present_value<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

impl Message {
    fn bytes(&self) -> Option<Vec<u8>> {
        if let Some(value) = &self.json {
            return Some(serde_json::to_vec(value).unwrap());
        }
        if let Some(text) = &self.base64 {
            return Some(BASE64_STANDARD.decode(text).unwrap());
        }
        if let Some(repeat) = &self.repeat {
            let middle = repeat.unit.repeat(repeat.times);
            return Some(format!("{}{middle}{}", repeat.head, repeat.tail).into_bytes());
        }
        self.body.as_ref().map(|text| text.clone().into_bytes())
    }

    fn header_map(&self, defaults: &[(&str, &str)]) -> HeaderMap {
        let mut all: BTreeMap<String, Option<String>> =
            defaults.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned()))).collect();
        for (name, value) in &self.headers {
            all.insert(name.to_ascii_lowercase(), value.clone());
        }
        all.into_iter()
            .filter_map(|(name, value)| {
                let value = HeaderValue::from_bytes(value?.as_bytes()).unwrap();
                Some((name.parse::<HeaderName>().unwrap(), value))
            })
            .collect()
    }
}

fn play(case: &Case) -> Result<(), String> {
    let vars: BTreeMap<String, String> = std::iter::once(("OPENAI_BASE_URL", "{upstream}/v1".to_owned()))
        .chain(case.vars.iter().map(|(name, value)| (name.as_str(), value.clone())))
        .map(|(name, value)| (name.to_owned(), value.replace("{upstream}", ORIGIN)))
        .collect();
    let world = World::new(&vars);
    let mut bodies = BTreeMap::new();
    for (index, step) in case.steps.iter().enumerate() {
        if let Some(seconds) = step.advance {
            world.advance(seconds);
            continue;
        }
        let next = world.calls().len() + 1;
        let default = json!({"id": format!("answer-{next}")});
        let said = step.upstream.bytes().unwrap_or_else(|| serde_json::to_vec(&default).unwrap());
        let got = exchange(&world, &step.request, &step.upstream, &said);
        check(&step.expect, &got, &said, &bodies, &world, &step.request)
            .map_err(|what| format!("step {index}: {what}"))?;
        bodies.insert(index, got.body);
    }
    Ok(())
}

fn exchange(world: &World, request: &Message, answer: &Message, answer_body: &[u8]) -> Got {
    let body = request.bytes();
    let mut defaults = vec![("authorization", "Bearer sk-test")];
    if body.is_some() {
        defaults.push(("content-type", "application/json"));
    }
    let target = request.path.as_deref().unwrap_or("/proxy/chat/completions");
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let head = RequestHead {
        method: Method::from_bytes(request.method.as_deref().unwrap_or("POST").as_bytes()).unwrap(),
        path: path.to_owned(),
        query,
        headers: request.header_map(&defaults),
        invalid_header: None,
    };
    let upstream = if answer.refuse {
        Upstream::Unreachable
    } else {
        Upstream::Responds {
            status: StatusCode::from_u16(answer.status.unwrap_or(200)).unwrap(),
            headers: answer.header_map(&[("content-type", "application/json")]),
            body: answer_body.to_vec(),
            truncated: answer.cut.is_some(),
        }
    };
    world.exchange(head, body, upstream)
}

fn check(
    expect: &Expect,
    got: &Got,
    said: &[u8],
    bodies: &BTreeMap<usize, Vec<u8>>,
    world: &World,
    request: &Message,
) -> Result<(), String> {
    let text = |name: &str| got.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let cache_status = text("cache-status").unwrap_or_default();
    if let Some(status) = expect.status {
        same("status", &got.status, &status)?;
    }
    if let Some(cache) = &expect.cache {
        same("X-Cache-Status", &text("x-cache-status").as_ref(), &Some(cache))?;
    }
    if let Some(detail) = &expect.detail {
        let found = cache_status.split_once("detail=").map(|(_, detail)| Value::from(detail));
        same("detail", &found.unwrap_or(Value::Null), detail)?;
    }
    if let Some(calls) = expect.calls {
        same("calls", &world.calls().len(), &calls)?;
    }
    check_headers(&got.headers, &expect.headers)?;
    if let Some(wanted) = &expect.body {
        check_body(wanted, &got.body, said, bodies)?;
    }
    if let Some(sent) = &expect.sent {
        let calls = world.calls();
        let call = calls.last().ok_or("the upstream was not asked")?;
        if let Some(method) = &sent.method {
            same("sent method", &call.request.method.as_str(), &method.as_str())?;
        }
        if let Some(url) = &sent.url {
            same("sent url", &call.request.url.trim_start_matches(ORIGIN), &url.as_str())?;
        }
        check_headers(&call.request.headers, &sent.headers)?;
        if let Some(body) = &sent.body {
            match body {
                Value::String(wanted) if wanted == "request" => {
                    same("sent body", &call.body, &request.bytes().unwrap_or_default())?;
                }
                wanted => check_body(wanted, &call.body, &[], bodies).map_err(|what| format!("sent {what}"))?,
            }
        }
    }
    Ok(())
}

fn check_headers(got: &HeaderMap, wanted: &BTreeMap<String, Value>) -> Result<(), String> {
    for (name, wanted) in wanted {
        let values: Vec<_> = got.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        let value = (!values.is_empty()).then(|| values.join(", "));
        match (wanted, value) {
            (Value::Null, None) => {}
            (Value::String(wanted), Some(value)) if *wanted == value => {}
            (Value::Object(wanted), Some(value))
                if regex::Regex::new(wanted["matches"].as_str().unwrap()).unwrap().is_match(&value) => {}
            // The host adds no lengths of its own.
            (Value::String(_), None) if name == "content-length" => {}
            (wanted, value) => return Err(format!("header {name}: {value:?} instead of {wanted}")),
        }
    }
    Ok(())
}

fn check_body(wanted: &Value, got: &[u8], said: &[u8], bodies: &BTreeMap<usize, Vec<u8>>) -> Result<(), String> {
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|error| error.to_string());
    match wanted {
        Value::String(wanted) if wanted == "upstream" => same("body", &got, &said),
        Value::String(wanted) => {
            let step: usize = wanted.strip_prefix("step:").unwrap().parse().unwrap();
            same("body", &got, &bodies[&step].as_slice())
        }
        wanted if wanted.get("json").is_some() => same("body", &json(got)?, &wanted["json"]),
        wanted if wanted.get("text").is_some() => {
            same("body", &String::from_utf8_lossy(got).as_ref(), &wanted["text"].as_str().unwrap())
        }
        wanted => {
            let error = json(got)?;
            same("error.code", &error["error"]["code"], &wanted["error"])?;
            same("error.type", &error["error"]["type"], &Value::from("proxy_error"))?;
            same("error.param", &error["error"]["param"], &Value::Null)
        }
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted {
        return Ok(());
    }
    let short = |value: &T| format!("{value:?}").chars().take(300).collect::<String>();
    Err(format!("{what}: {} instead of {}", short(got), short(wanted)))
}

#[test]
fn every_case_of_the_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exchanges");
    let mut played = BTreeSet::new();
    let mut failures = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let cases: Vec<Case> =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for case in cases {
            assert_eq!(case.only.is_some(), case.why.is_some(), "{}: `only` needs a `why`", case.id);
            if case.only.as_deref() == Some("e2e") {
                continue;
            }
            if let Err(what) = play(&case) {
                failures.push(format!("{}: {what}", case.id));
            }
            played.insert(case.id);
        }
    }
    println!("{} cases on the host", played.len());
    assert!(!played.is_empty(), "the table is empty");
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), played.len(), failures.join("\n"));
    every_row_of_the_migration_page(&played);
}

/// Each row of `docs/migration.md` names in its last cell what shows it: cases of the table that have been played, or
/// files of tests, all of which are always run.
fn every_row_of_the_migration_page(played: &BTreeSet<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/migration.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows: Vec<&str> = rows.filter(|row| *row != "there | here | test").collect();
    assert_eq!(page.matches("\n## ").count(), 5, "five proxies");
    assert!(rows.len() > 50, "{} rows", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [_, _, tests] = cells.as_slice() else {
            panic!("not three cells: {row}");
        };
        for test in tests.split(", ").map(|test| test.trim_matches('`')) {
            let is_file = test.starts_with("tests/") && test.ends_with(".test.mjs") && root.join(test).is_file();
            assert!(is_file || played.contains(test), "no test {test} has been run, for: {row}");
        }
    }
}
