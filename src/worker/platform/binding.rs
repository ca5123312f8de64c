//! Bindings of the environment: variables, secrets, and other services.

use js_sys::{JSON, Reflect};
use wasm_bindgen::prelude::*;
use worker::Env;

/// A binding. `None`: the environment has none of this name.
pub fn binding(env: &Env, name: &str) -> Option<JsValue> {
    let value = Reflect::get(env, &name.into()).ok()?;
    (!value.is_undefined() && !value.is_null()).then_some(value)
}

/// The text of a variable or secret. A TOML value in `wrangler.toml` comes as JSON text.
pub fn variable(env: &Env, name: &str) -> Option<String> {
    let value = binding(env, name)?;
    value.as_string().or_else(|| JSON::stringify(&value).ok()?.as_string())
}
