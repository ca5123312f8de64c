//! The proxy's own errors, in OpenAI's error shape.

use super::reason::Reason;
use http::StatusCode;
use serde::Serialize;

/// An error response of the proxy's own. `message` says what to do. It never contains a value from a request body, a
/// credential or a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyError {
    /// The kind of error.
    pub kind: ErrorKind,
    /// The error and its remedy, for the reader of the response.
    pub message: String,
}

/// The kinds of [`ProxyError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// 400: the content type is JSON, and the body is not.
    InvalidJson,
    /// 400: a request header is invalid.
    InvalidHeader,
    /// 400: a GET or HEAD with a body.
    BodyNotAllowed,
    /// 400: a query parameter of an admin request is invalid.
    InvalidParameter,
    /// 401: the proxy token or the admin token is missing or wrong.
    InvalidToken,
    /// 429: the client has exceeded the rate limit.
    RateLimited,
    /// 404: no such route.
    NotFound,
    /// 500: a variable is invalid.
    Misconfigured,
    /// 502: the store failed during an admin request.
    StoreFailed,
    /// 502: the ledger failed during an admin request.
    LedgerFailed,
    /// 502: the upstream did not respond.
    UpstreamUnreachable,
    /// 504: the upstream did not respond in time.
    UpstreamTimeout,
    /// 504: the client accepts only a stored response, and there is none.
    OnlyIfCached,
}

impl ErrorKind {
    /// The HTTP status.
    pub const fn status(self) -> StatusCode {
        match self {
            ErrorKind::InvalidJson
            | ErrorKind::InvalidHeader
            | ErrorKind::InvalidParameter
            | ErrorKind::BodyNotAllowed => StatusCode::BAD_REQUEST,
            ErrorKind::InvalidToken => StatusCode::UNAUTHORIZED,
            ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Misconfigured => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::StoreFailed | ErrorKind::LedgerFailed | ErrorKind::UpstreamUnreachable => {
                StatusCode::BAD_GATEWAY
            }
            ErrorKind::UpstreamTimeout | ErrorKind::OnlyIfCached => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Whether the same request may succeed later.
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            ErrorKind::RateLimited
                | ErrorKind::StoreFailed
                | ErrorKind::LedgerFailed
                | ErrorKind::UpstreamUnreachable
                | ErrorKind::UpstreamTimeout
        )
    }

    /// The `code` field.
    pub const fn code(self) -> &'static str {
        match self {
            ErrorKind::InvalidJson => "invalid_json",
            ErrorKind::InvalidHeader => "invalid_header",
            ErrorKind::BodyNotAllowed => "body_not_allowed",
            ErrorKind::InvalidParameter => "invalid_parameter",
            ErrorKind::InvalidToken => "invalid_token",
            ErrorKind::RateLimited => "rate_limit_exceeded",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Misconfigured => "misconfigured",
            ErrorKind::StoreFailed => "store_failed",
            ErrorKind::LedgerFailed => "ledger_failed",
            ErrorKind::UpstreamUnreachable => "upstream_unreachable",
            ErrorKind::UpstreamTimeout => "timeout",
            ErrorKind::OnlyIfCached => "only_if_cached",
        }
    }

    /// The reason in `Cache-Status`; `None` for a request that could not have been proxied.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            ErrorKind::InvalidJson => Some(Reason::InvalidJson),
            ErrorKind::InvalidHeader => Some(Reason::InvalidHeader),
            ErrorKind::BodyNotAllowed => Some(Reason::Method),
            ErrorKind::InvalidToken => Some(Reason::InvalidToken),
            ErrorKind::RateLimited => Some(Reason::RateLimited),
            ErrorKind::NotFound | ErrorKind::InvalidParameter | ErrorKind::StoreFailed | ErrorKind::LedgerFailed => {
                None
            }
            ErrorKind::Misconfigured => Some(Reason::Misconfigured),
            ErrorKind::UpstreamUnreachable => Some(Reason::UpstreamUnreachable),
            ErrorKind::UpstreamTimeout => Some(Reason::UpstreamTimeout),
            ErrorKind::OnlyIfCached => Some(Reason::OnlyIfCached),
        }
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Body<'a>,
}

/// OpenAI's error object (API reference, "Error codes").
#[derive(Serialize)]
struct Body<'a> {
    message: &'a str,
    r#type: &'a str,
    code: &'a str,
    param: Option<&'a str>,
}

impl ProxyError {
    /// An error with its message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ProxyError { kind, message: message.into() }
    }

    /// The JSON body, in OpenAI's error shape.
    pub fn body(&self) -> Vec<u8> {
        let envelope = Envelope {
            error: Body { message: &self.message, r#type: "proxy_error", code: self.kind.code(), param: None },
        };
        // Strings always serialise; an empty body would still carry the status.
        serde_json::to_vec(&envelope).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_shape_of_openai() {
        let error = ProxyError::new(ErrorKind::NotFound, "No \"x\" here.");
        let body = String::from_utf8(error.body()).unwrap();
        assert_eq!(
            body,
            r#"{"error":{"message":"No \"x\" here.","type":"proxy_error","code":"not_found","param":null}}"#
        );
    }
}
