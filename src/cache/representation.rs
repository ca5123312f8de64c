//! In what form does a stored answer go to a caller: as it is, without its usage chunk, or converted to the other mode?

use crate::cache::entry::Head;
use crate::protocol::{Carriage, Dialect};
use crate::routing::endpoint::Endpoint;

/// What has to be done to a stored body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Nothing: its bytes go out verbatim.
    Verbatim,
    /// The final usage chunk is left out: its asker wanted it, this caller does not.
    WithoutUsage(Dialect),
    /// It is given in the other mode.
    Converted(Dialect),
}

/// The form in which an entry answers a caller who wants it carried like this. `None`: in none.
pub fn form(endpoint: Endpoint, head: &Head, wanted: Carriage) -> Option<Form> {
    // Whoever asks just as the first did gets what the first got, however the upstream carried it.
    if head.asked == wanted {
        return Some(Form::Verbatim);
    }
    let dialect = Dialect::of(endpoint);
    if head.stream != wanted.stream {
        return dialect.map(Form::Converted);
    }
    match dialect.filter(|dialect| head.stream && dialect.separates_usage()) {
        Some(_) if wanted.include_usage && !head.has_usage => None,
        Some(dialect) if !wanted.include_usage && head.has_usage => Some(Form::WithoutUsage(dialect)),
        _ => Some(Form::Verbatim),
    }
}

/// The largest body that is converted, in bytes. A conversion holds the answer several times over, and all requests of
/// an isolate share its memory.
const MAX_CONVERTED: usize = 2 << 20;

/// A body in another form: its bytes, and its content type where that changes. `None`: it cannot be given faithfully.
pub fn render(form: Form, body: &[u8], wanted: Carriage) -> Option<(Option<&'static str>, Vec<u8>)> {
    match form {
        Form::Verbatim => Some((None, body.to_vec())),
        _ if body.len() > MAX_CONVERTED => None,
        Form::WithoutUsage(dialect) => dialect.without_usage(body).map(|bytes| (None, bytes)),
        Form::Converted(dialect) => dialect.convert(body, wanted).map(|(kind, bytes)| (Some(kind), bytes)),
    }
}
