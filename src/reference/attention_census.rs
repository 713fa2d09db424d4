//! The twin of `shaders/attention_census.wgsl`.

use super::attention_kv::head_channels;
use super::{HostTensors, Real, parallel};
use crate::kernels::attention_census::{KeyValuePairs, NonzeroKeys};
use crate::tensor::{Shape, vectors, words};

/// Which of `k` `[T·B·N][4⌈C/4⌉]` (`shape` is k's) are not zero: words `first_word..` of each row of `out` `[T·B·N][row]`.
pub fn nonzero_keys<F: Real>(k: &[F], shape: Shape, row: usize, first_word: usize, out: &mut [u32]) {
    const BLOCK: usize = 64;
    let stride = 4 * vectors(shape.channels);
    let blocks: Vec<_> = out.chunks_mut(BLOCK * row).zip(k.chunks(BLOCK * stride)).collect();
    parallel::for_each(
        blocks,
        #[inline(always)]
        |(out, k)| {
            for (out, k) in out.chunks_exact_mut(row).zip(k.chunks_exact(stride)) {
                let words = k[..shape.channels].chunks(32);
                for (out, k) in out[first_word..].iter_mut().zip(words) {
                    *out = k.iter().enumerate().fold(0, |bits, (i, &k)| bits | u32::from(k != F::default()) << i);
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
    let of_images: Vec<_> =
        sums.iter_mut().zip(keys.chunks_exact(tokens * row)).zip(v.chunks_exact(2 * tokens * row)).collect();
    parallel::for_each(of_images, |((sum, keys), v)| {
        for (keys, v) in keys.chunks_exact(row).zip(v.chunks_exact(2 * row)) {
            let (plus, minus) = v.split_at(row);
            for head in 0..shape.channels / head_dim {
                let count = |row: &[u32]| head_channels(row, head, head_dim).count() as u64;
                *sum += count(keys) * (count(plus) + count(minus));
            }
        }
    });
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
