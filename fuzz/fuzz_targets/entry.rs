//! Whatever a store gives back: no panic, and what is read as an entry is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use reprise::testing::{Entry, Prefix};

fuzz_target!(|input: (bool, Vec<u8>)| {
    let (whole, bytes) = input;
    let _ = Prefix::decode(&bytes).map(|prefix| prefix.body_start());
    let _ = (redis::stored(&bytes), redis::scanned(&bytes), redis::deleted(&bytes));
    let _ = reprise::entry::decode_head(&bytes);
    // A right digest is not to be guessed: half of the time the head's JSON is given one.
    let bytes = if whole { bytes } else { sealed(&bytes) };
    if let Some(entry) = Entry::decode(&bytes) {
        let again = entry.encode().expect("an entry that was read is written");
        assert_eq!(Entry::decode(&again), Some(entry));
    }
});

/// An entry of version 1 whose head is what stands before the first NUL.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let head_len = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let length = u32::try_from(head_len).expect("inputs are short").to_be_bytes();
    let digest = Sha256::digest(bytes);
    [&b"RPRS\x01"[..], &length, &digest, bytes].concat()
}
