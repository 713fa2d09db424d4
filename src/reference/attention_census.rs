//! The twin of `shaders/attention_census.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::attention_census::{KeyValuePairs, NonzeroKeys};
use crate::tensor::{Shape, vectors, words};

/// Words that one thread counts in less time than another takes to wake up.
const LITTLE: usize = 1 << 13;

/// The words that hold channels `first..end` of a packed row, each with the bits that are theirs.
fn masks(first: usize, end: usize) -> Vec<(usize, u32)> {
    let mask = |word: usize| {
        let (before, after) = (first.saturating_sub(word * 32), (word * 32 + 32).saturating_sub(end));
        (word, (u32::MAX << before) & (u32::MAX >> after))
    };
    (first / 32..end.div_ceil(32)).map(mask).collect()
}

/// Bit i says whether value i of at most 32 is not zero.
#[inline(always)]
fn word<F: Real>(k: &[F]) -> u32 {
    let bit = |i: usize, k: F| u32::from(k != F::default()) << i;
    match <&[F; 32]>::try_from(k) {
        // A length that is known becomes vectors.
        Ok(k) => (0..32).fold(0, |bits, i| bits | bit(i, k[i])),
        Err(_) => k.iter().enumerate().fold(0, |bits, (i, &k)| bits | bit(i, k)),
    }
}

/// Which of `k` `[T·B·N][4⌈C/4⌉]` (`shape` is k's) are not zero: words `first_word..` of each row of `out` `[T·B·N][row]`.
pub fn nonzero_keys<F: Real>(k: &[F], shape: Shape, row: usize, first_word: usize, out: &mut [u32]) {
    const BLOCK: usize = 64;
    let stride = 4 * vectors(shape.channels);
    let blocks = out.chunks_mut(BLOCK * row).zip(k.chunks(BLOCK * stride));
    parallel::for_each_unless(
        k.len() <= 32 * LITTLE,
        blocks,
        #[inline(always)]
        |(out, k)| {
            for (out, k) in out.chunks_exact_mut(row).zip(k.chunks_exact(stride)) {
                for (out, k) in out[first_word..].iter_mut().zip(k[..shape.channels].chunks(32)) {
                    *out = word(k);
                }
            }
        },
    );
}

/// Σ over tokens and heads of (keys that are not zero) × (values that are not zero), of each step and image: `keys`
/// `[T·B][N][words]`, `v` `[T·B][N][plus, minus][words]`.
pub fn key_value_pairs(keys: &[u32], v: &[u32], shape: Shape, head_dim: usize) -> Vec<u64> {
    let (row, tokens) = (words(shape.channels), shape.tokens());
    let mut sums = vec![0; shape.steps * shape.batch];
    let heads: Vec<Vec<(usize, u32)>> =
        (0..shape.channels / head_dim).map(|head| masks(head * head_dim, (head + 1) * head_dim)).collect();
    let of_images = sums.iter_mut().zip(keys.chunks_exact(tokens * row)).zip(v.chunks_exact(2 * tokens * row));
    parallel::for_each_unless(
        keys.len() <= LITTLE,
        of_images,
        #[inline(always)]
        |((sum, keys), v)| {
            for (keys, v) in keys.chunks_exact(row).zip(v.chunks_exact(2 * row)) {
                let (plus, minus) = v.split_at(row);
                for head in &heads {
                    let (mut of_keys, mut of_values) = (0, 0);
                    for &(word, mask) in head {
                        of_keys += (keys[word] & mask).count_ones();
                        of_values += ((plus[word] | minus[word]) & mask).count_ones();
                    }
                    *sum += u64::from(of_keys) * u64::from(of_values);
                }
            }
        },
    );
    sums
}

/// Runs a recorded op on the host.
pub fn keys<F: Real>(op: &NonzeroKeys, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.k).shape;
    let row = host.recording.get(op.out).row();
    let mut out = host.take_packed(op.out);
    nonzero_keys(host.real(op.k), shape, row, op.first_channel / 32, &mut out);
    host.put_packed(op.out, out);
}

/// Runs a recorded op on the host.
pub fn pairs<F: Real>(op: &KeyValuePairs, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.keys).shape;
    let mut out = host.take_packed(op.out);
    let sums = key_value_pairs(host.packed(op.keys), host.packed(op.v), shape, op.head_dim);
    for (out, sum) in out.chunks_exact_mut(2).zip(sums) {
        out.copy_from_slice(&[sum as u32, (sum >> 32) as u32]);
    }
    host.put_packed(op.out, out);
}
