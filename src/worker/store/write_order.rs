//! Which of the writes to a key comes last: the one for the question that was asked last in this isolate.

use crate::key::CacheKey;
use crate::worker::platform::time::now;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

thread_local! {
    static SEQUENCE: Cell<u64> = const { Cell::new(0) };
    /// What was last done to each key.
    static LAST_WRITES: RefCell<HashMap<CacheKey, LastWrite>> = RefCell::default();
    /// When old ones were last forgotten, in milliseconds since 1970.
    static SWEPT: Cell<u64> = const { Cell::new(0) };
}

/// What was last done to a key.
struct LastWrite {
    sequence: u64,
    /// In milliseconds since 1970.
    at: u64,
    /// Whether it was deleted, and not written.
    deleted: bool,
}

/// How many keys are remembered before old ones are forgotten, and for how long at least, in milliseconds.
const SWEEP_AT: usize = 1_000;
const RETENTION_MS: u64 = 600_000;
/// How long at least from one such time to the next, in milliseconds: all of them are looked at.
const SWEEP_MS: u64 = 60_000;

/// A number that grows with every question asked in this isolate.
pub fn sequence() -> u64 {
    SEQUENCE.with(|turns| turns.replace(turns.get().saturating_add(1)))
}

/// From now on, what was asked for before is not written under this key.
pub fn supersede(key: &CacheKey) {
    let newest = LastWrite { sequence: sequence(), at: now(), deleted: true };
    LAST_WRITES.with_borrow_mut(|all| all.insert(*key, newest));
}

/// Whether what was asked for in this turn may be written under this key: nothing newer was, and it was not deleted.
pub fn claim(key: &CacheKey, sequence: u64) -> bool {
    let now = now();
    LAST_WRITES.with_borrow_mut(|all| {
        if all.len() >= SWEEP_AT && now.saturating_sub(SWEPT.get()) >= SWEEP_MS {
            SWEPT.set(now);
            all.retain(|_, newest| now.saturating_sub(newest.at) < RETENTION_MS);
        }
        let newest = all.entry(*key).or_insert(LastWrite { sequence, at: now, deleted: false });
        if newest.sequence < sequence {
            *newest = LastWrite { sequence, at: now, deleted: false };
        }
        newest.sequence == sequence
    })
}

/// Whether a key has been deleted since this turn, and not been written again.
pub fn was_deleted(key: &CacheKey, sequence: u64) -> bool {
    LAST_WRITES.with_borrow(|all| all.get(key).is_some_and(|newest| newest.deleted && newest.sequence > sequence))
}
