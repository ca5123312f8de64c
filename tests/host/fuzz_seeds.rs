//! The structured fuzz seeds parse: a fuzzer that starts from rejected inputs finds little.

use reprise::testing::{CacheKey, CoalesceRequest, decode_head};
use std::path::{Path, PathBuf};

fn seeds(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no seeds");
    files
}

#[test]
fn seeds_of_coalesce_requests_parse() {
    for seed in seeds("coalesce_request") {
        let text = std::fs::read(&seed).unwrap();
        let parsed: Result<CoalesceRequest, _> = serde_json::from_slice(&text);
        assert!(parsed.is_ok(), "{}: {:?}", seed.display(), parsed.err());
    }
}

#[test]
fn the_first_seed_of_entries_has_a_head() {
    let seed = std::fs::read(&seeds("entry")[0]).unwrap();
    // The first byte is the fuzz target's flag; the head ends at the first NUL after it.
    let head = seed[1..].split(|byte| *byte == 0).next().unwrap();
    let key = CacheKey::from_hex(&"0".repeat(64)).unwrap();
    assert!(decode_head(head, &key).is_some());
}

#[test]
fn every_fuzz_target_has_seeds() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    for target in std::fs::read_dir(targets).unwrap() {
        seeds(target.unwrap().path().file_stem().unwrap().to_str().unwrap());
    }
}
