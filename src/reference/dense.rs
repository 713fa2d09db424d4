//! Products of two real matrices, which the gradients of spike products' inputs are. The arithmetic is `matrixmultiply`'s, on
//! one thread at a time: the same bits in every run on one machine.

use super::Real;

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

/// The elements that a matrix reaches over.
fn extent(rows: usize, columns: usize, row: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row + columns }
}

/// `out = a b`, or `out + a b` if `accumulate`, into rows of `row` elements, the first `b.columns` of each.
///
/// # Panics
/// If the matrices do not fit each other or their slices.
pub fn product<F: Real>(a: Matrix<F>, b: Matrix<F>, accumulate: bool, out: &mut [F], row: usize) {
    assert_eq!(a.columns, b.rows, "a's columns are b's rows");
    assert!(row >= b.columns, "rows of the result overlap");
    assert!(extent(a.rows, a.columns, a.row) <= a.values.len());
    assert!(extent(b.rows, b.columns, b.row) <= b.values.len());
    assert!(extent(a.rows, b.columns, row) <= out.len());
    let sizes = (a.rows, a.columns, b.columns);
    let (of_a, of_b) = ((a.values.as_ptr(), a.row), (b.values.as_ptr(), b.row));
    // SAFETY: the three matrices lie inside their slices, the result's rows do not overlap, and `out` is borrowed alone.
    unsafe { F::gemm(sizes, of_a, of_b, accumulate, (out.as_mut_ptr(), row)) }
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
    #[should_panic(expected = "columns")]
    fn refuses_matrices_that_do_not_fit() {
        let a = Matrix { values: &[1.0f32; 6], rows: 2, columns: 3, row: 3 };
        product(a, a, false, &mut [0.0; 9], 3);
    }
}
