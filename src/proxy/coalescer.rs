//! One cache key's coalescer: every request with the key that may be shared goes through it.

use super::coalesce_request::CoalesceRequest;
use super::in_flight::{CurrentFetch, FetchState, FetchTask, FetchedHead, InFlightFetch};
use super::platform::{ClientSignal, FetchError, Platform, SharedResponse};
use crate::cache::coalesce::{self, Disposition, InFlightState, Role};
use crate::http::media_type;
use crate::protocol::Protocol;
use crate::status::Reason;
use crate::telemetry::exchange_log::{CoalesceRole, ExchangeLog, Measurements};
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// A cache key's coalescer.
pub struct Coalescer<P: Platform> {
    current: CurrentFetch<P>,
    /// For fetches after two that have failed.
    retries: Permits,
}

impl<P: Platform> Default for Coalescer<P> {
    fn default() -> Coalescer<P> {
        Coalescer { current: Rc::default(), retries: Permits::new(MAX_CONCURRENT_RETRIES) }
    }
}

/// The coalescer's reply to a client.
pub enum CoalescerReply<P: Platform> {
    /// The response to the client's own request.
    Leader {
        /// The response.
        response: P::Upstream,
        /// The number of retries of the request.
        retries: u32,
        /// Whether the response may be stored, by its head.
        storable: Result<(), Reason>,
    },
    /// The response to another client's request.
    Follower {
        /// The response.
        response: P::Follower,
        /// How the Durable Object handled the request.
        disposition: Disposition,
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
        /// The number of retries of the request.
        retries: u32,
    },
    /// The coalescer does the rest.
    Handled,
    /// A background request that is not needed.
    Busy,
    /// The client fetches on its own.
    Independent,
}

impl<P: Platform> CoalescerReply<P> {
    /// The kind of the reply, for the header that the Durable Object sends.
    pub fn disposition(&self) -> Disposition {
        match self {
            CoalescerReply::Leader { retries, storable, .. } => {
                Disposition::Leader { retries: *retries, storable: *storable }
            }
            CoalescerReply::Follower { disposition, .. } => *disposition,
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
            CoalescerReply::Independent => Disposition::Independent,
        }
    }
}

/// The number of clients that fetch at the same time after two fetches of their key have failed.
const MAX_CONCURRENT_RETRIES: usize = 4;

impl<P: Platform> Coalescer<P> {
    /// Forgets the current fetch: its entry has been deleted. Clients that have joined it still get its response.
    pub fn forget(&self) {
        self.current.replace(None);
    }

    /// Gives a client the response to its request.
    ///
    /// If a fetch fails before its response head, one of the clients that wait for it leads again, and the others join that
    /// one. After a second failure they fetch for themselves, a few at a time.
    pub async fn join(
        &self,
        platform: &P,
        mut request: CoalesceRequest,
        body: &P::Buffer,
        client: P::Client,
    ) -> CoalescerReply<P> {
        let joined_at = platform.now();
        let budget_ms = request.budget_ms;
        for _ in 0..2 {
            if let Some(reply) = self.try_join(platform, &request, body, &client, joined_at).await {
                return reply;
            }
            request.budget_ms = budget_ms.saturating_sub(platform.now().saturating_sub(joined_at));
        }
        let left = Duration::from_millis(request.budget_ms);
        let permit = pin!(self.retries.acquire());
        match select(permit, pin!(platform.sleep(left))).await {
            Either::Left((_permit, _)) => {
                request.budget_ms = budget_ms.saturating_sub(platform.now().saturating_sub(joined_at));
                self.lead(platform, request, body, &client, None).await
            }
            Either::Right(_) => CoalescerReply::Failed { error: FetchError::TimedOut, retries: 0 },
        }
    }

    /// `None`: the fetch that the client waited for has failed.
    async fn try_join(
        &self,
        platform: &P,
        request: &CoalesceRequest,
        body: &P::Buffer,
        client: &P::Client,
        joined_at: u64,
    ) -> Option<CoalescerReply<P>> {
        loop {
            let current = self.current.borrow().clone();
            let state = current.as_ref().map(|fetch| fetch.state());
            let in_flight = match (&current, &state) {
                (_, Some(FetchState::Complete(complete))) => InFlightState::Complete(&complete.head),
                (Some(fetch), Some(FetchState::AwaitingHead)) => InFlightState::Fetching {
                    response_mode: fetch.response_mode,
                    clients: fetch.clients(),
                    closed: false,
                    unconvertible: false,
                },
                (Some(fetch), Some(FetchState::Streaming { response, .. })) => InFlightState::Fetching {
                    response_mode: fetch.response_mode,
                    clients: fetch.clients(),
                    closed: response.has_overflowed() || !response.status().is_success(),
                    unconvertible: fetch.is_unconvertible(),
                },
                _ => InFlightState::Idle,
            };
            let retain_ms = platform.config().coalesce.retain_ms;
            let role = coalesce::role(in_flight, &request.join_request(), platform.now(), retain_ms);
            return Some(match (role, current, state) {
                (Role::Leader, ..) => {
                    let current = Some(self.current.clone());
                    self.lead(platform, request.clone(), body, client, current).await
                }
                (Role::ReuseComplete, Some(fetch), Some(FetchState::Complete(complete))) => {
                    if platform.namespace_deleted_at(&request.key).await >= complete.head.stored_at {
                        self.current.borrow_mut().take_if(|current| Rc::ptr_eq(current, &fetch));
                        continue;
                    }
                    CoalescerReply::Entry { value: complete.value.clone(), retained: true }
                }
                (Role::Busy, ..) => CoalescerReply::Busy,
                (Role::StreamFollower | Role::Waiter, Some(fetch), _) => {
                    let _guard = fetch.wait(client);
                    let followed = follow(platform, &fetch, role, request);
                    match select(pin!(followed), pin!(client.disconnected())).await {
                        Either::Left((Followed::Reply(reply), _)) => reply,
                        Either::Left((Followed::Failed, _)) => return None,
                        Either::Left((Followed::Unconvertible, _)) => continue,
                        Either::Right(_) => {
                            let waited = platform.now().saturating_sub(joined_at);
                            let measurements = Measurements {
                                ms: request.elapsed_ms.saturating_add(waited),
                                coalesce_role: Some(CoalesceRole::Follower),
                                waited_ms: Some(waited),
                                ..Measurements::default()
                            };
                            ExchangeLog::new(request.log.clone(), platform.log_sink()).finish(&measurements, Ok(()));
                            CoalescerReply::Handled
                        }
                    }
                }
                _ => CoalescerReply::Independent,
            });
        }
    }

    /// Begins a fetch. Its leader gets the response as it comes. `current`: where other clients find it, if they may.
    async fn lead(
        &self,
        platform: &P,
        request: CoalesceRequest,
        body: &P::Buffer,
        client: &P::Client,
        current: Option<CurrentFetch<P>>,
    ) -> CoalescerReply<P> {
        let fetch = Rc::new(InFlightFetch::new(&request));
        if let Some(current) = &current {
            current.replace(Some(fetch.clone()));
        }
        let _guard = fetch.wait(client);
        let background = request.freshness.background;
        let task =
            FetchTask { platform: platform.clone(), fetch: fetch.clone(), request, client: client.clone(), current };
        let (sender, head) = oneshot::channel();
        platform.spawn(task.run(platform.buffered_body(body), sender));
        if background {
            return CoalescerReply::Handled;
        }
        let Ok(FetchedHead { response, storable, retries, .. }) = head.await else {
            return CoalescerReply::Independent;
        };
        match response.map(|response| response.for_leader()) {
            Ok(Some(response)) => CoalescerReply::Leader { response, retries, storable },
            Ok(None) => CoalescerReply::Independent,
            Err(error) => CoalescerReply::Failed { error, retries },
        }
    }
}

/// The result for a client that waits for another's fetch.
enum Followed<P: Platform> {
    /// It gets this.
    Reply(CoalescerReply<P>),
    /// The fetch failed before its response head.
    Failed,
    /// The stream cannot be converted to an object for this client.
    Unconvertible,
}

/// Waits for a response that a client which does not lead can use.
async fn follow<P: Platform>(
    platform: &P,
    fetch: &Rc<InFlightFetch<P>>,
    role: Role,
    request: &CoalesceRequest,
) -> Followed<P> {
    let (theirs, ours) = (fetch.response_mode, request.response_mode);
    let separates_usage = Protocol::of(request.endpoint).is_some_and(Protocol::separates_usage);
    let takes_out_usage = separates_usage && theirs.include_usage && !ours.include_usage;
    // A response that is not a stream, although one was requested, has to be complete before it is converted.
    let is_live = |response: &P::Shared| {
        role == Role::StreamFollower
            && (!takes_out_usage || media_type::is_event_stream(&media_type::essence(response.headers())))
    };
    let share = |response: &P::Shared, takes_out_usage: bool| {
        let disposition = Disposition::Follower { retries: fetch.retries(), takes_out_usage };
        let follower = response.for_follower(platform.config().cache.shared_scope, disposition);
        if follower.is_some() {
            fetch.count_follower();
        }
        let reply = |response| CoalescerReply::Follower { response, disposition };
        Followed::Reply(follower.map_or(CoalescerReply::Independent, reply))
    };
    loop {
        match fetch.state() {
            FetchState::AwaitingHead => {}
            // Only what will be stored is shared.
            FetchState::Streaming { response, storable: true } if is_live(&response) => {
                return share(&response, takes_out_usage);
            }
            FetchState::Streaming { response, storable: true } if theirs.stream && !ours.stream => {
                if fetch.is_unconvertible() {
                    return Followed::Unconvertible;
                }
                fetch.clone().watch_conversion(platform, response, request.endpoint);
            }
            FetchState::Streaming { storable: true, .. } => {}
            // An error is the same for every client that sends the same request. It is shared once it is complete.
            FetchState::Streaming { response, .. }
                if fetch.is_same_request(request) && is_error(&*response) && !response.has_overflowed() => {}
            FetchState::Discarded { response, ended_cleanly: true }
                if fetch.is_same_request(request) && is_error(&*response) =>
            {
                return share(&response, false);
            }
            FetchState::Complete(complete) => {
                return Followed::Reply(CoalescerReply::Entry { value: complete.value.clone(), retained: false });
            }
            FetchState::Failed => return Followed::Failed,
            FetchState::Streaming { .. } | FetchState::Discarded { .. } => {
                return Followed::Reply(CoalescerReply::Independent);
            }
        }
        fetch.changed().await;
    }
}

fn is_error(response: &impl SharedResponse) -> bool {
    response.status().is_client_error() || response.status().is_server_error()
}

/// Limits how many clients do something at the same time.
struct Permits {
    free: Cell<usize>,
    waiting: RefCell<VecDeque<oneshot::Sender<()>>>,
}

struct Permit<'a>(&'a Permits);

impl Permits {
    fn new(count: usize) -> Permits {
        Permits { free: Cell::new(count), waiting: RefCell::default() }
    }

    async fn acquire(&self) -> Permit<'_> {
        loop {
            if let Some(left) = self.free.get().checked_sub(1) {
                self.free.set(left);
                return Permit(self);
            }
            let (sender, woken) = oneshot::channel();
            self.waiting.borrow_mut().push_back(sender);
            let _ = woken.await;
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get().saturating_add(1));
        // A client that has stopped waiting is skipped.
        let mut waiting = self.0.waiting.borrow_mut();
        while waiting.pop_front().is_some_and(|next| next.send(()).is_err()) {}
    }
}
