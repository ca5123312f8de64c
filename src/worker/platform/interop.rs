//! Between the runtime's objects and the core's values.

use crate::http::fields::is_lossy;
use crate::http::message::RequestHead;
use crate::proxy::reply::HeaderEdits;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use js_sys::{Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Headers, ReadableStream, ReadableStreamDefaultReader, Request, Response};

#[wasm_bindgen(module = "/src/worker/platform/interop.js")]
extern "C" {
    #[wasm_bindgen(js_name = encodeRequestHead)]
    fn encode_request_head(request: &Request) -> String;

    #[wasm_bindgen(js_name = encodeResponseHead)]
    fn encode_response_head(response: &Response) -> String;

    #[wasm_bindgen(js_name = trackEnd)]
    fn js_track_end(body: &ReadableStream, length: Option<f64>) -> TrackedBody;

    type TrackedBody;

    #[wasm_bindgen(method, getter)]
    fn stream(this: &TrackedBody) -> ReadableStream;

    #[wasm_bindgen(method, getter)]
    fn ended(this: &TrackedBody) -> Promise;

    #[wasm_bindgen(js_name = decodeHeaders)]
    fn decode_headers(text: &str) -> Headers;

    #[wasm_bindgen(js_name = headersWithOriginals)]
    fn headers_with_originals(original: &Headers, kept: &str, others: &str) -> Headers;

    #[wasm_bindgen(js_name = createResponse)]
    fn create_response(status: u16, headers: &str, body: Option<&JsValue>) -> Response;

    #[wasm_bindgen(js_name = rebuildResponse)]
    fn rebuild_response(response: &Response, body: Option<&JsValue>, removed: &str, set: &str, added: &str)
    -> Response;
}

/// The head of a request.
pub fn request_head(request: &Request) -> RequestHead {
    let text = encode_request_head(request);
    let mut lines = text.split('\n');
    let (method, url) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    // The part after the authority, exactly as the client sent it.
    let authority_start = url.find("://").map_or(0, |at| at.saturating_add(3));
    let authority_length = url.get(authority_start..).and_then(|rest| rest.find(['/', '?', '#']));
    let (origin, target) = authority_length
        .and_then(|length| url.split_at_checked(authority_start.saturating_add(length)))
        .unwrap_or((url, "/"));
    let target = target.split('#').next().unwrap_or_default();
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let (headers, invalid_header) = header_map(lines);
    RequestHead {
        method: Method::from_bytes(method.as_bytes()).unwrap_or_default(),
        origin: origin.to_owned(),
        path: if path.is_empty() { "/" } else { path }.to_owned(),
        query,
        headers,
        invalid_header,
    }
}

/// Alternating names and values as a map, and the name of a field that does not fit into it, if any. Values keep the
/// runtime's reading of their bytes, so that they are forwarded as they came.
fn header_map<'a>(mut lines: impl Iterator<Item = &'a str>) -> (HeaderMap, Option<String>) {
    let mut map = HeaderMap::new();
    let mut invalid = None;
    while let (Some(name), Some(value)) = (lines.next(), lines.next()) {
        match (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
            (Ok(name), Ok(value)) => _ = map.append(name, value),
            _ => invalid = Some(name.to_owned()),
        }
    }
    (map, invalid)
}

/// Header fields as the text that crosses to JavaScript.
pub fn encode_headers(headers: &[(String, String)]) -> String {
    encode(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// Names and values as a text. A value with a line break is no header, and is left out.
fn encode<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs = pairs.filter(|(name, value)| !name.contains('\n') && !value.contains('\n'));
    let lines: Vec<&str> = pairs.flat_map(|(name, value)| [name, value]).collect();
    lines.join("\n")
}

fn encode_map<'a>(map: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> String {
    encode(map.filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value.as_bytes()).ok()?))))
}

/// A map as the runtime's headers. `original`: the request that has the bytes of the values that are not UTF-8.
pub fn js_headers(map: &HeaderMap, original: Option<&Request>) -> Headers {
    let (lossy, others): (Vec<_>, Vec<_>) = map.iter().partition(|(_, value)| is_lossy(value.as_bytes()));
    match original.filter(|_| !lossy.is_empty()) {
        Some(original) => {
            headers_with_originals(&original.headers(), &encode_map(lossy.into_iter()), &encode_map(others.into_iter()))
        }
        None => decode_headers(&encode_map(map.iter())),
    }
}

/// These fields with the bytes that they have in `original`.
pub fn original_headers<'a>(original: &Request, fields: impl Iterator<Item = (&'a str, &'a str)>) -> Headers {
    headers_with_originals(&original.headers(), &encode(fields), "")
}

/// The head of a response.
pub fn response_head(response: &Response) -> (StatusCode, HeaderMap) {
    let text = encode_response_head(response);
    let mut lines = text.split('\n');
    let status = lines.next().and_then(|status| status.parse().ok());
    (status.unwrap_or_default(), header_map(lines).0)
}

/// Whether a body that is there in name has no bytes.
pub async fn is_empty(body: ReadableStream) -> bool {
    let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    matches!(next_chunk(&reader).await, Ok(None))
}

/// The whole body of a response. `None`: it is longer than `limit` bytes.
///
/// # Errors
/// The reason for which the body was aborted.
pub async fn bytes(response: &Response, limit: usize) -> Result<Option<Vec<u8>>, JsValue> {
    match response.body() {
        Some(body) => read_up_to(&body, limit).await,
        None => Ok(Some(Vec::new())),
    }
}

/// The next chunk of a stream; `None` at its end.
async fn next_chunk(reader: &ReadableStreamDefaultReader) -> Result<Option<Vec<u8>>, JsValue> {
    let result = JsFuture::from(reader.read()).await?;
    if Reflect::get(&result, &"done".into())?.is_truthy() {
        return Ok(None);
    }
    let chunk: Uint8Array = Reflect::get(&result, &"value".into())?.unchecked_into();
    Ok(Some(chunk.to_vec()))
}

/// Gives a stream's chunks to `accepts` until it refuses one. Whether it has.
pub async fn read_while(body: &ReadableStream, accepts: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let reader = CancelledReader(body.get_reader().unchecked_into());
    while let Ok(Some(chunk)) = next_chunk(&reader.0).await {
        if !accepts(&chunk) {
            return true;
        }
    }
    false
}

/// A reader that cancels its stream when it is dropped. After the stream's end that has no effect.
struct CancelledReader(ReadableStreamDefaultReader);

impl Drop for CancelledReader {
    fn drop(&mut self) {
        drop(self.0.cancel());
    }
}

async fn read_up_to(body: &ReadableStream, limit: usize) -> Result<Option<Vec<u8>>, JsValue> {
    let mut bytes = Vec::new();
    let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    while let Some(chunk) = next_chunk(&reader).await? {
        if bytes.len().saturating_add(chunk.len()) > limit {
            drop(reader.cancel());
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// A request body that has been read, or found to be too long.
pub enum RequestBody {
    /// All of it: copied, and in the runtime's own buffer.
    Complete(Vec<u8>, Uint8Array),
    /// It is longer than the limit. Nothing has been taken from this stream.
    TooLarge(ReadableStream),
}

/// Reads a request's body of at most `limit` bytes.
///
/// # Errors
/// The reason for which the body was aborted.
pub async fn read_request_body(request: &Request, limit: usize) -> Result<RequestBody, JsValue> {
    let length = request.headers().get("content-length").ok().flatten();
    if length.is_some() {
        // It has been compared with the limit before.
        let buffer = Uint8Array::new(&JsFuture::from(request.array_buffer()?).await?);
        return Ok(RequestBody::Complete(buffer.to_vec(), buffer));
    }
    let Some(body) = request.body() else {
        return Ok(RequestBody::Complete(Vec::new(), Uint8Array::new_with_length(0)));
    };
    let [untouched, read] = tee(&body);
    let Some(bytes) = read_up_to(&read, limit).await? else { return Ok(RequestBody::TooLarge(untouched)) };
    drop(untouched.cancel());
    let buffer = Uint8Array::from(bytes.as_slice());
    Ok(RequestBody::Complete(bytes, buffer))
}

/// The same body, and a promise that resolves when all of it has been read, or it has been aborted.
pub fn track_end(body: &ReadableStream, length: Option<usize>) -> (ReadableStream, Promise) {
    // A length above 2^53 counts as unknown.
    let length = length.map(|length| length as f64).filter(|length| *length < 9_007_199_254_740_992.0);
    let tracked = js_track_end(body, length);
    (tracked.stream(), tracked.ended())
}

/// Splits a stream into two, each with every byte.
pub fn tee(stream: &ReadableStream) -> [ReadableStream; 2] {
    let branches = stream.tee();
    [branches.get(0), branches.get(1)].map(JsCast::unchecked_into)
}

/// The socket of a switched protocol.
pub fn web_socket(response: &Response) -> Option<JsValue> {
    let socket = Reflect::get(response, &"webSocket".into()).ok()?;
    (!socket.is_null() && !socket.is_undefined()).then_some(socket)
}

/// A response whose body has been read, as it was.
pub fn rebuild(response: &Response, body: &[u8]) -> Response {
    // The runtime states the length itself, and encodes the body again where it was encoded.
    rebuild_response(response, Some(&Uint8Array::from(body)), "content-length", "", "")
}

/// The upstream's response for the client: its head with `edits` and without the fields `removed`, and this body.
pub fn with_edits(
    response: &Response,
    body: Option<&ReadableStream>,
    edits: &HeaderEdits,
    removed: &[&str],
) -> Response {
    let set = encode(edits.set.iter().map(|(name, value)| (name.as_ref(), value.as_str())));
    let append = encode(edits.append.iter().map(|(name, value)| (*name, value.as_str())));
    let removed = [edits.remove, removed].concat().join("\n");
    rebuild_response(response, as_js(body), &removed, &set, &append)
}

/// The response with this body, without the fields `removed`, and with one field set.
pub fn with_header(
    response: &Response,
    body: Option<&ReadableStream>,
    removed: &[&str],
    (name, value): (&str, &str),
) -> Response {
    rebuild_response(response, as_js(body), &removed.join("\n"), &encode(std::iter::once((name, value))), "")
}

/// A response of our own.
pub fn response(status: u16, headers: &[(String, String)], body: Option<&Uint8Array>) -> Response {
    create_response(status, &encode_headers(headers), as_js(body))
}

/// A status with nothing else.
pub fn empty_response(status: u16) -> Response {
    create_response(status, "", None)
}

fn as_js<T: AsRef<JsValue>>(body: Option<&T>) -> Option<&JsValue> {
    body.map(AsRef::as_ref)
}
