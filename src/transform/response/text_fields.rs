//! Which strings of an answer are the text that the model said? Thoughts that have a field of their own, tool calls and
//! refusals are not.

use crate::json::{Items, JsonCursor};
use crate::protocol::Protocol;

/// A text of an answer among others: a choice, block or candidate, and a part of it.
pub(super) type TextPosition = (u64, u64);

/// What an event ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// One text.
    One(TextPosition),
    /// All texts of a choice, block or candidate.
    Of(u64),
    /// Every text.
    All,
}

impl End {
    /// Whether this text ends.
    pub(super) fn is_of(self, position: TextPosition) -> bool {
        match self {
            End::One(one) => one == position,
            End::Of(first) => first == position.0,
            End::All => true,
        }
    }
}

/// What an event says.
#[derive(Debug, Default)]
pub(super) struct EventTexts<'a> {
    /// Pieces of texts, in order.
    pub(super) pieces: Vec<(TextPosition, JsonCursor<'a>)>,
    /// Whole texts.
    pub(super) wholes: Vec<JsonCursor<'a>>,
    /// What ends.
    pub(super) ends: Vec<End>,
}

impl<'a> EventTexts<'a> {
    /// What `texts` finds are pieces of the text at this place.
    fn pieces(&mut self, position: TextPosition, texts: impl FnOnce(&mut Texts<'a>)) {
        let mut found = Vec::new();
        texts(&mut found);
        self.pieces.extend(found.into_iter().map(|text| (position, text)));
    }
}

type Texts<'a> = Vec<JsonCursor<'a>>;

/// The texts of an object.
pub(super) fn whole_texts(protocol: Protocol, root: JsonCursor<'_>) -> Vec<JsonCursor<'_>> {
    let mut texts = Texts::new();
    match protocol {
        Protocol::Chat | Protocol::Completions => {
            for choice in list(root, "choices") {
                said(choice, "message", &mut texts);
                string(choice, "text", &mut texts);
            }
        }
        Protocol::Responses => of_response(root, &mut texts),
        Protocol::Anthropic => parts(root, &mut texts),
        Protocol::Google => list(root, "candidates").for_each(|candidate| spoken(candidate, &mut texts)),
        Protocol::Cohere | Protocol::Ollama => {
            said(root, "message", &mut texts);
            string(root, if protocol == Protocol::Cohere { "text" } else { "response" }, &mut texts);
        }
    }
    texts
}

/// What an event of a stream says.
pub(super) fn of_event(protocol: Protocol, root: JsonCursor<'_>) -> EventTexts<'_> {
    let mut seen = EventTexts::default();
    match protocol {
        Protocol::Chat | Protocol::Completions => chat(root, &mut seen),
        Protocol::Responses => responses(root, &mut seen),
        Protocol::Anthropic => anthropic(root, &mut seen),
        Protocol::Google => google(root, &mut seen),
        Protocol::Cohere => cohere(root, &mut seen),
        Protocol::Ollama => {
            seen.pieces((0, 0), |texts| texts.extend(whole_texts(protocol, root)));
            if root.get("done").is_some_and(|done| done.text() == "true") {
                seen.ends.push(End::All);
            }
        }
    }
    seen
}

fn chat<'a>(root: JsonCursor<'a>, seen: &mut EventTexts<'a>) {
    for (number, choice) in (0..).zip(list(root, "choices")) {
        let index = index(choice, "index").unwrap_or(number);
        seen.pieces((index, 0), |texts| said(choice, "delta", texts));
        seen.pieces((index, 1), |texts| string(choice, "text", texts));
        said(choice, "message", &mut seen.wholes);
        if names(choice, "finish_reason") {
            seen.ends.push(End::Of(index));
        }
    }
}

fn responses<'a>(root: JsonCursor<'a>, seen: &mut EventTexts<'a>) {
    let output = index(root, "output_index").unwrap_or_default();
    let position = (output, index(root, "content_index").unwrap_or_default());
    let kind = root.get("type").and_then(JsonCursor::as_string).unwrap_or_default();
    match kind.as_str() {
        "response.output_text.delta" => seen.pieces(position, |texts| string(root, "delta", texts)),
        "response.output_text.done" => {
            string(root, "text", &mut seen.wholes);
            seen.ends.push(End::One(position));
        }
        "response.content_part.done" => {
            if let Some(part) = root.get("part") {
                text_part(part, &mut seen.wholes);
            }
            seen.ends.push(End::One(position));
        }
        "response.output_item.done" => {
            if let Some(item) = root.get("item") {
                parts(item, &mut seen.wholes);
            }
            seen.ends.push(End::Of(output));
        }
        "response.completed" | "response.incomplete" | "response.failed" => {
            if let Some(response) = root.get("response") {
                of_response(response, &mut seen.wholes);
            }
            seen.ends.push(End::All);
        }
        _ => {}
    }
}

fn anthropic<'a>(root: JsonCursor<'a>, seen: &mut EventTexts<'a>) {
    let block = index(root, "index").unwrap_or_default();
    let kind = root.get("type").and_then(JsonCursor::as_string).unwrap_or_default();
    match kind.as_str() {
        "content_block_start" => {
            if let Some(begun) = root.get("content_block") {
                seen.pieces((block, 0), |texts| text_part(begun, texts));
            }
        }
        "content_block_delta" => {
            if let Some(delta) = root.get("delta").filter(|delta| delta.member_eq("type", "text_delta")) {
                seen.pieces((block, 0), |texts| string(delta, "text", texts));
            }
        }
        "content_block_stop" => seen.ends.push(End::Of(block)),
        "message_delta" | "message_stop" => seen.ends.push(End::All),
        _ => {}
    }
}

fn google<'a>(root: JsonCursor<'a>, seen: &mut EventTexts<'a>) {
    for candidate in list(root, "candidates") {
        // Zero is left out at times.
        let index = index(candidate, "index").unwrap_or_default();
        seen.pieces((index, 0), |texts| spoken(candidate, texts));
        if names(candidate, "finishReason") && !candidate.member_eq("finishReason", "FINISH_REASON_UNSPECIFIED") {
            seen.ends.push(End::Of(index));
        }
    }
}

fn cohere<'a>(root: JsonCursor<'a>, seen: &mut EventTexts<'a>) {
    let block = index(root, "index").unwrap_or_default();
    let kind = root.get("type").or_else(|| root.get("event_type"));
    let kind = kind.and_then(JsonCursor::as_string).unwrap_or_default();
    match kind.as_str() {
        "content-start" | "content-delta" => {
            if let Some(content) = root.at(&["delta", "message", "content"]) {
                seen.pieces((block, 0), |texts| string(content, "text", texts));
            }
        }
        "content-end" => seen.ends.push(End::Of(block)),
        "message-end" => seen.ends.push(End::All),
        "text-generation" => seen.pieces((0, 0), |texts| string(root, "text", texts)),
        "stream-end" => {
            if let Some(response) = root.get("response") {
                string(response, "text", &mut seen.wholes);
            }
            seen.ends.push(End::All);
        }
        _ => {}
    }
}

fn of_response<'a>(response: JsonCursor<'a>, texts: &mut Texts<'a>) {
    list(response, "output").for_each(|item| parts(item, texts));
}

/// The texts of a candidate of Google's.
fn spoken<'a>(candidate: JsonCursor<'a>, texts: &mut Texts<'a>) {
    let Some(content) = candidate.get("content") else {
        return;
    };
    for part in list(content, "parts") {
        if part.get("thought").is_none_or(|thought| thought.text() != "true") {
            string(part, "text", texts);
        }
    }
}

/// The texts of a message.
fn said<'a>(holder: JsonCursor<'a>, message: &str, texts: &mut Texts<'a>) {
    if let Some(message) = holder.get(message) {
        parts(message, texts);
    }
}

/// A `content` that is a text, or the texts among its parts.
#[inline(never)]
fn parts<'a>(message: JsonCursor<'a>, texts: &mut Texts<'a>) {
    string(message, "content", texts);
    list(message, "content").for_each(|part| text_part(part, texts));
}

/// The text of a part that is one.
fn text_part<'a>(part: JsonCursor<'a>, texts: &mut Texts<'a>) {
    if part.member_eq("type", "text") || part.member_eq("type", "output_text") {
        string(part, "text", texts);
    }
}

#[inline(never)]
fn string<'a>(holder: JsonCursor<'a>, name: &str, texts: &mut Texts<'a>) {
    texts.extend(holder.get(name).filter(|value| value.is_string()));
}

fn list<'a>(holder: JsonCursor<'a>, name: &str) -> Items<'a> {
    holder.get(name).unwrap_or(JsonCursor::root("")).items()
}

fn index(holder: JsonCursor<'_>, name: &str) -> Option<u64> {
    holder.get(name)?.index()
}

/// Whether a member is a string with something in it.
fn names(holder: JsonCursor<'_>, name: &str) -> bool {
    holder.get(name).is_some_and(|value| value.is_string() && !value.eq_str(""))
}
