//! Coalescing: equal requests in flight share one upstream request, in a Durable Object.

pub mod broadcast;
pub mod durable_object;
pub mod in_flight;
