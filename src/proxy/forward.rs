//! Step 4: the request is forwarded to the upstream, and its response to the client.

use super::coalesce_request::CoalesceRequest;
use super::platform::FetchError;
use super::reply::{self, CachedResponse, HeaderEdits, ProxyResponse};
use super::stored_response::StoredResponse;
use crate::cache::coalesce::RequestedFreshness;
use crate::cache::dialects::ReplyFields;
use crate::cache::entry::EntryHead;
use crate::cache::samples::{Claim, Slot};
use crate::config::Config;
use crate::http::message::UpstreamRequest;
use crate::key::{CacheKey, EncryptionSalt};
use crate::protocol::ResponseMode;
use crate::protocol::answer::AnswerRules;
use crate::routing::endpoint::Endpoint;
use crate::routing::route::Target;
use crate::status::error::{ErrorKind, ProxyError};
use crate::status::{CacheOutcome, CacheStatus, Reason};
use crate::telemetry::exchange_log::LogFields;
use crate::transform::response::{BodyTransform, ResponseTransform};
use http::{HeaderMap, StatusCode};
use std::time::Duration;

/// A cacheable request on its way to the upstream.
#[derive(Debug)]
pub struct UpstreamFetch {
    /// The cache key.
    pub key: CacheKey,
    /// The slot that the response is for, and the set of samples that it is in.
    pub slot: Option<(CacheKey, Slot)>,
    pub(super) fields: ReplyFields,
    pub(super) salt: Option<EncryptionSalt>,
    pub(super) upstream_request: UpstreamRequest,
    pub(super) target: Target,
    pub(super) endpoint: Endpoint,
    pub(super) response_mode: ResponseMode,
    pub(super) rules: AnswerRules,
    pub(super) lifetime_ms: Result<Option<u64>, Reason>,
    pub(super) may_coalesce: bool,
    pub(super) max_age: Option<u64>,
    pub(super) key_covers_request: bool,
    pub(super) timeout: Duration,
    pub(super) status: CacheStatus,
    pub(super) transform: ResponseTransform,
    /// Whether the response has usage that the client did not request.
    pub(super) takes_out_usage: bool,
    pub(super) stale_fallback: Option<StaleFallback>,
}

/// A stale entry that is served if the upstream fails (RFC 5861, section 4).
#[derive(Debug)]
pub struct StaleFallback {
    /// The entry.
    pub response: StoredResponse,
    /// Milliseconds since 1970.
    pub until: u64,
}

impl UpstreamFetch {
    /// The changes to the upstream's response head. `retries`: how often the request was retried. `storable`:
    /// whether the response may be stored.
    pub fn on_response(
        &mut self,
        config: &Config,
        status: StatusCode,
        headers: &HeaderMap,
        retries: u32,
        storable: Result<(), Reason>,
        log: &mut LogFields,
    ) -> HeaderEdits {
        self.status.fwd_status = Some(status.as_u16());
        if storable.is_ok() {
            let seconds = |ms: u64| i64::try_from(ms.div_ceil(1000)).unwrap_or(i64::MAX);
            self.status.ttl = self.lifetime_ms.ok().flatten().map(seconds);
        }
        log.record(status.as_u16(), &self.status);
        reply::header_edits(config, &self.status, &self.fields, &self.target, headers, retries)
    }

    /// The transform of the body for the client. `None`: the body is passed on unchanged.
    pub fn body_transform(&self, config: &Config, status: StatusCode, headers: &HeaderMap) -> Option<BodyTransform> {
        self.transform.open(status, headers, config.cache.max_bytes, self.takes_out_usage)
    }

    /// The stale response to serve because the upstream failed. `response`: the status that came, or why none did.
    /// `stored`: gives the stored body if it has to be converted. `now`: milliseconds since 1970.
    pub fn serve_stale(
        &mut self,
        response: Result<StatusCode, FetchError>,
        now: u64,
        stored: impl FnOnce() -> Vec<u8>,
        log: &mut LogFields,
    ) -> Option<CachedResponse> {
        let reason = match response {
            Ok(status) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Reason::UpstreamError,
            Ok(_) => return None,
            Err(error) => error.reason(),
        };
        let StaleFallback { response: stale, .. } = self.stale_fallback.take().filter(|stale| now < stale.until)?;
        let status = CacheStatus {
            outcome: CacheOutcome::Stale,
            fwd_status: response.ok().map(|status| status.as_u16()),
            ttl: stale.ttl(now),
            reason: Some(reason),
            ..self.status
        };
        let body = if stale.is_verbatim() { Vec::new() } else { stored() };
        stale.serve(status, log, now, &body)
    }

    /// The time left until the response head, `spent_ms` milliseconds after the request body was complete.
    pub fn budget_ms(&self, spent_ms: u64) -> u64 {
        u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX).saturating_sub(spent_ms)
    }

    /// Whether the client wants the entry replaced, whatever it is.
    pub fn is_refresh(&self) -> bool {
        self.status.outcome == CacheOutcome::Refresh
    }

    /// Whether the fetch may be shared with other clients.
    pub fn may_coalesce(&self) -> bool {
        self.may_coalesce
    }

    /// The request to the coalescer, `elapsed_ms` milliseconds after the client's request came. `budget_ms`: the longest time
    /// to the response head.
    pub fn coalesce_request(&self, log: &LogFields, elapsed_ms: u64, budget_ms: u64) -> CoalesceRequest {
        let mut log = log.clone();
        let background = self.status.outcome == CacheOutcome::Updating;
        if !background {
            // The coalescer adds the HTTP status.
            log.record(0, &self.status);
        }
        CoalesceRequest {
            lifetime_ms: self.lifetime_ms,
            key_covers_request: self.key_covers_request,
            set: self.slot.map(|(set, _)| set),
            sample: self.slot.map_or(0, |(_, slot)| slot.sample),
            asks: self.slot.is_some_and(|(_, slot)| slot.claim == Claim::Asks),
            rules: self.rules,
            salt: self.salt.clone(),
            freshness: RequestedFreshness {
                force_refresh: self.is_refresh(),
                repair: self.status.reason == Some(Reason::EntryCorrupt),
                max_age: self.max_age,
                background,
            },
            log,
            elapsed_ms,
            budget_ms,
            ..CoalesceRequest::new(&self.upstream_request, self.key, self.endpoint, self.response_mode)
        }
    }

    /// Marks the response as the one to another client's request.
    pub fn mark_collapsed(&mut self) {
        self.status.collapsed = true;
        self.status.outcome = CacheOutcome::Coalesced;
    }

    /// The response out of an entry that the coalescer has. `retained`: it had it before this request came. `None`: it cannot
    /// be given in the mode that the client wants.
    pub fn respond_with_entry(
        &mut self,
        head: &EntryHead,
        retained: bool,
        now: u64,
        body: impl FnOnce() -> Vec<u8>,
        log: &mut LogFields,
    ) -> Option<CachedResponse> {
        let stored = StoredResponse::new(self.endpoint, head, self.response_mode, &self.transform, self.fields)?;
        let status = if retained {
            CacheStatus {
                ttl: head.ttl(now),
                key: Some(self.key),
                reason: Some(Reason::Coalesced),
                ..CacheStatus::new(CacheOutcome::Hit)
            }
        } else {
            CacheStatus {
                outcome: CacheOutcome::Coalesced,
                collapsed: true,
                ttl: head.ttl(now),
                fwd_status: Some(head.status),
                ..self.status
            }
        };
        let body = if stored.is_verbatim() { Vec::new() } else { body() };
        stored.serve(status, log, now, &body)
    }

    /// The response if no upstream response came.
    pub fn failed(self, error: FetchError, retries: u32, log: &mut LogFields) -> ProxyResponse {
        failed(error, self.status, retries, log)
    }
}

/// The response if the upstream gave none.
pub(super) fn failed(error: FetchError, mut status: CacheStatus, retries: u32, log: &mut LogFields) -> ProxyResponse {
    let (kind, message) = match error {
        FetchError::Unreachable => (
            ErrorKind::UpstreamUnreachable,
            "The upstream could not be reached, or closed the connection before it responded. Check that it is up and that \
             its base URL is right, then try again.",
        ),
        FetchError::TimedOut => {
            (ErrorKind::UpstreamTimeout, "The upstream did not begin to respond in time. Try again, or raise TIMEOUT.")
        }
    };
    status.reason = kind.reason();
    reply::upstream_failure(&ProxyError::new(kind, message), &status, retries, log)
}
