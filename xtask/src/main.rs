//! `cargo xtask bindgen MODULE.wasm FOLDER`: writes `index.js`, `index_bg.wasm` and the JavaScript that the crate imports.
//!
//! This is the `wasm-bindgen` command as a library, so that `Cargo.lock` pins it and a build installs no other program.

use std::{env, error::Error, process::ExitCode};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ["bindgen", module, folder] = arguments.as_slice() else {
        eprintln!("Usage: cargo xtask bindgen MODULE.wasm FOLDER");
        return ExitCode::from(2);
    };
    match bindgen(module, folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask bindgen: {error:?}");
            ExitCode::FAILURE
        }
    }
}

/// The options for a Worker with `panic = "abort"`: `main.js` relies on the reset for a new instance after a panic.
fn bindgen(module: &str, folder: &str) -> Result<(), Box<dyn Error>> {
    Bindgen::new()
        .input_path(module)
        .out_name("index")
        .module(true)?
        .typescript(false)
        .reset_state_function(true)
        .force_enable_abort_handler(true)
        .generate(folder)?;
    Ok(())
}
