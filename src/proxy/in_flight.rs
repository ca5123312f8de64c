//! Steps 4 and 5 for one upstream request: fetch it, share the response, store it, write the log line.

use super::coalesce_request::CoalesceRequest;
use super::platform::{
    Buffer, ClientSignal, FetchError, FetchOptions, Platform, ShareOptions, SharedResponse, UpstreamHead,
};
use crate::cache::admission::Capture;
use crate::cache::coalesce::MAX_RETAINED_BYTES;
use crate::cache::entry::{Entry, EntryHead};
use crate::cache::samples::Message;
use crate::http::media_type;
use crate::http::retry::RetrySafety;
use crate::protocol::usage::Usage;
use crate::protocol::{ConversionWatch, Protocol, ResponseMode};
use crate::routing::endpoint::Endpoint;
use crate::status::Reason;
use crate::telemetry::exchange_log::{CoalesceRole, EntryTimes, ExchangeLog, Measurements};
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// A complete response, as the store holds it.
pub struct CompleteEntry<P: Platform> {
    /// Its head.
    pub head: EntryHead,
    /// The encoded entry.
    pub value: P::Buffer,
}

/// The state of a fetch.
pub enum FetchState<P: Platform> {
    /// The upstream has not responded yet.
    AwaitingHead,
    /// The response is coming in.
    Streaming {
        /// The response.
        response: Rc<P::Shared>,
        /// Whether it may be stored, as far as is known.
        storable: bool,
    },
    /// No response came.
    Failed,
    /// The response is complete and stored.
    Complete(Rc<CompleteEntry<P>>),
    /// The response has ended and is not stored.
    Discarded {
        /// The response.
        response: Rc<P::Shared>,
        /// Whether it ended as it should.
        ended_cleanly: bool,
    },
}

impl<P: Platform> Clone for FetchState<P> {
    fn clone(&self) -> FetchState<P> {
        match self {
            FetchState::AwaitingHead => FetchState::AwaitingHead,
            FetchState::Streaming { response, storable } => {
                FetchState::Streaming { response: response.clone(), storable: *storable }
            }
            FetchState::Failed => FetchState::Failed,
            FetchState::Complete(complete) => FetchState::Complete(complete.clone()),
            FetchState::Discarded { response, ended_cleanly } => {
                FetchState::Discarded { response: response.clone(), ended_cleanly: *ended_cleanly }
            }
        }
    }
}

/// Whether a stream can be converted to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conversion {
    NotWatched,
    /// No event so far prevents it.
    Watched,
    Impossible,
}

/// One upstream request, and the clients that wait for it.
pub struct InFlightFetch<P: Platform> {
    /// The mode that its leader wants the response in.
    pub response_mode: ResponseMode,
    key_covers_request: bool,
    /// The header fields that the upstream gets.
    headers: Vec<(String, String)>,
    retries: Cell<u32>,
    conversion: Cell<Conversion>,
    /// How many clients have read the response along.
    followers: Cell<u64>,
    state: RefCell<FetchState<P>>,
    watchers: RefCell<Vec<oneshot::Sender<()>>>,
    waiting: RefCell<Vec<P::Client>>,
}

impl<P: Platform> InFlightFetch<P> {
    /// A fetch that is about to begin.
    pub fn new(request: &CoalesceRequest) -> InFlightFetch<P> {
        InFlightFetch {
            response_mode: request.response_mode,
            key_covers_request: request.key_covers_request,
            headers: request.headers.clone(),
            retries: Cell::new(0),
            conversion: Cell::new(Conversion::NotWatched),
            followers: Cell::new(0),
            state: RefCell::new(FetchState::AwaitingHead),
            watchers: RefCell::default(),
            waiting: RefCell::default(),
        }
    }

    /// Whether the upstream was sent the very same request, so that its errors are the response to this one, too.
    pub fn is_same_request(&self, request: &CoalesceRequest) -> bool {
        // Different values that are not UTF-8 become equal.
        let same_headers = self.headers == request.headers && !request.has_lossy_value();
        self.key_covers_request && self.response_mode == request.response_mode && same_headers
    }

    /// The number of retries of the request, once the response head is there.
    pub fn retries(&self) -> u32 {
        self.retries.get()
    }

    /// A client reads the response along.
    pub fn count_follower(&self) {
        self.followers.set(self.followers.get().saturating_add(1));
    }

    fn transition(&self, state: FetchState<P>) {
        self.state.replace(state);
        self.wake();
    }

    fn wake(&self) {
        for watcher in self.watchers.take() {
            let _ = watcher.send(());
        }
    }

    /// Whether the response is a stream that cannot be converted to an object, as far as is known.
    pub fn is_unconvertible(&self) -> bool {
        self.conversion.get() == Conversion::Impossible
    }

    /// Detects that the response is a stream that cannot be converted. One task does so for all clients that wait for the object.
    pub fn watch_conversion(self: Rc<Self>, platform: &P, response: Rc<P::Shared>, endpoint: Endpoint) {
        let watch = Protocol::of(endpoint)
            .and_then(|protocol| ConversionWatch::new(protocol, &media_type::essence(response.headers())));
        let (Some(mut watch), Conversion::NotWatched) = (watch, self.conversion.get()) else { return };
        self.conversion.set(Conversion::Watched);
        platform.spawn(async move {
            // A body that is too large to store has no other use than for its readers.
            let watching = pin!(response.watch(|chunk| watch.push(chunk)));
            let overflow = pin!(response.overflow());
            if matches!(select(watching, overflow).await, Either::Left((true, _))) {
                self.conversion.set(Conversion::Impossible);
                self.wake();
            }
        });
    }

    /// Resolves at the next change of the state or of `is_unconvertible`. Nothing may be awaited between reading the state and calling this.
    pub async fn changed(&self) {
        let (sender, changed) = oneshot::channel();
        self.watchers.borrow_mut().push(sender);
        let _ = changed.await;
    }

    /// The state.
    pub fn state(&self) -> FetchState<P> {
        self.state.borrow().clone()
    }

    /// Counts a client as waiting until the guard is dropped.
    pub fn wait(&self, client: &P::Client) -> WaiterGuard<'_, P> {
        self.waiting.borrow_mut().push(client.clone());
        WaiterGuard { fetch: self, client: client.clone() }
    }

    fn is_abandoned(&self) -> bool {
        self.waiting.borrow().iter().all(P::Client::is_disconnected)
    }

    /// The number of clients that wait for the response or read it.
    pub fn clients(&self) -> usize {
        let readers = match &*self.state.borrow() {
            FetchState::Streaming { response, .. } => response.readers(),
            _ => 0,
        };
        self.waiting.borrow().len().saturating_add(readers)
    }
}

/// Counts a client as waiting until it is dropped.
pub struct WaiterGuard<'a, P: Platform> {
    fetch: &'a InFlightFetch<P>,
    client: P::Client,
}

impl<P: Platform> Drop for WaiterGuard<'_, P> {
    fn drop(&mut self) {
        let mut waiting = self.fetch.waiting.borrow_mut();
        if let Some(at) = waiting.iter().position(|client| *client == self.client) {
            waiting.swap_remove(at);
        }
    }
}

/// The result of a fetch for its leader.
pub struct FetchedHead<P: Platform> {
    /// The response, or why none came.
    pub response: Result<Rc<P::Shared>, FetchError>,
    /// Whether the response may be stored, by its head.
    pub storable: Result<(), Reason>,
    /// The number of retries of the request.
    pub retries: u32,
    /// Whether the leader's exchange writes the log line. Otherwise the task does, once the response is stored or not.
    pub leader_logs: bool,
}

/// The fetch that later clients join. An older one continues for those that have joined it.
pub type CurrentFetch<P> = Rc<RefCell<Option<Rc<InFlightFetch<P>>>>>;

/// A fetch to be made.
pub struct FetchTask<P: Platform> {
    /// The platform.
    pub platform: P,
    /// The fetch.
    pub fetch: Rc<InFlightFetch<P>>,
    /// The request.
    pub request: CoalesceRequest,
    /// The leader.
    pub client: P::Client,
    /// The current fetch of the key, which other clients join. `None`: this fetch is for its leader alone.
    pub current: Option<CurrentFetch<P>>,
}

impl<P: Platform> FetchTask<P> {
    /// Fetches, shares and stores the response, and tells the set of samples what came of its slot.
    pub async fn run(self, body: P::Body, leader: oneshot::Sender<FetchedHead<P>>) {
        let stored = self.fetch_and_store(body, leader).await;
        let CoalesceRequest { set: Some(set), sample, asks, .. } = self.request else { return };
        match stored {
            Some(until) => _ = self.platform.tell_samples(&set, Message::Stored(sample, until)).await,
            None if asks => _ = self.platform.tell_samples(&set, Message::Failed(sample)).await,
            None => {}
        }
    }

    /// When the stored response expires, in milliseconds since 1970 (`Some(None)`: never). `None`: no response was stored.
    async fn fetch_and_store(&self, body: P::Body, leader: oneshot::Sender<FetchedHead<P>>) -> Option<Option<u64>> {
        let (platform, request) = (&self.platform, &self.request);
        let background = request.freshness.background;
        let sequence = platform.next_sequence();
        let began = platform.now();
        let is_abandoned = || !background && self.fetch.is_abandoned();
        // A response that is not stored is of no use to anyone once its client has disconnected.
        let client = Some(&self.client).filter(|_| self.current.is_none() && request.lifetime_ms.is_err());
        let options = FetchOptions {
            budget: Duration::from_millis(request.budget_ms),
            retry_safety: RetrySafety::Idempotent,
            is_abandoned: &is_abandoned,
            client,
        };
        let outcome = platform.fetch(&request.upstream_request(), body, &options).await;
        let retries = outcome.retries;
        self.fetch.retries.set(retries);
        let measurements = Measurements {
            ms: if background { request.elapsed_ms } else { request.elapsed_ms.saturating_add(outcome.ms) },
            upstream_ms: Some(outcome.ms),
            retries,
            coalesce_role: self.current.as_ref().map(|_| CoalesceRole::Leader),
            ..Measurements::default()
        };
        let response = match outcome.response {
            Ok(response) => response,
            Err(error) => {
                let leader_logs = self.leader_is_present();
                let head = FetchedHead { response: Err(error), storable: Err(error.reason()), retries, leader_logs };
                let delivered = leader.send(head).is_ok();
                self.fetch.transition(FetchState::Failed);
                self.release();
                if !(delivered && leader_logs) {
                    self.log(None, &measurements, Err(error.reason()));
                }
                return None;
            }
        };
        let status = response.status();
        // (5) From here on the response is read to its end, even if the client disconnects: it has been paid for.
        let config = platform.config();
        let capture = request
            .lifetime_ms
            .and_then(|_| Capture::open(request.capture_options(config), status, response.headers()));
        let storable = capture.as_ref().map(|_| ()).map_err(|reason| *reason);
        let response = Rc::new(platform.share(
            response,
            &ShareOptions {
                // No other client joins this fetch, so nothing of it is buffered unless it is stored.
                max_buffered_bytes: if storable.is_err() && self.current.is_none() {
                    0
                } else {
                    config.cache.max_bytes
                },
                leader: Some(&self.client).filter(|_| !background),
                is_storable: storable.is_ok(),
            },
        ));
        let leader_logs = storable.is_err() && self.leader_is_present();
        let delivered =
            leader.send(FetchedHead { response: Ok(response.clone()), storable, retries, leader_logs }).is_ok();
        self.fetch.transition(FetchState::Streaming { response: response.clone(), storable: storable.is_ok() });
        if let Err(reason) = storable
            && self.current.is_none()
            && !leader_logs
        {
            // The only client has disconnected. Without a reader, the end would never come.
            self.log(Some(status.as_u16()), &measurements, Err(reason));
            return None;
        }
        let (captured, spent) =
            match select(pin!(response.read_entry(capture, || platform.now())), pin!(response.overflow())).await {
                Either::Left((captured, _)) => captured,
                Either::Right(((), captured)) => {
                    // Too large to store: release the clients that wait for the complete body.
                    self.fetch.transition(FetchState::Streaming { response: response.clone(), storable: false });
                    captured.await
                }
            };
        let mut times = None;
        let stored = match captured {
            Ok(mut entry) => {
                entry.head.model.clone_from(&request.log.model);
                entry.head.upstream_ms = Some(platform.now().saturating_sub(began));
                times = Some(EntryTimes { stored_at: entry.head.stored_at, expires_at: entry.head.expires_at });
                self.store(&entry, sequence, began).await
            }
            Err(reason) => {
                let ended_cleanly = response.ended_cleanly().await;
                self.fetch.transition(FetchState::Discarded { response: response.clone(), ended_cleanly });
                Err(reason)
            }
        };
        self.release();
        let followers = self.fetch.followers.get();
        if followers > 0 && spent != Usage::default() {
            platform.log_sink().count_shared(&request.log, spent.times(followers));
        }
        if !(delivered && leader_logs) {
            let measurements = Measurements { bytes: response.size(), spent, ..measurements };
            self.log_stored(Some(status.as_u16()), &measurements, stored, times);
        }
        stored.ok().map(|()| times.and_then(|times| times.expires_at))
    }

    /// Whether the leader waits for the response.
    fn leader_is_present(&self) -> bool {
        !self.request.freshness.background && !self.client.is_disconnected()
    }

    /// Releases the clients that wait for the complete response, and stores it. `began`: when the fetch began. If the namespace
    /// has been deleted since, the entry is deleted, too.
    async fn store(&self, entry: &Entry, sequence: u64, began: u64) -> Result<(), Reason> {
        let value = P::Buffer::from_slice(&entry.encode().ok_or(Reason::TooLarge)?);
        let complete = CompleteEntry { head: entry.head.clone(), value: value.clone() };
        self.fetch.transition(FetchState::Complete(Rc::new(complete)));
        let key = &self.request.key;
        self.platform.store(&self.request, &entry.head, &value, sequence).await?;
        if self.platform.namespace_deleted_at(key).await >= began {
            self.forget();
            self.platform.delete(key).await;
            return Err(Reason::Superseded);
        }
        Ok(())
    }

    /// Forgets the fetch at its end, unless its response is retained for later clients.
    fn release(&self) {
        let retained = match &*self.fetch.state.borrow() {
            FetchState::Complete(complete) => {
                self.platform.config().coalesce.retain_ms > 0 && complete.value.byte_len() <= MAX_RETAINED_BYTES
            }
            _ => false,
        };
        if !retained {
            self.forget();
        }
    }

    /// No later client joins the fetch.
    fn forget(&self) {
        let Some(current) = self.current.as_ref() else { return };
        let is_current = current.borrow().as_ref().is_some_and(|current| Rc::ptr_eq(current, &self.fetch));
        if is_current {
            current.replace(None);
        }
    }

    fn log(&self, status: Option<u16>, measurements: &Measurements, stored: Result<(), Reason>) {
        self.log_stored(status, measurements, stored, None);
    }

    /// `times`: those of the entry, if the response is one.
    fn log_stored(
        &self,
        status: Option<u16>,
        measurements: &Measurements,
        stored: Result<(), Reason>,
        times: Option<EntryTimes>,
    ) {
        let mut fields = self.request.log.clone();
        fields.entry = times.filter(|_| stored.is_ok()).or(fields.entry);
        if !self.request.freshness.background {
            fields.status = status;
        }
        ExchangeLog::new(fields, self.platform.log_sink()).finish(measurements, stored);
    }
}
