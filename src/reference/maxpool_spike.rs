//! The twin of `shaders/maxpool_spike.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::maxpool_spike::MaxpoolSpikeOp;

/// `x` `[images][H][W][words]` into `out` `[images][⌈H/2⌉][⌈W/2⌉][words]`.
pub fn maxpool_spike(x: &[u32], height: usize, width: usize, words: usize, out: &mut [u32]) {
    pool(x, height, width, words, out, |a, b| a | b);
}

/// A 3×3 stride-2 pad-1 pool that joins the window's elements with `join`, positions outside the grid left out.
pub(super) fn pool<X: Copy + Send + Sync>(
    x: &[X],
    height: usize,
    width: usize,
    row: usize,
    out: &mut [X],
    join: impl Fn(X, X) -> X + Sync + Send,
) {
    let (height_out, width_out) = (height.div_ceil(2), width.div_ceil(2));
    let lines: Vec<(usize, &mut [X])> = out.chunks_mut(width_out * row).enumerate().collect();
    parallel::for_each(lines, |(n, line)| {
        let (image, i) = (n / height_out, n % height_out);
        for (j, out) in line.chunks_exact_mut(row).enumerate() {
            // The window's centre (2i, 2j) always lies inside.
            let centre = ((image * height + 2 * i) * width + 2 * j) * row;
            out.copy_from_slice(&x[centre..centre + row]);
            for y in (2 * i).max(1) - 1..(2 * i + 2).min(height) {
                for x_ in (2 * j).max(1) - 1..(2 * j + 2).min(width) {
                    let at = ((image * height + y) * width + x_) * row;
                    out.iter_mut().zip(&x[at..at + row]).for_each(|(o, &v)| *o = join(*o, v));
                }
            }
        }
    });
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &MaxpoolSpikeOp, host: &mut HostTensors<F>) {
    let input = host.recording.get(op.input);
    let mut out = host.take_packed(op.out);
    maxpool_spike(host.packed(op.input), input.shape.height, input.shape.width, input.row(), &mut out);
    host.put_packed(op.out, out);
}
