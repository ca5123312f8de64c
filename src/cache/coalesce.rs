//! One question in flight, one call upstream: what is told to a key's flight, and what it does with each asker.
//!
//! A flight is an object that all callers of one key meet in. The first leads: the flight asks the upstream. The others
//! attach to the running answer, wait for its end, or, where it is no use to them, go on by themselves.

use crate::cache::admission::CaptureOptions;
use crate::cache::entry;
use crate::cache::representation;
use crate::config::Config;
use crate::http::message::UpstreamRequest;
use crate::key::{CacheKey, EncryptionSalt};
use crate::protocol::{ResponseMode, Protocol};
use crate::routing::endpoint::Endpoint;
use crate::status::Reason;
use crate::telemetry::exchange_log::LogFields;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

/// The most callers that wait for one answer, or receive it, at a time; the others go on by themselves.
pub const MAX_FOLLOWERS: usize = 4_096;
/// The largest entry, in bytes, that stays in its flight: many flights share one isolate's memory.
pub const MAX_RETAINED_BYTES: usize = 1 << 20;

/// What an asker tells the flight.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CoalesceRequest {
    /// The question's name.
    pub key: CacheKey,
    /// What its entry is sealed with, where entries are.
    pub salt: Option<EncryptionSalt>,
    /// What is asked, in which grammar.
    pub endpoint: Endpoint,
    /// How the answer is wanted.
    pub response_mode: ResponseMode,
    /// How long the answer is kept, in milliseconds (`None`: for ever), or why it is not.
    pub keep: Result<Option<u64>, Reason>,
    /// Whether the key covers all that the upstream is told, so that an error is the same to all who have it.
    pub key_covers_request: bool,
    /// What the asker accepts.
    pub freshness_wanted: RequestedFreshness,
    /// For the log.
    pub log_fields: LogFields,
    /// Milliseconds from the request to now, for the log.
    pub ms: u64,
    /// What is sent upstream: the method,
    pub method: String,
    /// the URL,
    pub url: String,
    /// and the headers, in order.
    pub headers: Vec<(String, String)>,
}

/// What an asker accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RequestedFreshness {
    /// A call that began before this one is not new enough.
    pub refresh: bool,
    /// Nor is an answer that has ended: what is stored of it is damaged, and is to be written again.
    pub rewrite: bool,
    /// The oldest answer, in seconds.
    pub max_age: Option<u64>,
    /// The asker has an answer already; the call is for the next ones.
    pub behind: bool,
}

impl CoalesceRequest {
    /// A job with what is to be sent upstream.
    pub fn new(upstream_request: &UpstreamRequest, key: CacheKey, endpoint: Endpoint, response_mode: ResponseMode) -> CoalesceRequest {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        CoalesceRequest {
            key,
            salt: None,
            endpoint,
            response_mode,
            keep: Ok(None),
            key_covers_request: true,
            freshness_wanted: RequestedFreshness::default(),
            log_fields: LogFields::default(),
            ms: 0,
            method: upstream_request.method.to_string(),
            url: upstream_request.url.clone(),
            headers: upstream_request.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        }
    }

    /// What is sent upstream.
    pub fn upstream_request(&self) -> UpstreamRequest {
        let headers = self.headers.iter().filter_map(|(name, value)| {
            Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        });
        UpstreamRequest {
            method: Method::from_bytes(self.method.as_bytes()).unwrap_or(Method::POST),
            url: self.url.clone(),
            headers: headers.collect::<HeaderMap>(),
            body: None,
        }
    }

    /// What the capture of its answer needs to know.
    pub fn capture_options(&self, config: &Config) -> CaptureOptions {
        CaptureOptions {
            endpoint: self.endpoint,
            response_mode: self.response_mode,
            max_bytes: config.max_bytes,
            lifetime_ms: self.keep.ok().flatten(),
            shared: config.shared_scope,
        }
    }
}

/// Where a flight is.
#[derive(Debug, Clone, Copy)]
pub enum InFlightState<'a> {
    /// Nothing has been asked, or nothing came of it.
    Idle,
    /// A call is under way.
    Fetching {
        /// How its leader wants the answer.
        response_mode: ResponseMode,
        /// How many callers wait for it or receive it.
        clients: usize,
        /// Its answer is an error, or longer than what is kept for those who join.
        closed: bool,
    },
    /// The last call's answer is still here.
    Complete(&'a entry::EntryHead),
}

/// What an asker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It leads a new call.
    Leader,
    /// It gets the running answer as it comes.
    StreamFollower,
    /// It gets the running answer, in its own form, once that is whole.
    Waiter,
    /// It gets the answer that is still here.
    ReuseFinished,
    /// It goes on by itself.
    Independent,
}

/// What an asker does about a flight at `now` (milliseconds since 1970). `retain_ms`: how long an answer stays.
pub fn join(phase: InFlightState<'_>, job: &CoalesceRequest, now: u64, retain_ms: u64) -> Role {
    match phase {
        _ if job.freshness_wanted.refresh => Role::Leader,
        InFlightState::Idle => Role::Leader,
        InFlightState::Fetching { .. } if job.freshness_wanted.behind => Role::ReuseFinished,
        InFlightState::Fetching { clients, closed, .. } if clients >= MAX_FOLLOWERS || closed => Role::Independent,
        // A plain answer is of use only when it is known to be whole.
        InFlightState::Fetching { response_mode, .. } if response_mode == job.response_mode => {
            if response_mode.stream {
                Role::StreamFollower
            } else {
                Role::Waiter
            }
        }
        InFlightState::Fetching { response_mode, .. } => {
            let lacks_usage = response_mode.stream && job.response_mode.include_usage && !response_mode.include_usage;
            let converts = Protocol::of(job.endpoint).is_some() && !lacks_usage;
            if converts { Role::Waiter } else { Role::Independent }
        }
        InFlightState::Complete(head) => {
            let age_ms = now.saturating_sub(head.stored_at);
            let new_enough = job.freshness_wanted.max_age.is_none_or(|most| most > 0 && age_ms <= most.saturating_mul(1000));
            let fresh = head.expires_at.is_none_or(|at| now < at) && new_enough && age_ms < retain_ms;
            let usable = fresh && !job.freshness_wanted.rewrite && representation::representation(job.endpoint, head, job.response_mode).is_some();
            if usable { Role::ReuseFinished } else { Role::Leader }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ResponseMode = ResponseMode { stream: false, include_usage: false };
    const STREAM: ResponseMode = ResponseMode { stream: true, include_usage: false };
    const USAGE: ResponseMode = ResponseMode { stream: true, include_usage: true };

    fn job(response_mode: ResponseMode, freshness_wanted: RequestedFreshness) -> CoalesceRequest {
        let upstream_request = UpstreamRequest {
            method: Method::POST,
            url: "https://a/v1".into(),
            headers: [("x-a", "1"), ("x-a", "ü")]
                .into_iter()
                .map(|(name, value)| {
                    (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
                })
                .collect(),
            body: None,
        };
        CoalesceRequest {
            freshness_wanted,
            ..CoalesceRequest::new(&upstream_request, CacheKey::from_hex(&"0".repeat(64)).unwrap(), Endpoint::ChatCompletions, response_mode)
        }
    }

    fn running(response_mode: ResponseMode) -> InFlightState<'static> {
        InFlightState::Fetching { response_mode, clients: 1, closed: false }
    }

    #[test]
    fn a_job_comes_out_as_it_went_in() {
        let job = job(USAGE, RequestedFreshness { max_age: Some(3), ..RequestedFreshness::default() });
        let back: CoalesceRequest = serde_json::from_slice(&serde_json::to_vec(&job).unwrap()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{job:?}"));
        let upstream_request = back.upstream_request();
        assert_eq!((upstream_request.method, upstream_request.url.as_str()), (Method::POST, "https://a/v1"));
        let values: Vec<_> = upstream_request.headers.get_all("x-a").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(values, [b"1", "ü".as_bytes()]);
    }

    #[test]
    fn askers_of_one_kind_share_a_call_and_others_wait_for_its_end() {
        let join = |theirs, ours| join(running(theirs), &job(ours, RequestedFreshness::default()), 0, 60_000);
        assert_eq!(join(STREAM, STREAM), Role::StreamFollower);
        assert_eq!(join(USAGE, USAGE), Role::StreamFollower);
        assert_eq!(join(PLAIN, PLAIN), Role::Waiter);
        assert_eq!(join(STREAM, PLAIN), Role::Waiter);
        assert_eq!(join(PLAIN, USAGE), Role::Waiter);
        assert_eq!(join(USAGE, STREAM), Role::Waiter);
        assert_eq!(join(STREAM, USAGE), Role::Independent);
    }

    #[test]
    fn a_refresh_leads_always_and_bounds_are_kept() {
        let refresh = RequestedFreshness { refresh: true, ..RequestedFreshness::default() };
        assert_eq!(join(running(PLAIN), &job(PLAIN, refresh), 0, 60_000), Role::Leader);
        let full = InFlightState::Fetching { response_mode: PLAIN, clients: MAX_FOLLOWERS, closed: false };
        assert_eq!(join(full, &job(PLAIN, RequestedFreshness::default()), 0, 60_000), Role::Independent);
        let closed = InFlightState::Fetching { response_mode: STREAM, clients: 1, closed: true };
        assert_eq!(join(closed, &job(STREAM, RequestedFreshness::default()), 0, 60_000), Role::Independent);
        let behind = RequestedFreshness { behind: true, ..RequestedFreshness::default() };
        assert_eq!(join(running(PLAIN), &job(PLAIN, behind), 0, 60_000), Role::ReuseFinished);
        assert_eq!(join(InFlightState::Idle, &job(PLAIN, behind), 0, 60_000), Role::Leader);
    }

    #[test]
    fn a_finished_answer_is_taken_only_while_it_would_be_a_hit() {
        let head = entry::EntryHead {
            status: 200,
            headers: Vec::new(),
            stored_at: 1_000,
            expires_at: Some(11_000),
            stream: false,
            asked: PLAIN,
            has_usage: false,
        };
        let take = |freshness_wanted, now| join(InFlightState::Complete(&head), &job(PLAIN, freshness_wanted), now, 5_000);
        assert_eq!((take(RequestedFreshness::default(), 5_999), take(RequestedFreshness::default(), 6_000)), (Role::ReuseFinished, Role::Leader));
        let max_age = |seconds| RequestedFreshness { max_age: Some(seconds), ..RequestedFreshness::default() };
        assert_eq!(take(max_age(0), 1_000), Role::Leader);
        assert_eq!((take(max_age(1), 2_000), take(max_age(1), 2_001)), (Role::ReuseFinished, Role::Leader));
        assert_eq!(take(RequestedFreshness { rewrite: true, ..RequestedFreshness::default() }, 1_000), Role::Leader);
        let expired = entry::EntryHead { expires_at: Some(2_000), ..head.clone() };
        assert_eq!(join(InFlightState::Complete(&expired), &job(PLAIN, RequestedFreshness::default()), 2_000, 5_000), Role::Leader);
    }
}
