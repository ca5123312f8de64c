//! Routes: the upstream and the endpoint, or the admin command, that a path names.

pub mod admin;
pub mod endpoint;
pub mod location;
pub mod route;
