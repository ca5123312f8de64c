//! Whatever a flight is told: no panic, and what is read as a job is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reprise::testing::{CoalesceRequest, InFlightState, join};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(job) = serde_json::from_slice::<CoalesceRequest>(bytes) {
        let _ = job.upstream_request();
        let _ = join(InFlightState::Idle, &job, 0, 0);
        let text = serde_json::to_vec(&job).expect("a job that was read is written");
        let again: CoalesceRequest = serde_json::from_slice(&text).expect("and read again");
        assert_eq!(serde_json::to_vec(&again).ok(), Some(text));
    }
});
