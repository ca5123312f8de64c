//! The interface between an exchange and its platform.
//!
//! The Worker implements [`Platform`] on the Workers runtime, the tests on plain values. Bodies are opaque: this room reads one
//! only where a step needs its bytes.

use super::cacheable_request::CacheableRequest;
use super::coalesce_request::CoalesceRequest;
use super::reply::{CachedResponse, HeaderEdits, ProxyResponse};
use crate::cache::admission::Capture;
use crate::cache::coalesce::Disposition;
use crate::cache::entry::{Entry, EntryHead};
use crate::cache::samples::{Message, Slot};
use crate::config::Config;
use crate::http::message::UpstreamRequest;
use crate::http::retry::RetrySafety;
use crate::key::CacheKey;
use crate::protocol::usage::Usage;
use crate::routing::admin::AdminCommand;
use crate::status::Reason;
use crate::status::error::ProxyError;
use crate::telemetry::exchange_log::{CoalesceRole, ExchangeLog, LogSink, Measurements};
use crate::transform::response::BodyTransform;
use http::{HeaderMap, StatusCode};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// The platform of one exchange: clock, store, upstream, and the client's connection.
pub trait Platform: Clone + 'static {
    /// A request's body.
    type Body: 'static;
    /// Bytes in a buffer of the platform's own.
    type Buffer: Buffer;
    /// An upstream response whose body is still to come.
    type Upstream: UpstreamHead + 'static;
    /// An upstream response that several clients read.
    type Shared: SharedResponse<Upstream = Self::Upstream, Follower = Self::Follower>;
    /// A shared response for a client that did not lead.
    type Follower;
    /// A response to the client.
    type Response: 'static;
    /// The client's connection.
    type Client: ClientSignal;

    /// The operator's configuration.
    fn config(&self) -> &Rc<Config>;
    /// Milliseconds since 1970.
    fn now(&self) -> u64;
    /// When the request came, in milliseconds since 1970.
    fn started(&self) -> u64;
    /// Whether a store is bound.
    fn has_store(&self) -> bool;
    /// The connection of this exchange's client.
    fn client(&self) -> Self::Client;
    /// The connection of a client that never disconnects.
    fn no_client(&self) -> Self::Client;
    /// Resolves after some time.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;
    /// Runs a task to its end, even after the response or the client is gone.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
    /// The sink of log lines.
    fn log_sink(&self) -> Rc<dyn LogSink>;

    /// Whether there is a body, if only in name.
    fn has_body(&self, body: &Self::Body) -> bool;
    /// No body.
    fn no_body(&self) -> Self::Body;
    /// A body that may be sent again, held in memory for that.
    fn replayable(&self, body: Self::Body) -> Self::Body;
    /// Whether a body that is there in name has no bytes.
    fn is_empty(&self, body: Self::Body) -> impl Future<Output = bool>;
    /// Reads a body of at most `limit` bytes.
    fn read_body(&self, body: Self::Body, limit: usize) -> impl Future<Output = BodyRead<Self>>;
    /// A body of these bytes.
    fn body(&self, bytes: &[u8]) -> Self::Body;
    /// A body of the bytes in this buffer.
    fn buffered_body(&self, buffer: &Self::Buffer) -> Self::Body;
    /// Whether the rate limit allows one more request under this key.
    fn allows(&self, rate_limit_key: &str) -> impl Future<Output = bool>;
    /// Whether a URL gives any HTTP response.
    fn probe(&self, url: &str) -> impl Future<Output = bool>;
    /// Carries out an admin command.
    fn admin(&self, command: &AdminCommand) -> impl Future<Output = AdminResult>;

    /// The page of `/dashboard`. `with_body`: whether the request was not HEAD.
    fn dashboard(&self, with_body: bool) -> Self::Response;

    /// Lets the fast path serve the next request that is equal to this one.
    fn remember(&self, request: &CacheableRequest, log: &ExchangeLog);
    /// Looks the request up in the memory tier, then in the store.
    fn look_up(&self, request: &CacheableRequest) -> impl Future<Output = (Lookup, Option<Self::Buffer>)>;
    /// Verifies an encoded entry and takes it apart. `None`: it is damaged, or belongs to another key.
    fn open_entry(
        &self,
        key: &CacheKey,
        value: &Self::Buffer,
    ) -> impl Future<Output = Option<(EntryHead, Self::Buffer)>>;
    /// A number that grows with every fetch, so that an older response never replaces a newer one.
    fn next_sequence(&self) -> u64;
    /// Stores an entry, unless a newer one has been stored or it has been deleted since `sequence`.
    fn store(
        &self,
        request: &CoalesceRequest,
        head: &EntryHead,
        value: &Self::Buffer,
        sequence: u64,
    ) -> impl Future<Output = Result<(), Reason>>;
    /// Deletes an entry.
    fn delete(&self, key: &CacheKey) -> impl Future<Output = ()>;
    /// When the namespace of a key was last deleted, in milliseconds since 1970. 0: never, as far as is known.
    fn namespace_deleted_at(&self, key: &CacheKey) -> impl Future<Output = u64>;
    /// Tells the object of a set of samples something, and gets the slot that it hands out. `None`: there is no object, it
    /// failed, or no slot was asked for. `set`: the cache key of sample 0.
    fn tell_samples(&self, set: &CacheKey, message: Message) -> impl Future<Output = Option<Slot>>;
    /// Any number.
    fn random(&self) -> u32;
    /// Drops what the memory tier holds for a request that is about to replace it.
    fn invalidate(&self, key: &CacheKey);
    /// Whether a stale entry is to be revalidated now: one revalidation of it at a time.
    fn begin_revalidation(&self, key: &CacheKey) -> bool;
    /// The revalidation has ended.
    fn end_revalidation(&self, key: &CacheKey);

    /// Fetches from the upstream, with retries.
    fn fetch(
        &self,
        request: &UpstreamRequest,
        body: Self::Body,
        options: &FetchOptions<'_, Self::Client>,
    ) -> impl Future<Output = FetchOutcome<Self::Upstream>>;
    /// Joins the coalesced fetch of a key, where there is a coalescer and the body can be sent there.
    fn join(
        &self,
        request: &dyn Fn() -> CoalesceRequest,
        body: &Self::Body,
        client: &Self::Client,
    ) -> impl Future<Output = Joined<Self::Upstream, Self::Buffer>>;
    /// Begins to read an upstream response that several clients may share.
    fn share(&self, response: Self::Upstream, options: &ShareOptions<'_, Self::Client>) -> Self::Shared;

    /// A response of the proxy's own.
    fn respond(&self, response: &ProxyResponse) -> Self::Response;
    /// A status with nothing else.
    fn respond_empty(&self, status: u16) -> Self::Response;
    /// A stored response, and its size in bytes. `stored`: its body, unless it is converted.
    fn serve(&self, response: &CachedResponse, stored: Option<&Self::Buffer>) -> (Self::Response, Option<u64>);
    /// The upstream's response.
    fn pass_on(
        &self,
        response: Self::Upstream,
        edits: &HeaderEdits,
        transform: Option<BodyTransform>,
    ) -> Self::Response;
}

/// Bytes in a buffer of the platform's own.
pub trait Buffer: Clone + 'static {
    /// Copies bytes in.
    fn from_slice(bytes: &[u8]) -> Self;
    /// Copies the bytes out.
    fn to_vec(&self) -> Vec<u8>;
    /// The number of bytes.
    fn byte_len(&self) -> usize;
}

/// A client's connection.
pub trait ClientSignal: Clone + PartialEq + 'static {
    /// Whether the client has disconnected.
    fn is_disconnected(&self) -> bool;
    /// Resolves when the client disconnects.
    fn disconnected(&self) -> impl Future<Output = ()>;
}

/// The head of an upstream response.
pub trait UpstreamHead {
    /// The HTTP status.
    fn status(&self) -> StatusCode;
    /// The header fields.
    fn headers(&self) -> &HeaderMap;
    /// Ends the request. A client that still reads the body sees it aborted.
    fn abort(&self);
}

/// An upstream response that several clients read, each at its own pace.
pub trait SharedResponse: 'static {
    /// The response for the client that leads.
    type Upstream;
    /// The response for any other client.
    type Follower;

    /// The HTTP status.
    fn status(&self) -> StatusCode;
    /// The header fields.
    fn headers(&self) -> &HeaderMap;
    /// The response for the client that leads. `None`: it is gone.
    fn for_leader(&self) -> Option<Self::Upstream>;
    /// The response from its first byte, without header fields that are for the leader alone. `across_tenants`: the clients
    /// are not one tenant. `disposition`: the header value for the Worker. `None`: the first byte is gone.
    fn for_follower(&self, across_tenants: bool, disposition: Disposition) -> Option<Self::Follower>;
    /// Passes the body's chunks to `accepts` until it refuses one. Returns whether it has refused one, or the first byte is gone.
    fn watch(&self, accepts: impl FnMut(&[u8]) -> bool) -> impl Future<Output = bool>;
    /// Whether too much has come for another client to join.
    fn has_overflowed(&self) -> bool;
    /// Resolves when it overflows.
    fn overflow(&self) -> impl Future<Output = ()>;
    /// The number of clients that read it.
    fn readers(&self) -> usize;
    /// The number of bytes received. `None`: the end will not be seen.
    fn size(&self) -> Option<u64>;
    /// Whether the body ended as it should.
    fn ended_cleanly(&self) -> impl Future<Output = bool>;
    /// Waits for the end of the body and makes an entry of it, or says why it is not stored. With the tokens that the response
    /// was charged with, as far as they are known.
    fn read_entry(
        &self,
        capture: Result<Capture, Reason>,
        now: impl FnOnce() -> u64,
    ) -> impl Future<Output = (Result<Entry, Reason>, Usage)>;
}

/// The result of a lookup in the memory tier and the store.
#[derive(Debug)]
pub enum Lookup {
    /// Nothing, or it was not read.
    Miss,
    /// An entry whose digest is right.
    Stored(EntryHead),
    /// The same, from the isolate's memory.
    InMemory(EntryHead),
    /// It could not be read, for this reason.
    Failed(Reason),
}

/// The result for a client that joins its key's coalesced fetch. `U`: an upstream response, `B`: a buffer.
pub enum Joined<U, B> {
    /// An upstream response.
    Response {
        /// The response.
        response: U,
        /// The client's role.
        role: CoalesceRole,
        /// The number of retries of the request.
        retries: u32,
        /// Whether the response may be stored, by its head.
        storable: Result<(), Reason>,
        /// Whether usage that this client did not request has to be removed.
        takes_out_usage: bool,
    },
    /// An encoded entry. `retained`: it was there before the client came.
    Entry {
        /// The encoded entry.
        value: B,
        /// Whether it was there before the client came.
        retained: bool,
    },
    /// The client's request was sent, and no response came.
    Failed {
        /// Why.
        error: FetchError,
        /// The number of retries of the request.
        retries: u32,
    },
    /// The coalescer does the rest.
    Handled,
    /// A background request that is not needed.
    Busy,
    /// The client fetches on its own.
    Independent,
}

/// A request body that has been read, or turned out to be too long.
pub enum BodyRead<P: Platform> {
    /// All of it: the bytes, and the same as a body to send on.
    Complete(Vec<u8>, P::Body),
    /// It is longer than the limit. Nothing of it is lost.
    TooLarge(P::Body),
    /// The client stopped sending.
    Incomplete,
}

/// The result of an admin command.
pub enum AdminResult {
    /// `/metrics`, as text.
    Metrics(String),
    /// The number of deleted entries, and the cursor of the next call.
    Deleted(usize, Option<String>),
    /// JSON.
    Json(String),
    /// The store failed.
    StoreFailed,
    /// Another error.
    Error(ProxyError),
}

/// Why no upstream response came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchError {
    /// No connection, or it broke.
    Unreachable,
    /// `TIMEOUT` passed.
    TimedOut,
}

impl FetchError {
    /// The reason in `Cache-Status` and in the log.
    pub const fn reason(self) -> Reason {
        match self {
            FetchError::Unreachable => Reason::UpstreamUnreachable,
            FetchError::TimedOut => Reason::UpstreamTimeout,
        }
    }
}

/// The options of a fetch.
pub struct FetchOptions<'a, C> {
    /// The longest time to the response head, retries included.
    pub budget: Duration,
    /// The failures after which the request may be retried.
    pub retry_safety: RetrySafety,
    /// Whether every client of the response has disconnected: then nothing is retried.
    pub is_abandoned: &'a dyn Fn() -> bool,
    /// The client whose disconnect aborts the request, if the response is for that client alone.
    pub client: Option<&'a C>,
}

/// The result of a fetch.
pub struct FetchOutcome<U> {
    /// The response, if one came within the budget.
    pub response: Result<U, FetchError>,
    /// The number of retries of the request.
    pub retries: u32,
    /// The duration, in milliseconds.
    pub ms: u64,
}

/// The options of sharing an upstream response.
pub struct ShareOptions<'a, C> {
    /// The most that is buffered for clients that join later, in bytes.
    pub max_buffered_bytes: usize,
    /// The client that leads, if one does.
    pub leader: Option<&'a C>,
    /// Whether the response may be stored, so that it is read to its end without any client.
    pub is_storable: bool,
}

/// Measurements of an exchange so far.
pub(super) fn measurements<P: Platform>(platform: &P) -> Measurements {
    Measurements { ms: platform.now().saturating_sub(platform.started()), ..Measurements::default() }
}
