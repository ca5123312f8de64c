//! Runs an answer's bytes through a [`BodyTransform`] on their way to the client: the only bytes of an answer that pass through
//! wasm before the client has them, and only where the operator wants them changed.

use super::coalesce::durable_object::DISPOSITION;
use crate::http::fields::REPRESENTATION_HEADERS;
use crate::proxy::reply::HeaderEdits;
use crate::transform::response::BodyTransform;
use crate::worker::platform::interop as interop;
use js_sys::{Object, Reflect, Uint8Array};
use std::cell::RefCell;
use wasm_bindgen::prelude::*;
use web_sys::{ReadableStream, ReadableWritablePair, Response, TransformStream, TransformStreamDefaultController};

/// The upstream's answer for the client, its head with `edits`, and `body`: as it is, or polished.
pub fn passing(
    response: &Response,
    body: Option<&ReadableStream>,
    edits: &HeaderEdits,
    body_transform: Option<BodyTransform>,
) -> Response {
    let (Some(body), Some(body_transform)) = (body, body_transform) else {
        return interop::passing(response, body, edits, &[DISPOSITION]);
    };
    let Ok(body) = piped(body, body_transform) else { return interop::empty_response(502) };
    interop::passing(response, Some(&body), edits, &[&REPRESENTATION_HEADERS[..], &[DISPOSITION]].concat())
}

/// The platform moves the pieces and calls us for each: nothing here waits, and a client that leaves or an upstream that
/// breaks off is passed on as ever.
fn piped(body: &ReadableStream, body_transform: BodyTransform) -> Result<ReadableStream, JsValue> {
    let body_transform = std::rc::Rc::new(RefCell::new(Some(body_transform)));
    let at_end = std::rc::Rc::clone(&body_transform);
    let transform = Closure::<dyn FnMut(JsValue, TransformStreamDefaultController) -> Result<(), JsValue>>::new(
        move |piece: JsValue, controller: TransformStreamDefaultController| {
            let piece = Uint8Array::new(&piece).to_vec();
            let out = body_transform.try_borrow_mut().ok().and_then(|mut body_transform| Some(body_transform.as_mut()?.push(&piece)));
            enqueue(&controller, &out.unwrap_or_default())
        },
    );
    let flush = Closure::<dyn FnMut(TransformStreamDefaultController) -> Result<(), JsValue>>::new(
        move |controller: TransformStreamDefaultController| {
            let body_transform = at_end.try_borrow_mut().ok().and_then(|mut body_transform| body_transform.take());
            enqueue(&controller, &body_transform.map(BodyTransform::finish).unwrap_or_default())
        },
    );
    let transformer = Object::new();
    // The platform's garbage collector ends their lives with the stream's.
    Reflect::set(&transformer, &"transform".into(), &transform.into_js_value())?;
    Reflect::set(&transformer, &"flush".into(), &flush.into_js_value())?;
    let through = TransformStream::new_with_transformer(&transformer)?;
    let pair = ReadableWritablePair::new(&through.readable(), &through.writable());
    Ok(body.pipe_through(&pair))
}

fn enqueue(controller: &TransformStreamDefaultController, bytes: &[u8]) -> Result<(), JsValue> {
    if bytes.is_empty() {
        return Ok(());
    }
    controller.enqueue_with_chunk(&Uint8Array::from(bytes))
}
