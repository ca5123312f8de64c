//! Steps 2 and 3: is this a question that may be answered from the store, and does the store answer it?

use super::exchange::Bypass;
use super::forward::UpstreamFetch;
use super::forward::StaleFallback;
use super::stored_response::CachedResponse;
use super::stored_response::StoredResponse;
use crate::auth::client::Client;
use crate::cache::directives::Directives;
use crate::cache::entry;
use crate::cache::policy::{Freshness, CachePolicy};
use crate::config::Config;
use crate::config::providers::Upstream;
use crate::http::fields;
use crate::http::message::{UpstreamRequest, RequestHead};
use crate::http::retry::RetrySafety;
use crate::json::canonical::{Document, ParseError};
use crate::key::headers as key_headers;
use crate::key::{self, CacheKey, EncryptionSalt};
use crate::protocol::ResponseMode;
use crate::proxy::reply::{self, ProxyResponse};
use crate::routing::endpoint::{Endpoint, key_url};
use crate::status::error::{ErrorKind, ProxyError};
use crate::status::{Fwd, CacheOutcome, Reason, CacheStatus};
use crate::telemetry::exchange_log::{self, LogFields};
use crate::transform::inspect;
use crate::transform::request::{self as request_transform, RequestTarget};
use crate::transform::response::ResponseTransform;
use http::{HeaderValue, Method};
use std::rc::Rc;

/// Step 2: what the body asks for.
#[derive(Debug)]
pub enum OnBody {
    /// The proxy answers by itself.
    Answer(ProxyResponse),
    /// To the upstream and back.
    Pass(Box<Bypass>),
    /// A question that may be answered from the store.
    Ask(Box<CacheableRequest>),
}

/// A JSON request whose body has to be seen.
#[derive(Debug)]
pub struct PendingRequest {
    /// The most that is read; beyond it the request is passed on with [`PendingRequest::too_large`].
    pub max_bytes: usize,
    pub(super) request: RequestHead,
    pub(super) client: Client,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) directives: Directives,
    pub(super) log_fields: LogFields,
    pub(super) upstream_request: UpstreamRequest,
    pub(super) upstream: Rc<Upstream>,
    pub(super) response_transform: ResponseTransform,
}

impl OnBody {
    /// The body that is sent in place of the client's, if it has been changed.
    pub fn body(&self) -> Option<&[u8]> {
        match self {
            OnBody::Answer(_) => None,
            OnBody::Pass(passage) => passage.upstream_request.body.as_deref(),
            OnBody::Ask(question) => question.upstream_request.body.as_deref(),
        }
    }
}

/// A question with its name.
#[derive(Debug)]
pub struct CacheableRequest {
    /// Its name in the store.
    pub key: CacheKey,
    /// What its entry is sealed with, where entries are.
    pub salt: Option<EncryptionSalt>,
    /// What to send if the upstream is asked.
    pub upstream_request: UpstreamRequest,
    /// For the log.
    pub log_fields: LogFields,
    key_covers_request: bool,
    pub(super) endpoint: Endpoint,
    pub(super) response_mode: ResponseMode,
    pub(super) policy: CachePolicy,
    pub(super) response_transform: ResponseTransform,
}

/// What the store holds.
#[derive(Debug)]
pub enum Lookup {
    /// Nothing, or it was not asked.
    Nothing,
    /// An entry whose digest is right.
    Entry(entry::EntryHead),
    /// The same, remembered by the isolate.
    Remembered(entry::EntryHead),
    /// It could not tell, for this reason.
    Failed(Reason),
}

/// Step 3: whether the store's head decides.
#[derive(Debug)]
pub enum OnLookup {
    /// It does.
    Decided(Decision),
    /// The stored answer goes out in another form, if that can be had of its body: [`Conversion::with_body`].
    Render(Box<Conversion>),
}

/// Step 3: what to do about the question.
#[derive(Debug)]
pub enum Decision {
    /// The stored answer goes to the client with this head.
    CachedResponse(Box<CachedResponse>),
    /// It does, and the upstream is asked behind the client's back.
    Update(Box<CachedResponse>, Box<UpstreamFetch>),
    /// The proxy answers by itself.
    Answer(ProxyResponse),
    /// The upstream is asked.
    Ask(Box<UpstreamFetch>),
}

/// A stored answer whose body has to be read before it can go out.
#[derive(Debug)]
pub struct Conversion {
    question: CacheableRequest,
    stored_response: StoredResponse,
    cache_status: CacheStatus,
    now: u64,
}

impl PendingRequest {
    /// Step 2, for a body beyond [`PendingRequest::max_bytes`].
    pub fn too_large(self) -> OnBody {
        self.bypass(Reason::TooLarge)
    }

    /// Under which name the caller's requests are counted.
    pub fn rate_limit_key(&self) -> &str {
        &self.client.rate_limit_key
    }

    /// The reply to a caller who has asked too often.
    pub fn limited(self) -> ProxyResponse {
        super::exchange::limited(self.log_fields)
    }

    /// The reply to a body that broke off; there may be nobody left to read it.
    pub fn incomplete_body(self) -> ProxyResponse {
        let message = "The request body broke off before its end. Send it again.";
        reply::refusal(&ProxyError::new(ErrorKind::InvalidJson, message), self.log_fields)
    }

    /// Step 2. `bound`: there is a store.
    pub fn with_body(mut self, config: &Config, body: &[u8], bound: bool) -> OnBody {
        if body.is_empty() {
            return self.bypass(Reason::BodyEmpty);
        }
        let document = match Document::parse(body) {
            Ok(document) => document,
            Err(ParseError::TooComplex) => return self.bypass(Reason::TooComplex),
            Err(error) => {
                let message =
                    format!("The request body is not JSON: {error}. Correct it, or send another Content-Type.");
                let error = ProxyError::new(ErrorKind::InvalidJson, message);
                return OnBody::Answer(reply::refusal(&error, self.log_fields));
            }
        };
        self.log_fields.model = inspect::model(&document, &self.upstream_request.url).as_deref().map(exchange_log::truncate);
        if !document.is_object() {
            return self.bypass(Reason::NotAnObject);
        }
        // Whether usage is wanted is the caller's word, even where the provider must not hear it.
        let include_usage = document.fields("stream_options").any(inspect::includes_usage);
        let Some(document) = self.shape(config, body, document) else {
            return self.bypass(Reason::TooComplex);
        };
        let Some(endpoint) = self.endpoint.filter(|_| self.request.method == Method::POST) else {
            return self.bypass(Reason::Endpoint);
        };
        if key_headers::has_lossy_utf8(&self.request.headers) {
            return self.bypass(Reason::InvalidHeader);
        }
        if inspect::references_server_state(&document) {
            return self.bypass(Reason::ServerState);
        }
        let response_mode = ResponseMode { stream: endpoint.streams(document.fields("stream")), include_usage };
        let sent = self.upstream_request.body.as_deref().unwrap_or(body);
        let (key, salt) = self.key(config, endpoint, sent, &document);
        self.log_fields.key = Some(key);
        request_identity_encoding(&mut self.upstream_request);
        let key_covers_request = self.key_covers_request(config, endpoint);
        OnBody::Ask(Box::new(CacheableRequest {
            key,
            key_covers_request,
            salt: (!config.encryption.is_empty()).then_some(salt),
            upstream_request: self.upstream_request,
            log_fields: self.log_fields,
            endpoint,
            response_mode,
            policy: CachePolicy::new(config, &self.directives, bound),
            response_transform: self.response_transform,
        }))
    }

    /// Makes the operator's changes to the body; gives the document that is sent. `None`: it is too complex.
    fn shape(&mut self, config: &Config, body: &[u8], document: Document) -> Option<Document> {
        let text = std::str::from_utf8(body).unwrap_or_default();
        if self.request.method != Method::POST {
            return Some(document);
        }
        let asked = RequestTarget { upstream: &self.upstream, url: &self.upstream_request.url, endpoint: self.endpoint };
        let shaped = request_transform::transform(config, asked, text, &document);
        self.response_transform = shaped.response_transform;
        let Some(body) = shaped.body else {
            return Some(document);
        };
        let sent = Document::parse(&body).ok();
        let described: Vec<_> =
            self.upstream_request.headers.keys().filter(|n| fields::is_digest_header(n.as_str())).cloned().collect();
        for name in described {
            self.upstream_request.headers.remove(name);
        }
        self.upstream_request.body = Some(body);
        sent
    }

    fn key(&self, config: &Config, endpoint: Endpoint, body: &[u8], document: &Document) -> (CacheKey, EncryptionSalt) {
        let mut ignored: Vec<String> = self.ignored(config).cloned().collect();
        ignored.sort_unstable();
        ignored.dedup();
        key::KeyInput {
            namespace: &self.directives.namespace,
            tenant: &self.client.tenant,
            method: self.request.method.as_str(),
            url: &key_url(endpoint, &self.upstream_request.url),
            key_headers: &key_headers::key_headers(&self.request.headers),
            mode: self.mode(config, endpoint),
            ignored: &ignored,
            body,
            document,
        }
        .key_and_salt()
    }

    fn ignored<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = &'a String> {
        config.key_ignore.iter().chain(&self.directives.ignore)
    }

    fn mode(&self, config: &Config, endpoint: Endpoint) -> key::MatchMode {
        let wanted = self.directives.match_mode.unwrap_or(config.match_mode);
        if endpoint.is_chat() { wanted } else { key::MatchMode::Exact }
    }

    /// Whether the key covers all that the upstream is told: then whoever has the same key gets the same error.
    fn key_covers_request(&self, config: &Config, endpoint: Endpoint) -> bool {
        let all = self.mode(config, endpoint) == key::MatchMode::Exact && self.ignored(config).next().is_none();
        all && !config.shared_scope
    }

    fn bypass(self, reason: Reason) -> OnBody {
        match self.bypass_with(reason) {
            Ok(passage) => OnBody::Pass(passage),
            Err(reply) => OnBody::Answer(reply),
        }
    }

    /// The request as one that the cache lets by, or the reply to a caller who takes stored answers only. The method
    /// and the endpoint are named before what `reason` says of the body.
    pub(super) fn bypass_with(mut self, reason: Reason) -> Result<Box<Bypass>, ProxyResponse> {
        if self.directives.only_if_cached {
            return Err(only_if_cached(self.log_fields));
        }
        let (fwd, reason) = if self.request.method != Method::POST {
            (Fwd::Method, Reason::Method)
        } else if self.endpoint.is_none() && reason != Reason::ContentType {
            (Fwd::Bypass, Reason::Endpoint)
        } else {
            (Fwd::Bypass, reason)
        };
        if !self.response_transform.is_none() {
            request_identity_encoding(&mut self.upstream_request);
        }
        // RFC 9110, section 9.2.2.
        let idempotent = self.request.method.is_idempotent();
        Ok(Box::new(Bypass {
            upstream_request: self.upstream_request,
            retry_safety: if idempotent { RetrySafety::Always } else { RetrySafety::OnlyIfUnprocessed },
            rate_limit_key: self.client.rate_limit_key,
            length: fields::content_length(&self.request.headers),
            log_fields: self.log_fields,
            cache_status: CacheStatus::bypass(fwd, reason),
            response_transform: self.response_transform,
            max_bytes: self.max_bytes,
        }))
    }
}

/// An answer that is read on its way through is asked for as it is: a coded one would have to be decoded and coded
/// again, which costs time and holds back streams.
fn request_identity_encoding(upstream_request: &mut UpstreamRequest) {
    upstream_request.headers.insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

fn only_if_cached(log_fields: LogFields) -> ProxyResponse {
    let message = "There is no usable stored answer, and the request's Cache-Control: only-if-cached forbids asking \
                   the upstream. Ask once without it to store one.";
    reply::refusal(&ProxyError::new(ErrorKind::OnlyIfCached, message), log_fields)
}

impl CacheableRequest {
    /// Whether the store is to be read.
    pub fn reads(&self) -> bool {
        self.policy.read.is_ok()
    }

    /// Whether an entry that the isolate remembers answers by itself; if not, the store may know a newer one.
    pub fn is_fresh_hit(&self, head: &entry::EntryHead, now: u64) -> bool {
        let fresh = matches!(self.policy.evaluate(head, now), Freshness::Fresh(_));
        fresh && StoredResponse::new(self.endpoint, head, self.response_mode, &self.response_transform).is_some()
    }

    /// Step 3. `now`: milliseconds since 1970.
    pub fn on_lookup(self, found: &Lookup, now: u64) -> OnLookup {
        let head = match (&self.policy.read, found) {
            (Err(cache_status), _) => {
                let cache_status = *cache_status;
                return OnLookup::Decided(self.forward(cache_status, None));
            }
            (Ok(()), Lookup::Nothing) => return OnLookup::Decided(self.miss(None)),
            (Ok(()), Lookup::Failed(reason)) => return OnLookup::Decided(self.miss(Some(*reason))),
            (Ok(()), Lookup::Entry(head) | Lookup::Remembered(head)) => head,
        };
        let freshness = match (self.policy.evaluate(head, now), found) {
            (Freshness::Fresh(cache_status), Lookup::Remembered(_)) => {
                Freshness::Fresh(CacheStatus { reason: Some(Reason::Memory), ..cache_status })
            }
            (freshness, _) => freshness,
        };
        let stored_response = StoredResponse::new(self.endpoint, head, self.response_mode, &self.response_transform);
        match (freshness, stored_response) {
            (Freshness::Unusable { cache_status, stale_if_error_until }, stored_response) => {
                let serve_stale = stored_response.filter(|_| now < stale_if_error_until);
                let serve_stale = serve_stale.map(|stored_response| StaleFallback { stored_response, until: stale_if_error_until });
                OnLookup::Decided(self.forward(cache_status, serve_stale))
            }
            (Freshness::Fresh(cache_status) | Freshness::Stale(cache_status), Some(stored_response)) => {
                let rendering = Conversion { question: self, stored_response, cache_status, now };
                if rendering.stored_response.is_verbatim() {
                    OnLookup::Decided(rendering.with_body(&[]))
                } else {
                    OnLookup::Render(Box::new(rendering))
                }
            }
            (_, None) => OnLookup::Decided(self.miss(Some(Reason::NotConvertible))),
        }
    }

    fn miss(self, reason: Option<Reason>) -> Decision {
        let cache_status = self.policy.miss(reason);
        self.forward(cache_status, None)
    }

    fn forward(self, cache_status: CacheStatus, serve_stale: Option<StaleFallback>) -> Decision {
        if self.policy.only_if_cached {
            return Decision::Answer(only_if_cached(self.log_fields));
        }
        Decision::Ask(Box::new(self.upstream_fetch(cache_status, serve_stale)))
    }

    fn upstream_fetch(self, mut cache_status: CacheStatus, serve_stale: Option<StaleFallback>) -> UpstreamFetch {
        cache_status.key = Some(self.key);
        UpstreamFetch {
            key: self.key,
            salt: self.salt,
            upstream_request: self.upstream_request,
            log_fields: self.log_fields,
            endpoint: self.endpoint,
            response_mode: self.response_mode,
            store: self.policy.store,
            // Who wants neither stored nor storing shares nothing either.
            may_coalesce: self.policy.store.is_ok() && cache_status.outcome != CacheOutcome::Bypass,
            max_age: self.policy.max_age,
            key_covers_request: self.key_covers_request,
            cache_status,
            response_transform: self.response_transform,
            serve_stale,
        }
    }
}

impl Conversion {
    /// Step 3, for a stored body that does not go out as it is.
    pub fn with_body(self, body: &[u8]) -> Decision {
        let mut question = self.question;
        let updates = self.cache_status.outcome == CacheOutcome::Updating;
        let cache_status = CacheStatus { key: Some(question.key), ..self.cache_status };
        match self.stored_response.replay(cache_status, &mut question.log_fields, self.now, body) {
            Some(replay) if updates => {
                let refresh = CacheStatus { fwd: Some(Fwd::Stale), ..cache_status };
                Decision::Update(Box::new(replay), Box::new(question.upstream_fetch(refresh, None)))
            }
            Some(replay) => Decision::CachedResponse(Box::new(replay)),
            None => question.miss(Some(Reason::NotConvertible)),
        }
    }
}
