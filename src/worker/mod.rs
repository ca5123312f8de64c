//! The Worker: carries out what the core decides. The only room that names the Workers runtime.
//!
//! A panic resets the wasm instance under every concurrent request, so the client's bytes never depend on this code: an
//! upstream body reaches the client as a JavaScript stream, a stored one as a JavaScript buffer.

mod coalesce;
mod fast_path;
mod platform;
mod rate_limit;
mod revalidation;
mod runtime;
mod store;
mod transform;

use crate::config::{Config, ConfigError};
use crate::http::fields::content_length;
use crate::proxy::exchange::{exchange, misconfigured};
use crate::status::Reason;
use crate::telemetry::exchange_log::{self, LogFields, LogSink, Measurements};
use crate::telemetry::metrics::Metrics;
use fast_path::Probe;
use platform::fetch::{Body, IncomingBody};
use platform::time::now;
use platform::{binding, interop};
use runtime::Runtime;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use web_sys::{Request, Response};
use worker::{Context, Env, event};

thread_local! {
    static METRICS: RefCell<Metrics> = const { RefCell::new(Metrics::new()) };
    static CONFIG: OnceCell<Result<Rc<Config>, ConfigError>> = const { OnceCell::new() };
    static LOG_SINK: Rc<Console> = Rc::new(Console);
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = log)]
    fn console_log(line: &str);

    #[wasm_bindgen(js_namespace = console, js_name = warn)]
    fn console_warn(line: &str);
}

/// The configuration, read once per isolate.
fn config(env: &Env) -> Result<Rc<Config>, ConfigError> {
    CONFIG.with(|cell| {
        cell.get_or_init(|| {
            report_panics();
            Config::read(|name| binding::variable(env, name)).map(Rc::new)
        })
        .clone()
    })
}

/// Panics are written to the console with their place, before the runtime's own handling of them.
fn report_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        console_error_panic_hook::hook(info);
        before(info);
    }));
}

/// The console and the isolate's counters.
struct Console;

impl LogSink for Console {
    fn write(&self, fields: &LogFields, measurements: &Measurements, stored: Result<(), Reason>) {
        METRICS.with_borrow_mut(|metrics| metrics.count(fields, measurements, stored));
        console_log(&exchange_log::line(fields, *measurements, stored));
    }

    fn unfinished(&self, fields: &LogFields) {
        console_warn(&format!("An exchange has ended without its log line: {} {}", fields.method, fields.route));
    }
}

fn log_sink() -> Rc<dyn LogSink> {
    LOG_SINK.with(|sink| Rc::clone(sink) as Rc<dyn LogSink>)
}

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
