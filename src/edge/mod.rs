//! The edge: obeys what [`crate::flow`] decides. The only place that names the platform.
//!
//! A panic resets the wasm instance under every concurrent request, so the client's bytes never depend on this code
//! staying alive: an upstream's body goes to the client as a JavaScript stream, a stored one as a JavaScript buffer.

mod admin;
mod clock;
mod convert;
mod flight;
mod limit;
mod refresh;
mod store;
mod upstream;

use crate::capture::Capture;
use crate::config::{Config, ConfigError};
use crate::flow::{
    self, Arrival, Asking, Failure, Found, Looked, Passage, Pending, Planned, Question, Replay, RequestHead, Verdict,
};
use crate::headers;
use crate::key::{Key, Sealing};
use crate::log::{self, Facts, Measures, Part};
use crate::metrics::Metrics;
use crate::present::{self, Reply};
use crate::retry::Repeatable;
use crate::status::Reason;
use clock::now;
use flight::Landed;
use futures_channel::oneshot;
use http::Method;
use js_sys::Uint8Array;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use store::Store;
use upstream::{Answer, Asked, Body, Effort};
use wasm_bindgen::prelude::*;
use web_sys::{AbortSignal, ReadableStream, Request, Response};
use worker::{Context, Env, event};

/// How long `/health` waits for the upstream.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// How often an isolate asks a flight to renew an entry.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

thread_local! {
    static METRICS: RefCell<Metrics> = const { RefCell::new(Metrics::new()) };
    static CONFIG: OnceCell<Result<Rc<Config>, ConfigError>> = const { OnceCell::new() };
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = log)]
    fn console_log(line: &str);
}

/// The settings, read once per isolate.
fn config(env: &Env) -> Result<Rc<Config>, ConfigError> {
    CONFIG.with(|cell| {
        cell.get_or_init(|| {
            report_panics();
            Config::read(|name| convert::variable(env, name)).map(Rc::new)
        })
        .clone()
    })
}

/// Panics are written to the console with their place, before the platform's own handling of them.
fn report_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        console_error_panic_hook::hook(info);
        before(info);
    }));
}

/// One exchange's means: what the steps below share.
struct Edge {
    config: Rc<Config>,
    store: Option<Store>,
    flights: Option<flight::Namespace>,
    limiter: Option<limit::Limiter>,
    /// Rings when the client leaves.
    client: AbortSignal,
    started: u64,
}

#[event(fetch)]
async fn fetch(request: Request, env: Env, ctx: Context) -> worker::Result<Response> {
    let started = now();
    let head = convert::request_head(&request);
    match config(&env) {
        Ok(config) => {
            let store = Store::bound(&env, &config);
            let flights = config.coalesce.then(|| flight::Namespace::bound(&env)).flatten();
            let limiter = limit::Limiter::bound(&env);
            let edge = Edge { config, store, flights, limiter, client: request.signal(), started };
            Ok(edge.handle(request, head, &ctx).await)
        }
        Err(error) => {
            let measures = Measures { ms: now().saturating_sub(started), ..Measures::default() };
            Ok(reply(flow::misconfigured(&error, &head), measures))
        }
    }
}

impl Edge {
    /// Takes the request through the steps of [`crate::flow`].
    async fn handle(self, request: Request, head: RequestHead, ctx: &Context) -> Response {
        let bodiless = matches!(head.method, Method::GET | Method::HEAD);
        let body = match request.body() {
            Some(_) if bodiless && let Some(reply) = flow::turned_away(&self.config, &head) => {
                return self.reply(reply);
            }
            Some(body) if bodiless => match convert::is_empty(body).await {
                true => None,
                false => return self.reply(flow::body_not_allowed(&head)),
            },
            body => body,
        };
        // (1)
        match flow::arrive(&self.config, head, body.is_some()) {
            Arrival::Answer(reply) => self.reply(reply),
            Arrival::Health(target, facts) => {
                let answer = upstream::probe(&target, HEALTH_TIMEOUT).await;
                self.reply(present::health(&target, answer.is_ok(), facts))
            }
            Arrival::Operate(order, facts) => self.reply(self.operate(order, facts).await),
            Arrival::Pass(passage) if !self.allows(&passage.counted_as).await => self.reply(passage.limited()),
            Arrival::Pass(passage) => {
                let small = self.config.retry.max_retries > 0 && passage.is_small(&self.config);
                let body = body.map_or(Body::None, if small { Body::Small } else { Body::Stream });
                self.pass(*passage, body).await
            }
            Arrival::Read(pending) => self.plan(*pending, request, ctx).await,
        }
    }

    /// (2) The body is read before anything else is awaited: the platform ties it to this event.
    async fn plan(self, pending: Pending, request: Request, ctx: &Context) -> Response {
        let read = convert::read_body(&request, pending.max_bytes).await;
        if !self.allows(pending.counted_as()).await {
            return self.reply(pending.limited());
        }
        let (planned, body) = match read {
            Ok(convert::ReadBody::Whole { bytes, handle }) => {
                (pending.with_body(&self.config, &bytes, self.store.is_some()), Body::Bytes(handle))
            }
            Ok(convert::ReadBody::Longer(stream)) => (pending.too_large(), Body::Stream(stream)),
            Err(_) => return self.reply(pending.broken_off()),
        };
        match planned {
            Planned::Answer(reply) => self.reply(reply),
            Planned::Pass(passage) => self.pass(*passage, body).await,
            Planned::Ask(question) => self.answer(*question, body, ctx).await,
        }
    }

    /// Whether a caller may ask once more.
    async fn allows(&self, caller: &str) -> bool {
        match &self.limiter {
            Some(limiter) => limiter.allows(caller, self.config.store_timeout).await,
            None => true,
        }
    }

    /// (3)
    async fn answer(self, question: Question, body: Body, ctx: &Context) -> Response {
        let (found, stored_body) = match &self.store {
            Some(store) if question.reads() => store.get(&question.key, question.sealing.as_ref(), &self.config).await,
            _ => (Found::Nothing, None),
        };
        let verdict = match question.look(&found, now()) {
            Looked::Decided(verdict) => verdict,
            Looked::Render(rendering) => rendering.with_body(&bytes(stored_body.as_ref())),
        };
        match verdict {
            Verdict::Replay(replay) => {
                let (response, bytes) = replayed(&replay, stored_body.as_ref());
                write(&replay.facts, Measures { bytes, ..self.measures() }, Ok(()));
                response
            }
            Verdict::Update(replay, asking) => {
                let (response, bytes) = replayed(&replay, stored_body.as_ref());
                let measures = Measures { bytes, ..self.measures() };
                if refresh::begin(&asking.key, if self.flights.is_some() { REFRESH_PAUSE } else { self.config.timeout })
                {
                    ctx.wait_until(self.refresh(replay.facts, measures, *asking, body));
                } else {
                    write(&replay.facts, measures, Ok(()));
                }
                response
            }
            Verdict::Answer(reply) => self.reply(reply),
            Verdict::Ask(asking) => {
                let stores = asking.stores();
                let (head_came, response) = oneshot::channel();
                let asked = self.ask(*asking, body, stored_body, head_came);
                // A client that leaves early does not spoil an entry: the answer is paid for, so it is read to its end.
                if stores {
                    ctx.wait_until(asked);
                } else {
                    asked.await;
                }
                response.await.unwrap_or_else(|_| convert::bare_response(500))
            }
        }
    }

    fn effort<'a>(&'a self, repeatable: Repeatable, gone: &'a dyn Fn() -> bool) -> Effort<'a> {
        let budget = self.config.timeout.saturating_sub(Duration::from_millis(now().saturating_sub(self.started)));
        Effort { config: &self.config, budget, repeatable, gone, client: None }
    }

    /// (4) and (5): asks the upstream, gives its answer away as soon as its head is there, and stores a copy. An entry
    /// whose body is `stored` may stand in for an answer that fails.
    async fn ask(
        self,
        mut asking: Asking,
        body: Body,
        stored: Option<Uint8Array>,
        head_came: oneshot::Sender<Response>,
    ) {
        // Nobody listens any more if the client has left.
        let give = |response| drop(head_came.send(response));
        let began = now();
        let (asked, part) = match self.land(&mut asking, &body).await {
            Landed::Done | Landed::Busy => return,
            Landed::Answer(answer, part) => {
                if part == Part::Follower {
                    asking.collapse();
                }
                (landed(Ok(answer), began), Some(part))
            }
            Landed::Failed(failure) => (landed(Err(failure), began), Some(Part::Leader)),
            Landed::Entry { value, finished } => match self.taken(&mut asking, &value, finished, began).await {
                Some(response) => return give(response),
                None => (self.ask_alone(&asking, body).await, None),
            },
            Landed::Alone => (self.ask_alone(&asking, body).await, None),
        };
        let measures = match part {
            Some(Part::Follower) => self.followed(began),
            part => Measures { flight: part, ..self.asked_measures(&asked) },
        };
        let outcome = asked.answer.as_ref().map(|answer| answer.status).map_err(|failure| *failure);
        if let Some(replay) = asking.stand_in(outcome, now(), || bytes(stored.as_ref())) {
            if let Ok(answer) = &asked.answer {
                answer.abort();
            }
            let (response, bytes) = replayed(&replay, stored.as_ref());
            write(&replay.facts, Measures { bytes, ..measures }, Ok(()));
            return give(response);
        }
        let answer = match asked.answer {
            Ok(answer) => answer,
            Err(failure) => return give(reply(asking.failed(failure), measures)),
        };
        let (edits, capture) = asking.answered(&self.config, answer.status, &answer.headers);
        let (kept, bytes) = match (capture, answer.response.body()) {
            // What leads to an entry is kept, and written about, by the flight.
            (Ok(_), Some(body)) if part == Some(Part::Leader) => {
                return give(convert::passing(&answer.response, Some(&body), &edits));
            }
            (Ok(capture), Some(body)) if part.is_none() => {
                let [to_client, to_us] = convert::tee(&body);
                give(convert::passing(&answer.response, Some(&to_client), &edits));
                self.keep((&asking.key, asking.sealing.as_ref()), capture, &answer, &to_us).await
            }
            (capture, _) => {
                let body = answer.body(self.config.idle_timeout);
                give(convert::passing(&answer.response, body.as_ref(), &edits));
                let kept = capture.map(drop).and(if part.is_none() { Err(Reason::AnswerEmpty) } else { Ok(()) });
                (kept, headers::content_length(&answer.headers))
            }
        };
        write(&asking.facts, Measures { bytes: length(bytes), ..measures }, kept);
    }

    /// Takes the question to its flight, where there are any and it may be shared.
    async fn land(&self, asking: &mut Asking, body: &Body) -> Landed {
        match (&self.flights, body) {
            (Some(flights), Body::Bytes(body)) if asking.shares() => {
                let job = asking.job(self.measures().ms);
                flights.land(&job, body, &self.client).await
            }
            _ => Landed::Alone,
        }
    }

    /// The answer that the flight has as a whole. `None`: it is of no use to this caller after all.
    async fn taken(&self, asking: &mut Asking, value: &Uint8Array, finished: bool, began: u64) -> Option<Response> {
        let (head, body) = store::open(value).await?;
        let replay = asking.landed(&head, finished, now(), || body.to_vec())?;
        let (response, bytes) = replayed(&replay, Some(&body));
        write(&replay.facts, Measures { bytes, ..self.followed(began) }, Ok(()));
        Some(response)
    }

    async fn ask_alone(&self, asking: &Asking, body: Body) -> Asked {
        let gone = || self.client.aborted();
        let client = (!asking.stores()).then_some(&self.client);
        let effort = Effort { client, ..self.effort(Repeatable::Always, &gone) };
        upstream::ask(&asking.outbound, body, &effort).await
    }

    /// (4) and (5) behind the back of a client who has its answer: the next ones get a newer one.
    async fn refresh(self, facts: Facts, measures: Measures, mut asking: Asking, body: Body) {
        asking.facts = facts;
        match self.land(&mut asking, &body).await {
            // The flight sees to it, and writes the line.
            Landed::Done => return,
            Landed::Busy => return write(&asking.facts, measures, Ok(())),
            _ => {}
        }
        let gone = || false;
        let asked = upstream::ask(&asking.outbound, body, &self.effort(Repeatable::Always, &gone)).await;
        let measures = Measures { upstream_ms: Some(asked.ms), retries: asked.retries, ..measures };
        let facts = asking.facts.clone();
        let kept = match asked.answer {
            Ok(answer) => match asking.answered(&self.config, answer.status, &answer.headers).1 {
                Ok(capture) => match answer.response.body() {
                    Some(body) => {
                        let name = (&asking.key, asking.sealing.as_ref());
                        self.keep(name, capture, &answer, &body).await.0
                    }
                    None => Err(Reason::AnswerEmpty),
                },
                Err(reason) => {
                    answer.abort();
                    Err(reason)
                }
            },
            Err(failure) => Err(failure.reason()),
        };
        refresh::end(&asking.key);
        write(&facts, measures, kept);
    }

    /// (5): reads an answer's `body` to its end and stores it, or says why it is not, and how long it was.
    async fn keep(
        &self,
        name: (&Key, Option<&Sealing>),
        capture: Capture,
        answer: &Answer,
        body: &ReadableStream,
    ) -> (Result<(), Reason>, Option<usize>) {
        let (entry, bytes) = upstream::capture(capture, body, self.config.idle_timeout).await;
        let kept = match (entry, &self.store) {
            (Ok(entry), Some(store)) => match entry.encode() {
                Some(value) => store.put(name, &entry.head, &Uint8Array::from(value.as_slice()), &self.config).await,
                None => Err(Reason::TooLarge),
            },
            (Ok(_), None) => Err(Reason::StoreMissing),
            (Err(reason), _) => {
                // Nothing more will come: the client must not wait for it either.
                if reason == Reason::Stalled {
                    answer.abort();
                }
                Err(reason)
            }
        };
        (kept, Some(bytes))
    }

    async fn pass(&self, mut passage: Passage, body: Body) -> Response {
        let gone = || self.client.aborted();
        let effort = Effort { client: Some(&self.client), ..self.effort(passage.repeatable, &gone) };
        let asked = upstream::ask(&passage.outbound, body, &effort).await;
        let measures = self.asked_measures(&asked);
        match asked.answer {
            Ok(answer) => {
                let edits = passage.answered(answer.status);
                let bytes = length(headers::content_length(&answer.headers));
                write(&passage.facts, Measures { bytes, ..measures }, Ok(()));
                let body = answer.body(self.config.idle_timeout);
                convert::passing(&answer.response, body.as_ref(), &edits)
            }
            Err(failure) => reply(passage.failed(failure), measures),
        }
    }

    fn reply(&self, own: Reply) -> Response {
        reply(own, self.measures())
    }

    /// What can be measured now, without the upstream.
    fn measures(&self) -> Measures {
        Measures { ms: now().saturating_sub(self.started), ..Measures::default() }
    }

    /// The same, of a request that has waited for another's answer.
    fn followed(&self, began: u64) -> Measures {
        let waited_ms = Some(now().saturating_sub(began));
        Measures { flight: Some(Part::Follower), waited_ms, ..self.measures() }
    }

    fn asked_measures(&self, asked: &Asked) -> Measures {
        Measures { upstream_ms: Some(asked.ms), retries: asked.retries, ..self.measures() }
    }
}

/// What came of asking through a flight.
fn landed(answer: Result<Answer, Failure>, began: u64) -> Asked {
    Asked { answer, retries: 0, ms: now().saturating_sub(began) }
}

/// An answer of our own.
fn reply(reply: Reply, measures: Measures) -> Response {
    if let Some(facts) = &reply.facts {
        write(facts, Measures { bytes: length(Some(reply.body.len())), ..measures }, Ok(()));
    }
    let bytes = Uint8Array::from(reply.body.as_slice());
    convert::response(reply.status, &reply.headers, Some(&bytes))
}

/// An answer out of the store, whose body is `stored` unless it goes out in another form.
fn replayed(replay: &Replay, stored: Option<&Uint8Array>) -> (Response, Option<u64>) {
    let rendered = replay.body.as_deref().map(Uint8Array::from);
    let body = rendered.as_ref().or(stored);
    let bytes = body.map(|body| u64::from(body.length()));
    (convert::response(replay.status, &replay.headers, body), bytes)
}

fn length(bytes: Option<usize>) -> Option<u64> {
    bytes.and_then(|bytes| u64::try_from(bytes).ok())
}

fn bytes(handle: Option<&Uint8Array>) -> Vec<u8> {
    handle.map(Uint8Array::to_vec).unwrap_or_default()
}

/// The one line of a request.
fn write(facts: &Facts, measures: Measures, kept: Result<(), Reason>) {
    METRICS.with_borrow_mut(|metrics| metrics.count(facts, &measures, kept));
    console_log(&log::line(facts, measures, kept));
}
