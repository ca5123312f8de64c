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
//! [`proxy::exchange`] holds it, as one function with numbered steps.

pub mod auth;
pub mod cache;
pub mod config;
pub mod http;
pub mod json;
pub mod key;
pub mod protocol;
pub mod proxy;
pub mod routing;
pub mod status;
pub mod telemetry;
pub mod transform;

#[cfg(target_arch = "wasm32")]
mod worker;
