//! The request to the coalescer of a cache key: all that a fetch needs besides the request's body.

use crate::cache::admission::CaptureOptions;
use crate::cache::coalesce::{JoinRequest, RequestedFreshness};
use crate::config::Config;
use crate::http::fields::is_lossy;
use crate::http::message::UpstreamRequest;
use crate::key::{CacheKey, EncryptionSalt};
use crate::protocol::ResponseMode;
use crate::protocol::answer::AnswerRules;
use crate::routing::endpoint::Endpoint;
use crate::status::Reason;
use crate::telemetry::exchange_log::LogFields;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

/// A request to a key's coalescer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CoalesceRequest {
    /// The cache key.
    pub key: CacheKey,
    /// The salt of the entry's encryption, if entries are encrypted.
    pub salt: Option<EncryptionSalt>,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The mode that the client wants the response in.
    pub response_mode: ResponseMode,
    /// The lifetime of the stored response, in milliseconds (`None`: for ever), or the reason why it is not stored.
    pub lifetime_ms: Result<Option<u64>, Reason>,
    /// Whether the key covers all that the upstream is sent, so that an error is the same for every client that has the key.
    pub key_covers_request: bool,
    /// The set of samples that the response is in.
    pub set: Option<CacheKey>,
    /// Its slot there.
    pub sample: u32,
    /// Whether that slot was given to this request alone.
    pub asks: bool,
    /// What the response has to be so that it is stored.
    pub rules: AnswerRules,
    /// The freshness that the client requires.
    pub freshness: RequestedFreshness,
    /// For the log line, which the coalescer writes if the response is stored.
    pub log: LogFields,
    /// Milliseconds since the request came, for the log.
    pub elapsed_ms: u64,
    /// The longest time to the response head, in milliseconds.
    pub budget_ms: u64,
    /// The upstream request's method.
    pub method: String,
    /// Its URL.
    pub url: String,
    /// Its header fields, in order.
    pub headers: Vec<(String, String)>,
}

impl CoalesceRequest {
    /// A request with what is sent upstream, that accepts any response.
    pub fn new(
        upstream_request: &UpstreamRequest,
        key: CacheKey,
        endpoint: Endpoint,
        response_mode: ResponseMode,
    ) -> CoalesceRequest {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        CoalesceRequest {
            key,
            salt: None,
            endpoint,
            response_mode,
            lifetime_ms: Ok(None),
            key_covers_request: true,
            set: None,
            sample: 0,
            asks: false,
            rules: AnswerRules::default(),
            freshness: RequestedFreshness::default(),
            log: LogFields::default(),
            elapsed_ms: 0,
            budget_ms: u64::MAX,
            method: upstream_request.method.to_string(),
            url: upstream_request.url.clone(),
            headers: upstream_request.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        }
    }

    /// The request to the upstream.
    pub fn upstream_request(&self) -> UpstreamRequest {
        let headers = self.headers.iter().filter_map(|(name, value)| {
            Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        });
        UpstreamRequest {
            method: Method::from_bytes(self.method.as_bytes()).unwrap_or(Method::POST),
            url: self.url.clone(),
            headers: headers.collect::<HeaderMap>(),
            body: None,
        }
    }

    /// The header fields that are not UTF-8, so that `headers` does not have their bytes.
    pub fn lossy_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lossy = self.headers.iter().filter(|(_, value)| is_lossy(value.as_bytes()));
        lossy.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there are such fields.
    pub fn has_lossy_value(&self) -> bool {
        self.lossy_headers().next().is_some()
    }

    /// The values that decide the client's role.
    pub fn join_request(&self) -> JoinRequest {
        JoinRequest { endpoint: self.endpoint, response_mode: self.response_mode, freshness: self.freshness }
    }

    /// The options of the response's capture.
    pub fn capture_options(&self, config: &Config) -> CaptureOptions {
        CaptureOptions {
            key: self.key,
            endpoint: self.endpoint,
            response_mode: self.response_mode,
            max_bytes: config.cache.max_bytes,
            lifetime_ms: self.lifetime_ms.ok().flatten(),
            shared: config.cache.shared_scope,
            rules: self.rules,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_serialisation() {
        let header = |value: &str| (HeaderName::from_static("x-a"), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        let sent = UpstreamRequest {
            method: Method::POST,
            url: "https://a/v1".into(),
            headers: [header("1"), header("ü")].into_iter().collect(),
            body: None,
        };
        let key = CacheKey::from_hex(&"0".repeat(64)).unwrap();
        let mode = ResponseMode { stream: true, include_usage: true };
        let request = CoalesceRequest {
            freshness: RequestedFreshness { max_age: Some(3), ..RequestedFreshness::default() },
            ..CoalesceRequest::new(&sent, key, Endpoint::ChatCompletions, mode)
        };
        let read: CoalesceRequest = serde_json::from_slice(&serde_json::to_vec(&request).unwrap()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{request:?}"));
        let upstream_request = read.upstream_request();
        assert_eq!((upstream_request.method, upstream_request.url.as_str()), (Method::POST, "https://a/v1"));
        let values: Vec<_> = upstream_request.headers.get_all("x-a").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(values, [b"1", "ü".as_bytes()]);
    }
}
