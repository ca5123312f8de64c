//! The flight of a question: a Durable Object that all callers of one key meet in, and how they reach it.

use super::clock::now;
use super::store::Store;
use super::upstream::{self, Answer, Body, Effort};
use super::{config, convert, write};
use crate::capture::Capture;
use crate::config::Config;
use crate::dialect::Carriage;
use crate::entry::{self, Entry};
use crate::flight::{self, Job, Join, MAX_LINGERING, Phase};
use crate::flow::Failure;
use crate::headers;
use crate::key::Key;
use crate::log::{Measures, Part};
use crate::retry::Repeatable;
use crate::status::Reason;
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, StatusCode};
use js_sys::{Array, Promise, Reflect, Uint8Array};
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortController, AbortSignal, ReadableStream, RequestInit, RequestRedirect, Response};
use worker::{DurableObject, Env, State, durable_object};

/// The binding's name in `wrangler.toml`.
const BINDING: &str = "FLIGHTS";
/// What a flight's answer is, in a header between it and its callers.
const DISPOSITION: &str = "x-reprise-flight";
/// Where a job ends and the body begins: the length of the job, big-endian.
const LENGTH: u32 = 4;

#[wasm_bindgen]
extern "C" {
    /// The flights as the platform gives them.
    pub type Namespace;
    type Stub;

    #[wasm_bindgen(method, js_name = idFromName, catch)]
    fn id_from_name(this: &Namespace, name: &str) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn get(this: &Namespace, id: &JsValue) -> Result<Stub, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn fetch(this: &Stub, url: &str, init: &RequestInit) -> Result<Promise, JsValue>;
}

#[wasm_bindgen(module = "/src/edge/relay.js")]
extern "C" {
    type Relay;

    #[wasm_bindgen(constructor)]
    fn new(body: &ReadableStream, idle_ms: f64, call: &AbortController, cap: f64) -> Relay;

    #[wasm_bindgen(method, getter)]
    fn ended(this: &Relay) -> Promise;

    #[wasm_bindgen(method, getter)]
    fn overflowed(this: &Relay) -> bool;

    #[wasm_bindgen(method, getter)]
    fn readers(this: &Relay) -> u32;

    #[wasm_bindgen(method, getter)]
    fn size(this: &Relay) -> f64;

    #[wasm_bindgen(method)]
    fn chunks(this: &Relay) -> Array;

    #[wasm_bindgen(method, catch)]
    fn attach(this: &Relay, length: Option<f64>) -> Result<ReadableStream, JsValue>;
}

/// What a caller gets from a flight.
pub enum Landed {
    /// The upstream's answer as it comes.
    Answer(Answer, Part),
    /// The whole answer, as a store would keep it. `finished`: it was there already.
    Entry {
        /// The entry.
        value: Uint8Array,
        /// Whether it was there before this caller came.
        finished: bool,
    },
    /// The caller's question was asked, and no answer came.
    Failed(Failure),
    /// The flight sees to the rest: the caller has its answer already, or has left.
    Done,
    /// The caller has its answer already, and the next one is being asked for.
    Busy,
    /// The caller goes on by itself.
    Alone,
}

impl Namespace {
    /// The flights that the environment binds, if any.
    pub fn bound(env: &Env) -> Option<Namespace> {
        let binding = Reflect::get(env, &BINDING.into()).ok()?;
        (!binding.is_undefined() && !binding.is_null()).then(|| binding.unchecked_into())
    }

    /// Takes a question to its flight. Whatever fails on the way there leaves the caller [`Landed::Alone`].
    pub async fn land(&self, job: &Job, body: &Uint8Array, client: &AbortSignal) -> Landed {
        let landed = self.try_to_land(job, body, client).await;
        landed.unwrap_or(if client.aborted() { Landed::Done } else { Landed::Alone })
    }

    /// Tells a question's flight to forget its answer, and not to store the one that is on its way.
    pub async fn forget(&self, key: &Key) {
        let init = RequestInit::new();
        init.set_method("DELETE");
        let told = || self.get(&self.id_from_name(&key.to_string()).ok()?).ok()?.fetch("https://flight/", &init).ok();
        if let Some(told) = told() {
            let _ = JsFuture::from(told).await;
        }
    }

    async fn try_to_land(&self, job: &Job, body: &Uint8Array, client: &AbortSignal) -> Option<Landed> {
        let stub = self.get(&self.id_from_name(&job.key.to_string()).ok()?).ok()?;
        let job = serde_json::to_vec(job).ok()?;
        let length = u32::try_from(job.len()).ok()?;
        let at = LENGTH.checked_add(length)?;
        let frame = Uint8Array::new_with_length(at.checked_add(body.length())?);
        frame.set(&Uint8Array::from(length.to_be_bytes().as_slice()), 0);
        frame.set(&Uint8Array::from(job.as_slice()), LENGTH);
        frame.set(body, at);
        let init = RequestInit::new();
        init.set_method("POST");
        init.set_body(&frame);
        init.set_redirect(RequestRedirect::Manual);
        init.set_signal(Some(client));
        let response = JsFuture::from(stub.fetch("https://flight/", &init).ok()?).await.ok()?;
        let response: Response = response.unchecked_into();
        let disposition = response.headers().get(DISPOSITION).ok()??;
        let answer =
            |part| Landed::Answer(Answer::landed(convert::with_header(&response, None, DISPOSITION, None)), part);
        Some(match disposition.as_str() {
            "leader" => answer(Part::Leader),
            "follower" => answer(Part::Follower),
            "collapsed" | "finished" => {
                let buffer = JsFuture::from(response.array_buffer().ok()?).await.ok()?;
                Landed::Entry { value: Uint8Array::new(&buffer), finished: disposition == "finished" }
            }
            "unreachable" => Landed::Failed(Failure::Unreachable),
            "timed-out" => Landed::Failed(Failure::TimedOut),
            "done" => Landed::Done,
            "busy" => Landed::Busy,
            _ => Landed::Alone,
        })
    }
}

/// An answer on its way to everyone who waits for it.
struct Running {
    response: Response,
    status: StatusCode,
    headers: HeaderMap,
    relay: Option<Relay>,
    /// The leader's, who has to be there before the first byte is dropped.
    leaders: Option<Response>,
    /// Whether its head allows it to be kept.
    storable: bool,
}

impl Running {
    fn new(answer: Answer, config: &Config, storable: bool, behind: bool) -> Running {
        // Lengths are exact below 2^53, and a timer cannot be set for longer than this.
        let idle = config.idle_timeout.as_millis().min(i32::MAX as u128) as f64;
        let cap = config.max_bytes as f64;
        let mut body = answer.response.body();
        let mut leaders = None;
        // A relay decodes a coded body, which is then coded anew: the leader gets the bytes as they came.
        let coded = answer.headers.contains_key(CONTENT_ENCODING) && !behind;
        if let Some([own, others]) = body.as_ref().filter(|_| coded).map(convert::tee) {
            leaders = Some(convert::with_header(&answer.response, Some(&own), DISPOSITION, Some("leader")));
            body = Some(others);
        }
        let relay = body.zip(answer.call()).map(|(body, call)| Relay::new(&body, idle, call, cap));
        let Answer { response, status, headers, .. } = answer;
        let mut running = Running { response, status, headers, relay, leaders, storable };
        if running.leaders.is_none() && !behind {
            running.leaders = running.attach(Part::Leader);
        }
        running
    }

    /// The answer from its first byte. `None`: that is gone.
    fn attach(&self, part: Part) -> Option<Response> {
        let coded = self.headers.contains_key(CONTENT_ENCODING);
        let length = headers::content_length(&self.headers).filter(|_| !coded).map(|length| length as f64);
        let body = self.relay.as_ref().map(|relay| relay.attach(length)).transpose().ok()?;
        let disposition = if part == Part::Leader { "leader" } else { "follower" };
        Some(convert::with_header(&self.response, body.as_ref(), DISPOSITION, Some(disposition)))
    }

    fn overflowed(&self) -> bool {
        self.relay.as_ref().is_some_and(Relay::overflowed)
    }
}

/// What the leader gets.
type Head = Result<Rc<Running>, Failure>;

/// A whole answer worth keeping.
struct Finished {
    head: entry::Head,
    value: Uint8Array,
}

#[derive(Clone)]
enum Stage {
    /// The upstream has not answered yet.
    Asking,
    /// Its answer is coming in.
    Running(Rc<Running>),
    /// No answer came.
    Failed,
    /// The answer is whole, and worth keeping.
    Finished(Rc<Finished>),
    /// The answer is over, and was not worth keeping.
    Gone(Rc<Running>),
}

/// One call upstream and those who wait for it.
struct Call {
    carriage: Carriage,
    stage: RefCell<Stage>,
    changes: RefCell<Vec<oneshot::Sender<()>>>,
    /// Those who wait for the answer's head or end.
    waiting: RefCell<Vec<AbortSignal>>,
}

impl Call {
    fn advance(&self, stage: Stage) {
        self.stage.replace(stage);
        for change in self.changes.take() {
            let _ = change.send(());
        }
    }

    /// Resolves at the next stage. Nothing may be awaited between looking at the stage and calling this.
    async fn changed(&self) {
        let (change, changed) = oneshot::channel();
        self.changes.borrow_mut().push(change);
        let _ = changed.await;
    }

    fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    fn wait(&self, client: &AbortSignal) -> Seat<'_> {
        self.waiting.borrow_mut().push(client.clone());
        Seat { call: self, client: client.clone() }
    }

    /// Whether everyone has left who waited.
    fn is_deserted(&self) -> bool {
        self.waiting.borrow().iter().all(AbortSignal::aborted)
    }

    fn callers(&self) -> usize {
        let readers = match &*self.stage.borrow() {
            Stage::Running(running) => running.relay.as_ref().map_or(0, Relay::readers),
            _ => 0,
        };
        self.waiting.borrow().len().saturating_add(usize::try_from(readers).unwrap_or(usize::MAX))
    }
}

/// A place among those who wait.
struct Seat<'a> {
    call: &'a Call,
    client: AbortSignal,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut waiting = self.call.waiting.borrow_mut();
        if let Some(at) = waiting.iter().position(|signal| *signal == self.client) {
            waiting.swap_remove(at);
        }
    }
}

/// The Durable Object behind the binding `FLIGHTS`: one for each key.
#[durable_object]
pub struct Flight {
    state: State,
    env: Env,
    /// The call that later askers join; an older one goes on for those who have joined it.
    current: Rc<RefCell<Option<Rc<Call>>>>,
}

impl DurableObject for Flight {
    fn new(state: State, env: Env) -> Flight {
        Flight { state, env, current: Rc::default() }
    }

    async fn fetch(&self, request: worker::Request) -> worker::Result<worker::Response> {
        let request = request.inner();
        if request.method() == "DELETE" {
            self.current.replace(None);
            return Ok(word("done").into());
        }
        let buffer = JsFuture::from(request.array_buffer()?).await?;
        let response = self.meet(&Uint8Array::new(&buffer), request.signal()).await;
        Ok(response.unwrap_or_else(|| word("alone")).into())
    }
}

/// An answer that has nothing but its disposition.
fn word(disposition: &str) -> Response {
    convert::response(200, &[(DISPOSITION.to_owned(), disposition.to_owned())], None)
}

fn whole(finished: &Finished, disposition: &str) -> Response {
    convert::response(200, &[(DISPOSITION.to_owned(), disposition.to_owned())], Some(&finished.value))
}

impl Flight {
    async fn meet(&self, frame: &Uint8Array, client: AbortSignal) -> Option<Response> {
        let length: [u8; 4] = frame.subarray(0, LENGTH).to_vec().try_into().ok()?;
        let at = LENGTH.checked_add(u32::from_be_bytes(length))?;
        let job: Job = serde_json::from_slice(&frame.subarray(LENGTH, at).to_vec()).ok()?;
        let body = frame.subarray(at, frame.length());
        let config = config(&self.env).ok()?;
        let came = now();

        let current = self.current.borrow().clone();
        let stage = current.as_ref().map(|call| call.stage());
        let phase = match (&current, &stage) {
            (_, Some(Stage::Finished(finished))) => Phase::Finished(&finished.head),
            (Some(call), Some(Stage::Asking | Stage::Running(_))) => Phase::Running {
                carriage: call.carriage,
                callers: call.callers(),
                overflowed: matches!(&stage, Some(Stage::Running(running)) if running.overflowed()),
            },
            _ => Phase::Idle,
        };
        let join = flight::join(phase, &job, came, config.coalesce_ttl_ms);
        Some(match (join, current, stage) {
            (Join::Lead, ..) => self.lead(job, body, config, client).await,
            (Join::Take, _, Some(Stage::Finished(finished))) => whole(&finished, "finished"),
            (Join::Take, ..) => word("busy"),
            (Join::Follow | Join::Await, Some(call), _) => {
                let _seat = call.wait(&client);
                match select(pin!(follow(&call, join)), pin!(left(&client))).await {
                    Either::Left((response, _)) => response,
                    Either::Right(_) => {
                        let waited = now().saturating_sub(came);
                        let measures = Measures {
                            ms: job.ms.saturating_add(waited),
                            flight: Some(Part::Follower),
                            waited_ms: Some(waited),
                            ..Measures::default()
                        };
                        write(&job.facts, measures, Ok(()));
                        word("done")
                    }
                }
            }
            _ => word("alone"),
        })
    }

    /// Begins a call. Its leader gets the answer as it comes.
    async fn lead(&self, job: Job, body: Uint8Array, config: Rc<Config>, client: AbortSignal) -> Response {
        let call = Rc::new(Call {
            carriage: job.carriage,
            stage: RefCell::new(Stage::Asking),
            changes: RefCell::default(),
            waiting: RefCell::default(),
        });
        self.current.replace(Some(call.clone()));
        let _seat = call.wait(&client);
        let behind = job.wish.behind;
        let store = Store::bound(&self.env, &config);
        let (head_came, head) = oneshot::channel();
        let flight = InFlight { call: call.clone(), client, job, config, store, current: self.current.clone() };
        self.state.wait_until(flight.run(body, head_came));
        if behind {
            return word("done");
        }
        let Ok(head) = head.await else { return word("alone") };
        match head {
            Ok(running) => running.leaders.clone().unwrap_or_else(|| word("alone")),
            Err(Failure::Unreachable) => word("unreachable"),
            Err(Failure::TimedOut) => word("timed-out"),
        }
    }
}

/// Waits for what a caller who did not lead can use.
async fn follow(call: &Call, join: Join) -> Response {
    loop {
        match call.stage() {
            Stage::Asking => {}
            // An error is the same to everyone who waits for the answer at this moment.
            Stage::Running(running) if join == Join::Follow || !running.status.is_success() => {
                return running.attach(Part::Follower).unwrap_or_else(|| word("alone"));
            }
            Stage::Gone(running) if !running.status.is_success() => {
                return running.attach(Part::Follower).unwrap_or_else(|| word("alone"));
            }
            Stage::Running(running) if running.storable => {}
            Stage::Finished(finished) => return whole(&finished, "collapsed"),
            Stage::Running(_) | Stage::Failed | Stage::Gone(_) => return word("alone"),
        }
        call.changed().await;
    }
}

/// Resolves when a client leaves.
async fn left(client: &AbortSignal) {
    let promise = Promise::new(&mut |resolve, _| {
        if client.aborted() {
            let _ = resolve.call0(&JsValue::NULL);
        }
        client.set_onabort(Some(&resolve));
    });
    let _ = JsFuture::from(promise).await;
}

/// A call under way, and what it needs.
struct InFlight {
    call: Rc<Call>,
    /// The leader's.
    client: AbortSignal,
    job: Job,
    config: Rc<Config>,
    store: Option<Store>,
    current: Rc<RefCell<Option<Rc<Call>>>>,
}

impl InFlight {
    /// Asks the upstream, shares its answer, and stores it.
    async fn run(self, body: Uint8Array, head_came: oneshot::Sender<Head>) {
        let (job, config) = (&self.job, &self.config);
        let gone = || !job.wish.behind && self.call.is_deserted();
        let effort =
            Effort { config, budget: config.timeout, repeatable: Repeatable::Always, gone: &gone, client: None };
        let asked = upstream::ask(&job.outbound(), Body::Bytes(body), &effort).await;
        let measures = Measures {
            ms: job.ms.saturating_add(asked.ms),
            upstream_ms: Some(asked.ms),
            retries: asked.retries,
            flight: Some(Part::Leader),
            ..Measures::default()
        };
        let answer = match asked.answer {
            Ok(answer) => answer,
            Err(failure) => {
                let handed_over = self.hand_over(head_came, Err(failure));
                self.call.advance(Stage::Failed);
                self.forget();
                return if !handed_over {
                    self.write(None, measures, Err(failure.reason()))
                };
            }
        };
        let status = answer.status.as_u16();
        let capture = Capture::open(job.terms(config), answer.status, &answer.headers);
        let why_not = capture.as_ref().err().copied();
        let running = Rc::new(Running::new(answer, config, why_not.is_none(), job.wish.behind));
        let handed_over = self.hand_over(head_came, Ok(running.clone()));
        self.call.advance(Stage::Running(running.clone()));
        let entry = match &running.relay {
            Some(relay) => relayed(capture, relay).await,
            None => Err(why_not.unwrap_or(Reason::AnswerEmpty)),
        };
        // `as` saturates and cannot fail.
        let bytes = running.relay.as_ref().map(|relay| relay.size() as u64);
        let kept = match entry {
            Ok(entry) => self.keep(&entry).await,
            Err(reason) => {
                self.call.advance(Stage::Gone(running));
                Err(reason)
            }
        };
        self.forget();
        // What leads to an entry is written about here, where it is known what came of it.
        if why_not.is_none() || !handed_over {
            self.write(Some(status), Measures { bytes, ..measures }, kept);
        }
    }

    /// Gives the leader its answer, who writes about it unless it has left.
    fn hand_over(&self, leader: oneshot::Sender<Head>, head: Head) -> bool {
        leader.send(head).is_ok() && !self.job.wish.behind && !self.client.aborted()
    }

    /// Gives a whole answer to those who wait for it, and stores it, unless a refresh has begun meanwhile.
    async fn keep(&self, entry: &Entry) -> Result<(), Reason> {
        let value = entry.encode().map(|value| Uint8Array::from(value.as_slice())).ok_or(Reason::TooLarge)?;
        let finished = Finished { head: entry.head.clone(), value: value.clone() };
        self.call.advance(Stage::Finished(Rc::new(finished)));
        match &self.store {
            _ if !self.is_current() => Ok(()),
            Some(store) => {
                store.put((&self.job.key, self.job.sealing.as_ref()), &entry.head, &value, &self.config).await
            }
            None => Err(Reason::StoreMissing),
        }
    }

    fn is_current(&self) -> bool {
        self.current.borrow().as_ref().is_some_and(|current| Rc::ptr_eq(current, &self.call))
    }

    /// Drops the call at its end, if it is of no use to later callers.
    fn forget(&self) {
        let lingers = match &*self.call.stage.borrow() {
            Stage::Finished(finished) => {
                let length = usize::try_from(finished.value.length()).unwrap_or(usize::MAX);
                self.config.coalesce_ttl_ms > 0 && length <= MAX_LINGERING
            }
            _ => false,
        };
        if !lingers && self.is_current() {
            self.current.replace(None);
        }
    }

    fn write(&self, status: Option<u16>, measures: Measures, kept: Result<(), Reason>) {
        let mut facts = self.job.facts.clone();
        if !self.job.wish.behind {
            facts.status = status;
        }
        write(&facts, measures, kept);
    }
}

/// Reads an answer off its relay: all of it at its end, so that it is not kept twice meanwhile.
async fn relayed(capture: Result<Capture, Reason>, relay: &Relay) -> Result<Entry, Reason> {
    let ended = JsFuture::from(relay.ended()).await.ok().and_then(|ended| ended.as_string());
    let mut capture = capture?;
    match ended.as_deref() {
        Some("") if relay.overflowed() => Err(Reason::TooLarge),
        Some("") => {
            for chunk in relay.chunks() {
                capture.push(&chunk.unchecked_into::<Uint8Array>().to_vec())?;
            }
            capture.finish(now())
        }
        Some("stalled") => Err(Reason::Stalled),
        _ => Err(Reason::Truncated),
    }
}
