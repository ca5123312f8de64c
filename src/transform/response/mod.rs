//! The operator's changes to a response, applied after the cache. Entries hold what the upstream sent.
//!
//! Reasoning between think tags is removed, float embeddings are encoded as base64 where the client requested that, and
//! pseudo-models are added to lists of models. Without such a transform, a response's bytes do not pass through here.
//!
//! An event or object without a change keeps its bytes. In a changed one, only the changed strings are written anew.

mod embeddings;
mod model_list;
mod splitter;
mod stream;
mod tag_filter;
mod text_fields;
mod usage;

pub use tag_filter::TagFilter;

use crate::config::think_tags::ThinkTags;

use crate::cache::entry::EntryHead;
use crate::http::fields;
use crate::http::media_type;
use crate::json::{JsonCursor, TextEdits, to_json_string};
use crate::protocol::Protocol;
use crate::protocol::usage::zeroed;
use crate::routing::endpoint::Endpoint;
use http::{HeaderMap, StatusCode};
use serde::de::IgnoredAny;
use splitter::SplitAt;
use stream::StreamFilter;
use usage::UsageFilter;

/// The transform of the responses to one request.
#[derive(Debug, Clone, Default)]
pub struct ResponseTransform {
    rule: Option<Rule>,
    /// The counters in a hit's usage become 0.
    zero_usage: bool,
}

#[derive(Debug, Clone)]
enum Rule {
    /// Reasoning between tags is removed.
    Think { protocol: Protocol, array: bool, tags: ThinkTags },
    /// Float embeddings are encoded as base64.
    Base64,
    /// Pseudo-models are added to a list of models.
    Models(Vec<String>),
}

impl ResponseTransform {
    /// Removes reasoning between these tags, if the endpoint's protocol is known.
    pub fn think(endpoint: Endpoint, tags: Option<ThinkTags>) -> ResponseTransform {
        let array = endpoint == Endpoint::StreamGenerateContent;
        let rule = |(protocol, tags)| Rule::Think { protocol, array, tags };
        Protocol::of(endpoint).zip(tags).map(rule).into()
    }

    /// Float embeddings are encoded as base64.
    pub fn base64() -> ResponseTransform {
        Some(Rule::Base64).into()
    }

    /// Adds these models to a list of models.
    pub fn models(names: Vec<String>) -> ResponseTransform {
        (!names.is_empty()).then_some(Rule::Models(names)).into()
    }

    /// The same, and the counters in a hit's usage become 0.
    pub fn zeroing_usage(self, zero_usage: bool) -> ResponseTransform {
        ResponseTransform { zero_usage, ..self }
    }

    /// Whether the upstream's responses stay as they are.
    pub fn is_none(&self) -> bool {
        self.rule.is_none()
    }

    /// Whether stored responses stay as they are.
    pub fn keeps_stored(&self) -> bool {
        self.is_none() && !self.zero_usage
    }

    /// Begins the transform of an upstream response. `max_bytes`: longer objects and events stay as they are. `None`: the whole
    /// body stays as it is. `takes_out_usage`: it is a stream with usage that the client did not request.
    pub fn open(
        &self,
        status: StatusCode,
        response: &HeaderMap,
        max_bytes: usize,
        takes_out_usage: bool,
    ) -> Option<BodyTransform> {
        // The Workers runtime decodes only these two.
        let coding = fields::joined_lowercase(response, http::header::CONTENT_ENCODING);
        if !matches!(coding.as_str(), "" | "identity" | "gzip" | "br") {
            return None;
        }
        let transform = self.begin(status.as_u16(), &media_type::essence(response), max_bytes);
        if !takes_out_usage {
            return transform;
        }
        let mode = transform.map_or(Mode::PassThrough, |transform| transform.mode);
        Some(BodyTransform { usage: Some(Box::new(UsageFilter::new(max_bytes))), mode })
    }

    /// The body of a stored response, transformed. `content_type`: of the converted body, if the stored one was converted.
    /// `is_hit`: it was stored before the request came.
    pub fn stored(&self, head: &EntryHead, content_type: Option<&str>, body: Vec<u8>, is_hit: bool) -> Vec<u8> {
        let stored = head.headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value.as_str());
        let content_type = content_type.or(stored).unwrap_or_default();
        let body = match self.begin(head.status, content_type, usize::MAX) {
            Some(body_transform) => body_transform.all(&body),
            None => body,
        };
        let zeroed = || zeroed(&body, &essence_of(content_type));
        if self.zero_usage && is_hit { zeroed().unwrap_or(body) } else { body }
    }

    fn begin(&self, status: u16, content_type: &str, max_bytes: usize) -> Option<BodyTransform> {
        let rule = self.rule.as_ref().filter(|_| (200..300).contains(&status))?;
        let essence = essence_of(content_type);
        let mode = match (rule, essence.as_str()) {
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
        Some(BodyTransform { usage: None, mode })
    }
}

impl From<Option<Rule>> for ResponseTransform {
    fn from(rule: Option<Rule>) -> ResponseTransform {
        ResponseTransform { rule, zero_usage: false }
    }
}

/// A media type without its parameters.
fn essence_of(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The transform of one body. Bytes go in as they arrive, and come out as soon as it is known that they stay.
#[derive(Debug)]
pub struct BodyTransform {
    /// Comes first.
    usage: Option<Box<UsageFilter>>,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Stream(Box<StreamFilter>),
    /// An object is transformed once it is complete.
    Whole {
        rule: Rule,
        body: Vec<u8>,
        max_bytes: usize,
    },
    /// The object is too long.
    PassThrough,
}

impl BodyTransform {
    /// Takes the next chunk; returns the bytes that can be sent.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        match &mut self.usage {
            Some(filter) => self.mode.push(&filter.push(chunk)),
            None => self.mode.push(chunk),
        }
    }

    /// The body has ended; returns the rest of it.
    pub fn finish(mut self) -> Vec<u8> {
        let mut out = self.usage.map(|filter| self.mode.push(&filter.finish())).unwrap_or_default();
        out.extend(self.mode.finish());
        out
    }

    /// Transforms a complete body.
    fn all(mut self, body: &[u8]) -> Vec<u8> {
        let mut out = self.push(body);
        out.extend(self.finish());
        out
    }
}

impl Mode {
    fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        match self {
            Mode::Stream(filter) => filter.push(chunk),
            Mode::Whole { body, max_bytes, .. } => {
                body.extend_from_slice(chunk);
                if body.len() <= *max_bytes {
                    return Vec::new();
                }
                let body = std::mem::take(body);
                *self = Mode::PassThrough;
                body
            }
            Mode::PassThrough => chunk.to_vec(),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Mode::Stream(filter) => filter.finish(),
            Mode::Whole { rule, body, .. } => transformed(&rule, &body).unwrap_or(body),
            Mode::PassThrough => Vec::new(),
        }
    }
}

/// A changed JSON body. `None`: nothing changes, or it is not JSON.
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

/// Removes reasoning from a complete text.
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
