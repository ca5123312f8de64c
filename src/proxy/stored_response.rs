//! A stored answer on its way to a caller.

use crate::cache::entry;
use crate::cache::representation::{self, Representation};
use crate::protocol::ResponseMode;
use crate::proxy::reply;
use crate::routing::endpoint::Endpoint;
use crate::status::CacheStatus;
use crate::telemetry::exchange_log::LogFields;
use crate::transform::response::ResponseTransform;

/// An entry, and the form in which it answers its caller.
#[derive(Debug)]
pub(super) struct StoredResponse {
    head: entry::EntryHead,
    representation: Representation,
    wanted: ResponseMode,
    response_transform: ResponseTransform,
}

/// The head of an answer out of the store.
#[derive(Debug)]
pub struct CachedResponse {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: Vec<(String, String)>,
    /// The body; `None`: the stored one, verbatim.
    pub body: Option<Vec<u8>>,
    /// For the log.
    pub log_fields: LogFields,
}

impl StoredResponse {
    /// The form in which an entry answers. `None`: in none.
    pub fn new(endpoint: Endpoint, head: &entry::EntryHead, wanted: ResponseMode, response_transform: &ResponseTransform) -> Option<StoredResponse> {
        let representation = representation::representation(endpoint, head, wanted)?;
        Some(StoredResponse { head: head.clone(), representation, wanted, response_transform: response_transform.clone() })
    }

    /// What is left of the entry's lifetime: see [`entry::EntryHead::ttl`].
    pub fn ttl(&self, now: u64) -> Option<i64> {
        self.head.ttl(now)
    }

    /// Whether the stored body goes out as it is, unread.
    pub fn is_verbatim(&self) -> bool {
        self.representation == Representation::Verbatim && self.response_transform.is_none()
    }

    /// The answer at `now` (milliseconds since 1970), with the facts of its request and the stored `body`, which is not
    /// looked at where it goes out as it is. `None`: that body cannot be given in this form; the facts are as they were.
    pub fn replay(&self, cache_status: CacheStatus, log_fields: &mut LogFields, now: u64, body: &[u8]) -> Option<CachedResponse> {
        let (kind, body) = match self.representation {
            Representation::Verbatim if self.response_transform.is_none() => (None, None),
            representation => {
                let (kind, body) = representation::render(representation, body, self.wanted)?;
                (kind, Some(self.response_transform.stored(&self.head, kind, body)))
            }
        };
        log_fields.record(self.head.status, &cache_status);
        Some(CachedResponse {
            status: self.head.status,
            headers: reply::hit(&self.head, body.is_some(), kind, &cache_status, now),
            body,
            log_fields: std::mem::take(log_fields),
        })
    }
}
