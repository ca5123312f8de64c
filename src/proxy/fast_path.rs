//! The short way to step 3: what is left of a question for whoever asks it again, byte for byte.
//!
//! A question's name and rules come from its method, its URL, its headers and its body, and from the settings, which
//! stay the same as long as the isolate does. So two requests that are equal in all of these need only one reading.
//! Left out of the comparison are only the headers of which [`headers::tells_nothing`] says that no step before the
//! upstream looks at them. Whatever else is wanted than a fresh entry, as it is, takes the long way from its beginning.
//!
//! [`headers::tells_nothing`]: crate::headers::tells_nothing

use super::lookup::Question;
use super::stored_response::{Replay, Serving};
use crate::cache::entry;
use crate::cache::policy::{Judgement, Rules};
use crate::key::{Key, Sealing};
use crate::protocol::Carriage;
use crate::routing::endpoint::Endpoint;
use crate::status::{Reason, Report};
use crate::telemetry::exchange_log::Facts;
use crate::transform::response::Polish;

/// What makes the answer out of an entry, but for the entry and the time.
#[derive(Debug, Clone)]
pub struct Repeat {
    /// The question's name in the store.
    pub key: Key,
    /// What its entry is sealed with, where entries are.
    pub sealing: Option<Sealing>,
    pub(super) endpoint: Endpoint,
    pub(super) carriage: Carriage,
    pub(super) rules: Rules,
    pub(super) polish: Polish,
    pub(super) facts: Facts,
}

/// A stored answer that goes out as it is.
#[derive(Debug)]
pub struct Again {
    /// Its head; the body is the stored one.
    pub replay: Replay,
    /// Until when, in milliseconds since 1970, the same entry gives the very same head.
    pub until: u64,
}

impl Repeat {
    /// The answer at `now` (milliseconds since 1970) out of an entry, which the isolate has `remembered` or the store has
    /// given. `None`: that takes the long way.
    pub fn answer(&self, head: &entry::Head, remembered: bool, now: u64) -> Option<Again> {
        let Judgement::Fresh(report) = self.rules.judge(head, now) else { return None };
        let serving = Serving::new(self.endpoint, head, self.carriage, &self.polish).filter(Serving::is_verbatim)?;
        let reason = remembered.then_some(Reason::Memory);
        let report = Report { key: Some(self.key), reason, ..report };
        let replay = serving.replay(report, &mut self.facts.clone(), now, &[])?;
        Some(Again { replay, until: self.rules.next_change(head, now) })
    }
}

impl Question {
    /// What is left of the question for its repetitions. `None`: each of them has to be looked at.
    pub fn repeat(&self) -> Option<Repeat> {
        let Question { key, sealing, endpoint, carriage, rules, polish, facts, .. } = self;
        // What is written under DEBUG is true of one request only.
        (self.reads() && polish.is_none() && facts.debug.is_none()).then(|| Repeat {
            key: *key,
            sealing: sealing.clone(),
            endpoint: *endpoint,
            carriage: *carriage,
            rules: rules.clone(),
            polish: polish.clone(),
            facts: facts.clone(),
        })
    }
}
