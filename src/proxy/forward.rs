//! Step 4: the upstream is asked. What does the client see, and may the answer be kept?

use super::stored_response::{CachedResponse, StoredResponse};
use crate::cache::admission::{Capture, CaptureOptions};
use crate::cache::coalesce::{CoalesceRequest, RequestedFreshness};
use crate::cache::entry;
use crate::config::Config;
use crate::http::message::UpstreamRequest;
use crate::key::{CacheKey, EncryptionSalt};
use crate::protocol::ResponseMode;
use crate::proxy::reply::{self, HeaderEdits, ProxyResponse};
use crate::routing::endpoint::Endpoint;
use crate::status::error::{ErrorKind, ProxyError};
use crate::status::{CacheOutcome, Reason, CacheStatus};
use crate::telemetry::exchange_log::LogFields;
use crate::transform::response::{ResponseTransform, BodyTransform};
use http::{HeaderMap, StatusCode};

/// A question on its way to the upstream.
#[derive(Debug)]
pub struct UpstreamFetch {
    /// Its name, under which the answer is stored.
    pub key: CacheKey,
    /// What its entry is sealed with, where entries are.
    pub salt: Option<EncryptionSalt>,
    /// What to send.
    pub upstream_request: UpstreamRequest,
    /// For the log.
    pub log_fields: LogFields,
    pub(super) endpoint: Endpoint,
    pub(super) response_mode: ResponseMode,
    pub(super) store: Result<Option<u64>, Reason>,
    pub(super) may_coalesce: bool,
    pub(super) max_age: Option<u64>,
    pub(super) key_covers_request: bool,
    pub(super) cache_status: CacheStatus,
    pub(super) response_transform: ResponseTransform,
    pub(super) serve_stale: Option<StaleFallback>,
}

/// An entry past its lifetime that may answer if the upstream fails.
#[derive(Debug)]
pub(super) struct StaleFallback {
    pub stored_response: StoredResponse,
    /// Milliseconds since 1970.
    pub until: u64,
}

/// What went wrong before the upstream's answer began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchError {
    /// No connection, or it broke.
    Unreachable,
    /// `TIMEOUT` passed.
    TimedOut,
}

impl UpstreamFetch {
    /// Step 4: the upstream's head came. What to change in it for the client, and the capture of an answer that may be
    /// worth keeping, or why it is not.
    pub fn answered(
        &mut self,
        config: &Config,
        status: StatusCode,
        response: &HeaderMap,
    ) -> (HeaderEdits, Result<Capture, Reason>) {
        self.cache_status.fwd_status = Some(status.as_u16());
        let capture = self.store.and_then(|lifetime_ms| {
            let capture_options = CaptureOptions {
                endpoint: self.endpoint,
                response_mode: self.response_mode,
                max_bytes: config.max_bytes,
                lifetime_ms,
                shared: config.shared_scope,
            };
            Capture::open(capture_options, status, response)
        });
        if capture.is_ok() {
            let seconds = |ms: u64| i64::try_from(ms.div_ceil(1000)).unwrap_or(i64::MAX);
            self.cache_status.ttl = self.store.ok().flatten().map(seconds);
        }
        self.log_fields.record(status.as_u16(), &self.cache_status);
        (reply::header_edits(&self.cache_status), capture)
    }

    /// What the answer's body needs on its way to the client; `None`: nothing, it is passed on as it comes.
    pub fn body_transform(&self, config: &Config, status: StatusCode, response: &HeaderMap) -> Option<BodyTransform> {
        self.response_transform.open(status, response, config.max_bytes)
    }

    /// Step 4, where the upstream failed: the stored answer that stands in, if one may. `answer`: the status that came,
    /// or why none did; `stored` gives the stored body if it has to be read; `now`: milliseconds since 1970.
    pub fn serve_stale(
        &mut self,
        answer: Result<StatusCode, FetchError>,
        now: u64,
        stored: impl FnOnce() -> Vec<u8>,
    ) -> Option<CachedResponse> {
        let reason = match answer {
            Ok(status) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Reason::UpstreamError,
            Ok(_) => return None,
            Err(failure) => failure.reason(),
        };
        let StaleFallback { stored_response, .. } = self.serve_stale.take().filter(|serve_stale| now < serve_stale.until)?;
        let cache_status = CacheStatus {
            outcome: CacheOutcome::Stale,
            fwd_status: answer.ok().map(|status| status.as_u16()),
            ttl: stored_response.ttl(now),
            reason: Some(reason),
            ..self.cache_status
        };
        let body = if stored_response.is_verbatim() { Vec::new() } else { stored() };
        stored_response.replay(cache_status, &mut self.log_fields, now, &body)
    }

    /// Whether its caller wants what is stored replaced, whatever it is.
    pub fn is_refresh(&self) -> bool {
        self.cache_status.outcome == CacheOutcome::Refresh
    }

    /// Whether it may share a call with others.
    pub fn may_coalesce(&self) -> bool {
        self.may_coalesce
    }

    /// What its flight is told, `ms` milliseconds after the request came.
    pub fn coalesce_request(&mut self, ms: u64) -> CoalesceRequest {
        let mut log_fields = self.log_fields.clone();
        let behind = self.cache_status.outcome == CacheOutcome::Updating;
        if !behind {
            // The flight adds the status.
            log_fields.record(0, &self.cache_status);
        }
        CoalesceRequest {
            keep: self.store,
            key_covers_request: self.key_covers_request,
            salt: self.salt.clone(),
            freshness_wanted: RequestedFreshness {
                refresh: self.is_refresh(),
                rewrite: self.cache_status.reason == Some(Reason::EntryCorrupt),
                max_age: self.max_age,
                behind,
            },
            log_fields,
            ms,
            ..CoalesceRequest::new(&self.upstream_request, self.key, self.endpoint, self.response_mode)
        }
    }

    /// Its answer is that of another caller's request.
    pub fn mark_collapsed(&mut self) {
        self.cache_status.collapsed = true;
        self.cache_status.outcome = CacheOutcome::Coalesced;
    }

    /// The answer, where the flight has it whole. `finished`: it had it already. `None`: it cannot be given in the form
    /// that is wanted.
    pub fn from_coalesced(
        &mut self,
        head: &entry::EntryHead,
        finished: bool,
        now: u64,
        body: impl FnOnce() -> Vec<u8>,
    ) -> Option<CachedResponse> {
        let stored_response = StoredResponse::new(self.endpoint, head, self.response_mode, &self.response_transform)?;
        let cache_status = if finished {
            CacheStatus {
                ttl: head.ttl(now),
                key: Some(self.key),
                reason: Some(Reason::Flight),
                ..CacheStatus::new(CacheOutcome::Hit)
            }
        } else {
            let fwd_status = Some(head.status);
            CacheStatus { outcome: CacheOutcome::Coalesced, collapsed: true, ttl: head.ttl(now), fwd_status, ..self.cache_status }
        };
        let body = if stored_response.is_verbatim() { Vec::new() } else { body() };
        stored_response.replay(cache_status, &mut self.log_fields, now, &body)
    }

    /// No answer came.
    pub fn failed(self, failure: FetchError) -> ProxyResponse {
        failed(failure, self.cache_status, self.log_fields)
    }
}

impl FetchError {
    /// Its word in `Cache-Status` and the log.
    pub const fn reason(self) -> Reason {
        match self {
            FetchError::Unreachable => Reason::UpstreamUnreachable,
            FetchError::TimedOut => Reason::UpstreamTimeout,
        }
    }
}

pub(super) fn failed(failure: FetchError, mut cache_status: CacheStatus, log_fields: LogFields) -> ProxyResponse {
    let (kind, message) = match failure {
        FetchError::Unreachable => (
            ErrorKind::UpstreamUnreachable,
            "The upstream could not be reached, or broke the connection off. Check that it is up and that its base \
             URL is right, then try again.",
        ),
        FetchError::TimedOut => {
            (ErrorKind::UpstreamTimeout, "The upstream did not begin to answer in time. Try again, or raise TIMEOUT.")
        }
    };
    cache_status.reason = kind.reason();
    reply::failure(&ProxyError::new(kind, message), &cache_status, log_fields)
}
