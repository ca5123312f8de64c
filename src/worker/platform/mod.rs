//! The Workers runtime: its objects, its clock, its `fetch`.

pub mod fetch;
pub mod interop;
pub mod time;
