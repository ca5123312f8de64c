//! The way to the ledger: a Durable Object in JavaScript, see `ledger.js`. `sender.js` sends it what the isolate has counted.

use crate::json;
use crate::protocol::usage::Usage;
use crate::status::Reason;
use crate::telemetry::exchange_log::{LogFields, LogSink, Measurements};
use crate::worker::isolate::log_sink;
use crate::worker::runtime::Runtime;
use js_sys::Promise;
use serde::Deserialize;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use worker::Env;

#[wasm_bindgen(module = "/src/worker/ledger/sender.js")]
extern "C" {
    /// Sends batches.
    pub type LedgerSender;

    #[wasm_bindgen(js_name = ledgerSender)]
    fn isolate_sender() -> LedgerSender;

    #[wasm_bindgen(method)]
    fn due(this: &LedgerSender, env: &Env) -> Option<Promise>;

    #[wasm_bindgen(method)]
    fn ask(this: &LedgerSender, env: &Env, question: &str, query: &str, prices: Option<&str>) -> Option<Promise>;
}

/// The isolate's sender, for the main module.
#[wasm_bindgen(js_name = ledgerSender)]
pub fn ledger_sender() -> JsValue {
    isolate_sender().into()
}

/// What the ledger answers to an operator's question.
#[derive(Deserialize)]
pub struct Answer {
    /// 200, or 400 if a parameter is invalid.
    pub status: u16,
    /// JSON, or what is wrong with the parameter.
    pub text: String,
}

/// Asks the ledger, once it has what this isolate has counted. The outer `None`: it is not bound. The inner: it fails.
pub async fn ask(env: &Env, question: &str, query: &str, prices: Option<&str>) -> Option<Option<Answer>> {
    let answer = JsFuture::from(isolate_sender().ask(env, question, query, prices)?).await;
    Some(answer.ok().and_then(|answer| json::from_slice(answer.as_string()?.as_bytes())))
}

/// Writes the lines of one event, and sends what is counted once that is due.
pub struct EventLog {
    runtime: Runtime,
    env: Env,
}

impl EventLog {
    /// The log of an event.
    pub fn new(runtime: Runtime, env: Env) -> EventLog {
        EventLog { runtime, env }
    }

    fn send_if_due(&self) {
        if let Some(sent) = isolate_sender().due(&self.env) {
            self.runtime.run(async move { drop(JsFuture::from(sent).await) });
        }
    }
}

impl LogSink for EventLog {
    fn write(&self, fields: &LogFields, measurements: &Measurements, stored: Result<(), Reason>) {
        log_sink().write(fields, measurements, stored);
        self.send_if_due();
    }

    fn count_shared(&self, fields: &LogFields, usage: Usage) {
        log_sink().count_shared(fields, usage);
        self.send_if_due();
    }

    fn unfinished(&self, fields: &LogFields) {
        log_sink().unfinished(fields);
    }
}
