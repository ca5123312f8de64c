//! The fast path for requests that this isolate has seen before: see [`crate::proxy::fast_path`]. `fast_path.js` implements it, and
//! calls this module once for each response head. The slow path begins in `mod.rs`.

use super::isolate::{METRICS, config, count};
use super::platform::interop;
use super::platform::time::millis;
use super::store::{Store, kv, memory};
use crate::cache::entry::{self, Prefix};
use crate::config::Config;
use crate::ledger::counters::Slot;
use crate::proxy::cacheable_request::CacheableRequest;
use crate::proxy::fast_path::{FastPathHit, FastPathPlan, ignored_headers};
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
    /// The requests that the isolate has seen before.
    type FastPath;

    #[wasm_bindgen(js_name = fastPath)]
    fn isolate_fast_path() -> FastPath;

    #[wasm_bindgen(method)]
    fn open(
        this: &FastPath,
        ignored_headers: &Array,
        max_body_bytes: f64,
        prefix_bytes: f64,
        memory: Option<&memory::MemoryCache>,
        kv_binding: Option<&str>,
        timeout_ms: f64,
    );

    #[wasm_bindgen(method, js_name = probe)]
    fn js_probe(this: &FastPath, request: &Request) -> Option<Probe>;

    #[wasm_bindgen(method, js_name = rememberHead)]
    fn js_remember_head(this: &FastPath, probe: &Probe);

    #[wasm_bindgen(method, js_name = addPlan)]
    fn js_add_plan(this: &FastPath, probe: &Probe, plan: Plan, name: &str);

    /// The fast path's findings about a request that it leaves to the slow path.
    pub type Probe;

    /// The body, if it has been read.
    #[wasm_bindgen(method, getter)]
    pub fn body(this: &Probe) -> Option<Uint8Array>;

    /// Whether the body was aborted while it was read.
    #[wasm_bindgen(method, getter, js_name = bodyFailed)]
    pub fn body_failed(this: &Probe) -> Option<bool>;

    #[wasm_bindgen(method, getter, js_name = startedAt)]
    fn started_at(this: &Probe) -> f64;

    #[wasm_bindgen(method, getter, js_name = hasDigest)]
    fn has_digest(this: &Probe) -> bool;

    #[wasm_bindgen(method, getter)]
    fn lookup(this: &Probe) -> Option<StoreRead>;

    /// The store's value, and its name.
    type StoreRead;

    #[wasm_bindgen(method, getter, js_name = key)]
    fn name(this: &StoreRead) -> String;

    #[wasm_bindgen(method, getter)]
    fn value(this: &StoreRead) -> JsValue;
}

impl Probe {
    /// When the request came, in milliseconds since 1970.
    pub fn started(&self) -> u64 {
        millis(self.started_at())
    }
}

thread_local! {
    static FAST_PATH: OnceCell<FastPath> = const { OnceCell::new() };
}

/// The isolate's fast path, for the main module. A call replaces a wasm instance that has ended in a panic.
#[wasm_bindgen(js_name = fastPath)]
pub fn fast_path() -> JsValue {
    isolate_fast_path().into()
}

/// Opens the fast path, once for each wasm instance.
pub fn set_up(config: &Config, memory: Option<&memory::MemoryCache>, store: Option<&Store>) {
    FAST_PATH.with(|cell| {
        cell.get_or_init(|| {
            let fast_path = isolate_fast_path();
            let ignored: Array = ignored_headers().map(JsString::from).collect();
            // JavaScript can read unencrypted entries out of KV by itself.
            let plain_kv = matches!(store, Some(Store::Kv(_))) && config.store.encryption_keys.is_empty();
            let timeout_ms = config.store.timeout.as_millis() as f64;
            // Exact below 2^53.
            let (max_body_bytes, prefix_bytes) = (config.cache.max_bytes as f64, entry::PREFIX_LEN as f64);
            let kv_binding = plain_kv.then_some(kv::BINDING);
            fast_path.open(&ignored, max_body_bytes, prefix_bytes, memory, kv_binding, timeout_ms);
            fast_path
        });
    });
}

/// The fast path's findings about a request, perhaps for an earlier wasm instance.
pub fn probe(request: &Request) -> Option<Probe> {
    isolate_fast_path().js_probe(request)
}

/// The slow path reads the bodies of requests with this head.
pub fn remember_head(probe: &Probe) {
    FAST_PATH.with(|cell| cell.get().map(|fast_path| fast_path.js_remember_head(probe)));
}

/// Lets the fast path serve the requests that equal this one.
pub fn add_plan(probe: &Probe, request: &CacheableRequest, log: &LogFields) {
    if !probe.has_digest() {
        return;
    }
    let Some(plan) = FastPathPlan::new(request, log) else { return };
    let name = plan.key.storage_key();
    let plan = Plan { plan, last_hit: RefCell::default() };
    FAST_PATH.with(|cell| cell.get().map(|fast_path| fast_path.js_add_plan(probe, plan, &name)));
}

/// The value that the fast path has read from the store under this name, if it has.
pub fn store_read(probe: &Probe, name: &str) -> Option<Result<Option<Uint8Array>, Reason>> {
    let value = probe.lookup().filter(|lookup| lookup.name() == name)?.value();
    let reason = value.as_string().map(|token| Reason::from_token(&token).unwrap_or(Reason::StoreError));
    Some(reason.map_or_else(|| Ok(value.dyn_into().ok()), Err))
}

/// The response to a repeated request.
#[wasm_bindgen]
pub struct Plan {
    plan: FastPathPlan,
    /// For the counters.
    last_hit: RefCell<LastHit>,
}

#[derive(Default)]
struct LastHit {
    log: LogFields,
    measurements: Measurements,
    /// Where it was counted.
    slot: Option<Slot>,
}

/// A response head, for JavaScript.
#[derive(Serialize)]
struct ResponseHead {
    status: u16,
    headers: String,
    /// The offset of the body in the entry, in bytes.
    body_start: usize,
    /// In milliseconds since 1970.
    valid_until: u64,
    /// The log line around the number of milliseconds.
    log_line: (String, String),
}

#[wasm_bindgen]
impl Plan {
    /// The response head out of an entry, as JSON. `digest`: the SHA-256 of what follows the entry's prefix; an entry from
    /// memory comes without, since it has been verified before. `None`: the request takes the slow path.
    #[wasm_bindgen(js_name = responseHead)]
    pub fn response_head(&self, value: &Uint8Array, digest: Option<Box<[u8]>>, now: f64) -> Option<String> {
        let prefix_len = u32::try_from(entry::PREFIX_LEN).ok()?;
        let prefix = Prefix::decode(&value.subarray(0, prefix_len).to_vec())?;
        if digest.as_ref().is_some_and(|digest| **digest != prefix.digest) {
            return None;
        }
        let head = value.subarray(prefix_len, u32::try_from(prefix.head_end()).ok()?).to_vec();
        let head = entry::decode_head(&head, &self.plan.key)?;
        let body_start = head.body_start(&prefix);
        let FastPathHit { response, log, valid_until } = self.plan.hit(&head, digest.is_none(), millis(now))?;
        let length = usize::try_from(value.length()).ok()?.saturating_sub(body_start);
        let measurements = Measurements { bytes: u64::try_from(length).ok(), ..Measurements::default() };
        let head = ResponseHead {
            status: response.status,
            headers: interop::encode_headers(&response.headers),
            body_start,
            valid_until,
            log_line: exchange_log::line_around_ms(&log, measurements),
        };
        let json = serde_json::to_string(&head).ok()?;
        *self.last_hit.borrow_mut() = LastHit { log, measurements, slot: None };
        Some(json)
    }

    /// Counts one more response with the last head.
    #[wasm_bindgen(js_name = countHit)]
    pub fn count_hit(&self, now: f64) {
        let LastHit { log, measurements, slot } = &mut *self.last_hit.borrow_mut();
        METRICS.with_borrow_mut(|metrics| metrics.count_fast_path(log, measurements));
        if let Some(record) = log.ledger_record(measurements, Ok(())) {
            *slot = count(&record, millis(now), *slot);
        }
    }

    /// The store's value: bytes, undefined, or the reason why it cannot be read.
    #[wasm_bindgen(js_name = readStore)]
    pub fn read_store(&self, env: Env) -> Promise {
        let (name, salt) = (self.plan.key.storage_key(), self.plan.salt.clone());
        future_to_promise(async move {
            let config = config(&env).map_err(|error| JsValue::from(error.message))?;
            let value = match Store::bound(&env, &config) {
                Some(store) => store.read(&name, salt.as_ref(), &config).await,
                None => Ok(None),
            };
            Ok(match value {
                Ok(value) => value.map_or(JsValue::UNDEFINED, JsValue::from),
                Err(reason) => JsValue::from(reason.as_str()),
            })
        })
    }
}
