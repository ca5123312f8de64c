//! What an isolate counts for the ledger, and the batches in which it is sent there. The ledger itself is a Durable Object:
//! see `src/worker/ledger`.

pub mod counters;
