//! Removes reasoning from a stream, event by event.

use super::splitter::{RawEvent, Segment, SplitAt, Splitter};
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
    texts: OpenTexts,
}

/// The texts that have begun and not ended.
#[derive(Debug)]
struct OpenTexts {
    protocol: Protocol,
    split_at: SplitAt,
    tags: ThinkTags,
    open: Vec<OpenText>,
}

#[derive(Debug)]
struct OpenText {
    position: TextPosition,
    filter: TagFilter,
    /// The last event with a delta of this text, as the template of an extra event.
    template: String,
}

impl StreamFilter {
    pub(super) fn new(protocol: Protocol, split_at: SplitAt, tags: ThinkTags, max_bytes: usize) -> StreamFilter {
        let texts = OpenTexts { protocol, split_at, tags, open: Vec::new() };
        StreamFilter { splitter: Splitter::new(split_at, max_bytes), texts }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let texts = &mut self.texts;
        self.splitter.push(bytes, &mut |segment| texts.segment(segment, &mut out));
        out
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let texts = &mut self.texts;
        self.splitter.finish(&mut |segment| texts.segment(segment, &mut out));
        // A stream without a terminal event loses nothing either. (After the end of an array, nothing may follow.)
        if texts.split_at != SplitAt::Items {
            texts.flush(End::All, &mut out);
        }
        out
    }
}

impl OpenTexts {
    fn segment(&mut self, segment: Segment, out: &mut Vec<u8>) {
        match segment {
            Segment::Raw(bytes) => out.extend(bytes),
            Segment::Event(event) => self.event(&event, out),
            Segment::Close => {
                let mut rest = Vec::new();
                self.flush(End::All, &mut rest);
                // Extra items end in a comma. Behind the last item, the comma belongs before them.
                if rest.pop().is_some() {
                    out.push(b',');
                    out.extend(rest);
                }
            }
        }
    }

    fn event(&mut self, raw: &RawEvent, out: &mut Vec<u8>) {
        let data = raw.data();
        if data.trim() == "[DONE]" {
            self.flush(End::All, out);
        }
        if serde_json::from_str::<IgnoredAny>(&data).is_err() {
            out.extend(raw.bytes());
            return;
        }
        let event = text_fields::of_event(self.protocol, JsonCursor::root(&data));
        let mut deltas: Vec<(TextPosition, JsonCursor<'_>, Vec<u8>)> = Vec::new();
        for (position, delta) in event.deltas {
            let filtered = self.filtered(position, &data, &delta.string().unwrap_or_default());
            deltas.push((position, delta, filtered));
        }
        for end in event.ends {
            for text in self.ended(end) {
                let (position, rest) = (text.position, text.filter.finish());
                // If the event that ends a text has a delta of it, the rest goes into that.
                match deltas.iter_mut().rfind(|(of, ..)| *of == position) {
                    Some((.., filtered)) => filtered.extend(rest),
                    None if rest.is_empty() => {}
                    None => self.emit_text(position, &text.template, &rest, out),
                }
            }
        }
        let mut edits = TextEdits::default();
        for (_, delta, filtered) in deltas {
            if delta.string().as_deref() != Some(&filtered) {
                edits.replace(delta.range(), to_json_string(&filtered));
            }
        }
        for whole in event.wholes {
            strip(whole, &self.tags, &mut edits);
        }
        if edits.is_empty() {
            out.extend(raw.bytes());
        } else {
            out.extend(raw.with_data(&edits.apply(&data)));
        }
    }

    /// The part of a text that can be sent after its next delta. The text may begin with it. `event`: the event's data.
    fn filtered(&mut self, position: TextPosition, event: &str, delta: &[u8]) -> Vec<u8> {
        if !self.open.iter().any(|text| text.position == position) {
            self.open.push(OpenText { position, filter: TagFilter::new(self.tags.clone()), template: String::new() });
        }
        match self.open.iter_mut().find(|text| text.position == position) {
            Some(text) => {
                event.clone_into(&mut text.template);
                text.filter.push(delta)
            }
            None => delta.to_vec(),
        }
    }

    /// Removes the texts that have ended.
    fn ended(&mut self, end: End) -> Vec<OpenText> {
        let (ended, open) = std::mem::take(&mut self.open).into_iter().partition(|text| end.is_of(text.position));
        self.open = open;
        ended
    }

    /// Sends what is held of these texts, in extra events.
    fn flush(&mut self, end: End, out: &mut Vec<u8>) {
        for text in self.ended(end) {
            let rest = text.filter.finish();
            if !rest.is_empty() {
                self.emit_text(text.position, &text.template, &rest, out);
            }
        }
    }

    /// Sends an extra event with a delta of the text at this position, made after `template`.
    fn emit_text(&self, position: TextPosition, template: &str, text: &[u8], out: &mut Vec<u8>) {
        let (name, data) =
            event_with(self.protocol, position, JsonCursor::root(template), template, &to_json_string(text));
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

/// The name and the data of an event that has nothing but a delta, the JSON string `text`. It is made after `template`.
fn event_with(
    protocol: Protocol,
    position: TextPosition,
    root: JsonCursor<'_>,
    template: &str,
    text: &[u8],
) -> (Option<&'static str>, Vec<u8>) {
    let index = position.0.to_string();
    let index = index.as_bytes();
    match protocol {
        Protocol::Chat | Protocol::Completions => {
            let around = members_except(root, &["choices", "usage", "obfuscation", "p"]);
            let delta: [&[u8]; 3] =
                if position.1 == 0 { [br#""delta":{"content":"#, text, b"}"] } else { [br#""text":"#, text, b""] };
            let choice =
                [br#""choices":[{"index":"#, index, b",", &delta.concat(), br#","finish_reason":null}]}"#].concat();
            (None, [&around, choice.as_slice()].concat())
        }
        Protocol::Google => {
            let around = members_except(root, &["candidates", "usageMetadata"]);
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
        // These have one delta per event, so it can be replaced in the template.
        Protocol::Responses | Protocol::Ollama => {
            let mut edits = TextEdits::default();
            for (_, delta) in text_fields::of_event(protocol, root).deltas {
                edits.replace(delta.range(), text.to_vec());
            }
            if let Some(probabilities) = root.get("logprobs") {
                edits.replace(probabilities.range(), b"[]".to_vec());
            }
            let name = (protocol == Protocol::Responses).then_some("response.output_text.delta");
            (name, edits.apply(template))
        }
    }
}

/// `{` and the members except these, each followed by a comma.
fn members_except(root: JsonCursor<'_>, excluded: &[&str]) -> Vec<u8> {
    let mut out = b"{".to_vec();
    for member in root.members().filter(|member| !excluded.iter().any(|name| member.key.eq_str(name))) {
        out.extend_from_slice(member.key.text().as_bytes());
        out.push(b':');
        out.extend_from_slice(member.value.text().as_bytes());
        out.push(b',');
    }
    out
}
