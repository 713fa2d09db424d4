//! The twin of `shaders/lif.wgsl`.

use super::bn_apply::Norm;
use super::{HostTensors, Lif, Real, lanes, parallel};
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

/// What neurons are given.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a, F> {
    /// `[T or 1][B·N][4⌈C/4⌉]`.
    pub x: &'a [F],
    /// The shape of it.
    pub shape: Shape,
    /// The batch norm that it goes through first, without ReLU.
    pub norm: Option<Norm<'a, F>>,
}

impl<F: Real> Input<'_, F> {
    /// The values of `n` channels from `first` on at a row, zeros after them.
    #[inline(always)]
    fn word(&self, row: usize, first: usize, n: usize) -> [F; 32] {
        let x = lanes(&self.x[row * 4 * vectors(self.shape.channels) + first..][..n]);
        let Some(norm) = &self.norm else { return x };
        norm.lanes(first, n).apply(x)
    }
}

/// LIF over `steps` timesteps of `input` into `out`; `h` `[T][B·N][4⌈C/4⌉]` takes the membrane before firing.
pub fn lif<F: Real>(
    input: &Input<F>,
    steps: usize,
    lif: &Lif<F>,
    window: Window,
    out: &mut [u32],
    h: Option<&mut [F]>,
) {
    const BLOCK: usize = 64;
    let row_in = 4 * vectors(input.shape.channels);
    let blocks = parallel::row_blocks(out, steps, window.row, BLOCK);
    let mut traces: Vec<Option<Vec<&mut [F]>>> = match h {
        Some(h) => parallel::row_blocks(h, steps, row_in, BLOCK).into_iter().map(Some).collect(),
        None => (0..blocks.len()).map(|_| None).collect(),
    };
    let tasks: Vec<(usize, Task<F>)> = blocks.into_iter().zip(traces.drain(..)).enumerate().collect();
    parallel::for_each(tasks, |(i, task)| {
        parallel::wide(
            #[inline(always)]
            || block(*input, steps, *lif, window, i * BLOCK, task),
        );
    });
}

/// [`lif`] of the tokens from `first` on.
#[inline(always)]
fn block<F: Real>(
    input: Input<F>,
    steps: usize,
    lif: Lif<F>,
    window: Window,
    first: usize,
    (mut out, mut trace): Task<F>,
) {
    let (shape, row_in) = (input.shape, 4 * vectors(input.shape.channels));
    for token in 0..out[0].len() / window.row {
        for word in 0..words(shape.channels) {
            let n = (shape.channels - word * 32).min(32);
            let mut v = [lif.v_reset; 32];
            for step in 0..steps {
                let row = step.min(shape.steps - 1) * shape.rows() + first + token;
                let x = input.word(row, word * 32, n);
                if let Some(trace) = &mut trace {
                    let at = token * row_in + word * 32;
                    for ((h, &v), &x) in trace[step][at..at + n].iter_mut().zip(&v).zip(&x) {
                        *h = lif.charge(v, x);
                    }
                }
                let (plus, minus) = lif.word(&mut v, &x, window.minus_plane.is_some());
                let (at, channels) = (token * window.row + window.first_word + word, u32::MAX >> (32 - n));
                out[step][at] = plus & channels;
                if let Some(plane) = window.minus_plane {
                    out[step][at + plane] = minus & channels;
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
    let input = Input { x: host.real(op.input), shape, norm: op.norm.map(|norm| norm.values(host)) };
    lif(&input, steps, &(&op.neuron).into(), window, &mut out, h.as_deref_mut());
    host.put_packed(op.out, out);
    if let (Some(id), Some(h)) = (op.h, h) {
        host.put_real(id, h);
    }
}
