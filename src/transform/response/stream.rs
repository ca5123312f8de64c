//! Thoughts left out of a stream, event by event.

use super::splitter::{Block, Cut, Piece, Segmenter};
use super::strip;
use super::tag_filter::TagFilter;
use super::text_fields::{self, End, Place};
use crate::config::think_tags::Tags;
use crate::json::{Edits, Json, quoted};
use crate::protocol::Dialect;
use serde::de::IgnoredAny;

/// A filter for one stream.
#[derive(Debug)]
pub(super) struct StreamFilter {
    segmenter: Segmenter,
    texts: Texts,
}

/// The texts that have begun.
#[derive(Debug)]
struct Texts {
    dialect: Dialect,
    cut: Cut,
    tags: Tags,
    open: Vec<Text>,
}

#[derive(Debug)]
struct Text {
    place: Place,
    filter: TagFilter,
    /// The last event with a piece of it: what an event of our own is made like.
    last: String,
}

impl StreamFilter {
    pub(super) fn new(dialect: Dialect, cut: Cut, tags: Tags, max_bytes: usize) -> StreamFilter {
        let texts = Texts { dialect, cut, tags, open: Vec::new() };
        StreamFilter { segmenter: Segmenter::new(cut, max_bytes), texts }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let texts = &mut self.texts;
        self.segmenter.push(bytes, &mut |piece| texts.take(piece, &mut out));
        out
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let texts = &mut self.texts;
        self.segmenter.finish(&mut |piece| texts.take(piece, &mut out));
        // A stream that ends without saying so loses nothing either. (After an array's end nothing can follow.)
        if texts.cut != Cut::Items {
            texts.give_back(End::All, &mut out);
        }
        out
    }
}

impl Texts {
    fn take(&mut self, piece: Piece, out: &mut Vec<u8>) {
        match piece {
            Piece::Raw(bytes) => out.extend(bytes),
            Piece::Event(block) => self.event(&block, out),
            Piece::Close => {
                let mut rest = Vec::new();
                self.give_back(End::All, &mut rest);
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
            self.give_back(End::All, out);
        }
        if serde_json::from_str::<IgnoredAny>(&data).is_err() {
            out.extend(block.raw());
            return;
        }
        let seen = text_fields::of_event(self.dialect, Json::root(&data));
        let mut pieces: Vec<(Place, Json<'_>, Vec<u8>)> = Vec::new();
        for (place, piece) in seen.pieces {
            let kept = self.filtered(place, &data, &piece.string().unwrap_or_default());
            pieces.push((place, piece, kept));
        }
        for end in seen.ends {
            for text in self.ended(end) {
                let (place, rest) = (text.place, text.filter.finish());
                // An event that says something and ends can say the rest too.
                match pieces.iter_mut().rfind(|(of, ..)| *of == place) {
                    Some((.., kept)) => kept.extend(rest),
                    None if rest.is_empty() => {}
                    None => self.say(place, &text.last, &rest, out),
                }
            }
        }
        let mut edits = Edits::default();
        for (_, piece, kept) in pieces {
            if piece.string().as_deref() != Some(&kept) {
                edits.replace(piece.range(), quoted(&kept));
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
    fn filtered(&mut self, place: Place, event: &str, piece: &[u8]) -> Vec<u8> {
        if !self.open.iter().any(|text| text.place == place) {
            self.open.push(Text { place, filter: TagFilter::new(self.tags.clone()), last: String::new() });
        }
        match self.open.iter_mut().find(|text| text.place == place) {
            Some(text) => {
                event.clone_into(&mut text.last);
                text.filter.push(piece)
            }
            None => piece.to_vec(),
        }
    }

    fn ended(&mut self, end: End) -> Vec<Text> {
        let (ended, open) = std::mem::take(&mut self.open).into_iter().partition(|text| end.is_of(text.place));
        self.open = open;
        ended
    }

    /// Writes what is held of these texts in events of our own.
    fn give_back(&mut self, end: End, out: &mut Vec<u8>) {
        for text in self.ended(end) {
            let rest = text.filter.finish();
            if !rest.is_empty() {
                self.say(text.place, &text.last, &rest, out);
            }
        }
    }

    /// Writes an event that says `text` at this place.
    fn say(&self, place: Place, like: &str, text: &[u8], out: &mut Vec<u8>) {
        let (name, data) = event_like(self.dialect, place, Json::root(like), like, &quoted(text));
        match self.cut {
            Cut::Events => {
                if let Some(name) = name {
                    out.extend(format!("event: {name}\n").bytes());
                }
                out.extend_from_slice(b"data: ");
                out.extend(data);
                out.extend_from_slice(b"\n\n");
            }
            Cut::Lines => {
                out.extend(data);
                out.push(b'\n');
            }
            Cut::Items => {
                out.extend(data);
                out.push(b',');
            }
        }
    }
}

/// An event of a stream (its name, its data) that says `text`, a JSON string, and nothing else, made like `like`.
fn event_like(
    dialect: Dialect,
    place: Place,
    root: Json<'_>,
    like: &str,
    text: &[u8],
) -> (Option<&'static str>, Vec<u8>) {
    let index = place.0.to_string();
    let index = index.as_bytes();
    match dialect {
        Dialect::Chat | Dialect::Completions => {
            let around = members_but(root, &["choices", "usage", "obfuscation", "p"]);
            let said: [&[u8]; 3] =
                if place.1 == 0 { [br#""delta":{"content":"#, text, b"}"] } else { [br#""text":"#, text, b""] };
            let choice =
                [br#""choices":[{"index":"#, index, b",", &said.concat(), br#","finish_reason":null}]}"#].concat();
            (None, [&around, choice.as_slice()].concat())
        }
        Dialect::Google => {
            let around = members_but(root, &["candidates", "usageMetadata"]);
            let begin = br#""candidates":[{"content":{"parts":[{"text":"#;
            (None, [&around, begin.as_slice(), text, br#"}],"role":"model"},"index":"#, index, b"}]}"].concat())
        }
        Dialect::Anthropic => {
            let begin = br#"{"type":"content_block_delta","index":"#;
            let data = [begin, index, br#","delta":{"type":"text_delta","text":"#, text, b"}}"].concat();
            (Some("content_block_delta"), data)
        }
        Dialect::Cohere if root.get("event_type").is_some() => {
            (None, [br#"{"is_finished":false,"event_type":"text-generation","text":"#, text, b"}"].concat())
        }
        Dialect::Cohere => {
            let begin = br#"{"type":"content-delta","index":"#;
            let data = [begin, index, br#","delta":{"message":{"content":{"text":"#, text, b"}}}}"].concat();
            (Some("content-delta"), data)
        }
        // These say one thing an event: the last piece's is the frame.
        Dialect::Responses | Dialect::Ollama => {
            let mut edits = Edits::default();
            for (_, piece) in text_fields::of_event(dialect, root).pieces {
                edits.replace(piece.range(), text.to_vec());
            }
            if let Some(probabilities) = root.get("logprobs") {
                edits.replace(probabilities.range(), b"[]".to_vec());
            }
            let name = (dialect == Dialect::Responses).then_some("response.output_text.delta");
            (name, edits.apply(like))
        }
    }
}

/// An object's opening and its members but these, each with a comma behind it.
fn members_but(root: Json<'_>, left_out: &[&str]) -> Vec<u8> {
    let mut out = b"{".to_vec();
    for member in root.members().filter(|member| !left_out.iter().any(|name| member.key.is(name))) {
        out.extend_from_slice(member.key.text().as_bytes());
        out.push(b':');
        out.extend_from_slice(member.value.text().as_bytes());
        out.push(b',');
    }
    out
}
