//! An answer on its way to everyone who reads it, each at their own pace. The bytes move in JavaScript: they reach their
//! readers whatever becomes of this code.

use crate::cache::admission::Capture;
use crate::cache::entry::Entry;
use crate::cache::stored_headers;
use crate::http::fields;
use crate::http::media_type;
use crate::status::Reason;
use crate::worker::platform::fetch::UpstreamResponse;
use crate::worker::platform::interop as interop;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
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
        call: &AbortController,
        cap: f64,
        kept: bool,
        first: Option<&AbortSignal>,
        piped: bool,
        length: Option<f64>,
    ) -> Broadcast;

    #[wasm_bindgen(method, getter)]
    fn ended(this: &Broadcast) -> Promise;

    #[wasm_bindgen(method, getter)]
    fn own(this: &Broadcast) -> Option<ReadableStream>;

    #[wasm_bindgen(method, getter)]
    fn overflow(this: &Broadcast) -> Promise;

    #[wasm_bindgen(method, getter)]
    fn overflowed(this: &Broadcast) -> bool;

    #[wasm_bindgen(method, getter)]
    fn readers(this: &Broadcast) -> u32;

    #[wasm_bindgen(method, getter)]
    fn size(this: &Broadcast) -> Option<f64>;

    #[wasm_bindgen(method)]
    fn pieces(this: &Broadcast, size: f64) -> js_sys::Iterator;

    #[wasm_bindgen(method, catch)]
    fn attach(this: &Broadcast, length: Option<f64>) -> Result<ReadableStream, JsValue>;
}

/// How much of a body is looked at in one go, in bytes.
const PIECE: f64 = 65_536.0;

/// How a body is read.
struct BroadcastOptions<'a> {
    /// How long it may pause.
    idle: Duration,
    /// How much of it is held for readers who come later, in bytes.
    cap: usize,
    /// Whether it is to be kept.
    kept: bool,
    /// Rings when its first reader leaves, if there is one yet.
    first: Option<&'a AbortSignal>,
}

fn broadcast(body: &ReadableStream, headers: &HeaderMap, call: &AbortController, how: &BroadcastOptions<'_>) -> Broadcast {
    // A timer cannot be set for longer than this.
    let idle = how.idle.as_millis().min(i32::MAX as u128) as f64;
    // What comes in many small pieces the platform hands on. A relay decodes a coded body, which is then coded anew: its first
    // reader gets the bytes as they came.
    let piped = !is_coded(headers) && media_type::is_event_stream(&media_type::essence(headers));
    let first = how.first.filter(|_| piped || is_coded(headers));
    // Lengths are exact below 2^53.
    Broadcast::new(body, idle, call, how.cap as f64, how.kept, first, piped, plain_length(headers))
}

fn is_coded(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_ENCODING)
}

/// A body's length, where it is known and what is read is not decoded.
fn plain_length(headers: &HeaderMap) -> Option<f64> {
    fields::content_length(headers).filter(|_| !is_coded(headers)).map(|length| length as f64)
}

/// An answer's body for the one client who reads it, which rings when it leaves. What models write breaks off when it pauses
/// for longer than `idle`, and so does an error; files, and what would have to be decoded for that, go through untouched.
pub fn with_idle_timeout(answer: &UpstreamResponse, idle: Duration, client: &AbortSignal) -> Option<ReadableStream> {
    let body = answer.body.clone()?;
    let essence = media_type::essence(&answer.headers);
    let failed = answer.status.is_client_error() || answer.status.is_server_error();
    let put = failed || media_type::is_event_stream(&essence) || media_type::is_json(&essence);
    match answer.call() {
        Some(call) if put && !is_coded(&answer.headers) => {
            let how = BroadcastOptions { idle, cap: 0, kept: false, first: Some(client) };
            read_by_first(&broadcast(&body, &answer.headers, call, &how), &answer.headers)
        }
        _ => Some(body),
    }
}

/// The body for its first reader.
fn read_by_first(broadcast: &Broadcast, headers: &HeaderMap) -> Option<ReadableStream> {
    broadcast.own().or_else(|| broadcast.attach(plain_length(headers)).ok())
}

/// An answer that is coming in.
pub struct SharedBody {
    answer: UpstreamResponse,
    broadcast: Option<Broadcast>,
    first: Option<Option<ReadableStream>>,
}

impl SharedBody {
    /// Begins to read an answer. It is held for readers who come later, up to `cap` bytes; its `first` reader, which rings
    /// when it leaves, has to be there before any byte is dropped. Unless it is to be `kept` it is left when its last reader leaves.
    pub fn new(answer: UpstreamResponse, idle: Duration, cap: usize, first: Option<&AbortSignal>, kept: bool) -> SharedBody {
        let how = BroadcastOptions { idle, cap, kept, first };
        let body = answer.body.as_ref().zip(answer.call());
        let broadcast = body.map(|(body, call)| broadcast(body, &answer.headers, call, &how));
        let first = first.map(|_| broadcast.as_ref().and_then(|broadcast| read_by_first(broadcast, &answer.headers)));
        SharedBody { answer, broadcast, first }
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        self.answer.status
    }

    /// The answer for its first reader.
    pub fn first(&self) -> Option<UpstreamResponse> {
        self.first.clone().map(|body| self.answer.given(body))
    }

    /// The answer from its first byte, for another caller than the one who asked: without what is that one's business, and with
    /// the header `mark`. `shared`: they are not one party. `None`: the first byte is gone.
    pub fn share(&self, shared: bool, mark: (HeaderName, HeaderValue)) -> Option<Response> {
        let headers = &self.answer.headers;
        let body = self.broadcast.as_ref().map(|broadcast| broadcast.attach(plain_length(headers))).transpose().ok()?;
        let kept = headers.iter().filter(|(name, _)| stored_headers::is_shared(name.as_str(), shared));
        let mut kept: HeaderMap = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        kept.insert(mark.0, mark.1);
        Some(interop::with_head(self.status().as_u16(), &kept, body.as_ref()))
    }

    /// Whether nobody can join any more.
    pub fn overflowed(&self) -> bool {
        self.broadcast.as_ref().is_some_and(Broadcast::overflowed)
    }

    /// How many read it now.
    pub fn readers(&self) -> usize {
        self.broadcast.as_ref().map_or(0, |broadcast| usize::try_from(broadcast.readers()).unwrap_or(usize::MAX))
    }

    /// How many bytes have been read so far; `None`: the end will not be seen.
    pub fn size(&self) -> Option<u64> {
        // `as` saturates and cannot fail.
        self.broadcast.as_ref()?.size().map(|size| size as u64)
    }

    async fn ended(&self) -> Option<String> {
        JsFuture::from(self.broadcast.as_ref()?.ended()).await.ok()?.as_string()
    }

    /// Whether its end came as it should.
    pub async fn completed_cleanly(&self) -> bool {
        self.broadcast.is_none() || matches!(self.ended().await.as_deref(), Some(""))
    }

    /// Resolves when nobody can join any more, and never if that does not come.
    pub async fn overflow(&self) {
        match &self.broadcast {
            Some(broadcast) => _ = JsFuture::from(broadcast.overflow()).await,
            None => std::future::pending().await,
        }
    }

    /// Waits for the end, and takes the whole: all of it at once, so that it is not held twice meanwhile.
    ///
    /// # Errors
    /// Why it is not worth keeping.
    pub async fn into_entry(&self, capture: Result<Capture, Reason>, now: impl FnOnce() -> u64) -> Result<Entry, Reason> {
        let Some(broadcast) = &self.broadcast else { return capture.and(Err(Reason::ResponseEmpty)) };
        let ended = self.ended().await;
        let mut capture = capture?;
        match ended.as_deref() {
            Some("too-large") => Err(Reason::TooLarge),
            Some("") => {
                for piece in &broadcast.pieces(PIECE) {
                    let piece = piece.map_err(|_| Reason::Truncated)?;
                    capture.push(&piece.unchecked_into::<Uint8Array>().to_vec())?;
                }
                capture.finish(now())
            }
            Some("stalled") => Err(Reason::Stalled),
            _ => Err(Reason::Truncated),
        }
    }
}
