//! The Durable Object of a cache key: translates between HTTP and the coalescer.

use super::namespace::{DISPOSITION_HEADER, decode_frame};
use crate::cache::coalesce::Disposition;
use crate::cache::samples::Slots;
use crate::key::CacheKey;
use crate::proxy::coalescer::{self, CoalescerReply};
use crate::worker::isolate::config;
use crate::worker::platform::interop;
use crate::worker::platform::time::millis;
use crate::worker::runtime::Runtime;
use crate::worker::store::{memory, write_order};
use js_sys::Uint8Array;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Request, Response};
use worker::{DurableObject, Env, State, durable_object};

/// The Durable Object behind the binding `COALESCER`: one for each cache key.
#[durable_object(fetch)]
pub struct Coalescer {
    state: Rc<State>,
    env: Env,
    coalescer: coalescer::Coalescer<Runtime>,
}

impl DurableObject for Coalescer {
    fn new(state: State, env: Env) -> Coalescer {
        Coalescer { state: Rc::new(state), env, coalescer: coalescer::Coalescer::default() }
    }

    async fn fetch(&self, request: worker::Request) -> worker::Result<worker::Response> {
        let request = request.inner();
        if request.method() == "DELETE" {
            self.coalescer.forget();
            let url = request.url();
            if let Some(key) = url.rsplit('/').next().and_then(CacheKey::from_hex) {
                write_order::supersede(&key);
                memory::invalidate(&key.storage_key());
            }
            return Ok(respond(Disposition::Handled, None).into());
        }
        let buffer = JsFuture::from(request.array_buffer()?).await?;
        let response = self.join(&Uint8Array::new(&buffer), request).await;
        Ok(response.unwrap_or_else(|| respond(Disposition::Independent, None)).into())
    }
}

impl Coalescer {
    async fn join(&self, frame: &Uint8Array, message: &Request) -> Option<Response> {
        let (request, body) = decode_frame(frame)?;
        let runtime = Runtime::in_object(config(&self.env).ok()?, &self.env, self.state.clone(), message);
        let reply = self.coalescer.join(&runtime, request, &body, message.signal()).await;
        let disposition = reply.disposition();
        Some(match reply {
            CoalescerReply::Leader { response, .. } => {
                let value = disposition.to_header_value();
                interop::with_header(&response.response, response.body.as_ref(), &[], (DISPOSITION_HEADER, &value))
            }
            CoalescerReply::Follower { response, .. } => response,
            CoalescerReply::Entry { value, .. } => respond(disposition, Some(&value)),
            CoalescerReply::Failed { .. }
            | CoalescerReply::Handled
            | CoalescerReply::Busy
            | CoalescerReply::Independent => respond(disposition, None),
        })
    }
}

/// What an object of a set of samples answers to a message at `now` (milliseconds since 1970). `list`: its list of slots.
/// Returns the new list, the answer, and when the list is of no use any more (0: never). `random`: any number.
#[wasm_bindgen(js_name = obeySamples)]
pub fn obey_samples(list: &str, message: &str, now: f64, random: u32) -> Vec<JsValue> {
    // A list that cannot be read counts as empty: each slot is asked for again, and its stored response is found.
    let mut slots: Slots = list.parse().unwrap_or_default();
    let slot = message.parse().ok().and_then(|message| slots.obey(message, millis(now), random));
    let answer = slot.map(|slot| slot.to_string()).unwrap_or_default();
    // Times are exact below 2^53.
    let expiry = slots.expiry().unwrap_or(0) as f64;
    vec![slots.to_string().into(), answer.into(), expiry.into()]
}

fn respond(disposition: Disposition, body: Option<&Uint8Array>) -> Response {
    interop::response(200, &[(DISPOSITION_HEADER.to_owned(), disposition.to_header_value())], body)
}
