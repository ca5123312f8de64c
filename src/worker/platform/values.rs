//! The runtime's buffers and signals, as the core uses them.

use crate::proxy::platform::{Buffer, ClientSignal};
use js_sys::{Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::AbortSignal;

impl Buffer for Uint8Array {
    fn from_slice(bytes: &[u8]) -> Uint8Array {
        Uint8Array::from(bytes)
    }

    fn to_vec(&self) -> Vec<u8> {
        Uint8Array::to_vec(self)
    }

    fn byte_len(&self) -> usize {
        usize::try_from(self.length()).unwrap_or(usize::MAX)
    }
}

impl ClientSignal for AbortSignal {
    fn is_disconnected(&self) -> bool {
        self.aborted()
    }

    async fn disconnected(&self) {
        let promise = Promise::new(&mut |resolve, _| {
            if self.aborted() {
                let _ = resolve.call0(&JsValue::NULL);
            }
            self.set_onabort(Some(&resolve));
        });
        let _ = JsFuture::from(promise).await;
    }
}
