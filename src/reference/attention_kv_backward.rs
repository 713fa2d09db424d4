//! The twin of `shaders/attention_kv_backward.wgsl`.

use super::attention_kv::head_channels;
use super::attention_q_kv_backward::transposed;
use super::dense::{self, Matrix};
use super::{HostTensors, Real, parallel};
use crate::kernels::attention::{Heads, side};
use crate::kernels::attention_kv_backward::{AttentionKvGradKeys, AttentionKvGradValues};
use crate::tensor::{Shape, vectors, words};

/// `dk = V dMᵀ` where k > 0, else 0: `k` and `dk` `[T·B][N][4⌈window/4⌉]`, `v` `[T·B][N][plus, minus][words]` (`shape` is v's),
/// `dm` as `attention_kv` leaves M.
pub fn attention_kv_grad_keys<F: Real>(k: &[F], v: &[u32], dm: &[F], shape: Shape, heads: Heads, dk: &mut [F]) {
    let (n, d, side) = (shape.tokens(), heads.dim, side(heads.dim));
    let (row_k, row_v) = (4 * vectors(heads.count * d), words(shape.channels));
    parallel::for_each(dk.chunks_mut(n * row_k).enumerate().collect(), |(image, dk)| {
        for head in 0..heads.count {
            let m = transposed(&dm[(image * heads.count + head) * side * side * 1024..][..side * side * 1024], d);
            for (token, dk) in dk.chunks_exact_mut(row_k).enumerate() {
                let dk = &mut dk[head * d..][..d];
                dk.fill(F::default());
                let token = image * n + token;
                let (plus, minus) = v[token * 2 * row_v..][..2 * row_v].split_at(row_v);
                for j in head_channels(plus, heads.first + head, d) {
                    dk.iter_mut().zip(&m[j * d..][..d]).for_each(|(k, &m)| *k = *k + m);
                }
                for j in head_channels(minus, heads.first + head, d) {
                    dk.iter_mut().zip(&m[j * d..][..d]).for_each(|(k, &m)| *k = *k - m);
                }
                // The ReLU before K.
                for (dk, &k) in dk.iter_mut().zip(&k[token * row_k + head * d..][..d]) {
                    *dk = if k > F::default() { *dk } else { F::default() };
                }
            }
        }
    });
}

/// `dv = K dM`: `k` `[T·B][N][4⌈window/4⌉]`, `dm` as `attention_kv` leaves M, `dv` `[T·B][N][4⌈D/4⌉]` of `shape`, of which the
/// window's channels are written.
pub fn attention_kv_grad_values<F: Real>(k: &[F], dm: &[F], shape: Shape, heads: Heads, dv: &mut [F]) {
    let (n, d, side) = (shape.tokens(), heads.dim, side(heads.dim));
    let (row_k, row_v) = (4 * vectors(heads.count * d), 4 * vectors(shape.channels));
    parallel::for_each(dv.chunks_mut(n * row_v).enumerate().collect(), |(image, dv)| {
        for head in 0..heads.count {
            let m = &dm[(image * heads.count + head) * side * side * 1024..][..side * side * 1024];
            let k = Matrix { values: &k[image * n * row_k + head * d..], rows: n, columns: d, row: row_k };
            for (j_tile, m) in m.chunks_exact(side * 1024).enumerate() {
                let m = Matrix { values: m, rows: d, columns: (d - j_tile * 32).min(32), row: 32 };
                dense::product(k, m, false, &mut dv[(heads.first + head) * d + j_tile * 32..], row_v);
            }
        }
    });
}

/// Runs a recorded op on the host.
pub fn keys<F: Real>(op: &AttentionKvGradKeys, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.v).shape;
    let mut dk = host.take_real(op.dk);
    attention_kv_grad_keys(host.real(op.k), host.packed(op.v), host.real(op.dm), shape, op.heads, &mut dk);
    host.put_real(op.dk, dk);
}

/// Runs a recorded op on the host.
pub fn values<F: Real>(op: &AttentionKvGradValues, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.dv).shape;
    let mut dv = host.take_real(op.dv);
    attention_kv_grad_values(host.real(op.k), host.real(op.dm), shape, op.heads, &mut dv);
    host.put_real(op.dv, dv);
}
