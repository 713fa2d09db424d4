//! The twin of `shaders/spike_census.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::spike_census::{Layout, SpikeCensusOp};
use crate::tensor::words;

/// How many lines of outputs of a 3×3 convolution (pad 1) see line `at` of `size`.
#[inline(always)]
fn side(at: usize, size: usize) -> u32 {
    1 + u32::from(at > 0) + u32::from(at + 1 < size)
}

/// Images as tokens' rows, `[N][planes][words]`.
#[derive(Clone, Copy)]
struct Rows {
    row: usize,
    planes: usize,
}

impl Rows {
    /// Positive and negative spikes of each part, and how many outputs see them: `counts` `[parts][3]`.
    #[inline(always)]
    fn steps(self, image: &[u32], of: &Layout, counts: &mut [u32]) {
        let a_token = self.planes * self.row;
        let a_line = (of.shape.width * a_token).max(1);
        let ones = |words: &[u32]| words.iter().map(|w| w.count_ones()).sum::<u32>();
        for (part, counts) in counts.chunks_exact_mut(3).enumerate() {
            let (first, mut sums) = (part * of.part_lines(), [0; 3]);
            let lines = image[first * a_line..].chunks_exact(a_line).take(of.part_lines());
            for (y, line) in (first..).zip(lines) {
                let minus = match self.planes {
                    2 => line.chunks_exact(a_token).map(|token| ones(&token[self.row..])).sum(),
                    _ => 0,
                };
                let all = ones(line);
                // Three columns see a token, but the outermost.
                let columns = 3 * all - ones(&line[..a_token]) - ones(&line[a_line - a_token..]);
                let reach = columns * side(y, of.shape.height);
                sums = [sums[0] + all - minus, sums[1] + minus, sums[2] + reach];
            }
            counts.copy_from_slice(&sums);
        }
    }

    /// Which neurons of the tokens from `first` on ever and always fired in `images`.
    #[inline(always)]
    fn neurons(self, images: &[&[u32]], first: usize, ever: &mut [u32], always: &mut [u32]) {
        let a_token = self.planes * self.row;
        ever.fill(0);
        always.fill(u32::MAX);
        for image in images {
            let words = &image[first * a_token..][..ever.len() * self.planes];
            if self.planes == 1 {
                for ((ever, always), &fired) in ever.iter_mut().zip(always.iter_mut()).zip(words) {
                    *ever |= fired;
                    *always &= fired;
                }
                continue;
            }
            let of_tokens = ever.chunks_exact_mut(self.row).zip(always.chunks_exact_mut(self.row));
            for ((ever, always), token) in of_tokens.zip(words.chunks_exact(a_token)) {
                let (plus, minus) = token.split_at(self.row);
                for (w, (plus, minus)) in plus.iter().zip(minus).enumerate() {
                    ever[w] |= plus | minus;
                    always[w] &= plus | minus;
                }
            }
        }
    }

    /// Spikes of each channel of an image, `[words · 32]`: six bits of 32 counters lie in six words, so that a word is added to all of
    /// them at once; before they overflow they are added to the counts.
    #[inline(always)]
    fn channels(self, image: &[u32], counts: &mut [u32]) {
        const BITS: usize = 6;
        let a_token = self.planes * self.row;
        counts.fill(0);
        let (mut carry, mut counters) = (vec![0; self.row], vec![0; BITS * self.row]);
        for tokens in image.chunks(((1 << BITS) - 1) * a_token) {
            counters.fill(0);
            for token in tokens.chunks_exact(a_token) {
                let (plus, minus) = token.split_at(self.row);
                carry.copy_from_slice(plus);
                carry.iter_mut().zip(minus).for_each(|(fired, minus)| *fired |= minus);
                for bit in counters.chunks_exact_mut(self.row) {
                    for (bit, carry) in bit.iter_mut().zip(&mut carry) {
                        (*bit, *carry) = (*bit ^ *carry, *bit & *carry);
                    }
                }
            }
            for (b, bit) in counters.chunks_exact(self.row).enumerate() {
                for (counts, word) in counts.chunks_exact_mut(32).zip(bit) {
                    counts.iter_mut().enumerate().for_each(|(c, count)| *count += (word >> c & 1) << b);
                }
            }
        }
    }
}

/// The counters of `spikes` `[T][B][N][planes][words]`, in the order of `of`.
pub fn spike_census(spikes: &[u32], of: &Layout, out: &mut [u32]) {
    /// Words that one thread counts in less time than another takes to wake up.
    const LITTLE: usize = 1 << 15;
    const BLOCK: usize = 256;
    let rows = Rows { row: words(of.shape.channels), planes: if of.ternary { 2 } else { 1 } };
    let little = spikes.len() <= LITTLE;
    let image_words = of.image_words();
    let (steps, out) = out.split_at_mut(of.step_counts());
    let (neurons, channels) = out.split_at_mut(of.neuron_words());
    let images: Vec<&[u32]> = spikes.chunks_exact((rows.planes * image_words).max(1)).collect();
    if of.neurons {
        let of_images = steps.chunks_exact_mut(3 * of.parts()).zip(&images);
        parallel::for_each_unless(
            little,
            of_images,
            #[inline(always)]
            |(counts, image)| rows.steps(image, of, counts),
        );
        let (ever, always) = neurons.split_at_mut(image_words);
        let blocks = ever.chunks_mut(BLOCK * rows.row).zip(always.chunks_mut(BLOCK * rows.row)).enumerate();
        parallel::for_each_unless(
            little,
            blocks,
            #[inline(always)]
            |(block, (ever, always))| rows.neurons(&images, block * BLOCK, ever, always),
        );
    }
    if of.channels {
        let of_images = channels.chunks_exact_mut(32 * rows.row).zip(&images);
        parallel::for_each_unless(
            little,
            of_images,
            #[inline(always)]
            |(counts, image)| rows.channels(image, counts),
        );
    }
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &SpikeCensusOp, host: &mut HostTensors<F>) {
    let mut out = host.take_packed(op.out);
    spike_census(host.packed(op.input), &op.layout, &mut out);
    host.put_packed(op.out, out);
}
