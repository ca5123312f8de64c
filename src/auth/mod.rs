//! Who the client is, and which credential goes upstream.

pub mod client;
pub mod upstream_credential;
