//! The short way for requests that this isolate has seen before: see [`crate::proxy::FastPathPlan`]. `repeat.js` walks it, and comes
//! here once for each answer; the long way begins in [`super::fetch`].

use super::platform::interop as interop;
use super::store::memory;
use super::store::{Store, kv};
use super::{METRICS, config, length};
use crate::cache::entry::{self, Prefix};
use crate::config::Config;
use crate::key::headers::FAST_PATH_IGNORED_HEADERS;
use crate::proxy::{FastPathHit, CacheableRequest, FastPathPlan};
use crate::status::Reason;
use crate::telemetry::exchange_log::{self, LogFields, Measurements};
use js_sys::{Array, JsString, Promise, Uint8Array};
use serde::Serialize;
use std::cell::{OnceCell, RefCell};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use web_sys::Request;
use worker::Env;

#[wasm_bindgen(module = "/src/worker/fast_path.js")]
extern "C" {
    /// The requests that have been seen before, of the isolate.
    type FastPath;

    #[wasm_bindgen(js_name = theRepeats)]
    fn the_repeats() -> FastPath;

    #[wasm_bindgen(method)]
    fn begin(
        this: &FastPath,
        tell_nothing: &Array,
        most: f64,
        memory: Option<&memory::Entries>,
        kv: Option<&str>,
        timeout: f64,
    );

    #[wasm_bindgen(method)]
    fn probe(this: &FastPath, request: &Request) -> Option<Probe>;

    #[wasm_bindgen(method)]
    fn remember_head(this: &FastPath, probe: &Probe);

    #[wasm_bindgen(method)]
    fn add_plan(this: &FastPath, probe: &Probe, plan: PlanHandle, name: &str);

    /// What the short way has found out about a request.
    pub type Probe;

    /// Its body, where that has been read.
    #[wasm_bindgen(method, getter)]
    pub fn body(this: &Probe) -> Option<Uint8Array>;

    /// Whether its body broke off.
    #[wasm_bindgen(method, getter)]
    pub fn failed(this: &Probe) -> Option<bool>;

    /// When it came, in milliseconds since 1970.
    #[wasm_bindgen(method, getter)]
    pub fn started(this: &Probe) -> f64;

    /// Whether it has a name by which it can be told from others.
    #[wasm_bindgen(method, getter)]
    fn named(this: &Probe) -> bool;

    #[wasm_bindgen(method, getter)]
    fn found(this: &Probe) -> Option<Lookup>;

    /// What the store gave, and under which name.
    type Lookup;

    #[wasm_bindgen(method, getter)]
    fn name(this: &Lookup) -> String;

    #[wasm_bindgen(method, getter)]
    fn value(this: &Lookup) -> JsValue;
}

thread_local! {
    static REPEATS: OnceCell<FastPath> = const { OnceCell::new() };
}

/// Where the worker's entry finds the short way.
#[wasm_bindgen]
pub fn fast_path() -> JsValue {
    the_repeats().into()
}

/// Opens the short way, once per isolate.
pub fn set_up(config: &Config, memory: Option<&memory::Entries>, store: Option<&Store>) {
    REPEATS.with(|cell| {
        cell.get_or_init(|| {
            let fast_path = the_repeats();
            let tell_nothing: Array = FAST_PATH_IGNORED_HEADERS.iter().map(|name| JsString::from(*name)).collect();
            // What lies in KV as it is, the platform can fetch without us.
            let plain = matches!(store, Some(Store::Kv(_))) && config.encryption.is_empty();
            let timeout = config.store_timeout.as_millis() as f64;
            // Exact below 2^53.
            fast_path.begin(&tell_nothing, config.max_bytes as f64, memory, plain.then_some(kv::BINDING), timeout);
            fast_path
        });
    });
}

fn with<T>(act: impl FnOnce(&FastPath) -> T) -> Option<T> {
    REPEATS.with(|cell| cell.get().map(act))
}

/// What the short way has found out about a request that it has left to the long one; it may have been another instance's.
pub fn probe(request: &Request) -> Option<Probe> {
    the_repeats().probe(request)
}

/// The bodies of requests with this head are read, whatever they are.
pub fn remember_head(probe: &Probe) {
    let _ = with(|fast_path| fast_path.remember_head(probe));
}

/// Whoever asks this again, byte for byte, can have the same without being read.
pub fn add_plan(probe: &Probe, request: &CacheableRequest) {
    let Some(repeat) = request.repeat().filter(|_| probe.named()) else { return };
    let name = repeat.key.storage_key();
    let plan = PlanHandle { repeat, given: RefCell::default() };
    let _ = with(|fast_path| fast_path.add_plan(probe, plan, &name));
}

/// What the short way has got from the store under this name, if it asked.
pub fn looked_up(probe: &Probe, name: &str) -> Option<Result<Option<Uint8Array>, Reason>> {
    let lookup = probe.found().filter(|lookup| lookup.name() == name)?;
    let value = lookup.value();
    let reason = value.as_string().map(|reason| match reason.as_str() {
        reason if reason == Reason::StoreTimeout.as_str() => Reason::StoreTimeout,
        reason if reason == Reason::EntryCorrupt.as_str() => Reason::EntryCorrupt,
        _ => Reason::StoreError,
    });
    Some(reason.map_or_else(|| Ok(value.dyn_into().ok()), Err))
}

/// What to do about a question whenever it is asked again.
#[wasm_bindgen]
pub struct PlanHandle {
    repeat: FastPathPlan,
    /// What the last answer was.
    given: RefCell<(LogFields, Measurements)>,
}

/// An answer's head.
#[derive(Serialize)]
struct Head {
    status: u16,
    headers: String,
    /// Where the body begins in the entry.
    start: usize,
    until: u64,
    line: (String, String),
}

#[wasm_bindgen]
impl PlanHandle {
    /// The head of the answer out of an entry, as JSON. `digest`: the SHA-256 of what follows the entry's
    /// prefix; an entry without has been checked before, and is remembered. Nothing: this takes the long way.
    pub fn answer(&self, value: &Uint8Array, digest: Option<Box<[u8]>>, now: f64) -> Option<String> {
        let fixed = u32::try_from(entry::PREFIX_LEN).ok()?;
        let prefix = Prefix::decode(&value.subarray(0, fixed).to_vec())?;
        if digest.as_ref().is_some_and(|digest| **digest != prefix.digest) {
            return None;
        }
        let start = prefix.body_start();
        let head = entry::decode_head(&value.subarray(fixed, u32::try_from(start).ok()?).to_vec())?;
        // Milliseconds since 1970. `as` saturates and cannot fail.
        let FastPathHit { replay, until } = self.repeat.answer(&head, digest.is_none(), now as u64)?;
        let bytes = usize::try_from(value.length()).ok().and_then(|all| length(Some(all.saturating_sub(start))));
        let measurements = Measurements { bytes, ..Measurements::default() };
        let line = exchange_log::line_around_ms(&replay.log_fields, measurements);
        let answer = Head { status: replay.status, headers: interop::text(&replay.headers), start, until, line };
        let json = serde_json::to_string(&answer).ok()?;
        *self.given.borrow_mut() = (replay.log_fields, measurements);
        Some(json)
    }

    /// Counts a request that got the last answer.
    pub fn count(&self) {
        let (log_fields, measurements) = &*self.given.borrow();
        METRICS.with_borrow_mut(|metrics| metrics.count_fast_path(log_fields, measurements));
    }

    /// What the store holds: bytes, nothing, or why it could not tell.
    pub fn find(&self, env: Env) -> Promise {
        let (name, salt) = (self.repeat.key.storage_key(), self.repeat.salt.clone());
        future_to_promise(async move {
            let config = config(&env).map_err(|error| JsValue::from(error.message))?;
            let store = Store::bound(&env, &config);
            let value = match store {
                Some(store) => store.fetch(&name, salt.as_ref(), &config).await,
                None => Ok(None),
            };
            Ok(match value {
                Ok(value) => value.map_or(JsValue::UNDEFINED, JsValue::from),
                Err(reason) => JsValue::from(reason.as_str()),
            })
        })
    }
}
