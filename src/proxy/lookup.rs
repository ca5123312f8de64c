//! Step 3: does the store have a response for this request?

use super::forward::{StaleFallback, UpstreamFetch};
use super::reply::{CachedResponse, ProxyResponse};
use super::request::only_if_cached;
use super::stored_response::StoredResponse;
use crate::cache::entry::EntryHead;
use crate::cache::policy::{CachePolicy, Freshness};
use crate::http::message::UpstreamRequest;
use crate::key::{CacheKey, EncryptionSalt};
use crate::protocol::ResponseMode;
use crate::routing::endpoint::Endpoint;
use crate::routing::route::Target;
use crate::status::{CacheOutcome, CacheStatus, Fwd, Reason};
use crate::telemetry::exchange_log::LogFields;
use crate::transform::response::ResponseTransform;
use std::time::Duration;

/// A request with its cache key and policy.
#[derive(Debug)]
pub struct CacheableRequest {
    /// The cache key.
    pub key: CacheKey,
    /// What its entry is encrypted with, where entries are.
    pub salt: Option<EncryptionSalt>,
    /// What to send if the request goes upstream.
    pub upstream_request: UpstreamRequest,
    pub(super) target: Target,
    pub(super) key_covers_request: bool,
    pub(super) timeout: Duration,
    pub(super) endpoint: Endpoint,
    pub(super) response_mode: ResponseMode,
    pub(super) policy: CachePolicy,
    pub(super) transform: ResponseTransform,
}

/// What the memory tier or the store holds under a key.
#[derive(Debug)]
pub enum Lookup {
    /// Nothing, or it was not read.
    Miss,
    /// An entry whose digest is right.
    Stored(EntryHead),
    /// The same, from the isolate's memory.
    InMemory(EntryHead),
    /// It could not be read, for this reason.
    Failed(Reason),
}

/// What follows from a lookup.
#[derive(Debug)]
pub enum OnLookup {
    /// The entry's head decides.
    Decided(Decision),
    /// The stored response has to be converted, if its body allows that: [`Conversion::with_body`].
    NeedsBody(Box<Conversion>),
}

/// What to do about a cacheable request.
#[derive(Debug)]
pub enum Decision {
    /// Serve the stored response.
    Serve(CachedResponse),
    /// Serve it although it is stale, and revalidate in the background.
    ServeStale(CachedResponse, Box<UpstreamFetch>),
    /// The proxy responds by itself.
    Respond(ProxyResponse),
    /// Forward the request to the upstream.
    Forward(Box<UpstreamFetch>),
}

/// A stored response whose body has to be read before it can be served.
#[derive(Debug)]
pub struct Conversion {
    request: CacheableRequest,
    stored: StoredResponse,
    status: CacheStatus,
    now: u64,
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

    fn stored_response(&self, head: &EntryHead) -> Option<StoredResponse> {
        StoredResponse::new(self.endpoint, head, self.response_mode, &self.transform)
    }

    /// What follows from a lookup at `now` (milliseconds since 1970).
    pub fn on_lookup(self, lookup: &Lookup, now: u64, log: &mut LogFields) -> OnLookup {
        let head = match (&self.policy.read, lookup) {
            (Err(status), _) => {
                let status = *status;
                return OnLookup::Decided(self.forward(status, None, log));
            }
            (Ok(()), Lookup::Miss) => return OnLookup::Decided(self.miss(None, log)),
            (Ok(()), Lookup::Failed(reason)) => return OnLookup::Decided(self.miss(Some(*reason), log)),
            (Ok(()), Lookup::Stored(head) | Lookup::InMemory(head)) => head,
        };
        let freshness = match (self.policy.evaluate(head, now), lookup) {
            (Freshness::Fresh(status), Lookup::InMemory(_)) => {
                Freshness::Fresh(CacheStatus { reason: Some(Reason::Memory), ..status })
            }
            (freshness, _) => freshness,
        };
        match (freshness, self.stored_response(head)) {
            (Freshness::Unusable { cache_status, stale_if_error_until }, stored) => {
                let fallback = stored
                    .filter(|_| now < stale_if_error_until)
                    .map(|response| StaleFallback { response, until: stale_if_error_until });
                OnLookup::Decided(self.forward(cache_status, fallback, log))
            }
            (Freshness::Fresh(status) | Freshness::Stale(status), Some(stored)) => {
                let conversion = Conversion { request: self, stored, status, now };
                if conversion.stored.is_verbatim() {
                    OnLookup::Decided(conversion.with_body(&[], log))
                } else {
                    OnLookup::NeedsBody(Box::new(conversion))
                }
            }
            (_, None) => OnLookup::Decided(self.miss(Some(Reason::NotConvertible), log)),
        }
    }

    fn miss(self, reason: Option<Reason>, log: &mut LogFields) -> Decision {
        let status = self.policy.miss(reason);
        self.forward(status, None, log)
    }

    fn forward(self, status: CacheStatus, fallback: Option<StaleFallback>, log: &mut LogFields) -> Decision {
        if self.policy.only_if_cached {
            return Decision::Respond(only_if_cached(log));
        }
        Decision::Forward(Box::new(self.into_fetch(status, fallback)))
    }

    fn into_fetch(self, status: CacheStatus, stale_fallback: Option<StaleFallback>) -> UpstreamFetch {
        UpstreamFetch {
            status: CacheStatus { key: Some(self.key), ..status },
            // A request that is neither answered from the store nor stored shares nothing.
            may_coalesce: self.policy.store.is_ok() && status.outcome != CacheOutcome::Bypass,
            key: self.key,
            salt: self.salt,
            upstream_request: self.upstream_request,
            target: self.target,
            endpoint: self.endpoint,
            response_mode: self.response_mode,
            lifetime_ms: self.policy.store,
            max_age: self.policy.max_age,
            key_covers_request: self.key_covers_request,
            timeout: self.timeout,
            transform: self.transform,
            stale_fallback,
        }
    }
}

impl Conversion {
    /// What follows once the stored body has been read.
    pub fn with_body(self, body: &[u8], log: &mut LogFields) -> Decision {
        let request = self.request;
        let status = CacheStatus { key: Some(request.key), ..self.status };
        match self.stored.serve(status, log, self.now, body) {
            Some(response) if status.outcome == CacheOutcome::Updating => {
                let revalidation = CacheStatus { fwd: Some(Fwd::Stale), ..status };
                Decision::ServeStale(response, Box::new(request.into_fetch(revalidation, None)))
            }
            Some(response) => Decision::Serve(response),
            None => request.miss(Some(Reason::NotConvertible), log),
        }
    }
}
