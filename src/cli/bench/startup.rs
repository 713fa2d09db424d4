//! `spikeshade bench --startup`: from the start of a process to the built-in model's first logits.
//!
//! This program starts itself, so that loading it counts too, each time twice: the first finds the caches of compiled kernels,
//! the driver's and its own, empty, the second finds them as the first left them.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::{images, spread};
use crate::cli::{Common, print, print_json};
use crate::gpu::Adapters;
use crate::layers::Options;
use crate::model::Model;
use crate::session::{Device, Session};

/// Where drivers and this program keep compiled kernels: Mesa's, NVIDIA's, everyone else's, this program's.
const FOLDERS: [&str; 4] =
    ["MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH", "XDG_CACHE_HOME", "SPIKESHADE_CACHE_DIR"];

/// Nanoseconds since 1970, on the clock that processes share.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))
}

/// The process that is timed, which began at `began`: runs the model, and prints its stages as a line of JSON.
pub(super) fn first_logits(began: u64, device: &str) -> Result<ExitCode> {
    let mut stages = Map::new();
    let start = now().saturating_sub(began) as f64 / 1e9;
    stages.insert("process".to_owned(), start.into());
    let mut at = Instant::now();
    let mut stage = |name: &str| {
        stages.insert(name.to_owned(), std::mem::replace(&mut at, Instant::now()).elapsed().as_secs_f64().into());
    };
    let device = if device.eq_ignore_ascii_case("cpu") {
        Device::Cpu
    } else {
        let adapters = pollster::block_on(Adapters::enumerate());
        stage("adapters");
        let (device, _) = pollster::block_on(Device::open_among(&adapters, device))?;
        stage("device");
        device
    };
    let model = Arc::new(Model::built_in()?);
    let input = images(model.config(), 1)?;
    stage("model");
    let mut session = Session::new(model, device.clone());
    pollster::block_on(session.prepare(1, None, Options::default()))?;
    stage("plan");
    let output = session.run_blocking(&input, None, Options::default())?;
    stage("first run");
    let preparation = match &device {
        Device::Gpu(context) => Some(context.preparation()),
        Device::Cpu => None,
    };
    let answer = json!({
        "device": device.name(),
        "stages": stages,
        "compiling_seconds": preparation.map(|p| p.whole.as_secs_f64()),
        "uploading_seconds": preparation.map(|p| p.upload.as_secs_f64()),
        "logits": output.logits,
    });
    print(&format!("{answer}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Starts [`first_logits`] in a process of its own.
fn start(device: &str, caches: &Path) -> Result<Value> {
    let program = std::env::current_exe().context("this program's own file")?;
    let mut command = Command::new(&program);
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    FOLDERS.iter().for_each(|name| {
        command.env(name, caches);
    });
    command.args(["bench", "--startup", "--device", device, "--began", &now().to_string()]);
    let output = command.output().with_context(|| program.display().to_string())?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        let why = why.lines().filter_map(|line| line.strip_prefix("error: ")).next_back();
        bail!("{}", why.map_or_else(|| format!("the started process failed ({})", output.status), str::to_owned));
    }
    serde_json::from_slice(&output.stdout).context("what the started process printed")
}

/// Times `runs` starts with empty caches, each followed by one with those it filled.
pub(super) fn startup(device: &str, runs: usize, common: &Common) -> Result<ExitCode> {
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let caches = tempfile::tempdir().context("a folder for caches")?;
        cold.push(start(device, caches.path())?);
        warm.push(start(device, caches.path())?);
    }
    if let Some(other) = cold.iter().chain(&warm).find(|answer| answer["logits"] != cold[0]["logits"]) {
        bail!("two starts on {} gave different logits", other["device"]);
    }
    let answers = [("cold", cold), ("warm", warm)];
    if common.json {
        let mut whole = Map::from_iter([("device".to_owned(), answers[0].1[0]["device"].clone())]);
        for (name, answers) in &answers {
            let [median, least, most] = spread(&answers.iter().map(total).collect::<Vec<_>>());
            let stages: Map<String, Value> = medians(answers).into_iter().map(|(n, s)| (n, s.into())).collect();
            let seconds = json!({ "median": median, "min": least, "max": most });
            whole.insert((*name).to_owned(), json!({ "seconds": seconds, "stages": stages }));
        }
        print_json(&Value::Object(whole))?;
    } else {
        let name = answers[0].1[0]["device"].as_str().unwrap_or_default().to_owned();
        let mut text = format!(
            "from the start of a process to the first logits on {}, median of {runs}\n",
            crate::error::clip(&name)
        );
        for (name, answers) in &answers {
            let [median, least, most] = spread(&answers.iter().map(total).collect::<Vec<_>>());
            text += &format!("{name}: {:.1} ms ({:.1} to {:.1})\n", 1e3 * median, 1e3 * least, 1e3 * most);
            for (stage, seconds) in medians(answers) {
                text += &format!("  {stage:22} {:8.1} ms\n", 1e3 * seconds);
            }
        }
        print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn total(answer: &Value) -> f64 {
    answer["stages"].as_object().map_or(0.0, |stages| stages.values().filter_map(Value::as_f64).sum())
}

/// Each stage's median, in order, and what the plan's were spent on.
fn medians(answers: &[Value]) -> Vec<(String, f64)> {
    let of = |get: &dyn Fn(&Value) -> Option<f64>| spread(&answers.iter().filter_map(get).collect::<Vec<_>>())[0];
    let mut rows = Vec::new();
    for stage in ["process", "adapters", "device", "model", "plan", "first run"] {
        if answers.iter().any(|a| a["stages"].get(stage).is_some()) {
            rows.push((stage.to_owned(), of(&|a| a["stages"][stage].as_f64())));
        }
        for (name, key) in [("of it pipelines", "compiling_seconds"), ("meanwhile upload", "uploading_seconds")] {
            if stage == "plan" && answers.iter().any(|a| a[key].is_number()) {
                rows.push((name.to_owned(), of(&|a| a[key].as_f64())));
            }
        }
    }
    rows
}
