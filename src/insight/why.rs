//! Why a neuron fired, or did not: its membrane's path, and what its input at one timestep was made of. Everything comes from the
//! trace of one image and the model's own weights.

use std::fmt::{Display, Formatter};

use serde::{Deserialize, Serialize};

use super::anatomy::Neurons;
use crate::layers::conv_bn::ConvBn;
use crate::layers::patch_splitting::ImageConvBn;
use crate::model::Model;
use crate::outputs::{OutputTensor, Values};
use crate::reference::Lif;
use crate::tensor::Shape;
use crate::{Error, Result};

/// A neuron and a timestep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its layer, e.g. `block.0.attn.q_lif`.
    pub layer: String,
    /// Token · C + channel.
    pub neuron: usize,
    /// From 1 on.
    pub timestep: usize,
}

impl Question {
    /// The question of the neuron of `layer` at a line, a column and a channel.
    ///
    /// # Errors
    /// [`Error::Input`] if the model has no such neuron.
    pub fn at(model: &Model, layer: &str, place: [usize; 3], timestep: usize) -> Result<Question> {
        let of = neurons_of(model, layer)?;
        let [y, x, c] = place;
        let Neurons { height, width, channels, .. } = of;
        if y >= height || x >= width || c >= channels {
            return Err(Error::Input(format!(
                "{layer} has {height} lines, {width} columns and {channels} channels, the first of each is 0; line {y}, column \
                 {x}, channel {c} is not among them"
            )));
        }
        Ok(Question { layer: layer.to_owned(), neuron: (y * width + x) * channels + c, timestep })
    }

    /// Whether a run of `model` over `steps` timesteps has that neuron and timestep.
    ///
    /// # Errors
    /// [`Error::Input`] if not, with what there is.
    pub fn check(&self, model: &Model, steps: usize) -> Result<()> {
        let Question { layer, neuron, timestep } = self;
        let n = neurons_of(model, layer)?.len();
        if *neuron as u64 >= n {
            return Err(Error::Input(format!("{layer} has {n} neurons, the first is 0; {neuron} is none")));
        }
        if !(1..=steps).contains(timestep) {
            return Err(Error::Input(format!("timestep {timestep}: the run has {steps}, the first is 1")));
        }
        Ok(())
    }
}

/// The layer of neurons of that name.
fn neurons_of(model: &Model, layer: &str) -> Result<Neurons> {
    let mut known = model.anatomy().neurons;
    match known.iter().position(|n| n.name == layer) {
        Some(i) => Ok(known.swap_remove(i)),
        None => {
            let names: Vec<&str> = known.iter().map(|n| n.name.as_str()).collect();
            let layer = crate::error::clip(layer);
            Err(Error::Input(format!("there is no layer of neurons `{layer}`; there are {}", names.join(", "))))
        }
    }
}

impl std::str::FromStr for Question {
    type Err = Error;

    /// Reads `layer:neuron:timestep`.
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let wrong = || {
            Error::Input(format!(
                "`{}` is no question; write layer:neuron:timestep, e.g. block.0.attn.q_lif:17:1",
                crate::error::clip(text)
            ))
        };
        let [layer, neuron, timestep] = parts[..] else { return Err(wrong()) };
        let (Ok(neuron), Ok(timestep)) = (neuron.parse(), timestep.parse()) else { return Err(wrong()) };
        Ok(Question { layer: layer.to_owned(), neuron, timestep })
    }
}

/// One timestep of a membrane.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// What was left of the timestep before, after its reset.
    pub before: f32,
    /// The membrane with its input, before firing.
    pub h: f32,
    /// What it fired: -1, 0 or 1.
    pub spike: i8,
    /// What is left, after the reset.
    pub after: f32,
}

/// A part of a neuron's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// Where it comes from, in words.
    pub from: String,
    /// The layer that it comes from; `None` of the image and of constants.
    pub layer: Option<String>,
    /// Line, column and channel there (of the pool's output, where a pool is between); `None` of constants.
    pub place: Option<[usize; 3]>,
    /// How much of the input it is.
    pub amount: f64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The question.
    #[serde(flatten)]
    pub question: Question,
    /// Line, column and channel of the neuron.
    pub place: [usize; 3],
    /// The firing threshold.
    pub threshold: f32,
    /// Whether it fires -1 too, where the membrane is at -threshold or below.
    pub ternary: bool,
    /// τ, the membrane's time constant in timesteps.
    pub tau: f32,
    /// Whether the input is divided by τ too.
    pub decay_input: bool,
    /// The potential that a neuron which fires goes to; none: it loses the threshold (a soft reset).
    pub v_reset: Option<f32>,
    /// The membrane at each timestep.
    pub path: Vec<Moment>,
    /// The input at the timestep: the sum of all contributions.
    pub input: f64,
    /// Its parts, the largest first.
    pub contributions: Vec<Contribution>,
    /// What else there is to say of the input.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// The trace of one image.
struct Trace<'a>(&'a [OutputTensor]);

impl Trace<'_> {
    fn get(&self, name: &str) -> Result<&OutputTensor> {
        let missing = || Error::Input(format!("the trace has no `{name}`; run one image of this model with a trace"));
        self.0.iter().find(|t| t.name == name).ok_or_else(missing)
    }

    /// The value of channel `c` of a token of the only image at timestep `t`, from 0 on.
    fn at(&self, name: &str, t: usize, token: usize, c: usize) -> Result<f32> {
        let tensor = self.get(name)?;
        let Shape { steps, channels, .. } = tensor.shape;
        let i = (t.min(steps - 1) * tensor.shape.rows() + token) * channels + c;
        let value = match &tensor.values {
            Values::Real(v) => v.get(i).copied(),
            Values::Spikes(v) => v.get(i).map(|&s| f32::from(s)),
            Values::Ternary(v) => v.get(i).map(|&s| f32::from(s)),
        };
        value.ok_or_else(|| Error::Input(format!("`{name}` has no token {token}, channel {c}")))
    }
}

/// Spikes that a convolution sees, pooled or not.
struct Spikes<'a> {
    trace: &'a Trace<'a>,
    name: String,
    pooled: bool,
    shape: Shape,
}

impl<'a> Spikes<'a> {
    fn new(trace: &'a Trace<'a>, layer: &str, pooled: bool) -> Result<Self> {
        let name = format!("s.{layer}");
        let shape = trace.get(&name)?.shape;
        Ok(Spikes { trace, name, pooled, shape: if pooled { shape.pooled() } else { shape } })
    }

    fn at(&self, t: usize, y: usize, x: usize, c: usize) -> Result<f32> {
        if !self.pooled {
            return self.trace.at(&self.name, t, y * self.shape.width + x, c);
        }
        let of = self.trace.get(&self.name)?.shape;
        let mut most = 0.0f32;
        for v in (2 * y).saturating_sub(1)..(2 * y + 2).min(of.height) {
            for u in (2 * x).saturating_sub(1)..(2 * x + 2).min(of.width) {
                most = most.max(self.trace.at(&self.name, t, v * of.width + u, c)?);
            }
        }
        Ok(most)
    }
}

/// The places that output `(y, x)` of a 3×3 convolution sees, with the tap of each.
fn seen(shape: Shape, y: usize, x: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..9).filter_map(move |tap| {
        let (v, u) = ((y + tap / 3).checked_sub(1)?, (x + tap % 3).checked_sub(1)?);
        (v < shape.height && u < shape.width).then_some((tap, v, u))
    })
}

/// A part that is there whatever fires.
fn constant(from: String, amount: f32) -> Contribution {
    Contribution { from, layer: None, place: None, amount: f64::from(amount) }
}

/// What `layer` makes of `spikes` at a place.
fn of_spikes(layer: &ConvBn, spikes: &Spikes, t: usize, y: usize, x: usize, o: usize) -> Result<Vec<Contribution>> {
    let (weights, shift) = layer.row(o);
    let mut parts = vec![constant(format!("batch norm's shift of {}", layer.name()), shift)];
    let places: Vec<(usize, usize, usize)> = match layer.taps() {
        9 => seen(spikes.shape, y, x).collect(),
        _ => vec![(0, y, x)],
    };
    for (tap, v, u) in places {
        for (c, of_channel) in weights.chunks_exact(layer.taps()).enumerate() {
            let s = spikes.at(t, v, u, c)?;
            if s != 0.0 {
                let name = spikes.name.trim_start_matches("s.");
                let pooled = if spikes.pooled { " (pooled)" } else { "" };
                parts.push(Contribution {
                    from: format!("{name}{pooled}, line {v}, column {u}, channel {c}"),
                    layer: Some(name.to_owned()),
                    place: Some([v, u, c]),
                    amount: f64::from(s) * f64::from(of_channel[tap]),
                });
            }
        }
    }
    Ok(parts)
}

fn of_image(layer: &ImageConvBn, image: &[f32], side: usize, (y, x, o): (usize, usize, usize)) -> Vec<Contribution> {
    let (weights, shift) = layer.row(o);
    let shape = Shape { steps: 1, batch: 1, height: side, width: side, channels: layer.inputs() };
    let mut parts = vec![constant("batch norm's shift".to_owned(), shift)];
    for (tap, v, u) in seen(shape, y, x) {
        for (c, of_channel) in weights.chunks_exact(9).enumerate() {
            let pixel = image.get((c * side + v) * side + u).copied().unwrap_or(0.0);
            parts.push(Contribution {
                from: format!("pixel in line {v}, column {u}, channel {c}, of value {pixel:.3}"),
                layer: None,
                place: Some([v, u, c]),
                amount: f64::from(pixel) * f64::from(of_channel[tap]),
            });
        }
    }
    parts
}

fn sum(parts: &[Contribution]) -> f64 {
    parts.iter().map(|p| p.amount).sum()
}

/// Answers `question` from the trace of one image `[C][H][W]` (of a sequence `[T][C][H][W]`) run through `model` alone.
///
/// # Errors
/// [`Error::Input`] if there is no such neuron or timestep, or the trace is of something else.
pub fn why(model: &Model, image: &[f32], trace: &[OutputTensor], question: &Question) -> Result<Why> {
    let trace = &Trace(trace);
    let config = model.config();
    let layer = question.layer.as_str();
    let of = neurons_of(model, layer)?;
    question.check(model, trace.get(&format!("h.{layer}"))?.shape.steps)?;
    let steps = trace.get(&format!("h.{layer}"))?.shape.steps;
    let (token, c, t) = (question.neuron / of.channels, question.neuron % of.channels, question.timestep - 1);
    let (y, x) = (token / of.width, token % of.width);

    let neuron = model.neuron_of(layer);
    let lif: Lif<f32> = (&neuron).into();
    let (mut path, mut v) = (Vec::new(), lif.v_reset);
    for t in 0..steps {
        let h = trace.at(&format!("h.{layer}"), t, token, c)?;
        let spike = trace.at(&format!("s.{layer}"), t, token, c)? as i8;
        let after = lif.reset(h, spike > 0, spike < 0);
        path.push(Moment { before: v, h, spike, after });
        v = after;
    }
    let (stem, blocks) = model.parts();
    let mut note = String::new();
    let of_residual = |name: &str, amount: f64| Contribution {
        from: format!("the residual, {name}"),
        layer: Some(name.to_owned()),
        place: Some([y, x, c]),
        amount,
    };
    let residual = |name: &str| -> Result<Contribution> {
        let amount = f64::from(trace.at(name, t, token, c)?);
        Ok(of_residual(name.trim_start_matches("u."), amount))
    };
    let stage3 = |y: usize, x: usize| {
        let spikes = Spikes::new(trace, "patch_embed.proj_lif2", stem.pooling_stat[2])?;
        of_spikes(&stem.stages[2], &spikes, t, y, x, c)
    };
    // The last stage's value, where the pool took it from.
    let pooled3 = || -> Result<(usize, usize, Vec<Contribution>)> {
        if !stem.pooling_stat[3] {
            return Ok((y, x, stage3(y, x)?));
        }
        let side = config.stage_sizes()[3];
        let mut best: Option<(usize, usize, Vec<Contribution>)> = None;
        for v in (2 * y).saturating_sub(1)..(2 * y + 2).min(side) {
            for u in (2 * x).saturating_sub(1)..(2 * x + 2).min(side) {
                let parts = stage3(v, u)?;
                if best.as_ref().is_none_or(|b| sum(&parts) > sum(&b.2)) {
                    best = Some((v, u, parts));
                }
            }
        }
        best.ok_or_else(|| Error::Input("the pool has no place to take a value from".to_owned()))
    };
    let linear = |layer: &ConvBn, spikes: &str| {
        let spikes = Spikes::new(trace, spikes, false)?;
        of_spikes(layer, &spikes, t, y, x, c)
    };
    let block_of =
        |name: &str| name.strip_prefix("block.").and_then(|rest| rest.split_once('.')?.0.parse::<usize>().ok());
    let mut parts = match (layer, block_of(layer).and_then(|i| Some((i, blocks.get(i)?)))) {
        ("patch_embed.proj_lif", _) => {
            let size = config.in_chans * config.img_size * config.img_size;
            let of_step = image.get((t * size).min(image.len().saturating_sub(size))..).unwrap_or(image);
            of_image(&stem.image, of_step, config.img_size, (y, x, c))
        }
        ("patch_embed.proj_lif1", _) => {
            let spikes = Spikes::new(trace, "patch_embed.proj_lif", stem.pooling_stat[0])?;
            of_spikes(&stem.stages[0], &spikes, t, y, x, c)?
        }
        ("patch_embed.proj_lif2", _) => {
            let spikes = Spikes::new(trace, "patch_embed.proj_lif1", stem.pooling_stat[1])?;
            of_spikes(&stem.stages[1], &spikes, t, y, x, c)?
        }
        ("patch_embed.proj_lif3", _) => {
            let (v, u, parts) = pooled3()?;
            if stem.pooling_stat[3] {
                note = format!("The max-pool took the value of line {v}, column {u}.");
            }
            parts
        }
        (_, Some((i, (attention, mlp)))) => match layer.rsplit('.').next().unwrap_or_default() {
            "shortcut_lif" if i == 0 => {
                let spikes = Spikes::new(trace, "patch_embed.proj_lif3", false)?;
                let mut parts = of_spikes(&stem.rpe, &spikes, t, y, x, c)?;
                parts.push(of_residual("patch_embed.proj_conv3", sum(&pooled3()?.2)));
                parts
            }
            "shortcut_lif" => {
                let before = i - 1;
                let mut parts = linear(&blocks[before].1.fc2, &format!("block.{before}.mlp.fc2_lif"))?;
                parts.push(residual(&format!("u.block.{before}.attn"))?);
                parts
            }
            "q_lif" => linear(&attention.q, &format!("{}.shortcut_lif", attention.name))?,
            "v_lif" => linear(&attention.v, &format!("{}.shortcut_lif", attention.name))?,
            "attn_lif" => {
                let name = &attention.name;
                let dim = config.head_dim();
                let head = c / dim;
                note = format!(
                    "A contribution is a token of head {head}: how well its key fits the query, times its value's sign."
                );
                let mut parts = Vec::new();
                for m in 0..of.height * of.width {
                    let value = trace.at(&format!("s.{name}.v_lif"), t, m, c)?;
                    if value == 0.0 {
                        continue;
                    }
                    let mut score = 0.0;
                    for i in head * dim..(head + 1) * dim {
                        if trace.at(&format!("s.{name}.q_lif"), t, token, i)? != 0.0 {
                            score += f64::from(trace.at(&format!("k.{name}"), t, m, i)?);
                        }
                    }
                    let (v, u) = (m / of.width, m % of.width);
                    parts.push(Contribution {
                        from: format!("token in line {v}, column {u}, of value {value:+}"),
                        layer: Some(format!("{name}.v_lif")),
                        place: Some([v, u, c]),
                        amount: score * f64::from(value),
                    });
                }
                parts
            }
            "fc1_lif" => {
                let mut parts = linear(&attention.proj, &format!("{}.attn_lif", attention.name))?;
                let before = if i == 0 { "u.patch_embed".to_owned() } else { format!("u.block.{}.mlp", i - 1) };
                parts.push(residual(&before)?);
                parts
            }
            _ => linear(&mlp.fc1, &format!("{}.fc1_lif", mlp.name))?,
        },
        _ => match blocks.len().checked_sub(1) {
            Some(last) => {
                let mut parts = linear(&blocks[last].1.fc2, &format!("block.{last}.mlp.fc2_lif"))?;
                parts.push(residual(&format!("u.block.{last}.attn"))?);
                parts
            }
            None => vec![residual("u.patch_embed")?],
        },
    };
    // Adding 0 makes a zero of a negative one.
    let input = sum(&parts) + 0.0;
    parts.sort_by(|a, b| b.amount.abs().total_cmp(&a.amount.abs()));
    Ok(Why {
        question: question.clone(),
        place: [y, x, c],
        threshold: neuron.v_threshold,
        ternary: of.ternary,
        tau: neuron.tau,
        decay_input: neuron.decay_input,
        v_reset: neuron.v_reset,
        path,
        input,
        contributions: parts,
        note,
    })
}

impl Display for Why {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 12;
        let Question { layer, neuron, timestep } = &self.question;
        let [y, x, c] = self.place;
        let now = self.path[timestep - 1];
        let did = match now.spike {
            0 => "did not fire",
            s if s > 0 => "fired",
            _ => "fired -1",
        };
        writeln!(f, "{layer}, neuron {neuron} (line {y}, column {x}, channel {c}) {did} at timestep {timestep}")?;
        let reset = match self.v_reset {
            Some(v) => format!("hard: a neuron that fires goes to {v}"),
            None => format!("soft: a neuron that fires loses {}", self.threshold),
        };
        writeln!(f, "threshold {}; reset {reset}", self.threshold)?;
        // What is left decays towards the reset potential, and the input with it where it is divided too.
        let (tau, rest) = (self.tau, self.v_reset.unwrap_or(0.0));
        let left = match rest {
            0.0 => "before".to_owned(),
            rest if rest < 0.0 => format!("(before + {})", -rest),
            rest => format!("(before - {rest})"),
        };
        match self.decay_input {
            true => writeln!(f, "with input = before + (input - {left}) / τ, τ = {tau}\n")?,
            false => writeln!(f, "with input = before - {left} / τ + input, τ = {tau}\n")?,
        }
        writeln!(f, "  t   before   with input   spike    after")?;
        for (t, m) in self.path.iter().enumerate() {
            let mark = if t + 1 == *timestep { '>' } else { ' ' };
            writeln!(f, "{mark} {:<2} {:>7.4}   {:>10.4}   {:>5}  {:>7.4}", t + 1, m.before, m.h, m.spike, m.after)?;
        }
        let parts: Vec<&Contribution> = self.contributions.iter().filter(|p| p.amount != 0.0).collect();
        let active = parts.len();
        let (shown, rest) = parts.split_at(active.min(SHOWN));
        match active {
            0 => writeln!(f, "\nits input at timestep {timestep} is 0: nothing reached it")?,
            1 => writeln!(f, "\nits input at timestep {timestep} is {:.4}, of one part:", self.input)?,
            n => {
                let largest = if rest.is_empty() { "" } else { ", the largest" };
                writeln!(f, "\nits input at timestep {timestep} is {:.4}, the sum of {n} parts{largest}:", self.input)?;
            }
        }
        for part in shown {
            writeln!(f, "  {:>+9.4}  {}", part.amount, part.from)?;
        }
        if !rest.is_empty() {
            let sum: f64 = rest.iter().map(|p| p.amount).sum();
            writeln!(f, "  {sum:>+9.4}  {} smaller one{}", rest.len(), if rest.len() == 1 { "" } else { "s" })?;
        }
        if !self.note.is_empty() && active > 0 {
            writeln!(f, "{}", self.note)?;
        }
        Ok(())
    }
}
