//! What is worth keeping: `CACHE_ADMISSION` and `CACHE_WHEN`.

/// Which complete responses are stored: `CACHE_ADMISSION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admission {
    /// All of them.
    Any,
    /// Those in which no choice ran out of tokens.
    Complete,
    /// Those that are of use to the request: specification, section 17.
    #[default]
    Valid,
}

impl Admission {
    /// The rule that a word names.
    pub fn from_word(word: &str) -> Option<Admission> {
        match word.to_ascii_lowercase().as_str() {
            "any" => Some(Admission::Any),
            "complete" => Some(Admission::Complete),
            "valid" => Some(Admission::Valid),
            _ => None,
        }
    }
}

/// Which requests are cached: `CACHE_WHEN` and `X-Proxy-When`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// All cacheable ones.
    #[default]
    Always,
    /// Those with `temperature` 0 or a seed, and those that are not sampled.
    Repeatable,
}

impl When {
    /// What [`When::from_word`] reads.
    pub const EXPECTED: &str = "always or repeatable";

    /// The rule that a word names.
    pub fn from_word(word: &str) -> Option<When> {
        match word.to_ascii_lowercase().as_str() {
            "always" => Some(When::Always),
            "repeatable" => Some(When::Repeatable),
            _ => None,
        }
    }
}
