//! The tests of the core on the host, as one binary.

// A test fails by panicking.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod cases;
mod dialect_google_cohere_ollama;
mod dialect_responses_anthropic;
mod exchange_table;
mod isolation;
mod key_properties;
mod polish_properties;
mod repeat_properties;
mod security;
mod shape_properties;
mod sse_properties;
