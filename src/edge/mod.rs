//! The edge: obeys what [`crate::flow`] decides. The only place that names the platform.
//!
//! A panic resets the wasm instance under every concurrent request, so the client's bytes never depend on this code
//! staying alive: an upstream's body goes to the client as a JavaScript stream, a stored one as a JavaScript buffer.

mod clock;
mod convert;
mod polish;
mod store;
mod upstream;

use crate::config::{Config, ConfigError};
use crate::flow::{self, Arrival, Asking, Found, Looked, Passage, Pending, Planned, Question, RequestHead, Verdict};
use crate::headers;
use crate::log::{self, Facts, Measures};
use crate::present::{self, Reply};
use crate::status::Reason;
use clock::now;
use futures_channel::oneshot;
use http::Method;
use js_sys::Uint8Array;
use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;
use store::Store;
use upstream::Body;
use wasm_bindgen::prelude::*;
use web_sys::{AbortSignal, Request, Response};
use worker::{Context, Env, event};

/// How long `/health` waits for the upstream.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
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
            let edge = Edge { config, store, client: request.signal(), started };
            Ok(edge.handle(request, head, &ctx).await)
        }
        Err(error) => Ok(reply(flow::misconfigured(&error, &head), started, None)),
    }
}

impl Edge {
    /// Takes the request through the steps of [`crate::flow`].
    async fn handle(self, request: Request, head: RequestHead, ctx: &Context) -> Response {
        let bodiless = matches!(head.method, Method::GET | Method::HEAD);
        let body = match request.body() {
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
            Arrival::Pass(passage) => {
                let body = body.map_or(Body::None, Body::Stream);
                self.pass(*passage, body).await
            }
            Arrival::Read(pending) => self.plan(*pending, request, ctx).await,
        }
    }

    /// (2) The body is read before anything else is awaited: the platform ties it to this event.
    async fn plan(self, pending: Pending, request: Request, ctx: &Context) -> Response {
        let (planned, body) = match convert::read_body(&request, pending.max_bytes).await {
            Ok(convert::ReadBody::Whole { bytes, handle }) => {
                (pending.with_body(&self.config, &bytes, self.store.is_some()), Body::Bytes(handle))
            }
            Ok(convert::ReadBody::Longer(stream)) => (pending.too_large(), Body::Stream(stream)),
            Err(_) => return self.reply(pending.broken_off()),
        };
        let body = planned.body().map_or(body, |changed| Body::Bytes(Uint8Array::from(changed)));
        match planned {
            Planned::Answer(reply) => self.reply(reply),
            Planned::Pass(passage) => self.pass(*passage, body).await,
            Planned::Ask(question) => self.answer(*question, body, ctx).await,
        }
    }

    /// (3)
    async fn answer(self, question: Question, body: Body, ctx: &Context) -> Response {
        let (found, stored_body) = match &self.store {
            Some(store) if question.reads() => store.get(&question.key, self.config.store_timeout).await,
            _ => (Found::Nothing, None),
        };
        let verdict = match question.look(&found, now()) {
            Looked::Decided(verdict) => verdict,
            Looked::Render(rendering) => {
                let body = stored_body.as_ref().map(Uint8Array::to_vec).unwrap_or_default();
                rendering.with_body(&body)
            }
        };
        match verdict {
            Verdict::Replay(replay) => {
                let rendered = replay.body.as_deref().map(Uint8Array::from);
                let body = rendered.or(stored_body);
                let length = body.as_ref().map(|body| u64::from(body.length()));
                log(&replay.facts, self.started, None, length);
                convert::response(replay.status, &replay.headers, body.as_ref())
            }
            Verdict::Answer(reply) => self.reply(reply),
            Verdict::Ask(asking) => {
                let stores = asking.stores();
                let (head_came, response) = oneshot::channel();
                let asked = self.ask(*asking, body, head_came);
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

    /// (4) and (5): asks the upstream, gives its answer away as soon as its head is there, and stores a copy.
    async fn ask(self, mut asking: Asking, body: Body, head_came: oneshot::Sender<Response>) {
        let sent = now();
        let client = if asking.stores() { None } else { Some(&self.client) };
        let response = match upstream::send(&asking.outbound, body, self.config.timeout, client).await {
            Ok(response) => response,
            Err(failure) => {
                let reply = reply(asking.failed(failure), self.started, Some(sent));
                // Nobody listens any more if the client has left.
                let _ = head_came.send(reply);
                return;
            }
        };
        let answered = now();
        let (status, headers) = convert::response_head(&response);
        let (edits, capture) = asking.answered(&self.config, status, &headers);
        let polisher = asking.polisher(&self.config, status, &headers);
        let upstream_ms = Some(answered.saturating_sub(sent));
        let (kept, bytes) = match (capture, response.body()) {
            (Ok(capture), Some(body)) => {
                let [to_client, to_us] = convert::tee(&body);
                let _ = head_came.send(polish::passing(&response, Some(&to_client), &edits, polisher));
                let (entry, bytes) = upstream::capture(capture, &to_us, self.config.timeout).await;
                let kept = match (entry, &self.store) {
                    (Ok(entry), Some(store)) => store.put(&asking.key, &entry, now()).await,
                    (Ok(_), None) => Err(Reason::StoreMissing),
                    (Err(reason), _) => Err(reason),
                };
                (kept, Some(bytes))
            }
            (capture, body) => {
                let _ = head_came.send(polish::passing(&response, body.as_ref(), &edits, polisher));
                let kept = capture.map(drop).and(Err(Reason::AnswerEmpty));
                (kept, headers::content_length(&headers))
            }
        };
        let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok());
        let measures = Measures { ms: answered.saturating_sub(self.started), upstream_ms, bytes };
        console_log(&log::line(&asking.facts, measures, kept));
    }

    async fn pass(&self, mut passage: Passage, body: Body) -> Response {
        let sent = now();
        match upstream::send(&passage.outbound, body, self.config.timeout, Some(&self.client)).await {
            Ok(response) => {
                let (status, headers) = convert::response_head(&response);
                let edits = passage.answered(status);
                let upstream_ms = Some(now().saturating_sub(sent));
                let bytes = headers::content_length(&headers).and_then(|n| u64::try_from(n).ok());
                log(&passage.facts, self.started, upstream_ms, bytes);
                let polisher = passage.polisher(status, &headers);
                polish::passing(&response, response.body().as_ref(), &edits, polisher)
            }
            Err(failure) => reply(passage.failed(failure), self.started, Some(sent)),
        }
    }

    fn reply(&self, own: Reply) -> Response {
        reply(own, self.started, None)
    }
}

/// An answer of our own to a request that came at `started`; `sent`: when the upstream was asked, if it was.
fn reply(reply: Reply, started: u64, sent: Option<u64>) -> Response {
    if let Some(facts) = &reply.facts {
        let upstream_ms = sent.map(|sent| now().saturating_sub(sent));
        log(facts, started, upstream_ms, u64::try_from(reply.body.len()).ok());
    }
    let bytes = Uint8Array::from(reply.body.as_slice());
    convert::response(reply.status, &reply.headers, Some(&bytes))
}

/// The one line of a request that came at `started` and has its reply's head ready now, with nothing left to be done.
fn log(facts: &Facts, started: u64, upstream_ms: Option<u64>, bytes: Option<u64>) {
    let measures = Measures { ms: now().saturating_sub(started), upstream_ms, bytes };
    console_log(&log::line(facts, measures, Ok(())));
}
