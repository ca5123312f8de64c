//! `cargo bench`: the throughput of the core. Canonical form, cache key, stream decoding, conversion, think tags.

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
/// Longer bodies are never converted.
const MAX_CONVERTED: usize = 2_000_000;
const WORDS: &str = "The quick brown fox says: \"Über allen Gipfeln\nist Ruh\". ";

/// A text of about `size` bytes.
fn text(size: usize) -> String {
    WORDS.repeat(size / WORDS.len() + 1)
}

/// A chat request of about `size` bytes.
fn request(size: usize) -> Vec<u8> {
    let turns = (size / 2_000).max(1);
    let messages: Vec<Value> = (0..turns).map(|_| json!({"role": "user", "content": text(size / turns)})).collect();
    json!({"temperature": 0, "model": "gpt-4o-mini", "messages": messages}).to_string().into_bytes()
}

/// A response of about `size` bytes.
fn object(protocol: Protocol, size: usize) -> Value {
    let output = text(size);
    match protocol {
        Protocol::Chat => json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": output}, "finish_reason": "stop"}]}),
        Protocol::Completions => json!({"id": "c", "object": "text_completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "text": output, "logprobs": null, "finish_reason": "stop"}]}),
        Protocol::Responses => {
            json!({"id": "r", "object": "response", "created_at": 1, "status": "completed", "model": "m",
            "error": null, "output": [{"type": "message", "id": "m", "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "text": output, "annotations": []}]}],
            "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}})
        }
        Protocol::Anthropic => json!({"id": "m", "type": "message", "role": "assistant", "model": "m",
            "content": [{"type": "text", "text": output}], "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": 1, "output_tokens": 1}}),
        Protocol::Google => json!({"candidates": [{"content": {"role": "model", "parts": [{"text": output}]},
            "finishReason": "STOP", "index": 0}], "usageMetadata": {"totalTokenCount": 2}, "modelVersion": "m"}),
        Protocol::Cohere => json!({"id": "c", "finish_reason": "COMPLETE",
            "message": {"role": "assistant", "content": [{"type": "text", "text": output}]},
            "usage": {"tokens": {"input_tokens": 1, "output_tokens": 1}}}),
        Protocol::Ollama => json!({"model": "m", "created_at": "2026-11-21T00:00:00Z",
            "message": {"role": "assistant", "content": output}, "done": true, "done_reason": "stop"}),
    }
}

const STREAM: ResponseMode = ResponseMode { stream: true, include_usage: false };
const PLAIN: ResponseMode = ResponseMode { stream: false, include_usage: false };

/// A streamed response of about `size` bytes, with deltas of a few words. (A converted object has only one delta.)
fn stream(protocol: Protocol, size: usize) -> Vec<u8> {
    let (_, whole) = protocol.convert(object(protocol, 0).to_string().as_bytes(), STREAM).unwrap();
    let whole = String::from_utf8(whole).unwrap();
    let delta = serde_json::to_string(&text(0)).unwrap();
    let delta = delta.trim_matches('"');
    let separator = if protocol == Protocol::Ollama { "\n" } else { "\n\n" };
    let is_delta = |event: &&str| event.contains(delta) && !repeats_text(event);
    let Some(event) = whole.split_inclusive(separator).find(is_delta) else {
        panic!("{protocol:?} streams no text:\n{whole}");
    };
    let copies = size / event.len();
    whole.replacen(event, &event.repeat(copies.max(1)), 1).into_bytes()
}

/// Whether an event repeats the complete text.
fn repeats_text(event: &str) -> bool {
    [".done", "completed", "item.done"].iter().any(|word| event.contains(word))
}

fn bench(c: &mut Criterion, name: &str, max_size: usize, make: impl Fn(usize) -> Vec<u8>, work: impl Fn(&[u8])) {
    let mut group = group(c, name);
    for (label, size) in SIZES.into_iter().filter(|(_, size)| *size <= max_size) {
        let body = make(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(label), &body, |b, body| b.iter(|| work(black_box(body))));
    }
    group.finish();
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(10);
    group
}

fn requests(c: &mut Criterion) {
    bench(c, "canonical form", usize::MAX, request, |body| {
        let document = Document::parse(body).unwrap();
        black_box(document.to_canonical(Select::Except(&["stream"])).unwrap());
    });
    let tenant = Tenant::Credentials(vec![("authorization".to_owned(), b"Bearer sk-bench".to_vec())]);
    bench(c, "canonical form and key", usize::MAX, request, |body| {
        let document = Document::parse(body).unwrap();
        let input = KeyInput {
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
        black_box(input.key());
    });
}

fn responses(c: &mut Criterion) {
    bench(
        c,
        "SSE decode",
        usize::MAX,
        |size| stream(Protocol::Chat, size),
        |body| {
            black_box(decode(Framing::Events, body).unwrap());
        },
    );
    for protocol in Protocol::ALL {
        bench(
            c,
            &format!("{protocol:?}, stream to object"),
            MAX_CONVERTED,
            |size| stream(protocol, size),
            |body| {
                black_box(protocol.convert(body, PLAIN).unwrap());
            },
        );
        let plain = |size| object(protocol, size).to_string().into_bytes();
        bench(c, &format!("{protocol:?}, object to stream"), MAX_CONVERTED, plain, |body| {
            black_box(protocol.convert(body, STREAM).unwrap());
        });
    }
}

fn transforms(c: &mut Criterion) {
    let response_transform = ResponseTransform::think(Endpoint::ChatCompletions, Some(ThinkTags::new(None, None)));
    let head = |kind| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
    let transform = |kind: &'static str| {
        let (response_transform, head) = (response_transform.clone(), head(kind));
        move |body: &[u8]| {
            let mut body_transform = response_transform.open(StatusCode::OK, &head, usize::MAX, false).unwrap();
            // The usual size of a network read.
            for chunk in body.chunks(4_096) {
                black_box(body_transform.push(chunk));
            }
            black_box(body_transform.finish());
        }
    };
    let plain = |size| object(Protocol::Chat, size).to_string().into_bytes();
    bench(c, "think tags, object", usize::MAX, plain, transform("application/json"));
    bench(c, "think tags, stream", usize::MAX, |size| stream(Protocol::Chat, size), transform("text/event-stream"));
}

criterion_group!(core, requests, responses, transforms);
criterion_main!(core);
