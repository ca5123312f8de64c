//! A request with its cache key.

use super::stored_response::StoredResponse;
use crate::cache::entry::EntryHead;
use crate::cache::policy::{CachePolicy, Freshness};
use crate::http::message::UpstreamRequest;
use crate::key::{CacheKey, EncryptionSalt};
use crate::protocol::ResponseMode;
use crate::protocol::answer::AnswerRules;
use crate::routing::endpoint::Endpoint;
use crate::routing::route::Target;
use crate::transform::response::ResponseTransform;
use std::time::Duration;

/// A request with its cache key and policy.
#[derive(Debug)]
pub struct CacheableRequest {
    /// The cache key.
    pub key: CacheKey,
    /// The salt of its entry's encryption, if entries are encrypted.
    pub salt: Option<EncryptionSalt>,
    /// The request to the upstream, if it is forwarded.
    pub upstream_request: UpstreamRequest,
    pub(super) target: Target,
    pub(super) key_covers_request: bool,
    pub(super) timeout: Duration,
    pub(super) endpoint: Endpoint,
    pub(super) response_mode: ResponseMode,
    pub(super) rules: AnswerRules,
    pub(super) policy: CachePolicy,
    pub(super) transform: ResponseTransform,
}

impl CacheableRequest {
    /// Whether the store is to be read.
    pub fn reads(&self) -> bool {
        self.policy.read.is_ok()
    }

    /// Whether an entry from the isolate's memory decides. If not, the store may have a newer one.
    pub fn is_fresh_hit(&self, head: &EntryHead, now: u64) -> bool {
        matches!(self.policy.evaluate(head, now), Freshness::Fresh(_)) && self.stored_response(head).is_some()
    }

    /// The stored response for this request's client. `None`: it cannot be given in the mode that the client wants.
    pub(super) fn stored_response(&self, head: &EntryHead) -> Option<StoredResponse> {
        StoredResponse::new(self.endpoint, head, self.response_mode, &self.transform)
    }
}
