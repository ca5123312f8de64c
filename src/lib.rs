//! Reprise: a caching proxy for OpenAI-compatible and other LLM APIs, as a Cloudflare Worker.
//!
//! In scope: naming a question ([`key`]), deciding whether its answer may be kept and given again ([`policy`],
//! [`capture`]), and saying so ([`status`]). What the operator has asked for beside that is
//! small: changes to a request before it is named ([`shape`]) and to an answer after the cache ([`polish`]). Out of scope:
//! choosing a model, balancing between providers, counting money.
//!
//! Two floors. Everything here but `edge` is plain Rust without clock, network or bindings: it decides, and builds and
//! tests on the host. `edge` exists for wasm only: it obeys. [`flow`] is the one place that names all the steps in order.

pub mod admin;
pub mod body;
pub mod caller;
pub mod canonical;
pub mod capture;
pub mod config;
pub mod credential;
pub mod dialect;
pub mod directives;
pub mod endpoint;
pub mod entry;
pub mod error;
pub mod flight;
pub mod flow;
pub mod headers;
pub mod json;
pub mod key;
pub mod log;
pub mod metrics;
pub mod policy;
pub mod polish;
pub mod present;
pub mod provider;
pub mod redis;
pub mod replay;
pub mod retry;
pub mod route;
pub mod shape;
pub mod sse;
pub mod status;

#[cfg(target_arch = "wasm32")]
mod edge;
