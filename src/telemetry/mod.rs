//! The log line of an exchange, and the counters of `/metrics`.

pub mod exchange_log;
pub mod metrics;
