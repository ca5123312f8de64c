//! Which stale entries this isolate is revalidating, so that not every request for one starts a revalidation.

use super::platform::time::now;
use crate::key::CacheKey;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

thread_local! {
    /// Until when each is waited for, in milliseconds since 1970. The runtime may end a revalidation without notice.
    static RUNNING: RefCell<HashMap<CacheKey, u64>> = RefCell::default();
}

/// Whether an entry is to be revalidated now. The revalidation may take `limit`.
pub fn begin(key: &CacheKey, limit: Duration) -> bool {
    let now = now();
    let until = now.saturating_add(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    RUNNING.with_borrow_mut(|running| {
        running.retain(|_, until| *until > now);
        let idle = !running.contains_key(key);
        if idle {
            running.insert(*key, until);
        }
        idle
    })
}

/// A revalidation has ended.
pub fn end(key: &CacheKey) {
    RUNNING.with_borrow_mut(|running| running.remove(key));
}
