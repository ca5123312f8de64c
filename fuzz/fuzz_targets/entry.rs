//! Any bytes from a store are handled without a panic, and a valid entry survives a round trip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reprise::testing::{CacheKey, Entry, Prefix, decode_head, upstash};
use sha2::{Digest, Sha256};

fuzz_target!(|input: (bool, Vec<u8>)| {
    let (as_given, bytes) = input;
    let _ = Prefix::decode(&bytes).map(|prefix| prefix.head_end());
    let _ = (upstash::parse_set(&bytes), upstash::parse_scan(&bytes), upstash::parse_deleted(&bytes));
    let key = CacheKey::from_hex(&"0".repeat(64)).expect("64 digits");
    let _ = decode_head(&bytes, &key);
    // The fuzzer cannot guess a digest, so half of the inputs get the right one.
    let bytes = if as_given { bytes } else { with_prefix(&bytes) };
    if let Some(entry) = Entry::decode(&bytes, &key) {
        let again = entry.encode().expect("a decoded entry can be encoded");
        assert_eq!(Entry::decode(&again, &key), Some(entry));
    }
});

/// An entry. Its head ends before the first NUL.
fn with_prefix(bytes: &[u8]) -> Vec<u8> {
    let head_len = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let length = u32::try_from(head_len).expect("inputs are short").to_be_bytes();
    let digest = Sha256::digest(bytes);
    [&b"RPRS\x04"[..], &length, &digest, bytes].concat()
}
