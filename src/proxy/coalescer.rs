//! One cache key's coalescer: the place where all clients of the key meet.

use super::coalesce_request::CoalesceRequest;
use super::in_flight::{CurrentFetch, FetchState, FetchTask, FetchedHead, InFlightFetch};
use super::platform::{ClientSignal, FetchError, Platform, SharedResponse};
use crate::cache::coalesce::{self, Disposition, InFlightState, Role};
use crate::status::Reason;
use crate::telemetry::exchange_log::{CoalesceRole, ExchangeLog, Measurements};
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// A cache key's coalescer.
pub struct Coalescer<P: Platform> {
    current: CurrentFetch<P>,
}

impl<P: Platform> Default for Coalescer<P> {
    fn default() -> Coalescer<P> {
        Coalescer { current: Rc::default() }
    }
}

/// What the coalescer gives a client.
pub enum CoalescerReply<P: Platform> {
    /// The response to the client's own request.
    Leader {
        /// The response.
        response: P::Upstream,
        /// How often the request was retried.
        retries: u32,
        /// Whether the response may be stored, by its head.
        storable: Result<(), Reason>,
    },
    /// The response to another client's request.
    Follower(P::Follower),
    /// An encoded entry. `retained`: it was there before the client came.
    Entry {
        /// The encoded entry.
        value: P::Buffer,
        /// Whether it was there before the client came.
        retained: bool,
    },
    /// The client's request was sent, and no response came.
    Failed {
        /// Why.
        error: FetchError,
        /// How often the request was retried.
        retries: u32,
    },
    /// The coalescer does the rest.
    Handled,
    /// A background request that is not needed.
    Busy,
    /// The client fetches on its own.
    Independent {
        /// Whether its time for the response head has run already.
        late: bool,
    },
}

/// The same as the client's exchange sees it.
pub enum Joined<P: Platform> {
    /// An upstream response.
    Response {
        /// The response.
        response: P::Upstream,
        /// The client's role.
        role: CoalesceRole,
        /// How often the request was retried.
        retries: u32,
        /// Whether the response may be stored, by its head.
        storable: Result<(), Reason>,
    },
    /// An encoded entry. `retained`: it was there before the client came.
    Entry {
        /// The encoded entry.
        value: P::Buffer,
        /// Whether it was there before the client came.
        retained: bool,
    },
    /// The client's request was sent, and no response came.
    Failed {
        /// Why.
        error: FetchError,
        /// How often the request was retried.
        retries: u32,
    },
    /// The coalescer does the rest.
    Handled,
    /// A background request that is not needed.
    Busy,
    /// The client fetches on its own.
    Independent {
        /// Whether its time for the response head has run already.
        late: bool,
    },
}

impl<P: Platform> CoalescerReply<P> {
    /// What the reply is, as the Durable Object says it to the Worker.
    pub fn disposition(&self) -> Disposition {
        match self {
            CoalescerReply::Leader { retries, storable, .. } => {
                Disposition::Leader { retries: *retries, storable: *storable }
            }
            CoalescerReply::Follower(_) => Disposition::Follower,
            CoalescerReply::Entry { retained: true, .. } => Disposition::Retained,
            CoalescerReply::Entry { retained: false, .. } => Disposition::Entry,
            CoalescerReply::Failed { error: FetchError::Unreachable, retries } => {
                Disposition::Unreachable { retries: *retries }
            }
            CoalescerReply::Failed { error: FetchError::TimedOut, retries } => {
                Disposition::TimedOut { retries: *retries }
            }
            CoalescerReply::Handled => Disposition::Handled,
            CoalescerReply::Busy => Disposition::Busy,
            CoalescerReply::Independent { late } => Disposition::Independent { late: *late },
        }
    }
}

impl<P: Platform> Coalescer<P> {
    /// Forgets the current fetch: its entry has been deleted. Clients that have joined it still get its response.
    pub fn forget(&self) {
        self.current.replace(None);
    }

    /// A client asks for the response to its request.
    pub async fn join(
        &self,
        platform: &P,
        request: CoalesceRequest,
        body: P::Body,
        client: P::Client,
    ) -> CoalescerReply<P> {
        let came = platform.now();
        let current = self.current.borrow().clone();
        let state = current.as_ref().map(|fetch| fetch.state());
        let in_flight = match (&current, &state) {
            (_, Some(FetchState::Complete(complete))) => InFlightState::Complete(&complete.head),
            (Some(fetch), Some(FetchState::AwaitingHead)) => {
                InFlightState::Fetching { response_mode: fetch.response_mode, clients: fetch.clients(), closed: false }
            }
            (Some(fetch), Some(FetchState::Streaming { response, .. })) => InFlightState::Fetching {
                response_mode: fetch.response_mode,
                clients: fetch.clients(),
                closed: response.has_overflowed() || !response.status().is_success(),
            },
            _ => InFlightState::Idle,
        };
        let retain_ms = platform.config().coalesce.retain_ms;
        let role = coalesce::role(in_flight, &request.join_request(), came, retain_ms);
        match (role, current, state) {
            (Role::Leader, ..) => self.lead(platform, request, body, client).await,
            (Role::ReuseComplete, _, Some(FetchState::Complete(complete))) => {
                CoalescerReply::Entry { value: complete.value.clone(), retained: true }
            }
            (Role::ReuseComplete, ..) => CoalescerReply::Busy,
            (Role::StreamFollower | Role::Waiter, Some(fetch), _) => {
                let _guard = fetch.wait(&client);
                let reply = {
                    let followed = follow(&fetch, role, &request, platform.config().cache.shared_scope);
                    match select(pin!(followed), pin!(client.disconnected())).await {
                        Either::Left((reply, _)) => Some(reply),
                        Either::Right(_) => None,
                    }
                };
                match reply {
                    Some(reply) => reply,
                    None => {
                        let waited = platform.now().saturating_sub(came);
                        let measurements = Measurements {
                            ms: request.elapsed_ms.saturating_add(waited),
                            coalesce_role: Some(CoalesceRole::Follower),
                            waited_ms: Some(waited),
                            ..Measurements::default()
                        };
                        ExchangeLog::new(request.log, platform.log_sink()).finish(&measurements, Ok(()));
                        CoalescerReply::Handled
                    }
                }
            }
            _ => CoalescerReply::Independent { late: false },
        }
    }

    /// Begins a fetch. Its leader gets the response as it comes.
    async fn lead(
        &self,
        platform: &P,
        request: CoalesceRequest,
        body: P::Body,
        client: P::Client,
    ) -> CoalescerReply<P> {
        let fetch = Rc::new(InFlightFetch::new(&request));
        self.current.replace(Some(fetch.clone()));
        let _guard = fetch.wait(&client);
        let background = request.freshness.background;
        let timeout = request.upstream_request().timeout(platform.config().upstream.timeout);
        let task = FetchTask {
            platform: platform.clone(),
            fetch: fetch.clone(),
            budget: timeout.saturating_sub(Duration::from_millis(request.elapsed_ms)),
            request,
            client: client.clone(),
            current: Some(self.current.clone()),
        };
        let (sender, head) = oneshot::channel();
        platform.spawn(task.run(body, sender));
        if background {
            return CoalescerReply::Handled;
        }
        let Ok(FetchedHead { response, storable, retries, .. }) = head.await else {
            return CoalescerReply::Independent { late: false };
        };
        match response.map(|response| response.for_leader()) {
            Ok(Some(response)) => CoalescerReply::Leader { response, retries, storable },
            Ok(None) => CoalescerReply::Independent { late: false },
            Err(error) => CoalescerReply::Failed { error, retries },
        }
    }
}

/// Waits for a response that a client which does not lead can use. `across_tenants`: the clients are not one tenant.
async fn follow<P: Platform>(
    fetch: &InFlightFetch<P>,
    role: Role,
    request: &CoalesceRequest,
    across_tenants: bool,
) -> CoalescerReply<P> {
    let same_request = fetch.key_covers_request && fetch.response_mode == request.response_mode;
    let share = |response: &P::Shared| {
        let follower = response.for_follower(across_tenants);
        follower.map_or(CoalescerReply::Independent { late: false }, CoalescerReply::Follower)
    };
    loop {
        match fetch.state() {
            FetchState::AwaitingHead => {}
            FetchState::Streaming { response, .. }
                if role == Role::StreamFollower && response.status().is_success() =>
            {
                return share(&response);
            }
            // An error is the same for every client that sends the same request. It is shared once it is complete.
            FetchState::Streaming { response, .. }
                if same_request && !response.status().is_success() && !response.has_overflowed() => {}
            FetchState::Discarded { response, ended_cleanly: true }
                if same_request && !response.status().is_success() =>
            {
                return share(&response);
            }
            FetchState::Streaming { storable: true, .. } => {}
            FetchState::Complete(complete) => {
                return CoalescerReply::Entry { value: complete.value.clone(), retained: false };
            }
            FetchState::Failed => return CoalescerReply::Independent { late: true },
            FetchState::Streaming { .. } | FetchState::Discarded { .. } => {
                return CoalescerReply::Independent { late: false };
            }
        }
        fetch.changed().await;
    }
}
