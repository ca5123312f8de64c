//! Between the platform's objects and the deciding floor's values.

use super::upstream;
use crate::flow::RequestHead;
use crate::present::Edits;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use js_sys::{Array, JSON, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Headers, ReadableStream, ReadableStreamDefaultReader, Request, Response, ResponseInit};
use worker::Env;

/// A variable's or secret's text. Values that `wrangler.toml` holds as TOML come as JSON text.
pub fn variable(env: &Env, name: &str) -> Option<String> {
    let value = Reflect::get(env, &name.into()).ok()?;
    if value.is_undefined() || value.is_null() {
        return None;
    }
    value.as_string().or_else(|| JSON::stringify(&value).ok()?.as_string())
}

/// A request without its body.
pub fn request_head(request: &Request) -> RequestHead {
    let url = request.url();
    // What the client wrote after the authority, untouched.
    let after_scheme = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    let target = after_scheme.find(['/', '?']).and_then(|at| after_scheme.get(at..));
    let target = target.unwrap_or("/").split('#').next().unwrap_or_default();
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let (headers, unreadable) = header_map(&request.headers());
    RequestHead {
        method: Method::from_bytes(request.method().as_bytes()).unwrap_or_default(),
        path: if path.is_empty() { "/" } else { path }.to_owned(),
        query,
        headers,
        unreadable,
    }
}

/// The platform's headers as a map, and the name of one that does not fit into it, if any. Values keep the platform's
/// reading of their bytes, so that they go on as they came.
fn header_map(headers: &Headers) -> (HeaderMap, Option<String>) {
    let mut map = HeaderMap::new();
    let mut unreadable = None;
    let pairs = js_sys::try_iter(headers).ok().flatten();
    for pair in pairs.into_iter().flatten().flatten() {
        let pair: Array = pair.unchecked_into();
        let [name, value] = [pair.get(0), pair.get(1)].map(|text| text.as_string().unwrap_or_default());
        match (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
            (Ok(name), Ok(value)) => _ = map.append(name, value),
            _ => unreadable = Some(name),
        }
    }
    (map, unreadable)
}

/// A map as the platform's headers.
pub fn js_headers(map: &HeaderMap) -> Headers {
    let headers = new_headers();
    for (name, value) in map {
        if let Ok(value) = std::str::from_utf8(value.as_bytes()) {
            append(&headers, name.as_str(), value);
        }
    }
    headers
}

fn new_headers() -> Headers {
    // The constructor without arguments cannot throw.
    Headers::new().unwrap_or_else(|error| error.unchecked_into())
}

/// Values that came from the platform's headers are valid there; one that is not is left out rather than fatal.
fn append(headers: &Headers, name: &str, value: &str) {
    let _ = headers.append(name, value);
}

/// An upstream's status and headers.
pub fn response_head(response: &Response) -> (StatusCode, HeaderMap) {
    let status = StatusCode::from_u16(response.status()).unwrap_or_default();
    (status, header_map(&response.headers()).0)
}

/// Whether a body that is there in name has nothing in it.
pub async fn is_empty(body: ReadableStream) -> bool {
    let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    matches!(upstream::next(&reader).await, Ok(None))
}

/// A whole body; `None` if it is longer than `limit` bytes.
///
/// # Errors
/// Whatever broke it off.
pub async fn bytes(response: &Response, limit: usize) -> Result<Option<Vec<u8>>, JsValue> {
    match response.body() {
        Some(body) => read_up_to(&body, limit).await,
        None => Ok(Some(Vec::new())),
    }
}

async fn read_up_to(body: &ReadableStream, limit: usize) -> Result<Option<Vec<u8>>, JsValue> {
    let mut bytes = Vec::new();
    let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    while let Some(piece) = upstream::next(&reader).await? {
        if bytes.len().saturating_add(piece.len()) > limit {
            drop(reader.cancel());
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes))
}

/// An answer whose body has been read, as it was.
pub fn again(response: &Response, body: &[u8]) -> Response {
    // The platform states the length itself, and codes the body again where it was coded.
    let init = head_of(response, |headers| drop(headers.delete("content-length")));
    let body = Uint8Array::from(body);
    Response::new_with_opt_js_u8_array_and_init(Some(&body), &init).unwrap_or_else(|_| bare_response(502))
}

/// A body that was read, or found to be too long to be.
pub enum ReadBody {
    /// All of it, here and as the platform's own buffer.
    Whole {
        /// The bytes.
        bytes: Vec<u8>,
        /// The same, to be sent on.
        handle: Uint8Array,
    },
    /// More than was allowed; nothing of this stream has been taken.
    Longer(ReadableStream),
}

/// Reads a request's body up to `limit` bytes.
///
/// # Errors
/// Whatever broke it off.
pub async fn read_body(request: &Request, limit: usize) -> Result<ReadBody, JsValue> {
    let length = request.headers().get("content-length").ok().flatten();
    if length.is_some() {
        // The caller has compared it with the limit.
        let buffer = JsFuture::from(request.array_buffer()?).await?;
        let handle = Uint8Array::new(&buffer);
        let bytes = handle.to_vec();
        return Ok(ReadBody::Whole { bytes, handle });
    }
    let Some(body) = request.body() else {
        let handle = Uint8Array::new_with_length(0);
        return Ok(ReadBody::Whole { bytes: Vec::new(), handle });
    };
    let [kept, read] = tee(&body);
    let Some(bytes) = read_up_to(&read, limit).await? else { return Ok(ReadBody::Longer(kept)) };
    drop(kept.cancel());
    let handle = Uint8Array::from(bytes.as_slice());
    Ok(ReadBody::Whole { bytes, handle })
}

/// Two streams of one. Each sees everything.
pub fn tee(stream: &ReadableStream) -> [ReadableStream; 2] {
    let branches = stream.tee();
    [branches.get(0), branches.get(1)].map(JsCast::unchecked_into)
}

/// The socket of a switched protocol.
pub fn socket(response: &Response) -> Option<JsValue> {
    let socket = Reflect::get(response, &"webSocket".into()).ok()?;
    (!socket.is_null() && !socket.is_undefined()).then_some(socket)
}

/// The upstream's answer for the client: its head with `edits`, and `body`.
pub fn passing(response: &Response, body: Option<&ReadableStream>, edits: &Edits) -> Response {
    let init = head_of(response, |headers| {
        let (name, value) = &edits.set;
        let _ = headers.set(name, value);
        let (name, value) = &edits.append;
        append(headers, name, value);
    });
    // A switched protocol (101) goes on in its socket.
    if let Some(socket) = socket(response) {
        let _ = Reflect::set(&init, &"webSocket".into(), &socket);
    }
    Response::new_with_opt_readable_stream_and_init(body, &init).unwrap_or_else(|_| bare_response(502))
}

/// An answer with another body.
pub fn with_body(response: &Response, body: Option<&ReadableStream>) -> Response {
    rebuilt(response, body, |_| ())
}

/// An answer with one header set.
pub fn with_header(response: &Response, name: &str, value: &str) -> Response {
    rebuilt(response, response.body().as_ref(), |headers| drop(headers.set(name, value)))
}

/// An answer with one header left out.
pub fn without_header(response: &Response, name: &str) -> Response {
    rebuilt(response, response.body().as_ref(), |headers| drop(headers.delete(name)))
}

/// An answer with a head of ours.
pub fn with_head(status: u16, headers: &HeaderMap, body: Option<&ReadableStream>) -> Response {
    let init = ResponseInit::new();
    init.set_status(status);
    init.set_headers(&js_headers(headers));
    Response::new_with_opt_readable_stream_and_init(body, &init).unwrap_or_else(|_| bare_response(502))
}

/// An answer with `body`, and its headers edited.
pub fn rebuilt(response: &Response, body: Option<&ReadableStream>, edit: impl FnOnce(&Headers)) -> Response {
    let init = head_of(response, edit);
    Response::new_with_opt_readable_stream_and_init(body, &init).unwrap_or_else(|_| bare_response(502))
}

/// An answer's head, with its headers edited.
fn head_of(response: &Response, edit: impl FnOnce(&Headers)) -> ResponseInit {
    let headers = Headers::new_with_headers(&response.headers()).unwrap_or_else(|_| new_headers());
    edit(&headers);
    let init = ResponseInit::new();
    init.set_status(response.status());
    init.set_status_text(&response.status_text());
    init.set_headers(&headers);
    init
}

/// A response of our own.
pub fn response(status: u16, headers: &[(String, String)], body: Option<&Uint8Array>) -> Response {
    let js = new_headers();
    for (name, value) in headers {
        append(&js, name, value);
    }
    let init = ResponseInit::new();
    init.set_status(status);
    init.set_headers(&js);
    Response::new_with_opt_js_u8_array_and_init(body, &init).unwrap_or_else(|_| bare_response(status))
}

/// A status with nothing else, for where nothing else can be built.
pub fn bare_response(status: u16) -> Response {
    let init = ResponseInit::new();
    init.set_status(status);
    Response::new_with_opt_str_and_init(None, &init).unwrap_or_else(|error| error.unchecked_into())
}
