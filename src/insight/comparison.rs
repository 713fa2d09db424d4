//! Two receipts side by side.

use super::receipt::{COST_MODELS, Receipt};
use super::report::{amount, digits, joules, percent};

/// What is compared, in both receipts, and the second over the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// E.g. `firing rate`.
    pub what: String,
    /// Both values as text; `–` where a receipt has none.
    pub values: [String; 2],
    /// The ratio as text; empty where there can be none, `–` where there is none.
    pub ratio: String,
}

/// Rows of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// E.g. `per image`.
    pub title: &'static str,
    /// Its rows.
    pub rows: Vec<Row>,
}

const NONE: &str = "–";

fn facts(what: &str, both: [String; 2]) -> Row {
    Row { what: what.to_owned(), values: both, ratio: String::new() }
}

fn numbers(what: impl Into<String>, both: [Option<f64>; 2], unit: fn(f64) -> String) -> Row {
    let ratio = match both {
        [Some(a), Some(b)] if a > 0.0 => digits(b / a),
        _ => NONE.to_owned(),
    };
    Row { what: what.into(), values: both.map(|x| x.map_or(NONE.to_owned(), unit)), ratio }
}

/// What to call the two: their models' names, told apart where these are the same.
pub fn names(a: &Receipt, b: &Receipt) -> [String; 2] {
    let both = [a, b].map(|r| r.model.name.clone());
    if both[0] != both[1] {
        return both;
    }
    let mut number = 0;
    both.map(|name| {
        number += 1;
        format!("{name} ({number})")
    })
}

/// In what the two runs differ, so that their figures are not of the same thing.
pub fn differences(a: &Receipt, b: &Receipt) -> Vec<String> {
    let mut out = Vec::new();
    let mut compare = |what: &str, both: [String; 2]| {
        if both[0] != both[1] {
            out.push(format!("{what} ({} and {})", both[0], both[1]));
        }
    };
    compare("timesteps", [a, b].map(|r| r.timesteps.to_string()));
    compare("the number of images", [a, b].map(|r| r.images.to_string()));
    compare("input", [a, b].map(|r| input(r).to_owned()));
    compare("pixels of a side", [a, b].map(|r| r.model.img_size.to_string()));
    compare("how weights are stored", [a, b].map(|r| r.model.weights.clone()));
    compare("the version that counted", [a, b].map(|r| r.spikeshade.clone()));
    out
}

fn input(receipt: &Receipt) -> &'static str {
    if receipt.sequence { "sequences" } else { "static images" }
}

/// The whole comparison.
pub fn comparison(a: &Receipt, b: &Receipt) -> Vec<Section> {
    let receipts = [a, b];
    let of = |value: &dyn Fn(&Receipt) -> f64| receipts.map(|r| Some(value(r)));
    let run = vec![
        facts(
            "model",
            receipts.map(|r| {
                let m = &r.model;
                format!("{} px, D {}, {} deep", m.img_size, m.embed_dim, m.depth)
            }),
        ),
        facts("weights", receipts.map(|r| r.model.weights.clone())),
        facts("images", receipts.map(|r| r.images.to_string())),
        facts("input", receipts.map(|r| input(r).to_owned())),
        facts("timesteps", receipts.map(|r| r.timesteps.to_string())),
        facts("spikeshade", receipts.map(|r| r.spikeshade.clone())),
    ];
    let mut each = vec![
        numbers("synaptic operations (ACs)", of(&|r| r.per_image(r.totals.acs)), amount),
        numbers("multiply-accumulates (MACs)", of(&|r| r.per_image(r.totals.macs)), amount),
        numbers("spikes", of(&|r| r.per_image(r.totals.spikes)), amount),
    ];
    each.extend(COST_MODELS.iter().map(|cost| {
        numbers(format!("energy, {}", cost.name), receipts.map(|r| r.picojoules("exact", cost.name)), joules)
    }));
    let whole = vec![
        numbers("firing rate", of(&Receipt::firing_rate), percent),
        numbers("neurons", of(&|r| r.totals.neurons as f64), amount),
        numbers("neurons that never fired", of(&|r| r.totals.silent as f64), amount),
        numbers("neurons that always fired", of(&|r| r.totals.saturated as f64), amount),
        numbers("footprint, bytes", of(&|r| r.neurobench.footprint as f64), amount),
        numbers("activation sparsity", of(&|r| r.neurobench.activation_sparsity), percent),
    ];
    let mut sections = vec![
        Section { title: "what ran", rows: run },
        Section { title: "per image", rows: each },
        Section { title: "over the whole run", rows: whole },
    ];
    // By name, in the first's order; then what only the second has.
    let mut layers: Vec<&str> = a.neurons.iter().map(|n| n.name.as_str()).collect();
    layers.extend(b.neurons.iter().map(|n| n.name.as_str()).filter(|name| a.neurons.iter().all(|n| n.name != *name)));
    let rate = |r: &Receipt, name: &str| r.neurons.iter().find(|n| n.name == name).map(|n| n.rate());
    let rows = layers.into_iter().map(|name| numbers(name, receipts.map(|r| rate(r, name)), percent)).collect();
    sections.push(Section { title: "firing rate by layer", rows });
    let right = receipts.map(Receipt::right);
    if right.iter().any(Option::is_some) {
        let at = |t: usize| right.each_ref().map(|of| of.as_ref().and_then(|of| of.get(t).copied()));
        let row = |t: usize| numbers(format!("after timestep {}", t + 1), at(t), |x| format!("{:.2} %", 100.0 * x));
        let steps = right.iter().flatten().map(Vec::len).max().unwrap_or(0);
        sections.push(Section { title: "accuracy", rows: (0..steps).map(row).collect() });
    }
    sections
}
