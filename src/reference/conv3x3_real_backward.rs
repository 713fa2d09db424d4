//! The twin of `shaders/conv3x3_real_backward.wgsl`.

use super::product_backward::{self, Gradient, neighbour};
use super::{HostTensors, Real, parallel};
use crate::kernels::product_backward::{CombineBackward, WeightsBackward, split_rows};
use crate::tensor::{Shape, vectors};

/// `g_W[o, i, tap] = Σ g[row, o] x[row + tap, i]` over `rows` rows of `g` in `splits` sums, `out` `[splits]` times packed as the
/// forward weights. `x` `[S][B][H][W][4⌈I/4⌉]` of `shape`, whose timesteps are repeated where `g` has more.
pub fn conv3x3_real_weights<F: Real>(g: Gradient<F>, rows: usize, x: &[F], shape: Shape, splits: usize, out: &mut [F]) {
    let inputs = shape.channels;
    let (row_in, in_rows) = (4 * vectors(inputs), shape.steps * shape.rows());
    let part = split_rows(rows, splits);
    let chunks = (9 * inputs).div_ceil(32);
    let of_split = g.channels_out.div_ceil(32) * chunks;
    parallel::for_each(out.chunks_mut(1024).enumerate().collect(), |(chunk, out)| {
        let (split, o_tile, first_k) = (chunk / of_split, chunk % of_split / chunks, chunk % chunks * 32);
        out.fill(F::default());
        for row in split * part..rows.min((split + 1) * part) {
            let g = g.tile(row, o_tile);
            for (k, out) in (first_k..9 * inputs).zip(out.chunks_exact_mut(32)) {
                if let Some(source) = neighbour(shape, 9, row % in_rows, k / inputs) {
                    let x = x[source * row_in + k % inputs];
                    out.iter_mut().zip(&g).for_each(|(w, &g)| *w = *w + x * g);
                }
            }
        }
    });
}

/// Runs a recorded op on the host.
pub fn weights<F: Real>(op: &WeightsBackward, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.input).shape;
    let of_gradient = host.recording.get(op.gradient).shape;
    let mut out = host.take_real(op.out);
    let g = product_backward::gradient(host, op.gradient, op.first_channel, op.channels_out);
    let rows = of_gradient.steps * of_gradient.rows();
    conv3x3_real_weights(g, rows, host.real(op.input), shape, op.splits, &mut out);
    host.put_real(op.out, out);
}

/// Runs a recorded op on the host.
pub fn combine<F: Real>(op: &CombineBackward, host: &mut HostTensors<F>) {
    product_backward::run_combine(op, host);
}
