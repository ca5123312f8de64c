//! Requests to the Durable Objects: one for each cache key, each namespace, and each set of samples.

use crate::cache::coalesce::Disposition;
use crate::cache::samples::Message;
use crate::json;
use crate::key::CacheKey;
use crate::proxy::coalesce_request::CoalesceRequest;
use crate::proxy::platform::{ClientSignal, FetchError, Joined};
use crate::telemetry::exchange_log::CoalesceRole;
use crate::worker::platform::binding::binding;
use crate::worker::platform::fetch::UpstreamResponse;
use crate::worker::platform::interop;
use js_sys::{Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Request, RequestInit, RequestRedirect, Response};
use worker::Env;

/// The binding's name in `wrangler.toml`.
const BINDING: &str = "COALESCER";
/// The kind of a response of the object: see [`Disposition`].
pub const DISPOSITION_HEADER: &str = "x-reprise-disposition";
/// Length of the big-endian number that says where the coalesce request ends and the request body begins.
const LENGTH_BYTES: u32 = 4;

#[wasm_bindgen]
extern "C" {
    /// The objects' namespace.
    pub type DurableObjectNamespace;
    type Stub;

    #[wasm_bindgen(method, js_name = idFromName, catch)]
    fn id_from_name(this: &DurableObjectNamespace, name: &str) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn get(this: &DurableObjectNamespace, id: &JsValue) -> Result<Stub, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn fetch(this: &Stub, url: &str, init: &RequestInit) -> Result<Promise, JsValue>;
}

impl DurableObjectNamespace {
    /// The namespace that the environment binds, if any.
    pub fn bound(env: &Env) -> Option<DurableObjectNamespace> {
        binding(env, BINDING).map(JsCast::unchecked_into)
    }

    /// Sends a request to the object of its key. If that fails, the client fetches on its own. `original`: the client's request.
    pub async fn join(
        &self,
        request: &CoalesceRequest,
        body: &Uint8Array,
        client: &AbortSignal,
        original: Option<&Request>,
    ) -> Joined<UpstreamResponse, Uint8Array> {
        match self.try_join(request, body, client, original).await {
            Some(joined) => joined,
            None if client.is_disconnected() => Joined::Handled,
            None => Joined::Independent,
        }
    }

    /// Tells the object of a key to forget its response, and not to store the one in flight.
    pub async fn forget(&self, key: &CacheKey) {
        let init = RequestInit::new();
        init.set_method("DELETE");
        if let Some(response) = self.send(key, &format!("https://coalescer/{key}"), &init) {
            let _ = JsFuture::from(response).await;
        }
    }

    /// Records that a namespace is deleted now. `None`: that failed.
    pub async fn namespace_deleted(&self, prefix: &str) -> Option<()> {
        self.namespace(prefix, "PUT").await.map(drop)
    }

    /// When a namespace was last deleted, in milliseconds since 1970; 0: never. `None`: that is not known.
    pub async fn namespace_deleted_at(&self, prefix: &str) -> Option<u64> {
        self.namespace(prefix, "GET").await?.parse().ok()
    }

    /// Each namespace has an object of its own: see `main.js`.
    async fn namespace(&self, prefix: &str, method: &str) -> Option<String> {
        self.ask("namespace", prefix, method, None).await
    }

    /// Tells the object of a set of samples something. `None`: that failed.
    pub async fn tell_samples(&self, set: &CacheKey, message: Message) -> Option<String> {
        self.ask("samples", &set.to_string(), "POST", Some(&message.to_string())).await
    }

    /// A text from the object with this name among those of a kind.
    async fn ask(&self, kind: &str, name: &str, method: &str, body: Option<&str>) -> Option<String> {
        let init = RequestInit::new();
        init.set_method(method);
        if let Some(body) = body {
            init.set_body(&JsValue::from(body));
        }
        let stub = self.get(&self.id_from_name(&format!("{kind} {name}")).ok()?).ok()?;
        let response = JsFuture::from(stub.fetch(&format!("https://coalescer/{kind}"), &init).ok()?).await.ok()?;
        let response: Response = response.unchecked_into();
        JsFuture::from(response.text().ok()?).await.ok()?.as_string().filter(|_| response.ok())
    }

    fn send(&self, key: &CacheKey, url: &str, init: &RequestInit) -> Option<Promise> {
        self.get(&self.id_from_name(&key.to_string()).ok()?).ok()?.fetch(url, init).ok()
    }

    async fn try_join(
        &self,
        request: &CoalesceRequest,
        body: &Uint8Array,
        client: &AbortSignal,
        original: Option<&Request>,
    ) -> Option<Joined<UpstreamResponse, Uint8Array>> {
        let init = RequestInit::new();
        init.set_method("POST");
        // JSON cannot hold values that are not UTF-8, so these are sent as header fields.
        if let Some(original) = original.filter(|_| request.has_lossy_value()) {
            init.set_headers(&interop::original_headers(original, request.lossy_headers()));
        }
        let frame = encode_frame(request, body)?;
        init.set_body(&frame);
        init.set_redirect(RequestRedirect::Manual);
        init.set_signal(Some(client));
        let response = JsFuture::from(self.send(&request.key, "https://coalescer/", &init)?).await.ok()?;
        let response: Response = response.unchecked_into();
        let disposition = Disposition::parse(&response.headers().get(DISPOSITION_HEADER).ok()??)?;
        let upstream = || UpstreamResponse::from_coalescer(Clone::clone(&response));
        Some(match disposition {
            Disposition::Leader { retries, storable } => {
                let role = CoalesceRole::Leader;
                Joined::Response { response: upstream(), role, retries, storable, takes_out_usage: false }
            }
            Disposition::Follower { retries, takes_out_usage } => {
                let role = CoalesceRole::Follower;
                Joined::Response { response: upstream(), role, retries, storable: Ok(()), takes_out_usage }
            }
            Disposition::Entry | Disposition::Retained => {
                let buffer = JsFuture::from(response.array_buffer().ok()?).await.ok()?;
                Joined::Entry { value: Uint8Array::new(&buffer), retained: disposition == Disposition::Retained }
            }
            Disposition::Unreachable { retries } => Joined::Failed { error: FetchError::Unreachable, retries },
            Disposition::TimedOut { retries } => Joined::Failed { error: FetchError::TimedOut, retries },
            Disposition::Handled => Joined::Handled,
            Disposition::Busy => Joined::Busy,
            Disposition::Independent => Joined::Independent,
        })
    }
}

/// A coalesce request and the request body in one message: the length of the JSON in [`LENGTH_BYTES`], the JSON, and the body.
fn encode_frame(request: &CoalesceRequest, body: &Uint8Array) -> Option<Uint8Array> {
    let json = serde_json::to_vec(request).ok()?;
    let length = u32::try_from(json.len()).ok()?;
    let body_start = LENGTH_BYTES.checked_add(length)?;
    let frame = Uint8Array::new_with_length(body_start.checked_add(body.length())?);
    frame.set(&Uint8Array::from(length.to_be_bytes().as_slice()), 0);
    frame.set(&Uint8Array::from(json.as_slice()), LENGTH_BYTES);
    frame.set(body, body_start);
    Some(frame)
}

/// Reads a message of [`encode_frame`]. `None`: it is none.
pub fn decode_frame(frame: &Uint8Array) -> Option<(CoalesceRequest, Uint8Array)> {
    let length: [u8; 4] = frame.subarray(0, LENGTH_BYTES).to_vec().try_into().ok()?;
    let body_start = LENGTH_BYTES.checked_add(u32::from_be_bytes(length))?;
    let request = json::from_slice(&frame.subarray(LENGTH_BYTES, body_start).to_vec())?;
    Some((request, frame.subarray(body_start, frame.length())))
}
