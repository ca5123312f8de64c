//! Reading header fields (RFC 9110, section 5).

use http::{HeaderMap, HeaderName, HeaderValue};

/// The fields whose name passes, as (name, value), sorted by name; the values of one name keep their order.
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

/// A field's value, trimmed and in lower case; empty without the field. Several values are joined by commas (RFC 9110,
/// section 5.2).
pub fn joined_lowercase(headers: &HeaderMap, name: HeaderName) -> String {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.map(|value| value.trim().to_ascii_lowercase()).collect::<Vec<_>>().join(",")
}

/// The value of `Content-Length` (RFC 9110, section 8.6).
pub fn content_length(headers: &HeaderMap) -> Option<usize> {
    let value = headers.get(http::header::CONTENT_LENGTH)?;
    // A length that does not fit is certainly too large.
    Some(value.to_str().ok()?.parse().unwrap_or(usize::MAX))
}

/// Whether a value has lost bytes, or has bytes that cannot be stored as text. The Workers runtime reads values as UTF-8, so
/// different values in another encoding become equal.
pub fn is_lossy(value: &[u8]) -> bool {
    std::str::from_utf8(value).map_or(true, |text| text.contains(char::REPLACEMENT_CHARACTER))
}

/// Whether a value is an absolute URL with a path. Without one it is an origin, as in CORS.
pub fn is_url(value: &[u8]) -> bool {
    let rest = ["https://", "http://"].iter().find_map(|scheme| {
        let (start, rest) = value.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    });
    rest.is_some_and(|rest| rest.contains(&b'/'))
}

/// Whether a field holds a digest of the body's bytes (RFC 9530), which a conversion changes.
pub fn is_digest_header(name: &str) -> bool {
    matches!(name, "content-md5" | "content-digest" | "repr-digest" | "digest")
}

/// Representation metadata (RFC 9110, section 8) that is wrong once a response's bytes have changed.
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
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// `true` or `false`, `1` or `0`, in any case.
pub fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// The items of a comma-separated list, trimmed, without empty ones.
pub fn list(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned)
}

/// A credential without its `Bearer` scheme (RFC 6750, section 2.1).
pub fn credential(value: &HeaderValue) -> &[u8] {
    let bytes = value.as_bytes().trim_ascii();
    match bytes.split_at_checked(6) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer") && rest.first().is_none_or(|b| *b == b' ') => {
            rest.trim_ascii()
        }
        _ => bytes,
    }
}

/// Whether a credential field is empty, or is `Bearer` alone: clients without a key send that.
pub fn is_empty(name: &str, value: &[u8]) -> bool {
    let text = value.trim_ascii();
    text.is_empty() || (name == http::header::AUTHORIZATION.as_str() && text.eq_ignore_ascii_case(b"bearer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_lossy_unless_it_is_the_text_that_was_sent() {
        for text in ["", "a", "é", "\u{fffc}"] {
            assert!(!is_lossy(text.as_bytes()), "{text}");
        }
        for value in [&b"\xe9"[..], b"\xed\xa0\x80", "caf\u{fffd}".as_bytes()] {
            assert!(is_lossy(value), "{value:?}");
        }
    }
}
