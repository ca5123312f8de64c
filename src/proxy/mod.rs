//! One exchange from request to response.
//!
//! [`exchange`] is the one place that knows the order of the steps. The other files decide each step: values come in, and a
//! value that says what to do next goes out. [`platform`] is what both need of the program around them.

pub mod cacheable_request;
pub mod coalesce_request;
pub mod coalescer;
pub mod exchange;
pub mod fast_path;
pub mod forward;
pub mod in_flight;
pub mod lookup;
pub mod platform;
pub mod reply;
pub mod request;
pub mod stored_response;
