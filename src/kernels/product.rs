//! What `linear_spike` and `conv3x3_spike` share: the uniform, the epilogues and the layout of their weights
//! (`shaders/lib/spike_product.wgsl`, `shaders/lib/product_epilogue.wgsl`).

use super::neuron::Neuron;
use super::{Arithmetic, Constants, Dispatch, Groups, Kernel, bytes_of, dim, uniform};
use crate::gpu::measure::{Size, Task};
use crate::gpu::{Capabilities, ForGpus};
use crate::recording::{Access, Recording, TensorId};
use crate::tensor::words;

uniform! {
    /// The uniform of a spike product.
    Product {
        /// B·H·W output tokens.
        rows: u32,
        /// T.
        steps: u32,
        /// H, conv only.
        height: u32,
        /// W, conv only.
        width: u32,
        /// Input channels.
        channels_in: u32,
        /// Words of an input token.
        words_in: u32,
        /// Output channels of this window.
        channels_out: u32,
        /// vec4f or words from one output token to the next.
        out_stride: u32,
        /// First vec4f or word of this window.
        out_first: u32,
        /// Words from a token's plus word to its minus word.
        minus_plane: u32,
        /// Row tiles.
        tiles: u32,
        /// Firing threshold.
        v_threshold: f32,
        /// Reset potential, also the membrane's start.
        v_reset: f32,
        /// 1/τ.
        inv_tau: f32,
    }
}

/// What follows the product inside the kernel.
#[derive(Clone, Debug)]
pub enum Epilogue {
    /// `y = [relu](sum · scale + shift)` to a real tensor.
    Real {
        /// The real tensor.
        out: TensorId,
        /// Where in it this window of output channels begins, a multiple of 32.
        first_channel: usize,
        /// Whether negative values become 0.
        relu: bool,
    },
    /// `y = sum · scale + shift + residual` to a real tensor.
    Residual {
        /// The membrane residual, of `out`'s shape.
        residual: TensorId,
        /// The real tensor.
        out: TensorId,
        /// Where in it this window of output channels begins, a multiple of 32.
        first_channel: usize,
    },
    /// LIF over T, binary or, where `out` is ternary, ternary.
    Fire {
        /// The packed tensor.
        out: TensorId,
        /// The neuron.
        neuron: Neuron,
        /// First channel of this window, a multiple of 32.
        first_channel: usize,
    },
}

/// A product of packed spikes with f32 weights (or f16 or int8 ones, of the `_f16` and `_int8` kernels), for one window of output channels.
#[derive(Clone, Debug)]
pub struct SpikeProduct {
    /// The layer, e.g. `block.0.mlp.fc1`.
    pub layer: String,
    /// Packed spikes.
    pub input: TensorId,
    /// [`pack_weights`] of this window.
    pub weights: TensorId,
    /// [`pack_scale_shift`] of this window.
    pub scale_shift: TensorId,
    /// Output channels of this window.
    pub channels_out: usize,
    /// What follows.
    pub epilogue: Epilogue,
}

pub(super) const BINDINGS: &[(&str, Access)] = &[
    ("spikes_in", Access::Read),
    ("weights", Access::Read),
    ("scale_shift", Access::Read),
    ("residual", Access::Read),
    ("real_out", Access::Write),
    ("spikes_out", Access::Write),
];

pub(super) const ENTRIES: &[&str] = &["real", "residual_real", "spikes", "ternary"];

pub(super) fn constants() -> Vec<Constants> {
    constants_of(&[1.0, 2.0, 4.0, 8.0])
}

pub(super) fn table_constants() -> Vec<Constants> {
    constants_of(&[1.0, 2.0, 4.0, 8.0, 16.0])
}

pub(super) fn event_constants() -> Vec<Constants> {
    let all = constants();
    let cuts =
        [8.0, 16.0, 32.0].into_iter().flat_map(|lanes| [0.0, 1.0].map(|wide| [("LANES", lanes), ("WIDE", wide)]));
    cuts.flat_map(|cut| all.iter().map(move |of| [&of[..], &cut].concat())).collect()
}

fn constants_of(step_blocks: &[f64]) -> Vec<Constants> {
    let mut all = Vec::new();
    for &block in step_blocks {
        for relu in [0.0, 1.0] {
            for neuron in Neuron::all_constants() {
                all.push([vec![("STEP_BLOCK", block), ("RELU", relu)], neuron].concat());
            }
        }
    }
    all
}

/// How a kernel cuts a product into workgroups.
struct Cut {
    kernel: &'static Kernel,
    tile: Tile,
    /// The most timesteps among a thread's rows.
    steps: usize,
    /// Output channels of a workgroup.
    outputs: usize,
    /// Override constants of the kernel's own.
    constants: Vec<(&'static str, f64)>,
}

/// What of the tokens and their timesteps a workgroup has.
enum Tile {
    /// So many rows: tokens, and timesteps of each as many as a thread has.
    Rows(usize),
    /// So many tokens, at every timestep of a thread.
    Tokens(usize),
}

/// Threads of a workgroup of the variants `events`.
const EVENT_THREADS: usize = 128;
/// From so many workgroups on a thread of theirs has eight outputs instead of four. On an H200 that saves up to a sixth of the time
/// of 512 and more, and costs as much where fewer leave the device idle.
const WIDE_FROM: u64 = 512;

impl SpikeProduct {
    pub(super) fn arithmetic(&self, recording: &Recording, taps: usize) -> Arithmetic {
        let shape = recording.get(self.input).shape;
        let rows = shape.steps * shape.rows();
        Arithmetic::selected(self.input, (rows * taps * shape.channels * self.channels_out) as u64)
    }

    pub(super) fn dispatch(&self, kernel: &'static Kernel, recording: &Recording) -> Dispatch {
        self.dispatch_cut(&Cut { kernel, tile: Tile::Rows(64), steps: 8, outputs: 32, constants: vec![] }, recording)
    }

    /// The dispatch of the variant `table` or `events` where one suits a device, else of `portable`.
    ///
    /// The table wins on a processor, whose loads cost tens of additions, by far (`<stem>/portable` in the benches), whatever
    /// fires. It needs a lane for each of its eight sums, and adds three weights to each other before the sum.
    pub(super) fn dispatch_on(
        &self,
        [portable, table, events]: [&'static Kernel; 3],
        taps: usize,
        recording: &Recording,
        capabilities: Capabilities,
    ) -> Dispatch {
        if capabilities.lanes_hold_eight() {
            let cut = Cut { kernel: table, tile: Tile::Rows(128), steps: 16, outputs: 32, constants: vec![] };
            return self.dispatch_cut(&cut, recording);
        }
        let by_event = self.dispatch_events(events, recording);
        let task = if taps == 1 { Task::Linear } else { Task::Conv3x3 };
        let depth = (taps * words(recording.get(self.input).shape.channels)) as u64;
        match capabilities.gpu_variant_pays(Size { task, groups: by_event.groups.count(), depth, head_dim: 1 }) {
            true => by_event,
            false => self.dispatch(portable, recording),
        }
    }

    /// Event by event. As many threads go through a token's spikes as its outputs occupy, a whole subgroup of many GPUs if there are
    /// enough; with few outputs two or four tokens share one.
    fn dispatch_events(&self, kernel: &'static Kernel, recording: &Recording) -> Dispatch {
        let of = |vectors: usize| {
            let lanes = 8 * self.channels_out.div_ceil(32 * vectors).next_power_of_two().min(4);
            let constants = vec![("LANES", lanes as f64), ("WIDE", f64::from(vectors == 2))];
            let tile = Tile::Tokens(EVENT_THREADS / lanes);
            self.dispatch_cut(&Cut { kernel, tile, steps: 8, outputs: 4 * lanes * vectors, constants }, recording)
        };
        let narrow = of(1);
        if self.channels_out > 32 && narrow.groups.count() >= WIDE_FROM { of(2) } else { narrow }
    }

    /// As [`SpikeProduct::dispatch_on`], of weights that are not f32: the variant for GPUs unpacks them wherever they are added, the
    /// portable kernel once for many rows, and of int8 weights it adds two at a time. Measured were f32 weights; on an H200 the variant
    /// then takes 1.8 times as much of the portable kernel's time as it does with those, at most.
    pub(super) fn dispatch_unpacking_on(
        &self,
        kernels: [&'static Kernel; 3],
        taps: usize,
        recording: &Recording,
        capabilities: Capabilities,
    ) -> Dispatch {
        let for_gpus = match capabilities.for_gpus {
            ForGpus::Measured(measured) => ForGpus::Measured(measured.times(9, 5)),
            given => given,
        };
        self.dispatch_on(kernels, taps, recording, Capabilities { for_gpus, ..capabilities })
    }

    /// As [`SpikeProduct::dispatch_unpacking_on`], of int8 weights. The variants sum them as f32, exactly while no sum can exceed 2²⁴.
    pub(super) fn dispatch_int8_on(
        &self,
        kernels: [&'static Kernel; 3],
        taps: usize,
        recording: &Recording,
        capabilities: Capabilities,
    ) -> Dispatch {
        const MOST: usize = (1 << 24) / 127;
        match taps * recording.get(self.input).shape.channels {
            0..=MOST => self.dispatch_unpacking_on(kernels, taps, recording, capabilities),
            _ => self.dispatch(kernels[0], recording),
        }
    }

    fn dispatch_cut(&self, cut: &Cut, recording: &Recording) -> Dispatch {
        let &Cut { kernel, .. } = cut;
        let shape = recording.get(self.input).shape;
        let block = shape.steps.next_power_of_two().min(cut.steps);
        let tiles = shape.rows().div_ceil(match cut.tile {
            Tile::Rows(rows) => rows / block,
            Tile::Tokens(tokens) => tokens,
        });
        let mut product = Product {
            rows: dim(shape.rows()),
            steps: dim(shape.steps),
            height: dim(shape.height),
            width: dim(shape.width),
            channels_in: dim(shape.channels),
            words_in: dim(words(shape.channels)),
            channels_out: dim(self.channels_out),
            tiles: dim(tiles),
            ..Product::default()
        };
        let mut bindings = vec![(0, self.input), (1, self.weights), (2, self.scale_shift)];
        let mut constants = vec![("STEP_BLOCK", block as f64)];
        constants.extend_from_slice(&cut.constants);
        let entry = match &self.epilogue {
            Epilogue::Real { out, first_channel, relu } => {
                product.out_stride = dim(recording.get(*out).row() / 4);
                product.out_first = dim(first_channel / 4);
                constants.push(("RELU", (*relu).into()));
                bindings.push((4, *out));
                "real"
            }
            Epilogue::Residual { residual, out, first_channel } => {
                product.out_stride = dim(recording.get(*out).row() / 4);
                product.out_first = dim(first_channel / 4);
                bindings.extend([(3, *residual), (4, *out)]);
                "residual_real"
            }
            Epilogue::Fire { out, neuron, first_channel } => {
                let tensor = recording.get(*out);
                product.out_stride = dim(tensor.row());
                product.out_first = dim(first_channel / 32);
                product.minus_plane = dim(words(tensor.shape.channels));
                product.v_threshold = neuron.v_threshold;
                product.v_reset = neuron.start();
                product.inv_tau = neuron.inv_tau();
                constants.extend(neuron.constants());
                bindings.push((5, *out));
                if tensor.element == crate::tensor::Element::Ternary { "ternary" } else { "spikes" }
            }
        };
        Dispatch {
            kernel,
            entry,
            constants,
            bindings,
            uniform: bytes_of(&product),
            groups: Groups::Line { n: tiles as u64, z: dim(self.channels_out.div_ceil(cut.outputs)) },
        }
    }
}

/// Weights `[O][I][taps]` (a state_dict's [O, I, kh, kw]) of the output channels `out`, as the kernels read them:
/// `[O/32][taps][I/32][32 i][32 o]`, zeros where O or I is no multiple of 32.
pub fn pack_weights<W: Copy + Default>(
    weights: &[W],
    out: std::ops::Range<usize>,
    inputs: usize,
    taps: usize,
) -> Vec<W> {
    let words_in = words(inputs);
    let tiles = out.len().div_ceil(32);
    let mut packed = vec![W::default(); tiles * taps * words_in * 1024];
    for (o, row) in weights.chunks_exact(inputs * taps).take(out.end).skip(out.start).enumerate() {
        for (i, of_input) in row.chunks_exact(taps).enumerate() {
            for (tap, &w) in of_input.iter().enumerate() {
                let chunk = (o / 32 * taps + tap) * words_in + i / 32;
                packed[(chunk * 32 + i % 32) * 32 + o % 32] = w;
            }
        }
    }
    packed
}

/// The inverse of [`pack_weights`] for all of `outputs` channels: `[O][I][taps]`.
pub fn unpack_weights(packed: &[f32], outputs: usize, inputs: usize, taps: usize) -> Vec<f32> {
    let words_in = words(inputs);
    let at = |o: usize, i: usize, tap: usize| {
        let chunk = (o / 32 * taps + tap) * words_in + i / 32;
        packed[(chunk * 32 + i % 32) * 32 + o % 32]
    };
    let all = (0..outputs).flat_map(|o| (0..inputs).flat_map(move |i| (0..taps).map(move |tap| (o, i, tap))));
    all.map(|(o, i, tap)| at(o, i, tap)).collect()
}

/// Per-channel scale and shift of the output channels `out` as the kernels read them: `[O/4][4 scales, 4 shifts]`, O padded
/// to a multiple of 32 with zeros.
pub fn pack_scale_shift(scale: &[f32], shift: &[f32], out: std::ops::Range<usize>) -> Vec<f32> {
    let mut packed = vec![0.0; out.len().next_multiple_of(32) * 2];
    for (o, (&a, &b)) in scale.iter().zip(shift).take(out.end).skip(out.start).enumerate() {
        packed[o / 4 * 8 + o % 4] = a;
        packed[o / 4 * 8 + 4 + o % 4] = b;
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Measured;
    use crate::gpu::measure::SAMPLES;
    use crate::kernels::Op;
    use crate::kernels::conv3x3_spike_int8::Conv3x3SpikeInt8;
    use crate::kernels::linear_spike::LinearSpike;
    use crate::kernels::linear_spike_f16::LinearSpikeF16;
    use crate::kernels::linear_spike_int8::LinearSpikeInt8;
    use crate::tensor::{Element, Shape};

    #[test]
    fn weights_that_are_not_f32_take_the_variant_for_gpus_where_it_is_exact_and_pays() {
        // 132,104 · 127 is the last multiple that is no more than 2²⁴.
        const MOST: usize = 132_104;
        let stem = |op: fn(SpikeProduct) -> Box<dyn Op>, channels, for_gpus| {
            let mut r = Recording::default();
            let shape = Shape { steps: 1, batch: 1, height: 1, width: 1, channels };
            let [input, weights, scale_shift] =
                [Element::Spikes, Element::Int8, Element::Real].map(|element| r.tensor("t", element, shape));
            let out = r.tensor("y", Element::Real, shape.with_channels(32));
            let epilogue = Epilogue::Real { out, first_channel: 0, relu: false };
            let layer = String::new();
            let product = SpikeProduct { layer, input, weights, scale_shift, channels_out: 32, epilogue };
            op(product).dispatch_on(&r, Capabilities { for_gpus, ..Capabilities::default() }).kernel.stem
        };
        let linear = |product| -> Box<dyn Op> { Box::new(LinearSpikeInt8(product)) };
        let conv = |product| -> Box<dyn Op> { Box::new(Conv3x3SpikeInt8(product)) };
        assert_eq!(stem(linear, MOST, ForGpus::Always), "linear_spike_int8.events");
        assert_eq!(stem(linear, MOST + 1, ForGpus::Always), "linear_spike_int8");
        assert_eq!(stem(conv, MOST / 9, ForGpus::Always), "conv3x3_spike_int8.events");
        assert_eq!(stem(conv, MOST / 9 + 1, ForGpus::Always), "conv3x3_spike_int8");

        // Weights that are unpacked have to gain more.
        let measured = |thousandths| ForGpus::Measured(Measured([thousandths; SAMPLES.len()]));
        let float = |product| -> Box<dyn Op> { Box::new(LinearSpike(product)) };
        let half = |product| -> Box<dyn Op> { Box::new(LinearSpikeF16(product)) };
        for (op, kernel, most) in [
            (float as fn(_) -> _, "linear_spike", 950),
            (half, "linear_spike_f16", 527),
            (linear, "linear_spike_int8", 527),
        ] {
            assert_eq!(stem(op, 64, measured(most)), format!("{kernel}.events"));
            assert_eq!(stem(op, 64, measured(most + 1)), kernel);
            assert_eq!(stem(op, 64, measured(u32::MAX)), kernel);
        }
        assert_eq!(stem(conv, 64, measured(527)), "conv3x3_spike_int8.events");
    }
}
