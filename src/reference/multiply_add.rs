//! The twin of `shaders/multiply_add.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::multiply_add::{CHAINS, MultiplyAddOp};

/// `out = Σ_k y_k` over the chains `y_k = x + k`, to each of which `a y + b` is applied `rounds` times.
pub fn multiply_add<F: Real>(x: &[F], out: &mut [F], rounds: u32, a: F, b: F) {
    /// Elements whose chain fits the registers of a processor as eight vectors or fewer.
    const TOGETHER: usize = 64;
    const BLOCK: usize = 64 * TOGETHER;
    let pieces = out.chunks_mut(BLOCK).zip(x.chunks(BLOCK)).collect();
    parallel::for_each(
        pieces,
        #[inline(always)]
        |(out, x): (&mut [F], &[F])| {
            for (out, x) in out.chunks_mut(TOGETHER).zip(x.chunks(TOGETHER)) {
                for k in 0..CHAINS {
                    let mut y = [F::from(0.0); TOGETHER];
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = x + F::from(k as f32));
                    for _ in 0..rounds {
                        y.iter_mut().for_each(|y| *y = *y * a + b);
                    }
                    let add = |(out, y): (&mut F, F)| *out = if k == 0 { y } else { *out + y };
                    out.iter_mut().zip(y).for_each(add);
                }
            }
        },
    );
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &MultiplyAddOp, host: &mut HostTensors<F>) {
    let mut out = host.take_real(op.out);
    let (a, b) = op.map;
    multiply_add(host.real(op.input), &mut out, op.rounds, a.into(), b.into());
    host.put_real(op.out, out);
}
