//! Which entries this isolate is renewing, so that the callers who get an old one meanwhile do not all ask for a new one.

use crate::key::CacheKey;
use crate::worker::platform::time::now;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

thread_local! {
    /// Until when each is waited for, in milliseconds since 1970: the platform may end a renewal without a word.
    static RENEWING: RefCell<HashMap<CacheKey, u64>> = RefCell::default();
}

/// Whether an entry is to be renewed now, which may take `limit`.
pub fn begin(key: &CacheKey, limit: Duration) -> bool {
    let now = now();
    let until = now.saturating_add(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    RENEWING.with_borrow_mut(|renewing| {
        renewing.retain(|_, until| *until > now);
        let idle = !renewing.contains_key(key);
        if idle {
            renewing.insert(*key, until);
        }
        idle
    })
}

/// A renewal is over.
pub fn end(key: &CacheKey) {
    RENEWING.with_borrow_mut(|renewing| renewing.remove(key));
}
