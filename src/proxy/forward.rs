//! Step 4: the upstream is asked. What does the client see, and may the answer be kept?

use super::stored_response::{Replay, Serving};
use crate::cache::admission::{Capture, Terms};
use crate::cache::coalesce::{Job, Wish};
use crate::cache::entry;
use crate::config::Config;
use crate::http::message::Outbound;
use crate::key::{Key, Sealing};
use crate::protocol::Carriage;
use crate::proxy::reply::{self, Edits, Reply};
use crate::routing::endpoint::Endpoint;
use crate::status::error::{ErrorKind, ProxyError};
use crate::status::{Outcome, Reason, Report};
use crate::telemetry::exchange_log::Facts;
use crate::transform::response::{Polish, Polisher};
use http::{HeaderMap, StatusCode};

/// A question on its way to the upstream.
#[derive(Debug)]
pub struct Asking {
    /// Its name, under which the answer is stored.
    pub key: Key,
    /// What its entry is sealed with, where entries are.
    pub sealing: Option<Sealing>,
    /// What to send.
    pub outbound: Outbound,
    /// For the log.
    pub facts: Facts,
    pub(super) endpoint: Endpoint,
    pub(super) carriage: Carriage,
    pub(super) store: Result<Option<u64>, Reason>,
    pub(super) shares: bool,
    pub(super) max_age: Option<u64>,
    pub(super) covered: bool,
    pub(super) report: Report,
    pub(super) polish: Polish,
    pub(super) stand_in: Option<StandIn>,
}

/// An entry past its lifetime that may answer if the upstream fails.
#[derive(Debug)]
pub(super) struct StandIn {
    pub serving: Serving,
    /// Milliseconds since 1970.
    pub until: u64,
}

/// What went wrong before the upstream's answer began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or it broke.
    Unreachable,
    /// `TIMEOUT` passed.
    TimedOut,
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
            let seconds = |ms: u64| i64::try_from(ms.div_ceil(1000)).unwrap_or(i64::MAX);
            self.report.ttl = self.store.ok().flatten().map(seconds);
        }
        self.facts.note(status.as_u16(), &self.report);
        (reply::edits(&self.report), capture)
    }

    /// What the answer's body needs on its way to the client; `None`: nothing, it is passed on as it comes.
    pub fn polisher(&self, config: &Config, status: StatusCode, response: &HeaderMap) -> Option<Polisher> {
        self.polish.open(status, response, config.max_bytes)
    }

    /// Step 4, where the upstream failed: the stored answer that stands in, if one may. `answer`: the status that came,
    /// or why none did; `stored` gives the stored body if it has to be read; `now`: milliseconds since 1970.
    pub fn stand_in(
        &mut self,
        answer: Result<StatusCode, Failure>,
        now: u64,
        stored: impl FnOnce() -> Vec<u8>,
    ) -> Option<Replay> {
        let reason = match answer {
            Ok(status) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Reason::UpstreamError,
            Ok(_) => return None,
            Err(failure) => failure.reason(),
        };
        let StandIn { serving, .. } = self.stand_in.take().filter(|stand_in| now < stand_in.until)?;
        let report = Report {
            outcome: Outcome::Stale,
            fwd_status: answer.ok().map(|status| status.as_u16()),
            ttl: serving.ttl(now),
            reason: Some(reason),
            ..self.report
        };
        let body = if serving.is_verbatim() { Vec::new() } else { stored() };
        serving.replay(report, &mut self.facts, now, &body)
    }

    /// Whether its caller wants what is stored replaced, whatever it is.
    pub fn replaces(&self) -> bool {
        self.report.outcome == Outcome::Refresh
    }

    /// Whether it may share a call with others.
    pub fn shares(&self) -> bool {
        self.shares
    }

    /// What its flight is told, `ms` milliseconds after the request came.
    pub fn job(&mut self, ms: u64) -> Job {
        let mut facts = self.facts.clone();
        let behind = self.report.outcome == Outcome::Updating;
        if !behind {
            // The flight adds the status.
            facts.note(0, &self.report);
        }
        Job {
            keep: self.store,
            covered: self.covered,
            sealing: self.sealing.clone(),
            wish: Wish {
                refresh: self.replaces(),
                rewrite: self.report.reason == Some(Reason::EntryCorrupt),
                max_age: self.max_age,
                behind,
            },
            facts,
            ms,
            ..Job::new(&self.outbound, self.key, self.endpoint, self.carriage)
        }
    }

    /// Its answer is that of another caller's request.
    pub fn collapse(&mut self) {
        self.report.collapsed = true;
        self.report.outcome = Outcome::Coalesced;
    }

    /// The answer, where the flight has it whole. `finished`: it had it already. `None`: it cannot be given in the form
    /// that is wanted.
    pub fn landed(
        &mut self,
        head: &entry::Head,
        finished: bool,
        now: u64,
        body: impl FnOnce() -> Vec<u8>,
    ) -> Option<Replay> {
        let serving = Serving::new(self.endpoint, head, self.carriage, &self.polish)?;
        let report = if finished {
            Report {
                ttl: head.ttl(now),
                key: Some(self.key),
                reason: Some(Reason::Flight),
                ..Report::new(Outcome::Hit)
            }
        } else {
            let fwd_status = Some(head.status);
            Report { outcome: Outcome::Coalesced, collapsed: true, ttl: head.ttl(now), fwd_status, ..self.report }
        };
        let body = if serving.is_verbatim() { Vec::new() } else { body() };
        serving.replay(report, &mut self.facts, now, &body)
    }

    /// No answer came.
    pub fn failed(self, failure: Failure) -> Reply {
        failed(failure, self.report, self.facts)
    }
}

impl Failure {
    /// Its word in `Cache-Status` and the log.
    pub const fn reason(self) -> Reason {
        match self {
            Failure::Unreachable => Reason::UpstreamUnreachable,
            Failure::TimedOut => Reason::UpstreamTimeout,
        }
    }
}

pub(super) fn failed(failure: Failure, mut report: Report, facts: Facts) -> Reply {
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
    reply::failure(&ProxyError::new(kind, message), &report, facts)
}
