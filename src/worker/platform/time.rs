//! The platform's clock and timers.

use futures_util::future::{Either, select};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use wasm_bindgen::prelude::*;
use worker::Delay;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = Date, js_name = now)]
    fn date_now() -> f64;
}

/// The longest wait that the platform's timer can hold.
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

/// Milliseconds since 1970.
pub fn now() -> u64 {
    // `as` saturates and cannot fail.
    date_now() as u64
}

/// A timer that rings after `wait`.
pub fn timer(wait: Duration) -> Delay {
    Delay::from(wait.min(LONGEST))
}

/// What a future gives, if it does so in time.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), pin!(timer(limit))).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}
