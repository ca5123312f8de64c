//! The cache's result and its reason: the words of `Cache-Status`, the log, and the proxy's own errors.

pub mod cache_status;
pub mod error;
pub mod reason;

pub use cache_status::{CacheOutcome, CacheStatus, Fwd};
pub use reason::Reason;
