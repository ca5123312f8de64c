//! Client authentication, and the credential that goes upstream.

pub mod client;
pub mod upstream_credential;
