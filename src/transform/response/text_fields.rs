//! Finds the output text of a response. Reasoning in its own field, tool calls and refusals are not output text.

use crate::json::{Items, JsonCursor};
use crate::protocol::Protocol;

/// Which text of a response: the index of the choice, block or candidate, and of the part in it.
pub(super) type TextPosition = (u64, u64);

/// Which texts an event ends.
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
    /// Whether the text at this position ends.
    pub(super) fn is_of(self, position: TextPosition) -> bool {
        match self {
            End::One(one) => one == position,
            End::Of(first) => first == position.0,
            End::All => true,
        }
    }
}

/// The texts of an event.
#[derive(Debug, Default)]
pub(super) struct EventTexts<'a> {
    /// Deltas of texts, in order.
    pub(super) deltas: Vec<(TextPosition, JsonCursor<'a>)>,
    /// Complete texts.
    pub(super) wholes: Vec<JsonCursor<'a>>,
    /// Which texts end.
    pub(super) ends: Vec<End>,
}

impl<'a> EventTexts<'a> {
    /// Adds the strings that `find` finds as deltas of the text at this position.
    fn add_deltas(&mut self, position: TextPosition, find: impl FnOnce(&mut Texts<'a>)) {
        let mut found = Vec::new();
        find(&mut found);
        self.deltas.extend(found.into_iter().map(|text| (position, text)));
    }
}

type Texts<'a> = Vec<JsonCursor<'a>>;

/// The texts of an object.
pub(super) fn whole_texts(protocol: Protocol, root: JsonCursor<'_>) -> Vec<JsonCursor<'_>> {
    let mut texts = Texts::new();
    match protocol {
        Protocol::Chat | Protocol::Completions => {
            for choice in list(root, "choices") {
                message_texts(choice, "message", &mut texts);
                string(choice, "text", &mut texts);
            }
        }
        Protocol::Responses => of_response(root, &mut texts),
        Protocol::Anthropic => parts(root, &mut texts),
        Protocol::Google => list(root, "candidates").for_each(|candidate| candidate_texts(candidate, &mut texts)),
        Protocol::Cohere | Protocol::Ollama => {
            message_texts(root, "message", &mut texts);
            string(root, if protocol == Protocol::Cohere { "text" } else { "response" }, &mut texts);
        }
    }
    texts
}

/// The texts of an event of a stream.
pub(super) fn of_event(protocol: Protocol, root: JsonCursor<'_>) -> EventTexts<'_> {
    let mut event = EventTexts::default();
    match protocol {
        Protocol::Chat | Protocol::Completions => chat(root, &mut event),
        Protocol::Responses => responses(root, &mut event),
        Protocol::Anthropic => anthropic(root, &mut event),
        Protocol::Google => google(root, &mut event),
        Protocol::Cohere => cohere(root, &mut event),
        Protocol::Ollama => {
            event.add_deltas((0, 0), |texts| texts.extend(whole_texts(protocol, root)));
            if root.get("done").is_some_and(|done| done.text() == "true") {
                event.ends.push(End::All);
            }
        }
    }
    event
}

fn chat<'a>(root: JsonCursor<'a>, event: &mut EventTexts<'a>) {
    for (number, choice) in (0..).zip(list(root, "choices")) {
        let index = index(choice, "index").unwrap_or(number);
        event.add_deltas((index, 0), |texts| message_texts(choice, "delta", texts));
        event.add_deltas((index, 1), |texts| string(choice, "text", texts));
        message_texts(choice, "message", &mut event.wholes);
        if has_text(choice, "finish_reason") {
            event.ends.push(End::Of(index));
        }
    }
}

fn responses<'a>(root: JsonCursor<'a>, event: &mut EventTexts<'a>) {
    let output = index(root, "output_index").unwrap_or_default();
    let position = (output, index(root, "content_index").unwrap_or_default());
    let kind = root.get("type").and_then(JsonCursor::as_string).unwrap_or_default();
    match kind.as_str() {
        "response.output_text.delta" => event.add_deltas(position, |texts| string(root, "delta", texts)),
        "response.output_text.done" => {
            string(root, "text", &mut event.wholes);
            event.ends.push(End::One(position));
        }
        "response.content_part.done" => {
            if let Some(part) = root.get("part") {
                text_part(part, &mut event.wholes);
            }
            event.ends.push(End::One(position));
        }
        "response.output_item.done" => {
            if let Some(item) = root.get("item") {
                parts(item, &mut event.wholes);
            }
            event.ends.push(End::Of(output));
        }
        "response.completed" | "response.incomplete" | "response.failed" => {
            if let Some(response) = root.get("response") {
                of_response(response, &mut event.wholes);
            }
            event.ends.push(End::All);
        }
        _ => {}
    }
}

fn anthropic<'a>(root: JsonCursor<'a>, event: &mut EventTexts<'a>) {
    let block = index(root, "index").unwrap_or_default();
    let kind = root.get("type").and_then(JsonCursor::as_string).unwrap_or_default();
    match kind.as_str() {
        "content_block_start" => {
            if let Some(begun) = root.get("content_block") {
                event.add_deltas((block, 0), |texts| text_part(begun, texts));
            }
        }
        "content_block_delta" => {
            if let Some(delta) = root.get("delta").filter(|delta| delta.member_eq("type", "text_delta")) {
                event.add_deltas((block, 0), |texts| string(delta, "text", texts));
            }
        }
        "content_block_stop" => event.ends.push(End::Of(block)),
        "message_delta" | "message_stop" => event.ends.push(End::All),
        _ => {}
    }
}

fn google<'a>(root: JsonCursor<'a>, event: &mut EventTexts<'a>) {
    for candidate in list(root, "candidates") {
        // An index of 0 may be omitted.
        let index = index(candidate, "index").unwrap_or_default();
        event.add_deltas((index, 0), |texts| candidate_texts(candidate, texts));
        if has_text(candidate, "finishReason") && !candidate.member_eq("finishReason", "FINISH_REASON_UNSPECIFIED") {
            event.ends.push(End::Of(index));
        }
    }
}

fn cohere<'a>(root: JsonCursor<'a>, event: &mut EventTexts<'a>) {
    let block = index(root, "index").unwrap_or_default();
    let kind = root.get("type").or_else(|| root.get("event_type"));
    let kind = kind.and_then(JsonCursor::as_string).unwrap_or_default();
    match kind.as_str() {
        "content-start" | "content-delta" => {
            if let Some(content) = root.at(&["delta", "message", "content"]) {
                event.add_deltas((block, 0), |texts| string(content, "text", texts));
            }
        }
        "content-end" => event.ends.push(End::Of(block)),
        "message-end" => event.ends.push(End::All),
        "text-generation" => event.add_deltas((0, 0), |texts| string(root, "text", texts)),
        "stream-end" => {
            if let Some(response) = root.get("response") {
                string(response, "text", &mut event.wholes);
            }
            event.ends.push(End::All);
        }
        _ => {}
    }
}

fn of_response<'a>(response: JsonCursor<'a>, texts: &mut Texts<'a>) {
    list(response, "output").for_each(|item| parts(item, texts));
}

/// The texts of a Google candidate.
fn candidate_texts<'a>(candidate: JsonCursor<'a>, texts: &mut Texts<'a>) {
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
fn message_texts<'a>(object: JsonCursor<'a>, message: &str, texts: &mut Texts<'a>) {
    if let Some(message) = object.get(message) {
        parts(message, texts);
    }
}

/// The `content`, if it is a string, or its text parts.
#[inline(never)]
fn parts<'a>(message: JsonCursor<'a>, texts: &mut Texts<'a>) {
    string(message, "content", texts);
    list(message, "content").for_each(|part| text_part(part, texts));
}

/// The text of a text part.
fn text_part<'a>(part: JsonCursor<'a>, texts: &mut Texts<'a>) {
    if part.member_eq("type", "text") || part.member_eq("type", "output_text") {
        string(part, "text", texts);
    }
}

#[inline(never)]
fn string<'a>(object: JsonCursor<'a>, name: &str, texts: &mut Texts<'a>) {
    texts.extend(object.get(name).filter(|value| value.is_string()));
}

fn list<'a>(object: JsonCursor<'a>, name: &str) -> Items<'a> {
    object.get(name).unwrap_or(JsonCursor::root("")).items()
}

fn index(object: JsonCursor<'_>, name: &str) -> Option<u64> {
    object.get(name)?.index()
}

/// Whether a member is a string that is not empty.
fn has_text(object: JsonCursor<'_>, name: &str) -> bool {
    object.get(name).is_some_and(|value| value.is_string() && !value.eq_str(""))
}
