//! One exchange from request to response, as decisions.

pub mod exchange;
mod fast_path;
mod forward;
mod lookup;
pub mod reply;
mod stored_response;

pub use exchange::*;
pub use fast_path::{Again, Repeat};
pub use forward::{Asking, Failure};
pub use lookup::{Found, Looked, Pending, Planned, Question, Rendering, Verdict};
pub use stored_response::Replay;
