//! The twin of `shaders/lib/channel_sums.wgsl`: a pair of sums for each channel, first of blocks of rows, then of the blocks.

use super::{Real, parallel};
use crate::kernels::channel_sums::Blocks;

/// For each block of the rows `[rows][row]` its pair of rows of `partials` `[blocks][2][row]`, from `sum(first row, rows, pair)`.
pub(super) fn partial<F: Real>(
    rows: usize,
    row: usize,
    blocks: Blocks,
    partials: &mut [F],
    sum: impl Fn(usize, usize, &mut [F], &mut [F]) + Sync + Send,
) {
    let pairs: Vec<(usize, &mut [F])> = partials.chunks_exact_mut(2 * row).enumerate().collect();
    parallel::for_each(pairs, |(block, pair)| {
        let first = block * blocks.rows;
        let (a, b) = pair.split_at_mut(row);
        a.fill(F::default());
        b.fill(F::default());
        parallel::wide(
            #[inline(always)]
            || sum(first, blocks.rows.min(rows - first), a, b),
        );
    });
}
