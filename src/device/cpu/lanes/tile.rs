//! Products of small matrices that sit in cache, for kernels that work tile by tile.

use super::Simd;

/// The left factor of a product: element (i, p) is `data[i * row + p * col]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub col: usize,
}

/// `c = a b` with a `[m, k]`, b `[k, n]` (rows `ldb` apart) and c `[m, n]` (rows `ldc` apart); n a multiple of LANES.
/// Each element is summed in the order of k.
#[inline(always)]
pub(crate) fn store_product<S: Simd>(
    s: S,
    [m, n, k]: [usize; 3],
    a: Matrix<'_>,
    (b, ldb): (&[f32], usize),
    (c, ldc): (&mut [f32], usize),
) {
    product::<S, false>(s, [m, n, k], a, (b, ldb), (c, ldc));
}

/// `c += a b`; see [`store_product`].
#[inline(always)]
pub(crate) fn add_product<S: Simd>(
    s: S,
    [m, n, k]: [usize; 3],
    a: Matrix<'_>,
    (b, ldb): (&[f32], usize),
    (c, ldc): (&mut [f32], usize),
) {
    product::<S, true>(s, [m, n, k], a, (b, ldb), (c, ldc));
}

#[inline(always)]
fn product<S: Simd, const ADD: bool>(
    s: S,
    [m, n, k]: [usize; 3],
    a: Matrix<'_>,
    (b, ldb): (&[f32], usize),
    (c, ldc): (&mut [f32], usize),
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(n.is_multiple_of(S::LANES));
    assert!((m - 1) * ldc + n <= c.len());
    if k > 0 {
        assert!((m - 1) * a.row + (k - 1) * a.col < a.data.len());
        assert!((k - 1) * ldb + n <= b.len());
    }
    let mut rows = Rows {
        n,
        k,
        a: a.data.as_ptr(),
        a_row: a.row,
        a_col: a.col,
        b: b.as_ptr(),
        ldb,
        c: c.as_mut_ptr(),
        ldc,
    };
    let mut left = m;
    // SAFETY: the asserts above say that rows 0..m of a and c, and all of b, are inside their slices; the loops take
    // `left` rows in all, and `advance` moves to rows that are left. c is borrowed mutably, so it overlaps nothing.
    unsafe {
        // 8 rows of 2 registers need 16 accumulators: half of AVX-512's 32 registers. Others have 16: 4 rows.
        while S::LANES == 16 && left >= 8 {
            rows.run::<S, 8, ADD>(s);
            rows.advance(8);
            left -= 8;
        }
        while left >= 4 {
            rows.run::<S, 4, ADD>(s);
            rows.advance(4);
            left -= 4;
        }
        if left >= 2 {
            rows.run::<S, 2, ADD>(s);
            rows.advance(2);
            left -= 2;
        }
        if left == 1 {
            rows.run::<S, 1, ADD>(s);
        }
    }
}

/// What is left of a product, from some row on.
struct Rows {
    n: usize,
    k: usize,
    a: *const f32,
    a_row: usize,
    a_col: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
}

impl Rows {
    #[inline(always)]
    fn advance(&mut self, rows: usize) {
        self.a = self.a.wrapping_add(rows * self.a_row);
        self.c = self.c.wrapping_add(rows * self.ldc);
    }

    /// # Safety
    /// M rows of a and c and k rows of b must be inside their slices.
    #[inline(always)]
    unsafe fn run<S: Simd, const M: usize, const ADD: bool>(&self, s: S) {
        let mut j = 0;
        // SAFETY: j + N LANES <= n in each call, so the columns are inside as the rows are.
        unsafe {
            // Few rows: more columns at a time, to have enough independent sums.
            while M <= 2 && self.n - j >= 4 * S::LANES {
                self.block::<S, M, 4, ADD>(s, j);
                j += 4 * S::LANES;
            }
            while self.n - j >= 2 * S::LANES {
                self.block::<S, M, 2, ADD>(s, j);
                j += 2 * S::LANES;
            }
            if j < self.n {
                self.block::<S, M, 1, ADD>(s, j);
            }
        }
    }

    /// M rows and N registers of columns, from column j.
    ///
    /// # Safety
    /// As for `run`, and j + N LANES <= n.
    #[inline(always)]
    unsafe fn block<S: Simd, const M: usize, const N: usize, const ADD: bool>(&self, s: S, j: usize) {
        let mut sums = [[s.splat(0.0); N]; M];
        // SAFETY: the caller promises that rows 0..M and columns j..j + N LANES are inside.
        unsafe {
            for p in 0..self.k {
                let b = self.b.add(p * self.ldb + j);
                let b: [S::V; N] = std::array::from_fn(
                    #[inline(always)]
                    |v| s.load_at(b.add(v * S::LANES)),
                );
                let a = self.a.add(p * self.a_col);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = s.splat(*a.add(i * self.a_row));
                    for (sum, &b) in sums.iter_mut().zip(&b) {
                        *sum = s.madd(a, b, *sum);
                    }
                }
            }
            for (i, row) in sums.into_iter().enumerate() {
                for (v, sum) in row.into_iter().enumerate() {
                    let c = self.c.add(i * self.ldc + j + v * S::LANES);
                    let sum = if ADD { s.add(s.load_at(c), sum) } else { sum };
                    s.store_at(sum, c);
                }
            }
        }
    }
}
