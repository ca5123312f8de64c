//! An upstream response on its way to every client that reads it, each at its own pace. The bytes move in JavaScript, so
//! they reach the clients even if the wasm instance is reset.

use super::namespace::DISPOSITION_HEADER;
use crate::cache::admission::Capture;
use crate::cache::coalesce::Disposition;
use crate::cache::entry::Entry;
use crate::cache::stored_headers;
use crate::http::{fields, media_type};
use crate::protocol::usage::Usage;
use crate::proxy::platform::{ShareOptions, SharedResponse};
use crate::status::Reason;
use crate::worker::platform::fetch::UpstreamResponse;
use crate::worker::platform::interop;
use crate::worker::platform::time::{millis, timer_millis};
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderName, StatusCode};
use js_sys::{Promise, Uint8Array};
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortController, AbortSignal, ReadableStream, Response};

#[wasm_bindgen(module = "/src/worker/coalesce/broadcast.js")]
extern "C" {
    type Broadcast;

    #[wasm_bindgen(constructor)]
    fn new(
        body: &ReadableStream,
        idle_ms: f64,
        request: &AbortController,
        max_buffered_bytes: f64,
        storable: bool,
        leader: Option<&AbortSignal>,
        piped: bool,
        length: Option<f64>,
    ) -> Broadcast;

    #[wasm_bindgen(method, getter, js_name = whenEnded)]
    fn when_ended(this: &Broadcast) -> Promise;

    #[wasm_bindgen(method, getter, js_name = leaderBody)]
    fn leader_body(this: &Broadcast) -> Option<ReadableStream>;

    #[wasm_bindgen(method, getter, js_name = whenOverflowed)]
    fn when_overflowed(this: &Broadcast) -> Promise;

    #[wasm_bindgen(method, getter)]
    fn overflowed(this: &Broadcast) -> bool;

    #[wasm_bindgen(method, getter, js_name = readerCount)]
    fn reader_count(this: &Broadcast) -> u32;

    #[wasm_bindgen(method, getter, js_name = bytesRead)]
    fn bytes_read(this: &Broadcast) -> Option<f64>;

    #[wasm_bindgen(method)]
    fn segments(this: &Broadcast, size: f64) -> js_sys::Iterator;

    #[wasm_bindgen(method, catch, js_name = openStream)]
    fn open_stream(this: &Broadcast, length: Option<f64>) -> Result<ReadableStream, JsValue>;
}

// wasm-bindgen copies only the files that a block names. `broadcast.js` imports these two.
#[wasm_bindgen(module = "/src/worker/coalesce/fan_out.js")]
extern "C" {
    type FanOut;
}

#[wasm_bindgen(module = "/src/worker/coalesce/pacing.js")]
extern "C" {
    type PollPace;
}

/// The most of a body that is copied into wasm at a time, in bytes.
const SEGMENT_BYTES: f64 = 65_536.0;

fn broadcast(
    response: &UpstreamResponse,
    idle: Duration,
    options: &ShareOptions<'_, AbortSignal>,
) -> Option<Broadcast> {
    let (body, request) = (response.body.as_ref()?, response.request()?);
    let headers = &response.headers;
    // The runtime hands on what comes in many small chunks. The broadcast decodes an encoded body, which is then encoded
    // again: its leader gets the bytes as they came.
    let encoded = is_encoded(headers);
    let piped = !encoded && media_type::is_event_stream(&media_type::essence(headers));
    let leader = options.leader.filter(|_| piped || encoded);
    // Lengths are exact below 2^53.
    let max_buffered_bytes = options.max_buffered_bytes as f64;
    let length = decoded_length(headers);
    Some(Broadcast::new(
        body,
        timer_millis(idle),
        request,
        max_buffered_bytes,
        options.is_storable,
        leader,
        piped,
        length,
    ))
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_ENCODING)
}

/// The length of a body that is not encoded, where it is known.
fn decoded_length(headers: &HeaderMap) -> Option<f64> {
    fields::content_length(headers).filter(|_| !is_encoded(headers)).map(|length| length as f64)
}

/// The body for the one client that reads it. Generated text is aborted when it pauses for longer than `idle`, and so is an
/// error. Files, and bodies that would have to be decoded for that, pass untouched.
pub fn with_idle_timeout(response: &UpstreamResponse, idle: Duration, client: &AbortSignal) -> Option<ReadableStream> {
    let body = response.body.clone()?;
    let essence = media_type::essence(&response.headers);
    let failed = response.status.is_client_error() || response.status.is_server_error();
    let generated = failed || media_type::is_event_stream(&essence) || media_type::is_json(&essence);
    if response.request().is_none() || !generated || is_encoded(&response.headers) {
        return Some(body);
    }
    let options = ShareOptions { max_buffered_bytes: 0, leader: Some(client), is_storable: false };
    for_leader(&broadcast(response, idle, &options)?, &response.headers)
}

fn for_leader(broadcast: &Broadcast, headers: &HeaderMap) -> Option<ReadableStream> {
    broadcast.leader_body().or_else(|| broadcast.open_stream(decoded_length(headers)).ok())
}

/// An upstream response that several clients read.
pub struct SharedBody {
    response: UpstreamResponse,
    broadcast: Option<Broadcast>,
    /// The body for the leader, if there is one.
    leader: Option<Option<ReadableStream>>,
}

impl SharedBody {
    /// Begins to read a response. The leader's branch exists before any byte is dropped.
    pub fn new(response: UpstreamResponse, idle: Duration, options: &ShareOptions<'_, AbortSignal>) -> SharedBody {
        let broadcast = broadcast(&response, idle, options);
        let body = || broadcast.as_ref().and_then(|broadcast| for_leader(broadcast, &response.headers));
        let leader = options.leader.map(|_| body());
        SharedBody { response, broadcast, leader }
    }

    /// All of the body is copied at once at its end, so that it is not held twice meanwhile.
    async fn read_capture(&self, capture: Result<Capture, Reason>) -> Result<Capture, Reason> {
        let Some(broadcast) = &self.broadcast else { return capture.and(Err(Reason::ResponseEmpty)) };
        let end = self.end().await;
        let mut capture = capture?;
        match end.as_deref() {
            Some("too-large") => Err(Reason::TooLarge),
            Some("") => {
                for segment in &broadcast.segments(SEGMENT_BYTES) {
                    let segment = segment.map_err(|_| Reason::Truncated)?;
                    capture.push(&segment.unchecked_into::<Uint8Array>().to_vec())?;
                }
                Ok(capture)
            }
            Some("stalled") => Err(Reason::Stalled),
            _ => Err(Reason::Truncated),
        }
    }

    async fn end(&self) -> Option<String> {
        JsFuture::from(self.broadcast.as_ref()?.when_ended()).await.ok()?.as_string()
    }
}

impl SharedResponse for SharedBody {
    type Upstream = UpstreamResponse;
    type Follower = Response;

    fn status(&self) -> StatusCode {
        self.response.status
    }

    fn headers(&self) -> &HeaderMap {
        &self.response.headers
    }

    fn for_leader(&self) -> Option<UpstreamResponse> {
        self.leader.clone().map(|body| self.response.with_body(body))
    }

    /// The response says what it is in the header between Durable Object and Worker.
    fn for_follower(&self, across_tenants: bool, disposition: Disposition) -> Option<Response> {
        let headers = &self.response.headers;
        let body = self.broadcast.as_ref().map(|broadcast| broadcast.open_stream(decoded_length(headers)));
        let body = body.transpose().ok()?;
        let names = headers.keys().map(HeaderName::as_str);
        let removed: Vec<&str> = names.filter(|name| !stored_headers::is_shared(name, across_tenants)).collect();
        let disposition = disposition.to_header_value();
        let set = (DISPOSITION_HEADER, disposition.as_str());
        Some(interop::with_header(&self.response.response, body.as_ref(), &removed, set))
    }

    async fn watch(&self, mut accepts: impl FnMut(&[u8]) -> bool) -> bool {
        let Some(broadcast) = &self.broadcast else { return false };
        let Ok(body) = broadcast.open_stream(None) else { return true };
        interop::read_while(&body, &mut accepts).await
    }

    fn has_overflowed(&self) -> bool {
        self.broadcast.as_ref().is_some_and(Broadcast::overflowed)
    }

    async fn overflow(&self) {
        match &self.broadcast {
            Some(broadcast) => _ = JsFuture::from(broadcast.when_overflowed()).await,
            None => std::future::pending().await,
        }
    }

    fn readers(&self) -> usize {
        self.broadcast.as_ref().map_or(0, |broadcast| usize::try_from(broadcast.reader_count()).unwrap_or(usize::MAX))
    }

    fn size(&self) -> Option<u64> {
        self.broadcast.as_ref()?.bytes_read().map(millis)
    }

    async fn ended_cleanly(&self) -> bool {
        self.broadcast.is_none() || matches!(self.end().await.as_deref(), Some(""))
    }

    /// All of the body is copied at once at its end, so that it is not held twice meanwhile.
    async fn read_entry(
        &self,
        capture: Result<Capture, Reason>,
        now: impl FnOnce() -> u64,
    ) -> (Result<Entry, Reason>, Usage) {
        match self.read_capture(capture).await {
            Ok(capture) => capture.finish_with_usage(now()),
            Err(reason) => (Err(reason), Usage::default()),
        }
    }
}
