//! Fields and headers that the operator or the client excludes from the cache key: `KEY_IGNORE` and `X-Proxy-Ignore`.

use super::headers::{CREDENTIAL_HEADERS, may_hold_secret};
use crate::http::fields::list;
use http::HeaderName;

/// The fields that `@identity` stands for: they name the end user or the session, and do not change a response.
const IDENTITY: [&str; 7] = [
    "user",
    "safety_identifier",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "diagnostics",
];

const HEADER: &str = "header:";

/// A set of names to leave out: top-level fields of the body, and `header:NAME`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyIgnore(Vec<String>);

impl KeyIgnore {
    /// What [`KeyIgnore::read`] reads.
    pub const EXPECTED: &str =
        "a comma-separated list of body fields, @identity and header:NAME, where NAME holds no credential";

    /// Reads a comma-separated list. `None`: it has a name with `@` that is unknown, or a header that is no valid name or may
    /// hold a credential, which two clients must never share.
    pub fn read(text: &str) -> Option<KeyIgnore> {
        let mut names = Vec::new();
        for item in list(text) {
            if item.starts_with('@') {
                (item == "@identity").then(|| names.extend(IDENTITY.map(str::to_owned)))?;
            } else if let Some(header) = item.strip_prefix(HEADER) {
                let name: HeaderName = header.trim().parse().ok()?;
                let is_secret = may_hold_secret(name.as_str()) || CREDENTIAL_HEADERS.contains(&name.as_str());
                (!is_secret).then(|| names.push(format!("{HEADER}{name}")))?;
            } else {
                names.push(item);
            }
        }
        Some(KeyIgnore::new(names))
    }

    /// A set of body fields.
    pub fn fields(names: Vec<String>) -> KeyIgnore {
        KeyIgnore::new(names.into_iter().filter(|name| !name.starts_with(HEADER)).collect())
    }

    fn new(mut names: Vec<String>) -> KeyIgnore {
        names.sort_unstable();
        names.dedup();
        KeyIgnore(names)
    }

    /// This set and another one.
    pub fn union(&self, other: &KeyIgnore) -> KeyIgnore {
        KeyIgnore::new(self.0.iter().chain(&other.0).cloned().collect())
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All names, sorted. They are part of the key.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The names of the headers.
    pub fn headers(&self) -> Vec<&str> {
        self.0.iter().filter_map(|name| name.strip_prefix(HEADER)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_sorted_and_expanded() {
        let read = |text: &str| KeyIgnore::read(text).unwrap();
        assert_eq!(read("user, metadata,,user").names(), ["metadata", "user"]);
        assert_eq!(read("@identity"), read(&IDENTITY.join(",")));
        let mixed = read("header:X-Session-Id, seed,header: x-message-id");
        assert_eq!(mixed.headers(), ["x-message-id", "x-session-id"]);
        assert_eq!(mixed.names(), ["header:x-message-id", "header:x-session-id", "seed"]);
        assert_eq!(read("seed").union(&read("user,seed")).names(), ["seed", "user"]);
        assert!(read(" , ").is_empty());
    }

    #[test]
    fn unknown_groups_and_credentials_are_refused() {
        for bad in [
            "@identities",
            "@",
            "@all",
            "@Identity",
            "header:",
            "header:a b",
            "header:authorization",
            "header:X-API-Key",
            "header:api-key",
            "header:x-goog-api-key",
            "header:x-auth-token",
            "header:helicone-auth",
            "user,header:x-my-secret",
        ] {
            assert_eq!(KeyIgnore::read(bad), None, "{bad}");
        }
    }
}
