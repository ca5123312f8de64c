//! Values of which an isolate has one: the configuration, the counters, and the console.

use super::platform::binding;
use crate::config::{Config, ConfigError};
use crate::status::Reason;
use crate::telemetry::exchange_log::{self, LogFields, LogSink, Measurements};
use crate::telemetry::metrics::Metrics;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use worker::Env;

thread_local! {
    pub static METRICS: RefCell<Metrics> = const { RefCell::new(Metrics::new()) };
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
pub fn config(env: &Env) -> Result<Rc<Config>, ConfigError> {
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

/// The sink of log lines.
pub fn log_sink() -> Rc<dyn LogSink> {
    LOG_SINK.with(|sink| Rc::clone(sink) as Rc<dyn LogSink>)
}
