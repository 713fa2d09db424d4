//! The `spikeshade` program; see [`spikeshade::cli`].

#[cfg(not(target_arch = "wasm32"))]
fn main() -> std::process::ExitCode {
    // Without this variable Vulkan drivers complain, as an error, of not finding a Wayland display, which is not looked for.
    // A place that is not there says the same to them; one that others can write to would let them pose as a display.
    #[cfg(target_os = "linux")]
    if std::env::var_os("XDG_RUNTIME_DIR").is_none_or(|dir| dir.is_empty()) {
        // SAFETY: nothing else runs yet, so that nobody reads the environment meanwhile.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", "/nonexistent") };
    }
    spikeshade::cli::main()
}

#[cfg(target_arch = "wasm32")]
fn main() {}
