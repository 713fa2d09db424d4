//! The twin of `shaders/maxpool_real_backward.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::maxpool_real_backward::MaxpoolRealBackwardOp;
use crate::tensor::{Shape, vectors};

/// `x` and `g_x` `[T][B][H][W][4⌈C/4⌉]` (`shape` is x's), `g_y` `[T][B][⌈H/2⌉][⌈W/2⌉][4⌈C/4⌉]`.
pub fn maxpool_real_backward<F: Real>(x: &[F], g_y: &[F], shape: Shape, g_x: &mut [F]) {
    let row = 4 * vectors(shape.channels);
    scatter(
        shape,
        g_y,
        g_x,
        #[inline(always)]
        |token, values| values.copy_from_slice(&x[token * row..][..shape.channels]),
    );
}

/// Adds each window's gradient to its first maximum, windows in row-major order; `load` writes the values of a token of the
/// pool's input.
pub(super) fn scatter<F: Real>(shape: Shape, g_y: &[F], g_x: &mut [F], load: impl Fn(usize, &mut [F]) + Sync + Send) {
    let of_image = shape.tokens() * 4 * vectors(shape.channels);
    let images: Vec<(usize, &mut [F])> = g_x.chunks_mut(of_image.max(1)).enumerate().collect();
    parallel::for_each(images, |(image, g_x)| {
        parallel::wide(
            #[inline(always)]
            || scatter_image(image, shape, g_y, g_x, &load),
        );
    });
}

#[inline(always)]
fn scatter_image<F: Real>(image: usize, shape: Shape, g_y: &[F], g_x: &mut [F], load: &impl Fn(usize, &mut [F])) {
    let (channels, pooled) = (shape.channels, shape.pooled());
    let row = 4 * vectors(channels);
    let (mut values, mut largest, mut at) =
        (vec![F::default(); channels], vec![F::default(); channels], vec![0; channels]);
    g_x.fill(F::default());
    for (i, j) in (0..pooled.height).flat_map(|i| (0..pooled.width).map(move |j| (i, j))) {
        let lines = (2 * i).max(1) - 1..(2 * i + 2).min(shape.height);
        let tokens =
            lines.flat_map(|y| ((2 * j).max(1) - 1..(2 * j + 2).min(shape.width)).map(move |x| y * shape.width + x));
        for (n, token) in tokens.clone().enumerate() {
            load(image * shape.tokens() + token, &mut values);
            for ((&value, largest), at) in values.iter().zip(&mut largest).zip(&mut at) {
                let above = (n == 0) | (value > *largest);
                *largest = if above { value } else { *largest };
                *at = if above { token as u32 } else { *at };
            }
        }
        let g_y = &g_y[((image * pooled.height + i) * pooled.width + j) * row..][..channels];
        for token in tokens {
            let g_x = &mut g_x[token * row..][..channels];
            for ((g_x, &g), &at) in g_x.iter_mut().zip(g_y).zip(&at) {
                *g_x = *g_x + if at == token as u32 { g } else { F::default() };
            }
        }
    }
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &MaxpoolRealBackwardOp, host: &mut HostTensors<F>) {
    let mut g_x = host.take_real(op.g_x);
    let shape = host.recording.get(op.input).shape;
    maxpool_real_backward(host.real(op.input), host.real(op.g_y), shape, &mut g_x);
    host.put_real(op.g_x, g_x);
}
