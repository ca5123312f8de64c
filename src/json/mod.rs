//! JSON: a cursor over text that keeps every byte, and the canonical form that the cache key hashes.

pub mod canonical;
pub mod cursor;

pub use cursor::*;
