//! What the tests, benches and fuzz targets see of the rooms.

pub use crate::cache::admission::Capture;
pub use crate::cache::coalesce::{Disposition, InFlightState, Role, role};
pub use crate::cache::entry::{Entry, EntryHead, Prefix, decode_head};
pub use crate::cache::upstash;
pub use crate::config::think_tags::ThinkTags;
pub use crate::config::{Config, ConfigError};
pub use crate::http::fields::{REPRESENTATION_HEADERS, collect};
pub use crate::http::message::{RequestHead, UpstreamRequest};
pub use crate::http::sse::{DecodeError, Decoder, Event, Framing, decode};
pub use crate::json::canonical::{Document, Select};
pub use crate::key::headers::{fast_path_ignored_headers, is_credential, key_headers};
pub use crate::key::{CacheKey, EncryptionSalt, KeyInput, MatchMode, Tenant};
pub use crate::protocol::{Protocol, ResponseMode};
pub use crate::proxy::coalesce_request::CoalesceRequest;
pub use crate::proxy::coalescer::{Coalescer, CoalescerReply, Joined};
pub use crate::proxy::exchange::{exchange, misconfigured};
pub use crate::proxy::fast_path::{FastPathHit, FastPathPlan};
pub use crate::proxy::lookup::{CacheableRequest, Decision, Lookup, OnLookup};
pub use crate::proxy::platform::*;
pub use crate::proxy::reply::{CachedResponse, HeaderEdits, ProxyResponse};
pub use crate::proxy::request::{OnBody, OnHead, OnRequest, on_head};
pub use crate::routing::admin::AdminCommand;
pub use crate::routing::endpoint::Endpoint;
pub use crate::status::{CacheOutcome, Reason};
pub use crate::telemetry::exchange_log::{ExchangeLog, LogFields, LogSink, Measurements, line as log_line};
pub use crate::transform::request::{RequestTarget, transform};
pub use crate::transform::response::{BodyTransform, ResponseTransform, TagFilter};
