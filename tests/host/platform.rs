//! The plain platform: a clock, a store and an upstream that are values, one client, no coalescer.

use futures_executor::LocalPool;
use futures_util::task::LocalSpawnExt;
use http::{HeaderMap, Method, StatusCode};
use reprise::testing::{
    AdminCommand, AdminResult, BodyRead, BodyTransform, Buffer, CacheKey, CacheableRequest, CachedResponse, Capture,
    ClientSignal, CoalesceRequest, Config, ConfigError, Disposition, Entry, EntryHead, ExchangeLog, FetchError,
    FetchOptions, FetchOutcome, HeaderEdits, Joined, LogFields, LogSink, Lookup, Measurements, Platform, ProxyResponse,
    REPRESENTATION_HEADERS, Reason, RequestHead, SampleMessage, ShareOptions, SharedResponse, Slot, Slots,
    UpstreamHead, UpstreamRequest, Usage, exchange, log_line, misconfigured,
};
use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// A client's request.
pub struct Request {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Option<Vec<u8>>,
}

/// The upstream's response to the next requests.
#[derive(Clone)]
pub struct UpstreamResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// No connection is possible.
    pub unreachable: bool,
    /// The connection breaks before the body's end.
    pub truncated: bool,
}

/// The response that the client receives.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A request that the upstream received.
pub struct Call {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Reprise on the host, configured and with its store.
pub struct Host {
    config: Result<Rc<Config>, ConfigError>,
    state: Rc<State>,
    log: Rc<Lines>,
    /// The log line of the last exchange.
    pub last_line: String,
}

#[derive(Default)]
struct State {
    now: Cell<u64>,
    sequence: Cell<u64>,
    store: RefCell<BTreeMap<String, Vec<u8>>>,
    upstream: RefCell<Option<UpstreamResponse>>,
    calls: RefCell<Vec<Call>>,
    samples: RefCell<BTreeMap<String, Slots>>,
}

/// The log lines of an exchange.
#[derive(Default)]
struct Lines {
    written: RefCell<Vec<String>>,
    unfinished: Cell<usize>,
}

impl LogSink for Lines {
    fn write(&self, fields: &LogFields, measurements: &Measurements, stored: Result<(), Reason>) {
        self.written.borrow_mut().push(log_line(fields, *measurements, stored));
    }

    fn count_shared(&self, _: &LogFields, _: Usage) {}

    fn unfinished(&self, _: &LogFields) {
        self.unfinished.set(self.unfinished.get() + 1);
    }
}

impl Host {
    pub fn new(vars: &BTreeMap<String, String>) -> Self {
        let config = Config::read(|name| vars.get(name).cloned()).map(Rc::new);
        Host { config, state: Rc::default(), log: Rc::default(), last_line: String::new() }
    }

    /// The same configuration with an empty store.
    pub fn emptied(&self) -> Self {
        Host { config: self.config.clone(), state: Rc::default(), log: Rc::default(), last_line: String::new() }
    }

    /// The upstream requests so far.
    pub fn calls(&self) -> Ref<'_, Vec<Call>> {
        self.state.calls.borrow()
    }

    /// One exchange to its end, background tasks included. It must write exactly one log line, or none for `/healthz`.
    pub fn exchange(&mut self, now_ms: u64, request: &Request, upstream: &UpstreamResponse) -> Reply {
        self.state.now.set(now_ms);
        self.state.upstream.replace(Some(upstream.clone()));
        let (path, query) = match request.target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (request.target.as_str(), None),
        };
        let head = RequestHead {
            method: request.method.clone(),
            origin: "https://proxy".to_owned(),
            path: path.to_owned(),
            query,
            headers: request.headers.clone(),
            invalid_header: None,
        };
        let lines = usize::from(path != "/healthz");
        let reply = match &self.config {
            Ok(config) => {
                let mut pool = LocalPool::new();
                let context = Exchange { spawner: pool.spawner(), log: self.log.clone() };
                let (config, state, context) = (config.clone(), self.state.clone(), Rc::new(context));
                let reply = pool.run_until(exchange(Plain { config, state, context }, head, request.body.clone()));
                pool.run();
                reply
            }
            Err(error) => own(&misconfigured(error, &head, self.log.clone(), 0)),
        };
        assert_eq!(self.log.unfinished.take(), 0, "an exchange ended without its log line");
        let written = self.log.written.take();
        assert_eq!(written.len(), lines, "{written:?}");
        self.last_line = written.into_iter().next().unwrap_or_default();
        reply
    }
}

struct Exchange {
    spawner: futures_executor::LocalSpawner,
    log: Rc<Lines>,
}

#[derive(Clone)]
struct Plain {
    config: Rc<Config>,
    state: Rc<State>,
    context: Rc<Exchange>,
}

impl Plain {
    fn call(&self, request: &UpstreamRequest, body: Vec<u8>) -> Result<UpstreamResponse, FetchError> {
        let response = self.state.upstream.borrow().clone().unwrap();
        if response.unreachable {
            return Err(FetchError::Unreachable);
        }
        let UpstreamRequest { method, url, headers, .. } = request.clone();
        self.state.calls.borrow_mut().push(Call { method, url, headers, body });
        Ok(response)
    }
}

impl UpstreamHead for UpstreamResponse {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn abort(&self) {}
}

impl SharedResponse for UpstreamResponse {
    type Upstream = UpstreamResponse;
    type Follower = UpstreamResponse;

    fn status(&self) -> StatusCode {
        self.status
    }

    fn for_leader(&self) -> Option<UpstreamResponse> {
        Some(self.clone())
    }

    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn for_follower(&self, _: bool, _: Disposition) -> Option<UpstreamResponse> {
        Some(self.clone())
    }

    async fn watch(&self, mut accepts: impl FnMut(&[u8]) -> bool) -> bool {
        !self.body.chunks(7).all(&mut accepts)
    }

    fn has_overflowed(&self) -> bool {
        false
    }

    fn overflow(&self) -> impl Future<Output = ()> {
        std::future::pending()
    }

    fn readers(&self) -> usize {
        0
    }

    fn size(&self) -> Option<u64> {
        u64::try_from(self.body.len()).ok()
    }

    async fn ended_cleanly(&self) -> bool {
        !self.truncated
    }

    async fn read_entry(
        &self,
        capture: Result<Capture, Reason>,
        now: impl FnOnce() -> u64,
    ) -> (Result<Entry, Reason>, Usage) {
        let filled = capture.and_then(|mut capture| {
            self.body.chunks(7).try_for_each(|piece| capture.push(piece))?;
            if self.truncated { Err(Reason::Truncated) } else { Ok(capture) }
        });
        match filled {
            Ok(capture) => capture.finish_with_usage(now()),
            Err(reason) => (Err(reason), Usage::default()),
        }
    }
}

#[derive(Clone)]
struct Bytes(Rc<[u8]>);

impl Buffer for Bytes {
    fn from_slice(bytes: &[u8]) -> Bytes {
        Bytes(bytes.into())
    }

    fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn byte_len(&self) -> usize {
        self.0.len()
    }
}

#[derive(Clone, PartialEq)]
struct Client;

impl ClientSignal for Client {
    fn is_disconnected(&self) -> bool {
        false
    }

    fn disconnected(&self) -> impl Future<Output = ()> {
        std::future::pending()
    }
}

impl Platform for Plain {
    type Body = Option<Vec<u8>>;
    type Buffer = Bytes;
    type Upstream = UpstreamResponse;
    type Shared = UpstreamResponse;
    type Follower = UpstreamResponse;
    type Response = Reply;
    type Client = Client;

    fn config(&self) -> &Rc<Config> {
        &self.config
    }

    fn now(&self) -> u64 {
        self.state.now.get()
    }

    fn started(&self) -> u64 {
        self.state.now.get()
    }

    fn has_store(&self) -> bool {
        true
    }

    fn client(&self) -> Client {
        Client
    }

    fn no_client(&self) -> Client {
        Client
    }

    fn sleep(&self, _: Duration) -> impl Future<Output = ()> {
        std::future::pending()
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.context.spawner.spawn_local(task).unwrap();
    }

    fn log_sink(&self) -> Rc<dyn LogSink> {
        self.context.log.clone()
    }

    fn has_body(&self, body: &Option<Vec<u8>>) -> bool {
        body.is_some()
    }

    fn no_body(&self) -> Option<Vec<u8>> {
        None
    }

    fn replayable(&self, body: Option<Vec<u8>>) -> Option<Vec<u8>> {
        body
    }

    async fn is_empty(&self, body: Option<Vec<u8>>) -> bool {
        body.is_none_or(|body| body.is_empty())
    }

    async fn read_body(&self, body: Option<Vec<u8>>, limit: usize) -> BodyRead<Plain> {
        let bytes = body.clone().unwrap_or_default();
        if bytes.len() > limit { BodyRead::TooLarge(body) } else { BodyRead::Complete(bytes, body) }
    }

    fn body(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }

    fn buffered_body(&self, buffer: &Bytes) -> Option<Vec<u8>> {
        Some(buffer.to_vec())
    }

    async fn allows(&self, _: &str) -> bool {
        true
    }

    async fn probe(&self, url: &str) -> bool {
        let request =
            UpstreamRequest { method: Method::GET, url: url.to_owned(), headers: HeaderMap::new(), body: None };
        self.call(&request, Vec::new()).is_ok()
    }

    async fn admin(&self, command: &AdminCommand) -> AdminResult {
        panic!("{command:?} needs the Worker: the case has to say so")
    }

    fn dashboard(&self, with_body: bool) -> Reply {
        let headers = header_map(&[("content-type".to_owned(), "text/html; charset=utf-8".to_owned())]);
        Reply { status: 200, headers, body: if with_body { b"<!doctype html>".to_vec() } else { Vec::new() } }
    }

    fn remember(&self, _: &CacheableRequest, _: &ExchangeLog) {}

    async fn look_up(&self, request: &CacheableRequest) -> (Lookup, Option<Bytes>) {
        let store = self.state.store.borrow();
        match store.get(&request.key.to_string()).filter(|_| request.reads()) {
            Some(value) => {
                let entry = Entry::decode(value, &request.key).unwrap();
                (Lookup::Stored(entry.head), Some(Bytes(entry.body.into())))
            }
            None => (Lookup::Miss, None),
        }
    }

    async fn open_entry(&self, key: &CacheKey, value: &Bytes) -> Option<(EntryHead, Bytes)> {
        Entry::decode(&value.0, key).map(|entry| (entry.head, Bytes(entry.body.into())))
    }

    fn next_sequence(&self) -> u64 {
        self.state.sequence.replace(self.state.sequence.get() + 1)
    }

    async fn store(&self, request: &CoalesceRequest, _: &EntryHead, value: &Bytes, _: u64) -> Result<(), Reason> {
        self.state.store.borrow_mut().insert(request.key.to_string(), value.to_vec());
        Ok(())
    }

    async fn delete(&self, key: &CacheKey) {
        self.state.store.borrow_mut().remove(&key.to_string());
    }

    async fn namespace_deleted_at(&self, _: &CacheKey) -> u64 {
        0
    }

    async fn tell_samples(&self, set: &CacheKey, message: SampleMessage) -> Option<Slot> {
        let mut samples = self.state.samples.borrow_mut();
        let slots = samples.entry(set.to_string()).or_default();
        // As in the object: nothing but text goes back and forth.
        let slot = slots.obey(message.to_string().parse().unwrap(), self.now(), self.random());
        *slots = slots.to_string().parse().unwrap();
        slot.map(|slot| slot.to_string().parse().unwrap())
    }

    fn random(&self) -> u32 {
        u32::try_from(self.next_sequence()).unwrap()
    }

    fn invalidate(&self, _: &CacheKey) {}

    fn begin_revalidation(&self, _: &CacheKey) -> bool {
        true
    }

    fn end_revalidation(&self, _: &CacheKey) {}

    async fn fetch(
        &self,
        request: &UpstreamRequest,
        body: Option<Vec<u8>>,
        _: &FetchOptions<'_, Client>,
    ) -> FetchOutcome<UpstreamResponse> {
        FetchOutcome { response: self.call(request, body.unwrap_or_default()), retries: 0, ms: 0 }
    }

    async fn join(
        &self,
        _: &dyn Fn() -> CoalesceRequest,
        _: &Option<Vec<u8>>,
        _: &Client,
    ) -> Joined<UpstreamResponse, Bytes> {
        Joined::Independent
    }

    fn share(&self, response: UpstreamResponse, _: &ShareOptions<'_, Client>) -> UpstreamResponse {
        response
    }

    fn respond(&self, response: &ProxyResponse) -> Reply {
        own(response)
    }

    fn respond_empty(&self, status: u16) -> Reply {
        Reply { status, headers: HeaderMap::new(), body: Vec::new() }
    }

    fn serve(&self, response: &CachedResponse, stored: Option<&Bytes>) -> (Reply, Option<u64>) {
        let body = response.body.clone().unwrap_or_else(|| stored.unwrap().to_vec());
        let bytes = u64::try_from(body.len()).ok();
        (Reply { status: response.status, headers: header_map(&response.headers), body }, bytes)
    }

    fn pass_on(&self, response: UpstreamResponse, edits: &HeaderEdits, transform: Option<BodyTransform>) -> Reply {
        let UpstreamResponse { status, mut headers, body, .. } = response;
        let body = match transform {
            None => body,
            Some(mut transform) => {
                for name in REPRESENTATION_HEADERS {
                    headers.remove(name);
                }
                let mut out: Vec<u8> = body.chunks(5).flat_map(|piece| transform.push(piece)).collect();
                out.extend(transform.finish());
                out
            }
        };
        for name in edits.remove {
            headers.remove(*name);
        }
        for (name, value) in &edits.set {
            headers.insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        for (name, value) in &edits.append {
            headers.append(*name, value.parse().unwrap());
        }
        Reply { status: status.as_u16(), headers, body }
    }
}

fn own(response: &ProxyResponse) -> Reply {
    Reply { status: response.status, headers: header_map(&response.headers), body: response.body.clone() }
}

fn header_map(pairs: &[(String, String)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}
