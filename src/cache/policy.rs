//! May this be read, may this be stored, for how long, and if not, why not?

use crate::cache::directives::Directives;
use crate::cache::entry;
use crate::config::Config;
use crate::status::{CacheOutcome, CacheStatus, Fwd, Reason};

/// What is allowed for one cacheable question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePolicy {
    /// Whether the store is read; if not, what is reported.
    pub read: Result<(), CacheStatus>,
    /// How long the answer is kept, in milliseconds (`None`: for ever), or why it is not.
    pub store: Result<Option<u64>, Reason>,
    /// The oldest entry that the caller accepts, in seconds.
    pub max_age: Option<u64>,
    /// The caller takes a stored answer or none.
    pub only_if_cached: bool,
    /// How long past its lifetime an entry may stand in for an upstream that fails, in milliseconds: the operator's
    /// limit, and the caller's where the caller names one.
    pub stale_if_error: (u64, Option<u64>),
    /// How long past its lifetime an entry may answer while the upstream is asked, in milliseconds.
    pub stale_while_revalidate: u64,
}

/// Whether an entry answers the question, and what is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It does.
    Fresh(CacheStatus),
    /// It does, and the upstream is asked for the next callers, or not at all.
    Stale(CacheStatus),
    /// The upstream is asked. Until `stale_if_error_until` (milliseconds since 1970) the entry may stand in if that fails.
    Unusable {
        /// What is reported.
        cache_status: CacheStatus,
        /// 0: it may not.
        stale_if_error_until: u64,
    },
}

impl CachePolicy {
    /// The rules that the operator and the caller set together. `bound`: there is a store.
    pub fn new(config: &Config, directives: &Directives, bound: bool) -> CachePolicy {
        let wanted = match directives.ttl {
            Some(seconds) => Some(seconds.saturating_mul(1000)),
            None => config.cache.ttl_ms,
        };
        let lifetime = match (wanted, config.cache.max_ttl_ms) {
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
            Some((fwd, reason)) => (Err(CacheStatus::bypass(fwd, reason)), Err(reason)),
            None => {
                let store = if config.cache.store_cache { Ok(lifetime) } else { Err(Reason::StoreDisabled) };
                (may_read(config, directives), store)
            }
        };
        CachePolicy {
            read,
            store,
            max_age: directives.max_age,
            only_if_cached: directives.only_if_cached,
            stale_if_error: (
                config.cache.stale_if_error_ms,
                directives.stale_if_error.map(|seconds| seconds.saturating_mul(1000)),
            ),
            stale_while_revalidate: config.cache.stale_while_revalidate_ms,
        }
    }

    /// Whether an entry answers the question at `now` (milliseconds since 1970).
    pub fn evaluate(&self, head: &entry::EntryHead, now: u64) -> Freshness {
        let expired = head.expires_at.is_some_and(|at| at <= now);
        let age_ms = now.saturating_sub(head.stored_at);
        // Nothing that is stored is new enough for 0, however short ago it was.
        let too_old = self.max_age.is_some_and(|most| most == 0 || age_ms > most.saturating_mul(1000));
        let served = |outcome| CacheStatus { ttl: head.ttl(now), ..CacheStatus::new(outcome) };
        if !expired && !too_old {
            return Freshness::Fresh(served(CacheOutcome::Hit));
        }
        let gone = head.valid_until.is_some_and(|at| at <= now);
        let revalidates =
            !gone && head.expires_at.is_some_and(|at| now < at.saturating_add(self.stale_while_revalidate));
        if revalidates && !too_old && (self.only_if_cached || self.store.is_ok()) {
            let outcome = if self.only_if_cached { CacheOutcome::Stale } else { CacheOutcome::Updating };
            return Freshness::Stale(CacheStatus { reason: Some(Reason::StaleWhileRevalidate), ..served(outcome) });
        }
        let (fwd, reason) = if expired { (Fwd::Stale, Reason::Expired) } else { (Fwd::Request, Reason::MaxAge) };
        Freshness::Unusable {
            cache_status: CacheStatus {
                fwd: Some(fwd),
                reason: Some(reason),
                ..CacheStatus::new(CacheOutcome::Expired)
            },
            stale_if_error_until: self.stale_if_error_until(head),
        }
    }

    /// When, after `now`, an entry that is fresh tells another age, has another time to live or is fresh no longer.
    pub fn head_valid_until(&self, head: &entry::EntryHead, now: u64) -> u64 {
        let older = head.stored_at.saturating_add(head.age(now).saturating_add(1).saturating_mul(1000));
        let left = head.ttl(now).and_then(|ttl| u64::try_from(ttl).ok()).unwrap_or(0);
        let shorter = head.expires_at.map(|at| at.saturating_sub(left.saturating_sub(1).saturating_mul(1000)));
        let too_old = self.max_age.map(|most| {
            let at = head.stored_at.saturating_add(most.saturating_mul(1000));
            at.saturating_add(1)
        });
        shorter.into_iter().chain(too_old).fold(older, u64::min)
    }

    /// The operator limits how long after its expiry an entry may stand in, and the caller may limit it further. A caller
    /// who limits an entry's age has to say how much older it may be than that.
    fn stale_if_error_until(&self, head: &entry::EntryHead) -> u64 {
        let (operators, callers) = self.stale_if_error;
        let limit = callers.map_or(operators, |callers| callers.min(operators));
        let by_expiry = head.expires_at.map_or(u64::MAX, |at| at.saturating_add(limit));
        let by_age = match (self.max_age, callers) {
            (None, _) => u64::MAX,
            (Some(_), None) => 0,
            (Some(most), Some(more)) => head.stored_at.saturating_add(most.saturating_mul(1000)).saturating_add(more),
        };
        by_expiry.min(by_age).min(head.valid_until.unwrap_or(u64::MAX))
    }

    /// What is reported when there is no entry, or (`failed`) none that could be read.
    pub fn miss(&self, failed: Option<Reason>) -> CacheStatus {
        CacheStatus {
            fwd: Some(Fwd::UriMiss),
            reason: failed.or(self.store.err()),
            ..CacheStatus::new(CacheOutcome::Miss)
        }
    }
}

fn may_read(config: &Config, directives: &Directives) -> Result<(), CacheStatus> {
    let refresh = |reason| CacheStatus {
        fwd: Some(Fwd::Request),
        reason: Some(reason),
        ..CacheStatus::new(CacheOutcome::Refresh)
    };
    if directives.refresh {
        Err(refresh(Reason::Refresh))
    } else if directives.no_cache {
        Err(refresh(Reason::NoCache))
    } else if !config.cache.respond_with_cache {
        Err(CacheStatus::bypass(Fwd::Bypass, Reason::ReadDisabled))
    } else {
        Ok(())
    }
}
