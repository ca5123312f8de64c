//! Can a client use a complete response: does it end for want of tokens, is its JSON valid?

use super::Protocol;
use crate::config::Admission;
use crate::json::JsonCursor;
use crate::json::canonical::Document;
use crate::status::Reason;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a response has to be so that it is stored, besides complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AnswerRules(u8);

/// No choice ended for want of tokens.
const FINISHED: u8 = 1;
/// The text of each choice is JSON, unless there is a refusal or a tool call in its place.
const JSON: u8 = 2;
/// The arguments of each function call are JSON, or empty.
const ARGUMENTS: u8 = 4;

impl AnswerRules {
    /// The rules for the response to a request.
    pub fn new(admission: Admission, request: &Document) -> AnswerRules {
        match admission {
            Admission::Any => AnswerRules::default(),
            Admission::Complete => AnswerRules(FINISHED),
            Admission::Valid if is_json_mode(request) => AnswerRules(FINISHED | JSON | ARGUMENTS),
            Admission::Valid if has_tools(request) || !has_limit(request) => AnswerRules(FINISHED | ARGUMENTS),
            Admission::Valid => AnswerRules(ARGUMENTS),
        }
    }

    /// The same rules, but for the text.
    pub const fn without_json(self) -> AnswerRules {
        AnswerRules(self.0 & !JSON)
    }

    const fn has(self, rule: u8) -> bool {
        self.0 & rule != 0
    }
}

fn member<'a>(request: &'a Document, name: &'a str) -> impl Iterator<Item = JsonCursor<'a>> {
    request.fields(name).map(JsonCursor::root)
}

/// The members of a top-level object with these names.
fn nested<'a>(request: &'a Document, objects: &[&'a str], names: &[&str]) -> Vec<JsonCursor<'a>> {
    let objects = objects.iter().flat_map(|object| member(request, object));
    objects.flat_map(|object| names.iter().filter_map(move |name| object.get(name))).filter(|v| is_set(*v)).collect()
}

fn is_set(value: JsonCursor<'_>) -> bool {
    value.text() != "null"
}

/// Google's parameters, in both spellings.
const GENERATION: [&str; 2] = ["generationConfig", "generation_config"];

/// Whether the request asks for JSON: OpenAI and compatible APIs, Anthropic, Google, Ollama.
fn is_json_mode(request: &Document) -> bool {
    let is_json = |format: JsonCursor<'_>| {
        ["json_object", "json_schema", "json"].iter().any(|kind| format.member_eq("type", kind))
    };
    let mut formats = ["response_format", "output_format"].iter().flat_map(|name| member(request, name));
    if formats.any(is_json) || nested(request, &["text", "output_config"], &["format"]).into_iter().any(is_json) {
        return true;
    }
    if member(request, "format").any(|format| format.eq_str("json") || format.is_object()) {
        return true;
    }
    let types = nested(request, &GENERATION, &["responseMimeType", "response_mime_type"]);
    if types.is_empty() {
        const SCHEMAS: [&str; 4] = ["responseSchema", "response_schema", "responseJsonSchema", "response_json_schema"];
        return !nested(request, &GENERATION, &SCHEMAS).is_empty();
    }
    types.into_iter().any(|kind| kind.eq_str("application/json"))
}

fn has_tools(request: &Document) -> bool {
    ["tools", "functions"].iter().flat_map(|name| member(request, name)).any(|tools| tools.items().next().is_some())
}

/// Whether the request itself limits how many tokens are generated. Ollama's negative numbers mean no limit.
fn has_limit(request: &Document) -> bool {
    const LIMITS: [&str; 5] =
        ["max_tokens", "max_completion_tokens", "max_output_tokens", "maxTokens", "max_tokens_to_sample"];
    let google = nested(request, &GENERATION, &["maxOutputTokens", "max_output_tokens"]);
    let ollama = nested(request, &["options"], &["num_predict"]);
    let limits = LIMITS.iter().flat_map(|name| member(request, name));
    limits.chain(google).chain(ollama).any(|limit| is_set(limit) && !limit.text().starts_with('-'))
}

/// Finish reasons of a response that ran out of tokens: OpenAI, Mistral, Anthropic, Google and Cohere.
const OUT_OF_TOKENS: [&str; 7] = [
    "length",
    "model_length",
    "max_tokens",
    "max_output_tokens",
    "model_context_window_exceeded",
    "MAX_TOKENS",
    "max_length",
];

/// A choice and a part of it.
type Place = (u64, u64);

/// Whether something is in place of a choice's text: empty, if nothing is.
const REPLACED: u8 = 0;
const TEXT: u8 = 1;
const CALL: u8 = 2;

/// The content of a response, gathered from its object or from the events of its stream.
#[derive(Debug, Default)]
pub struct Answer {
    rules: AnswerRules,
    out_of_tokens: bool,
    /// By choice, kind and part.
    parts: BTreeMap<(u64, u8, u64), Vec<u8>>,
}

impl Answer {
    /// Checks a whole response.
    ///
    /// # Errors
    /// Why it is not stored.
    pub fn check<'a>(
        rules: AnswerRules,
        protocol: Protocol,
        parts: impl Iterator<Item = &'a str>,
    ) -> Result<(), Reason> {
        if rules == AnswerRules::default() {
            return Ok(());
        }
        let mut answer = Answer { rules, ..Answer::default() };
        parts.for_each(|part| answer.add(protocol, JsonCursor::root(part)));
        answer.verdict()
    }

    fn verdict(&self) -> Result<(), Reason> {
        if self.rules.has(FINISHED) && self.out_of_tokens {
            return Err(Reason::Incomplete);
        }
        // Of a choice, what is in place of its text comes first.
        let mut answered = true;
        for ((_, kind, _), content) in &self.parts {
            let is_empty = content.trim_ascii().is_empty();
            match *kind {
                REPLACED if !answered => return Err(Reason::InvalidJsonAnswer),
                REPLACED => answered = !is_empty || !self.rules.has(JSON),
                CALL if !is_empty && !is_json(content) => return Err(Reason::InvalidToolArguments),
                TEXT if !is_empty && !is_json(unwrapped(content)) => return Err(Reason::InvalidJsonAnswer),
                TEXT if !is_empty => answered = true,
                _ => {}
            }
        }
        if answered && !(self.rules.has(JSON) && self.parts.is_empty()) {
            Ok(())
        } else {
            Err(Reason::InvalidJsonAnswer)
        }
    }

    /// Something is in place of a choice's text.
    fn replace(&mut self, choice: u64) {
        self.parts.insert((choice, REPLACED, 0), b"+".to_vec());
    }

    /// Adds an object or an event.
    fn add(&mut self, protocol: Protocol, root: JsonCursor<'_>) {
        match protocol {
            Protocol::Chat | Protocol::Completions => {
                for (index, choice) in indexed(root.get("choices"), "index") {
                    self.end(index, choice, &["finish_reason", "finishReason"]);
                    match choice.get("delta").or(choice.get("message")) {
                        Some(message) => self.message(index, message),
                        None => self.text((index, 0), choice.get("text")),
                    }
                }
            }
            Protocol::Responses => self.responses(root),
            Protocol::Anthropic => self.anthropic(root),
            Protocol::Google => {
                for (index, candidate) in indexed(root.get("candidates"), "index") {
                    self.end(index, candidate, &["finishReason"]);
                    for part in candidate.at(&["content", "parts"]).into_iter().flat_map(JsonCursor::items) {
                        if part.get("functionCall").is_some() {
                            self.replace(index);
                        } else if part.get("thought").is_none_or(|thought| thought.text() != "true") {
                            self.text((index, 0), part.get("text"));
                        }
                    }
                }
            }
            Protocol::Cohere => self.cohere(root),
            Protocol::Ollama => {
                self.end(0, root, &["done_reason"]);
                self.text((0, 0), root.get("response"));
                if let Some(message) = root.get("message") {
                    self.message(0, message);
                }
            }
        }
    }

    /// A choice, and how it ended.
    fn end(&mut self, choice: u64, of: JsonCursor<'_>, names: &[&str]) {
        self.parts.entry((choice, REPLACED, 0)).or_default();
        let is_limit = |end: JsonCursor<'_>| OUT_OF_TOKENS.iter().any(|reason| end.eq_str(reason));
        self.out_of_tokens |= names.iter().filter_map(|name| of.get(name)).any(is_limit);
    }

    /// A fragment of a text: a string, or content parts.
    fn text(&mut self, place: Place, text: Option<JsonCursor<'_>>) {
        let Some(text) = text.filter(|_| self.rules.has(JSON)) else { return };
        let whole = self.parts.entry((place.0, TEXT, place.1)).or_default();
        let parts = text.items().filter(|part| part.get("type").is_none_or(|kind| kind.eq_str("text")));
        let parts = parts.filter_map(|part| part.get("text"));
        std::iter::once(text).chain(parts).filter_map(JsonCursor::string).for_each(|text| whole.extend(text));
    }

    /// A fragment of a function call's arguments. Some APIs give an object, which is valid.
    fn arguments(&mut self, place: Place, arguments: Option<JsonCursor<'_>>) {
        self.replace(place.0);
        if let Some(arguments) = arguments.filter(|_| self.rules.has(ARGUMENTS)).and_then(JsonCursor::string) {
            self.parts.entry((place.0, CALL, place.1)).or_default().extend(arguments);
        }
    }

    /// A message or its delta in the style of OpenAI.
    fn message(&mut self, choice: u64, message: JsonCursor<'_>) {
        self.text((choice, 0), message.get("content"));
        if message.get("refusal").is_some_and(super::is_filled) {
            self.replace(choice);
        }
        self.arguments_of(choice, u64::MAX, message.get("function_call"));
        for (position, call) in indexed(message.get("tool_calls"), "index") {
            // Without an index, a call with an id is a new one.
            let unnumbered = call.get("index").is_none() && call.get("id").is_some();
            let place = if unnumbered { self.next_call(choice) } else { position };
            self.tool_call(choice, place, call);
        }
    }

    fn next_call(&self, choice: u64) -> u64 {
        let last = self.parts.range((choice, CALL, 0)..(choice, CALL, u64::MAX)).next_back();
        last.map_or(0, |((.., call), _)| call.saturating_add(1))
    }

    fn tool_call(&mut self, choice: u64, place: u64, call: JsonCursor<'_>) {
        self.replace(choice);
        self.arguments_of(choice, place, call.get("function"));
    }

    fn arguments_of(&mut self, choice: u64, place: u64, function: Option<JsonCursor<'_>>) {
        if let Some(function) = function.filter(|function| function.is_object()) {
            self.arguments((choice, place), function.get("arguments"));
        }
    }

    /// The complete object repeats the items of the stream.
    fn responses(&mut self, root: JsonCursor<'_>) {
        let response = root.get("response").filter(|response| response.is_object()).unwrap_or(root);
        if let Some(details) = response.get("incomplete_details") {
            self.end(0, details, &["reason"]);
        }
        let done = root.member_eq("type", "response.output_item.done").then(|| root.get("item")).flatten();
        let position = root.get("output_index").and_then(JsonCursor::index).unwrap_or_default();
        let done = done.map(|item| (position, item));
        for (index, item) in indexed(response.get("output"), "").chain(done) {
            self.parts.entry((0, REPLACED, 0)).or_default();
            let kind = item.get("type").and_then(JsonCursor::as_string).unwrap_or_default();
            match kind.as_str() {
                // A message between tool calls, not the answer.
                "message" if item.member_eq("phase", "commentary") => {}
                "message" => {
                    self.parts.remove(&(0, TEXT, index));
                    for part in item.get("content").into_iter().flat_map(JsonCursor::items) {
                        self.text((0, index), part.get("text"));
                        if part.get("refusal").is_some_and(super::is_filled) {
                            self.replace(0);
                        }
                    }
                }
                "function_call" => {
                    self.parts.remove(&(0, CALL, index));
                    self.arguments((0, index), item.get("arguments"));
                }
                kind if kind.ends_with("_call") || kind.ends_with("_request") => self.replace(0),
                _ => {}
            }
        }
    }

    fn anthropic(&mut self, root: JsonCursor<'_>) {
        let delta = root.get("delta");
        self.end(0, delta.unwrap_or(root), &["stop_reason"]);
        let index = root.get("index").and_then(JsonCursor::index).unwrap_or_default();
        let started = root.get("content_block").map(|block| (index, block));
        for (index, block) in indexed(root.get("content"), "").chain(started) {
            let kind = block.get("type").and_then(JsonCursor::as_string).unwrap_or_default();
            if kind == "text" {
                self.text((0, index), block.get("text"));
            } else if kind.ends_with("tool_use") {
                self.replace(0);
            }
        }
        if let Some(delta) = delta {
            self.text((0, index), delta.get("text"));
            if let Some(fragment) = delta.get("partial_json") {
                self.arguments((0, index), Some(fragment));
            }
        }
    }

    fn cohere(&mut self, root: JsonCursor<'_>) {
        // Version 1 has events named `event_type`; its last one repeats the whole text.
        let event = root.get("event_type");
        let delta = root.get("delta");
        self.end(0, delta.unwrap_or(root), &["finish_reason"]);
        if event.is_none_or(|event| event.eq_str("text-generation")) {
            self.text((0, 0), root.get("text"));
        }
        if root.get("tool_calls").is_some_and(super::is_filled) {
            self.replace(0);
        }
        let index = root.get("index").and_then(JsonCursor::index).unwrap_or_default();
        let Some(message) = delta.unwrap_or(root).get("message") else { return };
        let content = message.get("content");
        match content.filter(|content| content.is_object()) {
            Some(part) => self.text((0, index), part.get("text")),
            None => self.text((0, index), content),
        }
        let calls = message.get("tool_calls");
        // An event has one call, an object has all.
        let one = calls.filter(|calls| calls.is_object()).map(|call| (index, call));
        for (index, call) in indexed(calls, "").chain(one) {
            self.tool_call(0, index, call);
        }
    }
}

/// The items of an array, each with its index: the member of that name, or its position.
fn indexed<'a>(array: Option<JsonCursor<'a>>, name: &'a str) -> impl Iterator<Item = (u64, JsonCursor<'a>)> {
    let items = (0..).zip(array.into_iter().flat_map(JsonCursor::items));
    items.map(move |(position, item)| (item.get(name).and_then(JsonCursor::index).unwrap_or(position), item))
}

fn is_json(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// A text without a leading block of reasoning and without a code fence around the rest.
fn unwrapped(text: &[u8]) -> &[u8] {
    let Ok(text) = std::str::from_utf8(text) else { return text };
    // What JSON counts as blank (RFC 8259, section 2).
    let blank = [' ', '\t', '\n', '\r'];
    let text = text.trim_matches(blank);
    let text = without_reasoning(text).unwrap_or(text).trim_matches(blank);
    without_fence(text).unwrap_or(text).as_bytes()
}

/// What follows a block such as `<think>…</think>` or `[THINK]…[/THINK]`.
fn without_reasoning(text: &str) -> Option<&str> {
    let (open, close) = if text.starts_with('<') { ('<', '>') } else { ('[', ']') };
    let (name, rest) = text.strip_prefix(open)?.split_once(close)?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let (_, rest) = rest.split_once(&format!("{open}/{name}{close}")).filter(|_| is_name)?;
    Some(rest)
}

/// What is inside of one fence, whatever language it names.
fn without_fence(text: &str) -> Option<&str> {
    let (language, rest) = text.strip_prefix("```")?.split_once('\n')?;
    let is_name = language.trim().bytes().all(|byte| byte.is_ascii_alphanumeric());
    rest.strip_suffix("```").filter(|_| is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(request: &str) -> AnswerRules {
        AnswerRules::new(Admission::Valid, &Document::parse(request.as_bytes()).unwrap())
    }

    #[test]
    fn json_mode_is_recognised() {
        for request in [
            r#"{"response_format":{"type":"json_object"}}"#,
            r#"{"response_format":{"type":"json_schema","json_schema":{}}}"#,
            r#"{"text":{"format":{"type":"json_schema"}}}"#,
            r#"{"output_format":{"type":"json_schema"}}"#,
            r#"{"output_config":{"format":{"type":"json_schema"}}}"#,
            r#"{"generationConfig":{"responseMimeType":"application/json"}}"#,
            r#"{"generation_config":{"response_mime_type":"application/json"}}"#,
            r#"{"generationConfig":{"responseSchema":{"type":"OBJECT"}}}"#,
            r#"{"generationConfig":{"responseMimeType":null,"responseJsonSchema":{}}}"#,
            r#"{"format":"json"}"#,
            r#"{"format":{"type":"object"}}"#,
        ] {
            assert_eq!(rules(request), AnswerRules(FINISHED | JSON | ARGUMENTS), "{request}");
        }
        for request in [
            r#"{"response_format":{"type":"text"}}"#,
            r#"{"response_format":"b64_json"}"#,
            r#"{"response_format":null,"text":{"format":null}}"#,
            r#"{"generationConfig":{"responseMimeType":"text/x.enum","responseSchema":{"type":"STRING"}}}"#,
            r#"{"format":"mp3"}"#,
        ] {
            assert!(!rules(request).has(JSON), "{request}");
        }
    }

    #[test]
    fn the_own_limit_of_a_request_is_recognised() {
        for request in [
            r#"{"max_tokens":5}"#,
            r#"{"max_completion_tokens":5}"#,
            r#"{"max_output_tokens":5,"tools":[]}"#,
            r#"{"generationConfig":{"maxOutputTokens":5}}"#,
            r#"{"options":{"num_predict":5}}"#,
        ] {
            assert!(!rules(request).has(FINISHED), "{request}");
        }
        for request in [
            "{}",
            r#"{"max_tokens":null}"#,
            r#"{"options":{"num_predict":-1}}"#,
            r#"{"max_tokens":5,"tools":[{}]}"#,
            r#"{"max_tokens":5,"functions":[{}]}"#,
            r#"{"max_tokens":5,"response_format":{"type":"json_object"}}"#,
        ] {
            assert!(rules(request).has(FINISHED), "{request}");
        }
    }

    #[test]
    fn what_surrounds_json_is_skipped() {
        for (text, inner) in [
            (" {\"a\":1}\n", "{\"a\":1}"),
            ("<think>no</think>\n{}", "{}"),
            ("[THINK]{[/THINK][1]", "[1]"),
            ("```json\n{}\n```", "{}\n"),
            ("<think>\n</think>```\n[]```\n", "[]"),
            ("[1]", "[1]"),
            ("<think>no end", "<think>no end"),
            ("Sure: {}", "Sure: {}"),
            ("```json {}```", "```json {}```"),
            ("\u{a0}{}", "\u{a0}{}"),
        ] {
            assert_eq!(std::str::from_utf8(unwrapped(text.as_bytes())).unwrap(), inner, "{text}");
        }
    }
}
