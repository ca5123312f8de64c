//! Does a JSON response carry what its endpoint responds with?
//!
//! A list of faults can only be incomplete: providers report errors with status 200 in shapes of their own. So the result itself
//! is demanded: the endpoint's own member, of its type and not empty.

use super::is_filled;
use crate::json::canonical::Document;
use crate::json::cursor::JsonCursor;
use crate::routing::endpoint::{Computation, Endpoint};

/// Whether the response carries a result. If a member occurs twice, both values have to be a result.
pub fn carries_result(endpoint: Endpoint, document: &Document) -> bool {
    let member = |name: &str, is_result: fn(JsonCursor<'_>) -> bool| {
        let mut found = document.fields(name).map(JsonCursor::root).peekable();
        found.peek().is_some() && found.all(is_result)
    };
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => member("choices", |choices| is_list(choices, is_choice)),
        Endpoint::Responses => member("output", |output| is_list(output, is_filled_object)),
        Endpoint::Messages => member("content", |content| is_list(content, |block| has(block, &["type"]))),
        Endpoint::GenerateContent | Endpoint::StreamGenerateContent => member("candidates", |candidates| {
            is_list(candidates, |candidate| candidate.get("content").is_some_and(|content| has(content, &["parts"])))
        }),
        Endpoint::CohereChat => {
            member("message", |message| has(message, &["content", "tool_calls"]))
                || member("text", |text| text.is_string() && is_filled(text))
                || member("tool_calls", |calls| is_list(calls, is_filled_object))
        }
        Endpoint::Ollama => {
            let is_text = |text: JsonCursor<'_>| text.is_string() && is_filled(text);
            member("message", |message| has(message, &["content", "thinking", "tool_calls", "images"]))
                || member("response", is_text)
                || member("thinking", is_text)
        }
        Endpoint::Compute(computation) => match computation {
            Computation::Embeddings => {
                member("data", |data| is_list(data, |item| has(item, &["embeddings"]) || is_embedding(item)))
                    || member("embeddings", are_vectors)
                    || member("embedding", |vector| is_vector(vector) || has(vector, &["values"]))
                    // Text Embeddings Inference.
                    || document.array().is_some_and(|list| is_list(JsonCursor::root(list), are_numbers))
            }
            Computation::Moderations => member("results", |results| is_list(results, is_filled_object)),
            Computation::Edits => member("choices", |choices| is_list(choices, is_choice)),
            Computation::Answers => member("answers", |answers| is_list(answers, is_filled)),
            Computation::Images => ["data", "images"]
                .iter()
                .any(|name| member(name, |images| is_list(images, |image| has(image, &["url", "b64_json"])))),
            Computation::TokenCount => {
                ["input_tokens", "totalTokens"].iter().any(|name| member(name, |count| count.index().is_some()))
            }
            Computation::Rerank => {
                ["results", "data"].iter().any(|name| member(name, |results| is_list(results, is_rank)))
                    || document.array().is_some_and(|list| is_list(JsonCursor::root(list), is_rank))
            }
            Computation::Classify => ["classifications", "data"]
                .iter()
                .any(|name| member(name, |classes| is_list(classes, is_filled_object))),
            Computation::Ocr => member("pages", |pages| is_list(pages, is_filled_object)),
            Computation::Generate => {
                member("generations", |texts| is_list(texts, |text| has(text, &["text"])))
                    || member("completions", |texts| is_list(texts, is_filled_object))
                    || member("generated_text", |text| text.is_string() && is_filled(text))
            }
        },
        Endpoint::Speech => false,
        Endpoint::Custom => document.is_object() && !document.is_empty(),
    }
}

/// Whether it is a list that is not empty, and each of its items is as they have to be.
fn is_list(value: JsonCursor<'_>, is_item: fn(JsonCursor<'_>) -> bool) -> bool {
    value.is_array() && is_filled(value) && value.items().all(is_item)
}

/// Whether it is an object with one of these members, not empty.
fn has(value: JsonCursor<'_>, names: &[&str]) -> bool {
    names.iter().any(|name| value.get(name).is_some_and(is_filled))
}

fn is_filled_object(value: JsonCursor<'_>) -> bool {
    value.is_object() && is_filled(value)
}

/// A choice with its message or text. An empty one counts if it has a finish reason.
fn is_choice(choice: JsonCursor<'_>) -> bool {
    let ended = has(choice, &["finish_reason", "finishReason"]);
    let has_content =
        |message: JsonCursor<'_>| message.members().any(|member| !member.key.eq_str("role") && is_filled(member.value));
    let message = choice.get("message").filter(|message| is_filled_object(*message));
    let text = choice.get("text").filter(|text| text.is_string());
    message.is_some_and(|message| ended || has_content(message)) || text.is_some_and(|text| ended || is_filled(text))
}

/// An item with its vector, or one for each token.
fn is_embedding(item: JsonCursor<'_>) -> bool {
    item.get("embedding").is_some_and(|embedding| is_vector(embedding) || are_vectors(embedding))
}

/// Numbers, or (`encoding_format: base64`) their bytes.
fn is_vector(value: JsonCursor<'_>) -> bool {
    are_numbers(value) || (value.is_string() && is_filled(value))
}

fn are_numbers(value: JsonCursor<'_>) -> bool {
    value.items().next().is_some_and(is_number)
}

fn is_number(value: JsonCursor<'_>) -> bool {
    value.text().starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// Vectors, or an object with those of each type (Cohere), or Google's objects.
fn are_vectors(value: JsonCursor<'_>) -> bool {
    let is_item = |item: JsonCursor<'_>| is_vector(item) || has(item, &["values"]);
    if value.is_array() {
        return is_list(value, is_item);
    }
    let types = value.members().map(|member| member.value).filter(|vectors| is_filled(*vectors));
    types.fold(None, |all, vectors| Some(all.unwrap_or(true) && is_list(vectors, is_vector))).unwrap_or(false)
}

fn is_rank(value: JsonCursor<'_>) -> bool {
    ["relevance_score", "score"].iter().any(|name| value.get(name).is_some_and(is_number))
}
