//! `cargo bench`: how fast the deciding floor reads, names, decodes, converts and filters, in bytes per second.

// A bench fails by panicking.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::panic, clippy::unwrap_used)]

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reprise::testing::{
    Document, Endpoint, Framing, KeyInput, MatchMode, Protocol, ResponseMode, ResponseTransform, Select, Tenant,
    ThinkTags, decode,
};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Duration;

const SIZES: [(&str, usize); 4] = [("0.6 kB", 600), ("16 kB", 16_000), ("256 kB", 256_000), ("4 MB", 4_000_000)];
/// A body that is longer is never converted: see the README.
const CONVERTED: usize = 2_000_000;
const WORDS: &str = "The quick brown fox says: \"Über allen Gipfeln\nist Ruh\". ";

/// A text of about `size` bytes as JSON writes it.
fn text(size: usize) -> String {
    WORDS.repeat(size / WORDS.len() + 1)
}

/// A chat question of about `size` bytes.
fn question(size: usize) -> Vec<u8> {
    let turns = (size / 2_000).max(1);
    let messages: Vec<Value> = (0..turns).map(|_| json!({"role": "user", "content": text(size / turns)})).collect();
    json!({"temperature": 0, "model": "gpt-4o-mini", "messages": messages}).to_string().into_bytes()
}

/// An answer in a dialect, of about `size` bytes.
fn object(protocol: Protocol, size: usize) -> Value {
    let said = text(size);
    match protocol {
        Protocol::Chat => json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]}),
        Protocol::Completions => json!({"id": "c", "object": "text_completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "text": said, "logprobs": null, "finish_reason": "stop"}]}),
        Protocol::Responses => {
            json!({"id": "r", "object": "response", "created_at": 1, "status": "completed", "model": "m",
            "error": null, "output": [{"type": "message", "id": "m", "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "text": said, "annotations": []}]}],
            "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}})
        }
        Protocol::Anthropic => json!({"id": "m", "type": "message", "role": "assistant", "model": "m",
            "content": [{"type": "text", "text": said}], "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": 1, "output_tokens": 1}}),
        Protocol::Google => json!({"candidates": [{"content": {"role": "model", "parts": [{"text": said}]},
            "finishReason": "STOP", "index": 0}], "usageMetadata": {"totalTokenCount": 2}, "modelVersion": "m"}),
        Protocol::Cohere => json!({"id": "c", "finish_reason": "COMPLETE",
            "message": {"role": "assistant", "content": [{"type": "text", "text": said}]},
            "usage": {"tokens": {"input_tokens": 1, "output_tokens": 1}}}),
        Protocol::Ollama => json!({"model": "m", "created_at": "2026-11-21T00:00:00Z",
            "message": {"role": "assistant", "content": said}, "done": true, "done_reason": "stop"}),
    }
}

const STREAM: ResponseMode = ResponseMode { stream: true, include_usage: false };
const PLAIN: ResponseMode = ResponseMode { stream: false, include_usage: false };

/// An answer as a provider streams it: pieces of some words each. What we make of an object has one piece; it is cut here.
fn stream(protocol: Protocol, size: usize) -> Vec<u8> {
    let (_, whole) = protocol.convert(object(protocol, 0).to_string().as_bytes(), STREAM).unwrap();
    let whole = String::from_utf8(whole).unwrap();
    let piece = serde_json::to_string(&text(0)).unwrap();
    let piece = piece.trim_matches('"');
    let separator = if protocol == Protocol::Ollama { "\n" } else { "\n\n" };
    let is_piece = |event: &&str| event.contains(piece) && !ends(event);
    let Some(delta) = whole.split_inclusive(separator).find(is_piece) else {
        panic!("{protocol:?} streams no text:\n{whole}");
    };
    let copies = size / delta.len();
    whole.replacen(delta, &delta.repeat(copies.max(1)), 1).into_bytes()
}

/// Whether an event repeats the text at its end.
fn ends(event: &str) -> bool {
    [".done", "completed", "item.done"].iter().any(|word| event.contains(word))
}

fn each(c: &mut Criterion, name: &str, most: usize, make: impl Fn(usize) -> Vec<u8>, work: impl Fn(&[u8])) {
    let mut group = named(c, name);
    for (label, size) in SIZES.into_iter().filter(|(_, size)| *size <= most) {
        let body = make(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(label), &body, |b, body| b.iter(|| work(black_box(body))));
    }
    group.finish();
}

fn named<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(10);
    group
}

fn questions(c: &mut Criterion) {
    each(c, "canonical form", usize::MAX, question, |body| {
        let document = Document::parse(body).unwrap();
        black_box(document.to_canonical(Select::Except(&["stream"])).unwrap());
    });
    let tenant = Tenant::Credentials(vec![("authorization".to_owned(), b"Bearer sk-bench".to_vec())]);
    each(c, "canonical form and key", usize::MAX, question, |body| {
        let document = Document::parse(body).unwrap();
        let question = KeyInput {
            namespace: b"",
            tenant: &tenant,
            method: "POST",
            url: "https://api.openai.com/v1/chat/completions",
            key_headers: &[],
            mode: MatchMode::Exact,
            ignored: &[],
            body,
            document: &document,
        };
        black_box(question.key());
    });
}

fn answers(c: &mut Criterion) {
    each(
        c,
        "SSE decode",
        usize::MAX,
        |size| stream(Protocol::Chat, size),
        |body| {
            black_box(decode(Framing::Events, body).unwrap());
        },
    );
    for protocol in Protocol::ALL {
        each(
            c,
            &format!("{protocol:?}, stream to object"),
            CONVERTED,
            |size| stream(protocol, size),
            |body| {
                black_box(protocol.convert(body, PLAIN).unwrap());
            },
        );
        let plain = |size| object(protocol, size).to_string().into_bytes();
        each(c, &format!("{protocol:?}, object to stream"), CONVERTED, plain, |body| {
            black_box(protocol.convert(body, STREAM).unwrap());
        });
    }
}

fn polishes(c: &mut Criterion) {
    let response_transform = ResponseTransform::think(Endpoint::ChatCompletions, Some(ThinkTags::new(None, None)));
    let head = |kind| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
    let polished = |kind: &'static str| {
        let (response_transform, head) = (response_transform.clone(), head(kind));
        move |body: &[u8]| {
            let mut body_transform = response_transform.open(StatusCode::OK, &head, usize::MAX).unwrap();
            // As the network brings it.
            for piece in body.chunks(4_096) {
                black_box(body_transform.push(piece));
            }
            black_box(body_transform.finish());
        }
    };
    let plain = |size| object(Protocol::Chat, size).to_string().into_bytes();
    each(c, "think tags, object", usize::MAX, plain, polished("application/json"));
    each(c, "think tags, stream", usize::MAX, |size| stream(Protocol::Chat, size), polished("text/event-stream"));
}

criterion_group!(floor, questions, answers, polishes);
criterion_main!(floor);
