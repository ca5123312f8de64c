//! Asking the upstream, and reading its answer behind the client's back.

use super::clock::{now, timer, within};
use super::convert;
use crate::capture::Capture;
use crate::entry::Entry;
use crate::flow::{Failure, Outbound};
use crate::status::Reason;
use futures_util::future::{Either, select};
use http::{HeaderMap, Method};
use js_sys::{Array, Promise, Reflect, Uint8Array};
use std::pin::pin;
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortController, AbortSignal, ReadableStream, ReadableStreamDefaultReader, RequestInit, RequestRedirect, Response,
};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = AbortSignal, js_name = any)]
    fn any_signal(signals: &Array) -> AbortSignal;

    #[wasm_bindgen(js_name = fetch, catch)]
    fn js_fetch(url: &str, init: &RequestInit) -> Result<Promise, JsValue>;
}

/// A request's body on its way.
pub enum Body {
    /// There is none.
    None,
    /// Passed on as it comes in.
    Stream(ReadableStream),
    /// Read already.
    Bytes(Uint8Array),
}

/// Sends a request and waits for its answer's head. `client`: where the answer is for this client alone, the upstream is
/// left as soon as the client leaves.
///
/// # Errors
/// [`Failure`] if none comes within `timeout`.
pub async fn send(
    outbound: &Outbound,
    body: Body,
    timeout: Duration,
    client: Option<&AbortSignal>,
) -> Result<Response, Failure> {
    let init = RequestInit::new();
    init.set_method(outbound.method.as_str());
    init.set_headers(&convert::js_headers(&outbound.headers));
    // Redirects are the client's to follow.
    init.set_redirect(RequestRedirect::Manual);
    match &body {
        Body::None => {}
        Body::Stream(stream) => init.set_body(stream),
        Body::Bytes(bytes) => init.set_body(bytes),
    }
    let controller = AbortController::new().ok();
    let ours = controller.as_ref().map(AbortController::signal);
    let signals: Array = ours.iter().chain(client).collect();
    init.set_signal(Some(&any_signal(&signals)));
    let asked = js_fetch(&outbound.url, &init).map_err(|_| Failure::Unreachable)?;
    match within(timeout, JsFuture::from(asked)).await {
        Some(Ok(response)) => sound(response.unchecked_into()),
        Some(Err(_)) => Err(Failure::Unreachable),
        None => {
            if let Some(controller) = controller {
                controller.abort();
            }
            Err(Failure::TimedOut)
        }
    }
}

/// An answer that can be given on: a final status, or a switched protocol with its socket.
fn sound(response: Response) -> Result<Response, Failure> {
    let switched = response.status() == 101 && convert::socket(&response).is_some();
    if switched || (200..600).contains(&response.status()) { Ok(response) } else { Err(Failure::Unreachable) }
}

/// Whether `url` gives any HTTP answer.
///
/// # Errors
/// [`Failure`] if none comes within `timeout`.
pub async fn probe(url: &str, timeout: Duration) -> Result<(), Failure> {
    let outbound = Outbound { method: Method::GET, url: url.to_owned(), headers: HeaderMap::new(), body: None };
    let response = send(&outbound, Body::None, timeout, None).await?;
    if let Some(body) = response.body() {
        // Unread bodies keep connections; whether it can be cancelled does not matter.
        drop(body.cancel());
    }
    Ok(())
}

/// Reads an answer to its end, which must not pause for longer than `idle`. Gives the entry, or why there is none, and
/// how many bytes were read.
///
/// Piece by piece: reading a branch whole would hold the client's branch back until the end.
pub async fn capture(mut capture: Capture, branch: &ReadableStream, idle: Duration) -> (Result<Entry, Reason>, usize) {
    let mut read = 0usize;
    let reader: ReadableStreamDefaultReader = branch.get_reader().unchecked_into();
    let give_up = |reason, read| {
        drop(reader.cancel());
        (Err(reason), read)
    };
    // One timer for many pieces: when it rings, the last piece tells whether it rings in earnest.
    let mut clock = pin!(timer(idle));
    let mut last = now();
    loop {
        let mut piece = pin!(next(&reader));
        let piece = loop {
            if let Either::Left((piece, _)) = select(piece.as_mut(), clock.as_mut()).await {
                break piece;
            }
            let quiet = Duration::from_millis(now().saturating_sub(last));
            if quiet >= idle {
                return give_up(Reason::Stalled, read);
            }
            clock.set(timer(idle.saturating_sub(quiet)));
        };
        match piece {
            Ok(Some(piece)) => {
                last = now();
                read = read.saturating_add(piece.len());
                if let Err(reason) = capture.push(&piece) {
                    return give_up(reason, read);
                }
            }
            Ok(None) => return (capture.finish(now()), read),
            Err(_) => return (Err(Reason::Truncated), read),
        }
    }
}

/// The next piece of a stream; `None` at its end.
///
/// # Errors
/// Whatever broke the stream off.
pub async fn next(reader: &ReadableStreamDefaultReader) -> Result<Option<Vec<u8>>, JsValue> {
    let result = JsFuture::from(reader.read()).await?;
    if Reflect::get(&result, &"done".into())?.is_truthy() {
        return Ok(None);
    }
    let piece: Uint8Array = Reflect::get(&result, &"value".into())?.unchecked_into();
    Ok(Some(piece.to_vec()))
}
