//! `append_to_last_user_message`: the same words at the end of whatever the user said last.
//!
//! To a text they are added; of parts, to the last that is a text, or as a part of their own where there is none; where
//! the last message is not the user's, or there is none, they become one.

use super::fields::Fields;
use crate::json::{Edits, Json, push_escaped, quoted};
use crate::routing::endpoint::Endpoint;

/// How a protocol keeps its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `messages` with `role` and `content`: OpenAI, Anthropic, Mistral, Ollama, Cohere (whose first version has one
    /// `message` instead).
    Messages,
    /// OpenAI responses: `input`, a text or a list of messages and other items.
    Input,
    /// Google: `contents` with `role` and `parts`.
    Contents,
}

impl Shape {
    /// How this endpoint keeps its messages; `None`: it has none.
    pub fn of(endpoint: Endpoint) -> Option<Shape> {
        match endpoint {
            Endpoint::ChatCompletions | Endpoint::Messages | Endpoint::CohereChat | Endpoint::Ollama => {
                Some(Shape::Messages)
            }
            Endpoint::Responses => Some(Shape::Input),
            Endpoint::GenerateContent | Endpoint::StreamGenerateContent => Some(Shape::Contents),
            _ => None,
        }
    }

    /// The field with the list.
    const fn list(self) -> &'static str {
        match self {
            Shape::Messages => "messages",
            Shape::Input => "input",
            Shape::Contents => "contents",
        }
    }

    /// A message's field with what it says.
    const fn content(self) -> &'static str {
        match self {
            Shape::Contents => "parts",
            _ => "content",
        }
    }

    /// A part that is this text.
    fn part(self, text: &[u8]) -> Vec<u8> {
        let kind: &[u8] = match self {
            Shape::Messages => br#""type":"text","#,
            Shape::Input => br#""type":"input_text","#,
            Shape::Contents => b"",
        };
        [b"{", kind, br#""text":"#, &quoted(text), b"}"].concat()
    }

    /// What a message says that is this text.
    fn whole(self, text: &[u8]) -> Vec<u8> {
        match self {
            Shape::Contents => [b"[", self.part(text).as_slice(), b"]"].concat(),
            _ => quoted(text),
        }
    }

    fn message(self, text: &[u8]) -> Vec<u8> {
        let name = quoted(self.content().as_bytes());
        [br#"{"role":"user","#, name.as_slice(), b":", &self.whole(text), b"}"].concat()
    }

    /// Whether a part is a text that can be added to.
    fn is_text(self, part: Json<'_>) -> bool {
        let kind = part.get("type");
        let typed = match self {
            Shape::Contents => part.get("thought").is_none(),
            _ => kind.is_some_and(|kind| kind.is("text") || kind.is("input_text")),
        };
        typed && part.get("text").is_some_and(Json::is_string)
    }

    /// Whether the user says this message.
    fn is_users(self, message: Json<'_>) -> bool {
        let role = message.get("role");
        match self {
            // Google's role may be left out.
            Shape::Contents => message.is_object() && role.is_none_or(|role| role.is("user")),
            _ => role.is_some_and(|role| role.is("user")),
        }
    }
}

/// Adds `text` to the last message of a body.
#[inline(never)]
pub fn append(fields: &mut Fields<'_>, shape: Shape, text: &str) {
    let added = text.as_bytes();
    let value = fields.get(shape.list()).filter(|value| *value != "null").map(str::to_owned);
    let changed = match value {
        Some(value) => appended(shape, &value, added),
        // Cohere's first version.
        None if fields.get("message").is_some_and(|message| Json::root(message).is_string()) => {
            let message = fields.get("message").map(str::to_owned).unwrap_or_default();
            return set(fields, "message", Some(with_more(&message, Json::root(&message), added)));
        }
        // What is asked in another way has no messages.
        None if fields.has("prompt") => None,
        None if shape == Shape::Input => Some(quoted(added)),
        None => Some([b"[", shape.message(added).as_slice(), b"]"].concat()),
    };
    set(fields, shape.list(), changed);
}

fn set(fields: &mut Fields<'_>, name: &str, value: Option<Vec<u8>>) {
    if let Some(value) = value.and_then(|value| String::from_utf8(value).ok()) {
        fields.set(name, &value);
    }
}

/// The list's value with `added` in it. `None`: it is no list.
fn appended(shape: Shape, value: &str, added: &[u8]) -> Option<Vec<u8>> {
    let root = Json::root(value);
    if root.is_string() {
        return Some(with_more(value, root, added));
    }
    if !root.is_array() {
        return None;
    }
    let mut edits = Edits::default();
    let last = root.items().last();
    match last.filter(|message| shape.is_users(*message)) {
        Some(message) => match message.get(shape.content()) {
            Some(content) if content.is_string() => more(&mut edits, content, added),
            Some(content) if content.is_array() => match content.items().filter(|part| shape.is_text(*part)).last() {
                Some(part) => more(&mut edits, part.get("text")?, added),
                None => push(&mut edits, content, content.items().next().is_some(), shape.part(added)),
            },
            Some(content) => edits.replace(content.range(), shape.whole(added)),
            None => {
                let member = [&quoted(shape.content().as_bytes()), b":".as_slice(), &shape.whole(added)].concat();
                push(&mut edits, message, message.members().next().is_some(), member);
            }
        },
        None => push(&mut edits, root, last.is_some(), shape.message(added)),
    }
    Some(edits.apply(value))
}

/// Puts an item at the end of a container.
fn push(edits: &mut Edits, container: Json<'_>, follows: bool, item: Vec<u8>) {
    let comma: &[u8] = if follows { b"," } else { b"" };
    edits.insert(container.closing(), [comma, &item].concat());
}

/// Adds to a string, whose spelling stays.
fn more(edits: &mut Edits, string: Json<'_>, added: &[u8]) {
    let mut escaped = Vec::new();
    push_escaped(added, &mut escaped);
    edits.insert(string.closing(), escaped);
}

fn with_more(text: &str, string: Json<'_>, added: &[u8]) -> Vec<u8> {
    let mut edits = Edits::default();
    more(&mut edits, string, added);
    edits.apply(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(shape: Shape, text: &str) -> String {
        let mut fields = Fields::read(text);
        append(&mut fields, shape, "\n/x");
        fields.into_changed().map_or_else(|| text.to_owned(), |bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn every_shape_of_messages() {
        for (before, after) in [
            (
                r#"{"messages":[{"role":"user","content":"a\ud800"}]}"#,
                r#"{"messages":[{"role":"user","content":"a\ud800\n/x"}]}"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a\n/x"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}} ]}]}"#,
                r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}} ,{"type":"text","text":"\n/x"}]}]}"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":[]}]}"#,
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"\n/x"}]}]}"#,
            ),
            (r#"{"messages":[{"role":"user","content":null}]}"#, r#"{"messages":[{"role":"user","content":"\n/x"}]}"#),
            (r#"{"messages":[{"role":"user"}]}"#, r#"{"messages":[{"role":"user","content":"\n/x"}]}"#),
            (
                r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
                r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"\n/x"}]}"#,
            ),
            (r#"{"messages":[]}"#, r#"{"messages":[{"role":"user","content":"\n/x"}]}"#),
            (r#"{"messages":null}"#, r#"{"messages":[{"role":"user","content":"\n/x"}]}"#),
            ("{}", r#"{"messages":[{"role":"user","content":"\n/x"}]}"#),
            (r#"{"prompt":"p"}"#, r#"{"prompt":"p"}"#),
            (r#"{"message":"m"}"#, r#"{"message":"m\n/x"}"#),
            (r#"{"messages":7}"#, r#"{"messages":7}"#),
        ] {
            assert_eq!(with(Shape::Messages, before), after);
        }
    }

    #[test]
    fn responses_and_google() {
        for (shape, before, after) in [
            (Shape::Input, r#"{"input":"a"}"#, r#"{"input":"a\n/x"}"#),
            (Shape::Input, "{}", r#"{"input":"\n/x"}"#),
            (
                Shape::Input,
                r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a"}]}]}"#,
                r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a\n/x"}]}]}"#,
            ),
            (
                Shape::Input,
                r#"{"input":[{"type":"function_call_output","output":"1"}]}"#,
                r#"{"input":[{"type":"function_call_output","output":"1"},{"role":"user","content":"\n/x"}]}"#,
            ),
            (
                Shape::Contents,
                r#"{"contents":[{"parts":[{"text":"a"}]}]}"#,
                r#"{"contents":[{"parts":[{"text":"a\n/x"}]}]}"#,
            ),
            (
                Shape::Contents,
                r#"{"contents":[{"role":"user","parts":[{"inlineData":{}}]}]}"#,
                r#"{"contents":[{"role":"user","parts":[{"inlineData":{}},{"text":"\n/x"}]}]}"#,
            ),
            (
                Shape::Contents,
                r#"{"contents":[{"role":"model","parts":[{"text":"a"}]}]}"#,
                r#"{"contents":[{"role":"model","parts":[{"text":"a"}]},{"role":"user","parts":[{"text":"\n/x"}]}]}"#,
            ),
        ] {
            assert_eq!(with(shape, before), after);
        }
    }
}
