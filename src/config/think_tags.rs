//! The tags around a model's reasoning.

/// The tags before and after reasoning. Neither is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinkTags {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

impl Default for ThinkTags {
    fn default() -> ThinkTags {
        ThinkTags { start: b"<think>".to_vec(), end: b"</think>".to_vec() }
    }
}

impl ThinkTags {
    /// These tags, or the default ones.
    pub fn new(start: Option<&str>, end: Option<&str>) -> ThinkTags {
        ThinkTags::default().or(start, end)
    }

    /// These tags, or those of `self` where one is missing.
    pub fn or(&self, start: Option<&str>, end: Option<&str>) -> ThinkTags {
        let choose = |new: Option<&str>, old: &[u8]| {
            new.filter(|tag| !tag.is_empty()).map_or_else(|| old.to_vec(), |tag| tag.as_bytes().to_vec())
        };
        ThinkTags { start: choose(start, &self.start), end: choose(end, &self.end) }
    }
}
