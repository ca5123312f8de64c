//! Requests, without the body that the Workers runtime holds.

use http::{HeaderMap, Method};

/// A request without its body.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The path, percent-encoded as it came.
    pub path: String,
    /// The query, without `?`.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// A header whose value could not be taken over, if there is one.
    pub invalid_header: Option<String>,
}

/// What is sent to the upstream.
#[derive(Debug, Clone)]
pub struct UpstreamRequest {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: String,
    /// The headers, without those that concern this hop or speak to the cache.
    pub headers: HeaderMap,
    /// The body in place of the client's own; `None`: that one.
    pub body: Option<Vec<u8>>,
}
