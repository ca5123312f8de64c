//! Which choices or blocks of a stream have begun, and which have ended?

use std::collections::BTreeMap;

/// The parts of a stream, each by its kind and index.
#[derive(Debug, Default)]
pub(super) struct OpenParts(BTreeMap<(&'static str, Option<u64>), bool>);

impl OpenParts {
    /// A part has begun or continues.
    pub(super) fn begin(&mut self, kind: &'static str, index: Option<u64>) {
        self.0.insert((kind, index), false);
    }

    /// A part has ended.
    pub(super) fn end(&mut self, kind: &'static str, index: Option<u64>) {
        self.0.insert((kind, index), true);
    }

    /// More of a part has come. `has_content`: a part that had ended is open again. `ends`: it has ended.
    pub(super) fn update(&mut self, kind: &'static str, index: Option<u64>, has_content: bool, ends: bool) {
        let ended = self.0.entry((kind, index)).or_default();
        *ended = ends || (*ended && !has_content);
    }

    /// Whether each part that has begun has ended.
    pub(super) fn have_ended(&self) -> bool {
        self.0.values().all(|ended| *ended)
    }
}
