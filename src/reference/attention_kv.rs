//! The twin of `shaders/attention_kv.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::attention::{Heads, side};
use crate::kernels::attention_kv::AttentionKv;
use crate::tensor::{Shape, vectors, words};

/// The set bits of a head's slice of a packed row, as channels within the head, ascending.
#[inline(always)]
pub(super) fn head_channels(row: &[u32], head: usize, dim: usize) -> impl Iterator<Item = usize> {
    let (first, end) = (head * dim, (head + 1) * dim);
    (first / 32..end.div_ceil(32)).flat_map(move |word| {
        // Bits of the heads before and after.
        let (before, after) = (first.saturating_sub(word * 32), (word * 32 + 32).saturating_sub(end));
        let mut left = row[word] & (u32::MAX << before) & (u32::MAX >> after);
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(word * 32 + bit - first)
        })
    })
}

/// `m = Kᵀ V`: `k` `[T·B][N][4⌈window/4⌉]`, `v` `[T·B][N][plus, minus][words]` (`shape` is v's), `m` `[T·B][heads][side j][32 side i][32 j]`.
pub fn attention_kv<F: Real>(k: &[F], v: &[u32], shape: Shape, heads: Heads, m: &mut [F]) {
    let (n, d, side) = (shape.tokens(), heads.dim, side(heads.dim));
    let (row_k, row_v) = (4 * vectors(heads.count * d), words(shape.channels));
    let tasks: Vec<(usize, &mut [F])> = m.chunks_mut(side * side * 1024).enumerate().collect();
    parallel::for_each(tasks, |(task, m)| {
        let (image, head) = (task / heads.count, task % heads.count);
        // Transposed while it grows, so that one spike of V adds one row of K.
        let mut transposed = vec![F::default(); d * d];
        for token in image * n..(image + 1) * n {
            let k = &k[token * row_k + head * d..][..d];
            let (plus, minus) = v[token * 2 * row_v..][..2 * row_v].split_at(row_v);
            for j in head_channels(plus, heads.first + head, d) {
                transposed[j * d..][..d].iter_mut().zip(k).for_each(|(m, &k)| *m = *m + k);
            }
            for j in head_channels(minus, heads.first + head, d) {
                transposed[j * d..][..d].iter_mut().zip(k).for_each(|(m, &k)| *m = *m - k);
            }
        }
        m.fill(F::default());
        for (j, column) in transposed.chunks_exact(d).enumerate() {
            for (i, &value) in column.iter().enumerate() {
                m[(j / 32 * side * 32 + i) * 32 + j % 32] = value;
            }
        }
    });
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &AttentionKv, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.v).shape;
    let mut m = host.take_real(op.m);
    attention_kv(host.real(op.k), host.packed(op.v), shape, op.heads, &mut m);
    host.put_real(op.m, m);
}
