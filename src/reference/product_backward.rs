//! The twin of `shaders/lib/product_backward.wgsl` and what goes with it: for every spike, one row of the gradient is added to
//! one row of the weights' gradient; the input's gradient is a plain product.

use std::ops::Range;

use super::dense::{self, Matrix};
use super::{HostTensors, Real, lanes, parallel};
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
        lanes(&self.values[at..at + n])
    }
}

/// The row beside `row` at one of 9 taps, if it lies inside the grid; `row` itself where there is one tap.
#[inline(always)]
pub(super) fn neighbour(shape: Shape, taps: usize, row: usize, tap: usize) -> Option<usize> {
    beside(shape, taps, row, (row / shape.width % shape.height, row % shape.width), tap)
}

/// [`neighbour`] of the row at a line and column.
#[inline(always)]
fn beside(shape: Shape, taps: usize, row: usize, (line, column): (usize, usize), tap: usize) -> Option<usize> {
    if taps == 1 {
        return Some(row);
    }
    let (y, x) = (line + tap / 3, column + tap % 3);
    let inside = y > 0 && x > 0 && y <= shape.height && x <= shape.width;
    inside.then(|| row + tap / 3 * shape.width + tap % 3 - shape.width - 1)
}

/// [`neighbour`] at every tap.
#[inline(always)]
fn neighbours(shape: Shape, taps: usize, row: usize) -> impl Iterator<Item = Option<usize>> {
    let place = (row / shape.width % shape.height, row % shape.width);
    (0..taps).map(move |tap| beside(shape, taps, row, place, tap))
}

/// Rows that are worked through together: their spikes at one input are the bits of a word.
const ROWS: usize = 64;

/// Spikes by input, a row a bit.
struct Planes {
    /// `[words][blocks of rows, and `margin` of zeros before and behind][32]`.
    bits: Vec<u64>,
    blocks: usize,
    margin: usize,
    /// `[blocks][taps]`: the rows that see something inside the grid through a tap.
    inside: Vec<u64>,
    taps: usize,
    width: usize,
}

impl Planes {
    fn new(spikes: &[u32], shape: Shape, taps: usize) -> Self {
        let (rows, words_in, width) = (shape.steps * shape.rows(), words(shape.channels), shape.width);
        let (blocks, margin) = (rows.div_ceil(ROWS), (width + 1).div_ceil(ROWS));
        let of_word = (blocks + 2 * margin) * 32;
        let mut bits = vec![0; words_in * of_word];
        let written =
            bits.chunks_exact_mut(of_word).flat_map(|bits| bits[margin * 32..].chunks_exact_mut(32).take(blocks));
        parallel::for_each(written.enumerate().collect(), |(n, bits)| {
            let (word, block) = (n / blocks, n % blocks);
            parallel::wide(
                #[inline(always)]
                || transpose(spikes[block * ROWS * words_in + word..].iter().step_by(words_in).take(ROWS), bits),
            );
        });
        let mut inside = vec![0; blocks * taps];
        parallel::for_each(inside.chunks_exact_mut(taps).enumerate().collect(), |(block, inside)| {
            for row in block * ROWS..rows.min((block + 1) * ROWS) {
                for (inside, beside) in inside.iter_mut().zip(neighbours(shape, taps, row)) {
                    *inside |= u64::from(beside.is_some()) << (row % ROWS);
                }
            }
        });
        Planes { bits, blocks, margin, inside, taps, width }
    }

    /// What the rows of a block see of a word of inputs through a tap.
    #[inline(always)]
    fn seen(&self, tap: usize, word: usize, block: usize) -> [u64; 32] {
        // The first of the bits, in rows.
        let centre = (self.margin + block) * ROWS;
        let first = if self.taps == 1 { centre } else { centre + tap / 3 * self.width + tap % 3 - self.width - 1 };
        let (at, shift) = (word * (self.blocks + 2 * self.margin) + first / ROWS, (first % ROWS) as u32);
        let inside = self.inside[block * self.taps + tap];
        let low = &self.bits[at * 32..][..32];
        // Twice, as a shift by 64 bits is none.
        let high = if shift > 0 { &self.bits[(at + 1) * 32..][..32] } else { low };
        let keep = if shift > 0 { u64::MAX } else { 0 };
        std::array::from_fn(|i| (low[i] >> shift | (high[i] << (63 - shift) << 1) & keep) & inside)
    }
}

/// Words of up to 64 rows into one of each bit.
#[inline(always)]
fn transpose<'a>(words: impl Iterator<Item = &'a u32>, bits: &mut [u64]) {
    let mut all = [0u64; 32];
    for (row, &word) in words.enumerate() {
        for (i, bits) in all.iter_mut().enumerate() {
            *bits |= u64::from(word >> i & 1) << row;
        }
    }
    bits.copy_from_slice(&all);
}

/// `g_W[o, i, tap] = Σ g[row, o] s[row + tap, i]` in `splits` sums, `out` `[splits]` times packed as the forward weights
/// (`shape` is the spikes').
pub fn weights<F: Real>(g: Gradient<F>, spikes: &[u32], shape: Shape, taps: usize, splits: usize, out: &mut [F]) {
    let (rows, words_in) = (shape.steps * shape.rows(), words(shape.channels));
    let part = split_rows(rows, splits);
    let planes = Planes::new(spikes, shape, taps);
    let of_tile = taps * words_in * 1024;
    let of_split = g.channels_out.div_ceil(32) * of_tile;
    let tiles = out.chunks_mut(of_split).enumerate().flat_map(|(split, out)| {
        // Two tiles of outputs together, as vectors then take longer to add than bits to find.
        out.chunks_mut(2 * of_tile).enumerate().map(move |(pair, out)| (split, 2 * pair, out))
    });
    parallel::for_each(tiles.collect(), |(split, o_tile, out)| {
        let rows = (split * part).min(rows)..((split + 1) * part).min(rows);
        out.fill(F::default());
        parallel::wide(
            #[inline(always)]
            || match out.split_at_mut(of_tile) {
                (out, []) => add_gradients(g, o_tile, rows, &planes, [out]),
                (first, second) => add_gradients(g, o_tile, rows, &planes, [first, second]),
            },
        );
    });
}

/// For every spike in the rows, the row's gradient of N tiles of outputs from `o_tile` on added to the input's row of each.
#[inline(always)]
fn add_gradients<F: Real, const N: usize>(
    g: Gradient<F>,
    o_tile: usize,
    rows: Range<usize>,
    planes: &Planes,
    mut out: [&mut [F]; N],
) {
    let words_in = out[0].len() / planes.taps / 1024;
    let mut of_block = [[[F::default(); 32]; N]; ROWS];
    for first in rows.clone().step_by(ROWS) {
        for (row, of_row) in (first..rows.end).zip(&mut of_block) {
            *of_row = std::array::from_fn(|n| g.tile(row, o_tile + n));
        }
        for n in 0..planes.taps * words_in {
            let mut out = out.each_mut().map(|out| out[n * 1024..][..1024].as_chunks_mut::<32>().0);
            let seen = planes.seen(n / words_in, n % words_in, first / ROWS);
            for (i, &bits) in seen.iter().enumerate() {
                if bits != 0 {
                    let mut sums: [[F; 32]; N] = std::array::from_fn(|n| out[n][i]);
                    add_rows(&mut sums, bits, &of_block);
                    out.iter_mut().zip(sums).for_each(|(out, sum)| out[i] = sum);
                }
            }
        }
    }
}

/// The rows that bits select, ascending.
#[inline(always)]
fn add_rows<F: Real, const N: usize>(sums: &mut [[F; 32]; N], bits: u64, rows: &[[[F; 32]; N]; ROWS]) {
    // Sums of their own stay in registers.
    let (mut own, mut left) = (*sums, bits);
    while left != 0 {
        let row = &rows[left.trailing_zeros() as usize % ROWS];
        for (sums, row) in own.iter_mut().zip(row) {
            for (sum, &g) in sums.iter_mut().zip(row) {
                *sum = *sum + g;
            }
        }
        left &= left - 1;
    }
    *sums = own;
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
