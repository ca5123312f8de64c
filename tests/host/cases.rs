//! The cases of `conformance/cases/reprise/` on the host: this module reads them and judges the responses. `conformance/README.md`
//! explains the fields. `platform` makes the exchanges.

use crate::platform::{Host, Reply, Request, UpstreamResponse};
use base64::prelude::{BASE64_STANDARD, Engine};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const UPSTREAM_ORIGIN: &str = "http://upstream.test:8080";
const START_MS: u64 = 1_800_000_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    defaults: Defaults,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Defaults {
    response: Message,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    only: Option<String>,
    #[serde(default)]
    vars: BTreeMap<String, String>,
    /// Read later: a case for the Worker alone may have steps that the host does not know.
    steps: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    advance: Option<u64>,
    #[serde(default)]
    request: Message,
    #[serde(default)]
    response: Message,
    #[serde(default)]
    expect: Expect,
}

/// A request or a response of the upstream.
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
    unreachable: bool,
    #[serde(default)]
    chunked: bool,
    truncate: Option<usize>,
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
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Expect {
    calls: Option<usize>,
    status: Option<u16>,
    cache_status: Option<String>,
    /// `null` is an expectation too.
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

    /// Without a path it goes to the chat completions; the credential is the first tenant's.
    fn request(&self) -> Request {
        let body = self.bytes();
        let mut defaults = vec![("authorization", "Bearer sk-tenant-a")];
        if body.is_some() {
            defaults.push(("content-type", "application/json"));
        }
        Request {
            method: self.method.as_deref().unwrap_or("POST").parse().unwrap(),
            target: self.path.as_deref().unwrap_or("/proxy/chat/completions").to_owned(),
            headers: self.header_map(&defaults),
            body,
        }
    }

    /// The response to the n-th upstream call. Without a body it has that of `default`.
    fn response(&self, default: &Message, call: usize) -> UpstreamResponse {
        let default = || String::from_utf8(default.bytes().unwrap()).unwrap().replace("{call}", &call.to_string());
        let body = self.bytes().unwrap_or_else(|| default().into_bytes());
        let length = body.len().to_string();
        let framing = if self.chunked { ("transfer-encoding", "chunked") } else { ("content-length", length.as_str()) };
        UpstreamResponse {
            status: self.status.unwrap_or(200).try_into().unwrap(),
            headers: self.header_map(&[("content-type", "application/json"), framing]),
            body,
            unreachable: self.unreachable,
            truncated: self.truncate.is_some(),
        }
    }
}

/// The exchange that the expectations of a step are checked against.
struct Exchange<'a> {
    host: &'a Host,
    request: &'a Request,
    response: &'a UpstreamResponse,
    reply: &'a Reply,
    /// The bytes that the client received in the steps before.
    bodies: &'a BTreeMap<usize, Vec<u8>>,
}

fn play(case: &Case, default: &Message) -> Result<(), String> {
    let vars: BTreeMap<String, String> = std::iter::once(("OPENAI_BASE_URL".to_owned(), "{upstream}/v1".to_owned()))
        .chain(case.vars.clone())
        .map(|(name, value)| (name, value.replace("{upstream}", UPSTREAM_ORIGIN)))
        .collect();
    let mut host = Host::new(&vars);
    let mut now_ms = START_MS;
    let mut bodies = BTreeMap::new();
    for (index, step) in case.steps.iter().enumerate() {
        let step = Step::deserialize(step).map_err(|error| format!("step {index}: {error}"))?;
        if let Some(seconds) = step.advance {
            now_ms += seconds * 1000;
            continue;
        }
        let request = step.request.request();
        let response = step.response.response(default, host.calls().len() + 1);
        let reply = host.exchange(now_ms, &request, &response);
        let exchange = Exchange { host: &host, request: &request, response: &response, reply: &reply, bodies: &bodies };
        exchange.check(&step.expect).map_err(|what| format!("step {index}: {what}"))?;
        bodies.insert(index, reply.body);
    }
    Ok(())
}

impl Exchange<'_> {
    fn check(&self, expect: &Expect) -> Result<(), String> {
        let headers = &self.reply.headers;
        let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let cache_status = text("cache-status").unwrap_or_default();
        if let Some(status) = expect.status {
            same("status", &self.reply.status, &status)?;
        }
        if let Some(wanted) = &expect.cache_status {
            same("X-Cache-Status", &text("x-cache-status").as_ref(), &Some(wanted))?;
        }
        if let Some(detail) = &expect.detail {
            let found = cache_status.split_once("detail=").map(|(_, detail)| Value::from(detail));
            same("detail", &found.unwrap_or(Value::Null), detail)?;
        }
        if let Some(calls) = expect.calls {
            same("calls", &self.host.calls().len(), &calls)?;
        }
        check_headers(headers, &expect.headers)?;
        if let Some(wanted) = &expect.body {
            self.check_body(wanted, &self.reply.body)?;
        }
        expect.sent.as_ref().map_or(Ok(()), |sent| self.check_sent(sent))
    }

    fn check_sent(&self, sent: &Sent) -> Result<(), String> {
        let calls = self.host.calls();
        let call = calls.last().ok_or("the upstream was not called")?;
        if let Some(method) = &sent.method {
            same("sent method", &call.method.as_str(), &method.as_str())?;
        }
        if let Some(url) = &sent.url {
            same("sent url", &call.url.trim_start_matches(UPSTREAM_ORIGIN), &url.as_str())?;
        }
        check_headers(&call.headers, &sent.headers)?;
        match &sent.body {
            None => Ok(()),
            Some(Value::String(wanted)) if wanted == "request" => {
                same("sent body", &call.body, self.request.body.as_ref().unwrap_or(&Vec::new()))
            }
            Some(wanted) => self.check_body(wanted, &call.body).map_err(|what| format!("sent {what}")),
        }
    }

    fn check_body(&self, wanted: &Value, actual: &[u8]) -> Result<(), String> {
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|error| error.to_string());
        if wanted == "response" {
            return same("body", &actual, &self.response.body.as_slice());
        }
        if let Some(step) = wanted.get("step") {
            let step = usize::try_from(step.as_u64().unwrap()).unwrap();
            return same("body", &actual, &self.bodies[&step].as_slice());
        }
        if let Some(wanted) = wanted.get("json") {
            return same("body", &json(actual)?, wanted);
        }
        if let Some(wanted) = wanted.get("text") {
            return same("body", &String::from_utf8_lossy(actual).as_ref(), &wanted.as_str().unwrap());
        }
        let error = &json(actual)?["error"];
        same("error.code", &error["code"], &wanted["error"])?;
        same("error.type", &error["type"], &Value::from("proxy_error"))?;
        same("error.param", &error["param"], &Value::Null)
    }
}

fn check_headers(actual: &HeaderMap, wanted: &BTreeMap<String, Value>) -> Result<(), String> {
    for (name, wanted) in wanted {
        let values: Vec<_> =
            actual.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        let value = (!values.is_empty()).then(|| values.join(", "));
        match (wanted, value) {
            (Value::Null, None) => {}
            (Value::String(wanted), Some(value)) if *wanted == value => {}
            (Value::Object(wanted), Some(value))
                if regex::Regex::new(wanted["matches"].as_str().unwrap()).unwrap().is_match(&value) => {}
            // The host adds no lengths.
            (Value::String(_), None) if name == "content-length" => {}
            (wanted, value) => return Err(format!("header {name}: {value:?} instead of {wanted}")),
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, actual: &T, wanted: &T) -> Result<(), String> {
    if actual == wanted {
        return Ok(());
    }
    let short = |value: &T| format!("{value:?}").chars().take(300).collect::<String>();
    Err(format!("{what}: {} instead of {}", short(actual), short(wanted)))
}

#[test]
fn every_case_for_the_host_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/cases/reprise");
    let mut played = BTreeSet::new();
    let mut failures = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let file: File = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for case in file.cases.into_iter().filter(|case| case.only.as_deref() != Some("worker")) {
            if let Err(what) = play(&case, &file.defaults.response) {
                failures.push(format!("{}: {what}", case.id));
            }
            played.insert(case.id);
        }
    }
    println!("{} cases on the host", played.len());
    assert!(played.len() > 600, "only {} cases", played.len());
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), played.len(), failures.join("\n"));
    every_row_of_the_migration_pages(&played);
}

/// Each row of the pages in `docs/migration/` names its tests in the last cell: cases that were played, or test files, which
/// always run. Each page is in the list of `docs/migration.md`.
fn every_row_of_the_migration_pages(played: &BTreeSet<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let index = std::fs::read_to_string(root.join("docs/migration.md")).unwrap();
    let pages: Vec<_> =
        std::fs::read_dir(root.join("docs/migration")).unwrap().map(|page| page.unwrap().path()).collect();
    assert_eq!(index.matches("(migration/").count(), pages.len(), "{pages:?}");
    for page in pages {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(index.contains(&format!("(migration/{name})")), "{name}");
        let text = std::fs::read_to_string(&page).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
        let rows: Vec<&str> = rows.filter(|row| *row != "there | here | test").collect();
        assert!(rows.len() > 6, "{name}: {} rows", rows.len());
        for row in rows {
            let cells: Vec<&str> = row.split(" | ").collect();
            let [_, _, tests] = cells.as_slice() else {
                panic!("not three cells: {row}");
            };
            for test in tests.split(", ").map(|test| test.trim_matches('`')) {
                let is_file = test.starts_with("tests/") && test.ends_with(".test.mjs") && root.join(test).is_file();
                assert!(is_file || played.contains(test), "no test {test} was run, for: {row}");
            }
        }
    }
}
