//! The life of a request.

use super::cacheable_request::CacheableRequest;
use super::forward::UpstreamFetch;
use super::in_flight::{FetchTask, FetchedHead, InFlightFetch};
use super::lookup::{Decision, OnLookup};
use super::platform::{
    AdminResult, BodyRead, Buffer, ClientSignal, FetchError, FetchOptions, Joined, Lookup, Platform, SharedResponse,
    UpstreamHead, measurements,
};
use super::reply::{self, ProxyResponse};
use super::request::{self, Bypass, OnBody, OnHead, OnRequest};
use crate::cache::entry::EntryHead;
use crate::cache::samples::{Claim, Message, Slot};
use crate::config::ConfigError;
use crate::http::fields::content_length;
use crate::http::message::RequestHead;
use crate::key::CacheKey;
use crate::routing::admin;
use crate::status::Reason;
use crate::telemetry::exchange_log::{CoalesceRole, ExchangeLog, LogFields, LogSink, Measurements};
use futures_channel::oneshot;
use futures_util::future::join;
use std::rc::Rc;

/// Takes one request to its response.
///
/// 1. Route and authenticate: the request's head decides whether the proxy responds by itself, whether the request bypasses
///    the cache, or whether its body has to be read.
/// 2. Read the body, apply the operator's transforms, and compute the cache key.
/// 3. Look the key up: a fresh stored response is served. A request for one of several samples first gets a slot, and with it
///    its key.
/// 4. Otherwise coalesce, fetch with retries, and respond as soon as the upstream's head is there.
/// 5. Capture the body while the client receives it, and store it if it is complete. [`FetchTask::run`] does that.
///
/// Every exchange writes exactly one log line.
pub async fn exchange<P: Platform>(platform: P, head: RequestHead, body: P::Body) -> P::Response {
    let mut log = ExchangeLog::new(LogFields::of(&head), platform.log_sink());
    let config = platform.config().clone();

    // (1)
    let mut body = body;
    let step = match request::on_head(&config, head, platform.has_body(&body), log.fields_mut()) {
        OnHead::Decided(step) => step,
        OnHead::ProbeBody(routed) => {
            let is_empty = platform.is_empty(body).await;
            body = platform.no_body();
            routed.with_probed_body(&config, is_empty, log.fields_mut())
        }
    };
    let pending = match step {
        OnRequest::Respond(response) => return respond(&platform, &response, log),
        OnRequest::RespondUnlogged(response) => {
            log.discard();
            return platform.respond(&response);
        }
        OnRequest::HealthCheck(target) => {
            let responded = platform.probe(&target).await;
            let response = reply::health(&target, responded, log.fields_mut());
            return respond(&platform, &response, log);
        }
        OnRequest::Dashboard { with_body } => {
            log.fields_mut().status = Some(200);
            log.finish(&measurements(&platform), Ok(()));
            return platform.dashboard(with_body);
        }
        OnRequest::Admin(command) => {
            let response = match platform.admin(&command).await {
                AdminResult::Metrics(text) => reply::metrics(text, log.fields_mut()),
                AdminResult::Deleted(n, cursor) => reply::deleted(n, cursor.as_deref(), log.fields_mut()),
                AdminResult::Json(text) => reply::admin_json(text, log.fields_mut()),
                AdminResult::Error(error) => reply::admin_error(&error, log.fields_mut()),
                AdminResult::StoreFailed => reply::admin_error(&admin::store_failed(), log.fields_mut()),
            };
            return respond(&platform, &response, log);
        }
        OnRequest::Bypass(bypass) => {
            if !platform.allows(&bypass.rate_limit_key).await {
                let response = bypass.rate_limited(log.fields_mut());
                return respond(&platform, &response, log);
            }
            if config.upstream.retry.max_retries > 0 && bypass.may_buffer_body() {
                body = platform.replayable(body);
            }
            return forward_uncached(&platform, *bypass, body, log).await;
        }
        OnRequest::ReadBody(pending) => *pending,
    };

    // (2) The body is read before anything else is awaited: the Workers runtime ties it to this event.
    let read = platform.read_body(body, pending.max_bytes).await;
    let received = platform.now();
    if !matches!(read, BodyRead::Incomplete) && !platform.allows(pending.rate_limit_key()).await {
        let response = pending.rate_limited(log.fields_mut());
        return respond(&platform, &response, log);
    }
    let (step, body) = match read {
        BodyRead::Complete(bytes, body) => {
            (pending.with_body(&config, &bytes, platform.has_store(), log.fields_mut()), body)
        }
        BodyRead::TooLarge(body) => (pending.too_large(log.fields_mut()), body),
        BodyRead::Incomplete => {
            let response = pending.incomplete_body(log.fields_mut());
            return respond(&platform, &response, log);
        }
    };
    let body = step.changed_body().map_or(body, |changed| platform.body(changed));
    let mut request = match step {
        OnBody::Respond(response) => return respond(&platform, &response, log),
        OnBody::Bypass(bypass) => return forward_uncached(&platform, *bypass, body, log).await,
        OnBody::LookUp(request) => *request,
    };
    platform.remember(&request, &log);

    // (3)
    let (lookup, stored) = look_up(&platform, &mut request, &mut log).await;
    let answers_slot = request.samples.as_ref().zip(request.slot).map(|(samples, slot)| (samples.set, slot));
    let decision = match request.on_lookup(&lookup, platform.now(), log.fields_mut()) {
        OnLookup::Decided(decision) => decision,
        OnLookup::NeedsBody(conversion) => conversion.with_body(&bytes(stored.as_ref()), log.fields_mut()),
    };
    match decision {
        Decision::Serve(cached) => {
            let (response, bytes) = platform.serve(&cached, stored.as_ref());
            log.finish(&Measurements { bytes, ..measurements(&platform) }, Ok(()));
            if let Lookup::Stored(head) | Lookup::InMemory(head) = &lookup {
                slot_is_stored(&platform, answers_slot, head);
            }
            response
        }
        Decision::ServeStale(cached, fetch) => {
            let (response, bytes) = platform.serve(&cached, stored.as_ref());
            let measured = Measurements { bytes, ..measurements(&platform) };
            if platform.begin_revalidation(&fetch.key) {
                platform.spawn(revalidate(platform.clone(), *fetch, body, log, measured));
            } else {
                log.finish(&measured, Ok(()));
            }
            response
        }
        Decision::Respond(response) => respond(&platform, &response, log),
        Decision::Forward(fetch) => {
            if fetch.is_refresh() {
                platform.invalidate(&fetch.key);
            }
            // (4) In a task of its own, because it continues if the client disconnects.
            let (sender, response) = oneshot::channel();
            platform.spawn(forward(platform.clone(), *fetch, body, received, stored, log, sender));
            response.await.unwrap_or_else(|_| platform.respond_empty(500))
        }
    }
}

/// Looks a request up. One that wants one of several samples gets its slot first, and another one if the response that it
/// counts on is gone.
async fn look_up<P: Platform>(
    platform: &P,
    request: &mut CacheableRequest,
    log: &mut ExchangeLog,
) -> (Lookup, Option<P::Buffer>) {
    let mut lost = None;
    // Each slot that is lost is free for the next request, so there is little to try again.
    for _ in 0..MAX_LOST_SLOTS {
        if let Some((message, samples)) = request.wants_slot(lost).zip(request.samples.as_ref()) {
            let slot = platform.tell_samples(&samples.set, message).await;
            request.take_slot(slot, platform.random());
            log.fields_mut().key = Some(request.key);
        }
        let found = platform.look_up(request).await;
        lost = request.lost_slot().filter(|_| matches!(found.0, Lookup::Miss));
        if lost.is_none() {
            return found;
        }
    }
    (Lookup::Miss, None)
}

/// How many slots in a row may be lost until the request goes upstream for the last one.
const MAX_LOST_SLOTS: usize = 4;

/// Tells the set of samples that a slot's response is stored, unless it knows.
fn slot_is_stored<P: Platform>(platform: &P, slot: Option<(CacheKey, Slot)>, head: &EntryHead) {
    let Some((set, slot)) = slot.filter(|(_, slot)| slot.claim != Claim::Stored) else { return };
    let (platform, until) = (platform.clone(), head.expires_at);
    platform.clone().spawn(async move {
        platform.tell_samples(&set, Message::Stored(slot.sample, until)).await;
    });
}

/// Responds while a variable cannot be read. `elapsed_ms`: milliseconds since the request came.
pub fn misconfigured(error: &ConfigError, head: &RequestHead, sink: Rc<dyn LogSink>, elapsed_ms: u64) -> ProxyResponse {
    let mut log = ExchangeLog::new(LogFields::of(head), sink);
    match request::misconfigured(error, head, log.fields_mut()) {
        Some(response) => {
            let measured = Measurements { ms: elapsed_ms, bytes: size(response.body.len()), ..Measurements::default() };
            log.finish(&measured, Ok(()));
            response
        }
        None => {
            log.discard();
            reply::liveness()
        }
    }
}

fn respond<P: Platform>(platform: &P, response: &ProxyResponse, log: ExchangeLog) -> P::Response {
    respond_after(platform, response, log, measurements(platform))
}

fn respond_after<P: Platform>(
    platform: &P,
    response: &ProxyResponse,
    log: ExchangeLog,
    measured: Measurements,
) -> P::Response {
    log.finish(&Measurements { bytes: size(response.body.len()), ..measured }, Ok(()));
    platform.respond(response)
}

/// Forwards a request that bypasses the cache. The upstream request is aborted if the client disconnects.
async fn forward_uncached<P: Platform>(
    platform: &P,
    mut bypass: Bypass,
    body: P::Body,
    mut log: ExchangeLog,
) -> P::Response {
    let client = platform.client();
    let options = FetchOptions {
        budget: bypass.timeout,
        retry_safety: bypass.retry_safety,
        is_abandoned: &|| client.is_disconnected(),
        client: Some(&client),
    };
    let outcome = platform.fetch(&bypass.upstream_request, body, &options).await;
    let measured = Measurements { upstream_ms: Some(outcome.ms), retries: outcome.retries, ..measurements(platform) };
    match outcome.response {
        Ok(response) => {
            let (config, headers) = (platform.config(), response.headers());
            let edits = bypass.on_response(config, response.status(), headers, outcome.retries, log.fields_mut());
            let transform = bypass.body_transform(response.status(), response.headers());
            let bytes = content_length(response.headers()).and_then(size);
            log.finish(&Measurements { bytes, ..measured }, Ok(()));
            platform.pass_on(response, &edits, transform)
        }
        Err(error) => {
            let response = bypass.failed(error, outcome.retries, log.fields_mut());
            respond_after(platform, &response, log, measured)
        }
    }
}

/// Joins the key's coalesced fetch, where the request may be shared. `spent_ms`: milliseconds since the request body was
/// complete.
async fn coalesce<P: Platform>(
    platform: &P,
    fetch: &UpstreamFetch,
    body: &P::Body,
    client: &P::Client,
    spent_ms: u64,
    log: &ExchangeLog,
) -> Joined<P::Upstream, P::Buffer> {
    if !fetch.may_coalesce() {
        return Joined::Independent;
    }
    let elapsed_ms = measurements(platform).ms;
    let request = || fetch.coalesce_request(log.fields(), elapsed_ms, fetch.budget_ms(spent_ms));
    platform.join(&request, body, client).await
}

/// The fetch of a request that is not shared.
fn independent_fetch<P: Platform>(
    platform: &P,
    fetch: &UpstreamFetch,
    spent_ms: u64,
    client: P::Client,
    log: &ExchangeLog,
) -> FetchTask<P> {
    let request = fetch.coalesce_request(log.fields(), measurements(platform).ms, fetch.budget_ms(spent_ms));
    FetchTask {
        platform: platform.clone(),
        fetch: Rc::new(InFlightFetch::new(&request)),
        request,
        client,
        current: None,
    }
}

/// Step 4: coalesces or fetches, and responds as soon as the upstream's head is there. `received`: when the request body was
/// complete, in milliseconds since 1970. `stored`: the body of an entry that may be served stale if the upstream fails.
async fn forward<P: Platform>(
    platform: P,
    mut fetch: UpstreamFetch,
    body: P::Body,
    received: u64,
    stored: Option<P::Buffer>,
    mut log: ExchangeLog,
    sender: oneshot::Sender<P::Response>,
) {
    let began = platform.now();
    let client = platform.client();
    let spent_ms = began.saturating_sub(received);
    match coalesce(&platform, &fetch, &body, &client, spent_ms, &log).await {
        Joined::Response { response, role, retries, storable, takes_out_usage } => {
            fetch.takes_out_usage = takes_out_usage;
            let head = HeadResult { response: Ok(response), role: Some(role), retries, storable, exchange_logs: true };
            let _ = sender.send(on_upstream_head(&platform, fetch, head, stored, began, log));
            return;
        }
        Joined::Failed { error, retries } => {
            let role = Some(CoalesceRole::Leader);
            let head =
                HeadResult { response: Err(error), role, retries, storable: Err(error.reason()), exchange_logs: true };
            let _ = sender.send(on_upstream_head(&platform, fetch, head, stored, began, log));
            return;
        }
        // The client has its response already or has disconnected.
        Joined::Handled | Joined::Busy => return log.delegate(),
        Joined::Entry { value, retained } => {
            if let Some((head, body)) = platform.open_entry(&fetch.key, &value).await
                && let Some(cached) =
                    fetch.respond_with_entry(&head, retained, platform.now(), || body.to_vec(), log.fields_mut())
            {
                slot_is_stored(&platform, fetch.slot, &head);
                let (response, bytes) = platform.serve(&cached, Some(&body));
                let waited_ms = Some(platform.now().saturating_sub(began));
                let coalesce_role = Some(CoalesceRole::Follower);
                log.finish(&Measurements { bytes, coalesce_role, waited_ms, ..measurements(&platform) }, Ok(()));
                let _ = sender.send(response);
                return;
            }
        }
        Joined::Independent => {}
    }
    // The time that was spent waiting for another client's response does not count against this request's timeout.
    let task = independent_fetch(&platform, &fetch, spent_ms, client.clone(), &log);
    let in_flight = task.fetch.clone();
    let _guard = in_flight.wait(&client);
    let (leader, fetched) = oneshot::channel();
    let responded = async {
        let Ok(FetchedHead { response, storable, retries, leader_logs }) = fetched.await else {
            return log.delegate();
        };
        let response =
            response.and_then(|response: Rc<P::Shared>| response.for_leader().ok_or(FetchError::Unreachable));
        let head = HeadResult { response, role: None, retries, storable, exchange_logs: leader_logs };
        let _ = sender.send(on_upstream_head(&platform, fetch, head, stored, began, log));
    };
    join(task.run(body, leader), responded).await;
}

/// The head of an upstream response, or why none came.
struct HeadResult<P: Platform> {
    response: Result<P::Upstream, FetchError>,
    /// The client's role, where the fetch is coalesced.
    role: Option<CoalesceRole>,
    retries: u32,
    /// Whether the response may be stored, by its head.
    storable: Result<(), Reason>,
    /// Whether this exchange writes the log line, if the response is not stored.
    exchange_logs: bool,
}

/// Step 4, once the upstream's head is there: the response that the client gets.
fn on_upstream_head<P: Platform>(
    platform: &P,
    mut fetch: UpstreamFetch,
    head: HeadResult<P>,
    stored: Option<P::Buffer>,
    began: u64,
    mut log: ExchangeLog,
) -> P::Response {
    let waited = Some(platform.now().saturating_sub(began));
    let is_follower = head.role == Some(CoalesceRole::Follower);
    let measured = Measurements { coalesce_role: head.role, ..measurements(platform) };
    let measured = if is_follower {
        fetch.mark_collapsed();
        Measurements { waited_ms: waited, ..measured }
    } else {
        Measurements { upstream_ms: waited, retries: head.retries, ..measured }
    };
    let status = head.response.as_ref().map(UpstreamHead::status).map_err(|error| *error);
    if let Some(cached) = fetch.serve_stale(status, platform.now(), || bytes(stored.as_ref()), log.fields_mut()) {
        if let Ok(response) = &head.response {
            response.abort();
        }
        let (response, bytes) = platform.serve(&cached, stored.as_ref());
        log.finish(&Measurements { bytes, ..measured }, Ok(()));
        return response;
    }
    let response = match head.response {
        Ok(response) => response,
        Err(error) => {
            let response = fetch.failed(error, head.retries, log.fields_mut());
            return respond_after(platform, &response, log, measured);
        }
    };
    let (config, headers) = (platform.config(), response.headers());
    let edits = fetch.on_response(config, response.status(), headers, head.retries, head.storable, log.fields_mut());
    let transform = fetch.body_transform(platform.config(), response.status(), response.headers());
    // The line of a response that may be stored is written once it is known whether it is.
    if is_follower || (head.storable.is_err() && head.exchange_logs) {
        let bytes = content_length(response.headers()).and_then(size);
        let stored = if is_follower { Ok(()) } else { head.storable };
        log.finish(&Measurements { bytes, ..measured }, stored);
    } else {
        log.delegate();
    }
    platform.pass_on(response, &edits, transform)
}

/// Revalidates a stale entry in the background (RFC 5861, section 3). The log line of the exchange that was served stale is
/// written with the outcome.
async fn revalidate<P: Platform>(
    platform: P,
    fetch: UpstreamFetch,
    body: P::Body,
    log: ExchangeLog,
    measured: Measurements,
) {
    let key = fetch.key;
    // The client has its response and may disconnect.
    let no_client = platform.no_client();
    match coalesce(&platform, &fetch, &body, &no_client, 0, &log).await {
        Joined::Handled => log.delegate(),
        Joined::Busy | Joined::Entry { .. } => log.finish(&measured, Ok(())),
        Joined::Response { .. } | Joined::Failed { .. } | Joined::Independent => {
            let task = independent_fetch(&platform, &fetch, 0, no_client, &log);
            log.delegate();
            let (leader, _) = oneshot::channel();
            task.run(body, leader).await;
        }
    }
    platform.end_revalidation(&key);
}

fn bytes<B: Buffer>(buffer: Option<&B>) -> Vec<u8> {
    buffer.map(Buffer::to_vec).unwrap_or_default()
}

fn size(bytes: usize) -> Option<u64> {
    u64::try_from(bytes).ok()
}
