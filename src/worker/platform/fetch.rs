//! Requests to the upstream, retried where that may help, until the response head is there.

use super::interop;
use super::time::{now, timer, within};
use crate::http::message::UpstreamRequest;
use crate::http::retry::{self, Attempt, AttemptResult};
use crate::proxy::platform::{FetchError, FetchOptions, FetchOutcome, UpstreamHead};
use futures_util::future::{Either, select};
use http::{HeaderMap, Method, StatusCode};
use js_sys::{Array, Math, Promise, Uint8Array};
use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortController, AbortSignal, Headers, ReadableStream, Request, RequestInit, RequestRedirect, Response};

/// The most that is buffered of an error response while the request is retried, and the time limit of its body.
const MAX_BUFFERED_ERROR_BYTES: usize = 1 << 20;
const MAX_BUFFERED_ERROR_TIME: Duration = Duration::from_secs(2);

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = AbortSignal, js_name = any)]
    fn any_signal(signals: &Array) -> AbortSignal;

    #[wasm_bindgen(js_name = fetch, catch)]
    fn js_fetch(url: &str, init: &RequestInit) -> Result<Promise, JsValue>;
}

/// A request body.
pub enum Body {
    /// There is none.
    None,
    /// Forwarded as it comes in.
    Stream(IncomingBody),
    /// The same, and small enough to be held for a retry.
    Replayable(IncomingBody),
    /// It has been read.
    Bytes(Uint8Array),
}

/// A request body that the client is still sending.
pub struct IncomingBody {
    /// The bytes.
    pub stream: ReadableStream,
    /// The number of bytes, if it is known.
    pub length: Option<usize>,
}

impl Body {
    /// The same body twice. `None` for the second: it can be sent only once.
    fn try_clone(self) -> (Body, Option<Body>) {
        match self {
            Body::None => (Body::None, Some(Body::None)),
            Body::Bytes(bytes) => (Body::Bytes(bytes.clone()), Some(Body::Bytes(bytes))),
            Body::Stream(body) => (Body::Stream(body), None),
            Body::Replayable(IncomingBody { stream, length }) => {
                let [this, next] = interop::tee(&stream).map(|stream| IncomingBody { stream, length });
                (Body::Stream(this), Some(Body::Replayable(next)))
            }
        }
    }
}

/// An upstream response whose body is still to come.
pub struct UpstreamResponse {
    /// The runtime's own object.
    pub response: Response,
    /// The body.
    pub body: Option<ReadableStream>,
    /// The HTTP status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The controller that aborts the request. `None`: this response's owner does not abort it.
    request: Option<AbortController>,
}

impl UpstreamResponse {
    fn new(response: Response, request: Option<AbortController>) -> UpstreamResponse {
        let (status, headers) = interop::response_head(&response);
        let body = response.body();
        UpstreamResponse { response, body, status, headers, request }
    }

    /// A response to a request that the Durable Object has sent.
    pub fn from_coalescer(response: Response) -> UpstreamResponse {
        UpstreamResponse::new(response, None)
    }

    /// The same response with a body of its own, for a client that does not abort the request.
    pub fn with_body(&self, body: Option<ReadableStream>) -> UpstreamResponse {
        // This copies the handle. The method `Response::clone` would tee the body.
        let response = Clone::clone(&self.response);
        UpstreamResponse { response, body, status: self.status, headers: self.headers.clone(), request: None }
    }

    /// The controller that aborts the request, if the owner of this response may abort it.
    pub fn request(&self) -> Option<&AbortController> {
        self.request.as_ref()
    }
}

impl UpstreamHead for UpstreamResponse {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn abort(&self) {
        match (&self.request, &self.body) {
            (Some(request), _) => request.abort(),
            (None, Some(body)) => drop(body.cancel()),
            (None, None) => {}
        }
    }
}

/// Fetches, and retries what fails where that may help. If the last attempts get no response, an earlier error response is
/// returned.
/// `original`: the request that has the bytes of the header values that are not UTF-8.
pub async fn fetch(
    request: &UpstreamRequest,
    body: Body,
    retry: &retry::Policy,
    options: &FetchOptions<'_, AbortSignal>,
    original: Option<&Request>,
) -> FetchOutcome<UpstreamResponse> {
    let started = now();
    let mut retries = 0;
    let outgoing = Outgoing::new(request, original);
    let response = fetch_with_retries(&outgoing, body, retry, options, &mut retries).await;
    FetchOutcome { response, retries, ms: now().saturating_sub(started) }
}

/// A request as the runtime sends it, but for its body.
struct Outgoing<'a> {
    method: &'a str,
    url: &'a str,
    headers: Headers,
}

impl Outgoing<'_> {
    fn new<'a>(request: &'a UpstreamRequest, original: Option<&Request>) -> Outgoing<'a> {
        let headers = interop::js_headers(&request.headers, original);
        Outgoing { method: request.method.as_str(), url: &request.url, headers }
    }
}

async fn fetch_with_retries(
    request: &Outgoing<'_>,
    mut body: Body,
    retry: &retry::Policy,
    options: &FetchOptions<'_, AbortSignal>,
    retries: &mut u32,
) -> Result<UpstreamResponse, FetchError> {
    // The budget begins when the client has sent its whole body.
    let upload = Upload::default();
    let left = || options.budget.saturating_sub(Duration::from_millis(now().saturating_sub(upload.ended())));
    let mut last: Option<UpstreamResponse> = None;
    loop {
        let (this, next) = body.try_clone();
        let result = send_tracked(request, this, left(), options.client, &upload).await;
        let seen = match &result {
            Ok(response) => AttemptResult::Response { status: response.status.as_u16(), headers: &response.headers },
            Err(FetchError::Unreachable) => AttemptResult::NoResponse,
            Err(FetchError::TimedOut) => return last.ok_or(FetchError::TimedOut),
        };
        let left_ms = u64::try_from(left().as_millis()).unwrap_or(u64::MAX);
        let attempt = Attempt { attempts: retries.saturating_add(1), now: now(), left_ms, random: Math::random() };
        let wait = retry.wait(options.retry_safety, seen, attempt).filter(|_| !(options.is_abandoned)());
        let (Some(wait), Some(next)) = (wait, next) else {
            return result.or_else(|error| last.ok_or(error));
        };
        if let Ok(response) = result {
            match buffer_error(response, left()).await {
                BufferedError::Final(response) => return Ok(response),
                BufferedError::Retried(response) => last = response,
            }
            // The body may have taken a while.
            if left() <= Duration::from_millis(wait) {
                return last.ok_or(FetchError::TimedOut);
            }
        }
        timer(Duration::from_millis(wait)).await;
        if (options.is_abandoned)() {
            return last.ok_or(FetchError::Unreachable);
        }
        body = next;
        *retries = retries.saturating_add(1);
    }
}

/// An error response to a request that is about to be retried.
enum BufferedError {
    /// Its body says that a retry is of no use.
    Final(UpstreamResponse),
    /// It is kept, if it is small, in case no later response comes.
    Retried(Option<UpstreamResponse>),
}

/// Takes the body of an error response off its connection.
async fn buffer_error(response: UpstreamResponse, left: Duration) -> BufferedError {
    let limit = left.min(MAX_BUFFERED_ERROR_TIME);
    let body = within(limit, interop::bytes(&response.response, MAX_BUFFERED_ERROR_BYTES)).await;
    let Some(Ok(Some(body))) = body else {
        response.abort();
        return BufferedError::Retried(None);
    };
    let exhausted = response.status == StatusCode::TOO_MANY_REQUESTS && retry::is_quota_exhausted(&body);
    let rebuilt = interop::rebuild(&response.response, &body);
    let response = UpstreamResponse { body: rebuilt.body(), response: rebuilt, ..response };
    if exhausted { BufferedError::Final(response) } else { BufferedError::Retried(Some(response)) }
}

/// When a request body was complete.
struct Upload {
    /// Milliseconds since 1970. Until the end is known, when the fetch began.
    ended: Cell<u64>,
    known: Cell<bool>,
}

impl Default for Upload {
    fn default() -> Upload {
        Upload { ended: Cell::new(now()), known: Cell::new(false) }
    }
}

impl Upload {
    fn ended(&self) -> u64 {
        self.ended.get()
    }

    /// Retries read what has been received before.
    fn end(&self) {
        if !self.known.replace(true) {
            self.ended.set(now());
        }
    }
}

/// Sends a request once and waits for the response head. `client`: its disconnect aborts the request.
///
/// # Errors
/// [`FetchError`] if none comes within `timeout`.
pub async fn send(
    request: &UpstreamRequest,
    body: Body,
    timeout: Duration,
    client: Option<&AbortSignal>,
) -> Result<UpstreamResponse, FetchError> {
    send_tracked(&Outgoing::new(request, None), body, timeout, client, &Upload::default()).await
}

async fn send_tracked(
    request: &Outgoing<'_>,
    body: Body,
    timeout: Duration,
    client: Option<&AbortSignal>,
    upload: &Upload,
) -> Result<UpstreamResponse, FetchError> {
    let init = RequestInit::new();
    init.set_method(request.method);
    init.set_headers(&request.headers);
    // Redirects are the client's to follow.
    init.set_redirect(RequestRedirect::Manual);
    let mut sent = None;
    match &body {
        Body::None => {}
        Body::Stream(body) | Body::Replayable(body) => {
            let (stream, end) = interop::track_end(&body.stream, body.length);
            init.set_body(&stream);
            sent = Some(end);
        }
        Body::Bytes(bytes) => init.set_body(bytes),
    }
    let controller = AbortController::new().map_err(|_| FetchError::Unreachable)?;
    let ours = controller.signal();
    let signals: Array = std::iter::once(&ours).chain(client).collect();
    init.set_signal(Some(&any_signal(&signals)));
    let response = js_fetch(request.url, &init).map_err(|_| FetchError::Unreachable)?;
    let timed_out = async {
        if let Some(sent) = sent {
            let _ = JsFuture::from(sent).await;
        }
        upload.end();
        timer(timeout).await;
    };
    match select(pin!(JsFuture::from(response)), pin!(timed_out)).await {
        Either::Left((Ok(response), _)) => {
            Ok(UpstreamResponse::new(validate(response.unchecked_into())?, Some(controller)))
        }
        Either::Left((Err(_), _)) => Err(FetchError::Unreachable),
        Either::Right(_) => {
            controller.abort();
            Err(FetchError::TimedOut)
        }
    }
}

/// A response that can be passed on: a final status, or a switched protocol with its socket.
fn validate(response: Response) -> Result<Response, FetchError> {
    let switched = response.status() == 101 && interop::web_socket(&response).is_some();
    if switched || (200..600).contains(&response.status()) { Ok(response) } else { Err(FetchError::Unreachable) }
}

/// Whether `url` gives any HTTP response.
///
/// # Errors
/// [`FetchError`] if none comes within `timeout`.
pub async fn probe(url: &str, timeout: Duration) -> Result<(), FetchError> {
    let request = UpstreamRequest { method: Method::GET, url: url.to_owned(), headers: HeaderMap::new(), body: None };
    let response = send(&request, Body::None, timeout, None).await?;
    // An unread body holds its connection.
    response.abort();
    Ok(())
}
