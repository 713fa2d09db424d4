//! The twin of `shaders/lib/spike_product.wgsl` and `shaders/lib/product_epilogue.wgsl`: for every spike of a token, one row of
//! weights is added; then batch norm and LIF over T, fused as the kernel fuses them.

use super::{HostTensors, Lif, Real, parallel};
use crate::kernels::product::{Epilogue, SpikeProduct};
use crate::tensor::{Element, Shape, vectors, words};

/// A spike product's inputs. Sums run over k = tap · I + i ascending, as the kernel's do.
#[derive(Clone, Copy)]
pub struct Product<'a, F> {
    /// `[T][B·H·W][words]`.
    pub spikes: &'a [u32],
    /// Of the input.
    pub shape: Shape,
    /// 1 or 9.
    pub taps: usize,
    /// As [`crate::kernels::product::pack_weights`] packs them.
    pub weights: &'a [F],
    /// As [`crate::kernels::product::pack_scale_shift`] packs it.
    pub scale_shift: &'a [F],
    /// Output channels of this window.
    pub channels_out: usize,
}

/// The tokens one task works through: few enough that their lists of spikes stay in the cache.
const BLOCK: usize = 32;

/// For each row the sum of the weights that its part of `list` selects (the part that ends at its `ends`), times its scale plus
/// its shift.
#[inline(always)]
fn add_rows<F: Real>(weights: &[[F; 32]], list: &[u32], ends: &[usize], scale_shift: &[[F; 8]], sums: &mut [[F; 32]]) {
    let mut start = 0;
    for (sum, &end) in sums.iter_mut().zip(ends) {
        let mut s = [F::default(); 32];
        for &k in &list[start..end] {
            for (s, &w) in s.iter_mut().zip(&weights[k as usize]) {
                *s = *s + w;
            }
        }
        *sum = s;
        start = end;
    }
    for sum in sums {
        for (y, a) in sum.chunks_exact_mut(4).zip(scale_shift) {
            for (i, y) in y.iter_mut().enumerate() {
                *y = *y * a[i] + a[4 + i];
            }
        }
    }
}

impl<F: Real> Product<'_, F> {
    fn words_in(&self) -> usize {
        words(self.shape.channels)
    }

    /// The rows of weights (tap, word, bit) that the spikes of token `token` at timestep `step` select, ascending.
    fn active(&self, step: usize, token: usize, list: &mut Vec<u32>) {
        let words_in = self.words_in();
        let Shape { height, width, .. } = self.shape;
        let (line, column) = (token / width % height, token % width);
        for tap in 0..self.taps {
            let mut from = token;
            if self.taps == 9 {
                let (y, x) = (line + tap / 3, column + tap % 3);
                if y == 0 || x == 0 || y > height || x > width {
                    continue;
                }
                from = token + tap / 3 * width + tap % 3 - width - 1;
            }
            let at = (step * self.shape.rows() + from) * words_in;
            for (w, &word) in self.spikes[at..at + words_in].iter().enumerate() {
                let mut left = word;
                while left != 0 {
                    list.push(((tap * words_in + w) * 32) as u32 + left.trailing_zeros());
                    left &= left - 1;
                }
            }
        }
    }

    /// Calls `each(step, token within the block, o_tile, y)` for 32 normalised outputs at a time, timesteps innermost.
    fn block(&self, first: usize, tokens: usize, mut each: impl FnMut(usize, usize, usize, &[F; 32])) {
        let steps = self.shape.steps;
        let mut list = Vec::new();
        let mut ends = Vec::with_capacity(tokens * steps);
        for token in first..first + tokens {
            for step in 0..steps {
                self.active(step, token, &mut list);
                ends.push(list.len());
            }
        }
        let depth = self.taps * self.words_in() * 32;
        let mut sums = vec![[F::default(); 32]; ends.len()];
        for o_tile in 0..self.channels_out.div_ceil(32) {
            // One tile of weights stays in the cache while all the block's spikes select from it.
            let (weights, _) = self.weights[o_tile * depth * 32..(o_tile + 1) * depth * 32].as_chunks::<32>();
            let (scale_shift, _) = self.scale_shift[o_tile * 64..(o_tile + 1) * 64].as_chunks::<8>();
            parallel::wide(
                #[inline(always)]
                || add_rows(weights, &list, &ends, scale_shift, &mut sums),
            );
            for (row, sum) in sums.iter().enumerate() {
                each(row % steps, row / steps, o_tile, sum);
            }
        }
    }

    /// `y = [relu](sum · scale + shift) [+ residual]` into rows of `row` floats, from channel `first_channel` on.
    pub fn real(&self, row: usize, first_channel: usize, relu: bool, residual: Option<&[F]>, out: &mut [F]) {
        let blocks = parallel::row_blocks(out, self.shape.steps, row, BLOCK);
        parallel::for_each(blocks.into_iter().enumerate().collect(), |(i, mut block)| {
            let tokens = block[0].len() / row;
            self.block(i * BLOCK, tokens, |step, token, o_tile, y| {
                let n = (4 * vectors(self.channels_out) - o_tile * 32).min(32);
                let at = token * row + first_channel + o_tile * 32;
                let out = &mut block[step][at..at + n];
                out.copy_from_slice(&y[..n]);
                if relu {
                    out.iter_mut().for_each(|y| *y = if *y > F::default() { *y } else { F::default() });
                }
                if let Some(residual) = residual {
                    let at = (step * self.shape.rows() + i * BLOCK) * row + at;
                    out.iter_mut().zip(&residual[at..at + n]).for_each(|(y, &u)| *y = *y + u);
                }
            });
        });
    }

    /// LIF over T of `sum · scale + shift` into rows of `row` words, from word `first_word` of each row on; `minus_plane` is
    /// where a ternary neuron's minus words lie after its plus words.
    pub fn fire(&self, lif: &Lif<F>, row: usize, first_word: usize, minus_plane: Option<usize>, out: &mut [u32]) {
        let blocks = parallel::row_blocks(out, self.shape.steps, row, BLOCK);
        parallel::for_each(blocks.into_iter().enumerate().collect(), |(i, mut block)| {
            let tokens = block[0].len() / row;
            let mut v = [lif.v_reset; 32];
            self.block(i * BLOCK, tokens, |step, token, o_tile, y| {
                if step == 0 {
                    v = [lif.v_reset; 32];
                }
                let n = (self.channels_out - o_tile * 32).min(32);
                let (plus, minus) = lif.word(&mut v[..n], &y[..n], minus_plane.is_some());
                let at = token * row + first_word + o_tile;
                block[step][at] = plus;
                if let Some(plane) = minus_plane {
                    block[step][at + plane] = minus;
                }
            });
        });
    }
}

impl<F: Real> Lif<F> {
    /// One timestep of up to 32 channels: charges, fires, resets, and packs the spikes up and down.
    #[inline(always)]
    pub fn word(&self, v: &mut [F], x: &[F], ternary: bool) -> (u32, u32) {
        let lif = *self;
        let (mut plus, mut minus) = (0, 0);
        for (c, (v, &x)) in v.iter_mut().zip(x).enumerate() {
            let h = lif.charge(*v, x);
            let (up, down) = lif.fire(h, ternary);
            *v = lif.reset(h, up, down);
            plus |= u32::from(up) << c;
            minus |= u32::from(down) << c;
        }
        (plus, minus)
    }
}

/// Runs a recorded product on the host.
pub(super) fn run<F: Real>(op: &SpikeProduct, taps: usize, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.input).shape;
    let product = |host: &HostTensors<F>, f: &mut dyn FnMut(Product<F>)| {
        f(Product {
            spikes: host.packed(op.input),
            shape,
            taps,
            weights: host.real(op.weights),
            scale_shift: host.real(op.scale_shift),
            channels_out: op.channels_out,
        })
    };
    match &op.epilogue {
        Epilogue::Real { out, first_channel, relu } => {
            let row = host.recording.get(*out).row();
            let mut y = host.take_real(*out);
            product(host, &mut |p| p.real(row, *first_channel, *relu, None, &mut y));
            host.put_real(*out, y);
        }
        Epilogue::Residual { residual, out, first_channel } => {
            let row = host.recording.get(*out).row();
            let mut y = host.take_real(*out);
            product(host, &mut |p| p.real(row, *first_channel, false, Some(host.real(*residual)), &mut y));
            host.put_real(*out, y);
        }
        Epilogue::Fire { out, neuron, first_channel } => {
            let tensor = host.recording.get(*out);
            let plane = (tensor.element == Element::Ternary).then(|| words(tensor.shape.channels));
            let row = tensor.row();
            let mut s = host.take_packed(*out);
            product(host, &mut |p| p.fire(&neuron.into(), row, first_channel / 32, plane, &mut s));
            host.put_packed(*out, s);
        }
    }
}
