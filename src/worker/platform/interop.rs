//! Between the platform's objects and the deciding floor's values.

use super::fetch as upstream;
use crate::http::message::RequestHead;
use crate::proxy::reply::HeaderEdits;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use js_sys::{JSON, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Headers, ReadableStream, ReadableStreamDefaultReader, Request, Response};
use worker::Env;

/// A variable's or secret's text. Values that `wrangler.toml` holds as TOML come as JSON text.
pub fn variable(env: &Env, name: &str) -> Option<String> {
    let value = Reflect::get(env, &name.into()).ok()?;
    if value.is_undefined() || value.is_null() {
        return None;
    }
    value.as_string().or_else(|| JSON::stringify(&value).ok()?.as_string())
}

#[wasm_bindgen(module = "/src/worker/platform/interop.js")]
extern "C" {
    #[wasm_bindgen(js_name = requestText)]
    fn request_text(request: &Request) -> String;

    #[wasm_bindgen(js_name = responseText)]
    fn response_text(response: &Response) -> String;

    #[wasm_bindgen(js_name = headersOf)]
    fn headers_of(text: &str) -> Headers;

    #[wasm_bindgen(js_name = response)]
    fn js_response(status: u16, headers: &str, body: Option<&JsValue>) -> Response;

    #[wasm_bindgen(js_name = rebuilt)]
    fn js_rebuilt(answer: &Response, body: Option<&JsValue>, removed: &str, set: &str, added: &str) -> Response;
}

/// A request without its body.
pub fn request_head(request: &Request) -> RequestHead {
    let text = request_text(request);
    let mut lines = text.split('\n');
    let (method, url) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    // What the client wrote after the authority, untouched.
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let target = after_scheme.find(['/', '?']).and_then(|at| after_scheme.get(at..));
    let target = target.unwrap_or("/").split('#').next().unwrap_or_default();
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let (headers, invalid_header) = header_map(lines);
    RequestHead {
        method: Method::from_bytes(method.as_bytes()).unwrap_or_default(),
        path: if path.is_empty() { "/" } else { path }.to_owned(),
        query,
        headers,
        invalid_header,
    }
}

/// Names and values in turn as a map, and the name of one that does not fit into it, if any. Values keep the platform's
/// reading of their bytes, so that they go on as they came.
fn header_map<'a>(mut lines: impl Iterator<Item = &'a str>) -> (HeaderMap, Option<String>) {
    let mut map = HeaderMap::new();
    let mut invalid_header = None;
    while let (Some(name), Some(value)) = (lines.next(), lines.next()) {
        match (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
            (Ok(name), Ok(value)) => _ = map.append(name, value),
            _ => invalid_header = Some(name.to_owned()),
        }
    }
    (map, invalid_header)
}

/// Headers as a text for the platform.
pub fn text(headers: &[(String, String)]) -> String {
    lines(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// Names and values as a text. What would be more than a line each is no header, and is left out.
fn lines<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs = pairs.filter(|(name, value)| !name.contains('\n') && !value.contains('\n'));
    let lines: Vec<&str> = pairs.flat_map(|(name, value)| [name, value]).collect();
    lines.join("\n")
}

fn map_text(map: &HeaderMap) -> String {
    lines(map.iter().filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value.as_bytes()).ok()?))))
}

/// A map as the platform's headers.
pub fn js_headers(map: &HeaderMap) -> Headers {
    headers_of(&map_text(map))
}

/// An upstream's status and headers.
pub fn response_head(response: &Response) -> (StatusCode, HeaderMap) {
    let text = response_text(response);
    let mut lines = text.split('\n');
    let status = lines.next().and_then(|status| status.parse().ok());
    (status.unwrap_or_default(), header_map(lines).0)
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
    js_rebuilt(response, Some(&Uint8Array::from(body)), "content-length", "", "")
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

/// The upstream's answer for the client: its head with `edits` and without the headers `removed`, and `body`.
pub fn passing(response: &Response, body: Option<&ReadableStream>, edits: &HeaderEdits, removed: &[&str]) -> Response {
    let one = |(name, value): &(&str, String)| lines(std::iter::once((*name, value.as_str())));
    js_rebuilt(response, handle(body), &removed.join("\n"), &one(&edits.set), &one(&edits.append))
}

fn handle<T: AsRef<JsValue>>(body: Option<&T>) -> Option<&JsValue> {
    body.map(AsRef::as_ref)
}

/// An answer with `body` and one header set.
pub fn with_header(response: &Response, body: Option<&ReadableStream>, name: &str, value: &str) -> Response {
    js_rebuilt(response, handle(body), "", &lines(std::iter::once((name, value))), "")
}

/// An answer with a head of ours.
pub fn with_head(status: u16, headers: &HeaderMap, body: Option<&ReadableStream>) -> Response {
    js_response(status, &map_text(headers), handle(body))
}

/// A response of our own.
pub fn response(status: u16, headers: &[(String, String)], body: Option<&Uint8Array>) -> Response {
    js_response(status, &text(headers), handle(body))
}

/// A status with nothing else, for where nothing else can be built.
pub fn empty_response(status: u16) -> Response {
    js_response(status, "", None)
}
