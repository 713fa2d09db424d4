//! The twin of `shaders/lib/spike_product.wgsl` and `shaders/lib/product_epilogue.wgsl`: for every spike of a token, one row of
//! weights is added; then batch norm and LIF over T, fused as the kernel fuses them. With int8 weights, that of
//! `shaders/lib/spike_product_int8.wgsl`; f16 weights are unpacked and then as f32.

use half::f16;

use super::{HostTensors, Lif, Real, parallel};
use crate::aligned::Aligned;
use crate::kernels::product::{Epilogue, SpikeProduct};
use crate::recording::TensorId;
use crate::tensor::{Element, Shape, vectors, words};

/// A spike product's inputs. Sums run over k = tap · I + i ascending, as the kernel's do.
#[derive(Clone, Copy)]
pub struct Product<'a, F, W = F> {
    /// `[T][B·H·W][words]`.
    pub spikes: &'a [u32],
    /// Of the input.
    pub shape: Shape,
    /// 1 or 9.
    pub taps: usize,
    /// As [`crate::kernels::product::pack_weights`] packs them.
    pub weights: &'a [W],
    /// As [`crate::kernels::product::pack_scale_shift`] packs it.
    pub scale_shift: &'a [F],
    /// Output channels of this window.
    pub channels_out: usize,
}

/// The tokens × timesteps that one task works through: few enough that their lists of spikes stay in the cache, many enough that
/// the weights are worth fetching.
const BLOCK_ROWS: usize = 128;

/// Lists of the rows of weights that rows of spikes select, one after another.
#[derive(Default)]
struct Selected {
    list: Vec<u32>,
    len: usize,
    /// Where each row's parts end, one of every chunk of weights.
    ends: Vec<usize>,
}

impl Selected {
    /// Begins anew, with room for about `expected` of them.
    fn begin(&mut self, expected: usize) {
        self.len = 0;
        self.ends.clear();
        if self.list.len() < expected + 40 {
            self.list.resize(expected + 40, 0);
        }
    }

    /// Adds the rows of weights `first + i` for every set bit i of `word`, ascending. Each byte writes eight places and keeps as
    /// many as it has spikes, as a branch for each spike would be guessed wrong too often.
    #[inline(always)]
    fn push(&mut self, first: u32, word: u32) {
        if self.list.len() < self.len + 40 {
            self.list.resize((2 * self.len).max(1024), 0);
        }
        let (room, _) = self.list[self.len..].as_chunks_mut::<40>();
        let mut n = 0;
        for (byte, first) in word.to_le_bytes().into_iter().zip((first..).step_by(8)) {
            // At most 24 are there already.
            for (out, &bit) in room[0][n & 31..][..8].iter_mut().zip(&SET_BITS[byte as usize]) {
                *out = first + u32::from(bit);
            }
            n += byte.count_ones() as usize;
        }
        self.len += n;
    }
}

/// The set bits of every byte, ascending, then zeros.
const SET_BITS: [[u8; 8]; 256] = {
    let mut all = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut n) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                all[byte][n] = bit as u8;
                n += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    all
};

/// What weights are stored as, and how rows of them are summed.
pub trait Weight<F>: Copy + Send + Sync + Sized {
    /// Words of inputs whose weights for two tiles stay in a processor's first cache while all rows select from them.
    const CHUNK: usize;

    /// What they are summed as.
    type Summed: bytemuck::Pod + Send + Sync;

    /// A parameter's weights.
    fn of<'h>(host: &'h HostTensors<F>, id: TensorId) -> &'h [Self];

    /// A tile's weights as they are summed, in `room` if they have to be unpacked.
    fn unpacked<'t>(tile: &'t [[Self; 32]], room: &'t mut Aligned<Self::Summed>) -> &'t [[Self::Summed; 32]];

    /// `sums` plus the rows `selected` of one tile's weights, and of a second one's if `PAIR`: they need not wait for each other.
    fn sums<const PAIR: bool>(sums: [[F; 32]; 2], tiles: [&[[Self::Summed; 32]]; 2], selected: &[u32]) -> [[F; 32]; 2];
}

/// Adds a row to a sum, channel by channel.
#[inline(always)]
fn add<S: Copy, W: Copy>(sum: &mut [S; 32], row: &[W; 32], plus: impl Fn(S, W) -> S) {
    sum.iter_mut().zip(row).for_each(|(s, &w)| *s = plus(*s, w));
}

/// Rounded sums, in the order of the rows.
impl<F: Real> Weight<F> for F {
    const CHUNK: usize = 4;
    type Summed = F;

    fn of<'h>(host: &'h HostTensors<F>, id: TensorId) -> &'h [F] {
        host.real(id)
    }

    fn unpacked<'t>(tile: &'t [[F; 32]], _: &'t mut Aligned<F>) -> &'t [[F; 32]] {
        tile
    }

    #[inline(always)]
    fn sums<const PAIR: bool>(
        [mut sum_a, mut sum_b]: [[F; 32]; 2],
        [a, b]: [&[[F; 32]]; 2],
        selected: &[u32],
    ) -> [[F; 32]; 2] {
        for &k in selected {
            add(&mut sum_a, &a[k as usize], |s, w| s + w);
            if PAIR {
                add(&mut sum_b, &b[k as usize], |s, w| s + w);
            }
        }
        [sum_a, sum_b]
    }
}

/// Unpacked once for all the rows of a block, which is little beside summing them; then as `F`.
impl<F: Real> Weight<F> for f16 {
    const CHUNK: usize = <F as Weight<F>>::CHUNK;
    type Summed = F;

    fn of<'h>(host: &'h HostTensors<F>, id: TensorId) -> &'h [f16] {
        bytemuck::cast_slice(host.packed(id))
    }

    fn unpacked<'t>(tile: &'t [[f16; 32]], room: &'t mut Aligned<F>) -> &'t [[F; 32]] {
        *room = std::mem::take(room).reuse(32 * tile.len());
        F::from_f16s(tile.as_flattened(), room);
        room.as_chunks().0
    }

    #[inline(always)]
    fn sums<const PAIR: bool>(sums: [[F; 32]; 2], tiles: [&[[F; 32]]; 2], selected: &[u32]) -> [[F; 32]; 2] {
        <F as Weight<F>>::sums::<PAIR>(sums, tiles, selected)
    }
}

/// Exact sums, in integers: 16 bits hold those of 256 rows, as 256 · 127 < 2¹⁵, and 32 those of 2²⁴. From chunk to chunk they are
/// kept as F, which holds the integers that they are exactly.
impl<F: Real> Weight<F> for i8 {
    const CHUNK: usize = 16;
    type Summed = i8;

    fn of<'h>(host: &'h HostTensors<F>, id: TensorId) -> &'h [i8] {
        bytemuck::cast_slice(host.packed(id))
    }

    fn unpacked<'t>(tile: &'t [[i8; 32]], _: &'t mut Aligned<i8>) -> &'t [[i8; 32]] {
        tile
    }

    #[inline(always)]
    fn sums<const PAIR: bool>(
        [mut of_a, mut of_b]: [[F; 32]; 2],
        [a, b]: [&[[i8; 32]]; 2],
        selected: &[u32],
    ) -> [[F; 32]; 2] {
        let mut sum_a = [0i32; 32];
        let mut sum_b = [0i32; 32];
        for run in selected.chunks(256) {
            let mut run_a = [0i16; 32];
            let mut run_b = [0i16; 32];
            for &k in run {
                add(&mut run_a, &a[k as usize], |s: i16, w| s.wrapping_add(w.into()));
                if PAIR {
                    add(&mut run_b, &b[k as usize], |s: i16, w| s.wrapping_add(w.into()));
                }
            }
            add(&mut sum_a, &run_a, |s, run| s + i32::from(run));
            add(&mut sum_b, &run_b, |s, run| s + i32::from(run));
        }
        add(&mut of_a, &sum_a, |s, sum| s + F::from_i32(sum));
        add(&mut of_b, &sum_b, |s, sum| s + F::from_i32(sum));
        [of_a, of_b]
    }
}

/// A tile of 32 outputs: its rows of weights, and 32 scales and shifts.
#[derive(Clone, Copy)]
struct Tile<'a, F, W> {
    weights: &'a [[W; 32]],
    scale: [F; 32],
    shift: [F; 32],
}

impl<F: Real, W> Tile<'_, F, W> {
    /// `sum · scale + shift`.
    #[inline(always)]
    fn normalise(&self, sum: &[F; 32], y: &mut [F; 32]) {
        for (c, y) in y.iter_mut().enumerate() {
            *y = sum[c] * self.scale[c] + self.shift[c];
        }
    }
}

/// Where two tiles' weights are unpacked.
type Rooms<F, W> = [Aligned<<W as Weight<F>>::Summed>; 2];

/// For each row of `selected` the sums of the weights that it selects in one tile, and in a second one if `PAIR`, normalised,
/// into `sums` `[tiles][rows]`, chunk after chunk of the inputs.
#[inline(always)]
fn add_rows<F: Real, W: Weight<F>, const PAIR: bool>(
    chunks: usize,
    tiles: [Tile<F, W>; 2],
    [room_a, room_b]: &mut Rooms<F, W>,
    selected: &Selected,
    sums: &mut [[F; 32]],
) {
    let [a, b] = tiles;
    let weights_a = W::unpacked(a.weights, room_a);
    let weights_b = if PAIR { W::unpacked(b.weights, room_b) } else { weights_a };
    let rows = selected.ends.len() / chunks;
    let (of_a, of_b) = sums.split_at_mut(rows);
    for chunk in 0..chunks {
        for row in 0..rows {
            let part = row * chunks + chunk;
            let start = if part == 0 { 0 } else { selected.ends[part - 1] };
            let zero = [F::default(); 32];
            let sums = match chunk {
                0 => [zero; 2],
                _ if PAIR => [of_a[row], of_b[row]],
                _ => [of_a[row], zero],
            };
            let selected = &selected.list[start..selected.ends[part]];
            let [sum_a, sum_b] = W::sums::<PAIR>(sums, [weights_a, weights_b], selected);
            if chunk + 1 < chunks {
                of_a[row] = sum_a;
                if PAIR {
                    of_b[row] = sum_b;
                }
            } else {
                a.normalise(&sum_a, &mut of_a[row]);
                if PAIR {
                    b.normalise(&sum_b, &mut of_b[row]);
                }
            }
        }
    }
}

impl<F: Real, W: Weight<F>> Product<'_, F, W> {
    fn words_in(&self) -> usize {
        words(self.shape.channels)
    }

    /// How many words of inputs make a chunk for a block of tokens: all, where so little fires that to keep sums between chunks
    /// would take longer than to fetch weights from farther away. Beside it the spikes that they select by, roughly.
    #[inline(always)]
    fn chunk(&self, first: usize, tokens: usize) -> (usize, usize) {
        /// About a tenth of the neurons.
        const SPIKES_PER_WORD: usize = 3;
        let words_in = self.words_in();
        let (mut words, mut spikes) = (0, 0);
        for step in 0..self.shape.steps {
            let of_step = &self.spikes[(step * self.shape.rows() + first) * words_in..][..tokens * words_in];
            words += of_step.len();
            spikes += of_step.iter().map(|word| word.count_ones() as usize).sum::<usize>();
        }
        let chunk = if spikes >= SPIKES_PER_WORD * words { W::CHUNK } else { self.taps * words_in };
        (chunk, self.taps * spikes)
    }

    /// The rows of weights (tap, word, bit) that the spikes of token `token` at timestep `step` select, ascending.
    #[inline(always)]
    fn select(&self, step: usize, token: usize, chunk: usize, selected: &mut Selected) {
        let words_in = self.words_in();
        let Shape { height, width, .. } = self.shape;
        let (line, column) = (token / width % height, token % width);
        let mut to_go = chunk;
        for tap in 0..self.taps {
            let (mut from, mut inside) = (token, true);
            if self.taps == 9 {
                let (y, x) = (line + tap / 3, column + tap % 3);
                inside = y > 0 && x > 0 && y <= height && x <= width;
                from = if inside { token + tap / 3 * width + tap % 3 - width - 1 } else { token };
            }
            let at = (step * self.shape.rows() + from) * words_in;
            for (w, &word) in self.spikes[at..at + words_in].iter().enumerate() {
                if inside {
                    selected.push(((tap * words_in + w) * 32) as u32, word);
                }
                to_go -= 1;
                if to_go == 0 {
                    selected.ends.push(selected.len);
                    to_go = chunk;
                }
            }
        }
        if to_go < chunk {
            selected.ends.push(selected.len);
        }
    }

    #[inline(always)]
    fn tile(&self, o_tile: usize) -> Tile<'_, F, W> {
        let depth = self.taps * self.words_in() * 32;
        let (weights, _) = self.weights[o_tile * depth * 32..(o_tile + 1) * depth * 32].as_chunks::<32>();
        let mut tile = Tile { weights, scale: [F::default(); 32], shift: [F::default(); 32] };
        for (i, of_four) in self.scale_shift[o_tile * 64..(o_tile + 1) * 64].chunks_exact(8).enumerate() {
            tile.scale[i * 4..][..4].copy_from_slice(&of_four[..4]);
            tile.shift[i * 4..][..4].copy_from_slice(&of_four[4..]);
        }
        tile
    }

    /// Calls `each(out, place, y)` for each token's 32 normalised outputs of each tile, `y` `[T][32]`; `out` is the slice of the
    /// result, rows of `row` elements, that `place.token` counts from, one for each timestep.
    fn for_each_token<X: Send>(
        &self,
        out: &mut [X],
        row: usize,
        each: impl Fn(&mut [&mut [X]], Place, &[[F; 32]]) + Sync + Send,
    ) {
        let steps = self.shape.steps;
        let block = (BLOCK_ROWS / steps).min(self.shape.rows().div_ceil(parallel::threads())).max(1);
        let blocks: Vec<_> = parallel::row_blocks(out, steps, row, block).into_iter().enumerate().collect();
        let tiles = self.channels_out.div_ceil(32);
        parallel::for_each_with(
            blocks,
            || (Selected::default(), Rooms::<F, W>::default(), Aligned::<F>::default()),
            #[inline(always)]
            |(selected, rooms, sums), (i, mut out)| {
                let (first, tokens) = (i * block, out[0].len() / row);
                let (chunk, expected) = self.chunk(first, tokens);
                let chunks = (self.taps * self.words_in()).div_ceil(chunk);
                selected.begin(expected);
                for token in first..first + tokens {
                    // A loop: what `for_each` calls would not be inlined, and its vectors be narrow.
                    for step in 0..steps {
                        self.select(step, token, chunk, selected);
                    }
                }
                *sums = std::mem::take(sums).reuse(2 * tokens * steps * 32);
                let (sums, _) = sums.as_chunks_mut::<32>();
                for o_tile in (0..tiles).step_by(2) {
                    let n = (tiles - o_tile).min(2);
                    let pair = [self.tile(o_tile), self.tile(o_tile + n - 1)];
                    match n {
                        2 => add_rows::<F, W, true>(chunks, pair, rooms, selected, sums),
                        _ => add_rows::<F, W, false>(chunks, pair, rooms, selected, sums),
                    }
                    for (n, sums) in sums.chunks_exact(tokens * steps).enumerate().take(n) {
                        for (token, y) in sums.chunks_exact(steps).enumerate() {
                            each(&mut out, Place { first, token, o_tile: o_tile + n }, y);
                        }
                    }
                }
            },
        );
    }

    /// `y = [relu](sum · scale + shift) [+ residual]` into rows of `row` floats, from channel `first_channel` on.
    pub fn real(&self, row: usize, first_channel: usize, relu: bool, residual: Option<&[F]>, out: &mut [F]) {
        let rows = self.shape.rows();
        self.for_each_token(
            out,
            row,
            #[inline(always)]
            |out: &mut [&mut [F]], Place { first, token, o_tile }: Place, y: &[[F; 32]]| {
                let n = (4 * vectors(self.channels_out) - o_tile * 32).min(32);
                let at = token * row + first_channel + o_tile * 32;
                for (step, y) in y.iter().enumerate() {
                    let out = &mut out[step][at..at + n];
                    out.copy_from_slice(&y[..n]);
                    if relu {
                        out.iter_mut().for_each(|y| *y = if *y > F::default() { *y } else { F::default() });
                    }
                    if let Some(residual) = residual {
                        let at = (step * rows + first) * row + at;
                        out.iter_mut().zip(&residual[at..at + n]).for_each(|(y, &u)| *y = *y + u);
                    }
                }
            },
        );
    }

    /// LIF over T of `sum · scale + shift` into rows of `row` words, from word `first_word` of each row on; `minus_plane` is
    /// where a ternary neuron's minus words lie after its plus words.
    pub fn fire(&self, lif: &Lif<F>, row: usize, first_word: usize, minus_plane: Option<usize>, out: &mut [u32]) {
        self.for_each_token(
            out,
            row,
            #[inline(always)]
            |out: &mut [&mut [u32]], Place { token, o_tile, .. }: Place, y: &[[F; 32]]| {
                let n = (self.channels_out - o_tile * 32).min(32);
                let at = token * row + first_word + o_tile;
                let mut v = [lif.v_reset; 32];
                for (step, y) in y.iter().enumerate() {
                    let (plus, minus) = lif.word(&mut v[..n], &y[..n], minus_plane.is_some());
                    out[step][at] = plus;
                    if let Some(plane) = minus_plane {
                        out[step][at + plane] = minus;
                    }
                }
            },
        );
    }
}

/// Where a token's outputs belong.
#[derive(Clone, Copy)]
struct Place {
    /// The first token of its block.
    first: usize,
    /// The token within its block.
    token: usize,
    /// The tile of 32 outputs.
    o_tile: usize,
}

impl<F: Real> Lif<F> {
    /// One timestep of up to 32 channels: charges, fires, resets, and packs the spikes up and down.
    #[inline(always)]
    pub fn word(&self, v: &mut [F], x: &[F], ternary: bool) -> (u32, u32) {
        let lif = *self;
        let (mut plus, mut minus) = (0, 0);
        for (c, (v, &x)) in v.iter_mut().zip(x).enumerate() {
            let h = lif.charge(*v, x);
            let (up, down) = lif.fire(h, ternary);
            *v = lif.reset(h, up, down);
            plus |= u32::from(up) << c;
            minus |= u32::from(down) << c;
        }
        (plus, minus)
    }
}

/// Runs a recorded product on the host.
pub(super) fn run<F: Real, W: Weight<F>>(op: &SpikeProduct, taps: usize, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.input).shape;
    let product = |host: &HostTensors<F>, f: &mut dyn FnMut(Product<F, W>)| {
        f(Product {
            spikes: host.packed(op.input),
            shape,
            taps,
            weights: W::of(host, op.weights),
            scale_shift: host.real(op.scale_shift),
            channels_out: op.channels_out,
        })
    };
    match &op.epilogue {
        Epilogue::Real { out, first_channel, relu } => {
            let row = host.recording.get(*out).row();
            let mut y = host.take_real(*out);
            product(host, &mut |p| p.real(row, *first_channel, *relu, None, &mut y));
            host.put_real(*out, y);
        }
        Epilogue::Residual { residual, out, first_channel } => {
            let row = host.recording.get(*out).row();
            let mut y = host.take_real(*out);
            product(host, &mut |p| p.real(row, *first_channel, false, Some(host.real(*residual)), &mut y));
            host.put_real(*out, y);
        }
        Epilogue::Fire { out, neuron, first_channel } => {
            let tensor = host.recording.get(*out);
            let plane = (tensor.element == Element::Ternary).then(|| words(tensor.shape.channels));
            let row = tensor.row();
            let mut s = host.take_packed(*out);
            product(host, &mut |p| p.fire(&neuron.into(), row, first_channel / 32, plane, &mut s));
            host.put_packed(*out, s);
        }
    }
}
