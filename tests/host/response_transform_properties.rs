//! Reasoning text and embeddings in random chunks, compared with a simple reference implementation.

#![allow(clippy::string_slice)]

use base64::prelude::{BASE64_STANDARD, Engine};
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use reprise::testing::{Endpoint, Framing, Protocol, ResponseMode, ResponseTransform, TagFilter, ThinkTags, decode};
use serde_json::{Value, json};

/// A reference implementation: removes everything from a start tag to the next end tag. An unclosed block is not removed.
fn without(text: &str, start: &str, end: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(start) {
        let inside = &rest[at + start.len()..];
        let Some(length) = inside.find(end) else {
            break;
        };
        out.push_str(&rest[..at]);
        rest = &inside[length + end.len()..];
    }
    out + rest
}

/// Tags that overlap with themselves and each other, with newlines and beyond ASCII.
fn tags() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop::sample::select(vec![
        ("<think>", "</think>"),
        ("<t>", "</t>\n\n"),
        ("aab", "aba"),
        ("|", "|"),
        ("💭<", ">💭"),
        ("\n\"", "\"\\"),
    ])
}

/// Texts in which tags, halves of tags and ordinary characters are frequent.
fn text(start: &'static str, end: &'static str) -> impl Strategy<Value = String> {
    let half = |tag: &str| tag.char_indices().nth(tag.chars().count() / 2).map_or(tag, |(at, _)| &tag[..at]).to_owned();
    let piece = prop_oneof![
        3 => Just(start.to_owned()),
        3 => Just(end.to_owned()),
        2 => Just(half(start)),
        2 => Just(half(end)),
        4 => "[a-b<>/\\n\"\\\\é💭 ]{0,4}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|chunks| chunks.concat())
}

fn tagged() -> impl Strategy<Value = ((&'static str, &'static str), String)> {
    tags().prop_flat_map(|(start, end)| (Just((start, end)), text(start, end)))
}

/// A text in chunks of whole characters, cut as `cuts` says.
fn chunks(text: &str, cuts: &[bool]) -> Vec<String> {
    let mut out = vec![String::new()];
    for (at, character) in text.chars().enumerate() {
        if cuts[at % cuts.len()] {
            out.push(String::new());
        }
        out.last_mut().unwrap().push(character);
    }
    out
}

fn transformed(endpoint: Endpoint, kind: &str, tags: (&str, &str), body: &[u8], size: usize) -> Vec<u8> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", kind.parse().unwrap());
    let response_transform = ResponseTransform::think(endpoint, Some(ThinkTags::new(Some(tags.0), Some(tags.1))));
    let mut body_transform = response_transform.open(StatusCode::OK, &headers, 1 << 20, false).unwrap();
    let mut out: Vec<u8> = body.chunks(size).flat_map(|piece| body_transform.push(piece)).collect();
    out.extend(body_transform.finish());
    out
}

fn events(body: &[u8]) -> Vec<Value> {
    let events = decode(Framing::Events, body).unwrap();
    events
        .iter()
        .filter(|event| event.data != "[DONE]")
        .map(|event| serde_json::from_str(&event.data).unwrap())
        .collect()
}

/// A chat stream with two alternating choices, and numbers that a float parser would change.
fn chat_stream(choices: [&[String]; 2]) -> String {
    let mut out = String::from(": hello\n\n");
    let mut push_chunk = |index: usize, delta: Value, end: Value| {
        let mut chunk = json!({"id": "c", "object": "chat.completion.chunk", "model": "m"});
        chunk["choices"] = json!([{"index": index, "delta": delta, "finish_reason": end}]);
        let text = chunk.to_string().replacen("{\"id\"", "{\"n\": 1.0e00, \"id\"", 1);
        out.push_str(&format!("data: {text}\n\n"));
    };
    for at in 0..choices[0].len().max(choices[1].len()) {
        for (index, choice) in choices.iter().enumerate() {
            if let Some(piece) = choice.get(at) {
                push_chunk(index, json!({"content": piece}), Value::Null);
            }
        }
    }
    for index in 0..2 {
        push_chunk(index, json!({}), "stop".into());
    }
    out + "data: [DONE]\n\n"
}

fn text_of_choice(events: &[Value], index: u64) -> String {
    let of = |event: &Value| {
        let choice = event["choices"].as_array()?.iter().find(|choice| choice["index"] == index)?.clone();
        choice["delta"]["content"].as_str().map(str::to_owned)
    };
    events.iter().filter_map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_in_any_chunks(((start, end), text) in tagged(), cuts in prop::collection::vec(any::<bool>(), 1..9)) {
        let mut filter = TagFilter::new(ThinkTags::new(Some(start), Some(end)));
        let (mut out, mut received) = (String::new(), String::new());
        for piece in chunks(&text, &cuts) {
            received.push_str(&piece);
            out.push_str(&String::from_utf8(filter.push(piece.as_bytes())).unwrap());
            // Outside a block, only a possible start tag is held.
            let so_far = without(&received, start, end);
            let held = so_far.len() - out.len();
            prop_assert!(held < start.len() || so_far[out.len()..].starts_with(start), "{held} bytes of {so_far:?}");
        }
        out.push_str(&String::from_utf8(filter.finish()).unwrap());
        prop_assert_eq!(out, without(&text, start, end));
    }

    #[test]
    fn any_stream_in_any_chunks(
        ((start, end), one) in tagged(),
        other in "[a-b<>/\\n\"é ]{0,12}",
        cuts in prop::collection::vec(any::<bool>(), 1..9),
        size in 1usize..40,
    ) {
        let texts = [chunks(&one, &cuts), chunks(&other, &cuts)];
        let stream = chat_stream([&texts[0], &texts[1]]);
        let out = transformed(Endpoint::ChatCompletions, "text/event-stream; charset=utf-8", (start, end), stream.as_bytes(), size);
        let events = events(&out);
        prop_assert_eq!(text_of_choice(&events, 0), without(&one, start, end));
        prop_assert_eq!(text_of_choice(&events, 1), without(&other, start, end));
        // The end of each choice follows all of its text.
        let last = |index: u64| events.iter().rposition(|event| event["choices"][0]["index"] == index).unwrap();
        for index in 0..2 {
            prop_assert_eq!(&events[last(index)]["choices"][0]["finish_reason"], "stop");
        }
        let text = String::from_utf8(out).unwrap();
        let ended = text.starts_with(": hello\n\n") && text.ends_with("data: [DONE]\n\n");
        prop_assert!(ended);
        // Each event of the upstream is there, with its number token unchanged.
        let kept = text.matches("\"n\": 1.0e00").count() >= stream.matches("\"n\": 1.0e00").count();
        prop_assert!(kept);
        // The stream converts into the filtered object.
        let whole = Protocol::Chat.to_object(&decode(Framing::Events, text.as_bytes()).unwrap());
        if let Some(whole) = whole {
            let content = whole["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
            prop_assert_eq!(content, without(&one, start, end));
        }
    }

    #[test]
    fn objects_and_streams_agree(((start, end), text) in tagged(), size in 1usize..40) {
        for (endpoint, object) in [
            (Endpoint::ChatCompletions, json!({"id": "c", "object": "chat.completion", "model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})),
            (Endpoint::Completions, json!({"id": "c", "object": "text_completion", "model": "m", "choices": [{"index": 0, "text": text, "finish_reason": "stop"}]})),
            (Endpoint::Messages, json!({"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "thinking", "thinking": text, "signature": "s"}, {"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1}})),
            (Endpoint::Responses, json!({"id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed", "error": null, "output": [{"id": "i", "type": "message", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]}], "usage": null})),
            (Endpoint::CohereChat, json!({"id": "c", "finish_reason": "COMPLETE", "message": {"role": "assistant", "content": [{"type": "text", "text": text}]}})),
            (Endpoint::StreamGenerateContent, json!({"candidates": [{"content": {"parts": [{"text": "t", "thought": true}, {"text": text}], "role": "model"}, "finishReason": "STOP"}], "modelVersion": "m"})),
            (Endpoint::Ollama, json!({"model": "m", "created_at": "t", "message": {"role": "assistant", "content": text}, "done": true, "done_reason": "stop"})),
        ] {
            let protocol = Protocol::of(endpoint).unwrap();
            let response_mode = ResponseMode { stream: true, include_usage: false };
            // An object with an empty text may have no stream.
            let Some((kind, stream)) = protocol.convert(object.to_string().as_bytes(), response_mode) else { continue };
            let plain = if endpoint == Endpoint::StreamGenerateContent { Endpoint::GenerateContent } else { endpoint };
            let filtered = transformed(plain, "application/json", (start, end), object.to_string().as_bytes(), size);
            let filtered: Value = serde_json::from_slice(&filtered).unwrap();
            let expected = without(&text, start, end);
            prop_assert_eq!(text_of(endpoint, &filtered), expected.as_str(), "{:?}", endpoint);
            let filtered_stream = transformed(endpoint, kind, (start, end), &stream, size);
            let read = protocol.events(&filtered_stream).unwrap();
            prop_assert!(protocol.check(&read).is_ok() || expected.is_empty(), "{}", String::from_utf8_lossy(&filtered_stream));
            if let Some(whole) = protocol.to_object(&read) {
                prop_assert_eq!(text_of(endpoint, &whole), expected.as_str(), "{:?}", endpoint);
            } else {
                prop_assert!(expected.is_empty(), "{:?} {}", endpoint, String::from_utf8_lossy(&filtered_stream));
            }
            if endpoint == Endpoint::StreamGenerateContent {
                // The same as one array, piece by piece.
                let items: Vec<String> = protocol.events(&stream).unwrap().into_iter().map(|event| event.data).collect();
                let array = format!("[{}\n]", items.join(",\r\n"));
                let out = transformed(endpoint, "application/json; charset=UTF-8", (start, end), array.as_bytes(), size);
                let read = protocol.events(&out).unwrap();
                if let Some(whole) = protocol.to_object(&read) {
                    prop_assert_eq!(text_of(endpoint, &whole), expected.as_str());
                }
            }
        }
    }

    #[test]
    fn embeddings_keep_every_bit(bits in prop::collection::vec(any::<u32>(), 0..20), double in any::<bool>()) {
        let floats: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|float| float.is_finite()).collect();
        // Providers write the shortest number for 32 bits, or for 64 bits.
        let print = |float: &f32| if double { format!("{:?}", f64::from(*float)) } else { format!("{float:?}") };
        let numbers: Vec<String> = floats.iter().map(print).collect();
        let body = format!("{{\"data\": [{{\"index\":0, \"embedding\" : [{}]}}],\"usage\":{{\"t\":1.0}}}}", numbers.join(" , "));
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        let mut body_transform = ResponseTransform::base64().open(StatusCode::OK, &headers, 1 << 20, false).unwrap();
        let mut out = body_transform.push(body.as_bytes());
        out.extend(body_transform.finish());
        let response: Value = serde_json::from_slice(&out).unwrap();
        let bytes = BASE64_STANDARD.decode(response["data"][0]["embedding"].as_str().unwrap()).unwrap();
        let back: Vec<u32> = bytes.chunks(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).collect();
        prop_assert_eq!(back, floats.iter().map(|float| float.to_bits()).collect::<Vec<_>>());
        let rest = out.ends_with(b"],\"usage\":{\"t\":1.0}}");
        prop_assert!(rest);
    }
}

fn text_of(endpoint: Endpoint, object: &Value) -> &str {
    let path = match endpoint {
        Endpoint::ChatCompletions => "/choices/0/message/content",
        Endpoint::Completions => "/choices/0/text",
        Endpoint::Messages => "/content/1/text",
        Endpoint::Responses => "/output/0/content/0/text",
        Endpoint::CohereChat => "/message/content/0/text",
        Endpoint::Ollama => "/message/content",
        _ => "/candidates/0/content/parts/1/text",
    };
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn an_unchanged_event_keeps_its_bytes() {
    let stream = "event: x\r\nid:1\r\ndata:  {\"choices\" : [ {\"delta\":{\"content\":\"a\\u00e9\\/ < b\"},\"index\":0} ],\"u\":1.50}\r\n\r\n\
                  data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\ud83d\"}}]}\n\n\
                  data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\ude00\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    for size in [1, 7, 1000] {
        let out = transformed(
            Endpoint::ChatCompletions,
            "text/event-stream",
            ("<think>", "</think>"),
            stream.as_bytes(),
            size,
        );
        assert_eq!(String::from_utf8(out).unwrap(), stream);
    }
}

#[test]
fn only_the_text_of_a_changed_event_is_serialized_again() {
    let stream = "id: 7\ndata: {\"n\":12345678901234567890.10,\"choices\":[ {\"index\":0,\"delta\":{\"content\":\"<think>x</think>\\u00e9\\ud800\",\"role\":\"\\u0061\"}}]}\nevent: y\n\n\
                  data: [DONE]\n\n";
    let out =
        transformed(Endpoint::ChatCompletions, "text/event-stream", ("<think>", "</think>"), stream.as_bytes(), 3);
    assert_eq!(String::from_utf8(out).unwrap(), stream.replace("<think>x</think>\\u00e9", "é"));
}

#[test]
fn held_text_is_sent_before_the_end_of_its_choice() {
    let chunk = |index: u32, rest: &str| {
        format!("data: {{\"id\":\"c\",\"usage\":null,\"choices\":[{{\"index\":{index},{rest}}}]}}\n\n")
    };
    let stream = [
        chunk(0, "\"delta\":{\"content\":\"a<think>b\"},\"finish_reason\":null"),
        chunk(1, "\"delta\":{\"content\":\"c<th\"},\"finish_reason\":null"),
        chunk(0, "\"delta\":{},\"finish_reason\":\"length\""),
        chunk(1, "\"delta\":{\"content\":\"\"},\"finish_reason\":\"stop\""),
    ]
    .concat();
    let out =
        transformed(Endpoint::ChatCompletions, "text/event-stream", ("<think>", "</think>"), stream.as_bytes(), 9);
    let expected = [
        chunk(0, "\"delta\":{\"content\":\"a\"},\"finish_reason\":null"),
        chunk(1, "\"delta\":{\"content\":\"c\"},\"finish_reason\":null"),
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"<think>b\"},\"finish_reason\":null}]}\n\n".to_owned(),
        chunk(0, "\"delta\":{},\"finish_reason\":\"length\""),
        chunk(1, "\"delta\":{\"content\":\"<th\"},\"finish_reason\":\"stop\""),
    ];
    assert_eq!(String::from_utf8(out).unwrap(), expected.concat());
}
