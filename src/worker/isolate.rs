//! Values of which an isolate has one: the configuration, the counters, and the console.

use super::platform::binding;
use super::platform::time::now;
use crate::config::{Config, ConfigError};
use crate::ledger::counters::{Counters, Record, Slot};
use crate::protocol::usage::Usage;
use crate::status::Reason;
use crate::telemetry::exchange_log::{self, LogFields, LogSink, Measurements};
use crate::telemetry::metrics::{self, Metrics};
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use worker::Env;

thread_local! {
    pub static METRICS: RefCell<Metrics> = const { RefCell::new(Metrics::new()) };
    /// The counts that the ledger has not been sent. `None`: no ledger is bound.
    static COUNTERS: RefCell<Option<Counters>> = const { RefCell::new(None) };
    /// The metrics that the ledger has been sent.
    static METRICS_SENT: RefCell<Vec<(String, u64)>> = const { RefCell::new(Vec::new()) };
    static CONFIG: OnceCell<Result<Rc<Config>, ConfigError>> = const { OnceCell::new() };
    static LOG_SINK: Rc<Console> = Rc::new(Console);
}

/// The binding of the ledger's Durable Object.
const LEDGER: &str = "LEDGER";

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
            COUNTERS.set(binding::binding(env, LEDGER).map(|_| Counters::new()));
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
        if let Some(record) = fields.ledger_record(measurements, stored) {
            count(&record, now(), None);
        }
        console_log(&exchange_log::line(fields, *measurements, stored));
    }

    fn count_shared(&self, fields: &LogFields, usage: Usage) {
        count(&fields.ledger_record_shared(usage), now(), None);
    }

    fn unfinished(&self, fields: &LogFields) {
        console_warn(&format!("An exchange has ended without its log line: {} {}", fields.method, fields.route));
    }
}

/// Counts a request at `now` (milliseconds since 1970) if a ledger is bound. `slot`: as for [`Counters::count`].
pub fn count(record: &Record<'_>, now: u64, slot: Option<Slot>) -> Option<Slot> {
    COUNTERS.with_borrow_mut(|counters| Some(counters.as_mut()?.count(record, now, slot)))
}

/// The sink of log lines.
pub fn log_sink() -> Rc<dyn LogSink> {
    LOG_SINK.with(|sink| Rc::clone(sink) as Rc<dyn LogSink>)
}

/// What has been counted since the last call, for the ledger: JSON. `None`: nothing.
#[wasm_bindgen(js_name = takeBatch)]
pub fn take_batch() -> Option<String> {
    let samples = METRICS.with_borrow(Metrics::samples);
    let growth = METRICS_SENT.with_borrow(|sent| metrics::growth(&samples, sent));
    let batch = COUNTERS.with_borrow_mut(|counters| counters.as_mut()?.take(&growth));
    METRICS_SENT.set(samples);
    batch
}
