//! Steps 1 and 2: where does the request go, may the client send it, and what is its cache key?

use super::cacheable_request::{CacheableRequest, SampleSet};
use super::forward;
use super::platform::FetchError;
use super::reply::{self, HeaderEdits, ProxyResponse};
use crate::auth::client::{self, Client};
use crate::auth::upstream_credential;
use crate::cache::dialects::{self, ReplyFields};
use crate::cache::directives::Directives;
use crate::cache::policy::CachePolicy;
use crate::config::{Config, ConfigError, Dialect, When};
use crate::http::message::{RequestHead, UpstreamRequest};
use crate::http::retry::RetrySafety;
use crate::http::{fields, forwarding, media_type};
use crate::json::canonical::{Document, ParseError};
use crate::key::headers as key_headers;
use crate::key::{KeyInput, MatchMode, SampleKeys};
use crate::protocol::ResponseMode;
use crate::protocol::answer::AnswerRules;
use crate::routing::admin::{self, AdminCommand};
use crate::routing::endpoint::{Endpoint, key_url};
use crate::routing::route::{self, Route, Target};
use crate::status::error::{ErrorKind, ProxyError};
use crate::status::{CacheStatus, Fwd, Reason};
use crate::telemetry::exchange_log::{self, DebugFields, LogFields};
use crate::transform::inspect;
use crate::transform::request::{self as request_transform, RequestTarget};
use crate::transform::response::{BodyTransform, ResponseTransform};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::time::Duration;

/// Step 1: whether the request's head decides.
#[derive(Debug)]
pub enum OnHead {
    /// It does.
    Decided(OnRequest),
    /// The body has to be probed, because it may have no bytes: [`RoutedRequest::with_probed_body`].
    ProbeBody(Box<RoutedRequest>),
}

/// Step 1: what follows from the request's head.
#[derive(Debug)]
pub enum OnRequest {
    /// The proxy responds by itself.
    Respond(ProxyResponse),
    /// The same, without a log line: `/healthz`.
    RespondUnlogged(ProxyResponse),
    /// Probe this URL, and respond with [`reply::health`].
    HealthCheck(String),
    /// A command of the operator.
    Admin(AdminCommand),
    /// Respond with the page of `/dashboard`.
    Dashboard {
        /// Whether the request is not HEAD.
        with_body: bool,
    },
    /// To the upstream and back. The body is not read.
    Bypass(Box<Bypass>),
    /// The body decides. It is read up to [`PendingRequest::max_bytes`].
    ReadBody(Box<PendingRequest>),
}

/// Step 2: what follows from the body.
#[derive(Debug)]
pub enum OnBody {
    /// The proxy responds by itself.
    Respond(ProxyResponse),
    /// To the upstream and back.
    Bypass(Box<Bypass>),
    /// The store may have the response.
    LookUp(Box<CacheableRequest>),
}

impl OnBody {
    /// The body to send in place of the client's, if a transform has changed it.
    pub fn changed_body(&self) -> Option<&[u8]> {
        match self {
            OnBody::Respond(_) => None,
            OnBody::Bypass(bypass) => bypass.upstream_request.body.as_deref(),
            OnBody::LookUp(request) => request.upstream_request.body.as_deref(),
        }
    }
}

/// A request that is authenticated and routed.
#[derive(Debug)]
pub struct RoutedRequest {
    request: RequestHead,
    client: Client,
    target: Target,
}

/// A JSON request whose body has to be seen.
#[derive(Debug)]
pub struct PendingRequest {
    /// The most that is read. Beyond it the request bypasses the cache: [`PendingRequest::too_large`].
    pub max_bytes: usize,
    /// `TIMEOUT`, or longer if the client waits longer.
    timeout: Duration,
    request: RequestHead,
    client: Client,
    target: Target,
    directives: Directives,
    fields: ReplyFields,
    upstream_request: UpstreamRequest,
    transform: ResponseTransform,
}

/// A request that bypasses the cache.
#[derive(Debug)]
pub struct Bypass {
    /// The request to the upstream.
    pub upstream_request: UpstreamRequest,
    target: Target,
    /// The failures after which the request may be retried.
    pub retry_safety: RetrySafety,
    /// The key that the client's requests are counted under.
    pub rate_limit_key: String,
    /// The longest time from the end of the request body to the response head.
    pub timeout: Duration,
    /// The body's length in bytes, if it is known.
    length: Option<usize>,
    status: CacheStatus,
    fields: ReplyFields,
    transform: ResponseTransform,
    max_bytes: usize,
}

/// The response while a variable cannot be read. `None`: the request is for `/healthz`, which always works.
pub fn misconfigured(error: &ConfigError, request: &RequestHead, log: &mut LogFields) -> Option<ProxyResponse> {
    if request.path == "/healthz" {
        return None;
    }
    let message = format!("The variable {} {}", error.variable, error.message);
    Some(reply::refusal(&ProxyError::new(ErrorKind::Misconfigured, message), log))
}

/// Step 1. `has_body`: whether there is a body, if only in name.
pub fn on_head(config: &Config, request: RequestHead, has_body: bool, log: &mut LogFields) -> OnHead {
    match authenticate_and_route(config, request, log) {
        // The Workers runtime may name a body where there is none.
        Ok(routed) if has_body && routed.needs_empty_body() => OnHead::ProbeBody(Box::new(routed)),
        Ok(routed) => OnHead::Decided(routed.proceed(config, has_body, log)),
        Err(decided) => OnHead::Decided(decided),
    }
}

fn authenticate_and_route(
    config: &Config,
    mut request: RequestHead,
    log: &mut LogFields,
) -> Result<RoutedRequest, OnRequest> {
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    // Before routing, which copies the query. The operator's calls carry no client token.
    let client = if admin::is_admin_path(&request.path) { None } else { Client::authenticate(config, &mut request) };
    let target = match route::route(config, &request.path, request.query.as_deref()) {
        Route::Index if reads => return Err(OnRequest::Respond(reply::index(config, log))),
        Route::Liveness if reads => return Err(OnRequest::RespondUnlogged(reply::liveness())),
        Route::Readiness if reads => {
            return Err(OnRequest::HealthCheck(config.routing.default_upstream.base.to_string()));
        }
        Route::Admin => return Err(on_admin(config, &request, log)),
        Route::Upstream(target) => Target { proxy_origin: request.origin.clone(), ..target },
        _ => return Err(OnRequest::Respond(reply::not_found(config, log))),
    };
    if let Some((method, fields)) = client::preflight_for_controls(&request, config.cache.dialects) {
        return Err(OnRequest::Respond(reply::preflight(method, fields, log)));
    }
    match client {
        Some(client) => Ok(RoutedRequest { request, client, target }),
        None => Err(OnRequest::Respond(reply::refusal(&client::unauthorized(), log))),
    }
}

/// The operator's endpoints. Without `ADMIN_TOKEN` they do not exist.
fn on_admin(config: &Config, request: &RequestHead, log: &mut LogFields) -> OnRequest {
    let Some(token) = &config.auth.admin_token else { return OnRequest::Respond(reply::not_found(config, log)) };
    if admin::is_dashboard(&request.method, &request.path) {
        return OnRequest::Dashboard { with_body: request.method != Method::HEAD };
    }
    if !token.authorizes(&request.headers) {
        let message = "This endpoint requires ADMIN_TOKEN as a bearer token.";
        let error = ProxyError::new(ErrorKind::InvalidToken, message);
        return OnRequest::Respond(reply::admin_error(&error, log));
    }
    match admin::command(&request.method, &request.path, request.query.as_deref()) {
        Ok(Some(command)) => OnRequest::Admin(command),
        Ok(None) => OnRequest::Respond(reply::not_found(config, log)),
        Err(error) => OnRequest::Respond(reply::admin_error(&error, log)),
    }
}

/// The response to a client that sends requests too often.
fn rate_limited(log: &mut LogFields) -> ProxyResponse {
    let message = "Rate limit exceeded. Wait before you send the next request.";
    reply::refusal(&ProxyError::new(ErrorKind::RateLimited, message), log)
}

impl RoutedRequest {
    /// Whether a body with bytes would be refused: that of a GET or HEAD, which the Workers runtime cannot send, and that of
    /// a browser's preflight, which has no token.
    fn needs_empty_body(&self) -> bool {
        matches!(self.request.method, Method::GET | Method::HEAD) || self.client.is_preflight
    }

    /// Step 1, once it is known whether the body has bytes.
    pub fn with_probed_body(self, config: &Config, is_empty: bool, log: &mut LogFields) -> OnRequest {
        if is_empty {
            return self.proceed(config, false, log);
        }
        if self.client.is_preflight {
            return OnRequest::Respond(reply::refusal(&client::unauthorized(), log));
        }
        let method = &self.request.method;
        let message = format!("A {method} request with a body cannot be forwarded. Send it without one, or as POST.");
        OnRequest::Respond(reply::refusal(&ProxyError::new(ErrorKind::BodyNotAllowed, message), log))
    }

    fn proceed(self, config: &Config, has_body: bool, log: &mut LogFields) -> OnRequest {
        let RoutedRequest { mut request, client, target } = self;
        if let Some(name) = &request.invalid_header {
            let message = format!("The header {name} has a value with control characters. Correct it or leave it out.");
            return OnRequest::Respond(reply::refusal(&ProxyError::new(ErrorKind::InvalidHeader, message), log));
        }
        let upstream = &target.upstream;
        let products = config.cache.dialects.towards(upstream.base.host_str().unwrap_or_default());
        let read = Directives::read(&request.headers).and_then(|mut directives| {
            let products = dialects::obey(products, &request.headers, &mut directives)?;
            Ok((directives, ReplyFields { products, sample: None }))
        });
        let (directives, fields) = match read {
            Ok(read) => read,
            Err(error) => return OnRequest::Respond(reply::refusal(&error, log)),
        };
        // Other protocols than WebSocket (curl offers `h2c`) concern only this hop.
        let upgrade = request.headers.get(http::header::UPGRADE);
        let upgrade = upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        log.provider = target.upstream.provider.clone();
        log.debug = config.debug.then(|| DebugFields {
            upstream: target.url.split('?').next().unwrap_or_default().to_owned(),
            request_headers: request.headers.keys().map(ToString::to_string).collect(),
            cache_status: None,
        });
        log.endpoint = target.endpoint.map_or("", Endpoint::name).into();
        log.namespace = exchange_log::truncate(&String::from_utf8_lossy(&directives.namespace));
        let credential =
            client.lacks_credential.then(|| upstream_credential::inject_operator_key(&target, &mut request));
        let mut headers = forwarding::forwarded(&request.headers, upgrade);
        let built_in = target.upstream.is_built_in();
        let is_dropped = |name: &HeaderName| dialects::is_dropped(products, name.as_str(), built_in);
        for name in headers.keys().filter(|name| is_dropped(name)).cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
        headers.extend(credential.flatten());
        let transform = request_transform::response_transform_for(config, &request.method, &target);
        let upstream_request =
            UpstreamRequest { method: request.method.clone(), url: target.url.clone(), headers, body: None };
        let pending = PendingRequest {
            timeout: upstream_request.timeout(config.upstream.timeout),
            max_bytes: config.cache.max_bytes,
            transform,
            upstream_request,
            request,
            client,
            target,
            directives,
            fields,
        };
        let headers = &pending.request.headers;
        let reason = if !has_body || upgrade {
            Reason::BodyEmpty
        } else if !media_type::is_json(&media_type::essence(headers)) {
            Reason::ContentType
        } else if headers.contains_key(http::header::CONTENT_ENCODING) {
            Reason::ContentEncoding
        } else if fields::content_length(headers).is_some_and(|length| length > pending.max_bytes) {
            Reason::TooLarge
        } else {
            return OnRequest::ReadBody(Box::new(pending));
        };
        match pending.bypass_for(reason, log) {
            Ok(bypass) => OnRequest::Bypass(bypass),
            Err(response) => OnRequest::Respond(response),
        }
    }
}

impl PendingRequest {
    /// Step 2, for a body beyond [`PendingRequest::max_bytes`].
    pub fn too_large(self, log: &mut LogFields) -> OnBody {
        self.bypass(Reason::TooLarge, log)
    }

    /// The key that the client's requests are counted under.
    pub fn rate_limit_key(&self) -> &str {
        &self.client.rate_limit_key
    }

    /// The response to a client that sends requests too often.
    pub fn rate_limited(&self, log: &mut LogFields) -> ProxyResponse {
        rate_limited(log)
    }

    /// The response to an incomplete body. The client may have disconnected.
    pub fn incomplete_body(&self, log: &mut LogFields) -> ProxyResponse {
        let message = "The request body was incomplete. Send it again.";
        reply::refusal(&ProxyError::new(ErrorKind::InvalidJson, message), log)
    }

    /// Step 2, for a body that has been read. `has_store`: whether a store is bound.
    pub fn with_body(mut self, config: &Config, body: &[u8], has_store: bool, log: &mut LogFields) -> OnBody {
        if body.is_empty() {
            return self.bypass(Reason::BodyEmpty, log);
        }
        let document = match Document::parse(body) {
            Ok(document) => document,
            Err(ParseError::TooComplex) => return self.bypass(Reason::TooComplex, log),
            // Only the upstream knows what else it accepts there.
            Err(_) if self.target.endpoint.is_none() || self.request.method != Method::POST => {
                return self.bypass(Reason::InvalidJson, log);
            }
            Err(error) => {
                let message =
                    format!("The request body is not JSON: {error}. Correct it, or send another Content-Type.");
                return OnBody::Respond(reply::refusal(&ProxyError::new(ErrorKind::InvalidJson, message), log));
            }
        };
        log.model = inspect::model(&document, &self.upstream_request.url).as_deref().map(exchange_log::truncate);
        if !document.is_object() {
            return self.bypass(Reason::NotAnObject, log);
        }
        // The client decides whether it gets usage, even if the provider does not accept `stream_options`.
        let include_usage = document.fields("stream_options").any(inspect::includes_usage);
        let litellm = config.cache.dialects.contains(Dialect::LiteLlm)
            && dialects::obey_body(&document, &mut self.directives).is_some();
        if litellm {
            self.fields.products.insert(Dialect::LiteLlm);
        }
        let Some(document) = self.transform_body(config, body, document, litellm) else {
            return self.bypass(Reason::TooComplex, log);
        };
        let Some(endpoint) = self.target.endpoint.filter(|_| self.request.method == Method::POST) else {
            return self.bypass(Reason::Endpoint, log);
        };
        if key_headers::has_lossy_value(&self.upstream_request.headers) {
            return self.bypass(Reason::InvalidHeader, log);
        }
        if inspect::references_server_state(&document) {
            return self.bypass(Reason::ServerState, log);
        }
        let when = self.directives.when.unwrap_or(config.cache.when);
        if when == When::Repeatable && !inspect::is_repeatable(endpoint, &document) {
            return self.bypass(Reason::Sampled, log);
        }
        // Otherwise a partial response, or a 304, could be shared with other clients.
        for name in forwarding::CONDITIONAL_HEADERS {
            self.request.headers.remove(name);
            self.upstream_request.headers.remove(name);
        }
        let response_mode = ResponseMode { stream: endpoint.streams(document.fields("stream")), include_usage };
        self.directives = self.directives.for_stream(response_mode.stream);
        let sent = self.upstream_request.body.as_deref().unwrap_or(body);
        let keys = self.keys(config, endpoint, response_mode, sent, &document);
        let (key, salt) = keys.key_and_salt(self.directives.sample.unwrap_or(0));
        log.key = Some(key);
        let samples = self.directives.samples.and_then(|count| {
            self.fields.sample = (count == 1).then_some((1, 1));
            (count > 1).then(|| SampleSet::new(key, keys, count, self.timeout))
        });
        request_identity_encoding(&mut self.upstream_request);
        OnBody::LookUp(Box::new(CacheableRequest {
            key,
            salt: (!config.store.encryption_keys.is_empty()).then_some(salt),
            key_covers_request: self.key_covers_request(config, endpoint),
            timeout: self.timeout,
            upstream_request: self.upstream_request,
            fields: self.fields,
            samples,
            slot: None,
            target: self.target,
            endpoint,
            response_mode,
            rules: AnswerRules::new(config.cache.admission, &document),
            policy: CachePolicy::new(config, &self.directives, has_store),
            transform: self.transform,
        }))
    }

    /// Applies the operator's transforms to the body; gives the document that is sent. `None`: it is too complex.
    fn transform_body(&mut self, config: &Config, body: &[u8], document: Document, litellm: bool) -> Option<Document> {
        let text = std::str::from_utf8(body).unwrap_or_default();
        if self.request.method != Method::POST {
            return Some(document);
        }
        let target = RequestTarget {
            upstream: &self.target.upstream,
            url: &self.upstream_request.url,
            endpoint: self.target.endpoint,
            dropped: if litellm { &["cache"] } else { &[] },
        };
        let transformed = request_transform::transform(config, target, text, &document);
        let zero_usage = self.directives.zero_usage.unwrap_or(config.savings.zero_usage);
        self.transform = transformed.response_transform.zeroing_usage(zero_usage);
        let Some(body) = transformed.body else {
            return Some(document);
        };
        let sent = Document::parse(&body).ok();
        let headers = &mut self.upstream_request.headers;
        let digests: Vec<_> = headers.keys().filter(|name| fields::is_digest_header(name.as_str())).cloned().collect();
        for name in digests {
            headers.remove(name);
        }
        self.upstream_request.body = Some(body);
        sent
    }

    fn keys(
        &self,
        config: &Config,
        endpoint: Endpoint,
        mode: ResponseMode,
        body: &[u8],
        document: &Document,
    ) -> SampleKeys {
        let ignored = config.cache.key_ignore.union(&self.directives.ignore);
        KeyInput {
            namespace: &self.directives.namespace,
            tenant: &self.client.tenant,
            method: self.request.method.as_str(),
            url: &key_url(endpoint, &self.upstream_request.url),
            key_headers: &key_headers::key_headers(&self.upstream_request.headers, mode.stream, &ignored.headers()),
            mode: self.match_mode(config, endpoint),
            ignored: ignored.names(),
            body,
            document,
        }
        .samples()
    }

    fn match_mode(&self, config: &Config, endpoint: Endpoint) -> MatchMode {
        let wanted = self.directives.match_mode.unwrap_or(config.cache.match_mode);
        if endpoint.is_chat() { wanted } else { MatchMode::Exact }
    }

    /// Whether the key covers all that the upstream is sent. Then an error is the same for every client that has the key.
    fn key_covers_request(&self, config: &Config, endpoint: Endpoint) -> bool {
        let all = config.cache.key_ignore.is_empty() && self.directives.ignore.is_empty();
        all && self.match_mode(config, endpoint) == MatchMode::Exact && !config.cache.shared_scope
    }

    fn bypass(self, reason: Reason, log: &mut LogFields) -> OnBody {
        match self.bypass_for(reason, log) {
            Ok(bypass) => OnBody::Bypass(bypass),
            Err(response) => OnBody::Respond(response),
        }
    }

    /// The request as one that bypasses the cache, or the response to a client that accepts stored responses only. The method
    /// and the endpoint are named as the reason before anything about the body.
    fn bypass_for(mut self, reason: Reason, log: &mut LogFields) -> Result<Box<Bypass>, ProxyResponse> {
        if self.directives.only_if_cached {
            return Err(only_if_cached(log));
        }
        let (fwd, reason) = if self.request.method != Method::POST {
            (Fwd::Method, Reason::Method)
        } else if self.target.endpoint.is_none() && reason != Reason::ContentType {
            (Fwd::Bypass, Reason::Endpoint)
        } else {
            (Fwd::Bypass, reason)
        };
        if !self.transform.is_none() {
            request_identity_encoding(&mut self.upstream_request);
        }
        // RFC 9110, section 9.2.2.
        let idempotent = self.request.method.is_idempotent();
        Ok(Box::new(Bypass {
            upstream_request: self.upstream_request,
            target: self.target,
            retry_safety: if idempotent { RetrySafety::Idempotent } else { RetrySafety::OnlyIfUnprocessed },
            rate_limit_key: self.client.rate_limit_key,
            timeout: self.timeout,
            length: fields::content_length(&self.request.headers),
            status: CacheStatus::bypass(fwd, reason),
            fields: self.fields,
            transform: self.transform,
            max_bytes: self.max_bytes,
        }))
    }
}

impl Bypass {
    /// The response to a client that sends requests too often.
    pub fn rate_limited(&self, log: &mut LogFields) -> ProxyResponse {
        rate_limited(log)
    }

    /// Whether the body may be held in memory for a retry.
    pub fn may_buffer_body(&self) -> bool {
        self.length.is_some_and(|length| length <= self.max_bytes)
    }

    /// The changes to the upstream's response head. `retries`: how often the request was retried.
    pub fn on_response(
        &mut self,
        config: &Config,
        status: StatusCode,
        headers: &HeaderMap,
        retries: u32,
        log: &mut LogFields,
    ) -> HeaderEdits {
        self.status.fwd_status = Some(status.as_u16());
        log.record(status.as_u16(), &self.status);
        reply::header_edits(config, &self.status, &self.fields, &self.target, headers, retries)
    }

    /// The transform of the response's body. `None`: the body is passed on unchanged.
    pub fn body_transform(&self, status: StatusCode, headers: &HeaderMap) -> Option<BodyTransform> {
        self.transform.open(status, headers, self.max_bytes, false)
    }

    /// The response if no upstream response came.
    pub fn failed(self, error: FetchError, retries: u32, log: &mut LogFields) -> ProxyResponse {
        forward::failed(error, self.status, retries, log)
    }
}

/// A response that is read on its way through is requested without a content coding (RFC 9110, section 12.5.3). A coded one
/// would have to be decoded and coded again, which costs time and holds streams back.
fn request_identity_encoding(request: &mut UpstreamRequest) {
    request.headers.insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// The response to a client that accepts stored responses only, where there is none.
pub(super) fn only_if_cached(log: &mut LogFields) -> ProxyResponse {
    let message = "There is no usable stored response, and Cache-Control: only-if-cached forbids a request to the upstream. \
                   Send the request once without it to store a response.";
    reply::refusal(&ProxyError::new(ErrorKind::OnlyIfCached, message), log)
}
