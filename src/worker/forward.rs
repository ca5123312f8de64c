//! Steps 4 and 5 of [`crate::proxy`]: the upstream is asked, by the question's flight or by ourselves.

use super::coalesce::broadcast as broadcast;
use super::coalesce::durable_object::Coalesced;
use super::coalesce::in_flight::{Call, FetchTask};
use super::platform::fetch::Body;
use super::revalidation as refresh;
use super::transform as response_transform;
use super::{Edge, bytes, length, replayed, reply, store, log_exchange};
use crate::http::fields;
use crate::proxy::UpstreamFetch;
use crate::telemetry::exchange_log::{LogFields, Measurements, CoalesceRole};
use crate::worker::platform::time::now;
use futures_channel::oneshot;
use futures_util::future::join;
use js_sys::Uint8Array;
use std::rc::Rc;
use std::time::Duration;
use web_sys::{AbortController, AbortSignal, Response};

impl Edge {
    /// Asks, gives the answer away as soon as its head is there, and stores a copy. An entry whose body is `stored` may
    /// stand in for an answer that fails.
    pub(super) async fn ask(
        self,
        mut upstream_fetch: UpstreamFetch,
        body: Body,
        stored: Option<Uint8Array>,
        head_came: oneshot::Sender<Response>,
    ) {
        let began = now();
        let landed = match self.join_coalesced(&mut upstream_fetch, &body, &self.client).await {
            Coalesced::Entry { value, finished } => match self.verify_and_cache(&mut upstream_fetch, &value, finished, began).await {
                Some(response) => return drop(head_came.send(response)),
                None => Coalesced::Alone { late: false },
            },
            landed => landed,
        };
        match landed {
            Coalesced::Alone { late } => {
                let client_gone = if late { Duration::from_millis(now().saturating_sub(began)) } else { Duration::ZERO };
                let budget = self.config.timeout.saturating_sub(client_gone);
                let (head, task) = self.alone(&mut upstream_fetch, body, budget, self.client.clone());
                let answered = async {
                    let landed = head.await.map_or(Coalesced::Done, |head| Coalesced::head(head, None));
                    self.answer_with(upstream_fetch, landed, stored, head_came, began);
                };
                join(task, answered).await;
            }
            landed => self.answer_with(upstream_fetch, landed, stored, head_came, began),
        }
    }

    /// Takes the question to its flight, where there are any and it may be shared.
    async fn join_coalesced(&self, upstream_fetch: &mut UpstreamFetch, body: &Body, client: &AbortSignal) -> Coalesced {
        match (&self.coalescer, body) {
            (Some(coalescer), Body::Bytes(body)) if upstream_fetch.may_coalesce() => {
                let job = upstream_fetch.coalesce_request(self.measurements().ms);
                coalescer.join_coalesced(&job, body, client).await
            }
            _ => Coalesced::Alone { late: false },
        }
    }

    /// The call that is made without a flight, and its head.
    fn alone(
        &self,
        upstream_fetch: &mut UpstreamFetch,
        body: Body,
        budget: Duration,
        client: AbortSignal,
    ) -> (oneshot::Receiver<super::coalesce::in_flight::Head>, impl Future<Output = ()> + use<>) {
        let job = upstream_fetch.coalesce_request(self.measurements().ms);
        let call = Rc::new(Call::new(&job));
        let (store, config) = (self.store.clone(), self.config.clone());
        let task = FetchTask { call: call.clone(), job, config, budget, store, client: client.clone(), current: None };
        let (head_came, head) = oneshot::channel();
        let run = async move {
            let _seat = call.wait(&client);
            task.run(body, head_came).await;
        };
        (head, run)
    }

    /// What the client gets of what came.
    fn answer_with(
        &self,
        mut upstream_fetch: UpstreamFetch,
        landed: Coalesced,
        stored: Option<Uint8Array>,
        head_came: oneshot::Sender<Response>,
        began: u64,
    ) {
        // Nobody listens any more if the client has left.
        let give = |response| drop(head_came.send(response));
        let (answer, retries, part) = match landed {
            Coalesced::UpstreamResponse(answer, retries, part) => (Ok(answer), retries, part),
            Coalesced::Failed(failure, retries, part) => (Err(failure), retries, part),
            Coalesced::Entry { .. } | Coalesced::Done | Coalesced::Busy | Coalesced::Alone { .. } => return,
        };
        let waited = Some(now().saturating_sub(began));
        let measurements = if part == Some(CoalesceRole::Follower) {
            upstream_fetch.mark_collapsed();
            Measurements { coalesce_role: part, waited_ms: waited, ..self.measurements() }
        } else {
            Measurements { coalesce_role: part, upstream_ms: waited, retries, ..self.measurements() }
        };
        let outcome = answer.as_ref().map(|answer| answer.status).map_err(|failure| *failure);
        if let Some(replay) = upstream_fetch.serve_stale(outcome, now(), || bytes(stored.as_ref())) {
            if let Ok(answer) = &answer {
                answer.abort();
            }
            let (response, bytes) = replayed(&replay, stored.as_ref());
            log_exchange(&replay.log_fields, Measurements { bytes, ..measurements }, Ok(()));
            return give(response);
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return give(reply(upstream_fetch.failed(failure), measurements)),
        };
        let (edits, capture) = upstream_fetch.answered(&self.config, answer.status, &answer.headers);
        // What leads to an entry is written about when it is known what came of it.
        if part == Some(CoalesceRole::Follower) || capture.is_err() {
            let bytes = length(fields::content_length(&answer.headers));
            let kept = if part == Some(CoalesceRole::Follower) { Ok(()) } else { capture.map(drop) };
            log_exchange(&upstream_fetch.log_fields, Measurements { bytes, ..measurements }, kept);
        }
        let body_transform = upstream_fetch.body_transform(&self.config, answer.status, &answer.headers);
        let body = broadcast::with_idle_timeout(&answer, self.config.idle_timeout, &self.client);
        give(response_transform::passing(&answer.response, body.as_ref(), &edits, body_transform));
    }

    /// The answer that the flight has as a whole. `None`: it is of no use to this caller after all.
    async fn verify_and_cache(&self, upstream_fetch: &mut UpstreamFetch, value: &Uint8Array, finished: bool, began: u64) -> Option<Response> {
        let (head, body) = store::open(value).await?;
        let replay = upstream_fetch.from_coalesced(&head, finished, now(), || body.to_vec())?;
        let (response, bytes) = replayed(&replay, Some(&body));
        let waited_ms = Some(now().saturating_sub(began));
        let measurements = Measurements { bytes, coalesce_role: Some(CoalesceRole::Follower), waited_ms, ..self.measurements() };
        log_exchange(&replay.log_fields, measurements, Ok(()));
        Some(response)
    }

    /// The same behind the back of a client who has its answer: the next ones get a newer one.
    pub(super) async fn refresh(self, log_fields: LogFields, measurements: Measurements, mut upstream_fetch: UpstreamFetch, body: Body) {
        upstream_fetch.log_fields = log_fields;
        // Its client may well leave: it has its answer.
        let nobody = AbortController::new().map_or(self.client.clone(), |controller| controller.signal());
        match self.join_coalesced(&mut upstream_fetch, &body, &nobody).await {
            // The flight sees to it, and writes the line.
            Coalesced::Done => {}
            Coalesced::Busy | Coalesced::Entry { .. } => log_exchange(&upstream_fetch.log_fields, measurements, Ok(())),
            _ => self.alone(&mut upstream_fetch, body, self.config.timeout, nobody).1.await,
        }
        refresh::end(&upstream_fetch.key);
    }
}
