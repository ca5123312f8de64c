//! The slots of a set of samples under any order of events: requests come, responses are stored, calls fail, entries expire or
//! disappear, and messages are lost.

use proptest::prelude::*;
use reprise::testing::{Claim, Purpose, SampleMessage, Slots};
use std::collections::BTreeMap;

const COUNT: u32 = 5;
const LEASE: u64 = 50;

#[derive(Debug, Clone, Copy)]
enum Event {
    Request(Purpose, u32),
    /// The n-th call that is under way ends: stored for so long, or not stored.
    End(usize, Option<u64>),
    /// The same, and the object is not told.
    Vanish(usize),
    /// The entry of a slot disappears from the store.
    Delete(u32),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let purpose = prop_oneof![4 => Just(Purpose::Response), 1 => Just(Purpose::Refresh), 1 => Just(Purpose::Stored)];
    prop_oneof![
        6 => (purpose, any::<u32>()).prop_map(|(purpose, random)| Event::Request(purpose, random)),
        5 => (0usize..8, prop::option::of(1u64..80)).prop_map(|(n, until)| Event::End(n, until)),
        1 => (0usize..8).prop_map(Event::Vanish),
        1 => (0..COUNT).prop_map(Event::Delete),
        2 => (1u64..60).prop_map(Event::Pass),
    ]
}

/// What is really so.
#[derive(Default)]
struct World {
    now: u64,
    slots: Slots,
    /// The calls under way: their slot, when they began, and whether the slot was given to them alone.
    calls: Vec<(u32, u64, bool)>,
    /// The entries: until when they are fresh.
    store: BTreeMap<u32, u64>,
}

impl World {
    fn tell(&mut self, message: SampleMessage, random: u32) -> Option<(u32, Claim)> {
        let slot = self.slots.obey(message, self.now, random);
        // The object keeps nothing but its text.
        self.slots = self.slots.to_string().parse().unwrap();
        slot.map(|slot| (slot.sample, slot.claim))
    }

    fn is_stored(&self, sample: u32) -> bool {
        self.store.get(&sample).is_some_and(|until| self.now < *until)
    }

    /// One request, as `exchange` makes it.
    fn request(&mut self, purpose: Purpose, random: u32) -> Result<(), TestCaseError> {
        let mut lost = None;
        for _ in 0..4 {
            let free = (0..COUNT).any(|sample| !self.is_stored(sample) && !self.is_asked(sample));
            let message = SampleMessage::Take { count: COUNT, purpose, lost, lease_ms: LEASE };
            let (sample, claim) = self.tell(message, random).unwrap();
            prop_assert!(sample < COUNT);
            match (purpose, claim) {
                (Purpose::Stored, _) => return Ok(()),
                (_, Claim::Asks) => {
                    prop_assert!(!self.is_asked(sample), "two requests ask for slot {sample}");
                    prop_assert!((0..sample).all(|lower| !self.counts_as_free(lower)), "{sample} is not the lowest");
                    if self.is_stored(sample) && purpose == Purpose::Response {
                        self.tell(SampleMessage::Stored(sample, self.store.get(&sample).copied()), 0);
                    } else {
                        // A refresh of the response that was there before shares this one.
                        self.calls.retain(|(of, ..)| *of != sample);
                        self.calls.push((sample, self.now, true));
                    }
                    return Ok(());
                }
                (Purpose::Refresh, _) => {
                    self.calls.push((sample, self.now, false));
                    return Ok(());
                }
                (Purpose::Response, Claim::Stored) if !self.is_stored(sample) => lost = Some(sample),
                (Purpose::Response, _) => {
                    prop_assert!(!free || self.believes_wrongly(), "a slot was free");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether a call that was given the slot is under way, and its lease has not ended.
    fn is_asked(&self, sample: u32) -> bool {
        self.calls.iter().any(|(of, began, asks)| *of == sample && *asks && self.now < began + LEASE)
    }

    /// Whether the list says that a slot is free, seen from outside: asking for one more gives it.
    fn counts_as_free(&self, sample: u32) -> bool {
        let text = self.slots.to_string();
        text.split_whitespace().nth(usize::try_from(sample).unwrap()).is_none_or(|state| state == "-")
    }

    /// Whether the list holds what the object was not told is over.
    fn believes_wrongly(&self) -> bool {
        (0..COUNT).any(|sample| !self.counts_as_free(sample) && !self.is_stored(sample) && !self.is_asked(sample))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_slot_is_asked_for_twice(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::default();
        for event in events {
            match event {
                Event::Request(purpose, random) => world.request(purpose, random)?,
                Event::End(n, stored) if n < world.calls.len() => {
                    let (sample, _, asks) = world.calls.remove(n);
                    match stored {
                        Some(lifetime) => {
                            // A response to a refresh may come before the one that it joined.
                            world.calls.retain(|(of, ..)| *of != sample);
                            world.store.insert(sample, world.now + lifetime);
                            world.tell(SampleMessage::Stored(sample, Some(world.now + lifetime)), 0);
                        }
                        None if asks => _ = world.tell(SampleMessage::Failed(sample), 0),
                        None => {}
                    }
                }
                Event::Vanish(n) if n < world.calls.len() => _ = world.calls.remove(n),
                Event::Delete(sample) => _ = world.store.remove(&sample),
                Event::Pass(ms) => {
                    world.now += ms;
                    // Another request may ask after the lease: they share the coalesced response.
                    world.calls.retain(|(_, began, _)| world.now < began + LEASE);
                }
                Event::End(..) | Event::Vanish(_) => {}
            }
        }
        // Whatever happened: once all leases have ended, a request gets a slot of its own or a stored response.
        world.now += LEASE;
        world.calls.clear();
        for sample in 0..COUNT {
            if !world.is_stored(sample) {
                world.request(Purpose::Response, sample)?;
            }
        }
        prop_assert!(world.calls.len() <= COUNT as usize);
    }
}
