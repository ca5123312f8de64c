//! Cloudflare KV, through the runtime's own binding, so that values stay its buffers.

use crate::worker::platform::binding::binding;
use js_sys::{Array, Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use worker::Env;

/// The binding's name in `wrangler.toml`.
pub const BINDING: &str = "OPENAI_CACHE";
/// KV accepts no shorter expiry. The entry's own expiry is what counts.
const MIN_TTL_SECONDS: u64 = 60;

#[wasm_bindgen]
extern "C" {
    /// A KV namespace.
    #[derive(Clone)]
    pub type KvNamespace;

    #[wasm_bindgen(method, js_name = get, catch)]
    fn js_get(this: &KvNamespace, name: &str, kind: &str) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, js_name = put, catch)]
    fn js_put(this: &KvNamespace, name: &str, value: &Uint8Array, options: &Object) -> Result<Promise, JsValue>;
}

#[wasm_bindgen(module = "/src/worker/store/kv.js")]
extern "C" {
    #[wasm_bindgen(js_name = deleteKey)]
    fn js_delete(kv: &KvNamespace, name: &str) -> Promise;

    #[wasm_bindgen(js_name = deletePrefix)]
    fn js_delete_prefix(kv: &KvNamespace, prefix: &str, cursor: Option<&str>, limit: f64) -> Promise;
}

impl KvNamespace {
    /// The namespace that the environment binds, if any.
    pub fn bound(env: &Env) -> Option<KvNamespace> {
        binding(env, BINDING).map(JsCast::unchecked_into)
    }

    /// The value under a name.
    ///
    /// # Errors
    /// Any exception of the runtime.
    pub async fn get(&self, name: &str) -> Result<Option<Uint8Array>, JsValue> {
        let value = JsFuture::from(self.js_get(name, "arrayBuffer")?).await?;
        Ok((!value.is_null()).then(|| Uint8Array::new(&value)))
    }

    /// Sets a value, to be dropped after `ttl` seconds or never.
    ///
    /// # Errors
    /// Any exception of the runtime.
    pub async fn put(&self, name: &str, value: &Uint8Array, ttl: Option<u64>) -> Result<(), JsValue> {
        let options = Object::new();
        if let Some(ttl) = ttl {
            // At most some years: exact as a number.
            let ttl = ttl.max(MIN_TTL_SECONDS) as f64;
            Reflect::set(&options, &"expirationTtl".into(), &ttl.into())?;
        }
        JsFuture::from(self.js_put(name, value, &options)?).await?;
        Ok(())
    }

    /// Deletes a name. Gives how many entries there were, as far as this location knows.
    ///
    /// # Errors
    /// Any exception of the runtime.
    pub async fn delete(&self, name: &str) -> Result<usize, JsValue> {
        count(&JsFuture::from(js_delete(self, name)).await?)
    }

    /// Deletes the next names with a prefix, at most `limit`. Gives how many there were, and where the next call continues.
    ///
    /// # Errors
    /// Any exception of the runtime. Some of them may be deleted then.
    pub async fn delete_prefix(
        &self,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<(usize, Option<String>), JsValue> {
        // Hundreds: exact as a number.
        let deleted = JsFuture::from(js_delete_prefix(self, prefix, cursor, limit as f64)).await?;
        let deleted: Array = deleted.dyn_into()?;
        Ok((count(&deleted.get(0))?, deleted.get(1).as_string()))
    }
}

/// A count. `as` saturates and cannot fail.
fn count(value: &JsValue) -> Result<usize, JsValue> {
    value.as_f64().map(|n| n as usize).ok_or_else(|| value.clone())
}
