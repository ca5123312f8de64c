//! May the cache be read, may a response be stored, and is a stored response fresh (RFC 9111, RFC 5861)?

use crate::cache::directives::Directives;
use crate::cache::entry;
use crate::config::Config;
use crate::status::{CacheOutcome, CacheStatus, Fwd, Reason};

/// The lookups and stores that a cacheable request allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePolicy {
    /// Whether the store is read. If not, the reported status.
    pub read: Result<(), CacheStatus>,
    /// The response's lifetime in milliseconds (`None`: unlimited), or why it is not stored.
    pub store: Result<Option<u64>, Reason>,
    /// `max-age` of the request: the highest age that the client accepts, in seconds (RFC 9111, section 5.2.1.1).
    pub max_age: Option<u64>,
    /// `only-if-cached` of the request (RFC 9111, section 5.2.1.7).
    pub only_if_cached: bool,
    /// The time after its expiry in which an entry may be served stale if the upstream fails, in milliseconds: the operator's
    /// limit, and the client's, if it sends one (RFC 5861, section 4).
    pub stale_if_error_ms: (u64, Option<u64>),
    /// The time after its expiry in which an entry may be served stale during revalidation, in milliseconds (RFC 5861,
    /// section 3).
    pub stale_while_revalidate_ms: u64,
}

/// Whether an entry may be served, and the reported status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It is served.
    Fresh(CacheStatus),
    /// It is served stale, and revalidated in the background unless the client accepts nothing else.
    Stale(CacheStatus),
    /// The request is forwarded. Until `stale_if_error_until` (milliseconds since 1970) the entry may be served if that fails.
    Unusable {
        /// The reported status.
        cache_status: CacheStatus,
        /// 0: it may not be served.
        stale_if_error_until: u64,
    },
}

impl CachePolicy {
    /// The policy of the configuration and the request together. `bound`: there is a store.
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
            let by_client = directives.ttl == Some(0);
            let fwd = if by_client { Fwd::Request } else { Fwd::Bypass };
            Some((fwd, Reason::TtlZero))
        } else if !bound {
            Some((Fwd::Bypass, Reason::StoreMissing))
        } else {
            None
        };
        let (read, store) = match neither {
            Some((fwd, reason)) => (Err(CacheStatus::bypass(fwd, reason)), Err(reason)),
            None => {
                let store = match () {
                    () if directives.read_only => Err(Reason::NoStore),
                    () if !config.cache.store_cache => Err(Reason::StoreDisabled),
                    () => Ok(lifetime),
                };
                (may_read(config, directives), store)
            }
        };
        CachePolicy {
            read,
            store,
            max_age: directives.max_age,
            only_if_cached: directives.only_if_cached,
            stale_if_error_ms: (
                config.cache.stale_if_error_ms,
                directives.stale_if_error.map(|seconds| seconds.saturating_mul(1000)),
            ),
            stale_while_revalidate_ms: config.cache.stale_while_revalidate_ms,
        }
    }

    /// Whether an entry may be served at `now` (milliseconds since 1970).
    pub fn evaluate(&self, head: &entry::EntryHead, now: u64) -> Freshness {
        // RFC 9111, section 4.2: fresh while the freshness lifetime (4.2.1) exceeds the current age (4.2.3).
        let expired = head.expires_at.is_some_and(|at| at <= now);
        let age_ms = now.saturating_sub(head.stored_at);
        // RFC 9111, section 5.2.1.1. No stored response is recent enough for 0.
        let too_old = self.max_age.is_some_and(|most| most == 0 || age_ms > most.saturating_mul(1000));
        let served = |outcome| CacheStatus { ttl: head.ttl(now), ..CacheStatus::new(outcome) };
        if !expired && !too_old {
            return Freshness::Fresh(served(CacheOutcome::Hit));
        }
        // RFC 9111, section 4.2.4: when a stale response may be served.
        let gone = head.valid_until.is_some_and(|at| at <= now);
        let revalidates =
            !gone && head.expires_at.is_some_and(|at| now < at.saturating_add(self.stale_while_revalidate_ms));
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

    /// The next time after `now` at which the `Age` or `ttl` of a fresh entry changes, or it is no longer fresh.
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

    /// Until when an entry may be served if the upstream fails (RFC 5861, section 4). The operator sets the limit, and the client
    /// may lower it. With `max-age`, a client also has to send how much older the entry may be.
    fn stale_if_error_until(&self, head: &entry::EntryHead) -> u64 {
        let (by_operator, by_client) = self.stale_if_error_ms;
        let limit = by_client.map_or(by_operator, |by_client| by_client.min(by_operator));
        let by_expiry = head.expires_at.map_or(u64::MAX, |at| at.saturating_add(limit));
        let by_age = match (self.max_age, by_client) {
            (None, _) => u64::MAX,
            (Some(_), None) => 0,
            (Some(most), Some(more)) => head.stored_at.saturating_add(most.saturating_mul(1000)).saturating_add(more),
        };
        by_expiry.min(by_age).min(head.valid_until.unwrap_or(u64::MAX))
    }

    /// The status of a miss. `failed`: why the entry could not be read.
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
