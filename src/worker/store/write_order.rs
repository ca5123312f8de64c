//! Which of the writes to a key comes last: the one for the question that was asked last in this isolate.

use crate::key::CacheKey;
use crate::worker::platform::time::now;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

thread_local! {
    static TURNS: Cell<u64> = const { Cell::new(0) };
    /// What was last done to each key.
    static NEWEST: RefCell<HashMap<CacheKey, Newest>> = RefCell::default();
    /// When old ones were last forgotten, in milliseconds since 1970.
    static SWEPT: Cell<u64> = const { Cell::new(0) };
}

/// What was last done to a key.
struct Newest {
    turn: u64,
    /// In milliseconds since 1970.
    at: u64,
    /// Whether it was deleted, and not written.
    deleted: bool,
}

/// How many keys are remembered before old ones are forgotten, and for how long at least, in milliseconds.
const MANY_WRITES: usize = 1_000;
const LONG_AGO_MS: u64 = 600_000;
/// How long at least from one such time to the next, in milliseconds: all of them are looked at.
const SWEEP_MS: u64 = 60_000;

/// A number that grows with every question asked in this isolate.
pub fn turn() -> u64 {
    TURNS.with(|turns| turns.replace(turns.get().saturating_add(1)))
}

/// From now on, what was asked for before is not written under this key.
pub fn outdate(key: &CacheKey) {
    let newest = Newest { turn: turn(), at: now(), deleted: true };
    NEWEST.with_borrow_mut(|all| all.insert(*key, newest));
}

/// Whether what was asked for in this turn may be written under this key: nothing newer was, and it was not deleted.
pub fn takes(key: &CacheKey, turn: u64) -> bool {
    let now = now();
    NEWEST.with_borrow_mut(|all| {
        if all.len() >= MANY_WRITES && now.saturating_sub(SWEPT.get()) >= SWEEP_MS {
            SWEPT.set(now);
            all.retain(|_, newest| now.saturating_sub(newest.at) < LONG_AGO_MS);
        }
        let newest = all.entry(*key).or_insert(Newest { turn, at: now, deleted: false });
        if newest.turn < turn {
            *newest = Newest { turn, at: now, deleted: false };
        }
        newest.turn == turn
    })
}

/// Whether a key has been deleted since this turn, and not been written again.
pub fn was_deleted(key: &CacheKey, turn: u64) -> bool {
    NEWEST.with_borrow(|all| all.get(key).is_some_and(|newest| newest.deleted && newest.turn > turn))
}
