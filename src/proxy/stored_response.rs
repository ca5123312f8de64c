//! A stored response on its way to a client.

use super::reply::{self, CachedResponse};
use crate::cache::dialects::ReplyFields;
use crate::cache::entry::EntryHead;
use crate::cache::representation::{self, Representation};
use crate::protocol::ResponseMode;
use crate::routing::endpoint::Endpoint;
use crate::status::{CacheOutcome, CacheStatus};
use crate::telemetry::exchange_log::{EntryTimes, LogFields, Saved};
use crate::transform::response::ResponseTransform;

/// An entry, and the representation that its client gets.
#[derive(Debug)]
pub struct StoredResponse {
    head: EntryHead,
    representation: Representation,
    response_mode: ResponseMode,
    transform: ResponseTransform,
    fields: ReplyFields,
}

impl StoredResponse {
    /// The stored response for a client that wants it in this mode. `None`: it cannot be given in it.
    pub fn new(
        endpoint: Endpoint,
        head: &EntryHead,
        response_mode: ResponseMode,
        transform: &ResponseTransform,
        fields: ReplyFields,
    ) -> Option<StoredResponse> {
        let representation = representation::representation(endpoint, head, response_mode)?;
        Some(StoredResponse { head: head.clone(), representation, response_mode, transform: transform.clone(), fields })
    }

    /// The seconds of freshness left: see [`EntryHead::ttl`].
    pub fn ttl(&self, now: u64) -> Option<i64> {
        self.head.ttl(now)
    }

    /// Whether the stored body is served verbatim, unread.
    pub fn is_verbatim(&self) -> bool {
        self.representation == Representation::Verbatim && self.transform.keeps_stored()
    }

    /// The response at `now` (milliseconds since 1970), recorded in `log`. `body`: the stored body, which is not read if it is
    /// served verbatim. `None`: that body cannot be converted, and nothing is recorded.
    pub fn serve(&self, status: CacheStatus, log: &mut LogFields, now: u64, body: &[u8]) -> Option<CachedResponse> {
        let (content_type, body) = match self.representation {
            Representation::Verbatim if self.transform.keeps_stored() => (None, None),
            representation => {
                let (content_type, body) = representation::render(representation, body, self.response_mode)?;
                // What was coalesced was charged a moment ago.
                let is_hit = status.outcome != CacheOutcome::Coalesced;
                (content_type, Some(self.transform.stored(&self.head, content_type, body, is_hit)))
            }
        };
        log.record(self.head.status, &status);
        log.entry = Some(EntryTimes { stored_at: self.head.stored_at, expires_at: self.head.expires_at });
        log.saved = Some(Saved { usage: self.head.usage, ms: self.head.upstream_ms });
        Some(CachedResponse {
            status: self.head.status,
            headers: reply::hit(&self.head, body.is_some(), content_type, &status, &self.fields, now),
            body,
        })
    }
}
