//! The twin of `shaders/attention_qk_v.wgsl`.

use super::attention_kv::head_channels;
use super::{HostTensors, Real, parallel};
use crate::kernels::attention::Heads;
use crate::kernels::attention_qk_v::AttentionQkV;
use crate::tensor::{Shape, vectors, words};

/// `o = (Q Kᵀ) V`: `q` `[T·B][N][words]`, `k` and `o` `[T·B][N][4⌈window/4⌉]`, `v` `[T·B][N][plus, minus][words]` (`shape` is q's
/// and v's).
pub fn attention_qk_v<F: Real>(q: &[u32], k: &[F], v: &[u32], shape: Shape, heads: Heads, o: &mut [F]) {
    let (n, d) = (shape.tokens(), heads.dim);
    let (row, row_q) = (4 * vectors(heads.count * d), words(shape.channels));
    let tasks: Vec<(usize, &mut [F])> = o.chunks_mut(n * row).enumerate().collect();
    parallel::for_each(tasks, |(image, o)| {
        let mut keys = vec![F::default(); d * n]; // [i][m]: one spike of Q adds one row
        let mut scores = vec![F::default(); n];
        for head in 0..heads.count {
            for m in 0..n {
                for i in 0..d {
                    keys[i * n + m] = k[(image * n + m) * row + head * d + i];
                }
            }
            let values: Vec<(Vec<usize>, Vec<usize>)> = (0..n)
                .map(|m| {
                    let (plus, minus) = v[(image * n + m) * 2 * row_q..][..2 * row_q].split_at(row_q);
                    let of = |plane| head_channels(plane, heads.first + head, d).collect();
                    (of(plus), of(minus))
                })
                .collect();
            for token in 0..n {
                scores.fill(F::default());
                for i in head_channels(&q[(image * n + token) * row_q..][..row_q], heads.first + head, d) {
                    scores.iter_mut().zip(&keys[i * n..(i + 1) * n]).for_each(|(a, &k)| *a = *a + k);
                }
                let o = &mut o[token * row + head * d..][..d];
                o.fill(F::default());
                for (&a, (plus, minus)) in scores.iter().zip(&values) {
                    plus.iter().for_each(|&j| o[j] = o[j] + a);
                    minus.iter().for_each(|&j| o[j] = o[j] - a);
                }
            }
        }
    });
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &AttentionQkV, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.q).shape;
    let mut o = host.take_real(op.o);
    attention_qk_v(host.packed(op.q), host.real(op.k), host.packed(op.v), shape, op.heads, &mut o);
    host.put_real(op.o, o);
}
