//! Cloudflare KV, through the platform's own binding so that values stay its buffers.

use js_sys::{Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use worker::Env;

/// The binding's name in `wrangler.toml`.
const BINDING: &str = "OPENAI_CACHE";
/// KV keeps nothing for less; an entry's own expiry is what counts.
const SHORTEST_TTL: u64 = 60;

#[wasm_bindgen]
extern "C" {
    /// A KV namespace as the platform gives it.
    #[derive(Clone)]
    pub type Namespace;

    #[wasm_bindgen(method, js_name = get, catch)]
    fn js_get(this: &Namespace, key: &str, kind: &str) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, js_name = put, catch)]
    fn js_put(this: &Namespace, key: &str, value: &Uint8Array, options: &Object) -> Result<Promise, JsValue>;
}

impl Namespace {
    /// The namespace that the environment binds, if any.
    pub fn bound(env: &Env) -> Option<Namespace> {
        let binding = Reflect::get(env, &BINDING.into()).ok()?;
        (!binding.is_undefined() && !binding.is_null()).then(|| binding.unchecked_into())
    }

    /// A key's value.
    ///
    /// # Errors
    /// Whatever the platform throws.
    pub async fn get(&self, key: &str) -> Result<Option<Uint8Array>, JsValue> {
        let value = JsFuture::from(self.js_get(key, "arrayBuffer")?).await?;
        Ok((!value.is_null()).then(|| Uint8Array::new(&value)))
    }

    /// Sets a key's value, to be forgotten after `ttl` seconds or never.
    ///
    /// # Errors
    /// Whatever the platform throws.
    pub async fn put(&self, key: &str, value: &Uint8Array, ttl: Option<u64>) -> Result<(), JsValue> {
        let options = Object::new();
        if let Some(ttl) = ttl {
            // At most some years: exact as a number.
            let ttl = ttl.max(SHORTEST_TTL) as f64;
            Reflect::set(&options, &"expirationTtl".into(), &ttl.into())?;
        }
        JsFuture::from(self.js_put(key, value, &options)?).await?;
        Ok(())
    }
}
