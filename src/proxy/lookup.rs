//! Step 3: does the store have a response for this request?

use super::cacheable_request::CacheableRequest;
use super::forward::{StaleFallback, UpstreamFetch};
use super::platform::Lookup;
use super::reply::{CachedResponse, ProxyResponse};
use super::request::only_if_cached;
use super::stored_response::StoredResponse;
use crate::cache::policy::Freshness;
use crate::status::{CacheOutcome, CacheStatus, Fwd, Reason};
use crate::telemetry::exchange_log::LogFields;

/// The next step after a lookup.
#[derive(Debug)]
pub enum OnLookup {
    /// The entry's head decides.
    Decided(Decision),
    /// The stored response has to be converted, if its body allows that: [`Conversion::with_body`].
    NeedsBody(Box<Conversion>),
}

/// The next step for a cacheable request.
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
    /// The next step after a lookup at `now` (milliseconds since 1970).
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
            // A request whose response is neither read from the store nor stored is not coalesced.
            may_coalesce: self.policy.store.is_ok() && status.outcome != CacheOutcome::Bypass,
            slot: self.samples.zip(self.slot).map(|(samples, slot)| (samples.set, slot)),
            fields: self.fields,
            key: self.key,
            salt: self.salt,
            upstream_request: self.upstream_request,
            target: self.target,
            endpoint: self.endpoint,
            response_mode: self.response_mode,
            rules: self.rules,
            lifetime_ms: self.policy.store,
            max_age: self.policy.max_age,
            key_covers_request: self.key_covers_request,
            timeout: self.timeout,
            transform: self.transform,
            takes_out_usage: false,
            stale_fallback,
        }
    }
}

impl Conversion {
    /// The next step once the stored body has been read.
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
