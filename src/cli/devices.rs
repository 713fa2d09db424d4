//! `spikeshade devices`.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use super::{Common, print, print_json};
use crate::gpu::{AdapterDescription, Adapters};
use crate::session::Device;

const EXAMPLES: &str = "\
Examples:
  spikeshade devices
  spikeshade devices --json
  spikeshade classify --device 0 digit.png         the first of the list
  spikeshade classify --device llvmpipe digit.png  by a part of its name

Without any adapter the reference executor still runs every model: --device cpu.";

/// List the adapters that models can run on, with drivers, limits and features, and which one `--device auto` takes
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Devices {}

impl Devices {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        let adapters = pollster::block_on(Adapters::enumerate());
        let described = adapters.describe();
        // Opened for real: an adapter that refuses its device is passed over.
        let (auto, note) = Device::open_blocking("auto")?;
        let index = match auto {
            Device::Cpu => None,
            Device::Gpu(_) => adapters.best_hardware(),
        };
        if common.json {
            let list: Vec<Value> = described.iter().map(as_json).collect();
            let auto = json!({ "index": index, "name": auto.name(), "why": note });
            print_json(&json!({ "adapters": list, "auto": auto }))?;
        } else {
            print(&as_text(&described, index, auto.name()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn as_json(a: &AdapterDescription) -> Value {
    let limits: Map<String, Value> = a
        .limits
        .iter()
        .map(|&(name, own, used)| (name.to_owned(), json!({ "adapter": own, "used": own.min(used) })))
        .collect();
    let features: Map<String, Value> = a.features.iter().map(|&(name, has)| (name.to_owned(), has.into())).collect();
    json!({
        "index": a.index,
        "name": a.name,
        "backend": a.backend,
        "driver": a.driver,
        "kind": a.kind.label(),
        "limits": limits,
        "features": features,
        "subgroup_min": a.subgroup.0,
        "subgroup_max": a.subgroup.1,
    })
}

fn as_text(adapters: &[AdapterDescription], auto: Option<usize>, name: &str) -> String {
    let mut text = String::new();
    if adapters.is_empty() {
        text += "No GPU adapter was found. To use one, install its Vulkan driver (or Metal or DX12, on systems that have \
                 them).\nEvery model runs on the reference executor: --device cpu.\n\n";
    }
    for a in adapters {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {}", a.index, a.name);
        let _ = writeln!(text, "   {}, {}, driver {}", a.backend, a.kind.label(), a.driver);
        match a.subgroup {
            (0, 0) => text += "   subgroups of unknown size\n",
            (low, high) if low == high => text += &format!("   subgroups of {low}\n"),
            (low, high) => text += &format!("   subgroups of {low} to {high}\n"),
        }
        let features: Vec<String> =
            a.features.iter().map(|(name, has)| format!("{name} {}", if *has { "yes" } else { "no" })).collect();
        let _ = writeln!(text, "   {}", features.join(", "));
        for (name, own, asked) in &a.limits {
            let _ = writeln!(text, "   {name:33} {own:>20} (used: {})", own.min(asked));
        }
        text.push('\n');
    }
    match auto {
        Some(index) => text + &format!("--device auto takes {index}: {name}\n"),
        None => text + &format!("--device auto takes {name}, as no hardware GPU can be used\n"),
    }
}
