//! One call upstream: asked, shared with whoever waits for it, kept, and written about.

use super::broadcast::SharedBody;
use crate::cache::admission::Capture;
use crate::cache::coalesce::{CoalesceRequest, MAX_RETAINED_BYTES};
use crate::cache::entry::{self, Entry};
use crate::config::Config;
use crate::http::retry::RetrySafety;
use crate::protocol::ResponseMode;
use crate::proxy::FetchError;
use crate::status::Reason;
use crate::telemetry::exchange_log::{Measurements, CoalesceRole};
use crate::worker::platform::fetch::{self as upstream, Body, FetchOptions};
use crate::worker::platform::time::now;
use crate::worker::store::{self, Store};
use crate::worker::log_exchange;
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use js_sys::Uint8Array;
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use web_sys::AbortSignal;

/// A whole answer worth keeping.
pub struct Finished {
    /// Its head.
    pub head: entry::EntryHead,
    /// All of it, as a store keeps it.
    pub value: Uint8Array,
}

/// Where a call is.
#[derive(Clone)]
pub enum FetchState {
    /// The upstream has not answered yet.
    UpstreamFetch,
    /// Its answer is coming in. `storable`: its head allows it to be kept.
    SharedBody {
        /// The answer.
        answer: Rc<SharedBody>,
        /// Whether its head allows it to be kept.
        storable: bool,
    },
    /// No answer came.
    Failed,
    /// The answer is whole, and worth keeping.
    Finished(Rc<Finished>),
    /// The answer is over, and was not worth keeping. `into_entry`: its end came as it should.
    Gone {
        /// The answer.
        answer: Rc<SharedBody>,
        /// Whether its end came as it should.
        into_entry: bool,
    },
}

/// One call upstream and those who wait for it.
pub struct InFlightFetch {
    /// How its leader wants the answer.
    pub response_mode: ResponseMode,
    /// Whether an error is the same to everyone who has the key, and asks in the same way.
    pub key_covers_request: bool,
    stage: RefCell<FetchState>,
    changes: RefCell<Vec<oneshot::Sender<()>>>,
    /// Those who wait for the answer's head or end.
    waiting: RefCell<Vec<AbortSignal>>,
}

impl InFlightFetch {
    /// A call that is about to be made.
    pub fn new(job: &CoalesceRequest) -> InFlightFetch {
        InFlightFetch {
            response_mode: job.response_mode,
            key_covers_request: job.key_covers_request,
            stage: RefCell::new(FetchState::AwaitingHead),
            changes: RefCell::default(),
            waiting: RefCell::default(),
        }
    }

    fn transition(&self, stage: FetchState) {
        self.stage.replace(stage);
        for change in self.changes.take() {
            let _ = change.send(());
        }
    }

    /// Resolves at the next stage. Nothing may be awaited between looking at the stage and calling this.
    pub async fn changed(&self) {
        let (change, changed) = oneshot::channel();
        self.changes.borrow_mut().push(change);
        let _ = changed.await;
    }

    /// Where it is.
    pub fn stage(&self) -> FetchState {
        self.stage.borrow().clone()
    }

    /// Takes a place among those who wait, until it is dropped.
    pub fn wait(&self, client: &AbortSignal) -> WaiterGuard<'_> {
        self.waiting.borrow_mut().push(client.clone());
        WaiterGuard { call: self, client: client.clone() }
    }

    /// Whether everyone has left who waited.
    fn all_clients_gone(&self) -> bool {
        self.waiting.borrow().iter().all(AbortSignal::aborted)
    }

    /// How many wait for the answer or read it.
    pub fn clients(&self) -> usize {
        let readers = match &*self.stage.borrow() {
            FetchState::Streaming { answer, .. } => answer.readers(),
            _ => 0,
        };
        self.waiting.borrow().len().saturating_add(readers)
    }
}

/// A place among those who wait.
pub struct WaiterGuard<'a> {
    call: &'a InFlightFetch,
    client: AbortSignal,
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        let mut waiting = self.call.waiting.borrow_mut();
        if let Some(at) = waiting.iter().position(|signal| *signal == self.client) {
            waiting.swap_remove(at);
        }
    }
}

/// What the leader gets: the answer, or why none came, and how often the upstream was asked again.
pub type Head = (Result<Rc<SharedBody>, FetchError>, u32);

/// The call that later askers join.
pub type Current = Rc<RefCell<Option<Rc<InFlightFetch>>>>;

/// A call to be made, and what it needs.
pub struct FetchTask {
    /// The call.
    pub call: Rc<InFlightFetch>,
    /// What is asked.
    pub job: CoalesceRequest,
    /// The settings.
    pub config: Rc<Config>,
    /// How long the upstream's head may take.
    pub budget: Duration,
    /// Where the answer is kept.
    pub store: Option<Store>,
    /// Rings when the leader's client leaves.
    pub client: AbortSignal,
    /// Where others find it; `None`: the call is for its leader alone.
    pub current: Option<Current>,
}

impl FetchTask {
    /// Asks the upstream, shares its answer, and stores it.
    pub async fn run(self, body: Body, head_came: oneshot::Sender<Head>) {
        let sequence = store::sequence();
        let (job, config) = (&self.job, &self.config);
        let client_gone = || !job.freshness_wanted.behind && self.call.all_clients_gone();
        // What will not be kept is wanted by nobody once its client has left.
        let client = Some(&self.client).filter(|_| self.current.is_none() && job.store_entry.is_err());
        let options = FetchOptions { config, budget: self.budget, retry_safety: RetrySafety::Always, client_gone: &client_gone, client };
        let asked = upstream::ask(&job.upstream_request(), body, &options).await;
        let measurements = Measurements {
            ms: if job.freshness_wanted.behind { job.ms } else { job.ms.saturating_add(asked.ms) },
            upstream_ms: Some(asked.ms),
            retries: asked.retries,
            coalesce_role: self.current.as_ref().map(|_| CoalesceRole::Leader),
            ..Measurements::default()
        };
        let answer = match asked.answer {
            Ok(answer) => answer,
            Err(failure) => {
                let handed_over = self.deliver_head(head_came, (Err(failure), asked.retries));
                self.call.transition(FetchState::Failed);
                self.release();
                return if !handed_over {
                    self.log_exchange(None, measurements, Err(failure.reason()))
                };
            }
        };
        let status = answer.status.as_u16();
        let capture = job.store_entry.and_then(|_| Capture::open(job.capture_options(config), answer.status, &answer.headers));
        let why_not = capture.as_ref().err().copied();
        // Nobody joins what is for one alone, so nothing of it is held that is not kept.
        let cap = if why_not.is_some() && self.current.is_none() { 0 } else { config.max_bytes };
        let first = Some(&self.client).filter(|_| !job.freshness_wanted.behind);
        let answer = Rc::new(SharedBody::new(answer, config.idle_timeout, cap, first, why_not.is_none()));
        let handed_over = self.deliver_head(head_came, (Ok(answer.clone()), asked.retries));
        self.call.transition(FetchState::Streaming { answer: answer.clone(), storable: why_not.is_none() });
        let into_entry = match select(pin!(answer.into_entry(capture, now)), pin!(answer.overflow())).await {
            Either::Left((into_entry, _)) => into_entry,
            Either::Right(((), into_entry)) => {
                // Who waits for the whole waits for nothing.
                self.call.transition(FetchState::Streaming { answer: answer.clone(), storable: false });
                into_entry.await
            }
        };
        let kept = match into_entry {
            Ok(entry) => self.store_entry(&entry, sequence).await,
            Err(reason) => {
                let into_entry = answer.completed_cleanly().await;
                self.call.transition(FetchState::Discarded { answer: answer.clone(), into_entry });
                Err(reason)
            }
        };
        self.release();
        // What leads to an entry is written about here, where it is known what came of it.
        if why_not.is_none() || !handed_over {
            self.log_exchange(Some(status), Measurements { bytes: answer.size(), ..measurements }, kept);
        }
    }

    /// Gives the leader its answer, who writes about it unless it has left.
    fn deliver_head(&self, leader: oneshot::Sender<Head>, head: Head) -> bool {
        leader.send(head).is_ok() && !self.job.freshness_wanted.behind && !self.client.aborted()
    }

    /// Gives a whole answer to those who wait for it, and stores it, unless a newer one has been meanwhile.
    async fn store_entry(&self, entry: &Entry, sequence: u64) -> Result<(), Reason> {
        let value = entry.encode().map(|value| Uint8Array::from(value.as_slice())).ok_or(Reason::TooLarge)?;
        let finished = Finished { head: entry.head.clone(), value: value.clone() };
        self.call.transition(FetchState::Complete(Rc::new(finished)));
        match &self.store {
            Some(store) => {
                store.put((&self.job.key, self.job.salt.as_ref()), &entry.head, &value, sequence, &self.config).await
            }
            None => Err(Reason::StoreMissing),
        }
    }

    fn is_current(&self) -> bool {
        self.current
            .as_ref()
            .is_none_or(|current| current.borrow().as_ref().is_some_and(|current| Rc::ptr_eq(current, &self.call)))
    }

    /// Drops the call at its end, if it is of no use to later callers.
    fn release(&self) {
        let lingers = match &*self.call.stage.borrow() {
            FetchState::Complete(finished) => {
                let length = usize::try_from(finished.value.length()).unwrap_or(usize::MAX);
                self.config.coalesce_ttl_ms > 0 && length <= MAX_RETAINED_BYTES
            }
            _ => false,
        };
        if let Some(current) = self.current.as_ref().filter(|_| !lingers && self.is_current()) {
            current.replace(None);
        }
    }

    fn log_exchange(&self, status: Option<u16>, measurements: Measurements, kept: Result<(), Reason>) {
        let mut log_fields = self.job.log_fields.clone();
        if !self.job.freshness_wanted.behind {
            log_fields.status = status;
        }
        log_exchange(&log_fields, measurements, kept);
    }
}
