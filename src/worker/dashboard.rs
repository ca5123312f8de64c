//! The page of `/dashboard`, a module of its own beside the wasm.

use wasm_bindgen::prelude::*;
use web_sys::Response;

#[wasm_bindgen(module = "/src/worker/dashboard.js")]
extern "C" {
    /// The page. `with_body`: whether the request was not HEAD.
    #[wasm_bindgen(js_name = dashboardResponse)]
    pub fn response(with_body: bool) -> Response;
}
