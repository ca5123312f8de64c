//! Steps 2 and 3: is this a question that may be answered from the store, and does the store answer it?

use super::exchange::Passage;
use super::forward::Asking;
use super::forward::StandIn;
use super::stored_response::Replay;
use super::stored_response::Serving;
use crate::auth::client::Caller;
use crate::cache::directives::Directives;
use crate::cache::entry;
use crate::cache::policy::{Judgement, Rules};
use crate::config::Config;
use crate::config::providers::Upstream;
use crate::http::fields;
use crate::http::message::{Outbound, RequestHead};
use crate::http::retry::Repeatable;
use crate::json::canonical::{Document, ParseError};
use crate::key::headers as key_headers;
use crate::key::{self, Key, Sealing};
use crate::protocol::Carriage;
use crate::proxy::reply::{self, Reply};
use crate::routing::endpoint::{Endpoint, question_url};
use crate::status::error::{ErrorKind, ProxyError};
use crate::status::{Fwd, Outcome, Reason, Report};
use crate::telemetry::exchange_log::{self, Facts};
use crate::transform::inspect;
use crate::transform::request::{self as request_transform, Asked};
use crate::transform::response::Polish;
use http::{HeaderValue, Method};
use std::rc::Rc;

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

/// A JSON request whose body has to be seen.
#[derive(Debug)]
pub struct Pending {
    /// The most that is read; beyond it the request is passed on with [`Pending::too_large`].
    pub max_bytes: usize,
    pub(super) request: RequestHead,
    pub(super) caller: Caller,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) directives: Directives,
    pub(super) facts: Facts,
    pub(super) outbound: Outbound,
    pub(super) upstream: Rc<Upstream>,
    pub(super) polish: Polish,
}

impl Planned {
    /// The body that is sent in place of the client's, if it has been changed.
    pub fn body(&self) -> Option<&[u8]> {
        match self {
            Planned::Answer(_) => None,
            Planned::Pass(passage) => passage.outbound.body.as_deref(),
            Planned::Ask(question) => question.outbound.body.as_deref(),
        }
    }
}

/// A question with its name.
#[derive(Debug)]
pub struct Question {
    /// Its name in the store.
    pub key: Key,
    /// What its entry is sealed with, where entries are.
    pub sealing: Option<Sealing>,
    /// What to send if the upstream is asked.
    pub outbound: Outbound,
    /// For the log.
    pub facts: Facts,
    covered: bool,
    pub(super) endpoint: Endpoint,
    pub(super) carriage: Carriage,
    pub(super) rules: Rules,
    pub(super) polish: Polish,
}

/// What the store holds.
#[derive(Debug)]
pub enum Found {
    /// Nothing, or it was not asked.
    Nothing,
    /// An entry whose digest is right.
    Entry(entry::Head),
    /// The same, remembered by the isolate.
    Remembered(entry::Head),
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
    /// It does, and the upstream is asked behind the client's back.
    Update(Box<Replay>, Box<Asking>),
    /// The proxy answers by itself.
    Answer(Reply),
    /// The upstream is asked.
    Ask(Box<Asking>),
}

/// A stored answer whose body has to be read before it can go out.
#[derive(Debug)]
pub struct Rendering {
    question: Question,
    serving: Serving,
    report: Report,
    now: u64,
}

impl Pending {
    /// Step 2, for a body beyond [`Pending::max_bytes`].
    pub fn too_large(self) -> Planned {
        self.bypass(Reason::TooLarge)
    }

    /// Under which name the caller's requests are counted.
    pub fn counted_as(&self) -> &str {
        &self.caller.counted_as
    }

    /// The reply to a caller who has asked too often.
    pub fn limited(self) -> Reply {
        super::exchange::limited(self.facts)
    }

    /// The reply to a body that broke off; there may be nobody left to read it.
    pub fn broken_off(self) -> Reply {
        let message = "The request body broke off before its end. Send it again.";
        reply::refusal(&ProxyError::new(ErrorKind::InvalidJson, message), self.facts)
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
                return Planned::Answer(reply::refusal(&error, self.facts));
            }
        };
        self.facts.model = inspect::model(&document, &self.outbound.url).as_deref().map(exchange_log::short);
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
        if key_headers::is_blurred(&self.request.headers) {
            return self.bypass(Reason::InvalidHeader);
        }
        if inspect::names_server_state(&document) {
            return self.bypass(Reason::ServerState);
        }
        let carriage = Carriage { stream: endpoint.streams(document.fields("stream")), include_usage };
        let sent = self.outbound.body.as_deref().unwrap_or(body);
        let (key, sealing) = self.key(config, endpoint, sent, &document);
        self.facts.key = Some(key);
        ask_uncoded(&mut self.outbound);
        let covered = self.is_covered(config, endpoint);
        Planned::Ask(Box::new(Question {
            key,
            covered,
            sealing: (!config.encryption.is_empty()).then_some(sealing),
            outbound: self.outbound,
            facts: self.facts,
            endpoint,
            carriage,
            rules: Rules::new(config, &self.directives, bound),
            polish: self.polish,
        }))
    }

    /// Makes the operator's changes to the body; gives the document that is sent. `None`: it is too complex.
    fn shape(&mut self, config: &Config, body: &[u8], document: Document) -> Option<Document> {
        let text = std::str::from_utf8(body).unwrap_or_default();
        if self.request.method != Method::POST {
            return Some(document);
        }
        let asked = Asked { upstream: &self.upstream, url: &self.outbound.url, endpoint: self.endpoint };
        let shaped = request_transform::shape(config, asked, text, &document);
        self.polish = shaped.polish;
        let Some(body) = shaped.body else {
            return Some(document);
        };
        let sent = Document::parse(&body).ok();
        let described: Vec<_> =
            self.outbound.headers.keys().filter(|n| fields::describes_bytes(n.as_str())).cloned().collect();
        for name in described {
            self.outbound.headers.remove(name);
        }
        self.outbound.body = Some(body);
        sent
    }

    fn key(&self, config: &Config, endpoint: Endpoint, body: &[u8], document: &Document) -> (Key, Sealing) {
        let mut ignored: Vec<String> = self.ignored(config).cloned().collect();
        ignored.sort_unstable();
        ignored.dedup();
        key::Question {
            namespace: &self.directives.namespace,
            party: &self.caller.party,
            method: self.request.method.as_str(),
            url: &question_url(endpoint, &self.outbound.url),
            variants: &key_headers::variants(&self.request.headers),
            mode: self.mode(config, endpoint),
            ignored: &ignored,
            body,
            document,
        }
        .key_and_sealing()
    }

    fn ignored<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = &'a String> {
        config.key_ignore.iter().chain(&self.directives.ignore)
    }

    fn mode(&self, config: &Config, endpoint: Endpoint) -> key::MatchMode {
        let wanted = self.directives.match_mode.unwrap_or(config.match_mode);
        if endpoint.is_chat() { wanted } else { key::MatchMode::Exact }
    }

    /// Whether the key covers all that the upstream is told: then whoever has the same key gets the same error.
    fn is_covered(&self, config: &Config, endpoint: Endpoint) -> bool {
        let all = self.mode(config, endpoint) == key::MatchMode::Exact && self.ignored(config).next().is_none();
        all && !config.shared_scope
    }

    fn bypass(self, reason: Reason) -> Planned {
        match self.let_by(reason) {
            Ok(passage) => Planned::Pass(passage),
            Err(reply) => Planned::Answer(reply),
        }
    }

    /// The request as one that the cache lets by, or the reply to a caller who takes stored answers only. The method
    /// and the endpoint are named before what `reason` says of the body.
    pub(super) fn let_by(mut self, reason: Reason) -> Result<Box<Passage>, Reply> {
        if self.directives.only_if_cached {
            return Err(only_if_cached(self.facts));
        }
        let (fwd, reason) = if self.request.method != Method::POST {
            (Fwd::Method, Reason::Method)
        } else if self.endpoint.is_none() && reason != Reason::ContentType {
            (Fwd::Bypass, Reason::Endpoint)
        } else {
            (Fwd::Bypass, reason)
        };
        if !self.polish.is_none() {
            ask_uncoded(&mut self.outbound);
        }
        // RFC 9110, section 9.2.2.
        let idempotent = self.request.method.is_idempotent();
        Ok(Box::new(Passage {
            outbound: self.outbound,
            repeatable: if idempotent { Repeatable::Always } else { Repeatable::IfNotTaken },
            counted_as: self.caller.counted_as,
            length: fields::content_length(&self.request.headers),
            facts: self.facts,
            report: Report::bypass(fwd, reason),
            polish: self.polish,
            max_bytes: self.max_bytes,
        }))
    }
}

/// An answer that is read on its way through is asked for as it is: a coded one would have to be decoded and coded
/// again, which costs time and holds back streams.
fn ask_uncoded(outbound: &mut Outbound) {
    outbound.headers.insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

fn only_if_cached(facts: Facts) -> Reply {
    let message = "There is no usable stored answer, and the request's Cache-Control: only-if-cached forbids asking \
                   the upstream. Ask once without it to store one.";
    reply::refusal(&ProxyError::new(ErrorKind::OnlyIfCached, message), facts)
}

impl Question {
    /// Whether the store is to be read.
    pub fn reads(&self) -> bool {
        self.rules.read.is_ok()
    }

    /// Whether an entry that the isolate remembers answers by itself; if not, the store may know a newer one.
    pub fn is_answered_by(&self, head: &entry::Head, now: u64) -> bool {
        let fresh = matches!(self.rules.judge(head, now), Judgement::Fresh(_));
        fresh && Serving::new(self.endpoint, head, self.carriage, &self.polish).is_some()
    }

    /// Step 3. `now`: milliseconds since 1970.
    pub fn look(self, found: &Found, now: u64) -> Looked {
        let head = match (&self.rules.read, found) {
            (Err(report), _) => {
                let report = *report;
                return Looked::Decided(self.forward(report, None));
            }
            (Ok(()), Found::Nothing) => return Looked::Decided(self.miss(None)),
            (Ok(()), Found::Failed(reason)) => return Looked::Decided(self.miss(Some(*reason))),
            (Ok(()), Found::Entry(head) | Found::Remembered(head)) => head,
        };
        let judgement = match (self.rules.judge(head, now), found) {
            (Judgement::Fresh(report), Found::Remembered(_)) => {
                Judgement::Fresh(Report { reason: Some(Reason::Memory), ..report })
            }
            (judgement, _) => judgement,
        };
        let serving = Serving::new(self.endpoint, head, self.carriage, &self.polish);
        match (judgement, serving) {
            (Judgement::Unusable { report, stands_in_until }, serving) => {
                let stand_in = serving.filter(|_| now < stands_in_until);
                let stand_in = stand_in.map(|serving| StandIn { serving, until: stands_in_until });
                Looked::Decided(self.forward(report, stand_in))
            }
            (Judgement::Fresh(report) | Judgement::Stale(report), Some(serving)) => {
                let rendering = Rendering { question: self, serving, report, now };
                if rendering.serving.is_verbatim() {
                    Looked::Decided(rendering.with_body(&[]))
                } else {
                    Looked::Render(Box::new(rendering))
                }
            }
            (_, None) => Looked::Decided(self.miss(Some(Reason::NotConvertible))),
        }
    }

    fn miss(self, reason: Option<Reason>) -> Verdict {
        let report = self.rules.miss(reason);
        self.forward(report, None)
    }

    fn forward(self, report: Report, stand_in: Option<StandIn>) -> Verdict {
        if self.rules.only_if_cached {
            return Verdict::Answer(only_if_cached(self.facts));
        }
        Verdict::Ask(Box::new(self.asking(report, stand_in)))
    }

    fn asking(self, mut report: Report, stand_in: Option<StandIn>) -> Asking {
        report.key = Some(self.key);
        Asking {
            key: self.key,
            sealing: self.sealing,
            outbound: self.outbound,
            facts: self.facts,
            endpoint: self.endpoint,
            carriage: self.carriage,
            store: self.rules.store,
            // Who wants neither stored nor storing shares nothing either.
            shares: self.rules.store.is_ok() && report.outcome != Outcome::Bypass,
            max_age: self.rules.max_age,
            covered: self.covered,
            report,
            polish: self.polish,
            stand_in,
        }
    }
}

impl Rendering {
    /// Step 3, for a stored body that does not go out as it is.
    pub fn with_body(self, body: &[u8]) -> Verdict {
        let mut question = self.question;
        let updates = self.report.outcome == Outcome::Updating;
        let report = Report { key: Some(question.key), ..self.report };
        match self.serving.replay(report, &mut question.facts, self.now, body) {
            Some(replay) if updates => {
                let refresh = Report { fwd: Some(Fwd::Stale), ..report };
                Verdict::Update(Box::new(replay), Box::new(question.asking(refresh, None)))
            }
            Some(replay) => Verdict::Replay(Box::new(replay)),
            None => question.miss(Some(Reason::NotConvertible)),
        }
    }
}
