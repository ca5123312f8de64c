//! Section 17: every ending of every protocol, as an object and as a stream, under each `CACHE_ADMISSION`.
//!
//! What is stored is compared with a second reading of the specification, [`expected`], which looks at the values of which a
//! response was made and not at its bytes.

use crate::platform::{Host, Request, UpstreamResponse};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reprise::testing::{Protocol, ResponseMode};
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000_000;

/// How a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Normal,
    /// It ran out of tokens.
    Cut,
    /// A filter ended it.
    Filtered,
}

/// What a response consists of.
#[derive(Debug, Clone)]
struct Answer {
    text: Option<&'static str>,
    refusal: bool,
    /// The arguments of each function call, as the model wrote them.
    calls: Vec<&'static str>,
    ending: Ending,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
struct Wish {
    json: bool,
    tools: bool,
    limit: bool,
}

const PROTOCOLS: [(Protocol, &str); 7] = [
    (Protocol::Chat, "/proxy/chat/completions"),
    (Protocol::Completions, "/proxy/completions"),
    (Protocol::Responses, "/proxy/responses"),
    (Protocol::Anthropic, "/anthropic/v1/messages"),
    (Protocol::Google, "/google/v1beta/models/m:generateContent"),
    (Protocol::Cohere, "/cohere/v2/chat"),
    (Protocol::Ollama, "/ollama/api/chat"),
];

/// The finish reasons of a protocol. Responses that ran out of tokens or were filtered have another status at OpenAI.
fn endings(protocol: Protocol) -> Vec<(&'static str, Ending)> {
    use Ending::{Cut, Filtered, Normal};
    match protocol {
        Protocol::Chat => vec![
            ("stop", Normal),
            ("tool_calls", Normal),
            ("function_call", Normal),
            ("length", Cut),
            ("model_length", Cut),
            ("max_tokens", Cut),
            ("content_filter", Filtered),
        ],
        Protocol::Completions => vec![("stop", Normal), ("length", Cut), ("content_filter", Filtered)],
        Protocol::Responses => vec![("", Normal), ("max_output_tokens", Cut)],
        Protocol::Anthropic => vec![
            ("end_turn", Normal),
            ("stop_sequence", Normal),
            ("tool_use", Normal),
            ("max_tokens", Cut),
            ("model_context_window_exceeded", Cut),
            ("refusal", Filtered),
        ],
        Protocol::Google => vec![("STOP", Normal), ("MAX_TOKENS", Cut), ("SAFETY", Filtered), ("RECITATION", Filtered)],
        Protocol::Cohere => vec![
            ("COMPLETE", Normal),
            ("STOP_SEQUENCE", Normal),
            ("TOOL_CALL", Normal),
            ("MAX_TOKENS", Cut),
            ("ERROR_TOXIC", Filtered),
        ],
        Protocol::Ollama => vec![("stop", Normal), ("length", Cut)],
    }
}

/// The request. Anthropic's requests always have a limit.
fn request(protocol: Protocol, wish: Wish, stream: bool) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}});
    let (json_mode, limit) = match protocol {
        Protocol::Chat | Protocol::Completions => (json!({"response_format": format}), json!({"max_tokens": 9})),
        Protocol::Responses => {
            let format = json!({"type": "json_schema", "name": "a", "schema": {"type": "object"}});
            (json!({"text": {"format": format}}), json!({"max_output_tokens": 9}))
        }
        Protocol::Anthropic => {
            let format = json!({"type": "json_schema", "schema": {"type": "object"}});
            (json!({"output_config": {"format": format}}), json!({"max_tokens": 9}))
        }
        Protocol::Google => (json!({"responseMimeType": "application/json"}), json!({"maxOutputTokens": 9})),
        Protocol::Cohere => (json!({"response_format": {"type": "json_object"}}), json!({"max_tokens": 9})),
        Protocol::Ollama => (json!({"format": {"type": "object"}}), json!({"options": {"num_predict": 9}})),
    };
    let mut more = json!({});
    let mut add = |members: &Value| {
        for (name, value) in members.as_object().unwrap() {
            more[name] = value.clone();
        }
    };
    if wish.json {
        add(&json_mode);
    }
    if wish.limit {
        add(&limit);
    }
    if protocol == Protocol::Google {
        more = json!({"generationConfig": more});
    }
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    if wish.tools {
        body["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    }
    if protocol != Protocol::Google {
        body["stream"] = stream.into();
    }
    body
}

fn parsed(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| json!({}))
}

/// The whole response. `None`: the protocol has no such response.
fn object(protocol: Protocol, answer: &Answer, reason: &str) -> Option<Value> {
    let call =
        |arguments: &&str| json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}});
    let calls: Vec<Value> = answer.calls.iter().map(call).collect();
    let text = answer.text;
    let only_text = calls.is_empty() && !answer.refusal;
    let object_calls = answer.calls.iter().map(|arguments| json!({"name": "f", "arguments": parsed(arguments)}));
    let mut message = json!({"role": "assistant", "content": text});
    if !calls.is_empty() {
        message["tool_calls"] = calls.clone().into();
    }
    Some(match protocol {
        Protocol::Chat => {
            if answer.refusal {
                message["refusal"] = "No.".into();
            }
            json!({"id": "i", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": reason}]})
        }
        Protocol::Completions if only_text => {
            json!({"id": "i", "object": "text_completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "text": text?, "logprobs": null, "finish_reason": reason}]})
        }
        Protocol::Responses => {
            let mut output = Vec::new();
            let mut content = Vec::new();
            content.extend(text.map(|text| json!({"type": "output_text", "text": text, "annotations": []})));
            content.extend(answer.refusal.then(|| json!({"type": "refusal", "refusal": "No."})));
            if !content.is_empty() {
                output.push(json!({"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": content}));
            }
            let call = |arguments: &&str| json!({"id": "f", "type": "function_call", "call_id": "c", "name": "f", "arguments": arguments, "status": "completed"});
            output.extend(answer.calls.iter().map(call));
            let (status, details) = match answer.ending {
                Ending::Normal => ("completed", Value::Null),
                _ => ("incomplete", json!({"reason": reason})),
            };
            json!({"id": "r", "object": "response", "status": status, "incomplete_details": details, "error": null, "output": output})
        }
        Protocol::Anthropic if !answer.refusal => {
            let mut content: Vec<Value> = text.map(|text| json!({"type": "text", "text": text})).into_iter().collect();
            content.extend(
                answer.calls.iter().map(|a| json!({"type": "tool_use", "id": "t", "name": "f", "input": parsed(a)})),
            );
            json!({"id": "i", "type": "message", "role": "assistant", "model": "m", "content": content,
                "stop_reason": reason, "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1}})
        }
        Protocol::Google if !answer.refusal => {
            let mut parts: Vec<Value> = text.map(|text| json!({"text": text})).into_iter().collect();
            parts.extend(answer.calls.iter().map(|a| json!({"functionCall": {"name": "f", "args": parsed(a)}})));
            json!({"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": reason, "index": 0}]})
        }
        Protocol::Cohere if !answer.refusal => {
            message["content"] = text.map_or(json!([]), |text| json!([{"type": "text", "text": text}]));
            json!({"id": "i", "finish_reason": reason, "message": message})
        }
        Protocol::Ollama if !answer.refusal => {
            message["content"] = text.unwrap_or("").into();
            if !calls.is_empty() {
                message["tool_calls"] = object_calls.map(|function| json!({"function": function})).collect();
            }
            json!({"model": "m", "created_at": "2026-11-24T00:00:00Z", "message": message, "done": true, "done_reason": reason})
        }
        _ => return None,
    })
}

fn event(data: &Value) -> String {
    let name = data["type"].as_str().map(|kind| format!("event: {kind}\n")).unwrap_or_default();
    format!("{name}data: {data}\n\n")
}

/// A text in two fragments.
fn halves(text: &str) -> [&str; 2] {
    let middle = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
    let (first, second) = text.split_at(middle);
    [first, second]
}

/// A stream with every text and argument in fragments, written by hand.
fn fragments(protocol: Protocol, answer: &Answer, reason: &str) -> Option<(String, &'static str)> {
    let calls = || (0u64..).zip(&answer.calls);
    let texts = || answer.text.map(halves).into_iter().flatten();
    let mut out = String::new();
    let mut push = |data: Value| out.push_str(&event(&data));
    match protocol {
        Protocol::Chat => {
            let mut delta = |delta: Value, reason: Value| {
                push(json!({"id": "i", "object": "chat.completion.chunk", "created": 1, "model": "m",
                    "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}));
            };
            delta(json!({"role": "assistant", "content": ""}), Value::Null);
            texts().for_each(|text| delta(json!({"content": text}), Value::Null));
            if answer.refusal {
                delta(json!({"refusal": "No."}), Value::Null);
            }
            for (index, arguments) in calls() {
                let function = json!({"name": "f", "arguments": ""});
                delta(
                    json!({"tool_calls": [{"index": index, "id": "c", "type": "function", "function": function}]}),
                    Value::Null,
                );
                for fragment in halves(arguments) {
                    delta(json!({"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}), Value::Null);
                }
            }
            delta(json!({}), reason.into());
            out.push_str("data: [DONE]\n\n");
        }
        Protocol::Completions => {
            for text in texts() {
                push(json!({"id": "i", "choices": [{"index": 0, "text": text, "finish_reason": null}]}));
            }
            push(json!({"id": "i", "choices": [{"index": 0, "text": "", "finish_reason": reason}]}));
            out.push_str("data: [DONE]\n\n");
        }
        Protocol::Anthropic => {
            let message = json!({"id": "i", "type": "message", "role": "assistant", "model": "m", "content": [],
                "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1}});
            push(json!({"type": "message_start", "message": message}));
            let mut next = 0;
            if answer.text.is_some() {
                push(json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}));
                for text in texts() {
                    push(
                        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}),
                    );
                }
                push(json!({"type": "content_block_stop", "index": 0}));
                next = 1;
            }
            for (index, arguments) in calls() {
                let index = index + next;
                let block = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
                push(json!({"type": "content_block_start", "index": index, "content_block": block}));
                for fragment in halves(arguments) {
                    let delta = json!({"type": "input_json_delta", "partial_json": fragment});
                    push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
                }
                push(json!({"type": "content_block_stop", "index": index}));
            }
            push(json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 1}}));
            push(json!({"type": "message_stop"}));
        }
        Protocol::Google => {
            for text in texts() {
                push(json!({"candidates": [{"content": {"parts": [{"text": text}]}, "index": 0}]}));
            }
            let parts: Vec<Value> =
                answer.calls.iter().map(|a| json!({"functionCall": {"name": "f", "args": parsed(a)}})).collect();
            push(json!({"candidates": [{"content": {"parts": parts}, "finishReason": reason, "index": 0}]}));
        }
        Protocol::Cohere => {
            push(
                json!({"type": "message-start", "id": "i", "delta": {"message": {"role": "assistant", "content": []}}}),
            );
            if answer.text.is_some() {
                push(
                    json!({"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}}),
                );
                for text in texts() {
                    push(
                        json!({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": text}}}}),
                    );
                }
                push(json!({"type": "content-end", "index": 0}));
            }
            for (index, arguments) in calls() {
                let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}});
                push(json!({"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": call}}}));
                for fragment in halves(arguments) {
                    let call = json!({"function": {"arguments": fragment}});
                    push(
                        json!({"type": "tool-call-delta", "index": index, "delta": {"message": {"tool_calls": call}}}),
                    );
                }
                push(json!({"type": "tool-call-end", "index": index}));
            }
            push(json!({"type": "message-end", "delta": {"finish_reason": reason}}));
        }
        Protocol::Responses => {
            // The items without the final object, as some servers send them.
            let whole = object(protocol, answer, reason)?;
            for (index, item) in whole["output"].as_array()?.iter().enumerate() {
                push(
                    json!({"type": "response.output_item.added", "output_index": index, "item": {"type": item["type"]}}),
                );
                push(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
            }
            let (kind, status) = match answer.ending {
                Ending::Normal => ("response.completed", "completed"),
                _ => ("response.incomplete", "incomplete"),
            };
            push(
                json!({"type": kind, "response": {"status": status, "incomplete_details": whole["incomplete_details"]}}),
            );
        }
        Protocol::Ollama => {
            let calls: Vec<Value> =
                answer.calls.iter().map(|a| json!({"function": {"name": "f", "arguments": parsed(a)}})).collect();
            let mut line = |message: Value, done: bool, reason: Option<&str>| {
                let mut line = json!({"model": "m", "created_at": "t", "message": message, "done": done});
                if let Some(reason) = reason {
                    line["done_reason"] = reason.into();
                }
                out.push_str(&format!("{line}\n"));
            };
            texts().for_each(|text| line(json!({"role": "assistant", "content": text}), false, None));
            if !calls.is_empty() {
                line(json!({"role": "assistant", "content": "", "tool_calls": calls}), false, None);
            }
            line(json!({"role": "assistant", "content": ""}), true, Some(reason));
            return Some((out, "application/x-ndjson"));
        }
    }
    Some((out, "text/event-stream"))
}

/// Whether the arguments of a function call are the model's own text. Elsewhere they are objects, or are made of objects.
fn has_text_arguments(protocol: Protocol, shape: Shape) -> bool {
    matches!(protocol, Protocol::Chat | Protocol::Responses | Protocol::Cohere)
        || (protocol == Protocol::Anthropic && shape == Shape::Fragments)
}

/// The form of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Object,
    /// A stream of fragments.
    Fragments,
    /// The stream that we make of the object.
    Made,
}

/// The specification's verdict: `None`, if the response is stored, or the reason in the log.
fn expected(admission: &str, protocol: Protocol, wish: Wish, answer: &Answer, shape: Shape) -> Option<&'static str> {
    // Section 2.
    match answer.ending {
        Ending::Filtered => return Some("content-filter"),
        Ending::Cut if protocol == Protocol::Responses => return Some("not-completed"),
        _ => {}
    }
    let cut = answer.ending == Ending::Cut;
    match admission {
        "any" => return None,
        "complete" => return cut.then_some("incomplete"),
        _ => {}
    }
    if cut && (wish.json || wish.tools || !wish.limit) {
        return Some("incomplete");
    }
    let is_json = |text: &str| serde_json::from_str::<Value>(text).is_ok();
    let bad_arguments = answer.calls.iter().any(|arguments| !arguments.is_empty() && !is_json(arguments));
    if bad_arguments && has_text_arguments(protocol, shape) {
        return Some("invalid-tool-arguments");
    }
    let in_place_of_text = answer.refusal || !answer.calls.is_empty();
    let text = answer.text.unwrap_or_default().trim();
    let text = text.strip_prefix("<think>Well.</think>").unwrap_or(text).trim();
    let text = text.strip_prefix("```json").and_then(|text| text.strip_suffix("```")).unwrap_or(text);
    let is_answer = if text.is_empty() { in_place_of_text } else { is_json(text) };
    (wish.json && !is_answer).then_some("invalid-json-answer")
}

/// Why a response is not stored, by the log. With `repeat` the next request shows whether that is so.
fn outcome(host: &Host, path: &str, body: &Value, response: &UpstreamResponse, repeat: bool) -> Option<String> {
    let mut host = host.emptied();
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer k"));
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let request =
        Request { method: Method::POST, target: path.to_owned(), headers, body: Some(body.to_string().into_bytes()) };
    let first = host.exchange(NOW, &request, response);
    assert_eq!(first.body, response.body, "what is not stored is passed on all the same");
    let line: Value = serde_json::from_str(&host.last_line).unwrap();
    let reason = line["reason"].as_str().map(str::to_owned);
    if repeat {
        let second = host.exchange(NOW, &request, response);
        assert_eq!(second.body, response.body);
        assert_eq!(second.headers["x-cache-status"] == "HIT", reason.is_none());
    }
    reason
}

fn answers(ending: Ending) -> Vec<Answer> {
    let texts = [
        Some("Hello"),
        Some("{\"a\":[1,\"é\"]}"),
        Some("{\"a\":"),
        Some("[1]"),
        Some("{\"a\":1} and more"),
        Some("<think>Well.</think>\n{\"a\":1}"),
        Some("```json\n{\"a\":1}\n```"),
        Some("\u{feff}{}"),
    ];
    let calls: [Vec<&str>; 4] = [vec!["{\"x\":1}"], vec![""], vec!["{\"x\":"], vec!["{}", "{\"y\":\"z\"}"]];
    let answer = |text, refusal, calls: &[&'static str]| Answer { text, refusal, calls: calls.to_vec(), ending };
    let mut all: Vec<Answer> = texts.iter().map(|text| answer(*text, false, &[])).collect();
    // A filtered response is not stored, whatever it says.
    if ending != Ending::Filtered {
        all.extend(calls.iter().map(|calls| answer(None, false, calls)));
        all.extend([None, Some("Hello"), Some("[1]")].map(|text| answer(text, true, &[])));
        all.extend([Some("Hello"), Some("[1]")].map(|text| answer(text, false, &calls[0])));
    }
    all
}

/// JSON mode, tools and a limit, as far as they matter together.
const WISHES: [(bool, bool, bool); 5] =
    [(false, false, false), (false, false, true), (false, true, true), (true, false, false), (true, false, true)];

#[test]
fn every_ending_of_every_protocol() {
    let hosts = ["valid", "complete", "any"].map(|admission| {
        let upstreams = r#"{"anthropic":"http://up.test","google":"http://up.test","cohere":"http://up.test","ollama":"http://up.test"}"#;
        let vars = [("CACHE_ADMISSION", admission), ("UPSTREAMS", upstreams), ("OPENAI_BASE_URL", "http://up.test/v1")];
        (admission, Host::new(&vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect()))
    });
    let mut count = 0;
    for (protocol, path) in PROTOCOLS {
        for (reason, ending) in endings(protocol) {
            for answer in answers(ending) {
                for (json, tools, limit) in WISHES {
                    let wish = Wish {
                        json,
                        tools: tools || !answer.calls.is_empty(),
                        limit: limit || protocol == Protocol::Anthropic,
                    };
                    for (admission, host) in &hosts {
                        if *admission == "valid" || !(json || tools || limit) {
                            count += check((admission, host), (protocol, path), wish, &answer, reason);
                        }
                    }
                }
            }
        }
    }
    assert!(count > 3_000, "{count} exchanges");
}

/// Checks an answer as an object, as the stream that we would make of it, and as a stream of fragments.
fn check(
    (admission, host): (&str, &Host),
    (protocol, path): (Protocol, &str),
    wish: Wish,
    answer: &Answer,
    reason: &str,
) -> usize {
    let Some(object) = object(protocol, answer, reason) else { return 0 };
    let mut shapes = vec![(Shape::Object, object.to_string(), "application/json")];
    shapes.extend(fragments(protocol, answer, reason).map(|(body, kind)| (Shape::Fragments, body, kind)));
    let mode = ResponseMode { stream: true, include_usage: false };
    let made = protocol.convert(object.to_string().as_bytes(), mode);
    shapes.extend(made.map(|(kind, body)| (Shape::Made, String::from_utf8(body).unwrap(), kind)));
    let count = shapes.len();
    for (shape, body, kind) in shapes {
        let stream = shape != Shape::Object;
        let path =
            if stream { path.replace(":generateContent", ":streamGenerateContent?alt=sse") } else { path.to_owned() };
        let headers = [("content-type", kind), ("transfer-encoding", "chunked")];
        let headers =
            headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let response = UpstreamResponse {
            status: StatusCode::OK,
            headers,
            body: body.clone().into_bytes(),
            unreachable: false,
            truncated: false,
        };
        // The log is believed where it says the same of many responses.
        let repeat = admission == "valid" && wish.json && wish.limit;
        let reason = outcome(host, &path, &request(protocol, wish, stream), &response, repeat);
        let expected = expected(admission, protocol, wish, answer, shape);
        assert_eq!(reason.as_deref(), expected, "{admission} {protocol:?} {wish:?} {answer:?}\n{body}");
    }
    count
}
