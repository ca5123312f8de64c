//! Requests, without the body that the Workers runtime holds.

use http::{HeaderMap, Method};
use std::time::Duration;

/// A request without its body.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The scheme and the authority under which the client reaches this proxy, without a slash.
    pub origin: String,
    /// The path, percent-encoded as it came.
    pub path: String,
    /// The query, without `?`.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The name of a field with an invalid value, if there is one.
    pub invalid_header: Option<String>,
}

/// A request to the upstream.
#[derive(Debug, Clone)]
pub struct UpstreamRequest {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: String,
    /// The header fields that are forwarded.
    pub headers: HeaderMap,
    /// The body in place of the client's; `None`: the client's.
    pub body: Option<Vec<u8>>,
}

/// The names under which official clients state how long they wait for a response, in seconds.
const CLIENT_TIMEOUTS: [&str; 2] = ["x-stainless-timeout", "x-stainless-read-timeout"];
/// A client cannot lengthen the wait beyond this.
const MAX_CLIENT_TIMEOUT: Duration = Duration::from_secs(86_400);

impl UpstreamRequest {
    /// The longest time to the upstream's response head: as configured, or longer if the client waits longer.
    pub fn timeout(&self, configured: Duration) -> Duration {
        let seconds = |name: &&str| self.headers.get(*name)?.to_str().ok()?.trim().parse::<f64>().ok();
        let duration = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
        let stated = CLIENT_TIMEOUTS.iter().filter_map(seconds).filter_map(duration).max();
        stated.map_or(configured, |stated| configured.max(stated.min(MAX_CLIENT_TIMEOUT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_lengthens_the_timeout_and_never_shortens_it() {
        let timeout = |name: &'static str, value: &str| {
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())]);
            let request = UpstreamRequest { method: Method::POST, url: String::new(), headers, body: None };
            request.timeout(Duration::from_secs(600)).as_secs()
        };
        assert_eq!(timeout("x-stainless-timeout", "1800"), 1800);
        assert_eq!(timeout("x-stainless-timeout", " 900.5 "), 900);
        assert_eq!(timeout("x-stainless-read-timeout", "1800.0"), 1800);
        assert_eq!(timeout("x-stainless-timeout", "60"), 600);
        assert_eq!(timeout("x-stainless-timeout", "999999999999"), 86_400);
        for unreadable in ["", "NOT_GIVEN", "-1", "inf", "NaN", "1e400", "10 minutes"] {
            assert_eq!(timeout("x-stainless-timeout", unreadable), 600, "{unreadable}");
        }
        assert_eq!(timeout("x-timeout", "1800"), 600);
    }
}
