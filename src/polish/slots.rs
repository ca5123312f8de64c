//! Which strings of an answer are the text that the model said? Thoughts that have a field of their own, tool calls and
//! refusals are not.

use crate::dialect::Dialect;
use crate::json::Json;

/// A text of an answer among others: a choice, block or candidate, and a part of it.
pub(super) type Place = (u64, u64);

/// What an event ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// One text.
    One(Place),
    /// All texts of a choice, block or candidate.
    Of(u64),
    /// Every text.
    All,
}

impl End {
    /// Whether this text ends.
    pub(super) fn is_of(self, place: Place) -> bool {
        match self {
            End::One(one) => one == place,
            End::Of(first) => first == place.0,
            End::All => true,
        }
    }
}

/// What an event says.
#[derive(Debug, Default)]
pub(super) struct Seen<'a> {
    /// Pieces of texts, in order.
    pub(super) pieces: Vec<(Place, Json<'a>)>,
    /// Whole texts.
    pub(super) wholes: Vec<Json<'a>>,
    /// What ends.
    pub(super) ends: Vec<End>,
}

/// The texts of an object.
pub(super) fn whole_texts(dialect: Dialect, root: Json<'_>) -> Vec<Json<'_>> {
    match dialect {
        Dialect::Chat | Dialect::Completions => {
            list(root, "choices").flat_map(|choice| said(choice, "message").chain(string(choice, "text"))).collect()
        }
        Dialect::Responses => of_response(root).collect(),
        Dialect::Anthropic => parts(root.get("content")).collect(),
        Dialect::Google => {
            list(root, "candidates").flat_map(|candidate| spoken(candidate).collect::<Vec<_>>()).collect()
        }
        Dialect::Cohere => said(root, "message").chain(string(root, "text")).collect(),
        Dialect::Ollama => said(root, "message").chain(string(root, "response")).collect(),
    }
}

/// What an event of a stream says.
pub(super) fn of_event(dialect: Dialect, root: Json<'_>) -> Seen<'_> {
    let mut seen = Seen::default();
    match dialect {
        Dialect::Chat | Dialect::Completions => chat(root, &mut seen),
        Dialect::Responses => responses(root, &mut seen),
        Dialect::Anthropic => anthropic(root, &mut seen),
        Dialect::Google => google(root, &mut seen),
        Dialect::Cohere => cohere(root, &mut seen),
        Dialect::Ollama => {
            seen.pieces.extend(whole_texts(dialect, root).into_iter().map(|text| ((0, 0), text)));
            let done = root.get("done").is_some_and(|done| done.text() == "true");
            seen.ends.extend(done.then_some(End::All));
        }
    }
    seen
}

fn chat<'a>(root: Json<'a>, seen: &mut Seen<'a>) {
    for (number, choice) in (0..).zip(list(root, "choices")) {
        let index = index(choice, "index").unwrap_or(number);
        seen.pieces.extend(said(choice, "delta").map(|text| ((index, 0), text)));
        seen.pieces.extend(string(choice, "text").map(|text| ((index, 1), text)));
        seen.wholes.extend(said(choice, "message"));
        seen.ends.extend(names(choice, "finish_reason").then_some(End::Of(index)));
    }
}

fn responses<'a>(root: Json<'a>, seen: &mut Seen<'a>) {
    let output = index(root, "output_index").unwrap_or_default();
    let place = (output, index(root, "content_index").unwrap_or_default());
    let is = |kind: &str| root.get("type").is_some_and(|name| name.is(kind));
    if is("response.output_text.delta") {
        seen.pieces.extend(string(root, "delta").map(|text| (place, text)));
    } else if is("response.output_text.done") {
        seen.wholes.extend(string(root, "text"));
        seen.ends.push(End::One(place));
    } else if is("response.content_part.done") {
        seen.wholes.extend(root.get("part").filter(is_text).and_then(|part| part.get("text")));
        seen.ends.push(End::One(place));
    } else if is("response.output_item.done") {
        seen.wholes.extend(root.get("item").into_iter().flat_map(of_item));
        seen.ends.push(End::Of(output));
    } else if is("response.completed") || is("response.incomplete") || is("response.failed") {
        seen.wholes.extend(root.get("response").into_iter().flat_map(of_response));
        seen.ends.push(End::All);
    }
}

fn anthropic<'a>(root: Json<'a>, seen: &mut Seen<'a>) {
    let block = index(root, "index").unwrap_or_default();
    let is = |kind: &str| root.get("type").is_some_and(|name| name.is(kind));
    let piece = if is("content_block_start") {
        root.get("content_block").filter(is_text)
    } else if is("content_block_delta") {
        root.get("delta").filter(|delta| delta.get("type").is_some_and(|kind| kind.is("text_delta")))
    } else {
        None
    };
    seen.pieces.extend(piece.into_iter().flat_map(|piece| string(piece, "text")).map(|text| ((block, 0), text)));
    if is("content_block_stop") {
        seen.ends.push(End::Of(block));
    } else if is("message_delta") || is("message_stop") {
        seen.ends.push(End::All);
    }
}

fn google<'a>(root: Json<'a>, seen: &mut Seen<'a>) {
    for candidate in list(root, "candidates") {
        // Zero is left out at times.
        let index = index(candidate, "index").unwrap_or_default();
        seen.pieces.extend(spoken(candidate).map(|text| ((index, 0), text)));
        let end = candidate.get("finishReason").is_some_and(|end| !end.is("FINISH_REASON_UNSPECIFIED"));
        seen.ends.extend((end && names(candidate, "finishReason")).then_some(End::Of(index)));
    }
}

fn cohere<'a>(root: Json<'a>, seen: &mut Seen<'a>) {
    let block = index(root, "index").unwrap_or_default();
    let kind = root.get("type").or_else(|| root.get("event_type"));
    let is = |name: &str| kind.is_some_and(|kind| kind.is(name));
    if is("content-start") || is("content-delta") {
        let content = root.at(&["delta", "message", "content"]);
        let text = content.into_iter().flat_map(|content| string(content, "text"));
        seen.pieces.extend(text.map(|text| ((block, 0), text)));
    } else if is("content-end") {
        seen.ends.push(End::Of(block));
    } else if is("message-end") {
        seen.ends.push(End::All);
    } else if is("text-generation") {
        seen.pieces.extend(string(root, "text").map(|text| ((0, 0), text)));
    } else if is("stream-end") {
        seen.wholes.extend(root.get("response").into_iter().flat_map(|whole| string(whole, "text")));
        seen.ends.push(End::All);
    }
}

fn of_response(response: Json<'_>) -> impl Iterator<Item = Json<'_>> {
    list(response, "output").flat_map(of_item)
}

fn of_item(item: Json<'_>) -> impl Iterator<Item = Json<'_>> {
    parts(item.get("content"))
}

/// The texts of a candidate of Google's.
fn spoken(candidate: Json<'_>) -> impl Iterator<Item = Json<'_>> {
    let parts = candidate.at(&["content", "parts"]).into_iter().flat_map(Json::items);
    let aloud = |part: &Json<'_>| part.get("thought").is_none_or(|thought| thought.text() != "true");
    parts.filter(aloud).flat_map(|part| string(part, "text"))
}

/// The texts of a message's `content`.
fn said<'a>(holder: Json<'a>, message: &str) -> impl Iterator<Item = Json<'a>> + use<'a> {
    parts(holder.at(&[message, "content"]))
}

/// A text, or those among parts.
fn parts(content: Option<Json<'_>>) -> impl Iterator<Item = Json<'_>> {
    let whole = content.filter(|content| content.is_string());
    let among = content.into_iter().flat_map(Json::items).filter(is_text).flat_map(|part| string(part, "text"));
    whole.into_iter().chain(among)
}

fn is_text(part: &Json<'_>) -> bool {
    part.get("type").is_some_and(|kind| kind.is("text") || kind.is("output_text"))
}

fn string<'a>(holder: Json<'a>, name: &str) -> impl Iterator<Item = Json<'a>> + use<'a> {
    holder.get(name).filter(|value| value.is_string()).into_iter()
}

fn list<'a>(holder: Json<'a>, name: &str) -> impl Iterator<Item = Json<'a>> + use<'a> {
    holder.get(name).into_iter().flat_map(Json::items)
}

fn index(holder: Json<'_>, name: &str) -> Option<u64> {
    holder.get(name)?.index()
}

/// Whether a member is a string with something in it.
fn names(holder: Json<'_>, name: &str) -> bool {
    holder.get(name).is_some_and(|value| value.is_string() && !value.is(""))
}
