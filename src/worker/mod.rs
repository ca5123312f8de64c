//! The Worker: carries out what the core decides. The only room that names the Workers runtime.
//!
//! A panic resets the wasm instance under every concurrent request, so the client's bytes never depend on this code: an
//! upstream body reaches the client as a JavaScript stream, a stored one as a JavaScript buffer.

mod coalesce;
mod dashboard;
mod fast_path;
mod isolate;
mod ledger;
mod platform;
mod rate_limit;
mod revalidation;
mod runtime;
mod store;
mod transform;

use crate::http::fields::content_length;
use crate::proxy::exchange::{exchange, misconfigured};
use fast_path::Probe;
use isolate::{config, log_sink};
use platform::fetch::{Body, IncomingBody};
use platform::interop;
use platform::time::now;
use runtime::Runtime;
use web_sys::{Request, Response};
use worker::{Context, Env, event};

#[event(fetch)]
async fn fetch(request: Request, env: Env, context: Context) -> worker::Result<Response> {
    let probe = fast_path::probe(&request);
    let started = probe.as_ref().map_or_else(now, Probe::started);
    let head = interop::request_head(&request);
    Ok(match config(&env) {
        Ok(config) => {
            let length = content_length(&head.headers);
            let body = request.body().map_or(Body::None, |stream| Body::Stream(IncomingBody { stream, length }));
            exchange(Runtime::for_event(config, &env, context, &request, probe), head, body).await
        }
        Err(error) => {
            let elapsed_ms = now().saturating_sub(started);
            runtime::respond(&misconfigured(&error, &head, log_sink(), elapsed_ms))
        }
    })
}
