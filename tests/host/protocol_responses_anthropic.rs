//! OpenAI responses and Anthropic messages: any object converts into a stream that converts back.

use proptest::prelude::*;
use proptest::sample::select;
use reprise::testing::{Protocol, ResponseMode};
use serde_json::{Map, Value, json};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        select(vec!["", "data: a\n\n", "\r\n", "{\"a\":", "\u{2028}\u{0}"]).prop_map(str::to_owned)
    ]
}

/// Any value, with numbers in any spelling.
fn value() -> impl Strategy<Value = Value> {
    let number = select(vec!["0", "1.0", "-0", "1e400", "9007199254740993", "0.10"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        text().prop_map(Value::from),
        number.prop_map(|token| serde_json::from_str(token).unwrap()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            members(inner).prop_map(Value::from)
        ]
    })
}

fn members(of: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec(("[a-z ]{0,6}", of), 0..3).prop_map(|members| members.into_iter().collect())
}

/// The object with further, unknown members.
fn with_unknown(object: Value, unknown: Map<String, Value>) -> Value {
    let Value::Object(mut members) = object else { panic!() };
    members.extend(unknown.into_iter().map(|(name, value)| (format!("x_{name}"), value)));
    Value::Object(members)
}

fn block() -> impl Strategy<Value = Value> {
    let citations = prop::collection::vec(members(value()), 0..3);
    let kinds = prop_oneof![
        (text(), prop::option::of(citations)).prop_map(|(text, citations)| {
            let mut block = json!({"type": "text", "text": text});
            if let Some(citations) = citations {
                block["citations"] = json!(citations);
            }
            block
        }),
        (text(), text()).prop_map(|(thinking, signature)| {
            json!({"type": "thinking", "thinking": thinking, "signature": signature})
        }),
        (select(vec!["tool_use", "server_tool_use", "mcp_tool_use"]), members(value()))
            .prop_map(|(kind, input)| { json!({"type": kind, "id": "t", "name": "f", "input": input}) }),
        value().prop_map(|content| json!({"type": "web_search_tool_result", "content": content})),
    ];
    (kinds, members(value())).prop_map(|(block, unknown)| with_unknown(block, unknown))
}

fn message() -> impl Strategy<Value = Value> {
    let usage = (any::<u32>(), members(value()));
    let blocks = prop::collection::vec(block(), 1..5);
    (blocks, usage, prop::option::of(text()), value(), members(value())).prop_map(
        |(content, (tokens, counts), stop_sequence, container, unknown)| {
            let usage = json!({"input_tokens": 7, "server_tool_use": null, "output_tokens": tokens});
            let message = json!({
                "id": "msg_1", "type": "message", "role": "assistant", "content": content, "container": container,
                "stop_reason": "end_turn", "stop_sequence": stop_sequence, "usage": with_unknown(usage, counts)
            });
            with_unknown(message, unknown)
        },
    )
}

fn item() -> impl Strategy<Value = Value> {
    let logprobs = prop::collection::vec(members(value()), 0..2);
    let part = prop_oneof![
        (text(), prop::collection::vec(value(), 0..3), logprobs).prop_map(|(text, annotations, logprobs)| {
            json!({"type": "output_text", "annotations": annotations, "logprobs": logprobs, "text": text})
        }),
        text().prop_map(|text| json!({"type": "refusal", "refusal": text})),
        value().prop_map(|data| json!({"type": "novelty", "data": data})),
    ];
    let texts = || prop::collection::vec(text(), 0..3);
    let all = |kind: &str, texts: Vec<String>| -> Vec<Value> {
        texts.into_iter().map(|text| json!({"type": kind, "text": text})).collect()
    };
    let kinds = prop_oneof![
        prop::collection::vec(part, 0..4).prop_map(|content| json!({"type": "message", "content": content})),
        (texts(), texts()).prop_map(move |(summary, content)| {
            json!({"type": "reasoning", "summary": all("summary_text", summary), "content": all("reasoning_text", content)})
        }),
        text().prop_map(|text| json!({"type": "function_call", "name": "f", "arguments": text})),
        text().prop_map(|text| json!({"type": "custom_tool_call", "name": "f", "input": text})),
        prop::option::of(text()).prop_map(|code| json!({"type": "code_interpreter_call", "code": code})),
        (select(vec!["web_search_call", "image_generation_call", "mcp_call", "novelty"]), value())
            .prop_map(|(kind, result)| json!({"type": kind, "result": result})),
    ];
    (kinds, select(vec!["completed", "failed"]), members(value())).prop_map(|(mut item, status, unknown)| {
        item["status"] = status.into();
        with_unknown(item, unknown)
    })
}

fn response() -> impl Strategy<Value = Value> {
    (prop::collection::vec(item(), 1..5), members(value())).prop_map(|(mut output, unknown)| {
        for (index, item) in output.iter_mut().enumerate() {
            item["id"] = format!("id_{index}").into();
            item["call_id"] = format!("call_{index}").into();
        }
        let response = json!({
            "id": "resp_1", "object": "response", "status": "completed", "completed_at": 1, "error": null,
            "output": output, "usage": {"total_tokens": 1}
        });
        with_unknown(response, unknown)
    })
}

/// Converts an object into a stream and back.
fn converted_and_back(protocol: Protocol, object: &Value) -> Value {
    let body = serde_json::to_vec(object).unwrap();
    let (content_type, stream) = protocol.convert(&body, ResponseMode { stream: true, include_usage: false }).unwrap();
    assert!(content_type.starts_with("text/event-stream"));
    let events = protocol.events(&stream).unwrap();
    for event in &events {
        let data: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(data["type"], event.name.as_str());
    }
    // A truncated stream is never complete.
    for end in 0..events.len() {
        assert!(protocol.check(&events[..end]).is_err());
        assert_eq!(protocol.to_object(&events[..end]), None);
    }
    let (_, body) = protocol.convert(&stream, ResponseMode::default()).unwrap();
    serde_json::from_slice(&body).unwrap()
}

proptest! {
    #[test]
    fn a_message_survives_conversion(object in message()) {
        prop_assert_eq!(converted_and_back(Protocol::Anthropic, &object), object);
    }

    #[test]
    fn a_response_survives_conversion(object in response()) {
        prop_assert_eq!(converted_and_back(Protocol::Responses, &object), object);
    }
}
