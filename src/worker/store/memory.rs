//! The tier in front of the store: entries that this isolate has lately read or written, as the platform's own buffers.

use crate::config::Config;
use crate::worker::platform::time::now;
use js_sys::Uint8Array;
use std::cell::OnceCell;
use wasm_bindgen::prelude::*;

#[wasm_bindgen(module = "/src/worker/store/memory.js")]
extern "C" {
    /// The entries that are kept.
    #[wasm_bindgen(js_name = Memory)]
    #[derive(Clone)]
    pub type Entries;

    #[wasm_bindgen(constructor, js_class = Memory)]
    fn new(capacity: f64, ttl_ms: f64) -> Entries;

    #[wasm_bindgen(method)]
    fn get(this: &Entries, key: &str, now: f64) -> Option<Uint8Array>;

    #[wasm_bindgen(method)]
    fn read(this: &Entries, key: &str, value: &Uint8Array, now: f64);

    #[wasm_bindgen(method)]
    fn put(this: &Entries, key: &str, value: &Uint8Array, now: f64);

    #[wasm_bindgen(method, js_name = barAll)]
    fn invalidate_prefix(this: &Entries, prefix: &str, now: f64);

    #[wasm_bindgen(method)]
    fn invalidate(this: &Entries, key: &str, now: f64);
}

thread_local! {
    static ENTRIES: OnceCell<Option<Entries>> = const { OnceCell::new() };
}

/// Sets the tier up, once per isolate. `None`: the operator wants none.
pub fn set_up(config: &Config) -> Option<Entries> {
    let on = config.memory_bytes > 0 && config.memory_ttl_ms > 0;
    // Exact below 2^53.
    let entries = || on.then(|| Entries::new(config.memory_bytes as f64, config.memory_ttl_ms as f64));
    ENTRIES.with(|cell| cell.get_or_init(entries).clone())
}

fn with<T>(act: impl FnOnce(&Entries, f64) -> T) -> Option<T> {
    ENTRIES.with(|cell| cell.get().and_then(Option::as_ref).map(|entries| act(entries, now() as f64)))
}

/// An entry as a store keeps it, checked when it was put here.
pub fn get(name: &str) -> Option<Uint8Array> {
    with(|entries, now| entries.get(name, now))?
}

/// Remembers what the store gave, unless something newer is being asked for.
pub fn read(name: &str, value: &Uint8Array) {
    let _ = with(|entries, now| entries.read(name, value, now));
}

/// Remembers what the store was given.
pub fn put(name: &str, value: &Uint8Array) {
    let _ = with(|entries, now| entries.put(name, value, now));
}

/// Forgets an entry that is deleted, or in whose place a newer one is asked for; what is read of it meanwhile may be older,
/// and is not remembered.
pub fn invalidate(name: &str) {
    let _ = with(|entries, now| entries.invalidate(name, now));
}

/// The same for all entries whose names begin with this.
pub fn invalidate_prefix(prefix: &str) {
    let _ = with(|entries, now| entries.invalidate_prefix(prefix, now));
}
