//! The short way to step 3: what is left of a question for whoever asks it again, byte for byte.
//!
//! A question's name and rules come from its method, its URL, its headers and its body, and from the settings, which
//! stay the same as long as the isolate does. So two requests that are equal in all of these need only one reading.
//! Left out of the comparison are only the headers of which [`headers::tells_nothing`] says that no step before the
//! upstream looks at them. Whatever else is wanted than a fresh entry, as it is, takes the long way from its beginning.
//!
//! [`headers::tells_nothing`]: crate::headers::tells_nothing

use super::lookup::CacheableRequest;
use super::stored_response::{CachedResponse, StoredResponse};
use crate::cache::entry;
use crate::cache::policy::{Freshness, CachePolicy};
use crate::key::{CacheKey, EncryptionSalt};
use crate::protocol::ResponseMode;
use crate::routing::endpoint::Endpoint;
use crate::status::{Reason, CacheStatus};
use crate::telemetry::exchange_log::LogFields;
use crate::transform::response::ResponseTransform;

/// What makes the answer out of an entry, but for the entry and the time.
#[derive(Debug, Clone)]
pub struct FastPathPlan {
    /// The question's name in the store.
    pub key: CacheKey,
    /// What its entry is sealed with, where entries are.
    pub salt: Option<EncryptionSalt>,
    pub(super) endpoint: Endpoint,
    pub(super) response_mode: ResponseMode,
    pub(super) policy: CachePolicy,
    pub(super) response_transform: ResponseTransform,
    pub(super) log_fields: LogFields,
}

/// A stored answer that goes out as it is.
#[derive(Debug)]
pub struct FastPathHit {
    /// Its head; the body is the stored one.
    pub replay: CachedResponse,
    /// Until when, in milliseconds since 1970, the same entry gives the very same head.
    pub until: u64,
}

impl FastPathPlan {
    /// The answer at `now` (milliseconds since 1970) out of an entry, which the isolate has `remembered` or the store has
    /// given. `None`: that takes the long way.
    pub fn answer(&self, head: &entry::EntryHead, remembered: bool, now: u64) -> Option<FastPathHit> {
        let Freshness::Fresh(cache_status) = self.policy.evaluate(head, now) else { return None };
        let stored_response = StoredResponse::new(self.endpoint, head, self.response_mode, &self.response_transform).filter(StoredResponse::is_verbatim)?;
        let reason = remembered.then_some(Reason::Memory);
        let cache_status = CacheStatus { key: Some(self.key), reason, ..cache_status };
        let replay = stored_response.replay(cache_status, &mut self.log_fields.clone(), now, &[])?;
        Some(FastPathHit { replay, until: self.policy.head_valid_until(head, now) })
    }
}

impl CacheableRequest {
    /// What is left of the question for its repetitions. `None`: each of them has to be looked at.
    pub fn repeat(&self) -> Option<FastPathPlan> {
        let CacheableRequest { key, salt, endpoint, response_mode, policy, response_transform, log_fields, .. } = self;
        // What is written under DEBUG is true of one request only.
        (self.reads() && response_transform.is_none() && log_fields.debug.is_none()).then(|| FastPathPlan {
            key: *key,
            salt: salt.clone(),
            endpoint: *endpoint,
            response_mode: *response_mode,
            policy: policy.clone(),
            response_transform: response_transform.clone(),
            log_fields: log_fields.clone(),
        })
    }
}
