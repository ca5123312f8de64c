//! The runtime's clock and timers.

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

/// The longest wait that a timer can hold.
const MAX_TIMER: Duration = Duration::from_millis(i32::MAX as u64);

/// Milliseconds since 1970.
pub fn now() -> u64 {
    millis(date_now())
}

/// A JavaScript number of milliseconds. `as` saturates and cannot fail.
pub fn millis(number: f64) -> u64 {
    number as u64
}

/// A duration as a JavaScript number of milliseconds that a timer can hold.
pub fn timer_millis(duration: Duration) -> f64 {
    duration.min(MAX_TIMER).as_millis() as f64
}

/// A timer.
pub fn timer(duration: Duration) -> Delay {
    Delay::from(duration.min(MAX_TIMER))
}

/// The output of a future, if it is ready in time.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), pin!(timer(limit))).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}
