//! The `spikeshade` program; see [`spikeshade::cli`].

#[cfg(not(target_arch = "wasm32"))]
fn main() -> std::process::ExitCode {
    spikeshade::cli::main()
}

#[cfg(target_arch = "wasm32")]
fn main() {}
