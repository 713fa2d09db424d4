//! The twin of `shaders/spike_census.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::spike_census::{Layout, SpikeCensusOp};
use crate::tensor::words;

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
        // Three columns see a token, but the outermost.
        let edges = |line: &[u32]| ones(&line[..a_token]) + ones(&line[a_line - a_token..]);
        let last = of.shape.height - 1;
        let parts = image.chunks(of.part_lines() * a_line);
        for (part, (words, counts)) in parts.zip(counts.chunks_exact_mut(3)).enumerate() {
            let minus = match self.planes {
                2 => words.chunks_exact(a_token).map(|token| ones(&token[self.row..])).sum(),
                _ => 0,
            };
            let all = ones(words);
            // Three lines see a token, but the outermost.
            let mut reach = 3 * (3 * all - words.chunks_exact(a_line).map(edges).sum::<u32>());
            let first = part * of.part_lines();
            for y in [0, last] {
                if let Some(line) = y.checked_sub(first).and_then(|y| words.chunks_exact(a_line).nth(y)) {
                    reach -= 3 * ones(line) - edges(line);
                }
            }
            counts.copy_from_slice(&[all - minus, minus, reach]);
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

    /// Spikes of each channel of an image, `[words · 32]`.
    #[inline(always)]
    fn channels(self, image: &[u32], counts: &mut [u32]) {
        const LANES: usize = 16;
        counts.fill(0);
        if self.planes == 1 && LANES.is_multiple_of(self.row) {
            // Several tokens side by side make a vector.
            let mut counters = Counters { bits: [[0; LANES]; BITS], added: 0 };
            for words in image.chunks(LANES) {
                let mut lanes = [0; LANES];
                lanes[..words.len()].copy_from_slice(words);
                counters.add(&lanes, self.row, counts);
            }
            counters.empty(self.row, counts);
            return;
        }
        for (word, counts) in counts.chunks_exact_mut(32).enumerate() {
            let mut counters = Counters { bits: [[0; LANES]; BITS], added: 0 };
            let mut lanes = [0; LANES];
            let tokens = image.chunks_exact(self.planes * self.row);
            let last = tokens.len().saturating_sub(1);
            for (i, token) in tokens.enumerate() {
                lanes[i % LANES] = token[word] | token[self.planes * self.row - self.row + word];
                if i % LANES == LANES - 1 || i == last {
                    counters.add(&std::mem::take(&mut lanes), 1, counts);
                }
            }
            counters.empty(1, counts);
        }
    }
}

/// Bits of a counter.
const BITS: usize = 6;

/// Of each of 32 bits of `L` words a counter: their bits lie in [`BITS`] words, so that a word is added to all of them at once.
struct Counters<const L: usize> {
    bits: [[u32; L]; BITS],
    added: u32,
}

impl<const L: usize> Counters<L> {
    /// Adds words, of which those of one token are `row` apart; before a counter overflows, all are emptied into `counts`.
    #[inline(always)]
    fn add(&mut self, words: &[u32; L], row: usize, counts: &mut [u32]) {
        let mut carry = *words;
        for bit in &mut self.bits {
            for (bit, carry) in bit.iter_mut().zip(&mut carry) {
                (*bit, *carry) = (*bit ^ *carry, *bit & *carry);
            }
        }
        self.added += 1;
        if self.added + 1 == 1 << BITS {
            self.empty(row, counts);
        }
    }

    /// Adds the counters to `counts` `[row · 32]`; word i of a counter is word i mod row of its token.
    #[inline(always)]
    fn empty(&mut self, row: usize, counts: &mut [u32]) {
        let used = (u32::BITS - self.added.leading_zeros()) as usize;
        for (b, bit) in self.bits[..used].iter().enumerate() {
            for of_token in bit.chunks_exact(row) {
                for (counts, word) in counts.chunks_exact_mut(32).zip(of_token) {
                    counts.iter_mut().enumerate().for_each(|(c, count)| *count += (word >> c & 1) << b);
                }
            }
        }
        *self = Counters { bits: [[0; L]; BITS], added: 0 };
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
