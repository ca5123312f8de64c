//! A stored answer on its way to a caller.

use crate::cache::entry;
use crate::cache::representation::{self, Form};
use crate::protocol::Carriage;
use crate::proxy::reply;
use crate::routing::endpoint::Endpoint;
use crate::status::Report;
use crate::telemetry::exchange_log::Facts;
use crate::transform::response::Polish;

/// An entry, and the form in which it answers its caller.
#[derive(Debug)]
pub(super) struct Serving {
    head: entry::Head,
    form: Form,
    wanted: Carriage,
    polish: Polish,
}

/// The head of an answer out of the store.
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

impl Serving {
    /// The form in which an entry answers. `None`: in none.
    pub fn new(endpoint: Endpoint, head: &entry::Head, wanted: Carriage, polish: &Polish) -> Option<Serving> {
        let form = representation::form(endpoint, head, wanted)?;
        Some(Serving { head: head.clone(), form, wanted, polish: polish.clone() })
    }

    /// What is left of the entry's lifetime: see [`entry::Head::ttl`].
    pub fn ttl(&self, now: u64) -> Option<i64> {
        self.head.ttl(now)
    }

    /// Whether the stored body goes out as it is, unread.
    pub fn is_verbatim(&self) -> bool {
        self.form == Form::Verbatim && self.polish.is_none()
    }

    /// The answer at `now` (milliseconds since 1970), with the facts of its request and the stored `body`, which is not
    /// looked at where it goes out as it is. `None`: that body cannot be given in this form; the facts are as they were.
    pub fn replay(&self, report: Report, facts: &mut Facts, now: u64, body: &[u8]) -> Option<Replay> {
        let (kind, body) = match self.form {
            Form::Verbatim if self.polish.is_none() => (None, None),
            form => {
                let (kind, body) = representation::render(form, body, self.wanted)?;
                (kind, Some(self.polish.stored(&self.head, kind, body)))
            }
        };
        facts.note(self.head.status, &report);
        Some(Replay {
            status: self.head.status,
            headers: reply::hit(&self.head, body.is_some(), kind, &report, now),
            body,
            facts: std::mem::take(facts),
        })
    }
}
