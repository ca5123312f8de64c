//! The canonical form is JSON, and its own canonical form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reprise::testing::{Document, Select};

fuzz_target!(|text: &[u8]| {
    let Ok(document) = Document::parse(text) else {
        return;
    };
    if let Ok(once) = document.to_canonical(Select::Except(&[])) {
        let again = Document::parse(&once).expect("canonical JSON is JSON");
        assert_eq!(again.to_canonical(Select::Except(&[])), Ok(once));
    }
});
