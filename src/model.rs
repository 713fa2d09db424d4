//! The model: its layers with parameters folded and packed, recorded for any input shape.

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::gpu::{Capabilities, Limits};
use crate::insight::anatomy::{Anatomy, Layer, LayerKind, Neurons};
use crate::insight::counts::ChannelCounts;
use crate::kernels::neuron::Neuron;
use crate::layers::attention::Attention;
use crate::layers::conv_bn::ConvBn;
use crate::layers::head::Head;
use crate::layers::mlp::Mlp;
use crate::layers::patch_splitting::{ImageConvBn, PatchSplitting};
use crate::layers::{Options, Recorder};
use crate::recording::Recording;
use crate::reference::bn_fold::bn_fold;
use crate::tensor::Shape;
use crate::weights::Weights;
use crate::{Error, Result};

/// A Spiking Transformer ready to be recorded.
#[derive(Debug)]
pub struct Model {
    config: Config,
    weights: Weights,
    patch_embed: PatchSplitting,
    blocks: Vec<(Attention, Mlp)>,
    head: Head,
}

/// The shape of an input: images of the model's size, or sequences of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputShape {
    /// T.
    pub timesteps: usize,
    /// B.
    pub batch: usize,
    /// Whether every timestep has an image of its own; otherwise one image is shown T times.
    pub sequence: bool,
}

impl InputShape {
    /// Refuses what no machine holds: within this bound on every tensor's values no size, nor any sum of them, overflows.
    pub(crate) fn check_size(self, config: &Config) -> Result<()> {
        const MOST: u64 = 1 << 40;
        let [s0, s1, s2, s3, s4] = config.stage_sizes();
        let [w0, w1, w2, d] = config.stage_widths();
        let kv = config.num_heads * config.head_dim().next_multiple_of(32).pow(2);
        let of_an_image = [
            (s0, config.in_chans),
            (s0, w0),
            (s1, w1),
            (s2, w2),
            (s3, d),
            (s4, config.hidden_dim()),
            (1, kv),
            (1, config.num_classes),
        ]
        .map(|(side, channels)| (side * side) as u128 * channels.next_multiple_of(4) as u128);
        let largest = of_an_image.into_iter().max().unwrap_or(0);
        let most = u128::from(MOST).min(usize::MAX as u128);
        if self.timesteps as u128 * self.batch as u128 * largest > most {
            let InputShape { timesteps, batch, .. } = self;
            return Err(Error::Input(format!(
                "a batch of {batch} images at {timesteps} timesteps is too large: one of its tensors has more than {most} \
                 values; use a smaller batch"
            )));
        }
        Ok(())
    }
}

struct Parameters<'a>(&'a Checkpoint, Weights);

impl Parameters<'_> {
    fn get(&self, name: &str) -> Result<&[f32]> {
        let tensor = self.0.tensors.get(name);
        tensor.map(|t| t.data.as_slice()).ok_or_else(|| Error::Checkpoint(format!("the checkpoint has no `{name}`")))
    }

    /// The scale and shift of batch norm `bn` after convolution `conv`, with the convolution's bias if it has one.
    fn folded(&self, conv: &str, bn: &str) -> Result<(Vec<f32>, Vec<f32>)> {
        let bias = self.0.tensors.get(&format!("{conv}.bias")).map_or(&[][..], |t| &t.data);
        let of = |part: &str| self.get(&format!("{bn}.{part}"));
        let eps = self.0.config.bn_eps;
        Ok(bn_fold(of("weight")?, of("bias")?, of("running_mean")?, of("running_var")?, eps, bias))
    }

    fn conv_bn(&self, conv: &str, bn: &str, inputs: usize, taps: usize) -> Result<ConvBn> {
        let (scale, shift) = self.folded(conv, bn)?;
        let weights = self.get(&format!("{conv}.weight"))?;
        ConvBn::new(conv, weights, inputs, taps, (&scale, &shift), self.1)
    }
}

impl Model {
    /// Folds and packs a checkpoint's parameters.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid configuration; [`Error::Checkpoint`] naming the tensors that are missing or do not
    /// fit it. A loaded checkpoint has neither.
    pub fn new(checkpoint: &Checkpoint) -> Result<Model> {
        Model::with_weights(checkpoint, Weights::F32)
    }

    /// [`Model::new`] with the weights of its spike products stored as `weights`. The first convolution, attention (whose K are
    /// real activations) and the head are f32 either way.
    ///
    /// # Errors
    /// As [`Model::new`]; [`Error::Checkpoint`] too where f16 is to hold a weight beyond ±65504, naming its layer.
    pub fn with_weights(checkpoint: &Checkpoint, weights: Weights) -> Result<Model> {
        let config = checkpoint.config.clone();
        config.validate()?;
        checkpoint.fitting(&config.parameters(), "the model's checkpoint")?;
        let p = Parameters(checkpoint, weights);
        let neuron = Neuron {
            v_threshold: config.v_threshold,
            v_reset: config.v_reset,
            tau: config.tau,
            decay_input: config.decay_input,
        };
        let attn_neuron = Neuron { v_threshold: config.attn_v_threshold, ..neuron };
        let [w0, w1, w2, d] = config.stage_widths();
        let (scale, shift) = p.folded("patch_embed.proj_conv", "patch_embed.proj_bn")?;
        let stage = |i: usize, inputs: usize| {
            p.conv_bn(&format!("patch_embed.proj_conv{i}"), &format!("patch_embed.proj_bn{i}"), inputs, 9)
        };
        let patch_embed = PatchSplitting {
            image: ImageConvBn::new(p.get("patch_embed.proj_conv.weight")?, config.in_chans, &scale, &shift),
            stages: [stage(1, w0)?, stage(2, w1)?, stage(3, w2)?],
            rpe: p.conv_bn("patch_embed.rpe_conv", "patch_embed.rpe_bn", d, 9)?,
            pooling_stat: config.pooling_stat,
            neuron,
        };
        let mut blocks = Vec::with_capacity(config.depth);
        for i in 0..config.depth {
            let name = format!("block.{i}.attn");
            let conv_bn = |part: &str, inputs| {
                p.conv_bn(&format!("block.{i}.{part}_conv"), &format!("block.{i}.{part}_bn"), inputs, 1)
            };
            let attention = Attention {
                q: conv_bn("attn.q", d)?,
                k: conv_bn("attn.k", d)?,
                v: conv_bn("attn.v", d)?,
                proj: conv_bn("attn.proj", d)?,
                num_heads: config.num_heads,
                neuron,
                attn_neuron,
                name,
            };
            let mlp = Mlp {
                name: format!("block.{i}.mlp"),
                fc1: conv_bn("mlp.fc1", d)?,
                fc2: conv_bn("mlp.fc2", config.hidden_dim())?,
                neuron,
            };
            blocks.push((attention, mlp));
        }
        let head = Head::new(p.get("head.weight")?, p.get("head.bias")?, neuron);
        Ok(Model { config, weights, patch_embed, blocks, head })
    }

    /// Loads a checkpoint (see [`Checkpoint::load`]).
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn load(path: impl AsRef<std::path::Path>) -> Result<Model> {
        Model::new(&Checkpoint::load(path, false)?)
    }

    /// The model trained on MNIST that the library carries.
    ///
    /// # Errors
    /// None in a released build: a test loads it.
    pub fn built_in() -> Result<Model> {
        Model::new(&Checkpoint::built_in()?)
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the weights of its spike products are stored as.
    pub fn weights(&self) -> Weights {
        self.weights
    }

    /// Beside each layer of spike products what its weights lose by being stored as they are, relative to their root mean square
    /// (see [`crate::weights::Quantised::relative_error`]); nothing for f32.
    pub fn quantisation_errors(&self) -> Vec<(&str, f64)> {
        if self.weights == Weights::F32 {
            return Vec::new();
        }
        let PatchSplitting { stages, rpe, .. } = &self.patch_embed;
        let of_blocks = self.blocks.iter().flat_map(|(a, mlp)| [&a.q, &a.k, &a.v, &a.proj, &mlp.fc1, &mlp.fc2]);
        let all = stages.iter().chain([rpe]).chain(of_blocks);
        all.map(|layer| (layer.name(), layer.quantisation_error())).collect()
    }

    /// Its layers but the head.
    pub(crate) fn parts(&self) -> (&PatchSplitting, &[(Attention, Mlp)]) {
        (&self.patch_embed, &self.blocks)
    }

    /// The neurons of a layer of that name.
    pub(crate) fn neuron_of(&self, layer: &str) -> Neuron {
        let v_threshold =
            if layer.ends_with(".attn_lif") { self.config.attn_v_threshold } else { self.config.v_threshold };
        Neuron { v_threshold, ..self.patch_embed.neuron }
    }

    /// What it is made of, whatever runs it.
    pub fn anatomy(&self) -> Anatomy {
        let config = &self.config;
        let [s0, s1, s2, s3, s4] = config.stage_sizes();
        let [w0, w1, w2, d] = config.stage_widths();
        let PatchSplitting { image, stages, rpe, pooling_stat, .. } = &self.patch_embed;
        let mut layers = vec![image.describe(s0)];
        let neurons_of = |name: String, side: usize, channels: usize, ternary: bool| Neurons {
            name,
            height: side,
            width: side,
            channels,
            ternary,
        };
        let mut neurons = vec![neurons_of("patch_embed.proj_lif".to_owned(), s0, w0, false)];
        for (i, (stage, side)) in stages.iter().zip([s1, s2, s3]).enumerate() {
            let before = if i == 0 { String::new() } else { i.to_string() };
            let source = if pooling_stat[i] { "maxpool" } else { "proj_lif" };
            layers.push(stage.describe(&format!("patch_embed.{source}{before}"), side));
            let (side, channels) = [(s1, w1), (s2, w2), (s4, d)][i];
            neurons.push(neurons_of(format!("patch_embed.proj_lif{}", i + 1), side, channels, false));
        }
        layers.push(rpe.describe("patch_embed.proj_lif3", s4));
        for (attention, mlp) in &self.blocks {
            let name = &attention.name;
            let shortcut = format!("{name}.shortcut_lif");
            layers.extend([&attention.q, &attention.k, &attention.v].map(|layer| layer.describe(&shortcut, s4)));
            layers.push(Layer {
                name: name.clone(),
                kind: LayerKind::Attention {
                    tokens: s4 * s4,
                    heads: attention.num_heads,
                    head_dim: d / attention.num_heads.max(1),
                },
                weights: 0,
                zeros: 0,
                bytes: 0,
            });
            layers.push(attention.proj.describe(&format!("{name}.attn_lif"), s4));
            for (part, ternary) in [("shortcut_lif", false), ("q_lif", false), ("v_lif", true), ("attn_lif", false)] {
                neurons.push(neurons_of(format!("{name}.{part}"), s4, d, ternary));
            }
            let name = &mlp.name;
            layers.push(mlp.fc1.describe(&format!("{name}.fc1_lif"), s4));
            layers.push(mlp.fc2.describe(&format!("{name}.fc2_lif"), s4));
            neurons.push(neurons_of(format!("{name}.fc1_lif"), s4, d, false));
            neurons.push(neurons_of(format!("{name}.fc2_lif"), s4, config.hidden_dim(), false));
        }
        layers.push(self.head.describe());
        neurons.push(neurons_of("head_lif".to_owned(), s4, d, false));
        Anatomy { layers, neurons }
    }

    /// The logits as they stand after each timestep, of each image `[B][T][classes]`, from the head's spikes by timestep, image
    /// and channel.
    pub(crate) fn readouts(&self, head: &ChannelCounts) -> Vec<Vec<Vec<f32>>> {
        let tokens = self.config.tokens();
        let of_image = |b: usize| {
            let mut counts = vec![0u64; head.channels];
            let mut after = |t: usize| {
                counts.iter_mut().zip(head.of(t, b)).for_each(|(sum, &n)| *sum += u64::from(n));
                self.head.read_out(&counts, (t + 1) * tokens)
            };
            (0..head.steps).map(&mut after).collect()
        };
        (0..head.batch).map(of_image).collect()
    }

    /// Records the model for one input shape, for a device with `limits`. The output `logits` is `[B · classes]`; a trace's
    /// outputs have the names of the reference fixtures (`s.`, `h.`, `u.`, `k.`, `o.` and the layer).
    ///
    /// # Errors
    /// [`Error::Input`] for an empty batch, a T outside 1..=32, or a batch so large that sizes would overflow.
    pub fn record(&self, input: InputShape, options: Options, limits: Limits) -> Result<Recording> {
        self.record_for(input, options, limits, Capabilities::default())
    }

    /// As [`Model::record`], in the ops that suit a device with `capabilities`: attention's two products are one op where that is
    /// faster and fits. The sums are the same, in the same order.
    ///
    /// # Errors
    /// As [`Model::record`].
    pub fn record_for(
        &self,
        input: InputShape,
        options: Options,
        limits: Limits,
        capabilities: Capabilities,
    ) -> Result<Recording> {
        if input.batch == 0 {
            return Err(Error::Input("the batch is empty; give at least one image".to_owned()));
        }
        if !(1..=32).contains(&input.timesteps) {
            return Err(Error::Input(format!("{} timesteps; it must be 1 to 32", input.timesteps)));
        }
        input.check_size(&self.config)?;
        let side = self.config.img_size;
        let shape = Shape {
            steps: if input.sequence { input.timesteps } else { 1 },
            batch: input.batch,
            height: side,
            width: side,
            channels: self.config.in_chans,
        };
        let mut r = Recorder::new(limits, options);
        r.capabilities = capabilities;
        let image = r.recording.input("image", shape);
        let mut u = self.patch_embed.record(&mut r, image, input.timesteps);
        for (attention, mlp) in &self.blocks {
            u = attention.record(&mut r, &u);
            u = mlp.record(&mut r, &u);
        }
        self.head.record(&mut r, &u);
        Ok(r.finish())
    }
}
