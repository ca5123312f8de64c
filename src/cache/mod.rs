//! The cache: request directives, freshness, stored responses and their encoding, what may be stored, and coalescing.

pub mod admission;
pub mod coalesce;
pub mod dialects;
pub mod directives;
pub mod entry;
pub mod expiry;
pub mod policy;
pub mod representation;
pub mod samples;
pub mod stored_headers;
pub mod upstash;
