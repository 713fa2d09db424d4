//! The `spikeshade` program: one module for each command, and here what they share.
//!
//! Results go to stdout, as text or (`--json`) as one JSON document; everything else goes to stderr. The exit code is 0,
//! 1 after an error, 2 after a mistake in the arguments, or 130 after SIGINT, SIGTERM or SIGHUP.

mod bench;
mod classify;
mod convert;
mod devices;
mod eval;
mod forward;
mod grad;
mod init;
mod inspect;
mod profile;
mod train;

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::builder::RangedU64ValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::error::{clip, escaped};
use crate::kernels::attention::Order;
use crate::layers::Options;
use crate::model::Model;
use crate::session::Device;
use crate::weights::Weights;

/// The exit code after a signal to end.
const INTERRUPTED: i32 = 130;
/// How many lines an error may take.
const MOST_LINES: usize = 18;

const EXAMPLES: &str = "\
Examples:
  spikeshade classify digit.png       which digit is it? (built-in MNIST model)
  spikeshade devices                  what can it run on?
  spikeshade inspect m.safetensors    what is in a checkpoint?
  spikeshade COMMAND --help           more about a command, with examples

Exit code: 0 if all went well, 1 after an error, 2 for a mistake in the
arguments, 130 if interrupted.";

#[derive(Parser)]
#[command(name = "spikeshade", version, about = "Spiking transformers in compute shaders.", after_help = EXAMPLES)]
#[command(propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    Classify(classify::Classify),
    Eval(eval::Eval),
    Forward(forward::Forward),
    Grad(grad::Grad),
    Train(train::Train),
    Convert(convert::Convert),
    Init(init::Init),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
    Profile(profile::Profile),
    Devices(devices::Devices),
}

/// What every command takes.
#[derive(Args)]
struct Common {
    /// Print one JSON document to stdout, and nothing else
    #[arg(long, global = true, help_heading = "Common options")]
    json: bool,
    /// Log more to stderr: -v progress, -vv details, -vvv everything
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Common options")]
    verbose: u8,
}

/// Which checkpoint.
#[derive(Args)]
struct ModelArgs {
    /// A checkpoint: a .safetensors file, or a folder with config.json and model.safetensors
    #[arg(short, long, value_name = "M")]
    model: PathBuf,
    #[command(flatten)]
    strict: StrictArgs,
}

/// How a checkpoint is loaded.
#[derive(Args)]
struct StrictArgs {
    /// Refuse a checkpoint with tensors that its configuration does not know, instead of warning
    #[arg(long)]
    strict: bool,
}

impl StrictArgs {
    fn load(&self, path: &Path) -> Result<Checkpoint> {
        log::info!("loading {}", path.display());
        Ok(Checkpoint::load(path, self.strict)?)
    }
}

impl ModelArgs {
    fn load(&self) -> Result<Checkpoint> {
        self.strict.load(&self.model)
    }
}

/// Where and how a model runs.
#[derive(Args)]
struct RunArgs {
    /// auto (the best hardware GPU, else the reference executor), cpu (the reference executor), gpu (the best adapter,
    /// software ones too), an adapter's index, or a part of its name; see `spikeshade devices`
    #[arg(short, long, default_value = "auto", value_name = "DEVICE")]
    device: String,
    /// Timesteps, 1 to 32, in place of the model's own T
    #[arg(short, long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=32))]
    timesteps: Option<usize>,
    /// Order of the attention's products: (Q Kᵀ) V, Q (Kᵀ V), or the cheaper one; results are the same but for rounding where sums are not exact
    #[arg(long, value_enum, default_value_t)]
    order: OrderArg,
    #[command(flatten)]
    weights: WeightsArgs,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum OrderArg {
    /// The cheaper one
    #[default]
    Auto,
    /// (Q Kᵀ) V
    #[value(name = "qk_v")]
    QkV,
    /// Q (Kᵀ V)
    #[value(name = "q_kv")]
    QKv,
}

/// What a model's weights are stored as.
#[derive(Args)]
struct WeightsArgs {
    /// How the weights of spike products are stored: f32 as trained; f16, rounded, in half the memory; or int8, in a quarter of it
    /// and summed exactly in integers. `spikeshade eval --weights f16` and `int8` measure what is lost; for inference only
    #[arg(long, value_enum, default_value_t)]
    weights: WeightsArg,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum WeightsArg {
    /// As trained
    #[default]
    F32,
    /// Rounded to 16-bit floats
    F16,
    /// 8-bit integers, a scale for each output channel
    Int8,
}

impl WeightsArgs {
    fn choice(&self) -> Weights {
        match self.weights {
            WeightsArg::F32 => Weights::F32,
            WeightsArg::F16 => Weights::F16,
            WeightsArg::Int8 => Weights::Int8,
        }
    }

    fn name(&self) -> &'static str {
        match self.weights {
            WeightsArg::F32 => "f32",
            WeightsArg::F16 => "f16",
            WeightsArg::Int8 => "int8",
        }
    }

    /// The model with its weights so stored; says on stderr what that loses.
    fn model(&self, checkpoint: &Checkpoint) -> Result<Model> {
        let model = Model::with_weights(checkpoint, self.choice())?;
        let errors = model.quantisation_errors();
        for (layer, error) in &errors {
            log::info!("{} weights of {layer}: relative error {:.3} %", self.name(), 100.0 * error);
        }
        if let Some((layer, error)) = errors.iter().max_by(|a, b| a.1.total_cmp(&b.1)).filter(|most| most.1 > 0.0) {
            let text =
                format!("{} weights: the largest relative error is {:.2} %, in {layer}", self.name(), 100.0 * error);
            complain("note", text);
        }
        Ok(model)
    }

    /// Refuses others than f32 where gradients are taken.
    fn only_f32(&self) -> Result<()> {
        match self.weights {
            WeightsArg::F32 => Ok(()),
            WeightsArg::F16 | WeightsArg::Int8 => {
                bail!(
                    "--weights {} is for inference, gradients need f32; leave it out, and give it to `eval` or `classify`",
                    self.name()
                )
            }
        }
    }
}

impl RunArgs {
    /// Opens the device, and says on stderr if `auto` fell back.
    fn open(&self) -> Result<Device> {
        let (device, note) = Device::open_blocking(&self.device)?;
        if let Some(note) = note {
            complain("note", note);
        }
        log::info!("running on {}", device.name());
        Ok(device)
    }

    fn options(&self) -> Options {
        let order = match self.order {
            OrderArg::Auto => None,
            OrderArg::QkV => Some(Order::QkV),
            OrderArg::QKv => Some(Order::QKv),
        };
        Options { order, ..Options::default() }
    }
}

/// A batch size: 1 to a million.
fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1_000_000)
}

/// Runs the program on this process's arguments.
pub fn main() -> ExitCode {
    // A fault of this program must end as an error like any other.
    panic::set_hook(Box::new(|info| {
        let at = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let payload = info.payload();
        let what = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        let what = what.unwrap_or("no message");
        complain("error", format!("internal fault{at}: {what}; please report it with the command line"));
    }));
    let cli = Cli::parse();
    start_log(cli.common.verbose);
    // A write that a signal interrupts leaves nothing behind. Where a signal is ignored, as `nohup` has it, that stays,
    // and none is handled.
    let _ = ctrlc::try_set_handler(|| {
        if !interrupt::ask() {
            crate::files::exit_unfinished(INTERRUPTED);
        }
    });
    let done = panic::catch_unwind(|| {
        let common = &cli.common;
        match &cli.command {
            Command::Classify(c) => c.run(common),
            Command::Eval(c) => c.run(common),
            Command::Forward(c) => c.run(common),
            Command::Grad(c) => c.run(common),
            Command::Train(c) => c.run(common),
            Command::Convert(c) => c.run(common),
            Command::Init(c) => c.run(common),
            Command::Inspect(c) => c.run(common),
            Command::Bench(c) => c.run(common),
            Command::Profile(c) => c.run(common),
            Command::Devices(c) => c.run(common),
        }
    });
    match done {
        Ok(Ok(code)) => code,
        // Whoever read the output has had enough: no error.
        Ok(Err(e)) if e.is::<Closed>() => ExitCode::SUCCESS,
        Ok(Err(e)) => {
            complain("error", message(&e));
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Signals to end, for a command that has something to save first.
mod interrupt {
    use std::sync::atomic::{AtomicBool, Ordering};

    static HEEDED: AtomicBool = AtomicBool::new(false);
    static ASKED: AtomicBool = AtomicBool::new(false);

    /// From here on the first signal to end only sets what [`asked`] returns; the second ends the program.
    pub fn heed() {
        HEEDED.store(true, Ordering::SeqCst);
    }

    /// Whether a signal to end has come since [`heed`].
    pub fn asked() -> bool {
        ASKED.load(Ordering::SeqCst)
    }

    /// A signal has come: whether the command will end by itself.
    pub fn ask() -> bool {
        HEEDED.load(Ordering::SeqCst) && !ASKED.swap(true, Ordering::SeqCst)
    }
}

fn start_log(verbose: u8) {
    let filter = match verbose {
        // What wgpu logs by itself is about drivers that are then not used, or comes back as an error.
        0 => "warn,wgpu_core=error,wgpu_hal=off,naga=error",
        1 => "info,wgpu_core=warn,wgpu_hal=error,naga=warn",
        2 => "debug,wgpu_core=info,wgpu_hal=warn,naga=info",
        _ => "trace",
    };
    env_logger::Builder::new()
        .parse_filters(filter)
        .format(|out, record| {
            let level = match record.level() {
                log::Level::Warn => "warning".to_owned(),
                level => level.as_str().to_lowercase(),
            };
            writeln!(out, "{level}: {}", tidy(&record.args().to_string()))
        })
        .init();
}

/// Writes `kind: text` to stderr. Nobody is left to be told if that fails.
fn complain(kind: &str, text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{kind}: {}", tidy(&text.to_string()));
}

/// Text that may hold anything, fit for a terminal: control characters but newlines escaped, at most [`MOST_LINES`] lines, of
/// each the beginning and the end, where the remedy is.
fn tidy(text: &str) -> String {
    const HEAD: usize = 280;
    const TAIL: usize = 120;
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if lines.len() == MOST_LINES {
            lines.push("…".to_owned());
            break;
        }
        let mut line: Vec<char> = escaped(line).chars().collect();
        if line.len() > HEAD + TAIL {
            line.splice(HEAD..line.len() - TAIL, ['…']);
        }
        lines.push(line.into_iter().collect());
    }
    lines.join("\n")
}

/// An error with its causes, and what to do where only the operating system spoke.
fn message(e: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in e.chain() {
        let cause = cause.to_string();
        // Errors of this crate already end with their source.
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text += &format!(": {cause}");
        }
    }
    let io = e.chain().find_map(|c| match c.downcast_ref::<Error>() {
        Some(Error::Io { source, .. }) => Some(source),
        _ => c.downcast_ref::<io::Error>(),
    });
    let remedy = match io.map(io::Error::kind) {
        Some(ErrorKind::NotFound) => "; check the path",
        Some(ErrorKind::PermissionDenied) if !text.contains("choose") => "; check its permissions or choose another",
        Some(ErrorKind::NotADirectory) => "; a part of the path is no folder, check it",
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge) => "; free some space",
        Some(ErrorKind::ReadOnlyFilesystem) => "; choose a place that can be written to",
        _ => "",
    };
    text + remedy
}

/// The reader of stdout has gone, e.g. `| head`.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
struct Closed;

/// Writes to stdout, where a closed pipe is [`Closed`], which ends the program quietly.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        Err(e) => Err(Error::io("standard output", e).into()),
    }
}

/// Writes a JSON document to stdout.
fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// What each layer's weights lose by being stored as they are, by layer.
fn quantisation_errors(model: &Model) -> serde_json::Value {
    model
        .quantisation_errors()
        .into_iter()
        .map(|(layer, error)| (layer.to_owned(), serde_json::Value::from(error)))
        .collect()
}

/// Whether a progress bar would be seen.
fn shows_progress(common: &Common) -> bool {
    !common.json && io::stderr().is_terminal()
}

/// Refuses an output file that cannot be written, before any work is done for it, and one that is an input.
fn check_output(path: &Path, inputs: &[&Path]) -> Result<()> {
    if let Ok(out) = path.canonicalize() {
        for input in inputs {
            let parts = [input.to_path_buf(), input.join("config.json"), input.join("model.safetensors")];
            if parts.iter().any(|part| part.canonicalize().is_ok_and(|part| part == out)) {
                bail!("{}: is an input of this command too; write to another file", path.display());
            }
        }
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("{}: there is no folder {}; make it, or choose another place", path.display(), folder.display());
    }
    Ok(crate::files::check_writable(path)?)
}

/// The name of a class: the model's, or its number.
fn class_name(model: &Model, class: usize) -> String {
    let names = model.config().class_names.as_ref();
    names.and_then(|n| n.get(class)).map_or_else(|| format!("class {class}"), |name| clip(name))
}

/// A count of bytes for a person.
fn human_bytes(n: u64) -> String {
    let mut scaled = n as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if scaled < 1024.0 {
            return if unit == "bytes" { format!("{n} bytes") } else { format!("{scaled:.2} {unit}") };
        }
        scaled /= 1024.0;
    }
    format!("{scaled:.2} TiB")
}

/// A number with commas between thousands.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("  spikeshade {}", command.get_name())), "{}", command.get_name());
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1023, 1024, 3 << 20].map(human_bytes), ["0 bytes", "1023 bytes", "1.00 KiB", "3.00 MiB"]);
        assert_eq!(human_bytes(5 << 40), "5.00 TiB");
    }

    #[test]
    fn causes_are_said_once_and_have_a_remedy() {
        let e = anyhow::Error::new(Error::io("a/b", io::ErrorKind::NotFound.into()));
        assert_eq!(message(&e).matches("not found").count(), 1);
        assert!(message(&e).starts_with("a/b: ") && message(&e).ends_with("; check the path"));
        assert_eq!(message(&anyhow!("why").context("what")), "what: why");
    }

    #[test]
    fn messages_are_tidy() {
        assert_eq!(tidy("a\u{1b}[31m\r\nb\tc"), "a\\u{1b}[31m\nb\\tc");
        let long = tidy(&format!("{}; do this", "x".repeat(100_000)));
        assert_eq!(long.chars().count(), 401);
        assert!(long.starts_with("xxx") && long.ends_with("xxx; do this"), "{long}");
        assert_eq!(tidy(&"é".repeat(400)), "é".repeat(400));
        assert_eq!(tidy(&"x\n".repeat(100)).lines().count(), MOST_LINES + 1);
    }
}
