//! Whatever an upstream streams: no panic, and what is converted passes our own gate and converts back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reprise::dialect::{Carriage, Dialect};

fuzz_target!(|input: (u8, Vec<u8>, bool)| {
    let (which, body, include_usage) = input;
    let dialect = Dialect::ALL[usize::from(which) % Dialect::ALL.len()];
    let plain = Carriage { stream: false, include_usage: false };
    let stream = Carriage { stream: true, include_usage };
    let whole = dialect.events(&body).and_then(|events| dialect.check(&events));
    if whole.is_ok() {
        let _ = dialect.without_usage(&body);
        let _ = dialect.convert(&body, plain);
    }
    if let Some((_, streamed)) = dialect.convert(&body, stream) {
        let events = dialect.events(&streamed).expect("our own stream decodes");
        assert_eq!(dialect.check(&events), Ok(()));
        let _ = dialect.convert(&streamed, plain);
    }
});
