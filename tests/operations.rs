//! Operations counted from a trace, against sums that go the other way: over what each output reads.

mod common;

use std::path::Path;
use std::sync::Arc;

use spikeshade::checkpoint::Checkpoint;
use spikeshade::config::Config;
use spikeshade::layers::Options;
use spikeshade::model::{InputShape, Model};
use spikeshade::operations::{Operations, operations};
use spikeshade::outputs::{OutputTensor, Values};
use spikeshade::session::{Device, Session};
use spikeshade::tensor_file;

/// A spike tensor, `[images][H][W][C]` of 0 and 1.
struct Spikes {
    side: usize,
    channels: usize,
    fired: Vec<u8>,
}

impl Spikes {
    fn of(trace: &[OutputTensor], layer: &str) -> Self {
        let tensor = trace.iter().find(|t| t.name == format!("s.{layer}")).unwrap_or_else(|| panic!("no {layer}"));
        let fired = match &tensor.values {
            Values::Spikes(v) => v.clone(),
            Values::Ternary(v) => v.iter().map(|s| u8::from(*s != 0)).collect(),
            Values::Real(_) => panic!("{layer} is real"),
        };
        Spikes { side: tensor.shape.height, channels: tensor.shape.channels, fired }
    }

    fn at(&self, image: usize, y: isize, x: isize, c: usize) -> u64 {
        let side = self.side as isize;
        if y < 0 || x < 0 || y >= side || x >= side {
            return 0;
        }
        self.fired[((image * self.side + y as usize) * self.side + x as usize) * self.channels + c].into()
    }

    fn images(&self) -> usize {
        self.fired.len() / (self.side * self.side * self.channels)
    }

    /// The sum of `f` over images, tokens and channels.
    fn sum(&self, side: usize, f: impl Fn(usize, isize, isize, usize) -> u64) -> u64 {
        let mut sum = 0;
        for image in 0..self.images() {
            for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y as isize, x as isize))) {
                sum += (0..self.channels).map(|c| f(image, y, x, c)).sum::<u64>();
            }
        }
        sum
    }

    fn pooled(&self) -> Self {
        let side = self.side.div_ceil(2);
        let mut fired = Vec::new();
        for image in 0..self.images() {
            for (i, j) in (0..side).flat_map(|i| (0..side).map(move |j| (2 * i as isize, 2 * j as isize))) {
                let near = |c| (-1..=1).any(|dy| (-1..=1).any(|dx| self.at(image, i + dy, j + dx, c) > 0));
                fired.extend((0..self.channels).map(|c| u8::from(near(c))));
            }
        }
        Spikes { side, channels: self.channels, fired }
    }

    /// What the outputs of a 3×3 convolution add.
    fn convolved(&self, outputs: usize) -> u64 {
        let seen = |image, y, x, c| {
            (-1..=1)
                .flat_map(|dy| (-1..=1).map(move |dx| (dy, dx)))
                .map(|(dy, dx)| self.at(image, y + dy, x + dx, c))
                .sum()
        };
        self.sum(self.side, seen) * outputs as u64
    }

    fn count(&self) -> u64 {
        self.sum(self.side, |image, y, x, c| self.at(image, y, x, c))
    }
}

fn expected(config: &Config, trace: &[OutputTensor], timesteps: usize, batch: usize, sequence: bool) -> Operations {
    let [w0, w1, w2, d] = config.stage_widths();
    let [s0, s1, s2, s3, s4] = config.stage_sizes().map(|s| (3 * s - 2) as u64 * (3 * s - 2) as u64);
    let mut additions = 0;
    for (stage, outputs) in [(0, w1), (1, w2), (2, d)] {
        let mut spikes =
            Spikes::of(trace, ["patch_embed.proj_lif", "patch_embed.proj_lif1", "patch_embed.proj_lif2"][stage]);
        if config.pooling_stat[stage] {
            spikes = spikes.pooled();
        }
        additions += spikes.convolved(outputs);
    }
    additions += Spikes::of(trace, "patch_embed.proj_lif3").convolved(d);
    let (hidden, dim, tokens) = (config.hidden_dim() as u64, config.head_dim() as u64, config.tokens() as u64);
    let each = dim.min(tokens);
    for block in 0..config.depth {
        let count = |layer: &str| Spikes::of(trace, &format!("block.{block}.{layer}")).count();
        additions += count("attn.shortcut_lif") * 3 * d as u64;
        additions += (count("attn.q_lif") + count("attn.v_lif")) * each;
        additions +=
            count("attn.attn_lif") * d as u64 + count("mlp.fc1_lif") * hidden + count("mlp.fc2_lif") * d as u64;
    }
    let frames = (batch * if sequence { timesteps } else { 1 }) as u64;
    let real = frames * s0 * (config.in_chans * w0) as u64 + (batch * d * config.num_classes) as u64;
    let convolutions = s1 * (w0 * w1) as u64 + s2 * (w1 * w2) as u64 + s3 * (w2 * d) as u64 + s4 * (d * d) as u64;
    let d = d as u64;
    let block = tokens * (4 * d * d + 2 * d * each + 2 * d * hidden);
    let dense = real + frames * (convolutions + config.depth as u64 * block);
    Operations { additions, multiply_adds: real, dense_multiply_adds: dense }
}

#[test]
fn operations_are_those_of_the_equations() {
    for path in common::fixtures() {
        let file = tensor_file::read(&path).unwrap();
        let model = Arc::new(Model::new(&Checkpoint::load(&path, false).unwrap()).unwrap());
        let input = common::input(&file);
        let timesteps = input.timesteps.unwrap_or(model.config().timesteps);
        let shape = InputShape { timesteps, batch: input.batch, sequence: input.timesteps.is_some() };
        let options = Options { trace: true, ..Options::default() };
        let output = Session::new(model.clone(), Device::Cpu).run_blocking(&input, None, options).unwrap();
        let found = operations(&model, shape, &output.trace).unwrap();
        let expected = expected(model.config(), &output.trace, timesteps, input.batch, shape.sequence);
        assert_eq!(found, expected, "{}", path.display());
        assert!(found.additions > 0 && found.spiking_pj() > 0.0 && found.dense_pj() > 0.0);
        assert!(operations(&model, shape, &[]).is_err());
    }
}

#[test]
fn classes_are_added_and_the_others_keep_their_logits() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_eval.safetensors");
    let input = common::input(&tensor_file::read(&path).unwrap());
    let run = |checkpoint: &Checkpoint| {
        let model = Arc::new(Model::new(checkpoint).unwrap());
        Session::new(model, Device::Cpu).run_blocking(&input, None, Options::default()).unwrap().logits
    };
    let old = Checkpoint::load(&path, false).unwrap();
    let new = old.clone().with_more_classes(&["star".to_owned(), "heart".to_owned()]).unwrap();
    assert_eq!(new.config.num_classes, 12);
    assert_eq!(new.config.class_names.as_ref().unwrap()[8..], ["8", "9", "star", "heart"]);
    for (before, after) in run(&old).iter().zip(run(&new)) {
        assert_eq!(before[..], after[..10]);
        let mean = before.iter().sum::<f32>() / 10.0;
        assert!(after[10..].iter().all(|l| (l - mean).abs() < 1e-5), "{after:?}");
    }
    let again =
        Checkpoint::from_bytes(&new.to_bytes(spikeshade::checkpoint::Dtype::F32).unwrap(), "saved", true).unwrap();
    assert_eq!(again.tensors, new.tensors);
    assert_eq!(again.config, new.config);
    // Its names are kept where it has any.
    let named = new.with_more_classes(&["moon".to_owned()]).unwrap();
    assert_eq!(named.config.class_names.unwrap()[10..], ["star", "heart", "moon"]);
}
