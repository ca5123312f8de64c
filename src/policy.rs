//! May this be read, may this be stored, for how long, and if not, why not?

use crate::config::Config;
use crate::directives::Directives;
use crate::entry;
use crate::status::{Fwd, Outcome, Reason, Report};

/// What is allowed for one cacheable question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Whether the store is read; if not, what is reported.
    pub read: Result<(), Report>,
    /// How long the answer is kept, in milliseconds (`None`: for ever), or why it is not.
    pub store: Result<Option<u64>, Reason>,
    /// The oldest entry that the caller accepts, in seconds.
    pub max_age: Option<u64>,
    /// The caller takes a stored answer or none.
    pub only_if_cached: bool,
}

impl Rules {
    /// The rules that the operator and the caller set together. `bound`: there is a store.
    pub fn new(config: &Config, directives: &Directives, bound: bool) -> Rules {
        let wanted = match directives.ttl {
            Some(seconds) => Some(seconds.saturating_mul(1000)),
            None => config.ttl_ms,
        };
        let lifetime = match (wanted, config.max_ttl_ms) {
            (Some(wanted), Some(most)) => Some(wanted.min(most)),
            (wanted, most) => wanted.or(most),
        };
        let neither = if directives.no_store {
            Some((Fwd::Request, Reason::NoStore))
        } else if lifetime == Some(0) {
            let caller = directives.ttl == Some(0);
            let fwd = if caller { Fwd::Request } else { Fwd::Bypass };
            Some((fwd, Reason::TtlZero))
        } else if !bound {
            Some((Fwd::Bypass, Reason::StoreMissing))
        } else {
            None
        };
        let (read, store) = match neither {
            Some((fwd, reason)) => (Err(Report::bypass(fwd, reason)), Err(reason)),
            None => {
                let store = if config.store { Ok(lifetime) } else { Err(Reason::StoreDisabled) };
                (may_read(config, directives), store)
            }
        };
        Rules { read, store, max_age: directives.max_age, only_if_cached: directives.only_if_cached }
    }

    /// Whether an entry answers the question at `now` (milliseconds since 1970), and what is reported either way.
    pub fn judge(&self, head: &entry::Head, now: u64) -> Result<Report, Report> {
        let expired = head.expires_at.is_some_and(|at| at <= now);
        let age_ms = now.saturating_sub(head.stored_at);
        // Nothing that is stored is new enough for 0, however short ago it was.
        let too_old = self.max_age.is_some_and(|most| most == 0 || age_ms > most.saturating_mul(1000));
        let (fwd, reason) = if expired {
            (Fwd::Stale, Reason::Expired)
        } else if too_old {
            (Fwd::Request, Reason::MaxAge)
        } else {
            let mut hit = Report::new(Outcome::Hit);
            hit.ttl = head.ttl(now);
            return Ok(hit);
        };
        Err(Report { fwd: Some(fwd), reason: Some(reason), ..Report::new(Outcome::Expired) })
    }

    /// What is reported when there is no entry, or (`failed`) none that could be read.
    pub fn miss(&self, failed: Option<Reason>) -> Report {
        Report { fwd: Some(Fwd::UriMiss), reason: failed.or(self.store.err()), ..Report::new(Outcome::Miss) }
    }
}

fn may_read(config: &Config, directives: &Directives) -> Result<(), Report> {
    let refresh = |reason| Report { fwd: Some(Fwd::Request), reason: Some(reason), ..Report::new(Outcome::Refresh) };
    if directives.refresh {
        Err(refresh(Reason::Refresh))
    } else if directives.no_cache {
        Err(refresh(Reason::NoCache))
    } else if !config.read {
        Err(Report::bypass(Fwd::Bypass, Reason::ReadDisabled))
    } else {
        Ok(())
    }
}
