//! Samples: several responses to one request, each in a slot of its own (specification, section 15).
//!
//! One object for each set of samples keeps the list of slots. It hands them out, so equal requests in flight get different
//! ones. The entries themselves are in the store: a slot's number is the sample in its cache key.

use std::fmt;
use std::str::FromStr;

/// The most samples that a set has.
pub const MAX_SAMPLES: u32 = 1_000;

/// The state of a slot. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// There is no response, and nobody asks for one.
    #[default]
    Free,
    /// A request asks for the response. If nothing is heard of it until then, the slot is free again.
    Asked { until: u64 },
    /// The response is stored, and fresh until then. `None`: it does not expire.
    Stored { until: Option<u64> },
}

impl State {
    fn at(self, now: u64) -> State {
        match self {
            State::Asked { until } | State::Stored { until: Some(until) } if until <= now => State::Free,
            state => state,
        }
    }
}

/// The list of slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots(Vec<State>);

/// What a request wants of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A response, stored or new.
    Response,
    /// A new response.
    Refresh,
    /// A stored response, or none.
    Stored,
}

/// What the object is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A request wants a slot.
    Take {
        /// Out of how many.
        count: u32,
        /// What for.
        purpose: Purpose,
        /// A slot that counts as stored, but its entry is gone.
        lost: Option<u32>,
        /// How long the request may ask for its response, in milliseconds.
        lease_ms: u64,
    },
    /// The response of a slot is stored, and fresh until then (milliseconds since 1970; `None`: for ever).
    Stored(u32, Option<u64>),
    /// No response was stored.
    Failed(u32),
}

/// Why a request has its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It asks for the response.
    Asks,
    /// Another request asks for it, and this one joins that; or there is none to be had.
    Joins,
    /// The response is stored.
    Stored,
}

/// A slot that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its number, from 0: the sample in the cache key.
    pub sample: u32,
    /// Why the request has it.
    pub claim: Claim,
}

impl Slots {
    /// Obeys a message at `now` (milliseconds since 1970). `random`: any number. The slot is that of [`Message::Take`].
    pub fn obey(&mut self, message: Message, now: u64, random: u32) -> Option<Slot> {
        self.0.iter_mut().for_each(|state| *state = state.at(now));
        match message {
            Message::Take { count, purpose, lost, lease_ms } => {
                if let Some(state) = lost.and_then(|lost| self.get(lost))
                    && matches!(state, State::Stored { .. })
                {
                    *state = State::Free;
                }
                Some(self.take(count, purpose, now.saturating_add(lease_ms), random))
            }
            Message::Stored(sample, until) => {
                *self.get(sample)? = State::Stored { until };
                None
            }
            Message::Failed(sample) => {
                let state = self.get(sample)?;
                // A response that was there before is there still.
                if matches!(state, State::Asked { .. }) {
                    *state = State::Free;
                }
                None
            }
        }
    }

    /// A slot's state; slots that nobody has had yet are free.
    fn get(&mut self, sample: u32) -> Option<&mut State> {
        let index = usize::try_from(sample).ok().filter(|_| sample < MAX_SAMPLES)?;
        if self.0.len() <= index {
            self.0.resize(index.saturating_add(1), State::Free);
        }
        self.0.get_mut(index)
    }

    fn take(&mut self, count: u32, purpose: Purpose, until: u64, random: u32) -> Slot {
        let count = count.clamp(1, MAX_SAMPLES);
        let mut stored = Vec::new();
        for sample in 0..count {
            let Some(state) = self.get(sample) else { break };
            match state {
                State::Free if purpose == Purpose::Stored => {}
                State::Free => {
                    *state = State::Asked { until };
                    return Slot { sample, claim: Claim::Asks };
                }
                State::Stored { .. } => stored.push(sample),
                State::Asked { .. } => {}
            }
        }
        if purpose == Purpose::Stored {
            let sample = pick(&stored, random);
            let claim = if sample.is_some() { Claim::Stored } else { Claim::Joins };
            return Slot { sample: sample.unwrap_or(0), claim };
        }
        // Each with the same probability, whether it is stored already or not.
        let all: Vec<u32> = (0..count).collect();
        let sample = pick(&all, random).unwrap_or(0);
        Slot { sample, claim: if stored.contains(&sample) { Claim::Stored } else { Claim::Joins } }
    }

    /// When nothing of the list is of use any more, in milliseconds since 1970. `None`: never.
    pub fn expiry(&self) -> Option<u64> {
        self.0.iter().try_fold(0, |latest, state| match state {
            State::Free => Some(latest),
            State::Asked { until } | State::Stored { until: Some(until) } => Some(latest.max(*until)),
            State::Stored { until: None } => None,
        })
    }
}

/// One item of a list.
pub fn pick(items: &[u32], random: u32) -> Option<u32> {
    let at = usize::try_from(random).ok()?.checked_rem(items.len())?;
    items.get(at).copied()
}

/// The list as text, for the object's storage.
impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|state| match state {
            State::Free => f.write_str("- "),
            State::Asked { until } => write!(f, "a{until} "),
            State::Stored { until } => write!(f, "s{} ", Optional(*until)),
        })
    }
}

impl FromStr for Slots {
    type Err = ();

    fn from_str(text: &str) -> Result<Slots, ()> {
        let state = |word: &str| match word.split_at_checked(1) {
            Some(("-", "")) => Ok(State::Free),
            Some(("a", until)) => Ok(State::Asked { until: number(until)? }),
            Some(("s", until)) => Ok(State::Stored { until: optional(until)? }),
            _ => Err(()),
        };
        text.split_ascii_whitespace().map(state).collect::<Result<_, ()>>().map(Slots)
    }
}

struct Optional<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Optional<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

fn number<T: FromStr>(word: &str) -> Result<T, ()> {
    word.parse().map_err(|_| ())
}

fn optional<T: FromStr>(word: &str) -> Result<Option<T>, ()> {
    if word == "-" { Ok(None) } else { number(word).map(Some) }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Take { count, purpose, lost, lease_ms } => {
                let purpose = match purpose {
                    Purpose::Response => "response",
                    Purpose::Refresh => "refresh",
                    Purpose::Stored => "stored",
                };
                write!(f, "take {count} {purpose} {} {lease_ms}", Optional(*lost))
            }
            Message::Stored(sample, until) => write!(f, "stored {sample} {}", Optional(*until)),
            Message::Failed(sample) => write!(f, "failed {sample}"),
        }
    }
}

impl FromStr for Message {
    type Err = ();

    fn from_str(text: &str) -> Result<Message, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        Ok(match words.as_slice() {
            ["take", count, purpose, lost, lease_ms] => {
                let purpose = match *purpose {
                    "response" => Purpose::Response,
                    "refresh" => Purpose::Refresh,
                    "stored" => Purpose::Stored,
                    _ => return Err(()),
                };
                Message::Take { count: number(count)?, purpose, lost: optional(lost)?, lease_ms: number(lease_ms)? }
            }
            ["stored", sample, until] => Message::Stored(number(sample)?, optional(until)?),
            ["failed", sample] => Message::Failed(number(sample)?),
            _ => return Err(()),
        })
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claim = match self.claim {
            Claim::Asks => "asks",
            Claim::Joins => "joins",
            Claim::Stored => "stored",
        };
        write!(f, "{} {claim}", self.sample)
    }
}

impl FromStr for Slot {
    type Err = ();

    fn from_str(text: &str) -> Result<Slot, ()> {
        let (sample, claim) = text.split_once(' ').ok_or(())?;
        let claim = match claim {
            "asks" => Claim::Asks,
            "joins" => Claim::Joins,
            "stored" => Claim::Stored,
            _ => return Err(()),
        };
        Ok(Slot { sample: number(sample)?, claim })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 1_000;

    fn take(slots: &mut Slots, count: u32, now: u64, random: u32) -> Slot {
        let message = Message::Take { count, purpose: Purpose::Response, lost: None, lease_ms: LEASE };
        slots.obey(message, now, random).unwrap()
    }

    #[test]
    fn equal_requests_get_different_slots_and_then_join() {
        let mut slots = Slots::default();
        for sample in 0..3 {
            assert_eq!(take(&mut slots, 3, 0, 9), Slot { sample, claim: Claim::Asks });
        }
        assert_eq!(take(&mut slots, 3, 0, 4), Slot { sample: 1, claim: Claim::Joins });
        slots.obey(Message::Stored(1, None), 0, 0);
        assert_eq!(take(&mut slots, 3, 0, 4), Slot { sample: 1, claim: Claim::Stored });
        assert_eq!(take(&mut slots, 4, 0, 4), Slot { sample: 3, claim: Claim::Asks });
    }

    #[test]
    fn a_failed_or_expired_or_lost_slot_is_free_again() {
        let mut slots = Slots::default();
        (0..4).for_each(|_| _ = take(&mut slots, 4, 0, 0));
        slots.obey(Message::Failed(2), 0, 0);
        assert_eq!(take(&mut slots, 4, 0, 0), Slot { sample: 2, claim: Claim::Asks });
        slots.obey(Message::Stored(1, Some(50)), 0, 0);
        assert_eq!(take(&mut slots, 4, 49, 1), Slot { sample: 1, claim: Claim::Stored });
        assert_eq!(take(&mut slots, 4, 50, 1), Slot { sample: 1, claim: Claim::Asks });
        slots.obey(Message::Stored(3, None), 60, 0);
        let lost = Message::Take { count: 4, purpose: Purpose::Response, lost: Some(3), lease_ms: LEASE };
        assert_eq!(slots.obey(lost, 60, 0), Some(Slot { sample: 3, claim: Claim::Asks }));
        // It is being asked for, so it is not lost any more.
        assert_eq!(slots.obey(lost, 60, 7), Some(Slot { sample: 3, claim: Claim::Joins }));
        assert_eq!(take(&mut slots, 4, 10_000, 0), Slot { sample: 0, claim: Claim::Asks });
    }

    #[test]
    fn a_refresh_renews_and_a_stored_one_asks_for_nothing() {
        let mut slots = Slots::default();
        let message = |purpose| Message::Take { count: 2, purpose, lost: None, lease_ms: LEASE };
        assert_eq!(slots.obey(message(Purpose::Stored), 0, 9).unwrap(), Slot { sample: 0, claim: Claim::Joins });
        assert_eq!(slots, "- -".parse().unwrap());
        assert_eq!(slots.obey(message(Purpose::Refresh), 0, 9).unwrap(), Slot { sample: 0, claim: Claim::Asks });
        (0..2).for_each(|sample| _ = slots.obey(Message::Stored(sample, None), 0, 0));
        assert_eq!(slots.obey(message(Purpose::Refresh), 0, 9).unwrap(), Slot { sample: 1, claim: Claim::Stored });
        // A refresh that fails leaves the response that was there.
        slots.obey(Message::Failed(1), 0, 0);
        assert_eq!(slots, "s- s-".parse().unwrap());
    }

    #[test]
    fn everything_is_read_back() {
        let slots: Slots = "- a15 s- s99 ".parse().unwrap();
        assert_eq!(slots.to_string().parse(), Ok(slots.clone()));
        assert_eq!(slots.expiry(), None);
        assert_eq!("- a15 s9".parse::<Slots>().unwrap().expiry(), Some(15));
        for purpose in [Purpose::Response, Purpose::Refresh, Purpose::Stored] {
            for lost in [None, Some(7)] {
                let message = Message::Take { count: 30, purpose, lost, lease_ms: 5 };
                assert_eq!(message.to_string().parse(), Ok(message));
            }
        }
        for message in [Message::Stored(3, None), Message::Stored(3, Some(9)), Message::Failed(2)] {
            assert_eq!(message.to_string().parse(), Ok(message));
        }
        for claim in [Claim::Asks, Claim::Joins, Claim::Stored] {
            let slot = Slot { sample: 4, claim };
            assert_eq!(slot.to_string().parse(), Ok(slot));
        }
        for text in ["", "take", "take 1 b - 2", "stored x -", "4", "4 leads"] {
            assert!(text.parse::<Message>().is_err() && text.parse::<Slot>().is_err(), "{text}");
        }
        assert!("x1".parse::<Slots>().is_err());
    }

    #[test]
    fn every_item_is_picked() {
        let picked: Vec<_> = (0..5).map(|random| pick(&[3, 5], random)).collect();
        assert_eq!(picked, [Some(3), Some(5), Some(3), Some(5), Some(3)]);
        assert_eq!(pick(&[], 5), None);
    }
}
