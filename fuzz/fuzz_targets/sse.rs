//! A stream decodes to the same events, whatever its chunks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reprise::testing::{Decoder, Framing, decode};

fuzz_target!(|input: (u8, Vec<u8>, bool)| {
    let (size, bytes, lines) = input;
    let framing = if lines { Framing::Lines } else { Framing::Events };
    let whole = decode(framing, &bytes);
    let mut events = Vec::new();
    let mut decoder = Decoder::new(framing);
    for chunk in bytes.chunks(usize::from(size).max(1)) {
        decoder.push(chunk, &mut |event| events.push(event));
    }
    let end = decoder.finish(&mut |event| events.push(event));
    assert_eq!(whole, end.map(|()| events));
});
