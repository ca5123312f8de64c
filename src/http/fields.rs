//! Reading header fields (RFC 9110, section 5).

use http::{HeaderMap, HeaderName, HeaderValue};

/// The headers whose name passes, as (name, value), in order of name; the values of one name in their order.
pub fn collect(headers: &HeaderMap, passes: &dyn Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).filter(|name| passes(name)).collect();
    names.sort_unstable();
    let mut pairs = Vec::new();
    for name in names {
        let values = headers.get_all(name).iter();
        pairs.extend(values.map(|value| (name.to_owned(), value.as_bytes().to_vec())));
    }
    pairs
}

/// A header's value, trimmed and in lower case; empty where there is none, and several values joined by commas.
pub fn joined_lowercase(headers: &HeaderMap, name: HeaderName) -> String {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.map(|value| value.trim().to_ascii_lowercase()).collect::<Vec<_>>().join(",")
}

/// What `Content-Length` says.
pub fn content_length(headers: &HeaderMap) -> Option<usize> {
    let value = headers.get(http::header::CONTENT_LENGTH)?;
    // A length that does not fit is certainly too large.
    Some(value.to_str().ok()?.parse().unwrap_or(usize::MAX))
}

/// Whether a header describes the bytes of a body, which a conversion changes.
pub fn is_digest_header(name: &str) -> bool {
    matches!(name, "content-md5" | "content-digest" | "repr-digest" | "digest")
}

/// Response headers that are true of other bytes only: those of an answer that is changed on its way.
pub const REPRESENTATION_HEADERS: [&str; 8] = [
    "content-length",
    "content-encoding",
    "etag",
    "accept-ranges",
    "content-md5",
    "content-digest",
    "repr-digest",
    "digest",
];

/// Whether a field name is one of these names, or begins with one of them that ends in `*`.
pub fn matches_any(name: &str, patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *pattern,
    })
}

/// Whether a field name begins with one of these prefixes.
pub fn starts_with_any(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|family| name.starts_with(family))
}

/// `true` or `false`, `1` or `0`, in any case.
pub fn boolean(joined_lowercase: &str) -> Option<bool> {
    match joined_lowercase.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// The items of a comma-separated list, trimmed, without empty ones.
pub fn list(joined_lowercase: &str) -> impl Iterator<Item = String> + '_ {
    joined_lowercase.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned)
}

/// A credential as it is shown: without the name of its scheme.
pub fn credential(value: &HeaderValue) -> &[u8] {
    let bytes = value.as_bytes().trim_ascii();
    match bytes.split_at_checked(6) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer") && rest.first().is_none_or(|b| *b == b' ') => {
            rest.trim_ascii()
        }
        _ => bytes,
    }
}

/// A scheme without a credential, or nothing at all: what a client sends that has no key.
pub fn is_empty(name: &str, value: &[u8]) -> bool {
    let joined_lowercase = value.trim_ascii();
    joined_lowercase.is_empty()
        || (name == http::header::AUTHORIZATION.as_str() && joined_lowercase.eq_ignore_ascii_case(b"bearer"))
}
