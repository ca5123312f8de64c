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

use crate::config::think_tags::Tags;

use crate::cache::entry::Head;
use crate::http::fields;
use crate::http::media_type;
use crate::json::{Edits, Json, quoted};
use crate::protocol::Dialect;
use crate::routing::endpoint::Endpoint;
use http::{HeaderMap, StatusCode};
use serde::de::IgnoredAny;
use splitter::Cut;
use stream::StreamFilter;

/// What the answers to one request need.
#[derive(Debug, Clone, Default)]
pub struct Polish(Option<Task>);

#[derive(Debug, Clone)]
enum Task {
    /// Thoughts are left out.
    Think { dialect: Dialect, array: bool, tags: Tags },
    /// Embeddings that come as numbers go out as base64.
    Base64,
    /// These models are added to a list of models.
    Models(Vec<String>),
}

impl Polish {
    /// Thoughts between these tags are left out, where it is known which part of an answer is its text.
    pub fn think(endpoint: Endpoint, tags: Option<Tags>) -> Polish {
        let array = endpoint == Endpoint::StreamGenerateContent;
        Polish(Dialect::of(endpoint).zip(tags).map(|(dialect, tags)| Task::Think { dialect, array, tags }))
    }

    /// Embeddings that come as numbers go out as base64.
    pub fn base64() -> Polish {
        Polish(Some(Task::Base64))
    }

    /// These models are added to a list of models.
    pub fn models(names: Vec<String>) -> Polish {
        Polish((!names.is_empty()).then_some(Task::Models(names)))
    }

    /// Whether there is nothing to do.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Begins with an upstream's answer. `max_bytes`: the longest object or event that is looked at. `None`: its bytes
    /// go on as they are.
    pub fn open(&self, status: StatusCode, response: &HeaderMap, max_bytes: usize) -> Option<Polisher> {
        // The platform decodes these two alone.
        let coding = fields::text(response, http::header::CONTENT_ENCODING);
        let legible = matches!(coding.as_str(), "" | "identity" | "gzip" | "br");
        if legible { self.begin(status.as_u16(), &media_type::essence(response), max_bytes) } else { None }
    }

    /// A stored answer's body, in this form, for the caller. `kind`: its content type where it is not the stored one.
    pub fn stored(&self, head: &Head, kind: Option<&str>, body: Vec<u8>) -> Vec<u8> {
        let stored = head.headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value.as_str());
        match self.begin(head.status, kind.or(stored).unwrap_or_default(), usize::MAX) {
            Some(polisher) => polisher.all(&body),
            None => body,
        }
    }

    fn begin(&self, status: u16, content_type: &str, max_bytes: usize) -> Option<Polisher> {
        let task = self.0.as_ref().filter(|_| (200..300).contains(&status))?;
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let work = match (task, essence.as_str()) {
            (Task::Think { dialect: Dialect::Ollama, tags, .. }, "application/x-ndjson") => {
                Work::Stream(Box::new(StreamFilter::new(Dialect::Ollama, Cut::Lines, tags.clone(), max_bytes)))
            }
            (Task::Think { dialect, tags, .. }, "text/event-stream") => {
                Work::Stream(Box::new(StreamFilter::new(*dialect, Cut::Events, tags.clone(), max_bytes)))
            }
            (Task::Think { dialect, array: true, tags }, essence) if media_type::is_json(essence) => {
                Work::Stream(Box::new(StreamFilter::new(*dialect, Cut::Items, tags.clone(), max_bytes)))
            }
            (task, essence) if media_type::is_json(essence) => {
                Work::Whole { task: task.clone(), body: Vec::new(), max_bytes }
            }
            _ => return None,
        };
        Some(Polisher(work))
    }
}

/// An answer on its way through. Bytes go in as they come and come out as soon as it is clear what they are.
#[derive(Debug)]
pub struct Polisher(Work);

#[derive(Debug)]
enum Work {
    Stream(Box<StreamFilter>),
    /// An object is looked at once it is whole.
    Whole {
        task: Task,
        body: Vec<u8>,
        max_bytes: usize,
    },
    /// It is too long to be looked at.
    Passing,
}

impl Polisher {
    /// Takes the next bytes; gives what can go out.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        match &mut self.0 {
            Work::Stream(filter) => filter.push(piece),
            Work::Whole { body, max_bytes, .. } => {
                body.extend_from_slice(piece);
                if body.len() <= *max_bytes {
                    return Vec::new();
                }
                let body = std::mem::take(body);
                self.0 = Work::Passing;
                body
            }
            Work::Passing => piece.to_vec(),
        }
    }

    /// The answer has ended; gives the rest of it.
    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            Work::Stream(filter) => filter.finish(),
            Work::Whole { task, body, .. } => polished(&task, &body).unwrap_or(body),
            Work::Passing => Vec::new(),
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
fn polished(task: &Task, body: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let root = Json::root(text);
    let edits = match task {
        Task::Think { dialect, tags, .. } => without_thoughts(*dialect, tags, root),
        Task::Base64 => embeddings::encoded(root)?,
        Task::Models(names) => model_list::added(root, names)?,
    };
    (!edits.is_empty()).then(|| edits.apply(text))
}

fn without_thoughts(dialect: Dialect, tags: &Tags, root: Json<'_>) -> Edits {
    let mut edits = Edits::default();
    for value in text_fields::whole_texts(dialect, root) {
        strip(value, tags, &mut edits);
    }
    edits
}

/// Leaves the thoughts out of a text that is whole.
fn strip(value: Json<'_>, tags: &Tags, edits: &mut Edits) {
    let Some(text) = value.string() else {
        return;
    };
    let mut filter = TagFilter::new(tags.clone());
    let mut kept = filter.push(&text);
    kept.extend(filter.finish());
    if kept != text {
        edits.replace(value.range(), quoted(&kept));
    }
}
