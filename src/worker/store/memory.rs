//! The memory tier in front of the store: entries that this isolate has recently read or written, in the runtime's buffers.

use crate::config::Config;
use crate::worker::platform::time::now;
use js_sys::Uint8Array;
use std::cell::OnceCell;
use wasm_bindgen::prelude::*;

#[wasm_bindgen(module = "/src/worker/store/memory.js")]
extern "C" {
    /// See `MemoryCache` in `memory.js`.
    #[derive(Clone)]
    pub type MemoryCache;

    #[wasm_bindgen(constructor)]
    fn new(capacity_bytes: f64, ttl_ms: f64) -> MemoryCache;

    #[wasm_bindgen(method, js_name = get)]
    fn js_get(this: &MemoryCache, name: &str, now: f64) -> Option<Uint8Array>;

    #[wasm_bindgen(method, js_name = putIfCurrent)]
    fn js_put_if_current(this: &MemoryCache, name: &str, value: &Uint8Array, now: f64);

    #[wasm_bindgen(method, js_name = put)]
    fn js_put(this: &MemoryCache, name: &str, value: &Uint8Array, now: f64);

    #[wasm_bindgen(method, js_name = invalidatePrefix)]
    fn js_invalidate_prefix(this: &MemoryCache, prefix: &str, now: f64);

    #[wasm_bindgen(method, js_name = invalidate)]
    fn js_invalidate(this: &MemoryCache, name: &str, now: f64);
}

thread_local! {
    static MEMORY: OnceCell<Option<MemoryCache>> = const { OnceCell::new() };
}

/// Sets the tier up, once per wasm instance. `None`: it is switched off.
pub fn set_up(config: &Config) -> Option<MemoryCache> {
    let on = config.memory.bytes > 0 && config.memory.ttl_ms > 0;
    // Exact below 2^53.
    let memory = || on.then(|| MemoryCache::new(config.memory.bytes as f64, config.memory.ttl_ms as f64));
    MEMORY.with(|cell| cell.get_or_init(memory).clone())
}

fn with<T>(act: impl FnOnce(&MemoryCache, f64) -> T) -> Option<T> {
    MEMORY.with(|cell| cell.get().and_then(Option::as_ref).map(|memory| act(memory, now() as f64)))
}

/// An encoded entry, which was verified when it was put here.
pub fn get(name: &str) -> Option<Uint8Array> {
    with(|memory, now| memory.js_get(name, now))?
}

/// Puts what the store returned, unless something newer is being fetched.
pub fn put_if_current(name: &str, value: &Uint8Array) {
    let _ = with(|memory, now| memory.js_put_if_current(name, value, now));
}

/// Puts what the store was given.
pub fn put(name: &str, value: &Uint8Array) {
    let _ = with(|memory, now| memory.js_put(name, value, now));
}

/// Drops an entry that is deleted or about to be replaced. For a while nothing that the store returns is put in its place,
/// because it may be older.
pub fn invalidate(name: &str) {
    let _ = with(|memory, now| memory.js_invalidate(name, now));
}

/// The same for all entries whose names begin with this.
pub fn invalidate_prefix(prefix: &str) {
    let _ = with(|memory, now| memory.js_invalidate_prefix(prefix, now));
}
