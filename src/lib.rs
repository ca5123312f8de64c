//! Reprise: a caching proxy for OpenAI-compatible and other LLM APIs, as a Cloudflare Worker.
//!
//! In scope: the cache key, the decision whether a response may be stored and served again, and an explanation of both in
//! every response. The operator's transforms of requests and responses are small and off by default. Out of scope: choosing
//! a model, balancing load between providers, rewriting prompts.
//!
//! # Rooms
//! A room imports only rooms above it in this list; a test checks that. All but the last are plain Rust without clock,
//! network or bindings: they decide, and they build and run on the host. The last one exists for wasm alone and carries
//! the decisions out.
//!
//! # The life of a request
//! `proxy/exchange.rs` holds it, as one function with numbered steps.

// Only the Worker uses all of the core, so only its build can tell what is dead.
#![cfg_attr(not(target_arch = "wasm32"), allow(dead_code))]

pub(crate) mod json;
pub(crate) mod http;
pub(crate) mod key;
pub(crate) mod status;
pub(crate) mod config;
pub(crate) mod routing;
pub(crate) mod protocol;
pub(crate) mod cache;
pub(crate) mod auth;
pub(crate) mod transform;
pub(crate) mod ledger;
pub(crate) mod telemetry;
pub(crate) mod proxy;

#[cfg(target_arch = "wasm32")]
mod worker;

#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub mod testing;
