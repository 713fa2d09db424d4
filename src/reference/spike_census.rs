//! The twin of `shaders/spike_census.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::spike_census::{Layout, SpikeCensusOp};
use crate::tensor::words;

/// How many outputs of a 3×3 convolution (pad 1) see place `at` of a side of `size`.
#[inline(always)]
fn side(at: usize, size: usize) -> u32 {
    1 + u32::from(at > 0) + u32::from(at + 1 < size)
}

/// The counters of `spikes` `[T][B][N][planes][words]`, in the order of `of`.
pub fn spike_census(spikes: &[u32], of: &Layout, out: &mut [u32]) {
    let (row, planes) = (words(of.shape.channels), if of.ternary { 2 } else { 1 });
    let image_words = of.image_words();
    let (steps, out) = out.split_at_mut(of.step_counts());
    let (neurons, channels) = out.split_at_mut(of.neuron_words());
    let images: Vec<&[u32]> = spikes.chunks_exact((planes * image_words).max(1)).collect();
    if of.neurons {
        let of_images: Vec<_> = steps.chunks_exact_mut(3 * of.parts()).zip(&images).collect();
        parallel::for_each(of_images, |(counts, image)| {
            counts.fill(0);
            for (n, token) in image.chunks_exact(planes * row).enumerate() {
                let reach = side(n / of.shape.width, of.shape.height) * side(n % of.shape.width, of.shape.width);
                let (plus, minus) = token.split_at(row);
                for w in 0..row {
                    let counts = &mut counts[(n * row + w) / of.part_words() * 3..][..3];
                    let (p, m) = (plus[w].count_ones(), minus.get(w).map_or(0, |m| m.count_ones()));
                    counts[0] += p;
                    counts[1] += m;
                    counts[2] += (p + m) * reach;
                }
            }
        });
        let (ever, always) = neurons.split_at_mut(image_words);
        let of_tokens: Vec<_> = ever.chunks_mut(64 * row).zip(always.chunks_mut(64 * row)).enumerate().collect();
        parallel::for_each(of_tokens, |(block, (ever, always))| {
            ever.fill(0);
            always.fill(u32::MAX);
            for image in &images {
                let tokens = image[block * 64 * row * planes..].chunks_exact(planes * row);
                for ((ever, always), token) in ever.chunks_exact_mut(row).zip(always.chunks_exact_mut(row)).zip(tokens)
                {
                    let (plus, minus) = token.split_at(row);
                    for w in 0..row {
                        let fired = plus[w] | minus.get(w).unwrap_or(&0);
                        ever[w] |= fired;
                        always[w] &= fired;
                    }
                }
            }
        });
    }
    if of.channels {
        let of_images: Vec<_> = channels.chunks_exact_mut(32 * row).zip(&images).collect();
        parallel::for_each(of_images, |(counts, image)| {
            counts.fill(0);
            for token in image.chunks_exact(planes * row) {
                let (plus, minus) = token.split_at(row);
                for w in 0..row {
                    let mut left = plus[w] | minus.get(w).unwrap_or(&0);
                    while left != 0 {
                        counts[w * 32 + left.trailing_zeros() as usize] += 1;
                        left &= left - 1;
                    }
                }
            }
        });
    }
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &SpikeCensusOp, host: &mut HostTensors<F>) {
    let mut out = host.take_packed(op.out);
    spike_census(host.packed(op.input), &op.layout, &mut out);
    host.put_packed(op.out, out);
}
