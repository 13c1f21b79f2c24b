//! Every type of tensor core product. Columns of b are stored one after the other.

use half::f16;

use crate::kernels::{
    data::{EPS, Random, close, equal, wide},
    gpu::{Failure, Session, line},
};

pub fn s8(s: &mut Session<'_>) -> Result<(), Failure> {
    let mut random = Random::new(17);
    let mut bytes = |len: usize| -> Vec<i8> { (0..len).map(|_| random.word() as i8).collect() };
    let (a, b) = (bytes(16 * 32), bytes(8 * 32));
    let c: Vec<i32> = random.words(16 * 8).into_iter().map(|x| x as i32 >> 4).collect();
    let (da, db, dc, dd) = (s.upload(&a), s.upload(&b), s.upload(&c), s.output::<i32>(c.len()));
    s.launch("mma_s8", line(1, 32), &[da.into(), db.into(), dc.into(), dd.into()])?;

    let dot = |i: usize, j: usize| {
        (0..32).map(|k| i32::from(a[i * 32 + k]) * i32::from(b[j * 32 + k])).sum::<i32>()
    };
    let want: Vec<i32> = (0..16 * 8).map(|at| c[at] + dot(at / 8, at % 8)).collect();
    equal("d", &s.download::<i32>(dd), &want)
}

pub fn b1(s: &mut Session<'_>) -> Result<(), Failure> {
    let mut random = Random::new(18);
    for (kernel, rows, words, and) in
        [("mma_b1_xor", 16, 8, false), ("mma_b1_and", 16, 8, true), ("mma_b1_small", 8, 4, false)]
    {
        let (a, b) = (random.words(rows * words), random.words(8 * words));
        let (da, db, dd) = (s.upload(&a), s.upload(&b), s.output::<u32>(rows * 8));
        s.launch(kernel, line(1, 32), &[da.into(), db.into(), dd.into()])?;

        let bit = |x: &[u32], row: usize, k: usize| x[row * words + k / 32] >> (k % 32) & 1;
        let want: Vec<u32> = (0..rows * 8)
            .map(|at| {
                let pairs = (0..words * 32).map(|k| (bit(&a, at / 8, k), bit(&b, at % 8, k)));
                pairs.map(|(x, y)| if and { x & y } else { x ^ y }).sum()
            })
            .collect();
        equal(kernel, &s.download::<u32>(dd), &want)?;
    }
    Ok(())
}

/// c + a b for 16 x k and k x 8, and the sums of the magnitudes.
fn product(a: &[f64], b: &[f64], c: &[f64], k: usize) -> (Vec<f64>, Vec<f64>) {
    (0..16 * 8)
        .map(|at| {
            let terms = (0..k).map(|x| a[at / 8 * k + x] * b[at % 8 * k + x]);
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x: f64| (sum + x, size + x.abs()));
            (c[at] + sum, c[at].abs() + size)
        })
        .unzip()
}

pub fn f16(s: &mut Session<'_>) -> Result<(), Failure> {
    let mut random = Random::new(19);
    let mut halves = |len: usize| -> Vec<f16> { (0..len).map(|_| f16::from_f32(random.unit())).collect() };
    let (a, b, c) = (halves(16 * 16), halves(8 * 16), halves(16 * 8));
    let (da, db, dc, dd) = (s.upload(&a), s.upload(&b), s.upload(&c), s.output::<f16>(c.len()));
    s.launch("mma_f16", line(1, 32), &[da.into(), db.into(), dc.into(), dd.into()])?;

    let (want, size) = product(&wide(&a), &wide(&b), &wide(&c), 16);
    // At most two roundings to f16, which has 11 bits, of partial sums.
    let bound: Vec<f64> = size.iter().map(|x| 2.0 / 2048.0 * x).collect();
    close("d", &s.download::<f16>(dd), &want, &bound)
}

pub fn tf32(s: &mut Session<'_>) -> Result<(), Failure> {
    let mut random = Random::new(20);
    let (a, b) = (random.f32s(16 * 8, 1.0), random.f32s(8 * 8, 1.0));
    let (da, db, dd) = (s.upload(&a), s.upload(&b), s.output::<f32>(16 * 8));
    s.launch("mma_tf32", line(1, 32), &[da.into(), db.into(), dd.into()])?;

    // To 10 bits behind the point, halves away from zero.
    let round = |x: &f32| f64::from(f32::from_bits((x.to_bits() + (1 << 12)) & !0x1fff));
    let (a, b): (Vec<f64>, Vec<f64>) = (a.iter().map(round).collect(), b.iter().map(round).collect());
    let (want, size) = product(&a, &b, &[0.0; 16 * 8], 8);
    let bound: Vec<f64> = size.iter().map(|x| 2.0 * 8.0 * EPS * x).collect();
    close("d", &s.download::<f32>(dd), &want, &bound)
}
