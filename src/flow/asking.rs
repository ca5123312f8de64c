//! Step 4: the upstream is asked. What does the client see, and may the answer be kept?

use super::Outbound;
use crate::capture::{Capture, Terms};
use crate::config::Config;
use crate::dialect::Carriage;
use crate::endpoint::Endpoint;
use crate::error::{ErrorKind, ProxyError};
use crate::key::Key;
use crate::log::Facts;
use crate::polish::{Polish, Polisher};
use crate::present::{self, Edits, Reply};
use crate::status::{Reason, Report};
use http::{HeaderMap, StatusCode};

/// A question on its way to the upstream.
#[derive(Debug)]
pub struct Asking {
    /// Its name, under which the answer is stored.
    pub key: Key,
    /// What to send.
    pub outbound: Outbound,
    /// For the log.
    pub facts: Facts,
    pub(super) endpoint: Endpoint,
    pub(super) carriage: Carriage,
    pub(super) store: Result<Option<u64>, Reason>,
    pub(super) report: Report,
    pub(super) polish: Polish,
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
            self.report.ttl = self.store.ok().flatten().map(|ms| ms.div_ceil(1000));
        }
        self.facts.note(status.as_u16(), &self.report);
        (present::edits(&self.report), capture)
    }

    /// What the answer's body needs on its way to the client; `None`: nothing, it is passed on as it comes.
    pub fn polisher(&self, config: &Config, status: StatusCode, response: &HeaderMap) -> Option<Polisher> {
        self.polish.open(status, response, config.max_bytes)
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
    present::failure(&ProxyError::new(kind, message), &report, facts)
}
