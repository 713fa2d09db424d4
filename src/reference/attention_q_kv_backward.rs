//! The twin of `shaders/attention_q_kv_backward.wgsl`.

use super::attention_kv::head_channels;
use super::dense::{self, Matrix};
use super::{HostTensors, Real, parallel};
use crate::kernels::attention::{Heads, side};
use crate::kernels::attention_q_kv_backward::{AttentionQKvGradKv, AttentionQKvGradQueries};
use crate::tensor::{Shape, vectors, words};

/// `[j tile][32 side i][32 j]` of one head transposed to plain `[j][i]`, d × d.
pub(super) fn transposed<F: Real>(m: &[F], d: usize) -> Vec<F> {
    let side = side(d);
    (0..d * d).map(|e| m[(e / d / 32 * side * 32 + e % d) * 32 + e / d % 32]).collect()
}

/// `dm = Qᵀ G`: `q` `[T·B][N][words]` (`shape` is q's), `g` `[T·B][N][4⌈window/4⌉]`, `dm` as `attention_kv` leaves M.
pub fn attention_q_kv_grad_kv<F: Real>(q: &[u32], g: &[F], shape: Shape, heads: Heads, dm: &mut [F]) {
    let (n, d, side) = (shape.tokens(), heads.dim, side(heads.dim));
    let (row_g, row_q) = (4 * vectors(heads.count * d), words(shape.channels));
    parallel::for_each(dm.chunks_mut(side * side * 1024).enumerate().collect(), |(task, dm)| {
        let (image, head) = (task / heads.count, task % heads.count);
        dm.fill(F::default());
        for token in image * n..(image + 1) * n {
            let g = &g[token * row_g + head * d..][..d];
            for i in head_channels(&q[token * row_q..][..row_q], heads.first + head, d) {
                for (j_tile, g) in g.chunks(32).enumerate() {
                    let row = &mut dm[(j_tile * side * 32 + i) * 32..][..32];
                    row.iter_mut().zip(g).for_each(|(m, &g)| *m = *m + g);
                }
            }
        }
    });
}

/// `dq = G Mᵀ`: `g` `[T·B][N][4⌈window/4⌉]`, `m` as `attention_kv` leaves it, `dq` `[T·B][N][4⌈D/4⌉]` of `shape`, of which the
/// window's channels are written.
pub fn attention_q_kv_grad_queries<F: Real>(g: &[F], m: &[F], shape: Shape, heads: Heads, dq: &mut [F]) {
    let (n, d, side) = (shape.tokens(), heads.dim, side(heads.dim));
    let (row_g, row_q) = (4 * vectors(heads.count * d), 4 * vectors(shape.channels));
    parallel::for_each(dq.chunks_mut(n * row_q).enumerate().collect(), |(image, dq)| {
        for head in 0..heads.count {
            let m = transposed(&m[(image * heads.count + head) * side * side * 1024..][..side * side * 1024], d);
            let m = Matrix { values: &m, rows: d, columns: d, row: d };
            let g = Matrix { values: &g[image * n * row_g + head * d..], rows: n, columns: d, row: row_g };
            dense::product(g, m, false, &mut dq[(heads.first + head) * d..], row_q);
        }
    });
}

/// Runs a recorded op on the host.
pub fn kv<F: Real>(op: &AttentionQKvGradKv, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.q).shape;
    let mut dm = host.take_real(op.dm);
    attention_q_kv_grad_kv(host.packed(op.q), host.real(op.g), shape, op.heads, &mut dm);
    host.put_real(op.dm, dm);
}

/// Runs a recorded op on the host.
pub fn queries<F: Real>(op: &AttentionQKvGradQueries, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.dq).shape;
    let mut dq = host.take_real(op.dq);
    attention_q_kv_grad_queries(host.real(op.g), host.real(op.m), shape, op.heads, &mut dq);
    host.put_real(op.dq, dq);
}
