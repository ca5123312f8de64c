//! What is changed in an answer between the cache and this caller? Entries hold what the upstream said.
//!
//! Thoughts between tags are left out, embeddings are given in the encoding that was asked for, and a list of models is
//! given those that exist here only. Where none of these is wanted there is nothing to do, and the answer's bytes never
//! come here.
//!
//! Whatever is not meant keeps its bytes: an event or object without a change passes as it is, and in one with a change
//! only the strings that change are spelled anew.

mod embeddings;
mod model_list;
mod splitter;
mod stream;
mod tag_filter;
mod text_fields;

pub use tag_filter::TagFilter;

use crate::config::think_tags::ThinkTags;

use crate::cache::entry::EntryHead;
use crate::http::fields;
use crate::http::media_type;
use crate::json::{JsonCursor, TextEdits, to_json_string};
use crate::protocol::Protocol;
use crate::routing::endpoint::Endpoint;
use http::{HeaderMap, StatusCode};
use serde::de::IgnoredAny;
use splitter::SplitAt;
use stream::StreamFilter;

/// What the answers to one request need.
#[derive(Debug, Clone, Default)]
pub struct ResponseTransform(Option<Rule>);

#[derive(Debug, Clone)]
enum Rule {
    /// Thoughts are left out.
    Think { protocol: Protocol, array: bool, tags: ThinkTags },
    /// Embeddings that come as numbers go out as base64.
    Base64,
    /// These models are added to a list of models.
    Models(Vec<String>),
}

impl ResponseTransform {
    /// Thoughts between these tags are left out, where it is known which part of an answer is its text.
    pub fn think(endpoint: Endpoint, tags: Option<ThinkTags>) -> ResponseTransform {
        let array = endpoint == Endpoint::StreamGenerateContent;
        ResponseTransform(Protocol::of(endpoint).zip(tags).map(|(protocol, tags)| Rule::Think {
            protocol,
            array,
            tags,
        }))
    }

    /// Embeddings that come as numbers go out as base64.
    pub fn base64() -> ResponseTransform {
        ResponseTransform(Some(Rule::Base64))
    }

    /// These models are added to a list of models.
    pub fn models(names: Vec<String>) -> ResponseTransform {
        ResponseTransform((!names.is_empty()).then_some(Rule::Models(names)))
    }

    /// Whether there is nothing to do.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Begins with an upstream's answer. `max_bytes`: the longest object or event that is looked at. `None`: its bytes
    /// go on as they are.
    pub fn open(&self, status: StatusCode, response: &HeaderMap, max_bytes: usize) -> Option<BodyTransform> {
        // The platform decodes these two alone.
        let coding = fields::joined_lowercase(response, http::header::CONTENT_ENCODING);
        let legible = matches!(coding.as_str(), "" | "identity" | "gzip" | "br");
        if legible { self.begin(status.as_u16(), &media_type::essence(response), max_bytes) } else { None }
    }

    /// A stored answer's body, in this form, for the caller. `kind`: its content type where it is not the stored one.
    pub fn stored(&self, head: &EntryHead, kind: Option<&str>, body: Vec<u8>) -> Vec<u8> {
        let stored = head.headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value.as_str());
        match self.begin(head.status, kind.or(stored).unwrap_or_default(), usize::MAX) {
            Some(body_transform) => body_transform.all(&body),
            None => body,
        }
    }

    fn begin(&self, status: u16, content_type: &str, max_bytes: usize) -> Option<BodyTransform> {
        let rule = self.0.as_ref().filter(|_| (200..300).contains(&status))?;
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let work = match (rule, essence.as_str()) {
            (Rule::Think { protocol: Protocol::Ollama, tags, .. }, "application/x-ndjson") => {
                Mode::Stream(Box::new(StreamFilter::new(Protocol::Ollama, SplitAt::Lines, tags.clone(), max_bytes)))
            }
            (Rule::Think { protocol, tags, .. }, "text/event-stream") => {
                Mode::Stream(Box::new(StreamFilter::new(*protocol, SplitAt::Events, tags.clone(), max_bytes)))
            }
            (Rule::Think { protocol, array: true, tags }, essence) if media_type::is_json(essence) => {
                Mode::Stream(Box::new(StreamFilter::new(*protocol, SplitAt::Items, tags.clone(), max_bytes)))
            }
            (rule, essence) if media_type::is_json(essence) => {
                Mode::Whole { rule: rule.clone(), body: Vec::new(), max_bytes }
            }
            _ => return None,
        };
        Some(BodyTransform(work))
    }
}

/// An answer on its way through. Bytes go in as they come and come out as soon as it is clear what they are.
#[derive(Debug)]
pub struct BodyTransform(Mode);

#[derive(Debug)]
enum Mode {
    Stream(Box<StreamFilter>),
    /// An object is looked at once it is whole.
    Whole {
        rule: Rule,
        body: Vec<u8>,
        max_bytes: usize,
    },
    /// It is too long to be looked at.
    PassThrough,
}

impl BodyTransform {
    /// Takes the next bytes; gives what can go out.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        match &mut self.0 {
            Mode::Stream(filter) => filter.push(piece),
            Mode::Whole { body, max_bytes, .. } => {
                body.extend_from_slice(piece);
                if body.len() <= *max_bytes {
                    return Vec::new();
                }
                let body = std::mem::take(body);
                self.0 = Mode::PassThrough;
                body
            }
            Mode::PassThrough => piece.to_vec(),
        }
    }

    /// The answer has ended; gives the rest of it.
    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            Mode::Stream(filter) => filter.finish(),
            Mode::Whole { rule, body, .. } => transformed(&rule, &body).unwrap_or(body),
            Mode::PassThrough => Vec::new(),
        }
    }

    /// A whole answer.
    fn all(mut self, body: &[u8]) -> Vec<u8> {
        let mut out = self.push(body);
        out.extend(self.finish());
        out
    }
}

/// A JSON answer with its change. `None`: there is none, or it is no JSON.
fn transformed(rule: &Rule, body: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let root = JsonCursor::root(text);
    let edits = match rule {
        Rule::Think { protocol, tags, .. } => without_reasoning(*protocol, tags, root),
        Rule::Base64 => embeddings::encoded(root)?,
        Rule::Models(names) => model_list::added(root, names)?,
    };
    (!edits.is_empty()).then(|| edits.apply(text))
}

fn without_reasoning(protocol: Protocol, tags: &ThinkTags, root: JsonCursor<'_>) -> TextEdits {
    let mut edits = TextEdits::default();
    for value in text_fields::whole_texts(protocol, root) {
        strip(value, tags, &mut edits);
    }
    edits
}

/// Leaves the thoughts out of a text that is whole.
fn strip(value: JsonCursor<'_>, tags: &ThinkTags, edits: &mut TextEdits) {
    let Some(text) = value.string() else {
        return;
    };
    let mut filter = TagFilter::new(tags.clone());
    let mut kept = filter.push(&text);
    kept.extend(filter.finish());
    if kept != text {
        edits.replace(value.range(), to_json_string(&kept));
    }
}
