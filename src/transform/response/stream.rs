//! Thoughts left out of a stream, event by event.

use super::splitter::{Block, Segment, SplitAt, Splitter};
use super::strip;
use super::tag_filter::TagFilter;
use super::text_fields::{self, End, TextPosition};
use crate::config::think_tags::ThinkTags;
use crate::json::{JsonCursor, TextEdits, to_json_string};
use crate::protocol::Protocol;
use serde::de::IgnoredAny;

/// A filter for one stream.
#[derive(Debug)]
pub(super) struct StreamFilter {
    splitter: Splitter,
    texts: Texts,
}

/// The texts that have begun.
#[derive(Debug)]
struct Texts {
    protocol: Protocol,
    split_at: SplitAt,
    tags: ThinkTags,
    open: Vec<Text>,
}

#[derive(Debug)]
struct Text {
    position: TextPosition,
    filter: TagFilter,
    /// The last event with a piece of it: what an event of our own is made like.
    last: String,
}

impl StreamFilter {
    pub(super) fn new(protocol: Protocol, split_at: SplitAt, tags: ThinkTags, max_bytes: usize) -> StreamFilter {
        let texts = Texts { protocol, split_at, tags, open: Vec::new() };
        StreamFilter { splitter: Splitter::new(split_at, max_bytes), texts }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let texts = &mut self.texts;
        self.splitter.push(bytes, &mut |piece| texts.take(piece, &mut out));
        out
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let texts = &mut self.texts;
        self.splitter.finish(&mut |piece| texts.take(piece, &mut out));
        // A stream that ends without saying so loses nothing either. (After an array's end nothing can follow.)
        if texts.split_at != SplitAt::Items {
            texts.flush(End::All, &mut out);
        }
        out
    }
}

impl Texts {
    fn take(&mut self, piece: Segment, out: &mut Vec<u8>) {
        match piece {
            Segment::Raw(bytes) => out.extend(bytes),
            Segment::Event(block) => self.event(&block, out),
            Segment::Close => {
                let mut rest = Vec::new();
                self.flush(End::All, &mut rest);
                // What is given back has its comma behind it, and here belongs behind what came before.
                if rest.pop().is_some() {
                    out.push(b',');
                    out.extend(rest);
                }
            }
        }
    }

    fn event(&mut self, block: &Block, out: &mut Vec<u8>) {
        let data = block.data();
        if data.trim() == "[DONE]" {
            self.flush(End::All, out);
        }
        if serde_json::from_str::<IgnoredAny>(&data).is_err() {
            out.extend(block.raw());
            return;
        }
        let seen = text_fields::of_event(self.protocol, JsonCursor::root(&data));
        let mut pieces: Vec<(TextPosition, JsonCursor<'_>, Vec<u8>)> = Vec::new();
        for (position, piece) in seen.pieces {
            let kept = self.filtered(position, &data, &piece.string().unwrap_or_default());
            pieces.push((position, piece, kept));
        }
        for end in seen.ends {
            for text in self.ended(end) {
                let (position, rest) = (text.position, text.filter.finish());
                // An event that says something and ends can say the rest too.
                match pieces.iter_mut().rfind(|(of, ..)| *of == position) {
                    Some((.., kept)) => kept.extend(rest),
                    None if rest.is_empty() => {}
                    None => self.say(position, &text.last, &rest, out),
                }
            }
        }
        let mut edits = TextEdits::default();
        for (_, piece, kept) in pieces {
            if piece.string().as_deref() != Some(&kept) {
                edits.replace(piece.range(), to_json_string(&kept));
            }
        }
        for whole in seen.wholes {
            strip(whole, &self.tags, &mut edits);
        }
        if edits.is_empty() {
            out.extend(block.raw());
        } else {
            out.extend(block.with_data(&edits.apply(&data)));
        }
    }

    /// What is known to stay of a piece of the text at this place, which may begin with it. `event`: what says it.
    fn filtered(&mut self, position: TextPosition, event: &str, piece: &[u8]) -> Vec<u8> {
        if !self.open.iter().any(|text| text.position == position) {
            self.open.push(Text { position, filter: TagFilter::new(self.tags.clone()), last: String::new() });
        }
        match self.open.iter_mut().find(|text| text.position == position) {
            Some(text) => {
                event.clone_into(&mut text.last);
                text.filter.push(piece)
            }
            None => piece.to_vec(),
        }
    }

    fn ended(&mut self, end: End) -> Vec<Text> {
        let (ended, open) = std::mem::take(&mut self.open).into_iter().partition(|text| end.is_of(text.position));
        self.open = open;
        ended
    }

    /// Writes what is held of these texts in events of our own.
    fn flush(&mut self, end: End, out: &mut Vec<u8>) {
        for text in self.ended(end) {
            let rest = text.filter.finish();
            if !rest.is_empty() {
                self.say(text.position, &text.last, &rest, out);
            }
        }
    }

    /// Writes an event that says `text` at this place.
    fn say(&self, position: TextPosition, like: &str, text: &[u8], out: &mut Vec<u8>) {
        let (name, data) = event_like(self.protocol, position, JsonCursor::root(like), like, &to_json_string(text));
        match self.split_at {
            SplitAt::Events => {
                if let Some(name) = name {
                    out.extend(format!("event: {name}\n").bytes());
                }
                out.extend_from_slice(b"data: ");
                out.extend(data);
                out.extend_from_slice(b"\n\n");
            }
            SplitAt::Lines => {
                out.extend(data);
                out.push(b'\n');
            }
            SplitAt::Items => {
                out.extend(data);
                out.push(b',');
            }
        }
    }
}

/// An event of a stream (its name, its data) that says `text`, a JSON string, and nothing else, made like `like`.
fn event_like(
    protocol: Protocol,
    position: TextPosition,
    root: JsonCursor<'_>,
    like: &str,
    text: &[u8],
) -> (Option<&'static str>, Vec<u8>) {
    let index = position.0.to_string();
    let index = index.as_bytes();
    match protocol {
        Protocol::Chat | Protocol::Completions => {
            let around = members_but(root, &["choices", "usage", "obfuscation", "p"]);
            let said: [&[u8]; 3] =
                if position.1 == 0 { [br#""delta":{"content":"#, text, b"}"] } else { [br#""text":"#, text, b""] };
            let choice =
                [br#""choices":[{"index":"#, index, b",", &said.concat(), br#","finish_reason":null}]}"#].concat();
            (None, [&around, choice.as_slice()].concat())
        }
        Protocol::Google => {
            let around = members_but(root, &["candidates", "usageMetadata"]);
            let begin = br#""candidates":[{"content":{"parts":[{"text":"#;
            (None, [&around, begin.as_slice(), text, br#"}],"role":"model"},"index":"#, index, b"}]}"].concat())
        }
        Protocol::Anthropic => {
            let begin = br#"{"type":"content_block_delta","index":"#;
            let data = [begin, index, br#","delta":{"type":"text_delta","text":"#, text, b"}}"].concat();
            (Some("content_block_delta"), data)
        }
        Protocol::Cohere if root.get("event_type").is_some() => {
            (None, [br#"{"is_finished":false,"event_type":"text-generation","text":"#, text, b"}"].concat())
        }
        Protocol::Cohere => {
            let begin = br#"{"type":"content-delta","index":"#;
            let data = [begin, index, br#","delta":{"message":{"content":{"text":"#, text, b"}}}}"].concat();
            (Some("content-delta"), data)
        }
        // These say one thing an event: the last piece's is the frame.
        Protocol::Responses | Protocol::Ollama => {
            let mut edits = TextEdits::default();
            for (_, piece) in text_fields::of_event(protocol, root).pieces {
                edits.replace(piece.range(), text.to_vec());
            }
            if let Some(probabilities) = root.get("logprobs") {
                edits.replace(probabilities.range(), b"[]".to_vec());
            }
            let name = (protocol == Protocol::Responses).then_some("response.output_text.delta");
            (name, edits.apply(like))
        }
    }
}

/// An object's opening and its members but these, each with a comma behind it.
fn members_but(root: JsonCursor<'_>, left_out: &[&str]) -> Vec<u8> {
    let mut out = b"{".to_vec();
    for member in root.members().filter(|member| !left_out.iter().any(|name| member.key.eq_str(name))) {
        out.extend_from_slice(member.key.text().as_bytes());
        out.push(b':');
        out.extend_from_slice(member.value.text().as_bytes());
        out.push(b',');
    }
    out
}
