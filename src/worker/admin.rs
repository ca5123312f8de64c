//! Obeys the operator's orders.

use super::{Edge, METRICS};
use crate::proxy::reply::{self, Reply};
use crate::routing::admin::{self, Order};
use crate::telemetry::exchange_log::Facts;
use crate::telemetry::metrics::Metrics;
use crate::worker::platform::time::within;
use std::time::Duration;

/// How long a deletion may take.
const TIMEOUT: Duration = Duration::from_secs(25);

impl Edge {
    /// The reply to an order.
    pub(super) async fn operate(&self, order: Order, facts: Facts) -> Reply {
        if order == Order::Metrics {
            return reply::metrics(METRICS.with_borrow(Metrics::text), facts);
        }
        match within(TIMEOUT, self.delete(&order)).await.flatten() {
            Some((n, cursor)) => reply::deleted(n, cursor.as_deref(), facts),
            None => reply::operator_error(&admin::store_failed(), facts),
        }
    }

    async fn delete(&self, order: &Order) -> Option<(usize, Option<String>)> {
        // The flight first, or it might store the entry again.
        if let (Order::Forget(key), Some(flights)) = (order, &self.flights) {
            flights.forget(key).await;
        }
        match (order, &self.store) {
            (Order::Forget(key), Some(store)) => store.forget(key).await.ok().map(|n| (n, None)),
            (Order::Purge(purge), Some(store)) => store.purge(purge).await.ok(),
            _ => Some((0, None)),
        }
    }
}
