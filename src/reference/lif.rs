//! The twin of `shaders/lif.wgsl`.

use super::{HostTensors, Lif, Real, parallel};
use crate::kernels::lif::LifOp;
use crate::tensor::{Element, Shape, vectors, words};

/// Where a window of spikes lies in its packed tensor.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Words of a token's row.
    pub row: usize,
    /// First word of the window.
    pub first_word: usize,
    /// Ternary: words from a plus word to its minus word.
    pub minus_plane: Option<usize>,
}

/// A block of tokens: its slice of the spikes at every timestep, and of the membranes where they are wanted.
type Task<'a, F> = (Vec<&'a mut [u32]>, Option<Vec<&'a mut [F]>>);

/// LIF over `steps` timesteps of `x` `[T or 1][B·N][4⌈C/4⌉]` (`shape` is x's) into `out`; `h` `[T][B·N][4⌈C/4⌉]` takes the
/// membrane before firing.
pub fn lif<F: Real>(
    x: &[F],
    shape: Shape,
    steps: usize,
    lif: &Lif<F>,
    window: Window,
    out: &mut [u32],
    h: Option<&mut [F]>,
) {
    const BLOCK: usize = 64;
    let row_in = 4 * vectors(shape.channels);
    let blocks = parallel::row_blocks(out, steps, window.row, BLOCK);
    let mut traces: Vec<Option<Vec<&mut [F]>>> = match h {
        Some(h) => parallel::row_blocks(h, steps, row_in, BLOCK).into_iter().map(Some).collect(),
        None => (0..blocks.len()).map(|_| None).collect(),
    };
    let tasks: Vec<(usize, Task<F>)> = blocks.into_iter().zip(traces.drain(..)).enumerate().collect();
    parallel::for_each(tasks, |(i, task)| {
        parallel::wide(
            #[inline(always)]
            || block(x, shape, steps, *lif, window, i * BLOCK, task),
        );
    });
}

/// [`lif`] of the tokens from `first` on.
#[inline(always)]
fn block<F: Real>(
    x: &[F],
    shape: Shape,
    steps: usize,
    lif: Lif<F>,
    window: Window,
    first: usize,
    (mut out, mut trace): Task<F>,
) {
    let (rows, row_in) = (shape.rows(), 4 * vectors(shape.channels));
    for token in 0..out[0].len() / window.row {
        for word in 0..words(shape.channels) {
            let n = (shape.channels - word * 32).min(32);
            let mut v = [lif.v_reset; 32];
            for step in 0..steps {
                let at = (step.min(shape.steps - 1) * rows + first + token) * row_in + word * 32;
                let x = &x[at..at + n];
                if let Some(trace) = &mut trace {
                    let at = token * row_in + word * 32;
                    for ((h, &v), &x) in trace[step][at..at + n].iter_mut().zip(&v).zip(x) {
                        *h = lif.charge(v, x);
                    }
                }
                let (plus, minus) = lif.word(&mut v[..n], x, window.minus_plane.is_some());
                let at = token * window.row + window.first_word + word;
                out[step][at] = plus;
                if let Some(plane) = window.minus_plane {
                    out[step][at + plane] = minus;
                }
            }
        }
    }
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &LifOp, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.input).shape;
    let tensor = host.recording.get(op.out);
    let window = Window {
        row: tensor.row(),
        first_word: op.first_channel / 32,
        minus_plane: (tensor.element == Element::Ternary).then(|| words(tensor.shape.channels)),
    };
    let steps = tensor.shape.steps;
    let mut out = host.take_packed(op.out);
    let mut h = op.h.map(|h| host.take_real(h));
    lif(host.real(op.input), shape, steps, &(&op.neuron).into(), window, &mut out, h.as_deref_mut());
    host.put_packed(op.out, out);
    if let (Some(id), Some(h)) = (op.h, h) {
        host.put_real(id, h);
    }
}
