//! Where entries are kept. A store never breaks a request: what fails or takes too long is a miss with its reason.

mod encryption;
pub mod kv;
pub mod memory;
mod upstash;
mod write_order;

use crate::cache::entry::{self, Prefix};
use crate::cache::upstash as commands;
use crate::config::Config;
use crate::key::{self, CacheKey, EncryptionSalt};
use crate::proxy::Lookup;
use crate::routing::admin::Purge;
use crate::status::Reason;
use crate::worker::platform::time::{now, timer, within};
use js_sys::{Math, Promise, Uint8Array};
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use worker::Env;
pub use write_order::{supersede, sequence};
use write_order::{claim, was_deleted};

/// Beyond this an entry may as well stay for ever, and no store is asked to count that far: ten years, in seconds.
const LONGEST_TTL: u64 = 10 * 365 * 24 * 3600;
/// How long a write may take in the background.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a refused write is tried again, in milliseconds: the platform lets work go on for 30 s after an answer.
const LONGEST_WRITE_MS: u64 = 20_000;

/// How many keys Redis looks at in one step of a purge, and how many steps one call takes: two requests each, of which the
/// free plan allows 50.
const SCAN_COUNT: usize = 1_000;
const SCANS: usize = 20;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = ["crypto", "subtle"], js_name = digest, catch)]
    fn subtle_digest(algorithm: &str, data: &Uint8Array) -> Result<Promise, JsValue>;
}

/// The store that is bound.
#[derive(Clone)]
pub enum Store {
    /// Cloudflare KV.
    Kv(kv::Namespace),
    /// Redis at Upstash.
    Upstash(upstash::Database),
}

impl Store {
    /// The store to use: Upstash where it is set up, otherwise the namespace that the environment binds, if any.
    pub fn bound(env: &Env, config: &Config) -> Option<Store> {
        match &config.upstash {
            Some(settings) => Some(Store::Upstash(upstash::Database::new(settings))),
            None => kv::Namespace::bound(env).map(Store::Kv),
        }
    }

    /// Looks a name up: what is there, and its body as the platform's own buffer.
    pub async fn get(&self, name: &str, salt: Option<&EncryptionSalt>, config: &Config) -> (Lookup, Option<Uint8Array>) {
        verify_and_cache(name, self.fetch(name, salt, config).await).await
    }

    /// The encoded entry under a key, unsealed but not yet checked.
    async fn value(&self, key: &str, salt: Option<&EncryptionSalt>, config: &Config) -> Result<Option<Uint8Array>, Reason> {
        let timeout = config.store_timeout;
        let value = match self {
            Store::Kv(kv) => kv.get(key).await.map(|value| value.map(Some)).map_err(|_| Reason::StoreError),
            Store::Upstash(database) => database.get(key, timeout).await,
        };
        let Some(value) = value? else { return Ok(None) };
        // Where entries are sealed, one that is not may be anybody's.
        let value = match (value, salt) {
            (Some(value), Some(salt)) => encryption::open(&config.encryption, salt, &value).await,
            (value, _) => value,
        };
        value.map(Some).ok_or(Reason::EntryCorrupt)
    }

    /// The same in time, for who takes it with [`verify_and_cache`] later.
    ///
    /// # Errors
    /// Why there may be one all the same.
    pub async fn fetch(
        &self,
        key: &str,
        salt: Option<&EncryptionSalt>,
        config: &Config,
    ) -> Result<Option<Uint8Array>, Reason> {
        let value = within(config.store_timeout, self.value(key, salt, config)).await;
        value.unwrap_or(Err(Reason::StoreTimeout))
    }

    /// Stores an encoded entry, again where KV refuses it: it takes one write a second for each key. What was asked for
    /// later than in this [`sequence`] is not overwritten.
    ///
    /// # Errors
    /// Why it is not stored.
    pub async fn put(
        &self,
        (key, salt): (&CacheKey, Option<&EncryptionSalt>),
        head: &entry::EntryHead,
        value: &Uint8Array,
        sequence: u64,
        config: &Config,
    ) -> Result<(), Reason> {
        let sealed = match salt {
            Some(salt) => encryption::seal(&config.encryption, salt, value).await.ok_or(Reason::StoreError)?,
            None => value.clone(),
        };
        if !claim(key, sequence) {
            return Err(Reason::Superseded);
        }
        memory::put(&key.storage_key(), value);
        let put = self.log_exchange(key, head, &sealed, sequence, config).await;
        // It was deleted while it was written: whichever came last.
        if was_deleted(key, sequence) {
            let _ = self.delete(&key.storage_key()).await;
            return Err(Reason::Superseded);
        }
        put
    }

    async fn log_exchange(
        &self,
        key: &CacheKey,
        head: &entry::EntryHead,
        value: &Uint8Array,
        sequence: u64,
        config: &Config,
    ) -> Result<(), Reason> {
        let name = key.storage_key();
        let beyond_ms = config.stale_if_error_ms.max(config.stale_while_revalidate_ms);
        let ttl = || head.retention_secs(now(), beyond_ms).filter(|ttl| *ttl <= LONGEST_TTL);
        match self {
            Store::Kv(kv) => {
                let began = now();
                let mut attempts = 0u32;
                loop {
                    attempts = attempts.saturating_add(1);
                    match within(WRITE_TIMEOUT, kv.put(&name, value, ttl())).await {
                        Some(Ok(())) => return Ok(()),
                        None => return Err(Reason::StoreTimeout),
                        Some(Err(_)) => {}
                    }
                    let left_ms = LONGEST_WRITE_MS.saturating_sub(now().saturating_sub(began));
                    let wait = config.retry.write_retry_delay(attempts, left_ms, Math::random());
                    timer(Duration::from_millis(wait.ok_or(Reason::StoreError)?)).await;
                    if !claim(key, sequence) {
                        return Err(Reason::Superseded);
                    }
                }
            }
            Store::Upstash(database) => {
                let command = commands::set(&name, &value.to_vec(), ttl()).ok_or(Reason::TooLarge)?;
                database.put(&command, WRITE_TIMEOUT).await
            }
        }
    }
}

/// Checks what a store gave under a key, and remembers it.
pub async fn verify_and_cache(key: &str, value: Result<Option<Uint8Array>, Reason>) -> (Lookup, Option<Uint8Array>) {
    let value = match value {
        Ok(Some(value)) => value,
        Ok(None) => return (Lookup::Nothing, None),
        Err(reason) => return (Lookup::Failed(reason), None),
    };
    match open(&value).await {
        Some((head, body)) => {
            memory::read(key, &value);
            (Lookup::Entry(head), Some(body))
        }
        None => (Lookup::Failed(Reason::EntryCorrupt), None),
    }
}

/// Takes an entry apart that has been checked before.
pub fn split_verified(value: &Uint8Array) -> Option<(entry::EntryHead, Uint8Array)> {
    let fixed = u32::try_from(entry::PREFIX_LEN).ok()?;
    let prefix = Prefix::decode(&value.subarray(0, fixed).to_vec())?;
    let body_start = u32::try_from(prefix.body_start()).ok()?;
    let head = entry::decode_head(&value.subarray(fixed, body_start).to_vec())?;
    Some((head, value.subarray(body_start, value.length())))
}

impl Store {
    /// Forgets a key. Gives how many entries there were.
    ///
    /// # Errors
    /// Why it may still be there.
    pub async fn forget(&self, key: &CacheKey) -> Result<usize, Reason> {
        let name = key.storage_key();
        supersede(key);
        memory::invalidate(&name);
        self.delete(&name).await
    }

    async fn delete(&self, name: &str) -> Result<usize, Reason> {
        match self {
            Store::Kv(kv) => kv.forget(name).await.map_err(|_| Reason::StoreError),
            Store::Upstash(database) => database.delete(name, WRITE_TIMEOUT).await,
        }
    }

    /// Forgets some entries of a namespace. Gives how many, and where to go on.
    ///
    /// # Errors
    /// Why not all of them may be gone.
    pub async fn purge(&self, purge: &Purge) -> Result<(usize, Option<String>), Reason> {
        let prefix = key::storage_prefix(&purge.namespace);
        memory::invalidate_prefix(&prefix);
        match self {
            Store::Kv(kv) => {
                let purged = kv.purge(&prefix, purge.cursor.as_deref(), purge.limit).await;
                purged.map_err(|_| Reason::StoreError)
            }
            Store::Upstash(database) => {
                let (mut deleted, mut cursor) = (0usize, purge.cursor.clone());
                for _ in 0..SCANS {
                    let (n, next) = database.delete_scanned(&prefix, cursor.as_deref(), SCAN_COUNT, WRITE_TIMEOUT).await?;
                    deleted = deleted.saturating_add(n);
                    cursor = next;
                    if cursor.is_none() || deleted >= purge.limit {
                        break;
                    }
                }
                Ok((deleted, cursor))
            }
        }
    }
}

/// Checks an entry and takes it apart. The body stays where it is; the platform computes the digest.
pub async fn open(value: &Uint8Array) -> Option<(entry::EntryHead, Uint8Array)> {
    let fixed = u32::try_from(entry::PREFIX_LEN).ok()?;
    let prefix = Prefix::decode(&value.subarray(0, fixed).to_vec())?;
    let rest = value.subarray(fixed, value.length());
    let digest = JsFuture::from(subtle_digest("SHA-256", &rest).ok()?).await.ok()?;
    if Uint8Array::new(&digest).to_vec() != prefix.digest {
        return None;
    }
    split_verified(value)
}
