//! A request with its cache key.

use super::stored_response::StoredResponse;
use crate::cache::dialects::ReplyFields;
use crate::cache::entry::EntryHead;
use crate::cache::policy::{CachePolicy, Freshness};
use crate::cache::samples::{self, Claim, MAX_SAMPLES, Message, Purpose, Slot};
use crate::http::message::UpstreamRequest;
use crate::key::{CacheKey, EncryptionSalt, SampleKeys};
use crate::protocol::ResponseMode;
use crate::protocol::answer::AnswerRules;
use crate::routing::endpoint::Endpoint;
use crate::routing::route::Target;
use crate::status::CacheOutcome;
use crate::transform::response::ResponseTransform;
use std::time::Duration;

/// The samples that a request is one of.
#[derive(Debug, Clone)]
pub struct SampleSet {
    /// The name of the set: the cache key of sample 0.
    pub set: CacheKey,
    keys: SampleKeys,
    count: u32,
    /// How long the request may ask for its response, in milliseconds.
    lease_ms: u64,
}

impl SampleSet {
    /// A set of `count` samples, which begins with this key. `timeout`: the longest time to a response head.
    pub fn new(set: CacheKey, keys: SampleKeys, count: u32, timeout: Duration) -> SampleSet {
        let head_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        SampleSet { set, keys, count, lease_ms: head_ms.saturating_add(LONGEST_BODY_MS) }
    }
}

/// How long a response may take from its head to its end before its slot counts as free.
const LONGEST_BODY_MS: u64 = 600_000;

/// A request with its cache key and policy.
#[derive(Debug)]
pub struct CacheableRequest {
    /// The cache key.
    pub key: CacheKey,
    /// The salt of its entry's encryption, if entries are encrypted.
    pub salt: Option<EncryptionSalt>,
    /// The request to the upstream, if it is forwarded.
    pub upstream_request: UpstreamRequest,
    /// What the response says besides `Cache-Status`.
    pub(super) fields: ReplyFields,
    /// The set of samples, if the request wants one of several.
    pub samples: Option<SampleSet>,
    /// Its slot in that set, if the set's object has given one.
    pub slot: Option<Slot>,
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

    /// What the set of samples is asked. `lost`: a slot that counts as stored, but its entry is gone. `None`: the request is
    /// not one of several samples, or is neither answered from the store nor stored.
    pub fn wants_slot(&self, lost: Option<u32>) -> Option<Message> {
        let SampleSet { count, lease_ms, .. } = *self.samples.as_ref()?;
        let purpose = match &self.policy.read {
            _ if self.policy.only_if_cached => Purpose::Stored,
            Ok(()) if self.policy.store.is_err() => Purpose::Stored,
            Ok(()) => Purpose::Response,
            Err(status) if status.outcome == CacheOutcome::Refresh => Purpose::Refresh,
            Err(_) => return None,
        };
        Some(Message::Take { count, purpose, lost, lease_ms })
    }

    /// Makes this the request for one of the samples. `slot`: what the set's object has given. Without it any slot is taken,
    /// so equal requests may get the same one. `random`: any number.
    pub fn take_slot(&mut self, slot: Option<Slot>, random: u32) {
        let Some(SampleSet { keys, count, .. }) = &self.samples else { return };
        let all: Vec<u32> = (0..(*count).min(MAX_SAMPLES)).collect();
        let sample = slot.map_or_else(|| samples::pick(&all, random).unwrap_or(0), |slot| slot.sample);
        let (key, salt) = keys.key_and_salt(sample);
        self.key = key;
        self.salt = self.salt.is_some().then_some(salt);
        self.fields.sample = Some((sample.saturating_add(1), *count));
        self.slot = slot;
    }

    /// The slot of a response that counts as stored and is not there.
    pub fn lost_slot(&self) -> Option<u32> {
        self.slot.filter(|slot| slot.claim == Claim::Stored && self.reads()).map(|slot| slot.sample)
    }

    /// Whether an entry from the isolate's memory decides. If not, the store may have a newer one.
    pub fn is_fresh_hit(&self, head: &EntryHead, now: u64) -> bool {
        matches!(self.policy.evaluate(head, now), Freshness::Fresh(_)) && self.stored_response(head).is_some()
    }

    /// The stored response for this request's client. `None`: it cannot be given in the mode that the client wants.
    pub(super) fn stored_response(&self, head: &EntryHead) -> Option<StoredResponse> {
        StoredResponse::new(self.endpoint, head, self.response_mode, &self.transform, self.fields)
    }
}
