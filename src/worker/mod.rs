//! The edge: obeys what [`crate::proxy`] decides. The only place that names the platform.
//!
//! A panic resets the wasm instance under every concurrent request, so the client's bytes never depend on this code
//! staying alive: an upstream's body goes to the client as a JavaScript stream, a stored one as a JavaScript buffer.

mod admin;
mod coalesce;
mod fast_path;
mod forward;
mod platform;
mod rate_limit;
mod revalidation;
mod store;
mod transform;

use crate::config::{Config, ConfigError};
use crate::http::fields;
use crate::http::message::RequestHead;
use crate::proxy::reply::{self, ProxyResponse};
use crate::proxy::{self, OnRequest, Lookup, OnLookup, Bypass, PendingRequest, OnBody, CacheableRequest, CachedResponse, Decision};
use crate::status::Reason;
use crate::telemetry::exchange_log::{self, LogFields, Measurements};
use crate::telemetry::metrics::Metrics;
use coalesce::broadcast as broadcast;
use coalesce::durable_object as flight;
use fast_path as repeat;
use fast_path::Probe;
use futures_channel::oneshot;
use http::Method;
use js_sys::Uint8Array;
use platform::fetch as upstream;
use platform::fetch::{Body, FetchOptions};
use platform::interop as interop;
use platform::time::now;
use rate_limit as limit;
use revalidation as refresh;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use store::Store;
use store::memory;
use transform as response_transform;
use wasm_bindgen::prelude::*;
use web_sys::{AbortSignal, Request, Response};
use worker::{Context, Env, event};

/// How long `/health` waits for the upstream.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

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
            Config::read(|name| interop::variable(env, name)).map(Rc::new)
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
    coalescer: Option<flight::Namespace>,
    limiter: Option<rate_limit::RateLimiter>,
    /// Rings when the client leaves.
    client: AbortSignal,
    started: u64,
    /// What the short way has found out.
    probe: Option<Probe>,
}

#[event(fetch)]
async fn fetch(request: Request, env: Env, ctx: Context) -> worker::Result<Response> {
    let probe = repeat::probe(&request);
    // `as` saturates and cannot fail.
    let started = probe.as_ref().map_or_else(now, |probe| probe.started() as u64);
    let head = interop::request_head(&request);
    match config(&env) {
        Ok(config) => {
            let memory = memory::set_up(&config);
            let store = Store::bound(&env, &config);
            let coalescer = config.coalesce.then(|| flight::Namespace::bound(&env)).flatten();
            let limiter = rate_limit::RateLimiter::bound(&env);
            // Where it is counted how often a caller asks, nobody gets by.
            if limiter.is_none() {
                repeat::set_up(&config, memory.as_ref(), store.as_ref());
            }
            let client = request.signal();
            let edge = Edge { config, store, coalescer, limiter, client, started, probe };
            Ok(edge.handle(request, head, &ctx).await)
        }
        Err(error) => {
            let measurements = Measurements { ms: now().saturating_sub(started), ..Measurements::default() };
            Ok(reply(proxy::misconfigured(&error, &head), measurements))
        }
    }
}

impl Edge {
    /// Takes the request through the steps of [`crate::proxy`].
    async fn handle(self, request: Request, head: RequestHead, ctx: &Context) -> Response {
        let bodiless = matches!(head.method, Method::GET | Method::HEAD);
        let body = match request.body() {
            Some(_) if bodiless && let Some(reply) = proxy::unauthorized(&self.config, &head) => {
                return self.reply(reply);
            }
            Some(body) if bodiless => match interop::is_empty(body).await {
                true => None,
                false => return self.reply(proxy::body_not_allowed(&head)),
            },
            body => body,
        };
        // (1)
        match proxy::on_request(&self.config, head, body.is_some()) {
            OnRequest::UpstreamResponse(reply) => self.reply(reply),
            OnRequest::Health(target, log_fields) => {
                let answer = upstream::probe(&target, HEALTH_TIMEOUT).await;
                self.reply(reply::health(&target, answer.is_ok(), log_fields))
            }
            OnRequest::Operate(order, log_fields) => self.reply(self.operate(order, log_fields).await),
            OnRequest::Pass(passage) if !self.allows(&passage.rate_limit_key).await => self.reply(passage.limited()),
            OnRequest::Pass(passage) => {
                let small = self.config.retry.max_retries > 0 && passage.is_small(&self.config);
                let body = body.map_or(Body::None, if small { Body::Replayable } else { Body::Stream });
                self.pass(*passage, body).await
            }
            OnRequest::Read(pending) => self.plan(*pending, request, ctx).await,
        }
    }

    /// (2) The body is read before anything else is awaited: the platform ties it to this event.
    async fn plan(self, pending: PendingRequest, request: Request, ctx: &Context) -> Response {
        let read = match &self.probe {
            Some(probe) if probe.failed() == Some(true) => return self.reply(pending.incomplete_body()),
            Some(probe) if let Some(handle) = probe.body() => {
                Ok(interop::ReadBody::Whole { bytes: handle.to_vec(), handle })
            }
            _ => interop::read_body(&request, pending.max_bytes).await,
        };
        if !self.allows(pending.rate_limit_key()).await {
            return self.reply(pending.limited());
        }
        let (planned, body) = match read {
            Ok(interop::ReadBody::Whole { bytes, handle }) => {
                (pending.with_body(&self.config, &bytes, self.store.is_some()), Body::Bytes(handle))
            }
            Ok(interop::ReadBody::Longer(stream)) => (pending.too_large(), Body::Stream(stream)),
            Err(_) => return self.reply(pending.incomplete_body()),
        };
        let body = planned.body().map_or(body, |changed| Body::Bytes(Uint8Array::from(changed)));
        match planned {
            OnBody::UpstreamResponse(reply) => self.reply(reply),
            OnBody::Pass(passage) => self.pass(*passage, body).await,
            OnBody::Ask(request) => {
                if let Some(probe) = &self.probe {
                    repeat::remember_head(probe);
                    repeat::add_plan(probe, &request);
                }
                self.answer(*request, body, ctx).await
            }
        }
    }

    /// What the isolate remembers, or else the store holds.
    async fn find(&self, request: &CacheableRequest) -> (Lookup, Option<Uint8Array>) {
        let Some(store) = self.store.as_ref().filter(|_| request.reads()) else { return (Lookup::Nothing, None) };
        let name = request.key.storage_key();
        let remembered = memory::get(&name).and_then(|value| store::split_verified(&value));
        match remembered.filter(|(head, _)| request.is_fresh_hit(head, now())) {
            Some((head, body)) => (Lookup::Remembered(head), Some(body)),
            None => match self.probe.as_ref().and_then(|probe| repeat::looked_up(probe, &name)) {
                Some(value) => store::verify_and_cache(&name, value).await,
                None => store.get(&name, request.salt.as_ref(), &self.config).await,
            },
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
    async fn answer(self, request: CacheableRequest, body: Body, ctx: &Context) -> Response {
        let (found, stored_body) = self.find(&request).await;
        let verdict = match request.on_lookup(&found, now()) {
            OnLookup::Decided(verdict) => verdict,
            OnLookup::Render(rendering) => rendering.with_body(&bytes(stored_body.as_ref())),
        };
        match verdict {
            Decision::CachedResponse(replay) => {
                let (response, bytes) = replayed(&replay, stored_body.as_ref());
                log_exchange(&replay.log_fields, Measurements { bytes, ..self.measurements() }, Ok(()));
                response
            }
            Decision::Update(replay, upstream_fetch) => {
                let (response, bytes) = replayed(&replay, stored_body.as_ref());
                let measurements = Measurements { bytes, ..self.measurements() };
                if refresh::begin(&upstream_fetch.key, self.config.timeout) {
                    ctx.wait_until(self.refresh(replay.log_fields, measurements, *upstream_fetch, body));
                } else {
                    log_exchange(&replay.log_fields, measurements, Ok(()));
                }
                response
            }
            Decision::UpstreamResponse(reply) => self.reply(reply),
            Decision::Ask(upstream_fetch) => {
                if upstream_fetch.is_refresh() {
                    memory::invalidate(&upstream_fetch.key.storage_key());
                }
                let (head_came, response) = oneshot::channel();
                // A client that leaves early does not spoil an entry: the answer is paid for, so it is read to its end.
                ctx.wait_until(self.ask(*upstream_fetch, body, stored_body, head_came));
                response.await.unwrap_or_else(|_| interop::empty_response(500))
            }
        }
    }

    async fn pass(&self, mut passage: Bypass, body: Body) -> Response {
        let client_gone = || self.client.aborted();
        let (config, retry_safety) = (&self.config, passage.retry_safety);
        let options = FetchOptions { config, budget: config.timeout, retry_safety, client_gone: &client_gone, client: Some(&self.client) };
        let asked = upstream::ask(&passage.upstream_request, body, &options).await;
        let measurements = Measurements { upstream_ms: Some(asked.ms), retries: asked.retries, ..self.measurements() };
        match asked.answer {
            Ok(answer) => {
                let edits = passage.answered(answer.status);
                let bytes = length(fields::content_length(&answer.headers));
                log_exchange(&passage.log_fields, Measurements { bytes, ..measurements }, Ok(()));
                let body_transform = passage.body_transform(answer.status, &answer.headers);
                let body = broadcast::with_idle_timeout(&answer, self.config.idle_timeout, &self.client);
                response_transform::passing(&answer.response, body.as_ref(), &edits, body_transform)
            }
            Err(failure) => reply(passage.failed(failure), measurements),
        }
    }

    fn reply(&self, own: ProxyResponse) -> Response {
        reply(own, self.measurements())
    }

    /// What can be measured now, without the upstream.
    fn measurements(&self) -> Measurements {
        Measurements { ms: now().saturating_sub(self.started), ..Measurements::default() }
    }
}

/// An answer of our own.
fn reply(reply: ProxyResponse, measurements: Measurements) -> Response {
    if let Some(log_fields) = &reply.log_fields {
        log_exchange(log_fields, Measurements { bytes: length(Some(reply.body.len())), ..measurements }, Ok(()));
    }
    let bytes = Uint8Array::from(reply.body.as_slice());
    interop::response(reply.status, &reply.headers, Some(&bytes))
}

/// An answer out of the store, whose body is `stored` unless it goes out in another form.
fn replayed(replay: &CachedResponse, stored: Option<&Uint8Array>) -> (Response, Option<u64>) {
    let rendered = replay.body.as_deref().map(Uint8Array::from);
    let body = rendered.as_ref().or(stored);
    let bytes = body.map(|body| u64::from(body.length()));
    (interop::response(replay.status, &replay.headers, body), bytes)
}

fn length(bytes: Option<usize>) -> Option<u64> {
    bytes.and_then(|bytes| u64::try_from(bytes).ok())
}

fn bytes(handle: Option<&Uint8Array>) -> Vec<u8> {
    handle.map(Uint8Array::to_vec).unwrap_or_default()
}

/// The one line of a request.
fn log_exchange(log_fields: &LogFields, measurements: Measurements, kept: Result<(), Reason>) {
    METRICS.with_borrow_mut(|metrics| metrics.count(log_fields, &measurements, kept));
    console_log(&exchange_log::line(log_fields, measurements, kept));
}
