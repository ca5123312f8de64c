//! The store. It never fails a request: an error or a timeout is a miss with its reason.

mod encryption;
pub mod kv;
pub mod memory;
mod upstash;
pub mod write_order;

use super::platform::time::{now, timer, within};
use crate::cache::entry::{self, EntryHead, Prefix};
use crate::cache::upstash as commands;
use crate::config::Config;
use crate::key::{self, CacheKey, EncryptionSalt};
use crate::proxy::platform::Lookup;
use crate::routing::admin::Purge;
use crate::status::Reason;
use js_sys::{Math, Promise, Uint8Array};
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use worker::Env;

/// An entry that lives longer has no expiry in the store.
const MAX_TTL_SECONDS: u64 = 10 * 365 * 24 * 3600;
/// The time limit of one write in the background.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time in which a refused write is retried: the runtime lets work continue for 30 s after the response.
const MAX_WRITE_MS: u64 = 20_000;
/// The number of keys that Redis scans in one step of a purge.
const SCAN_COUNT: usize = 1_000;
/// The most steps of one purge: two requests each, of which the free plan allows 50.
const MAX_SCANS: usize = 20;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = ["crypto", "subtle"], js_name = digest, catch)]
    fn subtle_digest(algorithm: &str, data: &Uint8Array) -> Result<Promise, JsValue>;
}

/// The store that is bound.
#[derive(Clone)]
pub enum Store {
    /// Cloudflare KV.
    Kv(kv::KvNamespace),
    /// Redis at Upstash.
    Upstash(upstash::Database),
}

impl Store {
    /// Upstash where it is configured, otherwise the KV namespace that the environment binds, if any.
    pub fn bound(env: &Env, config: &Config) -> Option<Store> {
        match &config.store.upstash {
            Some(config) => Some(Store::Upstash(upstash::Database::new(config))),
            None => kv::KvNamespace::bound(env).map(Store::Kv),
        }
    }

    /// Reads and verifies an entry: its head, and its body in the runtime's buffer.
    pub async fn get(
        &self,
        key: &CacheKey,
        salt: Option<&EncryptionSalt>,
        config: &Config,
    ) -> (Lookup, Option<Uint8Array>) {
        verify_and_cache(key, self.read(&key.storage_key(), salt, config).await).await
    }

    /// Reads an encoded entry within `STORE_TIMEOUT_MS`, decrypted but not yet verified: see [`verify_and_cache`].
    ///
    /// # Errors
    /// Why it is not known whether there is one.
    pub async fn read(
        &self,
        name: &str,
        salt: Option<&EncryptionSalt>,
        config: &Config,
    ) -> Result<Option<Uint8Array>, Reason> {
        let value = within(config.store.timeout, self.read_untimed(name, salt, config)).await;
        value.unwrap_or(Err(Reason::StoreTimeout))
    }

    async fn read_untimed(
        &self,
        name: &str,
        salt: Option<&EncryptionSalt>,
        config: &Config,
    ) -> Result<Option<Uint8Array>, Reason> {
        let value = match self {
            Store::Kv(kv) => kv.get(name).await.map(|value| value.map(Some)).map_err(|_| Reason::StoreError),
            Store::Upstash(database) => database.get(name, config.store.timeout).await,
        };
        let Some(value) = value? else { return Ok(None) };
        // Where entries are encrypted, anybody may have written one that is not.
        let value = match (value, salt) {
            (Some(value), Some(salt)) => encryption::open(&config.store.encryption_keys, salt, &value).await,
            (value, _) => value,
        };
        value.map(Some).ok_or(Reason::EntryCorrupt)
    }

    /// Stores an encoded entry, unless a later request has stored one or the key has been deleted since `sequence`.
    ///
    /// # Errors
    /// Why it is not stored.
    pub async fn put(
        &self,
        (key, salt): (&CacheKey, Option<&EncryptionSalt>),
        head: &EntryHead,
        value: &Uint8Array,
        sequence: u64,
        config: &Config,
    ) -> Result<(), Reason> {
        let encrypted = match salt {
            Some(salt) => {
                encryption::seal(&config.store.encryption_keys, salt, value).await.ok_or(Reason::StoreError)?
            }
            None => value.clone(),
        };
        if !write_order::claim(key, sequence) {
            return Err(Reason::Superseded);
        }
        memory::put(&key.storage_key(), value);
        let written = self.write(key, head, &encrypted, sequence, config).await;
        // It was deleted while it was written, in either order.
        if write_order::was_deleted(key, sequence) {
            let _ = self.delete_name(&key.storage_key()).await;
            return Err(Reason::Superseded);
        }
        written
    }

    /// Writes a value, again where KV refuses it: KV takes one write a second for each key.
    async fn write(
        &self,
        key: &CacheKey,
        head: &EntryHead,
        value: &Uint8Array,
        sequence: u64,
        config: &Config,
    ) -> Result<(), Reason> {
        let name = key.storage_key();
        let beyond_ms = config.cache.stale_if_error_ms.max(config.cache.stale_while_revalidate_ms);
        let ttl = || head.retention_secs(now(), beyond_ms).filter(|ttl| *ttl <= MAX_TTL_SECONDS);
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
                    let left_ms = MAX_WRITE_MS.saturating_sub(now().saturating_sub(began));
                    let wait = config.upstream.retry.write_retry_delay(attempts, left_ms, Math::random());
                    timer(Duration::from_millis(wait.ok_or(Reason::StoreError)?)).await;
                    if !write_order::claim(key, sequence) {
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

    /// Deletes a key. Gives how many entries there were.
    ///
    /// # Errors
    /// Why it may still be there.
    pub async fn delete(&self, key: &CacheKey) -> Result<usize, Reason> {
        let name = key.storage_key();
        write_order::supersede(key);
        memory::invalidate(&name);
        self.delete_name(&name).await
    }

    async fn delete_name(&self, name: &str) -> Result<usize, Reason> {
        match self {
            Store::Kv(kv) => kv.delete(name).await.map_err(|_| Reason::StoreError),
            Store::Upstash(database) => database.delete(name, WRITE_TIMEOUT).await,
        }
    }

    /// Deletes some entries of a namespace. Gives how many, and where the next call continues.
    ///
    /// # Errors
    /// Why some of them may still be there.
    pub async fn purge(&self, purge: &Purge) -> Result<(usize, Option<String>), Reason> {
        let prefix = key::storage_prefix(&purge.namespace);
        memory::invalidate_prefix(&prefix);
        match self {
            Store::Kv(kv) => {
                let deleted = kv.delete_prefix(&prefix, purge.cursor.as_deref(), purge.limit).await;
                deleted.map_err(|_| Reason::StoreError)
            }
            Store::Upstash(database) => {
                let (mut deleted, mut cursor) = (0usize, purge.cursor.clone());
                for _ in 0..MAX_SCANS {
                    let (n, next) =
                        database.delete_scanned(&prefix, cursor.as_deref(), SCAN_COUNT, WRITE_TIMEOUT).await?;
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

/// Verifies what the store returned for a key, and puts it into memory.
pub async fn verify_and_cache(
    key: &CacheKey,
    value: Result<Option<Uint8Array>, Reason>,
) -> (Lookup, Option<Uint8Array>) {
    let value = match value {
        Ok(Some(value)) => value,
        Ok(None) => return (Lookup::Miss, None),
        Err(reason) => return (Lookup::Failed(reason), None),
    };
    match verify(key, &value).await {
        Some((head, body)) => {
            memory::put_if_current(&key.storage_key(), &value);
            (Lookup::Stored(head), Some(body))
        }
        None => (Lookup::Failed(Reason::EntryCorrupt), None),
    }
}

/// Verifies an encoded entry and takes it apart. The body stays in its buffer; the runtime computes the digest.
pub async fn verify(key: &CacheKey, value: &Uint8Array) -> Option<(EntryHead, Uint8Array)> {
    let prefix_len = u32::try_from(entry::PREFIX_LEN).ok()?;
    let prefix = Prefix::decode(&value.subarray(0, prefix_len).to_vec())?;
    let rest = value.subarray(prefix_len, value.length());
    let digest = JsFuture::from(subtle_digest("SHA-256", &rest).ok()?).await.ok()?;
    if Uint8Array::new(&digest).to_vec() != prefix.digest {
        return None;
    }
    split_verified(key, value)
}

/// Takes an entry apart that has been verified before.
pub fn split_verified(key: &CacheKey, value: &Uint8Array) -> Option<(EntryHead, Uint8Array)> {
    let prefix_len = u32::try_from(entry::PREFIX_LEN).ok()?;
    let prefix = Prefix::decode(&value.subarray(0, prefix_len).to_vec())?;
    let head_end = u32::try_from(prefix.head_end()).ok()?;
    let head = entry::decode_head(&value.subarray(prefix_len, head_end).to_vec(), key)?;
    let body_start = u32::try_from(head.body_start(&prefix)).ok()?;
    Some((head, value.subarray(body_start, value.length())))
}
