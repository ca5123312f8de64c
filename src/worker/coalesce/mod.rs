//! Coalescing in a Durable Object, and the broadcast of one response to many clients.

pub mod broadcast;
pub mod durable_object;
pub mod namespace;
