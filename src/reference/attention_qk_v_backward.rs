//! The twin of `shaders/attention_qk_v_backward.wgsl`, one image at a time.

use super::attention_kv::head_channels;
use super::{HostTensors, Real, parallel};
use crate::kernels::attention::Heads;
use crate::kernels::attention_qk_v_backward::{AttentionQkVGradKeys, AttentionQkVGradQueries, AttentionQkVGradValues};
use crate::tensor::{Shape, vectors, words};

/// A window of heads of every timestep and image, with the gradient of its attention sums.
#[derive(Clone, Copy)]
pub struct Window<'a, F> {
    /// `[T·B][N][4⌈window/4⌉]`.
    pub g: &'a [F],
    /// Of all heads.
    pub shape: Shape,
    /// The window.
    pub heads: Heads,
}

impl<F: Real> Window<'_, F> {
    /// Floats of a token of the window.
    fn row(&self) -> usize {
        4 * vectors(self.heads.count * self.heads.dim)
    }

    /// The head's d channels of token `token` of `image` in a tensor of the window.
    fn of<'x>(&self, x: &'x [F], image: usize, token: usize, head: usize) -> &'x [F] {
        &x[(image * self.shape.tokens() + token) * self.row() + head * self.heads.dim..][..self.heads.dim]
    }

    /// The head's channels that fire in a plane of a packed tensor of all heads with `planes` planes.
    fn spikes(
        &self,
        s: &[u32],
        image: usize,
        token: usize,
        head: usize,
        (plane, planes): (usize, usize),
    ) -> Vec<usize> {
        let row = words(self.shape.channels);
        let at = ((image * self.shape.tokens() + token) * planes + plane) * row;
        head_channels(&s[at..at + row], self.heads.first + head, self.heads.dim).collect()
    }

    /// A head's channels `[N][d]` transposed to `[d][N]`: one spike adds one row.
    fn columns(&self, x: &[F], image: usize, head: usize) -> Vec<F> {
        let n = self.shape.tokens();
        (0..self.heads.dim * n).map(|e| self.of(x, image, e % n, head)[e / n]).collect()
    }

    /// `da` of one head as `[m][n]`.
    fn score_gradients(&self, v: &[u32], image: usize, head: usize) -> Vec<F> {
        let n = self.shape.tokens();
        let g = self.columns(self.g, image, head);
        let mut all = vec![F::default(); n * n];
        for (m, da) in all.chunks_exact_mut(n).enumerate() {
            for j in self.spikes(v, image, m, head, (0, 2)) {
                da.iter_mut().zip(&g[j * n..][..n]).for_each(|(a, &g)| *a = *a + g);
            }
            for j in self.spikes(v, image, m, head, (1, 2)) {
                da.iter_mut().zip(&g[j * n..][..n]).for_each(|(a, &g)| *a = *a - g);
            }
        }
        all
    }

    /// `dQ = (G Vᵀ) K`, the window's channels of `dq` `[T·B][N][4⌈D/4⌉]`.
    pub fn queries(&self, k: &[F], v: &[u32], dq: &mut [F]) {
        let (n, d, row) = (self.shape.tokens(), self.heads.dim, 4 * vectors(self.shape.channels));
        parallel::for_each(dq.chunks_mut(n * row).enumerate().collect(), |(image, dq)| {
            for head in 0..self.heads.count {
                let da = self.score_gradients(v, image, head);
                for (token, dq) in dq.chunks_exact_mut(row).enumerate() {
                    let dq = &mut dq[(self.heads.first + head) * d..][..d];
                    dq.fill(F::default());
                    for m in 0..n {
                        let a = da[m * n + token];
                        dq.iter_mut().zip(self.of(k, image, m, head)).for_each(|(q, &k)| *q = *q + a * k);
                    }
                }
            }
        });
    }

    /// `dK = (G Vᵀ)ᵀ Q` where k > 0, else 0, into `dk` `[T·B][N][4⌈window/4⌉]`.
    pub fn keys(&self, q: &[u32], k: &[F], v: &[u32], dk: &mut [F]) {
        let (n, d, row) = (self.shape.tokens(), self.heads.dim, self.row());
        parallel::for_each(dk.chunks_mut(n * row).enumerate().collect(), |(image, dk)| {
            for head in 0..self.heads.count {
                let da = self.score_gradients(v, image, head);
                let queries: Vec<Vec<usize>> = (0..n).map(|n| self.spikes(q, image, n, head, (0, 1))).collect();
                for (m, dk) in dk.chunks_exact_mut(row).enumerate() {
                    let dk = &mut dk[head * d..][..d];
                    dk.fill(F::default());
                    for (q, &a) in queries.iter().zip(&da[m * n..]) {
                        q.iter().for_each(|&i| dk[i] = dk[i] + a);
                    }
                    // The ReLU before K.
                    for (dk, &k) in dk.iter_mut().zip(self.of(k, image, m, head)) {
                        *dk = if k > F::default() { *dk } else { F::default() };
                    }
                }
            }
        });
    }

    /// `dV = (Q Kᵀ)ᵀ G`, the window's channels of `dv` `[T·B][N][4⌈D/4⌉]`.
    pub fn values(&self, q: &[u32], k: &[F], dv: &mut [F]) {
        let (n, d, row) = (self.shape.tokens(), self.heads.dim, 4 * vectors(self.shape.channels));
        parallel::for_each(dv.chunks_mut(n * row).enumerate().collect(), |(image, dv)| {
            let mut scores = vec![F::default(); n];
            for head in 0..self.heads.count {
                let keys = self.columns(k, image, head);
                let channels = (self.heads.first + head) * d;
                dv.chunks_exact_mut(row).for_each(|dv| dv[channels..][..d].fill(F::default()));
                for token in 0..n {
                    scores.fill(F::default());
                    for i in self.spikes(q, image, token, head, (0, 1)) {
                        scores.iter_mut().zip(&keys[i * n..][..n]).for_each(|(a, &k)| *a = *a + k);
                    }
                    let g = self.of(self.g, image, token, head);
                    for (&a, dv) in scores.iter().zip(dv.chunks_exact_mut(row)) {
                        dv[channels..][..d].iter_mut().zip(g).for_each(|(v, &g)| *v = *v + a * g);
                    }
                }
            }
        });
    }
}

/// Runs a recorded op on the host.
pub fn queries<F: Real>(op: &AttentionQkVGradQueries, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.dq).shape;
    let mut dq = host.take_real(op.dq);
    let window = Window { g: host.real(op.g), shape, heads: op.heads };
    window.queries(host.real(op.k), host.packed(op.v), &mut dq);
    host.put_real(op.dq, dq);
}

/// Runs a recorded op on the host.
pub fn keys<F: Real>(op: &AttentionQkVGradKeys, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.q).shape;
    let mut dk = host.take_real(op.dk);
    let window = Window { g: host.real(op.g), shape, heads: op.heads };
    window.keys(host.packed(op.q), host.real(op.k), host.packed(op.v), &mut dk);
    host.put_real(op.dk, dk);
}

/// Runs a recorded op on the host.
pub fn values<F: Real>(op: &AttentionQkVGradValues, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.q).shape;
    let mut dv = host.take_real(op.dv);
    let window = Window { g: host.real(op.g), shape, heads: op.heads };
    window.values(host.packed(op.q), host.real(op.k), &mut dv);
    host.put_real(op.dv, dv);
}
