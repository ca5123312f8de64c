//! The cache: what a client asks of it, what may be stored, what a stored response may answer, and coalescing.

pub mod admission;
pub mod coalesce;
pub mod directives;
pub mod entry;
pub mod expiry;
pub mod policy;
pub mod representation;
pub mod stored_headers;
pub mod upstash;
