//! One exchange from request to response, as decisions.

pub mod exchange;
mod fast_path;
mod forward;
mod lookup;
pub mod reply;
mod stored_response;

pub use exchange::*;
pub use fast_path::{FastPathHit, FastPathPlan};
pub use forward::{UpstreamFetch, FetchError};
pub use lookup::{Lookup, OnLookup, PendingRequest, OnBody, CacheableRequest, Conversion, Decision};
pub use stored_response::CachedResponse;
