//! The Workers runtime: its objects, its clock, its `fetch`, its bindings.

pub mod binding;
pub mod fetch;
pub mod interop;
pub mod time;
mod values;
