//! A receipt as one page of HTML that needs nothing else: tables, and pictures as SVG.

use std::fmt::Write;

use super::comparison::{Row, Section, comparison, differences, names};
use super::picture::{Picture, bitmap};
use super::receipt::{COST_MODELS, CostModel, LayerReceipt, Operation, Receipt};
use super::why::Why;
use crate::attention_map::{AttentionMap, attention_maps};
use crate::config::Config;
use crate::outputs::{OutputTensor, Values};
use crate::train::curves::escaped;

/// The counting and the cost model that the page speaks of where it names none.
const MAIN: (&str, &str) = ("exact", "45nm-f32");

/// One image, and everything that a run of it left behind.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its file or number.
    pub name: String,
    /// The name of its class, if that is known.
    pub label: Option<String>,
    /// `[C][H][W]` as the model was given it, of the first timestep.
    pub image: Vec<f32>,
    /// The logits after each timestep, `[T][classes]`.
    pub readouts: Vec<Vec<f32>>,
    /// The trace of a run of it alone.
    pub trace: Vec<OutputTensor>,
    /// The layer of neurons to be shown, e.g. `block.0.attn.q_lif`.
    pub layer: String,
    /// Which of its neurons (token · C + channel) the raster shows; empty: some that fired.
    pub neurons: Vec<usize>,
    /// Why a neuron fired or did not, if that was asked.
    pub why: Option<Why>,
}

/// What a page shows.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The receipt.
    pub receipt: &'a Receipt,
    /// The model's configuration: its class names, and how its pixels were normalised.
    pub config: &'a Config,
    /// One image in detail.
    pub sample: Option<&'a Sample>,
    /// Another receipt to stand beside it.
    pub other: Option<&'a Receipt>,
}

/// Picojoules in a unit that suits them.
pub fn joules(picojoules: f64) -> String {
    let units = [(1e12, "J"), (1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ")];
    let (unit, name) = units.into_iter().find(|u| picojoules.abs() >= u.0).unwrap_or((1.0, "pJ"));
    format!("{} {name}", digits(picojoules / unit))
}

/// A count in a unit that suits it.
pub fn amount(n: f64) -> String {
    let units = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    let (unit, name) = units.into_iter().find(|u| n.abs() >= u.0).unwrap_or((1.0, ""));
    format!("{}{name}", digits(n / unit))
}

/// Three digits of a number of ordinary size.
pub(crate) fn digits(x: f64) -> String {
    if x != 0.0 && x.abs() < 0.01 {
        return format!("{x:.1e}");
    }
    let decimals = if x == 0.0 || x.abs() >= 100.0 { 0 } else { 2 - x.abs().log10().floor().min(2.0) as i32 };
    let text = format!("{x:.*}", decimals.max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn plural(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

pub(crate) fn percent(x: f64) -> String {
    if x > 0.0 && x < 0.0005 { "under 0.1 %".to_owned() } else { format!("{:.1} %", 100.0 * x) }
}

fn put(out: &mut String, text: std::fmt::Arguments) {
    // A string takes everything.
    let _ = out.write_fmt(text);
}

const STYLE: &str = "\
:root{--ink:#1c2430;--soft:#5b6675;--line:#dfe4ea;--page:#fff;--card:#f6f8fa;--ac:#2463c5;--mac:#c96a12;--heat:36,99,197;--minus:#b3261e;\
--good:#1d7a46}\n\
@media(prefers-color-scheme:dark){:root{--ink:#e7ecf2;--soft:#9aa7b6;--line:#2f3945;--page:#12171d;--card:#1a2129;--ac:#6ea4f5;\
--mac:#eda35c;--heat:110,164,245;--minus:#f2867f;--good:#62c48e}}\n\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\
main{max-width:1060px;margin:0 auto;padding:28px 20px 60px}h1{font-size:25px;margin:0 0 2px;overflow-wrap:anywhere}\
h2{font-size:18px;margin:38px 0 4px;overflow-wrap:anywhere}h3{font-size:14px;margin:14px 0 4px}p{margin:4px 0 12px;max-width:76ch}\
.soft,figcaption,small{color:var(--soft)}small{font-size:12.5px}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(158px,1fr));gap:10px;margin:18px 0}\
.tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 13px}.tile b{display:block;font-size:22px;line-height:1.3}\
.tile span{color:var(--soft);font-size:13px;display:block;line-height:1.35}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}\
th,td{padding:3px 9px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}th{font-weight:600;color:var(--soft)}\
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--page)}td.text,th.text{text-align:left}td.wrap{white-space:normal;min-width:34ch;text-align:left;color:var(--soft)}\
td.bad{color:var(--minus);font-weight:600}tr.sum td{font-weight:600}tr.main td,tr.main td:first-child{background:var(--card);font-weight:600}\
svg{display:block;max-width:100%;height:auto}svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg text.soft{fill:var(--soft)}\
.rule{stroke:var(--line)}.axis{stroke:var(--soft)}.ac{fill:var(--ac)}.mac{fill:var(--mac)}.minus{fill:var(--minus)}\
.threshold{stroke:var(--minus);stroke-width:1.5;stroke-dasharray:5 3}polyline{fill:none;stroke:var(--ac);stroke-width:2}\
figure{margin:0}.maps{display:flex;flex-wrap:wrap;gap:14px 34px}.block{display:flex;gap:8px;flex-wrap:wrap;align-items:flex-end}.shown{display:block;position:relative;overflow:hidden;border:1px solid var(--line);border-radius:4px}\
.large{width:196px;height:196px}.of-block{width:140px;height:140px}.of-head{width:84px;height:84px}\
.shown span,.shown img{position:absolute;inset:0;width:100%;height:100%;image-rendering:pixelated}.shown span{background-size:100% 100%}\
.map span{filter:grayscale(1)}.map img{opacity:.7}.split{display:flex;flex-wrap:wrap;gap:28px;align-items:flex-start}figcaption{font-size:12.5px;margin-top:3px}\
.key{display:inline-block;width:11px;height:11px;border-radius:2px;vertical-align:-1px;margin:0 5px 0 12px}\
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px;overflow-x:auto;font-size:13px;line-height:1.45}\
details{margin:8px 0}summary{cursor:pointer;color:var(--soft)}\n";

fn begin(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><title>{}</title>\n<style>{STYLE}</style></head><body><main>\n",
        escaped(title)
    )
}

const END: &str = "</main></body></html>\n";

/// A page of two receipts, without a model or a run.
pub fn comparison_html(a: &Receipt, b: &Receipt) -> String {
    let [first, second] = names(a, b);
    let title = format!("{first} beside {second}");
    let mut out = begin(&title);
    put(&mut out, format_args!("<h1>{}</h1>\n", escaped(&title)));
    beside(&mut out, a, b);
    words(&mut out);
    out + END
}

/// The page.
pub fn html(report: &Report) -> String {
    let Report { receipt, .. } = report;
    let mut out = begin(&format!("{}: profile", receipt.model.name));
    head(&mut out, report);
    if let Some(other) = report.other {
        beside(&mut out, receipt, other);
    }
    if receipt.accuracy.is_some() {
        accuracy(&mut out, receipt);
    }
    energy_by_layer(&mut out, receipt);
    firing(&mut out, receipt);
    attention(&mut out, receipt);
    if let Some(sample) = report.sample {
        one_image(&mut out, report, sample);
    }
    ways(&mut out, receipt);
    neurobench(&mut out, receipt);
    words(&mut out);
    out + END
}

fn head(out: &mut String, report: &Report) {
    let receipt = report.receipt;
    let facts = &receipt.model;
    let input = if receipt.sequence { "sequence" } else { "image" };
    put(
        out,
        format_args!(
            "<h1>{}</h1>\n<p class=\"soft\">{} × {} pixels, D {}, depth {}, {}, {}, {} weights; {} at {}; spikeshade \
             {}</p>\n",
            escaped(&facts.name),
            facts.img_size,
            facts.img_size,
            facts.embed_dim,
            facts.depth,
            plural(facts.num_heads as u64, "head"),
            if facts.num_classes == 1 { "1 class".to_owned() } else { format!("{} classes", facts.num_classes) },
            escaped(&facts.weights),
            plural(receipt.images, input),
            plural(receipt.timesteps as u64, "timestep"),
            escaped(&receipt.spikeshade),
        ),
    );
    let energy = receipt.picojoules(MAIN.0, MAIN.1).unwrap_or(0.0);
    let dense = receipt.picojoules("dense", MAIN.1).unwrap_or(0.0);
    let totals = &receipt.totals;
    out.push_str("<div class=\"tiles\">");
    let mut tile = |value: String, what: String| {
        put(out, format_args!("<div class=\"tile\"><b>{value}</b><span>{what}</span></div>"));
    };
    let an_input = if receipt.sequence { "a sequence" } else { "an image" };
    tile(joules(energy), format!("{an_input}, estimated: 45 nm, 32-bit floats, arithmetic only"));
    let (ratio, than) = match energy > 0.0 && dense > 0.0 {
        _ if totals.spikes == 0 => ("–".to_owned(), "no ratio where nothing fires; beside"),
        true if dense >= energy => (format!("{} ×", digits(dense / energy)), "less than"),
        true => (format!("{} ×", digits(energy / dense)), "more than"),
        false => ("–".to_owned(), "beside"),
    };
    tile(ratio, format!("{than} the dense network of the same shape ({})", joules(dense)));
    tile(
        amount(receipt.per_image(totals.acs)),
        format!("synaptic operations {an_input}, each an addition that a spike triggered"),
    );
    tile(percent(receipt.firing_rate()), "of neurons fire at a timestep".to_owned());
    let share = |n: u64| n as f64 / (totals.neurons as f64).max(1.0);
    tile(
        percent(share(totals.silent)),
        format!(
            "of {} neurons never fired; {} always did",
            amount(totals.neurons as f64),
            percent(share(totals.saturated))
        ),
    );
    if let Some(of) = &receipt.accuracy {
        let right = of.right.last().copied().unwrap_or(0);
        let share = right as f64 / (of.labelled as f64).max(1.0);
        tile(format!("{:.2} %", 100.0 * share), format!("right, of {}", plural(of.labelled, "image")));
    }
    out.push_str("</div>\n");
    out.push_str(
        "<p class=\"soft\">Counts are exact, made by the device that ran the model; energies are counts times published costs of an \
         operation, not measurements. What the words mean stands at the end; ENERGY.md, which comes with the program, has the formulas.</p>\n",
    );
    if totals.spikes == 0 {
        out.push_str("<p><b>No neuron fired.</b> What the model answers does not depend on the image.</p>\n");
    }
}

/// Tables of two receipts.
fn beside(out: &mut String, a: &Receipt, b: &Receipt) {
    out.push_str("<h2>Side by side</h2>\n");
    let differ = differences(a, b);
    if !differ.is_empty() {
        put(
            out,
            format_args!(
                "<p><b>The two runs differ</b> in {}: read the figures with that in mind.</p>\n",
                escaped(&differ.join(", "))
            ),
        );
    }
    let names = names(a, b);
    out.push_str("<div class=\"scroll\"><table>\n");
    for Section { title, rows } in comparison(a, b) {
        put(
            out,
            format_args!(
                "<tr><th>{title}</th><th>{}</th><th>{}</th><th>{}</th></tr>\n",
                escaped(&names[0]),
                escaped(&names[1]),
                if rows.iter().all(|row| row.ratio.is_empty()) { "" } else { "ratio" }
            ),
        );
        for Row { what, values, ratio } in rows {
            let [what, a, b] = [&what, &values[0], &values[1]].map(|text| escaped(text));
            put(out, format_args!("<tr><td>{what}</td><td>{a}</td><td>{b}</td><td>{ratio}</td></tr>\n"));
        }
    }
    out.push_str("</table></div>\n");
}

fn accuracy(out: &mut String, receipt: &Receipt) {
    let Some(of) = &receipt.accuracy else { return };
    let shares: Vec<f64> = of.right.iter().map(|&n| n as f64 / (of.labelled as f64).max(1.0)).collect();
    out.push_str(
        "<h2>Accuracy after each timestep</h2>\n<p>The logits read out after 1, 2, … timesteps: what the model would answer if it \
         stopped there.</p>\n",
    );
    let (width, height, left, top) = (640.0, 216.0, 62.0, 22.0);
    let (right, bottom) = (width - 20.0, height - 40.0);
    // A pad of its own where all are alike.
    let low = shares.iter().copied().fold(1.0, f64::min);
    let high = shares.iter().copied().fold(0.0, f64::max);
    let pad = ((high - low) * 0.25).max(0.01);
    let (low, high) = ((low - pad).max(0.0), (high + pad).min(1.0));
    let y = |share: f64| bottom - (share - low) / (high - low).max(1e-9) * (bottom - top);
    let x = |t: usize| match shares.len() {
        1 => (left + right) / 2.0,
        n => left + 34.0 + (right - left - 64.0) * t as f64 / (n - 1) as f64,
    };
    put(
        out,
        format_args!(
            "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\" aria-label=\"accuracy by timestep\">\n"
        ),
    );
    for i in 0..=3 {
        let share = low + (high - low) * f64::from(i) / 3.0;
        put(
            out,
            format_args!(
                "<path class=\"rule\" d=\"M{left} {0:.1}H{right}\"/><text class=\"soft\" x=\"{1}\" y=\"{2:.1}\" \
                 text-anchor=\"end\">{3:.1} %</text>\n",
                y(share),
                left - 6.0,
                y(share) + 4.0,
                100.0 * share
            ),
        );
    }
    if shares.len() > 1 {
        let points: Vec<String> = shares.iter().enumerate().map(|(t, &s)| format!("{:.1},{:.1}", x(t), y(s))).collect();
        put(out, format_args!("<polyline points=\"{}\"/>\n", points.join(" ")));
    }
    for (t, &share) in shares.iter().enumerate() {
        put(out, format_args!("<circle class=\"ac\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>", x(t), y(share)));
        if shares.len() <= 8 || t + 1 == shares.len() || t == 0 {
            // A line that rises would run through a label above its lower end.
            let rises = shares.get(t + 1).is_some_and(|next| y(share) - y(*next) > 20.0);
            let above = if rises { y(share) + 18.0 } else { y(share) - 9.0 };
            put(
                out,
                format_args!(
                    "<text x=\"{:.1}\" y=\"{above:.1}\" text-anchor=\"middle\">{:.2} %</text>",
                    x(t),
                    100.0 * share
                ),
            );
        }
        put(
            out,
            format_args!(
                "<text class=\"soft\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                x(t),
                height - 22.0,
                t + 1
            ),
        );
    }
    put(
        out,
        format_args!(
            "<text class=\"soft\" x=\"{right}\" y=\"{}\" text-anchor=\"end\">timesteps</text></svg>\n",
            height - 5.0
        ),
    );
}

fn energy_by_layer(out: &mut String, receipt: &Receipt) {
    let cost = &COST_MODELS[0];
    let energies: Vec<(&LayerReceipt, f64)> =
        receipt.layers.iter().map(|layer| (layer, layer.energy(cost, receipt.images))).collect();
    let most = energies.iter().map(|e| e.1).fold(0.0, f64::max);
    let total: f64 = energies.iter().map(|e| e.1).sum();
    out.push_str(
        "<h2>Energy by layer</h2>\n<p>Of an image, in the order of computation. <span class=\"key\" \
         style=\"background:var(--ac)\"></span>additions that spikes trigger (0.9 pJ) <span class=\"key\" \
         style=\"background:var(--mac)\"></span>multiply-accumulates of real values (4.6 pJ). Beside a bar stands its share of all; on the right, \
         which share of the layer's operations was triggered.</p>\n",
    );
    let (row, names, values) = (19.0, 190.0, 200.0);
    let (width, height) = (980.0, row * (energies.len() + 1) as f64 + 6.0);
    put(
        out,
        format_args!(
            "<div class=\"scroll\"><svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" style=\"min-width:720px\" role=\"img\" aria-label=\"energy by layer\">\n"
        ),
    );
    put(out, format_args!("<text class=\"soft\" x=\"{width}\" y=\"13\" text-anchor=\"end\">triggered</text>\n"));
    for (i, (layer, energy)) in energies.iter().enumerate() {
        let y = row * (i + 1) as f64;
        let length = if most > 0.0 { energy / most * (width - names - values) } else { 0.0 };
        let class = if layer.operation == Operation::Mac { "mac" } else { "ac" };
        let triggered = layer.operations() as f64 / (layer.dense as f64).max(1.0);
        put(
            out,
            format_args!(
                "<text x=\"{0}\" y=\"{1:.1}\" text-anchor=\"end\">{2}</text><rect class=\"{class}\" x=\"{names}\" y=\"{3:.1}\" \
                 width=\"{length:.1}\" height=\"13\" rx=\"2\"><title>{2}: {4} an image</title></rect><text x=\"{5:.1}\" \
                 y=\"{1:.1}\">{4}<tspan class=\"soft\" fill=\"var(--soft)\"> · {6}</tspan></text><text class=\"soft\" x=\"{width}\" y=\"{1:.1}\" \
                 text-anchor=\"end\">{7}</text>\n",
                names - 8.0,
                y + 14.0,
                escaped(&layer.name),
                y + 3.5,
                joules(*energy),
                names + length + 6.0,
                percent(if total > 0.0 { energy / total } else { 0.0 }),
                if layer.operation == Operation::Mac { "all".to_owned() } else { percent(triggered) },
            ),
        );
    }
    out.push_str("</svg></div>\n");
}

fn firing(out: &mut String, receipt: &Receipt) {
    out.push_str(
        "<h2>Who fires, and when</h2>\n<p>Spikes per neuron and timestep, by layer; a spike of either sign counts. A neuron is \
         <b>silent</b> if it fired at no timestep of any image, and <b>saturated</b> if it fired at every one of all.</p>\n<div \
         class=\"scroll\"><table><tr><th>layer</th><th>neurons</th><th>silent</th><th>saturated</th><th>fire, all t</th>",
    );
    for t in 1..=receipt.timesteps {
        put(out, format_args!("<th>t = {t}</th>"));
    }
    out.push_str("</tr>\n");
    let most = receipt.neurons.iter().flat_map(|n| (0..receipt.timesteps).map(|t| n.rate_at(t))).fold(0.0, f64::max);
    for of in &receipt.neurons {
        put(out, format_args!("<tr><td>{}</td><td>{}</td>", escaped(&of.name), amount(of.neurons as f64)));
        let share = |n: u64| n as f64 / (of.neurons as f64).max(1.0);
        let dead = if of.spikes() == 0 { " class=\"bad\"" } else { "" };
        let stuck = if share(of.saturated) > 0.5 { " class=\"bad\"" } else { "" };
        put(
            out,
            format_args!(
                "<td{dead}>{}</td><td{stuck}>{}</td><td{dead}>{}</td>",
                percent(share(of.silent)),
                percent(share(of.saturated)),
                percent(of.rate())
            ),
        );
        for t in 0..receipt.timesteps {
            let rate = of.rate_at(t);
            let strength = if most > 0.0 { 0.6 * rate / most } else { 0.0 };
            put(
                out,
                format_args!(
                    "<td style=\"background:rgba(var(--heat),{strength:.3})\" title=\"{} of +1, {} of −1\">{:.1}</td>",
                    of.positive[t],
                    of.negative[t],
                    100.0 * rate
                ),
            );
        }
        out.push_str("</tr>\n");
    }
    let totals = &receipt.totals;
    let share = |n: u64| percent(n as f64 / (totals.neurons as f64).max(1.0));
    put(
        out,
        format_args!(
            "<tr class=\"sum\"><td>all layers</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
            amount(totals.neurons as f64),
            share(totals.silent),
            share(totals.saturated),
            percent(receipt.firing_rate())
        ),
    );
    for t in 0..receipt.timesteps {
        let spikes: u64 = receipt.neurons.iter().map(|n| n.positive[t] + n.negative[t]).sum();
        let possible = totals.updates as f64 / (receipt.timesteps as f64).max(1.0);
        put(out, format_args!("<td>{:.1}</td>", 100.0 * spikes as f64 / possible.max(1.0)));
    }
    out.push_str("</tr>\n</table></div>\n<p><small>Columns t = 1 … are in %.</small></p>\n");
}

fn attention(out: &mut String, receipt: &Receipt) {
    let layers: Vec<_> = receipt.layers.iter().filter_map(|l| Some((l, l.attention.as_ref()?))).collect();
    if layers.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Attention, in both orders</h2>\n<p>The same sums either way, as there is no softmax: Q (Kᵀ V) adds d values for each spike \
         of Q and V, (Q Kᵀ) V adds N. In brackets: less additions of keys that are zero.</p>\n<div class=\"scroll\"><table><tr><th>additions \
         an image</th><th>Q (Kᵀ V)</th><th></th><th>(Q Kᵀ) V</th><th></th><th class=\"text\">it ran</th><th>keys not zero</th></tr>\n",
    );
    for (layer, of) in layers {
        let each = |n: u64| amount(receipt.per_image(n));
        let ran = match of.order {
            crate::kernels::attention::Order::QKv => "Q (Kᵀ V)",
            crate::kernels::attention::Order::QkV => "(Q Kᵀ) V",
        };
        put(
            out,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td class=\"soft\">({})</td><td>{}</td><td class=\"soft\">({})</td><td \
                 class=\"text\">{ran}</td><td>{}</td></tr>\n",
                escaped(&layer.name),
                each(of.q_kv),
                each(of.q_kv_nonzero),
                each(of.qk_v),
                each(of.qk_v_nonzero),
                percent(of.keys as f64 / (of.possible_keys as f64).max(1.0)),
            ),
        );
    }
    out.push_str("</table></div>\n");
}

fn real<'a>(sample: &'a Sample, name: &str) -> Option<(&'a OutputTensor, &'a [f32])> {
    let tensor = sample.trace.iter().find(|t| t.name == name)?;
    match &tensor.values {
        Values::Real(values) => Some((tensor, values)),
        _ => None,
    }
}

/// Spikes `[T][N][C]` as -1, 0 and 1.
fn signs<'a>(sample: &'a Sample, name: &str) -> Option<(&'a OutputTensor, Vec<i8>)> {
    let tensor = sample.trace.iter().find(|t| t.name == name)?;
    match &tensor.values {
        Values::Spikes(values) => Some((tensor, values.iter().map(|&s| s as i8).collect())),
        Values::Ternary(values) => Some((tensor, values.clone())),
        Values::Real(_) => None,
    }
}

fn one_image(out: &mut String, report: &Report, sample: &Sample) {
    let config = report.config;
    put(out, format_args!("<h2>One image: {}</h2>\n", escaped(&sample.name)));
    if let Some(label) = &sample.label {
        put(out, format_args!("<p>Labelled <b>{}</b>.</p>\n", escaped(label)));
    }
    // Once, for the picture and for all maps over it.
    let picture = bitmap(&Picture::of_input(&sample.image, config));
    put(
        out,
        format_args!(
            "<style>.shown span{{background-image:url(\"{picture}\")}}</style>\n<div class=\"split\"><figure><span class=\"shown \
             large\" role=\"img\" aria-label=\"the image as the model sees it\"><span></span></span><figcaption>as the model sees \
             it{}</figcaption></figure>\n",
            if report.receipt.sequence { ", at the first timestep" } else { "" }
        ),
    );
    answers(out, config, sample);
    out.push_str("</div>\n");
    maps(out, config, sample);
    raster(out, sample);
    histogram(out, config, sample);
    if let Some(why) = &sample.why {
        put(
            out,
            format_args!(
                "<h3>Why did it fire, or not?</h3>\n<pre>{}</pre>\n",
                why.to_string().lines().map(|l| escaped(l) + "\n").collect::<String>()
            ),
        );
    }
}

/// The likeliest classes after each timestep.
fn answers(out: &mut String, config: &Config, sample: &Sample) {
    const SHOWN: usize = 5;
    let Some(last) = sample.readouts.last() else { return };
    let mut classes: Vec<usize> = (0..last.len()).collect();
    classes.sort_by(|&a, &b| last[b].total_cmp(&last[a]));
    let name = |class: usize| {
        let named = config.class_names.as_ref().and_then(|n| n.get(class));
        named.cloned().unwrap_or_else(|| format!("class {class}"))
    };
    // The answer first: a run of many timesteps is wider than a page.
    let steps = sample.readouts.len();
    out.push_str("<div class=\"scroll\"><table><tr><th>probability after</th>");
    put(out, format_args!("<th>all {steps}</th>"));
    for t in 1..steps {
        put(out, format_args!("<th>t = {t}</th>"));
    }
    out.push_str("</tr>\n");
    for &class in classes.iter().take(SHOWN) {
        put(out, format_args!("<tr><td>{}</td>", escaped(&name(class))));
        for logits in sample.readouts.last().into_iter().chain(&sample.readouts[..steps - 1]) {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weight = |x: f32| f64::from(x - most).exp();
            let p = weight(logits[class]) / logits.iter().map(|&x| weight(x)).sum::<f64>();
            put(out, format_args!("<td style=\"background:rgba(var(--heat),{:.3})\">{:.1} %</td>", 0.5 * p, 100.0 * p));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
}

/// Where each block and head looks.
fn maps(out: &mut String, config: &Config, sample: &Sample) {
    let mut shown = String::new();
    for AttentionMap { block, heads, height, width, weights } in attention_maps(config, &sample.trace) {
        // The trace is of one image.
        let looked: Vec<Vec<f64>> =
            weights.chunks_exact(height * width).map(|of| of.iter().map(|&w| f64::from(w)).collect()).collect();
        let mut all = vec![0.0; height * width];
        looked.iter().for_each(|of| all.iter_mut().zip(of).for_each(|(a, b)| *a += b));
        let mut of_block = String::new();
        let mut figure = |values: &[f64], class: &str, what: &str| {
            let silent = values.iter().all(|&v| v == 0.0);
            put(
                &mut of_block,
                format_args!(
                    "<figure><span class=\"shown map {class}\"><span></span><img src=\"{}\" alt=\"attention map, \
                     {what}\"></span><figcaption>{what}{}</figcaption></figure>",
                    bitmap(&Picture::of_map(values, (height, width))),
                    if silent { ": silent" } else { "" }
                ),
            );
        };
        figure(&all, "of-block", &format!("block {block}"));
        if heads > 1 {
            looked.iter().enumerate().for_each(|(head, values)| figure(values, "of-head", &format!("head {head}")));
        }
        put(&mut shown, format_args!("<div class=\"block\">{of_block}</div>\n"));
    }
    if shown.is_empty() {
        return;
    }
    put(
        out,
        format_args!(
            "<h3>What attention looks at</h3>\n<p>For each token the mean of Q Kᵀ over queries and timesteps: bright where keys are asked \
             for most, each map from 0 to its own largest; a map is dark, and says silent, where \
             no query met a key. Large: a block's heads together; small: each head.</p>\n<div \
             class=\"maps\">{shown}</div>\n"
        ),
    );
}

fn raster(out: &mut String, sample: &Sample) {
    const MOST: usize = 200;
    let Some((tensor, s)) = signs(sample, &format!("s.{}", sample.layer)) else { return };
    let (steps, neurons) = (tensor.shape.steps, tensor.shape.tokens() * tensor.shape.channels);
    let fired: Vec<usize> = (0..neurons).filter(|&i| (0..steps).any(|t| s[t * neurons + i] != 0)).collect();
    let chosen: Vec<usize> = match sample.neurons.is_empty() {
        false => sample.neurons.iter().copied().filter(|&i| i < neurons).collect(),
        // Evenly from those that fired, so that the whole layer is seen.
        true => (0..fired.len().min(MOST)).map(|i| fired[i * fired.len() / fired.len().min(MOST)]).collect(),
    };
    let layer = escaped(&sample.layer);
    put(out, format_args!("<h3>Raster of {layer}</h3>\n"));
    if chosen.is_empty() {
        put(out, format_args!("<p>None of its {neurons} neurons fired for this image.</p>\n"));
        return;
    }
    let what = if sample.neurons.is_empty() { "evenly chosen from these" } else { "as asked for" };
    put(
        out,
        format_args!(
            "<p>{} of its {neurons} neurons fired for this image; shown are {}, {what}. A column is a neuron, a line a timestep{}.</p>\n",
            fired.len(),
            chosen.len(),
            if matches!(tensor.values, Values::Ternary(_)) { "; red is −1" } else { "" }
        ),
    );
    let column = (900.0 / chosen.len() as f64).clamp(4.5, 22.0);
    let line = if steps > 12 { 9.0 } else { 17.0 };
    let (left, width, height) = (44.0, 44.0 + column * chosen.len() as f64 + 2.0, line * steps as f64 + 22.0);
    put(
        out,
        format_args!(
            "<div class=\"scroll\"><svg viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" role=\"img\" aria-label=\"raster of {layer}\">\n"
        ),
    );
    for t in 0..steps {
        let y = line * t as f64;
        if steps <= 12 || t % 4 == 0 || t + 1 == steps {
            put(
                out,
                format_args!(
                    "<text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">t {}</text>",
                    left - 7.0,
                    y + line / 2.0 + 4.0,
                    t + 1
                ),
            );
        }
        put(out, format_args!("<path class=\"rule\" d=\"M{left} {0:.1}H{1:.1}\"/>\n", y + line, width - 2.0));
        for (i, &neuron) in chosen.iter().enumerate() {
            let sign = s[t * neurons + neuron];
            if sign != 0 {
                let class = if sign > 0 { "ac" } else { "minus" };
                let (c, n) = (neuron % tensor.shape.channels, neuron / tensor.shape.channels);
                let (row, col) = (n / tensor.shape.width.max(1), n % tensor.shape.width.max(1));
                put(
                    out,
                    format_args!(
                        "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>neuron {neuron}: line {row}, column \
                         {col}, channel {c}; timestep {}</title></rect>",
                        left + column * i as f64 + 0.5,
                        y + 2.0,
                        (column - 1.0).min(12.0),
                        line - 4.0,
                        t + 1
                    ),
                );
            }
        }
        out.push('\n');
    }
    put(
        out,
        format_args!(
            "<text class=\"soft\" x=\"{left}\" y=\"{0:.0}\">neuron {1}</text><text class=\"soft\" x=\"{2:.0}\" y=\"{0:.0}\" text-anchor=\"end\">{3}</text></svg></div>\n",
            height - 4.0,
            chosen[0],
            width - 2.0,
            if chosen.len() > 1 { chosen[chosen.len() - 1].to_string() } else { String::new() }
        ),
    );
}

fn histogram(out: &mut String, config: &Config, sample: &Sample) {
    const BINS: usize = 72;
    let Some((tensor, h)) = real(sample, &format!("h.{}", sample.layer)) else { return };
    if h.is_empty() {
        return;
    }
    let threshold = if sample.layer.ends_with(".attn_lif") { config.attn_v_threshold } else { config.v_threshold };
    let ternary = sample.layer.ends_with(".v_lif");
    let mut sorted: Vec<f32> = h.to_vec();
    sorted.sort_by(f32::total_cmp);
    // All but a thousandth at either end, and the threshold, within the picture.
    let cut = sorted.len() / 1000;
    let low = sorted[cut].min(if ternary { -threshold } else { 0.0 });
    let high = sorted[sorted.len() - 1 - cut].max(threshold);
    let margin = ((high - low) * 0.04).max(0.05 * threshold);
    let (low, high) = (f64::from(low - margin), f64::from(high + margin));
    let mut counts = [0u64; BINS];
    for &h in h {
        let bin = ((f64::from(h) - low) / (high - low) * BINS as f64).clamp(0.0, BINS as f64 - 1.0);
        counts[bin as usize] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(1) as f64;
    let layer = escaped(&sample.layer);
    let fired = h.iter().filter(|&&h| h >= threshold || ternary && h <= -threshold).count();
    put(
        out,
        format_args!(
            "<h3>Membranes of {layer} before they fire</h3>\n<p>All neurons at all timesteps; {} of {} are {}. Heights grow with the square \
             root of the count, so that few beside many can be seen.</p>\n",
            fired,
            tensor.shape.steps * tensor.shape.tokens() * tensor.shape.channels,
            if ternary {
                "at or beyond one of the thresholds, and fire"
            } else {
                "at or beyond the threshold, and fire"
            }
        ),
    );
    let (width, height, top, bottom) = (760.0, 200.0, 20.0, 168.0);
    let x = |v: f64| (v - low) / (high - low) * width;
    put(
        out,
        format_args!(
            "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\" aria-label=\"histogram of membranes\">\n"
        ),
    );
    let bar = width / BINS as f64;
    for (i, &n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
        let tall = ((n as f64 / most).sqrt() * (bottom - top)).max(1.0);
        put(
            out,
            format_args!(
                "<rect class=\"ac\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\"><title>{n}</title></rect>",
                bar * i as f64 + 0.5,
                bottom - tall,
                bar - 1.0
            ),
        );
    }
    put(out, format_args!("<path class=\"axis\" d=\"M0 {bottom}H{width}\"/>\n"));
    let thresholds = if ternary { vec![-threshold, threshold] } else { vec![threshold] };
    for v in thresholds {
        let at = x(f64::from(v));
        let (anchor, dx) = if at > width / 2.0 { ("end", -5.0) } else { ("start", 5.0) };
        put(
            out,
            format_args!(
                "<path class=\"threshold\" d=\"M{at:.1} 4V{bottom}\"/><text x=\"{:.1}\" y=\"14\" text-anchor=\"{anchor}\">threshold {v}</text>\n",
                at + dx
            ),
        );
    }
    for i in 0..=4 {
        let v = low + (high - low) * f64::from(i) / 4.0;
        let anchor = ["start", "middle", "middle", "middle", "end"][i as usize];
        put(
            out,
            format_args!(
                "<text class=\"soft\" x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{v:.2}</text>",
                x(v),
                bottom + 18.0
            ),
        );
    }
    out.push_str("</svg>\n");
}

fn ways(out: &mut String, receipt: &Receipt) {
    out.push_str(
        "<h2>The same run under other rules</h2>\n<p>Papers count differently, so that one model has several energies. Each column is a \
         cost model, each line a way to count; the first line is what this page shows. None of them is a measurement.</p>\n<div \
         class=\"scroll\"><table><tr><th>per image</th><th>MACs</th><th>ACs</th>",
    );
    for cost in COST_MODELS {
        put(out, format_args!("<th>{}</th>", cost.name));
    }
    out.push_str("</tr>\n");
    for way in &receipt.countings {
        let class = if way.name == MAIN.0 { " class=\"main\"" } else { "" };
        put(
            out,
            format_args!(
                "<tr{class}><td>{}</td><td>{}</td><td>{}</td>",
                escaped(&way.name),
                amount(way.macs),
                amount(way.acs)
            ),
        );
        for cost in COST_MODELS {
            put(
                out,
                format_args!("<td>{}</td>", receipt.picojoules(&way.name, cost.name).map_or("–".to_owned(), joules)),
            );
        }
        out.push_str("</tr>\n");
    }
    out.push_str(
        "</table></div>\n<details><summary>What the lines and columns mean</summary>\n<div class=\"scroll\"><table>\n",
    );
    for way in &receipt.countings {
        put(
            out,
            format_args!("<tr><td>{}</td><td class=\"wrap\">{}</td></tr>\n", escaped(&way.name), escaped(&way.how)),
        );
    }
    for CostModel { name, mac, ac, source, .. } in COST_MODELS {
        put(
            out,
            format_args!(
                "<tr><td>{name}</td><td class=\"wrap\">MAC {mac} pJ, AC {ac} pJ. {}</td></tr>\n",
                escaped(source)
            ),
        );
    }
    out.push_str("</table></div></details>\n");
}

fn neurobench(out: &mut String, receipt: &Receipt) {
    let of = &receipt.neurobench;
    let rows = [
        (
            "footprint",
            format!("{} bytes", of.footprint),
            "bytes of the parameters as this program stores them, batch norm folded",
        ),
        ("connection sparsity", percent(of.connection_sparsity), "share of the weights that are zero"),
        (
            "activation sparsity",
            percent(of.activation_sparsity),
            "share of activations that are zero, over all layers, timesteps and images: neurons' outputs, and keys",
        ),
        (
            "effective ACs",
            amount(of.effective_acs),
            "additions that an activation of ±1 triggers, in convolutions and linear layers",
        ),
        (
            "effective MACs",
            amount(of.effective_macs),
            "products with an activation that is a real number and not zero, likewise: the first convolution, at every timestep, and the head",
        ),
        ("dense operations", amount(of.dense), "the same layers if no activation and no weight were zero"),
    ];
    out.push_str("<h2>NeuroBench metrics</h2>\n<div class=\"scroll\"><table>\n");
    for (name, value, meaning) in rows {
        put(out, format_args!("<tr><td>{name}</td><td>{value}</td><td class=\"wrap\">{meaning}</td></tr>\n"));
    }
    let zeros: u64 = receipt.layers.iter().map(|l| l.zero_weights).sum();
    let exact = match zeros {
        0 => "No weight is zero, so none meets one.".to_owned(),
        n => format!("{n} weights are zero; NeuroBench leaves out operations that meet one, these counts do not."),
    };
    put(
        out,
        format_args!(
            "</table></div>\n<p><small>Operations are of an image. Attention's products are no layers, and in none of them. \
             {exact}</small></p>\n"
        ),
    );
}

fn words(out: &mut String) {
    out.push_str("<h2>What the words mean</h2>\n<div class=\"scroll\"><table>\n");
    for (word, meaning) in [
        (
            "spike",
            "what a neuron sends when its membrane reaches the threshold: +1, or −1 in layers that have both signs",
        ),
        (
            "AC",
            "an accumulate: one addition of a real value that a spike selects; a synaptic operation is one of these",
        ),
        ("MAC", "a multiply-accumulate: a product of two real numbers that is added to a sum"),
        (
            "triggered",
            "the share of a layer's additions that spikes caused, of those there were if every input were a spike",
        ),
        ("firing rate", "spikes per neuron and timestep"),
        ("dense network", "the same layers with real activations instead of spikes, computed once and not T times"),
        (
            "45nm-…",
            "what an operation costs in 45 nm silicon (Horowitz, ISSCC 2014); …-sram adds reading weights and membranes",
        ),
    ] {
        put(out, format_args!("<tr><td>{word}</td><td class=\"wrap\">{meaning}</td></tr>\n"));
    }
    out.push_str(
        "</table></div>\n<p><small>ENERGY.md has the formulas, their sources, and where they differ.</small></p>\n",
    );
}
