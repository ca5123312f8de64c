//! The fast path: a request that equals an earlier one, byte for byte, is served without being parsed again.
//!
//! The cache key and the policy of a request follow from its method, URL, header fields and body, and from the configuration,
//! which does not change during the life of an isolate. So equal requests need to be parsed only once. Only the header fields of
//! [`ignored_headers`] are left out of the comparison, because no step before the upstream looks at them. A request takes the slow
//! path from its beginning unless there is a fresh entry to be served verbatim.

use super::cacheable_request::CacheableRequest;
use super::reply::CachedResponse;
use super::stored_response::StoredResponse;
use crate::cache::dialects::{self, ReplyFields};
use crate::cache::entry::EntryHead;
use crate::cache::policy::{CachePolicy, Freshness};
use crate::key::headers::fast_path_ignored_headers;
use crate::key::{CacheKey, EncryptionSalt};
use crate::protocol::ResponseMode;
use crate::routing::endpoint::Endpoint;
use crate::status::{CacheStatus, Reason};
use crate::telemetry::exchange_log::LogFields;
use crate::transform::response::ResponseTransform;

/// The request fields that are left out of the comparison. `*` at the end matches any suffix, `!` at the beginning marks an
/// exception: the headers of other products that are obeyed.
pub fn ignored_headers() -> impl Iterator<Item = String> {
    fast_path_ignored_headers().chain(dialects::header_names().map(|name| format!("!{name}")))
}

/// All that builds a response, except the entry and the time.
#[derive(Debug, Clone)]
pub struct FastPathPlan {
    /// The cache key.
    pub key: CacheKey,
    /// The salt of the entry's encryption, if entries are encrypted.
    pub salt: Option<EncryptionSalt>,
    endpoint: Endpoint,
    response_mode: ResponseMode,
    policy: CachePolicy,
    fields: ReplyFields,
    log: LogFields,
}

/// A hit: a stored response that is served verbatim.
#[derive(Debug)]
pub struct FastPathHit {
    /// Its head; the body is the stored one.
    pub response: CachedResponse,
    /// For the log line.
    pub log: LogFields,
    /// Until when, in milliseconds since 1970, the same entry gives the very same head.
    pub valid_until: u64,
}

impl FastPathPlan {
    /// The plan for the requests that equal this one. `None`: each of them needs the slow path.
    pub fn new(request: &CacheableRequest, log: &LogFields) -> Option<FastPathPlan> {
        let CacheableRequest { key, salt, endpoint, response_mode, policy, transform, fields, samples, .. } = request;
        // The debug fields are true of one request only, and so is the slot in a set of samples.
        (request.reads() && transform.keeps_stored() && log.debug.is_none() && samples.is_none()).then(|| {
            FastPathPlan {
                key: *key,
                salt: salt.clone(),
                endpoint: *endpoint,
                response_mode: *response_mode,
                policy: policy.clone(),
                fields: *fields,
                log: log.clone(),
            }
        })
    }

    /// The hit at `now` (milliseconds since 1970). `in_memory`: the entry comes from the memory tier, not from the store.
    /// `None`: the request takes the slow path.
    pub fn hit(&self, head: &EntryHead, in_memory: bool, now: u64) -> Option<FastPathHit> {
        let Freshness::Fresh(status) = self.policy.evaluate(head, now) else { return None };
        let stored =
            StoredResponse::new(self.endpoint, head, self.response_mode, &ResponseTransform::default(), self.fields)
                .filter(StoredResponse::is_verbatim)?;
        let reason = in_memory.then_some(Reason::Memory);
        let mut log = self.log.clone();
        let response = stored.serve(CacheStatus { key: Some(self.key), reason, ..status }, &mut log, now, &[])?;
        Some(FastPathHit { response, log, valid_until: self.policy.head_valid_until(head, now) })
    }
}
