//! The request's directives for the cache: the `X-Proxy-*` header fields and `Cache-Control`.

use crate::cache::samples::MAX_SAMPLES;
use crate::config::{USAGE_ON_HIT, When, zero_usage};
use crate::http::fields::boolean;
use crate::key::MatchMode;
use crate::key::ignore::KeyIgnore;
use crate::status::error::{ErrorKind, ProxyError};
use http::HeaderMap;

const PREFIX: &str = "x-proxy-";
/// The fields that this version supports, without [`PREFIX`].
const KNOWN: [&str; 9] = ["ttl", "refresh", "namespace", "match", "ignore", "when", "sample", "samples", "usage"];
/// Fields of the specification that this version does not support yet.
const NOT_AVAILABLE: [&str; 1] = ["explain"];

/// A request's directives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// `X-Proxy-TTL`: seconds from storing to expiry; saturates.
    pub ttl: Option<u64>,
    /// `X-Proxy-Refresh: true`, or the same in another product's words.
    pub refresh: bool,
    /// Whether there is an `X-Proxy-Refresh`.
    pub refresh_given: bool,
    /// Read the cache, and store nothing: another product's words.
    pub read_only: bool,
    /// `X-Proxy-Sample`.
    pub sample: Option<u32>,
    /// `X-Proxy-Samples`.
    pub samples: Option<u32>,
    /// `X-Proxy-Namespace`; empty without one.
    pub namespace: Vec<u8>,
    /// `X-Proxy-Match`.
    pub match_mode: Option<MatchMode>,
    /// `X-Proxy-Ignore`: what is left out of the key.
    pub ignore: KeyIgnore,
    /// `X-Proxy-When`.
    pub when: Option<When>,
    /// `X-Proxy-Usage`: whether the counters in a hit's usage become 0.
    pub zero_usage: Option<bool>,
    /// `Cache-Control: no-store`.
    pub no_store: bool,
    /// `Cache-Control: no-cache`.
    pub no_cache: bool,
    /// `Cache-Control: max-age`, in seconds.
    pub max_age: Option<u64>,
    /// `Cache-Control: only-if-cached`.
    pub only_if_cached: bool,
    /// `Cache-Control: stale-if-error` (RFC 5861), in seconds.
    pub stale_if_error: Option<u64>,
}

impl Directives {
    /// Reads a request's header fields.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidHeader`], naming the field, if an `X-Proxy-*` field is unknown or cannot be read. An unreadable
    /// `Cache-Control` directive is no error (RFC 9111, section 5.2.3): it is ignored, or read as its strictest value.
    pub fn read(headers: &HeaderMap) -> Result<Directives, ProxyError> {
        headers.keys().try_for_each(|name| check_separators(name.as_str()))?;
        headers.keys().filter_map(|name| name.as_str().strip_prefix(PREFIX)).try_for_each(check_name)?;
        let mut directives = Directives {
            ttl: header(headers, "x-proxy-ttl", "a whole number of seconds, 0 or more", seconds)?,
            refresh: header(headers, "x-proxy-refresh", "true or false", boolean)?.unwrap_or(false),
            zero_usage: header(headers, "x-proxy-usage", USAGE_ON_HIT, zero_usage)?,
            match_mode: header(headers, "x-proxy-match", "exact or chat", MatchMode::from_word)?,
            sample: header(headers, "x-proxy-sample", "a whole number below 10000", sample)?,
            samples: header(headers, "x-proxy-samples", SAMPLES, samples)?,
            refresh_given: headers.contains_key("x-proxy-refresh"),
            when: header(headers, "x-proxy-when", When::EXPECTED, When::from_word)?,
            ..Directives::default()
        };
        if let Some(namespace) = header(headers, "x-proxy-namespace", "ASCII or UTF-8, given once", valid_utf8)? {
            directives.namespace = namespace.into_bytes();
        }
        if let Some(ignore) = header(headers, "x-proxy-ignore", KeyIgnore::EXPECTED, ignored)? {
            directives.ignore = ignore;
        }
        if directives.sample.is_some() && directives.samples.is_some() {
            let message = "X-Proxy-Sample and X-Proxy-Samples contradict each other. Send only one of them.";
            return Err(ProxyError::new(ErrorKind::InvalidHeader, message));
        }
        for value in headers.get_all(http::header::CACHE_CONTROL) {
            directives.cache_control(&String::from_utf8_lossy(value.as_bytes()));
        }
        Ok(directives)
    }

    /// Without `no-cache` where the response is a stream: clients of event streams send it with every request, as the HTML
    /// standard tells them to, and mean no refresh.
    pub fn for_stream(self, stream: bool) -> Directives {
        Directives { no_cache: self.no_cache && !stream, ..self }
    }

    /// Reads one value (RFC 9111, section 5.2.1; RFC 5861, section 4).
    fn cache_control(&mut self, value: &str) {
        for directive in crate::http::fields::list(value) {
            let (name, argument) = match directive.split_once('=') {
                Some((name, argument)) => (name.trim(), argument.trim().trim_matches('"')),
                None => (directive.as_str(), ""),
            };
            match name.to_ascii_lowercase().as_str() {
                "no-store" => self.no_store = true,
                "no-cache" => self.no_cache = true,
                "only-if-cached" => self.only_if_cached = true,
                "max-age" => min_seconds(&mut self.max_age, argument),
                "stale-if-error" => min_seconds(&mut self.stale_if_error, argument),
                _ => {}
            }
        }
    }
}

/// An unreadable age counts as 0, and of several ages the least counts.
fn min_seconds(limit: &mut Option<u64>, argument: &str) {
    let age = seconds(argument).unwrap_or(0);
    *limit = Some(limit.map_or(age, |other| other.min(age)));
}

fn header<T>(
    headers: &HeaderMap,
    name: &str,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, ProxyError> {
    let Some(text) = single_value(headers, name) else { return Ok(None) };
    text.and_then(read).map(Some).ok_or_else(|| unreadable(name, expected))
}

/// The value of a header that is there. `Some(None)`: it is there more than once, or is no text.
pub(super) fn single_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    let single = values.next().is_none();
    Some(std::str::from_utf8(value.as_bytes()).ok().filter(|_| single).map(str::trim))
}

/// The error for a header that cannot be read.
pub(super) fn unreadable(name: &str, expected: &str) -> ProxyError {
    let message = format!("The header {name} must be {expected}. Correct it or leave it out.");
    ProxyError::new(ErrorKind::InvalidHeader, message)
}

/// An error for a control in another spelling, such as `x_proxy_ttl`, which would be sent to the upstream.
fn check_separators(name: &str) -> Result<(), ProxyError> {
    if name.starts_with(PREFIX) || !name.contains("proxy") {
        return Ok(());
    }
    let letters = name.replace(['-', '_'], "");
    let is_control = |rest: &&str| KNOWN.contains(rest) || NOT_AVAILABLE.contains(rest);
    match letters.strip_prefix("xproxy").filter(is_control) {
        Some(control) => {
            let message =
                format!("The header {name} is unknown. Did you mean {PREFIX}{control}? Correct it or leave it out.");
            Err(ProxyError::new(ErrorKind::InvalidHeader, message))
        }
        None => Ok(()),
    }
}

/// An error for a name that this version does not support.
fn check_name(name: &str) -> Result<(), ProxyError> {
    if KNOWN.contains(&name) {
        return Ok(());
    }
    let message = if NOT_AVAILABLE.contains(&name) {
        format!("The header {PREFIX}{name} is not available in this version. Leave it out.")
    } else {
        let nearest = KNOWN.iter().min_by_key(|known| strsim::osa_distance(name, known)).unwrap_or(&"");
        format!("The header {PREFIX}{name} is unknown. Did you mean {PREFIX}{nearest}? Correct it or leave it out.")
    };
    Err(ProxyError::new(ErrorKind::InvalidHeader, message))
}

/// A sample's number.
fn sample(text: &str) -> Option<u32> {
    text.parse().ok().filter(|sample| *sample < 10_000)
}

/// What [`samples`] reads.
pub(super) const SAMPLES: &str = "a whole number from 1 to 1000";

/// How many samples are wanted.
pub(super) fn samples(text: &str) -> Option<u32> {
    text.parse().ok().filter(|count| (1..=MAX_SAMPLES).contains(count))
}

fn ignored(text: &str) -> Option<KeyIgnore> {
    KeyIgnore::read(&valid_utf8(text)?)
}

/// Text as it was sent. Where the Workers runtime could not read it as UTF-8, different values look alike.
pub(super) fn valid_utf8(text: &str) -> Option<String> {
    (!text.contains(char::REPLACEMENT_CHARACTER)).then(|| text.to_owned())
}

/// A whole number of seconds; huge ones saturate.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &str) -> Result<Directives, ProxyError> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Directives::read(&headers)
    }

    #[test]
    fn ttl_is_a_whole_number_and_saturates() {
        assert_eq!(read("x-proxy-ttl", "0").unwrap().ttl, Some(0));
        assert_eq!(read("x-proxy-ttl", "007").unwrap().ttl, Some(7));
        assert_eq!(read("x-proxy-ttl", &"9".repeat(40)).unwrap().ttl, Some(u64::MAX));
        for bad in ["", "-1", "+1", "1.5", "1e3", "abc", "1, 2", "0x10"] {
            let error = read("x-proxy-ttl", bad).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidHeader);
            assert!(error.message.contains("x-proxy-ttl"), "{bad}");
        }
    }

    #[test]
    fn an_unknown_control_is_an_error_that_names_the_nearest() {
        for (unknown, nearest) in [
            ("x-proxy-namspace", "x-proxy-namespace"),
            ("x-proxy-name-space", "x-proxy-namespace"),
            ("x-proxy-namespaces", "x-proxy-namespace"),
            ("x-proxy-ns", "x-proxy-"),
            ("x-proxy-tll", "x-proxy-ttl"),
            ("x-proxy-ttl-seconds", "x-proxy-"),
            ("x-proxy-max-ttl", "x-proxy-ttl"),
            ("x-proxy-refesh", "x-proxy-refresh"),
            ("x-proxy-ingore", "x-proxy-ignore"),
            ("x-proxy-macth", "x-proxy-match"),
            ("x-proxy-", "x-proxy-ttl"),
            ("x_proxy_ttl", "x-proxy-ttl"),
            ("xproxy-namespace", "x-proxy-namespace"),
            ("x-proxy_refresh", "x-proxy-refresh"),
            ("x-proxymatch", "x-proxy-match"),
        ] {
            let error = read(unknown, "a").unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidHeader);
            let named = format!("Did you mean {nearest}");
            assert!(error.message.contains(unknown) && error.message.contains(&named), "{}", error.message);
        }
        assert!(read("x-proxy-explain", "1").unwrap_err().message.contains("not available in this version"));
        assert!(read("x-proxyuser", "a").is_ok());
        assert_eq!(read("x-proxy-when", "Repeatable").unwrap().when, Some(When::Repeatable));
        assert!(read("x-proxy-when", "sometimes").unwrap_err().message.contains("always or repeatable"));
    }

    #[test]
    fn usage_is_original_or_zero() {
        assert_eq!(read("x-proxy-usage", "zero").unwrap().zero_usage, Some(true));
        assert_eq!(read("x-proxy-usage", "original").unwrap().zero_usage, Some(false));
        assert!(read("x-proxy-usage", "none").unwrap_err().message.contains("original or zero"));
    }

    #[test]
    fn no_cache_does_not_refresh_a_stream() {
        let both = read("cache-control", "no-cache, no-store").unwrap();
        assert!(both.clone().for_stream(false).no_cache);
        let stream = both.for_stream(true);
        assert!(!stream.no_cache && stream.no_store);
        assert!(read("x-proxy-refresh", "true").unwrap().for_stream(true).refresh);
    }

    #[test]
    fn a_control_given_twice_is_an_error() {
        let mut headers = HeaderMap::new();
        headers.append("x-proxy-ttl", "1".parse().unwrap());
        headers.append("x-proxy-ttl", "2".parse().unwrap());
        assert!(Directives::read(&headers).is_err());
    }

    #[test]
    fn cache_control_is_read_leniently_but_safely() {
        let all = read("cache-control", "No-Store, no-cache , ONLY-IF-CACHED,foo=1,").unwrap();
        assert!(all.no_store && all.no_cache && all.only_if_cached);
        assert_eq!(read("cache-control", "max-age=\"60\", max-age=90").unwrap().max_age, Some(60));
        assert_eq!(read("cache-control", "max-age=soon").unwrap().max_age, Some(0));
        assert_eq!(read("cache-control", "max-age").unwrap().max_age, Some(0));
        assert_eq!(read("cache-control", "stale-if-error=60, stale-if-error=soon").unwrap().stale_if_error, Some(0));
        assert_eq!(read("cache-control", "stale-if-error=60").unwrap().stale_if_error, Some(60));
        assert_eq!(read("cache-control", "max-agee=1, no-storee").unwrap(), Directives::default());
    }

    #[test]
    fn booleans_and_lists_are_read() {
        assert!(read("x-proxy-refresh", "TRUE").unwrap().refresh);
        assert!(!read("x-proxy-refresh", "false").unwrap().refresh);
        assert!(read("x-proxy-refresh", "yes please").is_err());
        assert_eq!(read("x-proxy-ignore", "user, metadata,,").unwrap().ignore.names(), ["metadata", "user"]);
        assert!(read("x-proxy-ignore", "@identities").unwrap_err().message.contains("@identity"));
        assert_eq!(read("x-proxy-match", "Chat").unwrap().match_mode, Some(MatchMode::Chat));
        assert!(read("x-proxy-match", "fuzzy").is_err());
    }
}
