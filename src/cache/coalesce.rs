//! One question in flight, one call upstream: what is told to a key's flight, and what it does with each asker.
//!
//! A flight is an object that all callers of one key meet in. The first leads: the flight asks the upstream. The others
//! attach to the running answer, wait for its end, or, where it is no use to them, go on by themselves.

use crate::cache::admission::Terms;
use crate::cache::entry;
use crate::cache::representation;
use crate::config::Config;
use crate::http::message::Outbound;
use crate::key::{Key, Sealing};
use crate::protocol::{Carriage, Dialect};
use crate::routing::endpoint::Endpoint;
use crate::status::Reason;
use crate::telemetry::exchange_log::Facts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

/// The most callers that wait for one answer, or receive it, at a time; the others go on by themselves.
pub const MAX_FOLLOWERS: usize = 4_096;
/// The largest entry, in bytes, that stays in its flight: many flights share one isolate's memory.
pub const MAX_LINGERING: usize = 1 << 20;

/// What an asker tells the flight.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The question's name.
    pub key: Key,
    /// What its entry is sealed with, where entries are.
    pub sealing: Option<Sealing>,
    /// What is asked, in which grammar.
    pub endpoint: Endpoint,
    /// How the answer is wanted.
    pub carriage: Carriage,
    /// How long the answer is kept, in milliseconds (`None`: for ever), or why it is not.
    pub keep: Result<Option<u64>, Reason>,
    /// Whether the key covers all that the upstream is told, so that an error is the same to all who have it.
    pub covered: bool,
    /// What the asker accepts.
    pub wish: Wish,
    /// For the log.
    pub facts: Facts,
    /// Milliseconds from the request to now, for the log.
    pub ms: u64,
    /// What is sent upstream: the method,
    pub method: String,
    /// the URL,
    pub url: String,
    /// and the headers, in order.
    pub headers: Vec<(String, String)>,
}

/// What an asker accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wish {
    /// A call that began before this one is not new enough.
    pub refresh: bool,
    /// Nor is an answer that has ended: what is stored of it is damaged, and is to be written again.
    pub rewrite: bool,
    /// The oldest answer, in seconds.
    pub max_age: Option<u64>,
    /// The asker has an answer already; the call is for the next ones.
    pub behind: bool,
}

impl Job {
    /// A job with what is to be sent upstream.
    pub fn new(outbound: &Outbound, key: Key, endpoint: Endpoint, carriage: Carriage) -> Job {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Job {
            key,
            sealing: None,
            endpoint,
            carriage,
            keep: Ok(None),
            covered: true,
            wish: Wish::default(),
            facts: Facts::default(),
            ms: 0,
            method: outbound.method.to_string(),
            url: outbound.url.clone(),
            headers: outbound.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        }
    }

    /// What is sent upstream.
    pub fn outbound(&self) -> Outbound {
        let headers = self.headers.iter().filter_map(|(name, value)| {
            Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        });
        Outbound {
            method: Method::from_bytes(self.method.as_bytes()).unwrap_or(Method::POST),
            url: self.url.clone(),
            headers: headers.collect::<HeaderMap>(),
            body: None,
        }
    }

    /// What the capture of its answer needs to know.
    pub fn terms(&self, config: &Config) -> Terms {
        Terms {
            endpoint: self.endpoint,
            carriage: self.carriage,
            max_bytes: config.max_bytes,
            lifetime_ms: self.keep.ok().flatten(),
            shared: config.shared_scope,
        }
    }
}

/// Where a flight is.
#[derive(Debug, Clone, Copy)]
pub enum Phase<'a> {
    /// Nothing has been asked, or nothing came of it.
    Idle,
    /// A call is under way.
    Running {
        /// How its leader wants the answer.
        carriage: Carriage,
        /// How many callers wait for it or receive it.
        callers: usize,
        /// Its answer is an error, or longer than what is kept for those who join.
        closed: bool,
    },
    /// The last call's answer is still here.
    Finished(&'a entry::Head),
}

/// What an asker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// It leads a new call.
    Lead,
    /// It gets the running answer as it comes.
    Follow,
    /// It gets the running answer, in its own form, once that is whole.
    Await,
    /// It gets the answer that is still here.
    Take,
    /// It goes on by itself.
    Alone,
}

/// What an asker does about a flight at `now` (milliseconds since 1970). `linger_ms`: how long an answer stays.
pub fn join(phase: Phase<'_>, job: &Job, now: u64, linger_ms: u64) -> Join {
    match phase {
        _ if job.wish.refresh => Join::Lead,
        Phase::Idle => Join::Lead,
        Phase::Running { .. } if job.wish.behind => Join::Take,
        Phase::Running { callers, closed, .. } if callers >= MAX_FOLLOWERS || closed => Join::Alone,
        // A plain answer is of use only when it is known to be whole.
        Phase::Running { carriage, .. } if carriage == job.carriage => {
            if carriage.stream {
                Join::Follow
            } else {
                Join::Await
            }
        }
        Phase::Running { carriage, .. } => {
            let lacks_usage = carriage.stream && job.carriage.include_usage && !carriage.include_usage;
            let converts = Dialect::of(job.endpoint).is_some() && !lacks_usage;
            if converts { Join::Await } else { Join::Alone }
        }
        Phase::Finished(head) => {
            let age_ms = now.saturating_sub(head.stored_at);
            let new_enough = job.wish.max_age.is_none_or(|most| most > 0 && age_ms <= most.saturating_mul(1000));
            let fresh = head.expires_at.is_none_or(|at| now < at) && new_enough && age_ms < linger_ms;
            let usable = fresh && !job.wish.rewrite && representation::form(job.endpoint, head, job.carriage).is_some();
            if usable { Join::Take } else { Join::Lead }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Carriage = Carriage { stream: false, include_usage: false };
    const STREAM: Carriage = Carriage { stream: true, include_usage: false };
    const USAGE: Carriage = Carriage { stream: true, include_usage: true };

    fn job(carriage: Carriage, wish: Wish) -> Job {
        let outbound = Outbound {
            method: Method::POST,
            url: "https://a/v1".into(),
            headers: [("x-a", "1"), ("x-a", "ü")]
                .into_iter()
                .map(|(name, value)| {
                    (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
                })
                .collect(),
            body: None,
        };
        Job {
            wish,
            ..Job::new(&outbound, Key::from_hex(&"0".repeat(64)).unwrap(), Endpoint::ChatCompletions, carriage)
        }
    }

    fn running(carriage: Carriage) -> Phase<'static> {
        Phase::Running { carriage, callers: 1, closed: false }
    }

    #[test]
    fn a_job_comes_out_as_it_went_in() {
        let job = job(USAGE, Wish { max_age: Some(3), ..Wish::default() });
        let back: Job = serde_json::from_slice(&serde_json::to_vec(&job).unwrap()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{job:?}"));
        let outbound = back.outbound();
        assert_eq!((outbound.method, outbound.url.as_str()), (Method::POST, "https://a/v1"));
        let values: Vec<_> = outbound.headers.get_all("x-a").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(values, [b"1", "ü".as_bytes()]);
    }

    #[test]
    fn askers_of_one_kind_share_a_call_and_others_wait_for_its_end() {
        let join = |theirs, ours| join(running(theirs), &job(ours, Wish::default()), 0, 60_000);
        assert_eq!(join(STREAM, STREAM), Join::Follow);
        assert_eq!(join(USAGE, USAGE), Join::Follow);
        assert_eq!(join(PLAIN, PLAIN), Join::Await);
        assert_eq!(join(STREAM, PLAIN), Join::Await);
        assert_eq!(join(PLAIN, USAGE), Join::Await);
        assert_eq!(join(USAGE, STREAM), Join::Await);
        assert_eq!(join(STREAM, USAGE), Join::Alone);
    }

    #[test]
    fn a_refresh_leads_always_and_bounds_are_kept() {
        let refresh = Wish { refresh: true, ..Wish::default() };
        assert_eq!(join(running(PLAIN), &job(PLAIN, refresh), 0, 60_000), Join::Lead);
        let full = Phase::Running { carriage: PLAIN, callers: MAX_FOLLOWERS, closed: false };
        assert_eq!(join(full, &job(PLAIN, Wish::default()), 0, 60_000), Join::Alone);
        let closed = Phase::Running { carriage: STREAM, callers: 1, closed: true };
        assert_eq!(join(closed, &job(STREAM, Wish::default()), 0, 60_000), Join::Alone);
        let behind = Wish { behind: true, ..Wish::default() };
        assert_eq!(join(running(PLAIN), &job(PLAIN, behind), 0, 60_000), Join::Take);
        assert_eq!(join(Phase::Idle, &job(PLAIN, behind), 0, 60_000), Join::Lead);
    }

    #[test]
    fn a_finished_answer_is_taken_only_while_it_would_be_a_hit() {
        let head = entry::Head {
            status: 200,
            headers: Vec::new(),
            stored_at: 1_000,
            expires_at: Some(11_000),
            stream: false,
            asked: PLAIN,
            has_usage: false,
        };
        let take = |wish, now| join(Phase::Finished(&head), &job(PLAIN, wish), now, 5_000);
        assert_eq!((take(Wish::default(), 5_999), take(Wish::default(), 6_000)), (Join::Take, Join::Lead));
        let max_age = |seconds| Wish { max_age: Some(seconds), ..Wish::default() };
        assert_eq!(take(max_age(0), 1_000), Join::Lead);
        assert_eq!((take(max_age(1), 2_000), take(max_age(1), 2_001)), (Join::Take, Join::Lead));
        assert_eq!(take(Wish { rewrite: true, ..Wish::default() }, 1_000), Join::Lead);
        let expired = entry::Head { expires_at: Some(2_000), ..head.clone() };
        assert_eq!(join(Phase::Finished(&expired), &job(PLAIN, Wish::default()), 2_000, 5_000), Join::Lead);
    }
}
