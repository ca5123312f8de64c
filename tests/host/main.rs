//! The tests of the core on the host, as one binary.

// A test fails by panicking.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod admission;
mod cases;
mod client_headers;
mod fast_path_properties;
mod fuzz_seeds;
mod key_properties;
mod platform;
mod protocol_google_cohere_ollama;
mod protocol_responses_anthropic;
mod request_transform_properties;
mod response_transform_properties;
mod rooms;
mod sample_slots;
mod security;
mod sse_properties;
mod tenant_isolation;
