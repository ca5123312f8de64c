//! How often a caller may ask, where the platform's rate limit is bound.

use js_sys::{Promise, Reflect};
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use worker::Env;

/// The binding's name in `wrangler.toml`.
const BINDING: &str = "RATE_LIMIT";

#[wasm_bindgen(module = "/src/worker/rate_limit.js")]
extern "C" {
    #[wasm_bindgen(js_name = allows)]
    fn js_allows(limiter: &JsValue, key: &str, ms: f64) -> Promise;
}

/// A rate limit as the platform gives it.
pub struct RateLimiter(JsValue);

impl RateLimiter {
    /// The limit that the environment binds, if any.
    pub fn bound(env: &Env) -> Option<RateLimiter> {
        let binding = Reflect::get(env, &BINDING.into()).ok()?;
        (!binding.is_undefined() && !binding.is_null()).then_some(RateLimiter(binding))
    }

    /// Whether a caller may ask once more. What fails, or takes longer than `timeout`, is no reason to refuse it.
    pub async fn allows(&self, caller: &str, timeout: Duration) -> bool {
        // A timer cannot be set for longer than this.
        let ms = timeout.as_millis().min(i32::MAX as u128) as f64;
        !JsFuture::from(js_allows(&self.0, caller, ms)).await.is_ok_and(|allowed| allowed == JsValue::FALSE)
    }
}
