//! Any upstream body is handled without a panic. A converted stream passes the admission check, and converts back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reprise::testing::{Protocol, ResponseMode};

fuzz_target!(|input: (u8, Vec<u8>, bool)| {
    let (which, body, include_usage) = input;
    let protocol = Protocol::ALL[usize::from(which) % Protocol::ALL.len()];
    let plain = ResponseMode { stream: false, include_usage: false };
    let stream = ResponseMode { stream: true, include_usage };
    let whole = protocol.events(&body).and_then(|events| protocol.check(&events));
    if whole.is_ok() {
        let _ = protocol.without_usage(&body);
        let _ = protocol.convert(&body, plain);
    }
    if let Some((_, streamed)) = protocol.convert(&body, stream) {
        let events = protocol.events(&streamed).expect("a converted stream decodes");
        assert_eq!(protocol.check(&events), Ok(()));
        let _ = protocol.convert(&streamed, plain);
    }
});
