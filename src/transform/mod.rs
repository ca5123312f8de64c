//! The operator's changes: to requests before the cache key, to responses after the cache.

pub mod inspect;
pub mod request;
pub mod response;
