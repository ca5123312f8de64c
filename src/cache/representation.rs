//! In what form does a stored answer go to a caller: as it is, without its usage chunk, or converted to the other mode?

use crate::cache::entry::EntryHead;
use crate::protocol::{Protocol, ResponseMode};
use crate::routing::endpoint::Endpoint;

/// What has to be done to a stored body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Representation {
    /// Nothing: its bytes go out verbatim.
    Verbatim,
    /// The final usage chunk is left out: its asker wanted it, this caller does not.
    WithoutUsage(Protocol),
    /// It is given in the other mode.
    Converted(Protocol),
}

/// The form in which an entry answers a caller who wants it carried like this. `None`: in none.
pub fn representation(endpoint: Endpoint, head: &EntryHead, wanted: ResponseMode) -> Option<Representation> {
    // Whoever asks just as the first did gets what the first got, however the upstream carried it.
    if head.requested_mode == wanted {
        return Some(Representation::Verbatim);
    }
    let protocol = Protocol::of(endpoint);
    if head.stream != wanted.stream {
        return protocol.map(Representation::Converted);
    }
    match protocol.filter(|protocol| head.stream && protocol.separates_usage()) {
        Some(_) if wanted.include_usage && !head.has_usage => None,
        Some(protocol) if !wanted.include_usage && head.has_usage => Some(Representation::WithoutUsage(protocol)),
        _ => Some(Representation::Verbatim),
    }
}

/// The largest body that is converted, in bytes. A conversion holds the answer several times over, and all requests of
/// an isolate share its memory.
const MAX_CONVERTED: usize = 2 << 20;

/// A body in another form: its bytes, and its content type where that changes. `None`: it cannot be given faithfully.
pub fn render(
    representation: Representation,
    body: &[u8],
    wanted: ResponseMode,
) -> Option<(Option<&'static str>, Vec<u8>)> {
    match representation {
        Representation::Verbatim => Some((None, body.to_vec())),
        _ if body.len() > MAX_CONVERTED => None,
        Representation::WithoutUsage(protocol) => protocol.without_usage(body).map(|bytes| (None, bytes)),
        Representation::Converted(protocol) => protocol.convert(body, wanted).map(|(kind, bytes)| (Some(kind), bytes)),
    }
}
