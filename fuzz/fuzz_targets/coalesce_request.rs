//! Any message to a coalescer is handled without a panic, and a valid one survives a round trip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reprise::testing::{CoalesceRequest, InFlightState, role};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<CoalesceRequest>(bytes) {
        let _ = request.upstream_request();
        let _ = role(InFlightState::Idle, &request.join_request(), 0, 0);
        let text = serde_json::to_vec(&request).expect("a parsed request serializes");
        let again: CoalesceRequest = serde_json::from_slice(&text).expect("a serialized request parses");
        assert_eq!(serde_json::to_vec(&again).ok(), Some(text));
    }
});
