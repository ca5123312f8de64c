//! The order of writes to a key: a response never replaces that of a later request, and never restores a deleted entry.
//!
//! Each fetch takes a number from a growing sequence, as a fencing token. The order holds within an isolate.

use crate::key::CacheKey;
use crate::worker::platform::time::now;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

/// Above this many keys the old ones are swept.
const SWEEP_AT: usize = 1_000;
/// The shortest time for which a key is retained, in milliseconds.
const RETENTION_MS: u64 = 600_000;
/// The shortest time between two sweeps, each of which looks at all keys.
const SWEEP_INTERVAL_MS: u64 = 60_000;

thread_local! {
    static SEQUENCE: Cell<u64> = const { Cell::new(0) };
    static LAST_WRITES: RefCell<HashMap<CacheKey, LastWrite>> = RefCell::default();
    /// In milliseconds since 1970.
    static LAST_SWEEP: Cell<u64> = const { Cell::new(0) };
}

/// The last write or deletion of a key.
struct LastWrite {
    sequence: u64,
    /// In milliseconds since 1970.
    at: u64,
    deleted: bool,
}

/// The next number of the sequence.
pub fn next_sequence() -> u64 {
    SEQUENCE.with(|next| next.replace(next.get().saturating_add(1)))
}

/// The key is deleted: no fetch that has begun before writes it.
pub fn supersede(key: &CacheKey) {
    let last = LastWrite { sequence: next_sequence(), at: now(), deleted: true };
    LAST_WRITES.with_borrow_mut(|writes| writes.insert(*key, last));
}

/// Whether the fetch with this number may write the key: no later one has, and the key has not been deleted since.
pub fn claim(key: &CacheKey, sequence: u64) -> bool {
    let now = now();
    LAST_WRITES.with_borrow_mut(|writes| {
        if writes.len() >= SWEEP_AT && now.saturating_sub(LAST_SWEEP.get()) >= SWEEP_INTERVAL_MS {
            LAST_SWEEP.set(now);
            writes.retain(|_, last| now.saturating_sub(last.at) < RETENTION_MS);
        }
        let last = writes.entry(*key).or_insert(LastWrite { sequence, at: now, deleted: false });
        if last.sequence < sequence {
            *last = LastWrite { sequence, at: now, deleted: false };
        }
        last.sequence == sequence
    })
}

/// Whether the key has been deleted since the fetch with this number began, and not been written again.
pub fn was_deleted(key: &CacheKey, sequence: u64) -> bool {
    LAST_WRITES.with_borrow(|writes| writes.get(key).is_some_and(|last| last.deleted && last.sequence > sequence))
}
