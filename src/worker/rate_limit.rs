//! The rate limit, where one is bound.

use super::platform::binding::binding;
use super::platform::time::timer_millis;
use js_sys::Promise;
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use worker::Env;

/// The binding's name in `wrangler.toml`.
const BINDING: &str = "RATE_LIMIT";

#[wasm_bindgen(module = "/src/worker/rate_limit.js")]
extern "C" {
    #[wasm_bindgen(js_name = allows)]
    fn js_allows(limiter: &JsValue, key: &str, timeout_ms: f64) -> Promise;
}

/// A rate limit of the Workers runtime.
pub struct RateLimiter(JsValue);

impl RateLimiter {
    /// The limit that the environment binds, if any.
    pub fn bound(env: &Env) -> Option<RateLimiter> {
        binding(env, BINDING).map(RateLimiter)
    }

    /// Whether one more request is allowed under this key. A limit that fails, or takes longer than `timeout`, allows it.
    pub async fn allows(&self, key: &str, timeout: Duration) -> bool {
        let allowed = JsFuture::from(js_allows(&self.0, key, timer_millis(timeout))).await;
        !allowed.is_ok_and(|allowed| allowed == JsValue::FALSE)
    }
}
