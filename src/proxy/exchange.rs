//! One exchange from its head to its answer, as a chain of decisions.
//!
//! Nothing here waits or touches the world. Each step is a value that exists only in its phase; its methods take what
//! the edge found out and give the next step:
//!
//! 1. [`arrive`] on the request's head: answer at once, pass on, or [`Pending`]: read the body.
//! 2. [`Pending::with_body`]: the body in the operator's [`shape`]; answer, pass on, or a [`Question`] with its key
//!    and rules.
//! 3. [`Question::look`] at what the store holds: a hit, an answer without the upstream, or [`Asking`].
//! 4. [`Asking::answered`] with the upstream's head: what the client sees, and perhaps a
//!    [`Capture`](crate::cache::admission::Capture) and a [`Polisher`].
//! 5. [`Capture`](crate::cache::admission::Capture) with the body, behind the client's back: an entry, or why not.

use super::forward::{self as asking, Failure};
use super::lookup::Pending;
use crate::auth::client::{self, Caller};
use crate::auth::upstream_credential;
use crate::cache::directives::Directives;
use crate::config::{Config, ConfigError};
use crate::http::fields;
use crate::http::forwarding;
use crate::http::media_type;
use crate::http::message::{Outbound, RequestHead};
use crate::http::retry::Repeatable;
use crate::proxy::reply::{self, Edits, Reply};
use crate::routing::admin::{self, Order};
use crate::routing::route::{self, Route};
use crate::status::error::{ErrorKind, ProxyError};
use crate::status::{Reason, Report};
use crate::telemetry::exchange_log::{Debug, Facts};
use crate::transform::request as request_transform;
use crate::transform::response::{Polish, Polisher};
use http::{HeaderMap, Method, StatusCode};

/// Step 1: what a request's head asks for.
#[derive(Debug)]
pub enum Arrival {
    /// The proxy answers by itself.
    Answer(Reply),
    /// Ask whether this URL answers at all, and reply with [`reply::health`].
    Health(String, Facts),
    /// The operator orders this. Reply with [`reply::deleted`], [`reply::metrics`] or [`reply::operator_error`].
    Operate(Order, Facts),
    /// To the upstream and back, the body unread.
    Pass(Box<Passage>),
    /// The body decides. It is read up to [`Pending::max_bytes`].
    Read(Box<Pending>),
}

/// A request that the cache lets by.
#[derive(Debug)]
pub struct Passage {
    /// What to send.
    pub outbound: Outbound,
    /// Whether it may be sent again if it fails.
    pub repeatable: Repeatable,
    /// Under which name the caller's requests are counted.
    pub counted_as: String,
    /// Of its body, in bytes, if it is known.
    pub(super) length: Option<usize>,
    /// For the log.
    pub facts: Facts,
    pub(super) report: Report,
    pub(super) polish: Polish,
    pub(super) max_bytes: usize,
}

/// The reply to every request but `/healthz` while a variable cannot be read.
pub fn misconfigured(error: &ConfigError, request: &RequestHead) -> Reply {
    if request.path == "/healthz" {
        return reply::alive();
    }
    let message = format!("The variable {} {}", error.variable, error.message);
    reply::refusal(&ProxyError::new(ErrorKind::Misconfigured, message), Facts::of(request))
}

/// The reply to a GET or HEAD with a body, which the platform cannot send on.
pub fn body_not_allowed(request: &RequestHead) -> Reply {
    let message = format!("A {} request with a body cannot be passed on. Send it without, or as POST.", request.method);
    reply::refusal(&ProxyError::new(ErrorKind::BodyNotAllowed, message), Facts::of(request))
}

/// The reply to a caller who may not come in, for where something has to be done before [`arrive`].
pub fn turned_away(config: &Config, request: &RequestHead) -> Option<Reply> {
    let proxied = matches!(route::route(config, &request.path, None), Route::Upstream(_));
    let admitted = !proxied || Caller::admit(config, &mut request.clone()).is_some();
    (!admitted).then(|| reply::refusal(&client::refused(), Facts::of(request)))
}

pub(super) fn limited(facts: Facts) -> Reply {
    let message = "You have asked more often than this proxy allows. Wait before you ask again.";
    reply::refusal(&ProxyError::new(ErrorKind::RateLimited, message), facts)
}

/// What the operator's endpoints do: nothing, as if they did not exist, unless there is an `ADMIN_TOKEN`.
fn operate(config: &Config, request: &RequestHead, facts: Facts) -> Arrival {
    let Some(admin) = &config.admin else { return Arrival::Answer(reply::not_found(config, facts)) };
    if !admin.borne_by(&request.headers) {
        let message = "This needs the operator's ADMIN_TOKEN, as Authorization: Bearer.";
        let error = ProxyError::new(ErrorKind::InvalidToken, message);
        return Arrival::Answer(reply::operator_error(&error, facts));
    }
    match admin::order(&request.method, &request.path, request.query.as_deref()) {
        Ok(Some(order)) => Arrival::Operate(order, facts),
        Ok(None) => Arrival::Answer(reply::not_found(config, facts)),
        Err(error) => Arrival::Answer(reply::operator_error(&error, facts)),
    }
}

/// Step 1. `has_body`: whether there is a body at all.
pub fn arrive(config: &Config, mut request: RequestHead, has_body: bool) -> Arrival {
    let own = matches!(request.method, Method::GET | Method::HEAD);
    let facts = Facts::of(&request);
    // Before the route is taken, which has the query in it. An operator shows no caller's token.
    let caller = if admin::is_operators(&request.path) { None } else { Caller::admit(config, &mut request) };
    let target = match route::route(config, &request.path, request.query.as_deref()) {
        Route::Index if own => return Arrival::Answer(reply::index(config, facts)),
        Route::Alive if own => return Arrival::Answer(reply::alive()),
        Route::Health if own => return Arrival::Health(config.default.base.to_string(), facts),
        Route::Operator => return operate(config, &request, facts),
        Route::Upstream(target) => target,
        _ => return Arrival::Answer(reply::not_found(config, facts)),
    };
    let Some(caller) = caller.filter(|caller| !(caller.is_preflight && has_body)) else {
        return Arrival::Answer(reply::refusal(&client::refused(), facts));
    };
    if let Some(name) = &request.unreadable {
        let message = format!("The header {name} has a value with control characters. Correct it or leave it out.");
        return Arrival::Answer(reply::refusal(&ProxyError::new(ErrorKind::InvalidHeader, message), facts));
    }
    let directives = match Directives::read(&request.headers) {
        Ok(directives) => directives,
        Err(error) => return Arrival::Answer(reply::refusal(&error, facts)),
    };
    // Other protocols than WebSocket (curl offers `h2c`) are between the caller and us.
    let upgrade =
        request.headers.get(http::header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let debug = config.debug.then(|| Debug {
        upstream: target.url.split('?').next().unwrap_or_default().to_owned(),
        request_headers: request.headers.keys().map(ToString::to_string).collect(),
        cache_status: None,
    });
    let ours = if caller.lacks_credential { upstream_credential::operators(&target, &mut request) } else { None };
    let mut headers = forwarding::forwarded(&request.headers, upgrade);
    headers.extend(ours);
    let pending = Pending {
        max_bytes: config.max_bytes,
        facts: Facts { provider: target.upstream.name.clone().into(), debug, ..facts },
        polish: request_transform::unread(config, &request.method, &target),
        upstream: target.upstream,
        outbound: Outbound { method: request.method.clone(), url: target.url, headers, body: None },
        request,
        caller,
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
        return Arrival::Read(Box::new(pending));
    };
    match pending.let_by(reason) {
        Ok(passage) => Arrival::Pass(passage),
        Err(reply) => Arrival::Answer(reply),
    }
}

impl Passage {
    /// The reply to a caller who has asked too often.
    pub fn limited(self) -> Reply {
        limited(self.facts)
    }

    /// Whether its body may be held in memory for another attempt.
    pub fn is_small(&self, config: &Config) -> bool {
        self.length.is_some_and(|length| length <= config.max_bytes)
    }

    /// The upstream's head came: what to change in it for the client.
    pub fn answered(&mut self, status: StatusCode) -> Edits {
        self.report.fwd_status = Some(status.as_u16());
        self.facts.note(status.as_u16(), &self.report);
        reply::edits(&self.report)
    }

    /// What the answer's body needs on its way; `None`: nothing, it is passed on as it comes.
    pub fn polisher(&self, status: StatusCode, response: &HeaderMap) -> Option<Polisher> {
        self.polish.open(status, response, self.max_bytes)
    }

    /// No answer came.
    pub fn failed(self, failure: Failure) -> Reply {
        asking::failed(failure, self.report, self.facts)
    }
}
