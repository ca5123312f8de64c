//! Coalescing: equal requests in flight share one upstream request.
//!
//! The first client of a cache key leads: its request goes upstream. Others attach to the response while it streams, wait for
//! its end, or fetch on their own if it is of no use to them. [`role`] decides which.

use crate::cache::entry::EntryHead;
use crate::cache::representation;
use crate::protocol::{Protocol, ResponseMode};
use crate::routing::endpoint::Endpoint;
use crate::status::Reason;
use serde::{Deserialize, Serialize};

/// The most clients that wait for one response, or receive it, at a time. The others fetch on their own.
pub const MAX_FOLLOWERS: usize = 4_096;
/// The largest entry, in bytes, that is retained after the fetch: many coalescers share one isolate's memory.
pub const MAX_RETAINED_BYTES: usize = 1 << 20;

/// The freshness that a client requires of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RequestedFreshness {
    /// A fetch that began before this request is too old.
    pub force_refresh: bool,
    /// The stored entry is damaged and has to be written again, so a retained one is of no use.
    pub repair: bool,
    /// The highest age, in seconds.
    pub max_age: Option<u64>,
    /// The client has a stale response already: the fetch revalidates in the background.
    pub background: bool,
}

/// A client's request to join the fetch of its key.
#[derive(Debug, Clone, Copy)]
pub struct JoinRequest {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The mode that the client wants the response in.
    pub response_mode: ResponseMode,
    /// The freshness that the client requires.
    pub freshness: RequestedFreshness,
}

/// The state of a key's fetch.
#[derive(Debug, Clone, Copy)]
pub enum InFlightState<'a> {
    /// Nothing is being fetched, and nothing is retained.
    Idle,
    /// A fetch is under way.
    Fetching {
        /// The mode that its leader wants the response in.
        response_mode: ResponseMode,
        /// The number of clients that wait for the response or receive it.
        clients: usize,
        /// Whether no client can join: the response is an error, or longer than what is held for followers.
        closed: bool,
        /// Whether the running stream has a part that cannot be converted to an object.
        unconvertible: bool,
    },
    /// The last response is still retained.
    Complete(&'a EntryHead),
}

/// A client's role in a key's fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It leads a new fetch.
    Leader,
    /// It receives the running response as it comes.
    StreamFollower,
    /// It receives the response, in its own mode, once that is complete.
    Waiter,
    /// It receives the retained response.
    ReuseComplete,
    /// It fetches on its own.
    Independent,
    /// It revalidates in the background, which is not needed: the key is being fetched already.
    Busy,
}

/// A client's role at `now` (milliseconds since 1970). `retain_ms`: how long a response is retained.
pub fn role(state: InFlightState<'_>, request: &JoinRequest, now: u64, retain_ms: u64) -> Role {
    match state {
        _ if request.freshness.force_refresh => Role::Leader,
        InFlightState::Idle => Role::Leader,
        InFlightState::Fetching { .. } if request.freshness.background => Role::Busy,
        InFlightState::Fetching { response_mode, unconvertible: true, .. }
            if response_mode.stream && !request.response_mode.stream =>
        {
            Role::Leader
        }
        InFlightState::Fetching { clients, closed, .. } if clients >= MAX_FOLLOWERS || closed => Role::Independent,
        // A plain response is of use only once it is known to be complete.
        InFlightState::Fetching { response_mode, .. } if response_mode == request.response_mode => {
            if response_mode.stream { Role::StreamFollower } else { Role::Waiter }
        }
        InFlightState::Fetching { response_mode, .. } => {
            let wanted = request.response_mode;
            match Protocol::of(request.endpoint) {
                None => Role::Independent,
                Some(protocol) if response_mode.stream && protocol.separates_usage() => {
                    match (wanted.include_usage && !response_mode.include_usage, wanted.stream) {
                        (true, _) => Role::Independent,
                        // The usage is taken out on the way.
                        (false, true) => Role::StreamFollower,
                        (false, false) => Role::Waiter,
                    }
                }
                Some(_) if response_mode.stream && wanted.stream => Role::StreamFollower,
                Some(_) => Role::Waiter,
            }
        }
        InFlightState::Complete(head) => {
            let age_ms = now.saturating_sub(head.stored_at);
            let max_age = request.freshness.max_age;
            let new_enough = max_age.is_none_or(|most| most > 0 && age_ms <= most.saturating_mul(1000));
            let fresh = head.expires_at.is_none_or(|at| now < at) && new_enough && age_ms < retain_ms;
            let convertible = representation::representation(request.endpoint, head, request.response_mode).is_some();
            if fresh && !request.freshness.repair && convertible { Role::ReuseComplete } else { Role::Leader }
        }
    }
}

/// The kind of a response of the Durable Object to the Worker, sent in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The body is the upstream's response to this client's request.
    Leader {
        /// The number of retries of the request.
        retries: u32,
        /// Whether the response may be stored, by its head.
        storable: Result<(), Reason>,
    },
    /// The body is the upstream's response to another client's request.
    Follower {
        /// The number of retries of that request.
        retries: u32,
        /// Whether that client requested usage and this one did not, so that it has to be removed.
        takes_out_usage: bool,
    },
    /// The body is the entry that came of another client's request.
    Entry,
    /// The body is the entry that was retained.
    Retained,
    /// The upstream could not be reached for this client's request.
    Unreachable {
        /// The number of retries of the request.
        retries: u32,
    },
    /// The upstream did not respond in time to this client's request.
    TimedOut {
        /// The number of retries of the request.
        retries: u32,
    },
    /// The object does the rest: the client has its response already, or has disconnected.
    Handled,
    /// A background request that is not needed: the key is being fetched already.
    Busy,
    /// The client fetches on its own.
    Independent,
}

const WITHOUT_USAGE: &str = "without-usage";

impl Disposition {
    /// The header's value.
    pub fn to_header_value(self) -> String {
        match self {
            Disposition::Leader { retries, storable: Ok(()) } => format!("leader {retries}"),
            Disposition::Leader { retries, storable: Err(reason) } => format!("leader {retries} {}", reason.as_str()),
            Disposition::Unreachable { retries } => format!("unreachable {retries}"),
            Disposition::TimedOut { retries } => format!("timed-out {retries}"),
            Disposition::Follower { retries, takes_out_usage: false } => format!("follower {retries}"),
            Disposition::Follower { retries, takes_out_usage: true } => format!("follower {retries} {WITHOUT_USAGE}"),
            Disposition::Entry => "entry".to_owned(),
            Disposition::Retained => "retained".to_owned(),
            Disposition::Handled => "handled".to_owned(),
            Disposition::Busy => "busy".to_owned(),
            Disposition::Independent => "independent".to_owned(),
        }
    }

    /// Reads a header's value. `None`: it is none of these.
    pub fn parse(value: &str) -> Option<Disposition> {
        let mut words = value.split(' ');
        let word = words.next()?;
        let mut number = || words.next()?.parse::<u32>().ok();
        let disposition = match word {
            "leader" => {
                let retries = number()?;
                let storable = match words.next() {
                    Some(token) => Err(Reason::from_token(token)?),
                    None => Ok(()),
                };
                Disposition::Leader { retries, storable }
            }
            "unreachable" => Disposition::Unreachable { retries: number()? },
            "timed-out" => Disposition::TimedOut { retries: number()? },
            "follower" => {
                let retries = number()?;
                let takes_out_usage = match words.next() {
                    Some(WITHOUT_USAGE) => true,
                    Some(_) => return None,
                    None => false,
                };
                Disposition::Follower { retries, takes_out_usage }
            }
            "entry" => Disposition::Entry,
            "retained" => Disposition::Retained,
            "handled" => Disposition::Handled,
            "busy" => Disposition::Busy,
            "independent" => Disposition::Independent,
            _ => return None,
        };
        words.next().is_none().then_some(disposition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::CacheKey;
    use crate::protocol::usage::Usage;

    const PLAIN: ResponseMode = ResponseMode { stream: false, include_usage: false };
    const STREAM: ResponseMode = ResponseMode { stream: true, include_usage: false };
    const USAGE: ResponseMode = ResponseMode { stream: true, include_usage: true };

    fn request(response_mode: ResponseMode, freshness: RequestedFreshness) -> JoinRequest {
        JoinRequest { endpoint: Endpoint::ChatCompletions, response_mode, freshness }
    }

    fn plain(response_mode: ResponseMode) -> JoinRequest {
        request(response_mode, RequestedFreshness::default())
    }

    fn fetching(response_mode: ResponseMode) -> InFlightState<'static> {
        InFlightState::Fetching { response_mode, clients: 1, closed: false, unconvertible: false }
    }

    #[test]
    fn clients_in_the_same_mode_stream_and_others_wait() {
        let role = |theirs, ours| role(fetching(theirs), &plain(ours), 0, 60_000);
        assert_eq!(role(STREAM, STREAM), Role::StreamFollower);
        assert_eq!(role(USAGE, USAGE), Role::StreamFollower);
        assert_eq!(role(PLAIN, PLAIN), Role::Waiter);
        assert_eq!(role(STREAM, PLAIN), Role::Waiter);
        assert_eq!(role(PLAIN, USAGE), Role::Waiter);
        assert_eq!(role(USAGE, STREAM), Role::StreamFollower);
        assert_eq!(role(USAGE, PLAIN), Role::Waiter);
        assert_eq!(role(STREAM, USAGE), Role::Independent);
    }

    #[test]
    fn usage_makes_no_difference_where_the_protocol_always_has_it() {
        let role = |endpoint, theirs, ours| role(fetching(theirs), &JoinRequest { endpoint, ..plain(ours) }, 0, 60_000);
        for (theirs, ours) in [(USAGE, STREAM), (STREAM, USAGE)] {
            assert_eq!(role(Endpoint::Messages, theirs, ours), Role::StreamFollower);
            assert_eq!(role(Endpoint::Custom, theirs, ours), Role::Independent);
        }
    }

    #[test]
    fn a_plain_client_does_not_wait_for_a_stream_that_cannot_be_converted() {
        let state = InFlightState::Fetching { response_mode: STREAM, clients: 1, closed: true, unconvertible: true };
        assert_eq!(role(state, &plain(PLAIN), 0, 60_000), Role::Leader);
        let state = InFlightState::Fetching { response_mode: STREAM, clients: 1, closed: false, unconvertible: true };
        assert_eq!(role(state, &plain(STREAM), 0, 60_000), Role::StreamFollower);
    }

    #[test]
    fn a_refresh_always_leads_and_limits_hold() {
        let refresh = RequestedFreshness { force_refresh: true, ..RequestedFreshness::default() };
        assert_eq!(role(fetching(PLAIN), &request(PLAIN, refresh), 0, 60_000), Role::Leader);
        let full = InFlightState::Fetching {
            response_mode: PLAIN,
            clients: MAX_FOLLOWERS,
            closed: false,
            unconvertible: false,
        };
        assert_eq!(role(full, &plain(PLAIN), 0, 60_000), Role::Independent);
        let closed = InFlightState::Fetching { response_mode: STREAM, clients: 1, closed: true, unconvertible: false };
        assert_eq!(role(closed, &plain(STREAM), 0, 60_000), Role::Independent);
        let background = RequestedFreshness { background: true, ..RequestedFreshness::default() };
        assert_eq!(role(fetching(PLAIN), &request(PLAIN, background), 0, 60_000), Role::Busy);
        assert_eq!(role(InFlightState::Idle, &request(PLAIN, background), 0, 60_000), Role::Leader);
    }

    #[test]
    fn a_retained_response_is_used_only_while_it_would_be_a_hit() {
        let head = EntryHead {
            key: CacheKey::from_hex(&"0".repeat(64)).unwrap(),
            status: 200,
            headers: Vec::new(),
            stored_at: 1_000,
            expires_at: Some(11_000),
            valid_until: None,
            stream: false,
            requested_mode: PLAIN,
            has_usage: false,
            endpoint: "chat/completions".into(),
            model: None,
            usage: Usage::default(),
            upstream_ms: None,
            sketch_len: 0,
        };
        let at = |freshness, now| role(InFlightState::Complete(&head), &request(PLAIN, freshness), now, 5_000);
        assert_eq!(at(RequestedFreshness::default(), 5_999), Role::ReuseComplete);
        assert_eq!(at(RequestedFreshness::default(), 6_000), Role::Leader);
        let max_age = |seconds| RequestedFreshness { max_age: Some(seconds), ..RequestedFreshness::default() };
        assert_eq!(at(max_age(0), 1_000), Role::Leader);
        assert_eq!((at(max_age(1), 2_000), at(max_age(1), 2_001)), (Role::ReuseComplete, Role::Leader));
        assert_eq!(at(RequestedFreshness { repair: true, ..RequestedFreshness::default() }, 1_000), Role::Leader);
        let expired = EntryHead { expires_at: Some(2_000), ..head.clone() };
        assert_eq!(role(InFlightState::Complete(&expired), &plain(PLAIN), 2_000, 5_000), Role::Leader);
    }

    #[test]
    fn every_disposition_is_read_back() {
        let mut all = vec![
            Disposition::Follower { retries: 1, takes_out_usage: false },
            Disposition::Follower { retries: 0, takes_out_usage: true },
            Disposition::Entry,
            Disposition::Retained,
            Disposition::Unreachable { retries: 0 },
            Disposition::TimedOut { retries: 7 },
            Disposition::Handled,
            Disposition::Busy,
            Disposition::Independent,
            Disposition::Leader { retries: 3, storable: Ok(()) },
        ];
        all.extend(Reason::ALL.iter().map(|reason| Disposition::Leader { retries: 0, storable: Err(*reason) }));
        for disposition in all {
            assert_eq!(Disposition::parse(&disposition.to_header_value()), Some(disposition));
        }
        for other in [
            "",
            "leader",
            "leader x",
            "leader 1 nonsense",
            "follower",
            "follower 1 2",
            "follower 1 without-usage 2",
            "someone",
        ] {
            assert_eq!(Disposition::parse(other), None, "{other}");
        }
    }
}
