//! The twin of `shaders/bn_statistics.wgsl`.

use super::{HostTensors, Real, channel_sums};
use crate::kernels::bn_statistics::{BnRunningOp, BnStatisticsCombineOp, BnStatisticsPartialOp, unbias};
use crate::kernels::channel_sums::Blocks;
use crate::tensor::{Shape, vectors};

/// Mean and sum of squared distances from it of each block of rows: `y` `[rows][4⌈C/4⌉]` (`shape` is y's) into `partials`
/// `[blocks][2][4⌈C/4⌉]`.
pub fn partial<F: Real>(y: &[F], shape: Shape, partials: &mut [F]) {
    let row = 4 * vectors(shape.channels);
    channel_sums::partial(
        y.len() / row,
        row,
        Blocks::of(shape),
        partials,
        #[inline(always)]
        |first, rows, mean, squares| {
            let y = &y[first * row..(first + rows) * row];
            for y in y.chunks_exact(row) {
                mean.iter_mut().zip(y).for_each(|(m, &y)| *m = *m + y);
            }
            let inv_rows = F::from(rows as f32).recip();
            mean.iter_mut().for_each(|m| *m = *m * inv_rows);
            for y in y.chunks_exact(row) {
                for ((q, &m), &y) in squares.iter_mut().zip(&*mean).zip(y) {
                    *q = *q + (y - m) * (y - m);
                }
            }
        },
    );
}

/// The blocks' pairs joined by Chan's formula, blocks ascending, into mean, biased variance and 1 / √(variance + eps).
pub fn combine<F: Real>(partials: &[F], shape: Shape, eps: F, mean: &mut [F], variance: &mut [F], inv_std: &mut [F]) {
    let row = 4 * vectors(shape.channels);
    let (all, block_rows) = (shape.steps * shape.rows(), Blocks::of(shape).rows);
    mean.fill(F::default());
    variance.fill(F::default());
    for (block, pair) in partials.chunks_exact(2 * row).enumerate() {
        let before = block * block_rows;
        let own = block_rows.min(all - before);
        let share = F::from(own as f32) * F::from((before + own) as f32).recip();
        let cross = F::from(before as f32) * share;
        for c in 0..row {
            let d = pair[c] - mean[c];
            mean[c] = mean[c] + d * share;
            variance[c] = variance[c] + pair[row + c] + d * d * cross;
        }
    }
    let inv_all = F::from(all as f32).recip();
    for (v, i) in variance.iter_mut().zip(inv_std) {
        *v = *v * inv_all;
        *i = (*v + eps).sqrt().recip();
    }
}

/// `running += momentum (batch - running)`, the batch's variance made unbiased over its `n` rows.
pub fn running<F: Real>(
    mean: &[F],
    variance: &[F],
    n: usize,
    momentum: F,
    running_mean: &mut [F],
    running_var: &mut [F],
) {
    let unbias = F::from(unbias(n));
    running_mean.iter_mut().zip(mean).for_each(|(r, &m)| *r = *r + momentum * (m - *r));
    running_var.iter_mut().zip(variance).for_each(|(r, &v)| *r = *r + momentum * (v * unbias - *r));
}

/// Runs a recorded first dispatch on the host.
pub fn run_partial<F: Real>(op: &BnStatisticsPartialOp, host: &mut HostTensors<F>) {
    let mut partials = host.take_real(op.partials);
    partial(host.real(op.y), host.recording.get(op.y).shape, &mut partials);
    host.put_real(op.partials, partials);
}

/// Runs a recorded second dispatch on the host.
pub fn run_combine<F: Real>(op: &BnStatisticsCombineOp, host: &mut HostTensors<F>) {
    let [mut mean, mut variance, mut inv_std] = [op.mean, op.variance, op.inv_std].map(|id| host.take_real(id));
    combine(host.real(op.partials), op.shape, op.eps.into(), &mut mean, &mut variance, &mut inv_std);
    for (id, v) in [(op.mean, mean), (op.variance, variance), (op.inv_std, inv_std)] {
        host.put_real(id, v);
    }
}

/// Runs a recorded update of the running values on the host.
pub fn run_running<F: Real>(op: &BnRunningOp, host: &mut HostTensors<F>) {
    let [mut mean, mut var] = [op.running_mean, op.running_var].map(|id| host.real(id).to_vec());
    let n = op.shape.steps * op.shape.rows();
    running(host.real(op.mean), host.real(op.variance), n, op.momentum.into(), &mut mean, &mut var);
    for (id, values) in [(op.running_mean, mean), (op.running_var, var)] {
        let mut out = host.take_real(id);
        out.copy_from_slice(&values);
        host.put_real(id, out);
    }
}
