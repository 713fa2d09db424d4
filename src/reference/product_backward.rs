//! The twin of `shaders/lib/product_backward.wgsl` and what goes with it: for every spike, one row of the gradient is added to
//! one row of the weights' gradient; the input's gradient is a plain product.

use super::dense::{self, Matrix};
use super::{HostTensors, Real, parallel};
use crate::kernels::product_backward::{CombineBackward, InputBackward, WeightsBackward, split_rows};
use crate::tensor::{Shape, vectors, words};

/// The gradient of a product's output, or a window of its channels.
#[derive(Clone, Copy)]
pub struct Gradient<'a, F> {
    /// `[T·B·H·W][row]`.
    pub values: &'a [F],
    /// Floats of a row.
    pub row: usize,
    /// The window's first channel.
    pub first_channel: usize,
    /// The window's channels.
    pub channels_out: usize,
}

impl<F: Real> Gradient<'_, F> {
    /// Channels of `o_tile` at a row, zeros past the window's end.
    #[inline(always)]
    pub(super) fn tile(&self, row: usize, o_tile: usize) -> [F; 32] {
        let n = (self.channels_out - o_tile * 32).min(32);
        let at = row * self.row + self.first_channel + o_tile * 32;
        let values = &self.values[at..at + n];
        // A copy of known length is a few instructions, any other a call.
        if let Ok(all) = values.try_into() {
            return all;
        }
        let mut tile = [F::default(); 32];
        tile[..n].copy_from_slice(values);
        tile
    }
}

/// The row beside `row` at one of 9 taps, if it lies inside the grid; `row` itself where there is one tap.
#[inline(always)]
pub(super) fn neighbour(shape: Shape, taps: usize, row: usize, tap: usize) -> Option<usize> {
    let Shape { height, width, .. } = shape;
    if taps == 1 {
        return Some(row);
    }
    let (y, x) = (row / width % height + tap / 3, row % width + tap % 3);
    let inside = y > 0 && x > 0 && y <= height && x <= width;
    inside.then(|| row + tap / 3 * width + tap % 3 - width - 1)
}

/// The spikes that each row sees, `[taps][words][rows]`: what one tile of weights' gradients reads lies in one run.
fn seen(spikes: &[u32], shape: Shape, taps: usize) -> Vec<u32> {
    let Shape { height, width, .. } = shape;
    let (rows, words_in) = (shape.steps * shape.rows(), words(shape.channels));
    let mut all = vec![0; taps * words_in * rows];
    parallel::for_each(all.chunks_mut(rows.max(1)).enumerate().collect(), |(n, seen)| {
        let (tap, word) = (n / words_in, n % words_in);
        if taps == 1 {
            seen.iter_mut().zip(spikes[word..].iter().step_by(words_in)).for_each(|(seen, &s)| *seen = s);
            return;
        }
        // The columns that have the tap's column beside them, and those beside them.
        let (dy, dx) = (tap / 3, tap % 3);
        let (columns, first) = (1usize.saturating_sub(dx)..width.min(width + 1 - dx), dx.saturating_sub(1));
        for (line, seen) in seen.chunks_exact_mut(width).enumerate() {
            let y = line % height + dy;
            if y > 0 && y <= height && !columns.is_empty() {
                let from = spikes[((line + dy - 1) * width + first) * words_in + word..].iter().step_by(words_in);
                seen[columns.clone()].iter_mut().zip(from).for_each(|(seen, &s)| *seen = s);
            }
        }
    });
    all
}

/// `g_W[o, i, tap] = Σ g[row, o] s[row + tap, i]` in `splits` sums, `out` `[splits]` times packed as the forward weights
/// (`shape` is the spikes').
pub fn weights<F: Real>(g: Gradient<F>, spikes: &[u32], shape: Shape, taps: usize, splits: usize, out: &mut [F]) {
    let (rows, words_in) = (shape.steps * shape.rows(), words(shape.channels));
    let part = split_rows(rows, splits);
    let of_split = g.channels_out.div_ceil(32) * taps * words_in;
    let seen = seen(spikes, shape, taps);
    parallel::for_each(out.chunks_mut(1024).enumerate().collect(), |(chunk, out)| {
        let (split, chunk) = (chunk / of_split, chunk % of_split);
        let (o_tile, chunk) = (chunk / words_in / taps, chunk % (words_in * taps));
        let (first, end) = ((split * part).min(rows), ((split + 1) * part).min(rows));
        let seen = &seen[chunk * rows..][first..end];
        parallel::wide(
            #[inline(always)]
            || add_gradients(g, o_tile, first, seen, out),
        );
    });
}

/// For every spike of a word in the rows from `first` on, the row's gradient of a tile of outputs added to the input's row of
/// `out`.
#[inline(always)]
fn add_gradients<F: Real>(g: Gradient<F>, o_tile: usize, first: usize, spikes: &[u32], out: &mut [F]) {
    out.fill(F::default());
    let (out, _) = out.as_chunks_mut::<32>();
    for (row, &word) in spikes.iter().enumerate() {
        if word == 0 {
            continue;
        }
        let g = g.tile(first + row, o_tile);
        let mut left = word;
        while left != 0 {
            let w = &mut out[left.trailing_zeros() as usize];
            for (w, &g) in w.iter_mut().zip(&g) {
                *w = *w + g;
            }
            left &= left - 1;
        }
    }
}

/// The sum of the splits, in order.
pub fn combine<F: Real>(partials: &[F], out: &mut [F]) {
    const BLOCK: usize = 4096;
    let len = out.len();
    parallel::for_each(out.chunks_mut(BLOCK).enumerate().collect(), |(block, out)| {
        out.fill(F::default());
        for split in partials.chunks_exact(len) {
            out.iter_mut().zip(&split[block * BLOCK..]).for_each(|(w, &p)| *w = *w + p);
        }
    });
}

/// The rows one task works through: enough that preparing the weights for them costs little beside the product.
const BLOCK: usize = 256;

/// Weights as the input's gradient multiplies them, `[taps reversed][outputs][32 ⌈inputs/32⌉]` of the words of inputs from
/// `first_word` on: an output sees its input at the opposite tap.
fn transposed<F: Real>(
    weights: &[F],
    outputs: usize,
    taps: usize,
    words_in: usize,
    first_word: usize,
    words_out: usize,
) -> Vec<F> {
    let row = words_out * 32;
    let mut all = vec![F::default(); taps * outputs * row];
    for (n, chunk) in all.chunks_exact_mut(row).enumerate() {
        let (tap, o) = (taps - 1 - n / outputs, n % outputs);
        for (i, w) in chunk.iter_mut().enumerate() {
            let tile = (o / 32 * taps + tap) * words_in + first_word + i / 32;
            *w = weights[(tile * 32 + i % 32) * 32 + o % 32];
        }
    }
    all
}

/// `g_s[row, i] = Σ_{o, tap} W[o, i, tap] g[row - tap, o]` into rows of 4⌈channels/4⌉ floats, for the `shape.channels` inputs
/// from `first_input` on, a multiple of 32, of `channels_in` in all; added to what is there if `accumulate`.
#[allow(clippy::too_many_arguments)] // The window of outputs is in `g`, that of inputs is not worth a struct.
pub fn input<F: Real>(
    g: Gradient<F>,
    weights: &[F],
    shape: Shape,
    taps: usize,
    channels_in: usize,
    first_input: usize,
    accumulate: bool,
    out: &mut [F],
) {
    let (outputs, row_out, words_out) = (g.channels_out, 4 * vectors(shape.channels), words(shape.channels));
    let depth = taps * outputs;
    let weights = transposed(weights, outputs, taps, words(channels_in), first_input / 32, words_out);
    let weights = Matrix { values: &weights, rows: depth, columns: row_out, row: 32 * words_out };
    let blocks = out.chunks_mut(BLOCK * row_out).enumerate().collect();
    parallel::for_each_with(blocks, Vec::new, |gathered, (block, out)| {
        let (first, rows) = (block * BLOCK, out.len() / row_out);
        let g = if taps == 1 {
            Matrix { values: &g.values[first * g.row + g.first_channel..], rows, columns: depth, row: g.row }
        } else {
            // For each row the gradients around it, side by side.
            gathered.resize(rows * depth, F::default());
            for (n, to) in gathered.chunks_exact_mut(outputs).enumerate() {
                match neighbour(shape, taps, first + n / taps, n % taps) {
                    Some(from) => to.copy_from_slice(&g.values[from * g.row + g.first_channel..][..outputs]),
                    None => to.fill(F::default()),
                }
            }
            Matrix { values: gathered, rows, columns: depth, row: depth }
        };
        dense::product(g, weights, accumulate, out, row_out);
    });
}

pub(super) fn gradient<'h, F: Real>(
    host: &'h HostTensors<F>,
    id: crate::recording::TensorId,
    first: usize,
    n: usize,
) -> Gradient<'h, F> {
    Gradient { values: host.real(id), row: host.recording.get(id).row(), first_channel: first, channels_out: n }
}

/// Runs a recorded op on the host.
pub(super) fn run_weights<F: Real>(op: &WeightsBackward, taps: usize, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.input).shape;
    let mut out = host.take_real(op.out);
    let g = gradient(host, op.gradient, op.first_channel, op.channels_out);
    weights(g, host.packed(op.input), shape, taps, op.splits, &mut out);
    host.put_real(op.out, out);
}

/// Runs a recorded op on the host.
pub(super) fn run_combine<F: Real>(op: &CombineBackward, host: &mut HostTensors<F>) {
    let mut out = host.take_real(op.out);
    combine(host.real(op.partials), &mut out);
    host.put_real(op.out, out);
}

/// Runs a recorded op on the host.
pub(super) fn run_input<F: Real>(op: &InputBackward, taps: usize, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.out).shape;
    let mut out = host.take_real(op.out);
    let g = gradient(host, op.gradient, op.first_channel, op.channels_out);
    input(g, host.real(op.weights), shape, taps, op.channels_in, op.first_input, op.accumulate, &mut out);
    host.put_real(op.out, out);
}
