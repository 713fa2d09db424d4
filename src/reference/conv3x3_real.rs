//! The twin of `shaders/conv3x3_real.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::conv3x3_real::Conv3x3RealOp;
use crate::tensor::{Shape, vectors};

/// `x` `[S][B][H][W][4⌈I/4⌉]`, weights and scale/shift packed as the kernel reads them, `out` `[S][B][H][W][4⌈O/4⌉]`.
pub fn conv3x3_real<F: Real>(
    x: &[F],
    shape: Shape,
    weights: &[F],
    scale_shift: &[F],
    channels_out: usize,
    out: &mut [F],
) {
    let line = shape.width * 4 * vectors(channels_out);
    parallel::for_each(out.chunks_mut(line).enumerate().collect(), |(n, out)| {
        parallel::wide(
            #[inline(always)]
            || convolve_line(x, shape, weights, scale_shift, n, channels_out, out),
        );
    });
}

/// Line `line_of_all` of all images' lines.
#[inline(always)]
fn convolve_line<F: Real>(
    x: &[F],
    shape: Shape,
    weights: &[F],
    scale_shift: &[F],
    line_of_all: usize,
    channels_out: usize,
    out: &mut [F],
) {
    let Shape { height, width, channels, .. } = shape;
    let depth = (9 * channels).div_ceil(32) * 32;
    let (row_in, row_out) = (4 * vectors(channels), 4 * vectors(channels_out));
    let (weights, _) = weights.as_chunks::<32>();
    let line = line_of_all % height;
    for (column, out) in out.chunks_exact_mut(row_out).enumerate() {
        let pixel = line_of_all * width + column;
        for (o_tile, out) in out.chunks_mut(32).enumerate() {
            let mut sum = [F::default(); 32];
            for tap in 0..9 {
                let (y, x_) = (line + tap / 3, column + tap % 3);
                if y == 0 || x_ == 0 || y > height || x_ > width {
                    continue;
                }
                let from = pixel + tap / 3 * width + tap % 3 - width - 1;
                for i in 0..channels {
                    let value = x[from * row_in + i];
                    for (s, &w) in sum.iter_mut().zip(&weights[o_tile * depth + tap * channels + i]) {
                        *s = *s + value * w;
                    }
                }
            }
            for (c, y) in out.iter_mut().enumerate() {
                let at = o_tile * 64 + c / 4 * 8 + c % 4;
                *y = sum[c] * scale_shift[at] + scale_shift[at + 4];
            }
        }
    }
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &Conv3x3RealOp, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.input).shape;
    let channels_out = host.recording.get(op.out).shape.channels;
    let mut out = host.take_real(op.out);
    conv3x3_real(host.real(op.input), shape, host.real(op.weights), host.real(op.scale_shift), channels_out, &mut out);
    host.put_real(op.out, out);
}
