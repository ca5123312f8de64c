//! Upstash Redis through its REST API: one request a command.

use crate::cache::upstash::{self, CommandError};
use crate::config::Upstash;
use crate::http::message::UpstreamRequest;
use crate::proxy::platform::FetchError;
use crate::status::Reason;
use crate::worker::platform::fetch::{self, Body, UpstreamResponse};
use crate::worker::platform::interop;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use js_sys::Uint8Array;
use std::time::Duration;
use wasm_bindgen::prelude::*;
use web_sys::Response;

#[wasm_bindgen(module = "/src/worker/store/upstash.js")]
extern "C" {
    #[wasm_bindgen(catch, js_name = parseGet)]
    async fn parse_get(response: &Response, max_chars: f64) -> Result<JsValue, JsValue>;
}

/// A database at Upstash.
#[derive(Clone)]
pub struct Database {
    url: String,
    headers: HeaderMap,
}

impl Database {
    /// The configured database.
    pub fn new(config: &Upstash) -> Database {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // A token that is no header value was refused with the configuration.
        if let Ok(token) = HeaderValue::from_str(&format!("Bearer {}", config.token)) {
            headers.insert(AUTHORIZATION, token);
        }
        Database { url: config.url.to_string(), headers }
    }

    /// `GET`: the value under a name; `Some(None)` where it is not one of ours.
    ///
    /// # Errors
    /// [`Reason::StoreTimeout`], or [`Reason::StoreError`] where the database does not respond as it should.
    pub async fn get(&self, name: &str, timeout: Duration) -> Result<Option<Option<Uint8Array>>, Reason> {
        let response = self.post(&upstash::get(name), timeout).await?;
        // Exact below 2^53.
        let value = parse_get(&response.response, upstash::MAX_RESPONSE as f64).await;
        let value = value.map_err(|_| Reason::StoreError)?;
        Ok(if value.is_null() { None } else { Some(value.dyn_into().ok()) })
    }

    /// `SET`: sends such a command.
    ///
    /// # Errors
    /// As [`Database::get`].
    pub async fn put(&self, command: &str, timeout: Duration) -> Result<(), Reason> {
        upstash::parse_set(&self.execute(command, timeout).await?).map_err(store_error)
    }

    /// `DEL`. Gives how many entries there were.
    ///
    /// # Errors
    /// As [`Database::get`].
    pub async fn delete(&self, name: &str, timeout: Duration) -> Result<usize, Reason> {
        upstash::parse_deleted(&self.execute(&upstash::del(name), timeout).await?).map_err(store_error)
    }

    /// `SCAN` and `DEL`: deletes the names with a prefix among the next `count` of all. Gives how many there were, and where
    /// the next call continues.
    ///
    /// # Errors
    /// As [`Database::get`].
    pub async fn delete_scanned(
        &self,
        prefix: &str,
        cursor: Option<&str>,
        count: usize,
        timeout: Duration,
    ) -> Result<(usize, Option<String>), Reason> {
        let response = self.execute(&upstash::scan(prefix, cursor, count), timeout).await?;
        let (cursor, names) = upstash::parse_scan(&response).map_err(store_error)?;
        if names.is_empty() {
            return Ok((0, cursor));
        }
        let response = self.execute(&upstash::delete(&names), timeout).await?;
        Ok((upstash::parse_deleted(&response).map_err(store_error)?, cursor))
    }

    async fn execute(&self, command: &str, timeout: Duration) -> Result<Vec<u8>, Reason> {
        let response = self.post(command, timeout).await?;
        // An error has a status of its own and `{"error":…}` too.
        match interop::bytes(&response.response, upstash::MAX_RESPONSE).await {
            Ok(Some(bytes)) => Ok(bytes),
            _ => Err(Reason::StoreError),
        }
    }

    async fn post(&self, command: &str, timeout: Duration) -> Result<UpstreamResponse, Reason> {
        let (url, headers) = (self.url.clone(), self.headers.clone());
        let request = UpstreamRequest { method: Method::POST, url, headers, body: None };
        let body = Body::Bytes(Uint8Array::from(command.as_bytes()));
        fetch::send(&request, body, timeout, None).await.map_err(|error| match error {
            FetchError::TimedOut => Reason::StoreTimeout,
            FetchError::Unreachable => Reason::StoreError,
        })
    }
}

fn store_error(_: CommandError) -> Reason {
    Reason::StoreError
}
