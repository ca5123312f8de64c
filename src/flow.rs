//! One exchange from its head to its answer, as a chain of decisions.
//!
//! Nothing here waits or touches the world. Each step is a value that exists only in its phase; its methods take what
//! the edge found out and give the next step:
//!
//! 1. [`arrive`] on the request's head: answer at once, pass on, or [`Pending`]: read the body.
//! 2. [`Pending::with_body`]: answer, pass on, or a [`Question`] with its key and rules.
//! 3. [`Question::look`] at what the store holds: a hit, an answer without the upstream, or [`Asking`].
//! 4. [`Asking::answered`] with the upstream's head: what the client sees, and perhaps a [`Capture`].
//! 5. [`Capture`] with the body, behind the client's back: an entry, or why not.

use crate::body;
use crate::canonical::{Document, ParseError};
use crate::capture::{Capture, Terms};
use crate::config::{Config, ConfigError};
use crate::dialect::Carriage;
use crate::directives::Directives;
use crate::endpoint::{Endpoint, question_url};
use crate::entry;
use crate::error::{ErrorKind, ProxyError};
use crate::headers;
use crate::key::{self, Key, Party};
use crate::log::{Debug, Facts};
use crate::policy::Rules;
use crate::present::{self, Edits, Reply};
use crate::replay::{self, Form};
use crate::route::{self, Route, Target};
use crate::status::{Fwd, Reason, Report};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

/// A request without its body.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The path, percent-encoded as it came.
    pub path: String,
    /// The query, without `?`.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// A header whose value could not be taken over, if there is one.
    pub unreadable: Option<String>,
}

/// What is sent to the upstream; the body is the client's own.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: String,
    /// The headers, without those that concern this hop or speak to the cache.
    pub headers: HeaderMap,
    /// Whether the protocol is to be switched (WebSocket).
    pub upgrade: bool,
}

/// Step 1: what a request's head asks for.
#[derive(Debug)]
pub enum Arrival {
    /// The proxy answers by itself.
    Answer(Reply),
    /// Ask whether this URL answers at all, and reply with [`present::health`].
    Health(String),
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
    /// For the log.
    pub facts: Facts,
    report: Report,
}

/// A JSON request whose body has to be seen.
#[derive(Debug)]
pub struct Pending {
    /// The most that is read; beyond it the request is passed on with [`Pending::too_large`].
    pub max_bytes: usize,
    request: RequestHead,
    target: Target,
    directives: Directives,
    facts: Facts,
    outbound: Outbound,
}

/// Step 2: what the body asks for.
#[derive(Debug)]
pub enum Planned {
    /// The proxy answers by itself.
    Answer(Reply),
    /// To the upstream and back.
    Pass(Box<Passage>),
    /// A question that may be answered from the store.
    Ask(Box<Question>),
}

/// A question with its name.
#[derive(Debug)]
pub struct Question {
    /// Its name in the store.
    pub key: Key,
    /// What to send if the upstream is asked.
    pub outbound: Outbound,
    /// For the log.
    pub facts: Facts,
    endpoint: Endpoint,
    carriage: Carriage,
    rules: Rules,
}

/// What the store holds.
#[derive(Debug)]
pub enum Found {
    /// Nothing, or it was not asked.
    Nothing,
    /// An entry whose digest is right.
    Entry(entry::Head),
    /// It could not tell, for this reason.
    Failed(Reason),
}

/// Step 3: whether the store's head decides.
#[derive(Debug)]
pub enum Looked {
    /// It does.
    Decided(Verdict),
    /// The stored answer goes out in another form, if that can be had of its body: [`Rendering::with_body`].
    Render(Box<Rendering>),
}

/// Step 3: what to do about the question.
#[derive(Debug)]
pub enum Verdict {
    /// The stored answer goes to the client with this head.
    Replay(Box<Replay>),
    /// The proxy answers by itself.
    Answer(Reply),
    /// The upstream is asked.
    Ask(Box<Asking>),
}

/// The head of a hit.
#[derive(Debug)]
pub struct Replay {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: Vec<(String, String)>,
    /// The body; `None`: the stored one, verbatim.
    pub body: Option<Vec<u8>>,
    /// For the log.
    pub facts: Facts,
}

/// A hit whose stored body has to be read before it can go out.
#[derive(Debug)]
pub struct Rendering {
    question: Question,
    head: entry::Head,
    report: Report,
    form: Form,
    now: u64,
}

/// A question on its way to the upstream.
#[derive(Debug)]
pub struct Asking {
    /// Its name, under which the answer is stored.
    pub key: Key,
    /// What to send.
    pub outbound: Outbound,
    /// For the log.
    pub facts: Facts,
    endpoint: Endpoint,
    carriage: Carriage,
    store: Result<Option<u64>, Reason>,
    report: Report,
}

/// What went wrong before the upstream's answer began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or it broke.
    Unreachable,
    /// `TIMEOUT` passed.
    TimedOut,
}

/// The reply to every request but `/healthz` while a variable cannot be read.
pub fn misconfigured(error: &ConfigError, request: &RequestHead) -> Reply {
    if request.path == "/healthz" {
        return present::alive();
    }
    let message = format!("The variable {} {}", error.variable, error.message);
    present::refusal(&ProxyError::new(ErrorKind::Misconfigured, message), Facts::of(request))
}

/// The reply to a GET or HEAD with a body, which the platform cannot send on.
pub fn body_not_allowed(request: &RequestHead) -> Reply {
    let message = format!("A {} request with a body cannot be passed on. Send it without, or as POST.", request.method);
    present::refusal(&ProxyError::new(ErrorKind::BodyNotAllowed, message), Facts::of(request))
}

/// Step 1. `body_len`: the request's `Content-Length`, if it has one; `has_body`: whether there is a body at all.
pub fn arrive(config: &Config, request: RequestHead, has_body: bool) -> Arrival {
    let own = matches!(request.method, Method::GET | Method::HEAD);
    let facts = Facts::of(&request);
    let target = match route::route(config, &request.path, request.query.as_deref()) {
        Route::Index if own => return Arrival::Answer(present::index(config, facts)),
        Route::Alive if own => return Arrival::Answer(present::alive()),
        Route::Health if own => return Arrival::Health(config.base_url.to_string()),
        Route::Upstream(target) => target,
        _ => return Arrival::Answer(present::not_found(config, facts)),
    };
    if let Some(name) = &request.unreadable {
        let message = format!("The header {name} has a value with control characters. Correct it or leave it out.");
        return Arrival::Answer(present::refusal(&ProxyError::new(ErrorKind::InvalidHeader, message), facts));
    }
    let directives = match Directives::read(&request.headers) {
        Ok(directives) => directives,
        Err(error) => return Arrival::Answer(present::refusal(&error, facts)),
    };
    // Other protocols than WebSocket (curl offers `h2c`) are between the caller and us.
    let upgrade =
        request.headers.get(http::header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let outbound = Outbound {
        method: request.method.clone(),
        url: target.url.clone(),
        headers: headers::forwarded(&request.headers, upgrade),
        upgrade,
    };
    let debug = config.debug.then(|| Debug {
        upstream: target.url.split('?').next().unwrap_or_default().to_owned(),
        request_headers: request.headers.keys().map(ToString::to_string).collect(),
        cache_status: None,
    });
    let pending = Pending {
        max_bytes: config.max_bytes,
        facts: Facts { provider: target.provider, debug, ..facts },
        request,
        target,
        directives,
        outbound,
    };
    let json = headers::is_json(&headers::essence(&pending.request.headers));
    let coded = pending.request.headers.contains_key(http::header::CONTENT_ENCODING);
    let too_large = content_length(&pending.request.headers).is_some_and(|n| n > pending.max_bytes);
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

/// What `Content-Length` says.
pub fn content_length(headers: &HeaderMap) -> Option<usize> {
    let value = headers.get(http::header::CONTENT_LENGTH)?;
    // A length that does not fit is certainly too large.
    Some(value.to_str().ok()?.parse().unwrap_or(usize::MAX))
}

impl Pending {
    /// Step 2, for a body beyond [`Pending::max_bytes`].
    pub fn too_large(self) -> Planned {
        self.bypass(Reason::TooLarge)
    }

    /// The reply to a body that broke off; there may be nobody left to read it.
    pub fn broken_off(self) -> Reply {
        let message = "The request body broke off before its end. Send it again.";
        present::refusal(&ProxyError::new(ErrorKind::InvalidJson, message), self.facts)
    }

    /// Step 2. `bound`: there is a store.
    pub fn with_body(mut self, config: &Config, body: &[u8], bound: bool) -> Planned {
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
                return Planned::Answer(present::refusal(&error, self.facts));
            }
        };
        self.facts.model = body::model(&document, &self.target.url);
        if !document.is_object() {
            return self.bypass(Reason::NotAnObject);
        }
        let Some(endpoint) = self.target.endpoint.filter(|_| self.request.method == Method::POST) else {
            return self.bypass(Reason::Endpoint);
        };
        if headers::is_blurred(&self.request.headers) {
            return self.bypass(Reason::InvalidHeader);
        }
        if body::names_server_state(&document) {
            return self.bypass(Reason::ServerState);
        }
        let carriage = Carriage {
            stream: endpoint.streams(document.fields("stream")),
            include_usage: document.fields("stream_options").any(body::includes_usage),
        };
        let key = self.key(config, endpoint, body, &document);
        self.facts.key = Some(key);
        // The answer is read on its way through: a coded one would have to be decoded and coded again, which costs time
        // and holds back streams.
        let identity = HeaderValue::from_static("identity");
        let headers = &mut self.outbound.headers;
        headers.insert(http::header::ACCEPT_ENCODING, identity);
        Planned::Ask(Box::new(Question {
            key,
            outbound: self.outbound,
            facts: self.facts,
            endpoint,
            carriage,
            rules: Rules::new(config, &self.directives, bound),
        }))
    }

    fn key(&self, config: &Config, endpoint: Endpoint, body: &[u8], document: &Document) -> Key {
        let party = if config.shared_scope { Party::Shared } else { Party::of(&self.request.headers) };
        let wanted = self.directives.match_mode.unwrap_or(config.match_mode);
        let ignore = config.key_ignore.iter().chain(&self.directives.ignore);
        let mut ignored: Vec<String> = ignore.cloned().collect();
        ignored.sort_unstable();
        ignored.dedup();
        key::Question {
            namespace: &self.directives.namespace,
            party: &party,
            method: self.request.method.as_str(),
            url: &question_url(endpoint, &self.target.url),
            variants: &headers::variants(&self.request.headers),
            mode: if endpoint.is_chat() { wanted } else { key::MatchMode::Exact },
            ignored: &ignored,
            body,
            document,
        }
        .key()
    }

    fn bypass(self, reason: Reason) -> Planned {
        match self.let_by(reason) {
            Ok(passage) => Planned::Pass(passage),
            Err(reply) => Planned::Answer(reply),
        }
    }

    /// The request as one that the cache lets by, or the reply to a caller who takes stored answers only. The method
    /// and the endpoint are named before what `reason` says of the body.
    fn let_by(self, reason: Reason) -> Result<Box<Passage>, Reply> {
        if self.directives.only_if_cached {
            return Err(only_if_cached(self.facts));
        }
        let (fwd, reason) = if self.request.method != Method::POST {
            (Fwd::Method, Reason::Method)
        } else if self.target.endpoint.is_none() && reason != Reason::ContentType {
            (Fwd::Bypass, Reason::Endpoint)
        } else {
            (Fwd::Bypass, reason)
        };
        Ok(Box::new(Passage { outbound: self.outbound, facts: self.facts, report: Report::bypass(fwd, reason) }))
    }
}

fn only_if_cached(facts: Facts) -> Reply {
    let message = "There is no usable stored answer, and the request's Cache-Control: only-if-cached forbids asking \
                   the upstream. Ask once without it to store one.";
    present::refusal(&ProxyError::new(ErrorKind::OnlyIfCached, message), facts)
}

impl Passage {
    /// The upstream's head came: what to change in it for the client.
    pub fn answered(&mut self, status: StatusCode) -> Edits {
        self.report.fwd_status = Some(status.as_u16());
        self.facts.note(status.as_u16(), &self.report);
        present::edits(&self.report)
    }

    /// No answer came.
    pub fn failed(self, failure: Failure) -> Reply {
        failed(failure, self.report, self.facts)
    }
}

impl Question {
    /// Whether the store is to be read.
    pub fn reads(&self) -> bool {
        self.rules.read.is_ok()
    }

    /// Step 3. `now`: milliseconds since 1970.
    pub fn look(self, found: &Found, now: u64) -> Looked {
        let judged = match (&self.rules.read, found) {
            (Err(report), _) => Err(*report),
            (Ok(()), Found::Nothing) => Err(self.rules.miss(None)),
            (Ok(()), Found::Failed(reason)) => Err(self.rules.miss(Some(*reason))),
            (Ok(()), Found::Entry(head)) => self.rules.judge(head, now).map(|report| (report, head)),
        };
        let (report, head) = match judged {
            Ok(hit) => hit,
            Err(report) => return Looked::Decided(self.forward(report)),
        };
        match replay::form(self.endpoint, head, self.carriage) {
            Some(Form::Verbatim) => Looked::Decided(self.replay(head, report, now, None)),
            Some(form) => Looked::Render(Box::new(Rendering { question: self, head: head.clone(), report, form, now })),
            None => Looked::Decided(self.forward_unconverted()),
        }
    }

    fn replay(self, head: &entry::Head, mut report: Report, now: u64, rendered: Option<Rendered>) -> Verdict {
        report.key = Some(self.key);
        let mut facts = self.facts;
        facts.note(head.status, &report);
        let (kind, body) = rendered.map_or((None, None), |(kind, body)| (kind, Some(body)));
        Verdict::Replay(Box::new(Replay {
            status: head.status,
            headers: present::hit(head, body.is_some(), kind, &report, now),
            body,
            facts,
        }))
    }

    fn forward_unconverted(self) -> Verdict {
        let report = self.rules.miss(Some(Reason::NotConvertible));
        self.forward(report)
    }

    fn forward(self, mut report: Report) -> Verdict {
        if self.rules.only_if_cached {
            return Verdict::Answer(only_if_cached(self.facts));
        }
        report.key = Some(self.key);
        Verdict::Ask(Box::new(Asking {
            key: self.key,
            outbound: self.outbound,
            facts: self.facts,
            endpoint: self.endpoint,
            carriage: self.carriage,
            store: self.rules.store,
            report,
        }))
    }
}

/// A body in its new form, with its content type where that changes.
type Rendered = (Option<&'static str>, Vec<u8>);

impl Rendering {
    /// Step 3, for a stored body that does not go out as it is.
    pub fn with_body(self, body: &[u8]) -> Verdict {
        match replay::render(self.form, body, self.question.carriage) {
            Some(rendered) => self.question.replay(&self.head, self.report, self.now, Some(rendered)),
            None => self.question.forward_unconverted(),
        }
    }
}

impl Asking {
    /// Step 4: the upstream's head came. What to change in it for the client, and the capture of an answer that may be
    /// worth keeping, or why it is not.
    pub fn answered(
        &mut self,
        config: &Config,
        status: StatusCode,
        response: &HeaderMap,
    ) -> (Edits, Result<Capture, Reason>) {
        self.report.fwd_status = Some(status.as_u16());
        let capture = self.store.and_then(|lifetime_ms| {
            let terms = Terms {
                endpoint: self.endpoint,
                carriage: self.carriage,
                max_bytes: config.max_bytes,
                lifetime_ms,
                shared: config.shared_scope,
            };
            Capture::open(terms, status, response)
        });
        if capture.is_ok() {
            self.report.ttl = self.store.ok().flatten().map(|ms| ms.div_ceil(1000));
        }
        self.facts.note(status.as_u16(), &self.report);
        (present::edits(&self.report), capture)
    }

    /// Whether the answer will be stored if it is worth it, and so is wanted even if the client leaves.
    pub fn stores(&self) -> bool {
        self.store.is_ok()
    }

    /// No answer came.
    pub fn failed(self, failure: Failure) -> Reply {
        failed(failure, self.report, self.facts)
    }
}

fn failed(failure: Failure, mut report: Report, facts: Facts) -> Reply {
    let (kind, message) = match failure {
        Failure::Unreachable => (
            ErrorKind::UpstreamUnreachable,
            "The upstream could not be reached, or broke the connection off. Check that it is up and that its base \
             URL is right, then try again.",
        ),
        Failure::TimedOut => {
            (ErrorKind::UpstreamTimeout, "The upstream did not begin to answer in time. Try again, or raise TIMEOUT.")
        }
    };
    report.reason = kind.reason();
    present::failure(&ProxyError::new(kind, message), &report, facts)
}
