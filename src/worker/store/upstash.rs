//! Redis behind Upstash's REST API: one request a command.

use crate::cache::upstash::{self, CommandError};
use crate::config::Upstash;
use crate::http::message::UpstreamRequest;
use crate::proxy::FetchError;
use crate::status::Reason;
use crate::worker::platform::fetch::{self as upstream, UpstreamResponse, Body};
use crate::worker::platform::interop as interop;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use js_sys::Uint8Array;
use std::time::Duration;
use wasm_bindgen::prelude::*;
use web_sys::Response;

#[wasm_bindgen(module = "/src/worker/store/upstash.js")]
extern "C" {
    #[wasm_bindgen(catch)]
    async fn parse_get(response: &Response, limit: f64) -> Result<JsValue, JsValue>;
}

/// A database at Upstash.
#[derive(Clone)]
pub struct Database {
    url: String,
    headers: HeaderMap,
}

impl Database {
    /// The database of these settings.
    pub fn new(settings: &Upstash) -> Database {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // A token that is no header value was refused with the settings.
        if let Ok(token) = HeaderValue::from_str(&format!("Bearer {}", settings.token)) {
            headers.insert(AUTHORIZATION, token);
        }
        Database { url: settings.url.to_string(), headers }
    }

    /// A key's value; `Some(None)` where it is not one of ours.
    ///
    /// # Errors
    /// [`Reason::StoreTimeout`], or [`Reason::StoreError`] where the database does not answer as it should.
    pub async fn get(&self, key: &str, timeout: Duration) -> Result<Option<Option<Uint8Array>>, Reason> {
        let answer = self.post(&upstash::get(key), timeout).await?;
        // Exact below 2^53.
        let value = parse_get(&answer.response, upstash::MAX_RESPONSE as f64).await.map_err(|_| Reason::StoreError)?;
        Ok(if value.is_null() { None } else { Some(value.dyn_into().ok()) })
    }

    /// Says a `SET`.
    ///
    /// # Errors
    /// As there.
    pub async fn put(&self, command: &str, timeout: Duration) -> Result<(), Reason> {
        upstash::parse_set(&self.execute(command, timeout).await?).map_err(refused)
    }

    /// Forgets a key. Gives how many there were.
    ///
    /// # Errors
    /// As there.
    pub async fn delete(&self, key: &str, timeout: Duration) -> Result<usize, Reason> {
        upstash::parse_deleted(&self.execute(&upstash::del(key), timeout).await?).map_err(refused)
    }

    /// Forgets the keys with a prefix among the next `count` of all. Gives how many there were, and where to go on.
    ///
    /// # Errors
    /// As there.
    pub async fn delete_scanned(
        &self,
        prefix: &str,
        cursor: Option<&str>,
        count: usize,
        timeout: Duration,
    ) -> Result<(usize, Option<String>), Reason> {
        let answer = self.execute(&upstash::scan(prefix, cursor, count), timeout).await?;
        let (cursor, names) = upstash::parse_scan(&answer).map_err(refused)?;
        let deleted = match names.is_empty() {
            true => 0,
            false => upstash::parse_deleted(&self.execute(&upstash::delete(&names), timeout).await?).map_err(refused)?,
        };
        Ok((deleted, cursor))
    }

    async fn execute(&self, command: &str, timeout: Duration) -> Result<Vec<u8>, Reason> {
        let answer = self.post(command, timeout).await?;
        // Errors come with a status of their own, and with `{"error":…}` too.
        match interop::bytes(&answer.response, upstash::MAX_RESPONSE).await {
            Ok(Some(bytes)) => Ok(bytes),
            _ => Err(Reason::StoreError),
        }
    }

    async fn post(&self, command: &str, timeout: Duration) -> Result<UpstreamResponse, Reason> {
        let upstream_request =
            UpstreamRequest { method: Method::POST, url: self.url.clone(), headers: self.headers.clone(), body: None };
        let body = Body::Bytes(Uint8Array::from(command.as_bytes()));
        upstream::send(&upstream_request, body, timeout, None).await.map_err(|failure| match failure {
            FetchError::TimedOut => Reason::StoreTimeout,
            FetchError::Unreachable => Reason::StoreError,
        })
    }
}

fn refused(_: CommandError) -> Reason {
    Reason::StoreError
}
