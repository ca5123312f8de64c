//! Obeys the operator's orders.

use super::{Edge, METRICS};
use crate::proxy::reply::{self, ProxyResponse};
use crate::routing::admin::{self, AdminCommand};
use crate::telemetry::exchange_log::LogFields;
use crate::telemetry::metrics::Metrics;
use crate::worker::platform::time::within;
use std::time::Duration;

/// How long a deletion may take.
const TIMEOUT: Duration = Duration::from_secs(25);

impl Edge {
    /// The reply to an order.
    pub(super) async fn operate(&self, order: AdminCommand, log_fields: LogFields) -> ProxyResponse {
        if order == AdminCommand::Metrics {
            return reply::metrics(METRICS.with_borrow(Metrics::text), log_fields);
        }
        match within(TIMEOUT, self.delete(&order)).await.flatten() {
            Some((n, cursor)) => reply::deleted(n, cursor.as_deref(), log_fields),
            None => reply::operator_error(&admin::store_failed(), log_fields),
        }
    }

    async fn delete(&self, order: &AdminCommand) -> Option<(usize, Option<String>)> {
        // The flight first, or it might store the entry again.
        if let (AdminCommand::Delete(key), Some(coalescer)) = (order, &self.coalescer) {
            coalescer.forget(key).await;
        }
        match (order, &self.store) {
            (AdminCommand::Delete(key), Some(store)) => store.forget(key).await.ok().map(|n| (n, None)),
            (AdminCommand::Purge(purge), Some(store)) => store.purge(purge).await.ok(),
            _ => Some((0, None)),
        }
    }
}
