//! The flight of a question: a Durable Object that all callers of one key meet in, and how they reach it.

use super::broadcast::SharedBody;
use super::in_flight::{InFlightFetch, Current, FetchTask, Finished, Head, FetchState};
use crate::cache::coalesce::{self, CoalesceRequest, Role, InFlightState};
use crate::config::Config;
use crate::json;
use crate::key::CacheKey;
use crate::proxy::FetchError;
use crate::telemetry::exchange_log::{Measurements, CoalesceRole};
use crate::worker::platform::fetch::{UpstreamResponse, Body};
use crate::worker::platform::interop as interop;
use crate::worker::platform::time::now;
use crate::worker::store::memory;
use crate::worker::store::{self, Store};
use crate::worker::{config, log_exchange};
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use http::{HeaderName, HeaderValue};
use js_sys::{Promise, Reflect, Uint8Array};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, RequestInit, RequestRedirect, Response};
use worker::{DurableObject, Env, State, durable_object};

/// The binding's name in `wrangler.toml`.
const BINDING: &str = "FLIGHTS";
/// What a flight's answer is, in a header between it and its callers: a word, and how often the upstream was asked again.
pub const DISPOSITION: &str = "x-reprise-flight";
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

/// What a caller gets.
pub enum Coalesced {
    /// The upstream's answer as it comes, and how often it was asked again.
    UpstreamResponse(UpstreamResponse, u32, Option<CoalesceRole>),
    /// The whole answer, as a store would keep it. `finished`: it was there already.
    Entry {
        /// The entry.
        value: Uint8Array,
        /// Whether it was there before this caller came.
        finished: bool,
    },
    /// The caller's question was asked, and no answer came.
    Failed(FetchError, u32, Option<CoalesceRole>),
    /// The flight sees to the rest: the caller has its answer already, or has left.
    Done,
    /// The caller has its answer already, and the next one is being asked for.
    Busy,
    /// The caller goes on by itself. `late`: it has waited in vain for an answer's head.
    Alone {
        /// Whether its time for an answer's head has run already.
        late: bool,
    },
}

impl Coalesced {
    /// What a leader gets of its call.
    pub fn head((head, retries): Head, part: Option<CoalesceRole>) -> Coalesced {
        match head.map(|answer| answer.first()) {
            Ok(Some(answer)) => Coalesced::UpstreamResponse(answer, retries, part),
            Ok(None) => Coalesced::Alone { late: false },
            Err(failure) => Coalesced::Failed(failure, retries, part),
        }
    }
}

impl Namespace {
    /// The flights that the environment binds, if any.
    pub fn bound(env: &Env) -> Option<Namespace> {
        let binding = Reflect::get(env, &BINDING.into()).ok()?;
        (!binding.is_undefined() && !binding.is_null()).then(|| binding.unchecked_into())
    }

    /// Takes a question to its flight. Whatever fails on the way there leaves the caller [`Coalesced::Alone`].
    pub async fn join_coalesced(&self, job: &CoalesceRequest, body: &Uint8Array, client: &AbortSignal) -> Coalesced {
        let landed = self.try_join(job, body, client).await;
        landed.unwrap_or(if client.aborted() { Coalesced::Done } else { Coalesced::Alone { late: false } })
    }

    /// Tells a question's flight to forget its answer, and not to store the one that is on its way.
    pub async fn forget(&self, key: &CacheKey) {
        let init = RequestInit::new();
        init.set_method("DELETE");
        let told = || {
            self.get(&self.id_from_name(&key.to_string()).ok()?)
                .ok()?
                .fetch(&format!("https://flight/{key}"), &init)
                .ok()
        };
        if let Some(told) = told() {
            let _ = JsFuture::from(told).await;
        }
    }

    async fn try_join(&self, job: &CoalesceRequest, body: &Uint8Array, client: &AbortSignal) -> Option<Coalesced> {
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
        let (word, retries) = disposition.split_once(' ').unwrap_or((&disposition, "0"));
        let retries = retries.parse().unwrap_or(0);
        let answer = || UpstreamResponse::landed(Clone::clone(&response));
        Some(match word {
            "leader" => Coalesced::UpstreamResponse(answer(), retries, Some(CoalesceRole::Leader)),
            "follower" => Coalesced::UpstreamResponse(answer(), retries, Some(CoalesceRole::Follower)),
            "collapsed" | "finished" => {
                let buffer = JsFuture::from(response.array_buffer().ok()?).await.ok()?;
                Coalesced::Entry { value: Uint8Array::new(&buffer), finished: word == "finished" }
            }
            "unreachable" => Coalesced::Failed(FetchError::Unreachable, retries, Some(CoalesceRole::Leader)),
            "timed-out" => Coalesced::Failed(FetchError::TimedOut, retries, Some(CoalesceRole::Leader)),
            "done" => Coalesced::Done,
            "busy" => Coalesced::Busy,
            word => Coalesced::Alone { late: word == "late" },
        })
    }
}

/// The Durable Object behind the binding `COALESCER`: one for each key.
#[durable_object(fetch)]
pub struct Coalescer {
    state: State,
    env: Env,
    /// The call that later askers join; an older one goes on for those who have joined it.
    current: Current,
}

impl DurableObject for Coalescer {
    fn new(state: State, env: Env) -> Coalescer {
        Coalescer { state, env, current: Rc::default() }
    }

    async fn fetch(&self, request: worker::Request) -> worker::Result<worker::Response> {
        let request = request.inner();
        if request.method() == "DELETE" {
            self.current.replace(None);
            let url = request.url();
            if let Some(key) = url.rsplit('/').next().and_then(CacheKey::from_hex) {
                store::supersede(&key);
                memory::invalidate(&key.storage_key());
            }
            return Ok(word("done").into());
        }
        let buffer = JsFuture::from(request.array_buffer()?).await?;
        let response = self.handle_join(&Uint8Array::new(&buffer), request.signal()).await;
        Ok(response.unwrap_or_else(|| word("alone")).into())
    }
}

/// An answer that has nothing but its disposition.
fn word(disposition: &str) -> Response {
    interop::response(200, &[(DISPOSITION.to_owned(), disposition.to_owned())], None)
}

fn into_entry(finished: &Finished, disposition: &str) -> Response {
    interop::response(200, &[(DISPOSITION.to_owned(), disposition.to_owned())], Some(&finished.value))
}

impl Coalescer {
    async fn handle_join(&self, frame: &Uint8Array, client: AbortSignal) -> Option<Response> {
        let length: [u8; 4] = frame.subarray(0, LENGTH).to_vec().try_into().ok()?;
        let at = LENGTH.checked_add(u32::from_be_bytes(length))?;
        let job: CoalesceRequest = json::from_slice(&frame.subarray(LENGTH, at).to_vec())?;
        let body = frame.subarray(at, frame.length());
        let config = config(&self.env).ok()?;
        let came = now();

        let current = self.current.borrow().clone();
        let stage = current.as_ref().map(|call| call.stage());
        let phase = match (&current, &stage) {
            (_, Some(FetchState::Complete(finished))) => InFlightState::Complete(&finished.head),
            (Some(call), Some(FetchState::AwaitingHead | FetchState::Streaming { .. })) => InFlightState::Fetching {
                response_mode: call.response_mode,
                clients: call.clients(),
                closed: matches!(&stage, Some(FetchState::Streaming { answer, .. }) if answer.overflowed() || !answer.status().is_success()),
            },
            _ => InFlightState::Idle,
        };
        let join = coalesce::join(phase, &job, came, config.coalesce_ttl_ms);
        Some(match (join, current, stage) {
            (Role::Lead, ..) => self.lead(job, body, config, client).await,
            (Role::Take, _, Some(FetchState::Complete(finished))) => into_entry(&finished, "finished"),
            (Role::Take, ..) => word("busy"),
            (Role::Follow | Role::Await, Some(call), _) => {
                let _seat = call.wait(&client);
                match select(pin!(follow(&call, join, &job, config.shared_scope)), pin!(left(&client))).await {
                    Either::Left((response, _)) => response,
                    Either::Right(_) => {
                        let waited = now().saturating_sub(came);
                        let measurements = Measurements {
                            ms: job.ms.saturating_add(waited),
                            coalesce_role: Some(CoalesceRole::Follower),
                            waited_ms: Some(waited),
                            ..Measurements::default()
                        };
                        log_exchange(&job.log_fields, measurements, Ok(()));
                        word("done")
                    }
                }
            }
            _ => word("alone"),
        })
    }

    /// Begins a call. Its leader gets the answer as it comes.
    async fn lead(&self, job: CoalesceRequest, body: Uint8Array, config: Rc<Config>, client: AbortSignal) -> Response {
        let call = Rc::new(InFlightFetch::new(&job));
        self.current.replace(Some(call.clone()));
        let _seat = call.wait(&client);
        let behind = job.freshness_wanted.behind;
        let store = Store::bound(&self.env, &config);
        let current = Some(self.current.clone());
        let budget = config.timeout.saturating_sub(Duration::from_millis(job.ms));
        let task = FetchTask { call: call.clone(), job, config, budget, store, client, current };
        let (head_came, head) = oneshot::channel();
        self.state.wait_until(task.run(Body::Bytes(body), head_came));
        if behind {
            return word("done");
        }
        let Ok((head, retries)) = head.await else { return word("alone") };
        match head {
            Ok(answer) => match answer.first() {
                Some(UpstreamResponse { response, body, .. }) => {
                    interop::with_header(&response, body.as_ref(), DISPOSITION, &format!("leader {retries}"))
                }
                None => word("alone"),
            },
            Err(FetchError::Unreachable) => word(&format!("unreachable {retries}")),
            Err(FetchError::TimedOut) => word(&format!("timed-out {retries}")),
        }
    }
}

/// Waits for what a caller who did not lead can use. `shared`: callers are not one party each.
async fn follow(call: &InFlightFetch, join: Role, job: &CoalesceRequest, shared: bool) -> Response {
    let same = call.key_covers_request && call.response_mode == job.response_mode;
    let mark = || (HeaderName::from_static(DISPOSITION), HeaderValue::from_static("follower"));
    let shared_with = |answer: &SharedBody| answer.share(shared, mark()).unwrap_or_else(|| word("alone"));
    loop {
        match call.stage() {
            FetchState::AwaitingHead => {}
            FetchState::Streaming { answer, .. } if join == Role::Follow && answer.status().is_success() => {
                return shared_with(&answer);
            }
            // An error is the same to everyone who asks the same, and is given as a whole.
            FetchState::Streaming { answer, .. } if same && !answer.status().is_success() && !answer.overflowed() => {}
            FetchState::Discarded { answer, into_entry: true } if same && !answer.status().is_success() => {
                return shared_with(&answer);
            }
            FetchState::Streaming { storable: true, .. } => {}
            FetchState::Complete(finished) => return into_entry(&finished, "collapsed"),
            FetchState::Failed => return word("late"),
            FetchState::Streaming { .. } | FetchState::Discarded { .. } => return word("alone"),
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
