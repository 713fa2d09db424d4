//! The twin of `shaders/maxpool_real_backward.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::maxpool_real_backward::MaxpoolRealBackwardOp;
use crate::tensor::{Shape, vectors};

/// `x` and `g_x` `[T][B][H][W][4⌈C/4⌉]` (`shape` is x's), `g_y` `[T][B][⌈H/2⌉][⌈W/2⌉][4⌈C/4⌉]`.
pub fn maxpool_real_backward<F: Real>(x: &[F], g_y: &[F], shape: Shape, g_x: &mut [F]) {
    let row = 4 * vectors(shape.channels);
    scatter(shape, g_y, g_x, |token, c, other| x[token * row + c] > x[other * row + c]);
}

/// Adds each window's gradient to its first maximum, windows in row-major order; `above(a, c, b)` says whether channel c of
/// token a of the pool's input is larger than that of token b.
pub(super) fn scatter<F: Real>(
    shape: Shape,
    g_y: &[F],
    g_x: &mut [F],
    above: impl Fn(usize, usize, usize) -> bool + Sync + Send,
) {
    let (row, pooled) = (4 * vectors(shape.channels), shape.pooled());
    let images: Vec<(usize, &mut [F])> = g_x.chunks_mut((shape.tokens() * row).max(1)).enumerate().collect();
    parallel::for_each(images, |(image, g_x)| {
        g_x.fill(F::default());
        let first_token = image * shape.tokens();
        for (i, j) in (0..pooled.height).flat_map(|i| (0..pooled.width).map(move |j| (i, j))) {
            let g_y = &g_y[((image * pooled.height + i) * pooled.width + j) * row..][..row];
            for (c, &g) in g_y[..shape.channels].iter().enumerate() {
                let lines = (2 * i).max(1) - 1..(2 * i + 2).min(shape.height);
                let mut tokens = lines
                    .flat_map(|y| ((2 * j).max(1) - 1..(2 * j + 2).min(shape.width)).map(move |x| y * shape.width + x));
                let first = tokens.next().unwrap_or(0);
                let largest = tokens.fold(first, |a, b| if above(first_token + b, c, first_token + a) { b } else { a });
                g_x[largest * row + c] = g_x[largest * row + c] + g;
            }
        }
    });
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &MaxpoolRealBackwardOp, host: &mut HostTensors<F>) {
    let mut g_x = host.take_real(op.g_x);
    let shape = host.recording.get(op.input).shape;
    maxpool_real_backward(host.real(op.input), host.real(op.g_y), shape, &mut g_x);
    host.put_real(op.g_x, g_x);
}
