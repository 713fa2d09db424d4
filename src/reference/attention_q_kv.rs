//! The twin of `shaders/attention_q_kv.wgsl`.

use super::attention_kv::head_channels;
use super::{HostTensors, Real, parallel};
use crate::kernels::attention::{Heads, side};
use crate::kernels::attention_q_kv::AttentionQKv;
use crate::tensor::{Shape, vectors, words};

/// `o = Q m`: `q` `[T·B][N][words]` (`shape` is q's), `m` as `attention_kv` leaves it, `o` `[T·B][N][4⌈window/4⌉]`.
pub fn attention_q_kv<F: Real>(q: &[u32], m: &[F], shape: Shape, heads: Heads, o: &mut [F]) {
    let (n, d, side) = (shape.tokens(), heads.dim, side(heads.dim));
    let (row_o, row_q) = (4 * vectors(heads.count * d), words(shape.channels));
    let tasks: Vec<(usize, &mut [F])> = o.chunks_mut(n * row_o).enumerate().collect();
    parallel::for_each(tasks, |(image, o)| {
        for head in 0..heads.count {
            let m = &m[(image * heads.count + head) * side * side * 1024..][..side * side * 1024];
            for (token, o) in o.chunks_exact_mut(row_o).enumerate() {
                let q = &q[(image * n + token) * row_q..][..row_q];
                for (j_tile, o) in o[head * d..(head + 1) * d].chunks_mut(32).enumerate() {
                    let mut sum = [F::default(); 32];
                    for i in head_channels(q, heads.first + head, d) {
                        let row = &m[(j_tile * side * 32 + i) * 32..][..32];
                        sum.iter_mut().zip(row).for_each(|(s, &m)| *s = *s + m);
                    }
                    o.copy_from_slice(&sum[..o.len()]);
                }
            }
        }
    });
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &AttentionQKv, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.q).shape;
    let mut o = host.take_real(op.o);
    attention_q_kv(host.packed(op.q), host.real(op.m), shape, op.heads, &mut o);
    host.put_real(op.o, o);
}
