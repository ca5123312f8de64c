//! The Workers runtime as the core sees it: [`Platform`], for an event and for a Durable Object.

use super::coalesce::broadcast::{self, SharedBody};
use super::coalesce::namespace::DurableObjectNamespace;
use super::fast_path::{self, Probe};
use super::isolate::METRICS;
use super::ledger::{self, Answer, EventLog};
use super::platform::fetch::{self, Body, IncomingBody, UpstreamResponse};
use super::platform::interop::{self, RequestBody};
use super::platform::time::{now, timer, within};
use super::rate_limit::RateLimiter;
use super::store::{self, Store, memory, write_order};
use super::{dashboard, revalidation, transform};
use crate::cache::entry::EntryHead;
use crate::cache::samples::{Message, Slot};
use crate::config::Config;
use crate::http::message::UpstreamRequest;
use crate::json;
use crate::key::{self, CacheKey};
use crate::proxy::cacheable_request::CacheableRequest;
use crate::proxy::coalesce_request::CoalesceRequest;
use crate::proxy::platform::{
    AdminResult, BodyRead, FetchOptions, FetchOutcome, Joined, Lookup, Platform, ShareOptions,
};
use crate::proxy::reply::{CachedResponse, HeaderEdits, ProxyResponse};
use crate::routing::admin::{self, AdminCommand};
use crate::status::Reason;
use crate::status::error::{ErrorKind, ProxyError};
use crate::telemetry::exchange_log::{ExchangeLog, LogSink};
use crate::telemetry::metrics::{self, Metrics};
use crate::transform::response::BodyTransform;
use js_sys::Uint8Array;
use serde::Deserialize;
use serde_json::json;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use wasm_bindgen::prelude::*;
use web_sys::{AbortController, AbortSignal, Request, Response};
use worker::{Context, Env, State};

#[wasm_bindgen(module = "/src/worker/status.js")]
extern "C" {
    #[wasm_bindgen(js_name = statusJson)]
    fn status_json(env: &Env, facts: &str, ledger: Option<&str>, is_bound: bool) -> String;
}

/// A name in the store that no entry has, to see whether the store responds.
const PROBED_NAME: &str = "reprise-status";

/// The time that `/health` waits for the upstream.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit of a deletion.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(25);

/// The Workers runtime during one event.
#[derive(Clone)]
pub struct Runtime(Rc<Inner>);

struct Inner {
    config: Rc<Config>,
    env: Env,
    store: Option<Store>,
    /// The Durable Objects, if they are bound.
    objects: Option<DurableObjectNamespace>,
    rate_limiter: Option<RateLimiter>,
    tasks: Tasks,
    /// Signals when the client disconnects.
    client: AbortSignal,
    started: u64,
    request: Option<Request>,
    /// The fast path's findings about the request.
    probe: Option<Probe>,
}

/// The object that keeps tasks running after the response.
enum Tasks {
    Event(Context),
    Object(Rc<State>),
}

impl Runtime {
    /// For a request from a client.
    pub fn for_event(
        config: Rc<Config>,
        env: &Env,
        context: Context,
        request: &Request,
        probe: Option<Probe>,
    ) -> Runtime {
        let memory = memory::set_up(&config);
        let store = Store::bound(env, &config);
        let rate_limiter = RateLimiter::bound(env);
        // Where a rate limit is bound, every request has to be counted, so there is no fast path.
        if rate_limiter.is_none() {
            fast_path::set_up(&config, memory.as_ref(), store.as_ref());
        }
        Runtime(Rc::new(Inner {
            config,
            env: env.clone(),
            store,
            objects: DurableObjectNamespace::bound(env),
            rate_limiter,
            tasks: Tasks::Event(context),
            client: request.signal(),
            started: probe.as_ref().map_or_else(now, Probe::started),
            request: Some(Clone::clone(request)),
            probe,
        }))
    }

    /// For a request to the Durable Object.
    pub fn in_object(config: Rc<Config>, env: &Env, state: Rc<State>, message: &Request) -> Runtime {
        let store = Store::bound(env, &config);
        Runtime(Rc::new(Inner {
            config,
            env: env.clone(),
            store,
            objects: DurableObjectNamespace::bound(env),
            rate_limiter: None,
            tasks: Tasks::Object(state),
            client: message.signal(),
            started: now(),
            request: Some(Clone::clone(message)),
            probe: None,
        }))
    }

    /// Keeps the event alive until a task has ended.
    pub fn run(&self, task: impl Future<Output = ()> + 'static) {
        match &self.0.tasks {
            Tasks::Event(context) => context.wait_until(task),
            Tasks::Object(state) => state.wait_until(task),
        }
    }

    /// Asks the ledger.
    async fn ask_ledger(&self, question: &str, query: &str) -> Result<String, ProxyError> {
        let prices = self.0.config.savings.prices.as_deref();
        let asked = within(ADMIN_TIMEOUT, ledger::ask(&self.0.env, question, query, prices)).await;
        match asked.unwrap_or(Some(None)) {
            Some(Some(Answer { status: 200, text })) => Ok(text),
            Some(Some(Answer { text, .. })) => Err(ProxyError::new(ErrorKind::InvalidParameter, text)),
            Some(None) => Err(admin::ledger_failed()),
            None => Err(admin::ledger_missing()),
        }
    }

    /// The text of `/metrics`: that of the ledger, where it is bound.
    async fn metrics(&self) -> AdminResult {
        match self.ask_ledger("totals", "").await.ok().and_then(|text| json::from_slice(text.as_bytes())) {
            Some(Totals { totals }) => {
                AdminResult::Metrics(metrics::text(&totals, "of all isolates, out of the ledger"))
            }
            None => AdminResult::Metrics(METRICS.with_borrow(Metrics::text)),
        }
    }

    /// The status that operators see.
    async fn status(&self) -> AdminResult {
        let Inner { config, env, store, objects, .. } = &*self.0;
        let began = now();
        let store = match store {
            Some(store) => {
                let kind = if matches!(store, Store::Kv(_)) { "kv" } else { "upstash" };
                let ok = store.read(PROBED_NAME, None, config).await.is_ok();
                let encrypted = !config.store.encryption_keys.is_empty();
                json!({"kind": kind, "encrypted": encrypted, "ok": ok, "latency_ms": now().saturating_sub(began)})
            }
            None => json!({"kind": "none"}),
        };
        let ledger = self.ask_ledger("status", "").await;
        let is_bound = ledger.as_ref().err().is_none_or(|error| error.kind != ErrorKind::NotFound);
        let facts = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "store": store,
            "coalescing": objects.is_some() && config.coalesce.enabled,
            "samples": METRICS.with_borrow(Metrics::samples),
        });
        AdminResult::Json(status_json(env, &facts.to_string(), ledger.ok().as_deref(), is_bound))
    }

    async fn delete(&self, command: &AdminCommand) -> Option<(usize, Option<String>)> {
        // The coalescer first, or it might store the entry again.
        if let (AdminCommand::Delete(key), Some(objects)) = (command, &self.0.objects) {
            objects.forget(key).await;
        }
        match (command, &self.0.store) {
            (AdminCommand::Delete(key), Some(store)) => store.delete(key).await.ok().map(|n| (n, None)),
            (AdminCommand::Purge(purge), Some(store)) => {
                let purged = store.purge(purge).await.ok();
                // Responses to fetches that have begun before are not stored.
                if let Some(objects) = &self.0.objects {
                    objects.namespace_deleted(&key::storage_prefix(&purge.namespace)).await?;
                }
                purged
            }
            _ => Some((0, None)),
        }
    }
}

impl Platform for Runtime {
    type Body = Body;
    type Buffer = Uint8Array;
    type Upstream = UpstreamResponse;
    type Shared = SharedBody;
    type Follower = Response;
    type Response = Response;
    type Client = AbortSignal;

    fn config(&self) -> &Rc<Config> {
        &self.0.config
    }

    fn now(&self) -> u64 {
        now()
    }

    fn started(&self) -> u64 {
        self.0.started
    }

    fn has_store(&self) -> bool {
        self.0.store.is_some()
    }

    fn client(&self) -> AbortSignal {
        self.0.client.clone()
    }

    fn no_client(&self) -> AbortSignal {
        AbortController::new().map_or_else(|_| self.client(), |controller| controller.signal())
    }

    async fn sleep(&self, duration: Duration) {
        timer(duration).await;
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.run(task);
    }

    fn log_sink(&self) -> Rc<dyn LogSink> {
        Rc::new(EventLog::new(self.clone(), self.0.env.clone()))
    }

    fn has_body(&self, body: &Body) -> bool {
        !matches!(body, Body::None)
    }

    fn no_body(&self) -> Body {
        Body::None
    }

    fn replayable(&self, body: Body) -> Body {
        match body {
            Body::Stream(body) => Body::Replayable(body),
            body => body,
        }
    }

    async fn is_empty(&self, body: Body) -> bool {
        match body {
            Body::Stream(body) | Body::Replayable(body) => interop::is_empty(body.stream).await,
            Body::Bytes(bytes) => bytes.length() == 0,
            Body::None => true,
        }
    }

    async fn read_body(&self, _: Body, limit: usize) -> BodyRead<Runtime> {
        match &self.0.probe {
            Some(probe) if probe.body_failed() == Some(true) => return BodyRead::Incomplete,
            Some(probe) if let Some(buffer) = probe.body() => {
                return BodyRead::Complete(buffer.to_vec(), Body::Bytes(buffer));
            }
            _ => {}
        }
        let Some(request) = &self.0.request else { return BodyRead::Incomplete };
        match interop::read_request_body(request, limit).await {
            Ok(RequestBody::Complete(bytes, buffer)) => BodyRead::Complete(bytes, Body::Bytes(buffer)),
            Ok(RequestBody::TooLarge(stream)) => {
                BodyRead::TooLarge(Body::Stream(IncomingBody { stream, length: None }))
            }
            Err(_) => BodyRead::Incomplete,
        }
    }

    fn body(&self, bytes: &[u8]) -> Body {
        Body::Bytes(Uint8Array::from(bytes))
    }

    fn buffered_body(&self, buffer: &Uint8Array) -> Body {
        Body::Bytes(buffer.clone())
    }

    async fn allows(&self, rate_limit_key: &str) -> bool {
        match &self.0.rate_limiter {
            Some(limiter) => limiter.allows(rate_limit_key, self.0.config.store.timeout).await,
            None => true,
        }
    }

    async fn probe(&self, url: &str) -> bool {
        fetch::probe(url, HEALTH_TIMEOUT).await.is_ok()
    }

    async fn admin(&self, command: &AdminCommand) -> AdminResult {
        let asked = match command {
            AdminCommand::Metrics => return self.metrics().await,
            AdminCommand::Status => return self.status().await,
            AdminCommand::Ledger(query) => Some(self.ask_ledger("report", query).await),
            AdminCommand::Entries(query) => Some(self.ask_ledger("entries", query).await),
            AdminCommand::Delete(_) | AdminCommand::Purge(_) => None,
        };
        if let Some(answer) = asked {
            return answer.map_or_else(AdminResult::Error, AdminResult::Json);
        }
        match within(ADMIN_TIMEOUT, self.delete(command)).await.flatten() {
            Some((n, cursor)) => AdminResult::Deleted(n, cursor),
            None => AdminResult::StoreFailed,
        }
    }

    fn dashboard(&self, with_body: bool) -> Response {
        dashboard::response(with_body)
    }

    fn remember(&self, request: &CacheableRequest, log: &ExchangeLog) {
        if let Some(probe) = &self.0.probe {
            fast_path::remember_head(probe);
            fast_path::add_plan(probe, request, log.fields());
        }
    }

    async fn look_up(&self, request: &CacheableRequest) -> (Lookup, Option<Uint8Array>) {
        let Some(store) = self.0.store.as_ref().filter(|_| request.reads()) else { return (Lookup::Miss, None) };
        let name = request.key.storage_key();
        let in_memory = memory::get(&name).and_then(|value| store::split_verified(&request.key, &value));
        match in_memory.filter(|(head, _)| request.is_fresh_hit(head, now())) {
            Some((head, body)) => (Lookup::InMemory(head), Some(body)),
            None => match self.0.probe.as_ref().and_then(|probe| fast_path::store_read(probe, &name)) {
                Some(value) => store::verify_and_cache(&request.key, value).await,
                None => store.get(&request.key, request.salt.as_ref(), &self.0.config).await,
            },
        }
    }

    async fn open_entry(&self, key: &CacheKey, value: &Uint8Array) -> Option<(EntryHead, Uint8Array)> {
        store::verify(key, value).await
    }

    fn next_sequence(&self) -> u64 {
        write_order::next_sequence()
    }

    async fn store(
        &self,
        request: &CoalesceRequest,
        head: &EntryHead,
        value: &Uint8Array,
        sequence: u64,
    ) -> Result<(), Reason> {
        let Some(store) = &self.0.store else { return Err(Reason::StoreMissing) };
        store.put((&request.key, request.salt.as_ref()), head, value, sequence, &self.0.config).await
    }

    async fn delete(&self, key: &CacheKey) {
        if let Some(store) = &self.0.store {
            let _ = store.delete(key).await;
        }
    }

    async fn namespace_deleted_at(&self, key: &CacheKey) -> u64 {
        let Some(objects) = &self.0.objects else { return 0 };
        let prefix = key.storage_prefix();
        let deleted_at = within(self.0.config.store.timeout, objects.namespace_deleted_at(&prefix)).await;
        deleted_at.flatten().unwrap_or(0)
    }

    async fn tell_samples(&self, set: &CacheKey, message: Message) -> Option<Slot> {
        let told = self.0.objects.as_ref()?.tell_samples(set, message);
        within(self.0.config.store.timeout, told).await.flatten()?.parse().ok()
    }

    fn random(&self) -> u32 {
        // Below 2^32.
        (js_sys::Math::random() * 4_294_967_296.0) as u32
    }

    fn invalidate(&self, key: &CacheKey) {
        memory::invalidate(&key.storage_key());
    }

    fn begin_revalidation(&self, key: &CacheKey) -> bool {
        revalidation::begin(key, self.0.config.upstream.timeout)
    }

    fn end_revalidation(&self, key: &CacheKey) {
        revalidation::end(key);
    }

    async fn fetch(
        &self,
        request: &UpstreamRequest,
        body: Body,
        options: &FetchOptions<'_, AbortSignal>,
    ) -> FetchOutcome<UpstreamResponse> {
        fetch::fetch(request, body, &self.0.config.upstream.retry, options, self.0.request.as_ref()).await
    }

    async fn join(
        &self,
        request: &dyn Fn() -> CoalesceRequest,
        body: &Body,
        client: &AbortSignal,
    ) -> Joined<UpstreamResponse, Uint8Array> {
        match (self.0.objects.as_ref().filter(|_| self.0.config.coalesce.enabled), body) {
            (Some(objects), Body::Bytes(body)) => objects.join(&request(), body, client, self.0.request.as_ref()).await,
            _ => Joined::Independent,
        }
    }

    fn share(&self, response: UpstreamResponse, options: &ShareOptions<'_, AbortSignal>) -> SharedBody {
        SharedBody::new(response, self.0.config.upstream.idle_timeout, options)
    }

    fn respond(&self, response: &ProxyResponse) -> Response {
        respond(response)
    }

    fn respond_empty(&self, status: u16) -> Response {
        interop::empty_response(status)
    }

    fn serve(&self, response: &CachedResponse, stored: Option<&Uint8Array>) -> (Response, Option<u64>) {
        let converted = response.body.as_deref().map(Uint8Array::from);
        let body = converted.as_ref().or(stored);
        let bytes = body.map(|body| u64::from(body.length()));
        (interop::response(response.status, &response.headers, body), bytes)
    }

    fn pass_on(
        &self,
        response: UpstreamResponse,
        edits: &HeaderEdits,
        body_transform: Option<BodyTransform>,
    ) -> Response {
        let body = broadcast::with_idle_timeout(&response, self.0.config.upstream.idle_timeout, &self.0.client);
        transform::pass_on(&response.response, body.as_ref(), edits, body_transform)
    }
}

#[derive(Deserialize)]
struct Totals {
    totals: Vec<(String, u64)>,
}

/// A response of the proxy's own.
pub fn respond(response: &ProxyResponse) -> Response {
    interop::response(response.status, &response.headers, Some(&Uint8Array::from(response.body.as_slice())))
}
