//! `append_to_last_user_message`: adds a text to the last message.
//!
//! A string content is extended. In a list of parts, the last text part is extended; without a text part, one is added. If the
//! last message is not the user's, or there is none, a new message is added.

use super::fields::Fields;
use crate::json::{JsonCursor, TextEdits, push_escaped, to_json_string};
use crate::routing::endpoint::Endpoint;

/// The schema of messages in an endpoint's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageSchema {
    /// `messages` with `role` and `content`: OpenAI, Anthropic, Mistral, Ollama, Cohere (whose first version has one
    /// `message` instead).
    Messages,
    /// OpenAI responses: `input`, a text or a list of messages and other items.
    Input,
    /// Google: `contents` with `role` and `parts`.
    Contents,
}

impl MessageSchema {
    /// The schema of this endpoint. `None`: its requests have no messages.
    pub fn of(endpoint: Endpoint) -> Option<MessageSchema> {
        match endpoint {
            Endpoint::ChatCompletions | Endpoint::Messages | Endpoint::CohereChat | Endpoint::Ollama => {
                Some(MessageSchema::Messages)
            }
            Endpoint::Responses => Some(MessageSchema::Input),
            Endpoint::GenerateContent | Endpoint::StreamGenerateContent => Some(MessageSchema::Contents),
            _ => None,
        }
    }

    /// The field that holds the messages.
    const fn list(self) -> &'static str {
        match self {
            MessageSchema::Messages => "messages",
            MessageSchema::Input => "input",
            MessageSchema::Contents => "contents",
        }
    }

    /// The field of a message that holds its content.
    const fn content(self) -> &'static str {
        match self {
            MessageSchema::Contents => "parts",
            _ => "content",
        }
    }

    /// A text part.
    fn part(self, text: &[u8]) -> Vec<u8> {
        let kind: &[u8] = match self {
            MessageSchema::Messages => br#""type":"text","#,
            MessageSchema::Input => br#""type":"input_text","#,
            MessageSchema::Contents => b"",
        };
        [b"{", kind, br#""text":"#, &to_json_string(text), b"}"].concat()
    }

    /// A message content with nothing but this text.
    fn text_content(self, text: &[u8]) -> Vec<u8> {
        match self {
            MessageSchema::Contents => [b"[", self.part(text).as_slice(), b"]"].concat(),
            _ => to_json_string(text),
        }
    }

    fn message(self, text: &[u8]) -> Vec<u8> {
        let name = to_json_string(self.content().as_bytes());
        [br#"{"role":"user","#, name.as_slice(), b":", &self.text_content(text), b"}"].concat()
    }

    /// Whether a part is a text that can be extended.
    fn is_text(self, part: JsonCursor<'_>) -> bool {
        let kind = part.get("type");
        let typed = match self {
            MessageSchema::Contents => part.get("thought").is_none(),
            _ => kind.is_some_and(|kind| kind.eq_str("text") || kind.eq_str("input_text")),
        };
        typed && part.get("text").is_some_and(JsonCursor::is_string)
    }

    /// Whether a message has the role `user`.
    fn is_from_user(self, message: JsonCursor<'_>) -> bool {
        let role = message.get("role");
        match self {
            // Google's role may be left out.
            MessageSchema::Contents => message.is_object() && role.is_none_or(|role| role.eq_str("user")),
            _ => role.is_some_and(|role| role.eq_str("user")),
        }
    }
}

/// Adds `text` to the last message of a body.
#[inline(never)]
pub fn append(fields: &mut Fields<'_>, schema: MessageSchema, text: &str) {
    let added = text.as_bytes();
    let value = fields.get(schema.list()).filter(|value| *value != "null").map(str::to_owned);
    let changed = match value {
        Some(value) => appended(schema, &value, added),
        // Cohere's first version.
        None if fields.get("message").is_some_and(|message| JsonCursor::root(message).is_string()) => {
            let message = fields.get("message").map(str::to_owned).unwrap_or_default();
            return set(fields, "message", Some(extended(&message, JsonCursor::root(&message), added)));
        }
        // A request with a prompt has no messages.
        None if fields.has("prompt") => None,
        None if schema == MessageSchema::Input => Some(to_json_string(added)),
        None => Some([b"[", schema.message(added).as_slice(), b"]"].concat()),
    };
    set(fields, schema.list(), changed);
}

fn set(fields: &mut Fields<'_>, name: &str, value: Option<Vec<u8>>) {
    if let Some(value) = value.and_then(|value| String::from_utf8(value).ok()) {
        fields.set(name, &value);
    }
}

/// The messages with `added` appended. `None`: the value is neither a string nor an array.
fn appended(schema: MessageSchema, value: &str, added: &[u8]) -> Option<Vec<u8>> {
    let root = JsonCursor::root(value);
    if root.is_string() {
        return Some(extended(value, root, added));
    }
    if !root.is_array() {
        return None;
    }
    let mut edits = TextEdits::default();
    let last = root.items().last();
    match last.filter(|message| schema.is_from_user(*message)) {
        Some(message) => match message.get(schema.content()) {
            Some(content) if content.is_string() => extend(&mut edits, content, added),
            Some(content) if content.is_array() => match content.items().filter(|part| schema.is_text(*part)).last() {
                Some(part) => extend(&mut edits, part.get("text")?, added),
                None => push(&mut edits, content, content.items().next().is_some(), schema.part(added)),
            },
            Some(content) => edits.replace(content.range(), schema.text_content(added)),
            None => {
                let member =
                    [&to_json_string(schema.content().as_bytes()), b":".as_slice(), &schema.text_content(added)]
                        .concat();
                push(&mut edits, message, message.members().next().is_some(), member);
            }
        },
        None => push(&mut edits, root, last.is_some(), schema.message(added)),
    }
    Some(edits.apply(value))
}

/// Appends an item to an array or object. `needs_comma`: there are items already.
fn push(edits: &mut TextEdits, container: JsonCursor<'_>, needs_comma: bool, item: Vec<u8>) {
    let comma: &[u8] = if needs_comma { b"," } else { b"" };
    edits.insert(container.end_bracket(), [comma, &item].concat());
}

/// Extends a string. What is there keeps its escapes.
fn extend(edits: &mut TextEdits, string: JsonCursor<'_>, added: &[u8]) {
    let mut escaped = Vec::new();
    push_escaped(added, &mut escaped);
    edits.insert(string.end_bracket(), escaped);
}

fn extended(text: &str, string: JsonCursor<'_>, added: &[u8]) -> Vec<u8> {
    let mut edits = TextEdits::default();
    extend(&mut edits, string, added);
    edits.apply(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(schema: MessageSchema, text: &str) -> String {
        let mut fields = Fields::read(text);
        append(&mut fields, schema, "\n/x");
        fields.into_changed().map_or_else(|| text.to_owned(), |bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn appends_to_every_form_of_messages() {
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
            assert_eq!(with(MessageSchema::Messages, before), after);
        }
    }

    #[test]
    fn appends_to_input_and_contents() {
        for (schema, before, after) in [
            (MessageSchema::Input, r#"{"input":"a"}"#, r#"{"input":"a\n/x"}"#),
            (MessageSchema::Input, "{}", r#"{"input":"\n/x"}"#),
            (
                MessageSchema::Input,
                r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a"}]}]}"#,
                r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a\n/x"}]}]}"#,
            ),
            (
                MessageSchema::Input,
                r#"{"input":[{"type":"function_call_output","output":"1"}]}"#,
                r#"{"input":[{"type":"function_call_output","output":"1"},{"role":"user","content":"\n/x"}]}"#,
            ),
            (
                MessageSchema::Contents,
                r#"{"contents":[{"parts":[{"text":"a"}]}]}"#,
                r#"{"contents":[{"parts":[{"text":"a\n/x"}]}]}"#,
            ),
            (
                MessageSchema::Contents,
                r#"{"contents":[{"role":"user","parts":[{"inlineData":{}}]}]}"#,
                r#"{"contents":[{"role":"user","parts":[{"inlineData":{}},{"text":"\n/x"}]}]}"#,
            ),
            (
                MessageSchema::Contents,
                r#"{"contents":[{"role":"model","parts":[{"text":"a"}]}]}"#,
                r#"{"contents":[{"role":"model","parts":[{"text":"a"}]},{"role":"user","parts":[{"text":"\n/x"}]}]}"#,
            ),
        ] {
            assert_eq!(with(schema, before), after);
        }
    }
}
