//! In which representation is a stored response served: verbatim, without its usage chunk, or converted to the other mode?

use crate::cache::entry::EntryHead;
use crate::protocol::{MAX_CONVERTED, Protocol, ResponseMode};
use crate::routing::endpoint::Endpoint;

/// The form in which a stored body is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Representation {
    /// Byte for byte.
    Verbatim,
    /// Without the final usage chunk, which the first client requested and this one did not.
    WithoutUsage(Protocol),
    /// Converted to the other mode.
    Converted(Protocol),
}

/// The representation of an entry for a client that wants this mode. `None`: there is none.
pub fn representation(endpoint: Endpoint, head: &EntryHead, wanted: ResponseMode) -> Option<Representation> {
    // A request for the same mode gets the stored bytes, whatever mode the upstream responded in.
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

/// A body in a representation: its bytes, and its content type if that changes. `None`: it cannot be converted faithfully.
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
