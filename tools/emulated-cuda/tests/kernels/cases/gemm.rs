//! Matrix products.

use crate::kernels::{
    data::{EPS, Random, close, wide},
    gpu::{Failure, Session, plane},
};

/// a b, and the sums of the magnitudes, on which the bound rests.
fn product(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> (Vec<f64>, Vec<f64>) {
    let at = |f: fn(f64) -> f64, i: usize| -> f64 {
        let (row, col) = (i / n, i % n);
        (0..k).map(|x| f(a[row * k + x] * b[x * n + col])).sum()
    };
    (0..m * n).map(|i| (at(|x| x, i), at(f64::abs, i))).unzip()
}

pub fn tensor_cores(s: &mut Session<'_>) -> Result<(), Failure> {
    tensor_cores_of(s, 83, 67, 141)?;
    // The last row lies in the other half of its tile; k ends in the first tiles that are fetched.
    tensor_cores_of(s, 115, 67, 20)?;
    tensor_cores_of(s, 115, 67, 40)?;
    // Nothing to add up.
    tensor_cores_of(s, 5, 3, 0)
}

fn tensor_cores_of(s: &mut Session<'_>, m: usize, n: usize, k: usize) -> Result<(), Failure> {
    let mut random = Random::new(1);
    let (a, b) = (random.bf16s(m * k, 1.0), random.bf16s(k * n, 1.0));
    let (lda, ldb) = (k.next_multiple_of(8), n.next_multiple_of(8));
    let (da, db) = (s.upload_rows(&a, k, lda), s.upload_rows(&b, n, ldb));
    let dc = s.output::<f32>(m * n);
    let sizes = [m, n, k, lda, ldb].map(|x| (x as i32).into());
    let args = [&[da.into(), db.into(), dc.into()][..], &sizes].concat();
    s.launch("gemm_mma", plane(n.div_ceil(64), m.div_ceil(64), 128), &args)?;

    let (want, magnitude) = product(&wide(&a), &wide(&b), m, n, k);
    // A tensor core may cut off instead of rounding: two half units for each of the k sums.
    let bound: Vec<f64> = magnitude.iter().map(|x| 2.0 * EPS * k as f64 * x).collect();
    close("c", &s.download::<f32>(dc), &want, &bound)
}

pub fn plain(s: &mut Session<'_>) -> Result<(), Failure> {
    // The last row lies in the first half of its tile, and in the second.
    plain_of(s, 45, 37, 51)?;
    plain_of(s, 53, 37, 51)?;
    // Nothing to add up.
    plain_of(s, 5, 3, 0)
}

fn plain_of(s: &mut Session<'_>, m: usize, n: usize, k: usize) -> Result<(), Failure> {
    let mut random = Random::new(2);
    let (a, b) = (random.f32s(m * k, 1.0), random.f32s(k * n, 1.0));
    let (da, db, dc) = (s.upload(&a), s.upload(&b), s.output::<f32>(m * n));
    let sizes = [m, n, k].map(|x| (x as i32).into());
    let args = [&[da.into(), db.into(), dc.into()][..], &sizes].concat();
    s.launch("gemm_f32", plane(n.div_ceil(32), m.div_ceil(32), 256), &args)?;

    let (want, magnitude) = product(&wide(&a), &wide(&b), m, n, k);
    let bound: Vec<f64> = magnitude.iter().map(|x| EPS * k as f64 * x).collect();
    close("c", &s.download::<f32>(dc), &want, &bound)
}
