//! `spikeshade-bindgen WASM FOLDER NAME`: writes `NAME.js`, `NAME.d.ts` and `NAME_bg.wasm`, an ES module for browsers.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [wasm, folder, name] = &arguments[..] else {
        eprintln!("usage: spikeshade-bindgen WASM FOLDER NAME");
        return ExitCode::FAILURE;
    };
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    let web = bindgen.input_path(wasm).out_name(name).typescript(true).web(true);
    match web.and_then(|bindgen| bindgen.generate(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{wasm}: {e:#}");
            ExitCode::FAILURE
        }
    }
}
