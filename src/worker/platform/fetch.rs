//! Asking the upstream, again where that may help, until its answer's head is there.

use crate::config::Config;
use crate::http::message::UpstreamRequest;
use crate::http::retry::{self, Attempt, AttemptResult, RetrySafety};
use crate::proxy::FetchError;
use crate::worker::platform::interop as interop;
use crate::worker::platform::time::{now, timer, within};
use http::{HeaderMap, Method, StatusCode};
use js_sys::{Array, Math, Promise, Reflect, Uint8Array};
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
    /// The same, and small enough to be held for another attempt.
    Replayable(ReadableStream),
    /// Read already.
    Bytes(Uint8Array),
}

impl Body {
    /// The same body twice. `None` for the second: it can be sent once only.
    fn try_clone(self) -> (Body, Option<Body>) {
        match self {
            Body::None => (Body::None, Some(Body::None)),
            Body::Bytes(bytes) => (Body::Bytes(bytes.clone()), Some(Body::Bytes(bytes))),
            Body::Stream(stream) => (Body::Stream(stream), None),
            Body::Replayable(stream) => {
                let [this, next] = interop::tee(&stream);
                (Body::Stream(this), Some(Body::Replayable(next)))
            }
        }
    }
}

/// An answer of the upstream, its body still to come.
pub struct UpstreamResponse {
    /// The platform's own object.
    pub response: Response,
    /// Its body, for whoever has the answer.
    pub body: Option<ReadableStream>,
    /// Its HTTP status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// The call; `None`: it is a flight's.
    call: Option<AbortController>,
}

impl UpstreamResponse {
    /// An answer as a call of its own brings it.
    fn new(response: Response, call: Option<AbortController>) -> UpstreamResponse {
        let (status, headers) = interop::response_head(&response);
        let body = response.body();
        UpstreamResponse { response, body, status, headers, call }
    }

    /// An answer that a flight gives on.
    pub fn landed(response: Response) -> UpstreamResponse {
        UpstreamResponse::new(response, None)
    }

    /// The same answer for somebody who does not end its call, with a body of its own.
    pub fn with_body(&self, body: Option<ReadableStream>) -> UpstreamResponse {
        // The handle: the method of this name would divide the body.
        let response = Clone::clone(&self.response);
        UpstreamResponse { response, body, status: self.status, headers: self.headers.clone(), call: None }
    }

    /// Its own call, if it has one.
    pub fn call(&self) -> Option<&AbortController> {
        self.call.as_ref()
    }

    /// Ends it. Whoever still reads its body sees it break off.
    pub fn abort(&self) {
        match (&self.call, &self.body) {
            (Some(call), _) => call.abort(),
            (None, Some(body)) => drop(body.cancel()),
            (None, None) => {}
        }
    }
}

/// How to ask.
pub struct FetchOptions<'a> {
    /// The settings.
    pub config: &'a Config,
    /// How long all of it may take.
    pub budget: Duration,
    /// What may be asked again.
    pub retry_safety: RetrySafety,
    /// Whether everyone has left who wanted the answer: then nothing is asked again.
    pub client_gone: &'a dyn Fn() -> bool,
    /// Where the answer is for one client alone: rings when that leaves, and then the upstream is left too.
    pub client: Option<&'a AbortSignal>,
}

/// What came of asking.
pub struct FetchOutcome {
    /// The answer, if one came within `TIMEOUT`.
    pub answer: Result<UpstreamResponse, FetchError>,
    /// How often the upstream was asked again.
    pub retries: u32,
    /// How many milliseconds it took.
    pub ms: u64,
}

/// Asks the upstream, again if it fails and that may help, until an answer comes that is to be given on. If in the end
/// none comes, the last one that did is given.
pub async fn ask(upstream_request: &UpstreamRequest, body: Body, options: &FetchOptions<'_>) -> FetchOutcome {
    let started = now();
    let mut retries = 0;
    let answer = fetch_with_retries(upstream_request, body, options, started, &mut retries).await;
    FetchOutcome { answer, retries, ms: now().saturating_sub(started) }
}

async fn fetch_with_retries(
    upstream_request: &UpstreamRequest,
    mut body: Body,
    options: &FetchOptions<'_>,
    started: u64,
    retries: &mut u32,
) -> Result<UpstreamResponse, FetchError> {
    let left = || options.budget.saturating_sub(Duration::from_millis(now().saturating_sub(started)));
    let mut last: Option<UpstreamResponse> = None;
    loop {
        let (this, next) = body.try_clone();
        let outcome = send(upstream_request, this, left(), options.client).await;
        let seen = match &outcome {
            Ok(answer) => AttemptResult::Response { status: answer.status.as_u16(), headers: &answer.headers },
            Err(FetchError::Unreachable) => AttemptResult::NoResponse,
            Err(FetchError::TimedOut) => return last.ok_or(FetchError::TimedOut),
        };
        let left_ms = u64::try_from(left().as_millis()).unwrap_or(u64::MAX);
        let at = Attempt { attempts: retries.saturating_add(1), now: now(), left_ms, random: Math::random() };
        let wait = options.config.retry.wait(options.retry_safety, seen, at).filter(|_| !(options.client_gone)());
        let (Some(wait), Some(next)) = (wait, next) else {
            return outcome.or_else(|failure| last.ok_or(failure));
        };
        if let Ok(answer) = outcome {
            match buffer_error(answer, left()).await {
                BufferedError::Final(answer) => return Ok(answer),
                BufferedError::Kept(answer) => last = answer,
            }
            // Its body may have taken a while.
            if left() <= Duration::from_millis(wait) {
                return last.ok_or(FetchError::TimedOut);
            }
        }
        timer(Duration::from_millis(wait)).await;
        if (options.client_gone)() {
            return last.ok_or(FetchError::Unreachable);
        }
        body = next;
        *retries = retries.saturating_add(1);
    }
}

/// An answer that is to be followed by another.
enum BufferedError {
    /// Nothing will follow: it says itself that waiting is no use.
    Final(UpstreamResponse),
    /// It is kept, if it is small, for the case that no other comes.
    Kept(Option<UpstreamResponse>),
}

/// What is kept of an answer that is asked for again, in bytes, and how long its body may take.
const LARGEST_ASIDE: usize = 1 << 20;
const LONGEST_ASIDE: Duration = Duration::from_secs(2);

/// Takes an answer's body off its connection.
async fn buffer_error(answer: UpstreamResponse, left: Duration) -> BufferedError {
    let body = within(left.min(LONGEST_ASIDE), interop::bytes(&answer.response, LARGEST_ASIDE)).await;
    let Some(Ok(Some(body))) = body else {
        answer.abort();
        return BufferedError::Kept(None);
    };
    let out_of_quota = answer.status == StatusCode::TOO_MANY_REQUESTS && retry::is_quota_exhausted(&body);
    let response = interop::again(&answer.response, &body);
    let answer = UpstreamResponse { body: response.body(), response, ..answer };
    if out_of_quota { BufferedError::Final(answer) } else { BufferedError::Kept(Some(answer)) }
}

/// Sends a request once and waits for its answer's head. `client`: where the answer is for this client alone, the
/// upstream is left as soon as the client leaves.
///
/// # Errors
/// [`FetchError`] if none comes within `timeout`.
pub async fn send(
    upstream_request: &UpstreamRequest,
    body: Body,
    timeout: Duration,
    client: Option<&AbortSignal>,
) -> Result<UpstreamResponse, FetchError> {
    let init = RequestInit::new();
    init.set_method(upstream_request.method.as_str());
    init.set_headers(&interop::js_headers(&upstream_request.headers));
    // Redirects are the client's to follow.
    init.set_redirect(RequestRedirect::Manual);
    match &body {
        Body::None => {}
        Body::Stream(stream) | Body::Replayable(stream) => init.set_body(stream),
        Body::Bytes(bytes) => init.set_body(bytes),
    }
    let call = AbortController::new().map_err(|_| FetchError::Unreachable)?;
    let ours = call.signal();
    let signals: Array = std::iter::once(&ours).chain(client).collect();
    init.set_signal(Some(&any_signal(&signals)));
    let asked = js_fetch(&upstream_request.url, &init).map_err(|_| FetchError::Unreachable)?;
    match within(timeout, JsFuture::from(asked)).await {
        Some(Ok(response)) => Ok(UpstreamResponse::new(validate(response.unchecked_into())?, Some(call))),
        Some(Err(_)) => Err(FetchError::Unreachable),
        None => {
            call.abort();
            Err(FetchError::TimedOut)
        }
    }
}

/// An answer that can be given on: a final status, or a switched protocol with its socket.
fn validate(response: Response) -> Result<Response, FetchError> {
    let switched = response.status() == 101 && interop::socket(&response).is_some();
    if switched || (200..600).contains(&response.status()) { Ok(response) } else { Err(FetchError::Unreachable) }
}

/// Whether `url` gives any HTTP answer.
///
/// # Errors
/// [`FetchError`] if none comes within `timeout`.
pub async fn probe(url: &str, timeout: Duration) -> Result<(), FetchError> {
    let upstream_request = UpstreamRequest { method: Method::GET, url: url.to_owned(), headers: HeaderMap::new(), body: None };
    let answer = send(&upstream_request, Body::None, timeout, None).await?;
    // Unread bodies keep connections.
    answer.abort();
    Ok(())
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
