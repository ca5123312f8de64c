//! Cloudflare KV, through the platform's own binding so that values stay its buffers.

use js_sys::{Array, Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use worker::Env;

/// The binding's name in `wrangler.toml`.
pub const BINDING: &str = "OPENAI_CACHE";
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

#[wasm_bindgen(module = "/src/worker/store/kv.js")]
extern "C" {
    #[wasm_bindgen(js_name = forget)]
    fn js_forget(kv: &Namespace, name: &str) -> Promise;

    #[wasm_bindgen(js_name = purge)]
    fn js_purge(kv: &Namespace, prefix: &str, cursor: Option<&str>, limit: f64) -> Promise;
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

    /// Forgets a key. Gives how many there were, as far as this place knows.
    ///
    /// # Errors
    /// Whatever the platform throws.
    pub async fn forget(&self, key: &str) -> Result<usize, JsValue> {
        number(&JsFuture::from(js_forget(self, key)).await?)
    }

    /// Forgets the next keys with a prefix, at most `limit`. Gives how many there were, and where to go on.
    ///
    /// # Errors
    /// Whatever the platform throws; some of them may be forgotten then.
    pub async fn purge(
        &self,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<(usize, Option<String>), JsValue> {
        // Hundreds: exact as a number.
        let purged: Array = JsFuture::from(js_purge(self, prefix, cursor, limit as f64)).await?.dyn_into()?;
        Ok((number(&purged.get(0))?, purged.get(1).as_string()))
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

/// A count. `as` saturates and cannot fail.
fn number(value: &JsValue) -> Result<usize, JsValue> {
    value.as_f64().map(|n| n as usize).ok_or_else(|| value.clone())
}
