//! HTTP that has nothing to do with caching: messages, header fields, media types, event streams, retries.

pub mod fields;
pub mod forwarding;
pub mod media_type;
pub mod message;
pub mod retry;
pub mod sse;
