//! Which upstream and which endpoint a path names, and which admin command.

pub mod admin;
pub mod endpoint;
pub mod route;
