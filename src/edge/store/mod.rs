//! Where entries are kept. A store never breaks a request: what fails or takes too long is a miss with its reason.

mod kv;

use crate::entry::{self, Entry, Prefix};
use crate::flow::Found;
use crate::key::Key;
use crate::status::Reason;
use futures_util::future::{Either, select};
use js_sys::{Promise, Uint8Array};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use worker::{Delay, Env};

/// How long a write may take in the background.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = ["crypto", "subtle"], js_name = digest, catch)]
    fn subtle_digest(algorithm: &str, data: &Uint8Array) -> Result<Promise, JsValue>;
}

/// The store that is bound.
pub enum Store {
    /// Cloudflare KV.
    Kv(kv::Namespace),
}

impl Store {
    /// The store that the environment binds, if any.
    pub fn bound(env: &Env) -> Option<Store> {
        kv::Namespace::bound(env).map(Store::Kv)
    }

    /// Looks a key up: what is there, and its body as the platform's own buffer.
    pub async fn get(&self, key: &Key, timeout: Duration) -> (Found, Option<Uint8Array>) {
        let Store::Kv(kv) = self;
        let found = async {
            match kv.get(&key.to_string()).await {
                Ok(None) => (Found::Nothing, None),
                Ok(Some(value)) => match open(&value).await {
                    Some((head, body)) => (Found::Entry(head), Some(body)),
                    None => (Found::Failed(Reason::EntryCorrupt), None),
                },
                Err(_) => (Found::Failed(Reason::StoreError), None),
            }
        };
        let late = (Found::Failed(Reason::StoreTimeout), None);
        within(timeout, found).await.unwrap_or(late)
    }

    /// Stores an entry. `now`: milliseconds since 1970.
    ///
    /// # Errors
    /// Why it is not stored.
    pub async fn put(&self, key: &Key, entry: &Entry, now: u64) -> Result<(), Reason> {
        let Store::Kv(kv) = self;
        let value = entry.encode().ok_or(Reason::TooLarge)?;
        let value = Uint8Array::from(value.as_slice());
        let key = key.to_string();
        let put = kv.put(&key, &value, entry.head.ttl(now));
        match within(WRITE_TIMEOUT, put).await {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(Reason::StoreError),
            None => Err(Reason::StoreTimeout),
        }
    }
}

/// What a future gives, if it does so in time.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), pin!(Delay::from(limit))).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

/// Checks an entry and takes it apart. The body stays where it is; the platform computes the digest.
async fn open(value: &Uint8Array) -> Option<(entry::Head, Uint8Array)> {
    let fixed = u32::try_from(entry::PREFIX_LEN).ok()?;
    let prefix = Prefix::decode(&value.subarray(0, fixed).to_vec())?;
    let rest = value.subarray(fixed, value.length());
    let digest = JsFuture::from(subtle_digest("SHA-256", &rest).ok()?).await.ok()?;
    if Uint8Array::new(&digest).to_vec() != prefix.digest {
        return None;
    }
    let body_start = u32::try_from(prefix.body_start()).ok()?;
    let head = entry::decode_head(&value.subarray(fixed, body_start).to_vec())?;
    Some((head, value.subarray(body_start, value.length())))
}
