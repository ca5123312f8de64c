//! Google, Cohere and Ollama: a stream of any chunks converts into the object, and an object converts into a stream that converts
//! back.

use proptest::prelude::*;
use reprise::testing::{Event, Protocol, ResponseMode};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

const STREAM: ResponseMode = ResponseMode { stream: true, include_usage: false };
const PLAIN: ResponseMode = ResponseMode { stream: false, include_usage: false };

/// Chooses where a response is split, by a fixed sequence of random numbers.
#[derive(Debug)]
struct Cuts {
    choices: std::iter::Cycle<std::vec::IntoIter<u8>>,
}

impl Cuts {
    fn new(choices: Vec<u8>) -> Self {
        Cuts { choices: choices.into_iter().cycle() }
    }

    fn choose(&mut self, among: usize) -> usize {
        usize::from(self.choices.next().unwrap()) % among
    }

    /// A text in one or more pieces, some of them empty.
    fn split(&mut self, text: &str) -> Vec<String> {
        let mut pieces = vec![String::new()];
        for c in text.chars() {
            if self.choose(3) == 0 {
                pieces.push(String::new());
            }
            pieces.last_mut().unwrap().push(c);
        }
        pieces
    }

    /// Runs of events that may be mixed, each of which stays in order.
    fn mix<T>(&mut self, runs: Vec<Vec<T>>) -> Vec<T> {
        let mut runs: Vec<VecDeque<T>> = runs.into_iter().map(VecDeque::from).collect();
        let mut mixed = Vec::new();
        loop {
            runs.retain(|run| !run.is_empty());
            if runs.is_empty() {
                return mixed;
            }
            let at = self.choose(runs.len());
            mixed.extend(runs[at].pop_front());
        }
    }
}

fn cuts() -> impl Strategy<Value = Cuts> {
    prop::collection::vec(any::<u8>(), 1..40).prop_map(Cuts::new)
}

fn events(chunks: &[Value]) -> Vec<Event> {
    chunks.iter().map(|chunk| Event::named(chunk["type"].as_str().unwrap_or_default(), chunk.to_string())).collect()
}

fn object(members: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    Value::Object(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

fn text() -> impl Strategy<Value = String> {
    "[a-z \u{e9}\u{1f600}\"\n\\\\]{0,12}"
}

/// Any JSON value, for fields whose content does not matter.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(serde_json::from_str("1.0e2").unwrap()),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c]{1,2}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Checks the properties of every protocol, for a whole response and one of its equivalent streams.
fn check_conversions(protocol: Protocol, response: &Value, chunks: &[Value]) -> Result<(), TestCaseError> {
    let stream = events(chunks);
    prop_assert_eq!(protocol.check(&stream), Ok(()));
    prop_assert_eq!(protocol.to_object(&stream), Some(response.clone()), "{:#?}", chunks);
    check_made_stream(protocol, response)?;
    // The stream as bytes, to the object as bytes.
    let mut body = Vec::new();
    for event in &stream {
        if protocol == Protocol::Ollama { event.write_line(&mut body) } else { event.write_sse(&mut body) }
    }
    let (kind, bytes) = protocol.convert(&body, PLAIN).unwrap();
    prop_assert_eq!(kind, "application/json");
    prop_assert_eq!(&serde_json::from_slice::<Value>(&bytes).unwrap(), response);
    // A truncated stream is never complete. (The last line feed may be missing.)
    for end in (0..body.len() - 1).filter(|end| end % 7 == 0 || body[..*end].ends_with(b"\n")) {
        let whole = protocol.events(&body[..end]).and_then(|events| protocol.check(&events));
        prop_assert!(
            whole.is_err() || body[end..].trim_ascii().is_empty(),
            "{}",
            String::from_utf8_lossy(&body[..end])
        );
    }
    Ok(())
}

fn check_made_stream(protocol: Protocol, response: &Value) -> Result<(), TestCaseError> {
    let made = protocol.to_events(response.clone(), STREAM);
    prop_assert!(made.is_some(), "{response:#}");
    let made = made.unwrap();
    prop_assert_eq!(protocol.check(&made), Ok(()));
    prop_assert_eq!(protocol.to_object(&made), Some(response.clone()), "{:#?}", made);
    let (kind, bytes) = protocol.convert(&serde_json::to_vec(response).unwrap(), STREAM).unwrap();
    prop_assert!(protocol.is_stream(kind.split(';').next().unwrap(), true));
    prop_assert_eq!(protocol.events(&bytes).unwrap(), made);
    Ok(())
}

// Google

/// A part that is not split.
fn google_part() -> impl Strategy<Value = Value> {
    prop_oneof![
        (text(), any_json()).prop_map(
            |(name, args)| json!({"functionCall": {"name": name, "args": {"a": args}}, "thoughtSignature": "s"})
        ),
        text().prop_map(|text| json!({"text": text, "thoughtSignature": "s+/="})),
        Just(json!({"text": "", "thought": true, "thoughtSignature": "s"})),
        Just(json!({"inlineData": {"mimeType": "image/png", "data": "AAAA"}})),
        text().prop_map(|code| json!({"executableCode": {"language": "PYTHON", "code": code}})),
        any_json().prop_map(|future| json!({"text": "t", "newField": future})),
    ]
}

fn google_parts() -> impl Strategy<Value = Vec<Value>> {
    let plain = (text(), any::<bool>()).prop_map(|(text, thought)| {
        if thought { json!({"text": text, "thought": true}) } else { json!({"text": text}) }
    });
    prop::collection::vec(prop_oneof![2 => plain, 1 => google_part()], 1..5).prop_map(|parts| {
        // As the plain API has them: no empty text, and no two texts of a kind in a row.
        let mut normal: Vec<Value> = Vec::new();
        for part in parts {
            let is_plain =
                |part: &Value| part.as_object().unwrap().keys().all(|name| name == "text" || name == "thought");
            let same = normal
                .last()
                .is_some_and(|last| is_plain(last) && is_plain(&part) && last.get("thought") == part.get("thought"));
            if !(same || is_plain(&part) && part["text"] == "") {
                normal.push(part);
            }
        }
        if normal.is_empty() { vec![json!({"text": ""})] } else { normal }
    })
}

fn google_response() -> impl Strategy<Value = Value> {
    let candidate = (google_parts(), prop::option::of(any_json()), prop::option::of(any_json()), any::<bool>());
    let candidates = prop::collection::vec(candidate, 1..4).prop_map(|candidates| {
        let candidates = candidates.into_iter().enumerate().map(|(index, (parts, grounding, future, max))| {
            object([
                ("content", Some(json!({"parts": parts, "role": "model"}))),
                ("finishReason", Some(if max { "MAX_TOKENS" } else { "STOP" }.into())),
                ("groundingMetadata", grounding.map(|value| json!({"a": value}))),
                ("newField", future),
                ("safetyRatings", max.then(|| json!([{"category": "c", "probability": "NEGLIGIBLE"}]))),
                ("index", Some(index.into())),
            ])
        });
        Value::Array(candidates.collect())
    });
    (candidates, prop::option::of(any_json()), any::<u32>()).prop_map(|(candidates, future, tokens)| {
        object([
            ("candidates", Some(candidates)),
            ("usageMetadata", Some(json!({"totalTokenCount": tokens, "promptTokenCount": 1}))),
            ("modelVersion", Some("m".into())),
            ("responseId", Some("r".into())),
            ("newField", future),
        ])
    })
}

fn google_stream(response: &Value, cuts: &mut Cuts) -> Vec<Value> {
    let runs = response["candidates"].as_array().unwrap().iter().map(|candidate| {
        let mut parts: Vec<Value> = Vec::new();
        for part in candidate["content"]["parts"].as_array().unwrap() {
            let is_plain = part.as_object().unwrap().keys().all(|name| name == "text" || name == "thought");
            if !is_plain {
                parts.push(part.clone());
                continue;
            }
            for piece in cuts.split(part["text"].as_str().unwrap()) {
                let mut part = part.clone();
                part["text"] = piece.into();
                parts.push(part);
            }
        }
        let mut chunks: Vec<Vec<Value>> = vec![Vec::new()];
        for part in parts {
            if cuts.choose(2) == 0 {
                chunks.push(Vec::new());
            }
            chunks.last_mut().unwrap().push(part);
        }
        let mut fragments: Vec<Value> = Vec::new();
        for parts in chunks {
            let mut fragment = json!({"content": {"parts": parts, "role": "model"}, "index": candidate["index"]});
            if candidate["index"] == 0 && cuts.choose(3) == 0 {
                fragment.as_object_mut().unwrap().remove("index");
            }
            if candidate.get("safetyRatings").is_some() {
                fragment["safetyRatings"] = json!([{"category": "c", "probability": "LOW"}]);
            }
            fragments.push(fragment);
        }
        let end = fragments.last_mut().unwrap();
        for (name, value) in candidate.as_object().unwrap() {
            if name != "content" {
                end[name] = value.clone();
            }
        }
        fragments
    });
    let runs: Vec<Vec<Value>> = runs.collect();
    // Every candidate is in the first chunk. Otherwise a stream could be truncated before a candidate begins.
    let (first, runs): (Vec<_>, Vec<_>) = runs.into_iter().map(|mut run| (run.remove(0), run)).unzip();
    let mut mixed = vec![first];
    mixed.extend(cuts.mix(runs).into_iter().map(|fragment| vec![fragment]));
    let last = mixed.len() - 1;
    let chunk = |(at, fragments)| {
        let mut chunk = response.clone();
        chunk["candidates"] = Value::Array(fragments);
        if at != last {
            chunk["usageMetadata"] = json!({"totalTokenCount": at});
        }
        chunk
    };
    mixed.into_iter().enumerate().map(chunk).collect()
}

// Cohere

fn cohere_response() -> impl Strategy<Value = Value> {
    let block = (text(), any::<bool>()).prop_map(|(text, thinking)| {
        if thinking { json!({"type": "thinking", "thinking": text}) } else { json!({"type": "text", "text": text}) }
    });
    let call = (text(), any_json()).prop_map(|(id, arguments)| {
        let arguments = arguments.to_string();
        json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}})
    });
    let citation = (any::<u8>(), any_json()).prop_map(
        |(start, source)| json!({"start": start, "end": 300, "text": "t", "sources": [source], "type": "TEXT_CONTENT"}),
    );
    let some = |items: Vec<Value>| (!items.is_empty()).then(|| Value::Array(items));
    let content = prop::collection::vec(block, 0..4);
    let calls = prop::collection::vec(call, 0..4);
    let citations = prop::collection::vec(citation, 0..4);
    (content, calls, citations, text(), prop::option::of(any_json()), any::<bool>()).prop_map(
        move |(mut content, calls, citations, plan, usage, probable)| {
            // An empty response is not stored.
            if content.is_empty() && calls.is_empty() {
                content.push(json!({"type": "text", "text": "a"}));
            }
            let first =
                content.iter().find(|block| block["type"] == "text").map(|block| block["text"].as_str().unwrap());
            let first = first.filter(|text| probable && !text.is_empty()).map(str::to_owned);
            let logprobs = first.map(|text| {
                let item = |c: char| json!({"text": c.to_string(), "token_ids": [1], "logprobs": [-0.5]});
                text.chars().map(item).collect::<Value>()
            });
            object([
                ("id", Some("c1".into())),
                ("finish_reason", Some("COMPLETE".into())),
                (
                    "message",
                    Some(object([
                        ("role", Some("assistant".into())),
                        ("content", some(content)),
                        ("tool_plan", Some(plan).filter(|plan| !plan.is_empty()).map(Value::from)),
                        ("tool_calls", some(calls)),
                        ("citations", some(citations)),
                    ])),
                ),
                ("usage", usage.map(|usage| json!({"tokens": usage}))),
                ("logprobs", logprobs),
            ])
        },
    )
}

fn cohere_stream(response: &Value, cuts: &mut Cuts) -> Vec<Value> {
    let message = &response["message"];
    let items = |name: &str| message[name].as_array().cloned().unwrap_or_default().into_iter().enumerate();
    let mut logprobs = response["logprobs"].as_array().cloned().unwrap_or_default();
    let mut runs = Vec::new();
    for (index, block) in items("content") {
        let kind = block["type"].as_str().unwrap().to_owned();
        let said = block[&kind].as_str().unwrap().to_owned();
        let mut start = block.clone();
        start[&kind] = "".into();
        let mut run = vec![json!({"type": "content-start", "index": index, "delta": {"message": {"content": start}}})];
        if kind == "text" && !logprobs.is_empty() {
            for item in logprobs.drain(..) {
                let delta = json!({"message": {"content": {"text": item["text"]}}});
                run.push(json!({"type": "content-delta", "index": index, "delta": delta, "logprobs": item}));
            }
        } else {
            for piece in cuts.split(&said) {
                let delta = json!({"message": {"content": {&kind: piece}}});
                run.push(json!({"type": "content-delta", "index": index, "delta": delta}));
            }
        }
        run.push(json!({"type": "content-end", "index": index}));
        runs.push(run);
    }
    let plan = message["tool_plan"].as_str().unwrap_or_default();
    let plan = cuts
        .split(plan)
        .into_iter()
        .map(|piece| json!({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": piece}}}));
    runs.push(plan.collect());
    for (index, mut call) in items("tool_calls") {
        let arguments = call["function"]["arguments"].as_str().unwrap().to_owned();
        call["function"]["arguments"] = "".into();
        let mut run =
            vec![json!({"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": call}}})];
        for piece in cuts.split(&arguments) {
            let delta = json!({"message": {"tool_calls": {"function": {"arguments": piece}}}});
            run.push(json!({"type": "tool-call-delta", "index": index, "delta": delta}));
        }
        run.push(json!({"type": "tool-call-end", "index": index}));
        runs.push(run);
    }
    let citations = items("citations").flat_map(|(index, citation)| {
        [
            json!({"type": "citation-start", "index": index, "delta": {"message": {"citations": citation}}}),
            json!({"type": "citation-end", "index": index}),
        ]
    });
    runs.push(citations.collect());
    let announced = json!({"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []});
    let mut stream = vec![json!({"type": "message-start", "id": "c1", "delta": {"message": announced}})];
    stream.extend(cuts.mix(runs));
    let end = object([("finish_reason", Some("COMPLETE".into())), ("usage", response.get("usage").cloned())]);
    stream.push(json!({"type": "message-end", "delta": end}));
    stream
}

// Ollama

fn ollama_response() -> impl Strategy<Value = Value> {
    let call = any_json().prop_map(|arguments| json!({"function": {"name": "f", "arguments": {"a": arguments}}}));
    let texts = (text(), prop::option::of("[a-z ]{1,9}"), prop::collection::vec(call, 0..3));
    let logprobs = prop::collection::vec(any_json(), 0..3);
    (any::<bool>(), texts, logprobs, any_json()).prop_map(|(chat, (said, thought, calls), logprobs, future)| {
        let some = |items: Vec<Value>| (!items.is_empty()).then(|| Value::Array(items));
        // An empty response is not stored.
        let said = if thought.is_none() { format!("a{said}") } else { said };
        let thought = thought.map(Value::from);
        let (message, others) = if chat {
            let message = [
                ("role", Some("assistant".into())),
                ("content", Some(said.into())),
                ("thinking", thought),
                ("tool_calls", some(calls)),
            ];
            (Some(object(message)), [("context", None), ("response", None), ("thinking", None)])
        } else {
            (None, [("context", Some(json!([1, 2]))), ("response", Some(said.into())), ("thinking", thought)])
        };
        let shared = [
            ("model", Some("m".into())),
            ("created_at", Some("2025-01-02T03:04:05.6Z".into())),
            ("message", message),
            ("done", Some(true.into())),
            ("done_reason", Some("stop".into())),
            ("total_duration", Some(5_191_566_416_u64.into())),
            ("eval_count", Some(298.into())),
            ("logprobs", some(logprobs)),
            ("new_field", Some(future)),
        ];
        object(shared.into_iter().chain(others))
    })
}

fn ollama_stream(response: &Value, cuts: &mut Cuts) -> Vec<Value> {
    let chat = response.get("message").is_some();
    let said = response.get("message").unwrap_or(response);
    let field = if chat { "content" } else { "response" };
    let mut logprobs = response["logprobs"].as_array().cloned().unwrap_or_default();
    let mut parts: Vec<Value> = Vec::new();
    for name in ["thinking", field] {
        for piece in cuts.split(said[name].as_str().unwrap_or_default()) {
            if name == field || !piece.is_empty() {
                let mut part = json!({field: ""});
                part[name] = piece.into();
                parts.push(part);
            }
        }
    }
    for call in said["tool_calls"].as_array().cloned().unwrap_or_default() {
        parts.push(json!({field: "", "tool_calls": [call]}));
    }
    let last = parts.len();
    parts.push(json!({field: ""}));
    let line = |(at, mut part): (usize, Value)| {
        let mut line = json!({"model": "m", "created_at": at, "done": false});
        if at == last {
            line = response.clone();
            for name in ["thinking", "logprobs"] {
                line.as_object_mut().unwrap().remove(name);
            }
        }
        if chat {
            part["role"] = "assistant".into();
            line["message"] = part;
        } else {
            line.as_object_mut().unwrap().append(part.as_object_mut().unwrap());
        }
        let probable = if at == last { logprobs.len() } else { cuts.choose(logprobs.len() + 1) };
        if probable > 0 {
            line["logprobs"] = logprobs.drain(..probable).collect();
        }
        line
    };
    parts.into_iter().enumerate().map(line).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn google_streams_and_objects_are_converted(response in google_response(), mut cuts in cuts()) {
        let chunks = google_stream(&response, &mut cuts);
        check_conversions(Protocol::Google, &response, &chunks)?;
        // The form without `alt=sse`.
        let array = Protocol::Google.events(Value::from(chunks).to_string().as_bytes()).unwrap();
        prop_assert_eq!(Protocol::Google.to_object(&array), Some(response));
    }

    #[test]
    fn cohere_streams_and_objects_are_converted(response in cohere_response(), mut cuts in cuts()) {
        check_conversions(Protocol::Cohere, &response, &cohere_stream(&response, &mut cuts))?;
    }

    #[test]
    fn ollama_streams_and_objects_are_converted(response in ollama_response(), mut cuts in cuts()) {
        check_conversions(Protocol::Ollama, &response, &ollama_stream(&response, &mut cuts))?;
    }

    /// With an unknown field, anywhere, the conversion keeps the field or is refused.
    #[test]
    fn no_conversion_drops_a_field(
        google in google_response(),
        cohere in cohere_response(),
        ollama in ollama_response(),
        mut cuts in cuts(),
        place in any::<prop::sample::Index>(),
    ) {
        let streams = [
            (Protocol::Google, google_stream(&google, &mut cuts), google),
            (Protocol::Cohere, cohere_stream(&cohere, &mut cuts), cohere),
            (Protocol::Ollama, ollama_stream(&ollama, &mut cuts), ollama),
        ];
        for (protocol, chunks, response) in streams {
            let mut chunks = Value::from(chunks);
            mark(&mut chunks, place);
            if let Some(object) = protocol.to_object(&events(chunks.as_array().unwrap())) {
                prop_assert!(object.to_string().contains(MARK), "{chunks:#}\n{object:#}");
            }
            let mut response = response;
            mark(&mut response, place);
            if let Some(made) = protocol.to_events(response.clone(), STREAM) {
                prop_assert!(made.iter().any(|event| event.data.contains(MARK)), "{response:#}\n{made:#?}");
                prop_assert_eq!(protocol.to_object(&made), Some(response));
            }
        }
    }

    /// Any JSON is converted or refused without a panic, and a converted stream converts back.
    #[test]
    fn any_json_is_converted_or_refused(chunks in prop::collection::vec(any_json(), 0..4), object in any_json()) {
        for protocol in [Protocol::Google, Protocol::Cohere, Protocol::Ollama] {
            let _ = protocol.to_object(&events(&chunks));
            if let Some(made) = protocol.to_events(object.clone(), STREAM) {
                prop_assert!(protocol.to_object(&made).is_some());
            }
        }
    }
}

const MARK: &str = "an unknown field";

/// Puts a field into one of the objects in a value.
fn mark(value: &mut Value, place: prop::sample::Index) {
    fn objects(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                found.push(at.to_owned());
                // Each chunk replaces these as a whole.
                let lasting = |name: &str| !matches!(name, "usageMetadata" | "safetyRatings");
                for (name, value) in members.iter().filter(|(name, _)| lasting(name)) {
                    objects(value, &format!("{at}/{name}"), found);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    objects(value, &format!("{at}/{index}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    objects(value, "", &mut found);
    let object = value.pointer_mut(&found[place.index(found.len())]).unwrap();
    object[MARK] = MARK.into();
}

/// Recorded responses, if there are any.
#[test]
fn recorded_responses_are_converted() {
    let file = std::env::var("REPRISE_EXCHANGES")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/exchanges/exchanges.jsonl").to_owned());
    let Ok(lines) = std::fs::read_to_string(&file) else {
        println!("skipped: no recorded exchanges at {file} (set REPRISE_EXCHANGES)");
        return;
    };
    let (mut streams, mut objects) = (0, 0);
    for line in lines.lines() {
        let exchange: Value = serde_json::from_str(line).unwrap();
        let path = exchange["path"].as_str().unwrap();
        let protocol = match exchange["provider"].as_str().unwrap() {
            "google" if path.contains("enerateContent") => Protocol::Google,
            "cohere" if path == "/v2/chat" => Protocol::Cohere,
            _ => continue,
        };
        let body = exchange["response"].as_str().unwrap();
        if exchange["status"] != 200 {
            continue;
        }
        let id = &exchange["id"];
        if exchange["content_type"].as_str().unwrap().starts_with("text/event-stream") {
            streams += 1;
            let stream = protocol.events(body.as_bytes()).unwrap();
            assert_eq!(protocol.check(&stream), Ok(()), "{id}");
            let response = protocol.to_object(&stream).unwrap();
            assert_eq!(content_of(&stream), content_of(&[Event::data(response.to_string())]), "{id}");
            check_made_stream(protocol, &response).unwrap_or_else(|error| panic!("{id}: {error}"));
        } else {
            objects += 1;
            let response: Value = serde_json::from_str(body).unwrap();
            check_made_stream(protocol, &response).unwrap_or_else(|error| panic!("{id}: {error}"));
        }
    }
    println!("{streams} streams and {objects} objects");
    assert!(streams >= 4 && objects >= 14, "{streams} {objects}");
}

/// What Google's chunks contain together: the output text, the reasoning, all other parts, and the last value of every other
/// field.
fn content_of(chunks: &[Event]) -> (String, String, Vec<Value>, Map<String, Value>) {
    let (mut output, mut reasoning, mut parts, mut others) = (String::new(), String::new(), Vec::new(), Map::new());
    for chunk in chunks {
        let mut chunk: Value = serde_json::from_str(&chunk.data).unwrap();
        let candidate = chunk["candidates"][0].as_object_mut().unwrap();
        let content = candidate.remove("content").unwrap();
        others.append(candidate);
        for part in content["parts"].as_array().unwrap() {
            let text = part["text"].as_str().unwrap_or_default();
            if part["thought"] == true {
                reasoning.push_str(text)
            } else {
                output.push_str(text)
            }
            let mut part = part.clone();
            part.as_object_mut().unwrap().remove("text");
            if part != json!({}) && part != json!({"thought": true}) {
                parts.push(part);
            }
        }
        chunk["candidates"].take();
        others.append(chunk.as_object_mut().unwrap());
    }
    (output, reasoning, parts, others)
}
