//! One batch forward and back: the loss and the gradient of every parameter.

use std::collections::BTreeMap;

use super::parameters::{Learned, learned, tensor};
use super::pass::{self, MOMENTUM, Pass, Place, Places, flat};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::Config;
use crate::gpu::Limits;
use crate::kernels::attention::Order;
use crate::kernels::bn_statistics::unbias;
use crate::model::InputShape;
use crate::outputs::{OutputTensor, Outputs};
use crate::program::Program;
use crate::recording::{Constant, Recording};
use crate::session::{Device, Input, channel_last, shape_of};
use crate::tensor::Element;
use crate::{Error, Result};

/// Which mean and variance batch norm normalises with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Statistics {
    /// The checkpoint's running ones, frozen.
    #[default]
    Running,
    /// The batch's own, over T·B·H·W, through which gradients flow.
    Batch,
}

/// How gradients are computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Batch norm's statistics.
    pub statistics: Statistics,
    /// Other timesteps than the model's, for images.
    pub timesteps: Option<usize>,
    /// The attention's order; `None` takes the cheaper.
    pub order: Option<Order>,
    /// Keep only packed spikes and the residual membranes between blocks for backward, and make the rest again.
    pub recompute: bool,
    /// Read back every spike, membrane, key and attention sum.
    pub trace: bool,
    /// Count each layer's spikes.
    pub count: bool,
}

/// A batch's loss and gradients.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Mean cross-entropy of the batch, in nats.
    pub loss: f64,
    /// `[B][classes]`.
    pub logits: Vec<Vec<f32>>,
    /// By the parameter's name, in its shape in the checkpoint.
    pub gradients: BTreeMap<String, Tensor>,
    /// With [`Statistics::Batch`]: the running statistics after the step, by their names.
    pub running: BTreeMap<String, Tensor>,
    /// The trace, if asked for, `[T, B, H, W, C]` each.
    pub trace: Vec<OutputTensor>,
}

/// Runs one batch forward and back. `labels` are class indices, one an image.
///
/// # Errors
/// [`Error::Config`] or [`Error::Checkpoint`] if the checkpoint is not consistent (a loaded one is), [`Error::Input`] for a batch
/// that does not fit the model or its labels, [`Error::Gpu`] where it exceeds the device,
/// [`Error::DeviceLost`].
pub async fn gradients(
    device: &Device,
    checkpoint: &Checkpoint,
    input: &Input,
    labels: &[i64],
    options: Options,
) -> Result<Gradients> {
    let config = &checkpoint.config;
    config.validate()?;
    checkpoint.fitting(&config.parameters(), "the model's checkpoint")?;
    let shape = shape_of(input, options.timesteps, config)?;
    check_batch(config, input, labels)?;
    let (recording, _) = record(checkpoint, shape, options, device.limits())?;
    let pixels = channel_last(input, 0, input.batch, config.in_chans, config.img_size * config.img_size);
    let mut targets = one_hot(labels, config.num_classes);
    targets.resize(targets.len().next_multiple_of(4), 0.0);
    let outputs = Program::new(device, recording).await?.run(&[&pixels, &targets]).await?;
    collect(checkpoint, outputs, shape, options)
}

/// Whether a batch and its labels fit the model.
pub(crate) fn check_batch(config: &Config, input: &Input, labels: &[i64]) -> Result<()> {
    input.check(config)?;
    if labels.len() != input.batch {
        return Err(Error::Input(format!("{} labels for {} images", labels.len(), input.batch)));
    }
    let outside = |&&l: &&i64| usize::try_from(l).map_or(true, |l| l >= config.num_classes);
    if let Some(label) = labels.iter().find(outside) {
        return Err(Error::Input(format!("label {label} is outside 0..{}", config.num_classes)));
    }
    Ok(())
}

/// The recording of a batch with the checkpoint's parameters as constants and every gradient as an output.
fn record(checkpoint: &Checkpoint, input: InputShape, options: Options, limits: Limits) -> Result<(Recording, Pass)> {
    let mut recording = Recording::default();
    let inputs = pass::inputs(&mut recording, &checkpoint.config, input);
    let mut places = Places { parameters: BTreeMap::new(), running: BTreeMap::new() };
    for Learned { name, layout, .. } in learned(&checkpoint.config) {
        let data = layout.pack(&tensor(checkpoint, &name)?.data);
        let weights = recording.constant(&Constant { name: name.clone(), data: data.into() }.into());
        let gradient = recording.tensor(name.clone(), Element::Real, flat(layout.len()));
        recording.output(format!("g.{name}"), &[gradient]);
        places.parameters.insert(name, Place { weights, gradient });
    }
    let pass = pass::record(&mut recording, checkpoint, &places, inputs, input.timesteps, options, limits)?;
    recording.output("logits", &[pass.logits]);
    recording.output("loss", &[pass.loss]);
    Ok((recording, pass))
}

/// Class indices as `[B][classes]` with a one in each row.
pub(crate) fn one_hot(labels: &[i64], classes: usize) -> Vec<f32> {
    let mut targets = vec![0.0; labels.len() * classes];
    for (row, &label) in targets.chunks_exact_mut(classes).zip(labels) {
        if let Some(t) = usize::try_from(label).ok().and_then(|l| row.get_mut(l)) {
            *t = 1.0;
        }
    }
    targets
}

fn collect(checkpoint: &Checkpoint, outputs: Outputs, input: InputShape, options: Options) -> Result<Gradients> {
    let config = &checkpoint.config;
    let losses = outputs.reals("loss");
    let logits = outputs.reals("logits").chunks_exact(config.num_classes).map(<[f32]>::to_vec).collect();
    let mut gradients = BTreeMap::new();
    for Learned { name, shape, layout, .. } in learned(config) {
        let data = layout.unpack(outputs.reals(&format!("g.{name}")));
        gradients.insert(name, Tensor { shape, data });
    }
    conv_biases(checkpoint, &mut gradients, options.statistics);
    let running = match options.statistics {
        Statistics::Running => BTreeMap::new(),
        Statistics::Batch => running(checkpoint, &outputs, input),
    };
    let of_trace = |t: &OutputTensor| ["s.", "h.", "u.", "k.", "o."].iter().any(|p| t.name.starts_with(p));
    Ok(Gradients {
        loss: losses.iter().map(|&l| f64::from(l)).sum::<f64>() / losses.len().max(1) as f64,
        logits,
        gradients,
        running,
        trace: outputs.tensors.into_iter().filter(of_trace).collect(),
    })
}

/// A convolution's bias ahead of batch norm: with frozen statistics its gradient is scale · g_beta; the batch's own mean takes
/// it away again, so that with those it is zero.
fn conv_biases(checkpoint: &Checkpoint, gradients: &mut BTreeMap<String, Tensor>, statistics: Statistics) {
    let tensors = &checkpoint.tensors;
    for (name, parameter) in tensors.iter().filter(|(n, _)| n.ends_with("_conv.bias")) {
        let bn = name.replace("_conv.bias", "_bn");
        let of = |part: &str| tensors.get(&format!("{bn}.{part}"));
        let (Some(gamma), Some(var), Some(g_beta)) =
            (of("weight"), of("running_var"), gradients.get(&format!("{bn}.bias")))
        else {
            continue;
        };
        let scale = |(&gamma, &var): (&f32, &f32)| {
            f64::from(gamma) / (f64::from(var) + f64::from(checkpoint.config.bn_eps)).sqrt()
        };
        let data = match statistics {
            Statistics::Batch => vec![0.0; parameter.data.len()],
            Statistics::Running => {
                let scales = gamma.data.iter().zip(&var.data).map(scale);
                scales.zip(&g_beta.data).map(|(a, &g)| (a * f64::from(g)) as f32).collect()
            }
        };
        gradients.insert(name.clone(), Tensor { shape: parameter.shape.clone(), data });
    }
}

fn running(checkpoint: &Checkpoint, outputs: &Outputs, input: InputShape) -> BTreeMap<String, Tensor> {
    let sides = checkpoint.config.stage_sizes();
    let mut running = BTreeMap::new();
    for (name, old) in &checkpoint.tensors {
        let (bn, new, factor) = if let Some(bn) = name.strip_suffix(".running_mean") {
            (bn, outputs.reals(&format!("mean.{bn}")), 1.0)
        } else if let Some(bn) = name.strip_suffix(".running_var") {
            let side = match bn.strip_prefix("patch_embed.proj_bn") {
                Some("") => sides[0],
                Some(stage) => sides[stage.parse::<usize>().unwrap_or(3).min(3)],
                None => sides[4],
            };
            let n = input.timesteps * input.batch * side * side;
            (bn, outputs.reals(&format!("var.{bn}")), unbias(n))
        } else {
            continue;
        };
        debug_assert_eq!(new.len(), old.data.len(), "{bn}");
        let mix = |(&old, &new): (&f32, &f32)| (1.0 - MOMENTUM) * old + MOMENTUM * (new * factor);
        let data = old.data.iter().zip(new).map(mix).collect();
        running.insert(name.clone(), Tensor { shape: old.shape.clone(), data });
    }
    running
}
