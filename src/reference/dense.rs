//! Products of two real matrices, which the gradients of spike products' inputs are. Each sum goes through the depth in order, and
//! nothing is fused: the same bits on every machine.

use super::{Real, lanes, parallel, store};

/// A matrix in a slice, row after row.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, F> {
    /// Its elements, from the first one of the first row on.
    pub values: &'a [F],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Elements from one row to the next.
    pub row: usize,
}

impl<'a, F> Matrix<'a, F> {
    fn of_row(&self, row: usize) -> &'a [F] {
        &self.values[row * self.row..][..self.columns]
    }
}

/// Rows and columns of the sums that are worked on together: as many as registers hold beside what they are made of.
const ROWS: usize = 6;
const COLUMNS: usize = 16;

/// How much of the depth is worked through at a time: a tile's part of it stays in the first cache.
const DEPTH: usize = 256;

/// The second factor of a product, in tiles of columns `[⌈columns/16⌉][depth][16]`.
#[derive(Clone, Debug)]
pub struct Tiles<F> {
    values: Vec<[F; COLUMNS]>,
    depth: usize,
    columns: usize,
}

impl<F: Real> Tiles<F> {
    /// `fill` gives up to 16 values of a row, from a column on.
    pub fn new(depth: usize, columns: usize, fill: impl Fn(usize, usize, &mut [F]) + Sync + Send) -> Self {
        let mut values = vec![[F::default(); COLUMNS]; columns.div_ceil(COLUMNS) * depth];
        parallel::for_each(values.chunks_mut(depth.max(1)).enumerate().collect(), |(tile, values)| {
            let column = tile * COLUMNS;
            for (k, values) in values.iter_mut().enumerate() {
                fill(k, column, &mut values[..(columns - column).min(COLUMNS)]);
            }
        });
        Tiles { values, depth, columns }
    }

    /// `out = a b`, or `out + a b` if `accumulate`, of this b, into `rows` rows of `row` elements, the first columns of each. `a`
    /// gives a row's n-th of `parts` equal parts.
    ///
    /// # Panics
    /// If the matrices do not fit each other or `out`.
    pub fn product<'a>(
        &self,
        (rows, parts): (usize, usize),
        a: impl Fn(usize, usize) -> &'a [F],
        accumulate: bool,
        out: &mut [F],
        row: usize,
    ) {
        if self.depth == 0 && !accumulate {
            out.chunks_mut(row).take(rows).for_each(|out| out[..self.columns].fill(F::default()));
        }
        parallel::wide(
            #[inline(always)]
            || self.add(rows, parts, a, accumulate, out, row),
        );
    }

    #[inline(always)]
    fn add<'a>(
        &self,
        rows: usize,
        parts: usize,
        a: impl Fn(usize, usize) -> &'a [F],
        accumulate: bool,
        out: &mut [F],
        row: usize,
    ) {
        let of_part = self.depth / parts.max(1);
        for (tile, values) in self.values.chunks_exact(self.depth.max(1)).enumerate() {
            let column = tile * COLUMNS;
            let columns = (self.columns - column).min(COLUMNS);
            for k in (0..parts).flat_map(|part| (0..of_part).step_by(DEPTH).map(move |k| part * of_part + k)) {
                let (part, first) = (k / of_part, k % of_part);
                let depth = (of_part - first).min(DEPTH);
                let b = &values[k..k + depth];
                for top in (0..rows).step_by(ROWS) {
                    // Past the last row it is made once more, and not stored.
                    let a: [&[F]; ROWS] = std::array::from_fn(|r| &a((top + r).min(rows - 1), part)[first..][..depth]);
                    let mut sums = [[F::default(); COLUMNS]; ROWS];
                    let at = |r: usize| (top + r) * row + column;
                    let within = ROWS.min(rows - top);
                    if accumulate || k > 0 {
                        for (r, sums) in sums[..within].iter_mut().enumerate() {
                            *sums = lanes(&out[at(r)..][..columns]);
                        }
                    }
                    add_products(&mut sums, a, b);
                    for (r, sums) in sums[..within].iter().enumerate() {
                        store(sums, &mut out[at(r)..][..columns]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::needless_range_loop)] // Of iterators the compiler leaves the sums in memory, which takes thirty times as long.
fn add_products<F: Real>(sums: &mut [[F; COLUMNS]; ROWS], a: [&[F]; ROWS], b: &[[F; COLUMNS]]) {
    let depth = b.len();
    let a = a.map(|a| &a[..depth]);
    let mut own = *sums;
    for k in 0..depth {
        for r in 0..ROWS {
            for c in 0..COLUMNS {
                own[r][c] = own[r][c] + a[r][k] * b[k][c];
            }
        }
    }
    *sums = own;
}

/// `out = a b`, or `out + a b` if `accumulate`, into rows of `row` elements, the first `b.columns` of each.
///
/// # Panics
/// If the matrices do not fit each other or their slices.
pub fn product<F: Real>(a: Matrix<F>, b: Matrix<F>, accumulate: bool, out: &mut [F], row: usize) {
    assert_eq!(a.columns, b.rows, "a's columns are b's rows");
    assert!(row >= b.columns, "rows of the result overlap");
    let tiles = Tiles::new(b.rows, b.columns, |k, column, values| {
        values.copy_from_slice(&b.of_row(k)[column..][..values.len()]);
    });
    tiles.product((a.rows, 1), |row, _| a.of_row(row), accumulate, out, row);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<F: Real>((m, k, n): (usize, usize, usize), accumulate: bool) {
        // Small integers: every order of addition is exact.
        let of = |i: usize, period: usize| F::from((i * 7919 % period) as f32 - (period / 2) as f32);
        let (row_a, row_b, row) = (k + 3, n + 1, n + 2);
        let a: Vec<F> = (0..m * row_a).map(|i| of(i, 13)).collect();
        let b: Vec<F> = (0..k * row_b).map(|i| of(i, 11)).collect();
        let before: Vec<F> = (0..m * row).map(|i| of(i, 17)).collect();
        let mut out = before.clone();
        let (rows, columns) = (m, k);
        let of_a = Matrix { values: &a, rows, columns, row: row_a };
        product(of_a, Matrix { values: &b, rows: k, columns: n, row: row_b }, accumulate, &mut out, row);
        for (i, (&found, &old)) in out.iter().zip(&before).enumerate() {
            let (y, x) = (i / row, i % row);
            let mut expected = if x < n && !accumulate { F::default() } else { old };
            if x < n {
                (0..k).for_each(|k| expected = expected + a[y * row_a + k] * b[k * row_b + x]);
            }
            assert!(found == expected, "{m} × {k} × {n}, accumulate {accumulate}: {found:?} is not {expected:?}");
        }
    }

    #[test]
    fn agrees_with_the_sum_of_products() {
        for sizes in [(1, 1, 1), (1, 5, 3), (7, 0, 4), (0, 3, 2), (33, 17, 9), (65, 300, 40), (5, 3, 1100)] {
            for accumulate in [false, true] {
                check::<f32>(sizes, accumulate);
                check::<f64>(sizes, accumulate);
            }
        }
    }

    #[test]
    fn parts_are_joined() {
        let a: Vec<f32> = (0..7 * 600).map(|i| (i % 13) as f32 - 6.0).collect();
        let tiles = Tiles::new(600, 20, |k, column, values| {
            values.iter_mut().enumerate().for_each(|(i, v)| *v = ((k * 7 + column + i) % 11) as f32 - 5.0);
        });
        let results = [1, 2, 3].map(|parts| {
            let mut out = vec![f32::NAN; 7 * 20];
            let of_part = 600 / parts;
            tiles.product((7, parts), |row, part| &a[row * 600 + part * of_part..][..of_part], false, &mut out, 20);
            out
        });
        assert_eq!(results[0], results[1]);
        assert_eq!(results[0], results[2]);
    }

    #[test]
    #[should_panic(expected = "columns")]
    fn refuses_matrices_that_do_not_fit() {
        let a = Matrix { values: &[1.0f32; 6], rows: 2, columns: 3, row: 3 };
        product(a, a, false, &mut [0.0; 9], 3);
    }
}
