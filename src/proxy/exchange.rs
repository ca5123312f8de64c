//! One exchange from its head to its answer, as a chain of decisions.
//!
//! Nothing here waits or touches the world. Each step is a value that exists only in its phase; its methods take what
//! the edge found out and give the next step:
//!
//! 1. [`on_request`] on the request's head: answer at once, pass on, or [`PendingRequest`]: read the body.
//! 2. [`PendingRequest::with_body`]: the body in the operator's [`shape`]; answer, pass on, or a [`CacheableRequest`] with its key
//!    and rules.
//! 3. [`CacheableRequest::on_lookup`] at what the store holds: a hit, an answer without the upstream, or [`UpstreamFetch`].
//! 4. [`UpstreamFetch::answered`] with the upstream's head: what the client sees, and perhaps a
//!    [`Capture`](crate::cache::admission::Capture) and a [`BodyTransform`].
//! 5. [`Capture`](crate::cache::admission::Capture) with the body, behind the client's back: an entry, or why not.

use super::forward::{self as upstream_fetch, FetchError};
use super::lookup::PendingRequest;
use crate::auth::client::{self, Client};
use crate::auth::upstream_credential;
use crate::cache::directives::Directives;
use crate::config::{Config, ConfigError};
use crate::http::fields;
use crate::http::forwarding;
use crate::http::media_type;
use crate::http::message::{UpstreamRequest, RequestHead};
use crate::http::retry::RetrySafety;
use crate::proxy::reply::{self, HeaderEdits, ProxyResponse};
use crate::routing::admin::{self, AdminCommand};
use crate::routing::route::{self, Route};
use crate::status::error::{ErrorKind, ProxyError};
use crate::status::{Reason, CacheStatus};
use crate::telemetry::exchange_log::{DebugFields, LogFields};
use crate::transform::request as request_transform;
use crate::transform::response::{ResponseTransform, BodyTransform};
use http::{HeaderMap, Method, StatusCode};

/// Step 1: what a request's head asks for.
#[derive(Debug)]
pub enum OnRequest {
    /// The proxy answers by itself.
    Answer(ProxyResponse),
    /// Ask whether this URL answers at all, and reply with [`reply::health`].
    Health(String, LogFields),
    /// The operator orders this. Reply with [`reply::deleted`], [`reply::metrics`] or [`reply::operator_error`].
    Operate(AdminCommand, LogFields),
    /// To the upstream and back, the body unread.
    Pass(Box<Bypass>),
    /// The body decides. It is read up to [`PendingRequest::max_bytes`].
    Read(Box<PendingRequest>),
}

/// A request that the cache lets by.
#[derive(Debug)]
pub struct Bypass {
    /// What to send.
    pub upstream_request: UpstreamRequest,
    /// Whether it may be sent again if it fails.
    pub retry_safety: RetrySafety,
    /// Under which name the caller's requests are counted.
    pub rate_limit_key: String,
    /// Of its body, in bytes, if it is known.
    pub(super) length: Option<usize>,
    /// For the log.
    pub log_fields: LogFields,
    pub(super) cache_status: CacheStatus,
    pub(super) response_transform: ResponseTransform,
    pub(super) max_bytes: usize,
}

/// The reply to every request but `/healthz` while a variable cannot be read.
pub fn misconfigured(error: &ConfigError, request: &RequestHead) -> ProxyResponse {
    if request.path == "/healthz" {
        return reply::alive();
    }
    let message = format!("The variable {} {}", error.variable, error.message);
    reply::refusal(&ProxyError::new(ErrorKind::Misconfigured, message), LogFields::of(request))
}

/// The reply to a GET or HEAD with a body, which the platform cannot send on.
pub fn body_not_allowed(request: &RequestHead) -> ProxyResponse {
    let message = format!("A {} request with a body cannot be passed on. Send it without, or as POST.", request.method);
    reply::refusal(&ProxyError::new(ErrorKind::BodyNotAllowed, message), LogFields::of(request))
}

/// The reply to a caller who may not come in, for where something has to be done before [`on_request`].
pub fn unauthorized(config: &Config, request: &RequestHead) -> Option<ProxyResponse> {
    let proxied = matches!(route::route(config, &request.path, None), Route::Upstream(_));
    let admitted = !proxied || Client::authenticate(config, &mut request.clone()).is_some();
    (!admitted).then(|| reply::refusal(&client::unauthorized(), LogFields::of(request)))
}

pub(super) fn limited(log_fields: LogFields) -> ProxyResponse {
    let message = "You have asked more often than this proxy allows. Wait before you ask again.";
    reply::refusal(&ProxyError::new(ErrorKind::RateLimited, message), log_fields)
}

/// What the operator's endpoints do: nothing, as if they did not exist, unless there is an `ADMIN_TOKEN`.
fn admin(config: &Config, request: &RequestHead, log_fields: LogFields) -> OnRequest {
    let Some(admin) = &config.admin else { return OnRequest::Answer(reply::not_found(config, log_fields)) };
    if !admin.authorizes(&request.headers) {
        let message = "This needs the operator's ADMIN_TOKEN, as Authorization: Bearer.";
        let error = ProxyError::new(ErrorKind::InvalidToken, message);
        return OnRequest::Answer(reply::operator_error(&error, log_fields));
    }
    match admin::command(&request.method, &request.path, request.query.as_deref()) {
        Ok(Some(order)) => OnRequest::Operate(order, log_fields),
        Ok(None) => OnRequest::Answer(reply::not_found(config, log_fields)),
        Err(error) => OnRequest::Answer(reply::operator_error(&error, log_fields)),
    }
}

/// Step 1. `has_body`: whether there is a body at all.
pub fn on_request(config: &Config, mut request: RequestHead, has_body: bool) -> OnRequest {
    let own = matches!(request.method, Method::GET | Method::HEAD);
    let log_fields = LogFields::of(&request);
    // Before the route is taken, which has the query in it. An operator shows no caller's token.
    let client = if admin::is_admin_path(&request.path) { None } else { Client::authenticate(config, &mut request) };
    let target = match route::route(config, &request.path, request.query.as_deref()) {
        Route::Index if own => return OnRequest::Answer(reply::index(config, log_fields)),
        Route::Liveness if own => return OnRequest::Answer(reply::alive()),
        Route::Readiness if own => return OnRequest::Health(config.default.base.to_string(), log_fields),
        Route::Admin => return admin(config, &request, log_fields),
        Route::Upstream(target) => target,
        _ => return OnRequest::Answer(reply::not_found(config, log_fields)),
    };
    let Some(client) = client.filter(|client| !(client.is_preflight && has_body)) else {
        return OnRequest::Answer(reply::refusal(&client::unauthorized(), log_fields));
    };
    if let Some(name) = &request.invalid_header {
        let message = format!("The header {name} has a value with control characters. Correct it or leave it out.");
        return OnRequest::Answer(reply::refusal(&ProxyError::new(ErrorKind::InvalidHeader, message), log_fields));
    }
    let directives = match Directives::read(&request.headers) {
        Ok(directives) => directives,
        Err(error) => return OnRequest::Answer(reply::refusal(&error, log_fields)),
    };
    // Other protocols than WebSocket (curl offers `h2c`) are between the caller and us.
    let upgrade =
        request.headers.get(http::header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let debug = config.debug.then(|| DebugFields {
        upstream: target.url.split('?').next().unwrap_or_default().to_owned(),
        request_headers: request.headers.keys().map(ToString::to_string).collect(),
        cache_status: None,
    });
    let ours = if client.lacks_credential { upstream_credential::inject_operator_key(&target, &mut request) } else { None };
    let mut headers = forwarding::forwarded(&request.headers, upgrade);
    headers.extend(ours);
    let pending = PendingRequest {
        max_bytes: config.max_bytes,
        log_fields: LogFields { provider: target.upstream.name.clone().into(), debug, ..log_fields },
        response_transform: request_transform::response_transform_for(config, &request.method, &target),
        upstream: target.upstream,
        upstream_request: UpstreamRequest { method: request.method.clone(), url: target.url, headers, body: None },
        request,
        client,
        endpoint: target.endpoint,
        directives,
    };
    let json = media_type::is_json(&media_type::essence(&pending.request.headers));
    let coded = pending.request.headers.contains_key(http::header::CONTENT_ENCODING);
    let too_large = fields::content_length(&pending.request.headers).is_some_and(|n| n > pending.max_bytes);
    let reason = if !has_body || upgrade {
        Reason::BodyEmpty
    } else if !json {
        Reason::ContentType
    } else if coded {
        Reason::ContentEncoding
    } else if too_large {
        Reason::TooLarge
    } else {
        return OnRequest::Read(Box::new(pending));
    };
    match pending.bypass_with(reason) {
        Ok(passage) => OnRequest::Pass(passage),
        Err(reply) => OnRequest::Answer(reply),
    }
}

impl Bypass {
    /// The reply to a caller who has asked too often.
    pub fn limited(self) -> ProxyResponse {
        limited(self.log_fields)
    }

    /// Whether its body may be held in memory for another attempt.
    pub fn is_small(&self, config: &Config) -> bool {
        self.length.is_some_and(|length| length <= config.max_bytes)
    }

    /// The upstream's head came: what to change in it for the client.
    pub fn answered(&mut self, status: StatusCode) -> HeaderEdits {
        self.cache_status.fwd_status = Some(status.as_u16());
        self.log_fields.record(status.as_u16(), &self.cache_status);
        reply::header_edits(&self.cache_status)
    }

    /// What the answer's body needs on its way; `None`: nothing, it is passed on as it comes.
    pub fn body_transform(&self, status: StatusCode, response: &HeaderMap) -> Option<BodyTransform> {
        self.response_transform.open(status, response, self.max_bytes)
    }

    /// No answer came.
    pub fn failed(self, failure: FetchError) -> ProxyResponse {
        upstream_fetch::failed(failure, self.cache_status, self.log_fields)
    }
}
