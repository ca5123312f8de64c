//! Runs a response's bytes through a [`BodyTransform`] on their way to the client. No other upstream bytes pass through wasm
//! before the client has them.

use super::coalesce::namespace::DISPOSITION_HEADER;
use super::platform::interop;
use crate::http::fields::REPRESENTATION_HEADERS;
use crate::proxy::reply::HeaderEdits;
use crate::transform::response::BodyTransform;
use js_sys::{Object, Reflect, Uint8Array};
use std::cell::RefCell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use web_sys::{ReadableStream, ReadableWritablePair, Response, TransformStream, TransformStreamDefaultController};

/// The upstream's response for the client: its head with `edits`, and `body` as it is or transformed.
pub fn pass_on(
    response: &Response,
    body: Option<&ReadableStream>,
    edits: &HeaderEdits,
    transform: Option<BodyTransform>,
) -> Response {
    let (Some(body), Some(transform)) = (body, transform) else {
        return interop::with_edits(response, body, edits, &[DISPOSITION_HEADER]);
    };
    let Ok(body) = pipe(body, transform) else { return interop::empty_response(502) };
    interop::with_edits(response, Some(&body), edits, &[&REPRESENTATION_HEADERS[..], &[DISPOSITION_HEADER]].concat())
}

/// The runtime moves the chunks and calls us for each, so disconnects and aborts are passed on as without a transform.
fn pipe(body: &ReadableStream, transform: BodyTransform) -> Result<ReadableStream, JsValue> {
    let transform = Rc::new(RefCell::new(Some(transform)));
    let at_end = Rc::clone(&transform);
    let on_chunk = Closure::<dyn FnMut(JsValue, TransformStreamDefaultController) -> Result<(), JsValue>>::new(
        move |chunk: JsValue, controller: TransformStreamDefaultController| {
            let chunk = Uint8Array::new(&chunk).to_vec();
            let out = transform.try_borrow_mut().ok().and_then(|mut transform| Some(transform.as_mut()?.push(&chunk)));
            enqueue(&controller, &out.unwrap_or_default())
        },
    );
    let on_end = Closure::<dyn FnMut(TransformStreamDefaultController) -> Result<(), JsValue>>::new(
        move |controller: TransformStreamDefaultController| {
            let transform = at_end.try_borrow_mut().ok().and_then(|mut transform| transform.take());
            enqueue(&controller, &transform.map(BodyTransform::finish).unwrap_or_default())
        },
    );
    let transformer = Object::new();
    // JavaScript's garbage collector frees the closures together with the stream.
    Reflect::set(&transformer, &"transform".into(), &on_chunk.into_js_value())?;
    Reflect::set(&transformer, &"flush".into(), &on_end.into_js_value())?;
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
