//! Kernels that own a row each: softmax, RMS norm, cross-entropy.

use half::bf16;

use crate::kernels::{
    data::{EPS, EPS_BF16, Random, close, equal, wide},
    gpu::{Failure, Session, line, plane},
};

/// 2^-125: where f32 has less than its 24 bits.
const TINY: f64 = 2.350_988_701_644_575e-38;

pub fn softmax(s: &mut Session<'_>) -> Result<(), Failure> {
    softmax_of(s, 6, 301)?;
    // Most threads have nothing.
    softmax_of(s, 2, 29)
}

fn softmax_of(s: &mut Session<'_>, rows: usize, cols: usize) -> Result<(), Failure> {
    let mut random = Random::new(10);
    let (mut x, dy) = (random.f32s(rows * cols, 8.0), random.f32s(rows * cols, 1.0));
    // Whoever misses the largest element overflows. It is the last lane's of some warp, or comes late.
    for (row, at) in
        [31, 63, 95, 127, 250].into_iter().enumerate().filter(|(row, at)| *row < rows && *at < cols)
    {
        x[row * cols + at] = 150.0;
    }
    let (buffer_x, buffer_dy) = (s.upload(&x), s.upload(&dy));
    let (y, dx) = (s.output::<f32>(x.len()), s.output::<f32>(x.len()));
    s.launch("softmax_fwd", line(rows, 128), &[buffer_x.into(), y.into(), (cols as i32).into()])?;
    s.launch("softmax_bwd", line(rows, 128), &[y.into(), buffer_dy.into(), dx.into(), (cols as i32).into()])?;

    // An exponential of up to -158 in f32, and a sum of some 15 steps.
    let factor = EPS * (2.0 * 158.0 + 8.0 + 15.0);
    let (y, dx) = (s.download::<f32>(y), s.download::<f32>(dx));
    for row in 0..rows {
        let range = row * cols..(row + 1) * cols;
        let exp: Vec<f64> = x[range.clone()].iter().map(|&x| f64::from(x).exp()).collect();
        let sum: f64 = exp.iter().sum();
        let want: Vec<f64> = exp.iter().map(|e| e / sum).collect();
        let bound: Vec<f64> = want.iter().map(|y| factor * y + TINY).collect();
        close("y", &y[range.clone()], &want, &bound)?;

        let dy = wide(&dy[range.clone()]);
        let dot: f64 = want.iter().zip(&dy).map(|(y, dy)| y * dy).sum();
        let size: f64 = want.iter().zip(&dy).map(|(y, dy)| y * dy.abs()).sum();
        let bound: Vec<f64> =
            want.iter().zip(&dy).map(|(y, dy)| 2.0 * factor * y * (dy.abs() + size) + TINY).collect();
        let want: Vec<f64> = want.iter().zip(&dy).map(|(y, dy)| y * (dy - dot)).collect();
        close("dx", &dx[range], &want, &bound)?;
    }
    Ok(())
}

pub fn rms_norm(s: &mut Session<'_>) -> Result<(), Failure> {
    rms_norm_of(s, 7, 202, 3)?;
    // Most threads have nothing, and one chunk of rows is empty.
    rms_norm_of(s, 2, 30, 3)?;
    rms_norm_of(s, 1, 30, 1)
}

fn rms_norm_of(s: &mut Session<'_>, rows: usize, cols: usize, chunks: usize) -> Result<(), Failure> {
    let eps = 1e-5f32;
    let mut random = Random::new(11);
    let [x, dy] = [3.0, 1.0].map(|scale| random.bf16s(rows * cols, scale));
    let weight = random.bf16s(cols, 1.0);
    let [buffer_x, buffer_dy, buffer_w] = [&x, &dy, &weight].map(|v| s.upload(v));
    let [y, dx] = [(); 2].map(|()| s.output::<bf16>(rows * cols));
    let (r, partial, dw) = (s.output::<f32>(rows), s.output::<f32>(chunks * cols), s.output::<f32>(cols));
    let pairs = cols as i32 / 2;
    let (b, w) = (buffer_x.into(), buffer_w.into());
    s.launch("rmsnorm_fwd", line(rows, 64), &[b, w, y.into(), r.into(), pairs.into(), eps.into()])?;
    s.launch("rmsnorm_bwd_dx", line(rows, 64), &[b, w, buffer_dy.into(), r.into(), dx.into(), pairs.into()])?;
    let sizes = [(rows as i32).into(), pairs.into()];
    let args = [&[b, buffer_dy.into(), r.into(), partial.into()][..], &sizes].concat();
    s.launch("rmsnorm_bwd_dw", plane((cols / 2).div_ceil(64), chunks, 64), &args)?;
    let sizes = [(chunks as i32).into(), (cols as i32).into()];
    s.launch(
        "rmsnorm_bwd_dw_sum",
        line(cols.div_ceil(64), 64),
        &[partial.into(), dw.into(), sizes[0], sizes[1]],
    )?;

    let (y, dx, r) = (s.download::<bf16>(y), s.download::<bf16>(dx), s.download::<f32>(r));
    let w = wide(&weight);
    let (mut want_dw, mut size_dw) = (vec![0.0; cols], vec![0.0; cols]);
    for row in 0..rows {
        let range = row * cols..(row + 1) * cols;
        let (a, g) = (wide(&x[range.clone()]), wide(&dy[range.clone()]));
        let want_r = 1.0 / (a.iter().map(|x| x * x).sum::<f64>() / cols as f64 + f64::from(eps)).sqrt();
        close("r", &r[row..=row], &[want_r], &[EPS * 30.0 * want_r])?;
        let want: Vec<f64> = a.iter().zip(&w).map(|(a, w)| a * want_r * w).collect();
        let bound: Vec<f64> = want.iter().map(|y| (EPS_BF16 + EPS * 40.0) * y.abs()).collect();
        close("y", &y[range.clone()], &want, &bound)?;

        // The kernel rounds dy w to bf16, once.
        let gw: Vec<f64> =
            g.iter().zip(&w).map(|(g, w)| f64::from(bf16::from_f32((g * w) as f32).to_f32())).collect();
        let (dot, size) = gw.iter().zip(&a).fold((0.0, 0.0), |(d, s), (g, a)| (d + g * a, s + (g * a).abs()));
        let square = want_r * want_r / cols as f64;
        let want: Vec<f64> = gw.iter().zip(&a).map(|(g, a)| want_r * (g - a * dot * square)).collect();
        let bound: Vec<f64> = (0..cols)
            .map(|i| {
                let rounding = want_r * (gw[i].abs() + a[i].abs() * size * square) * EPS * 100.0;
                EPS_BF16 * want[i].abs() + rounding
            })
            .collect();
        close("dx", &dx[range], &want, &bound)?;
        for i in 0..cols {
            want_dw[i] += g[i] * a[i] * want_r;
            size_dw[i] += (g[i] * a[i] * want_r).abs();
        }
    }
    let bound: Vec<f64> = size_dw.iter().map(|x| EPS * 45.0 * x).collect();
    close("dw", &s.download::<f32>(dw), &want_dw, &bound)
}

pub fn cross_entropy(s: &mut Session<'_>) -> Result<(), Failure> {
    cross_entropy_of(s, &[0, 332, -100, 200], 333)?;
    // Most threads have nothing, a whole warp too.
    cross_entropy_of(s, &[-1, 89], 90)
}

fn cross_entropy_of(s: &mut Session<'_>, targets: &[i32], vocab: usize) -> Result<(), Failure> {
    let (rows, scale) = (targets.len(), 0.25f32);
    let mut random = Random::new(12);
    let mut x = random.f32s(rows * vocab, 8.0);
    // Ruled out: all that one thread has, and all that the first three warps have.
    x[..vocab].iter_mut().skip(5).step_by(128).for_each(|x| *x = f32::NEG_INFINITY);
    x[vocab..][..vocab]
        .iter_mut()
        .enumerate()
        .filter(|(i, _)| i % 128 < 96 && *i + 1 < vocab)
        .for_each(|(_, x)| *x = f32::NEG_INFINITY);
    let (logits, buffer_t, loss) = (s.upload(&x), s.upload(targets), s.output::<f32>(rows));
    let args = [logits.into(), buffer_t.into(), loss.into(), (vocab as i32).into(), scale.into()];
    s.launch("cross_entropy", line(rows, 128), &args)?;

    let (gradient, loss) = (s.download::<f32>(logits), s.download::<f32>(loss));
    // Differences of up to 16, an exponential and a logarithm of them, and a sum whose every step multiplies anew.
    let factor = EPS * (4.0 * 16.0 + 20.0 * 8.0);
    for (row, &target) in targets.iter().enumerate() {
        let range = row * vocab..(row + 1) * vocab;
        let Ok(target) = usize::try_from(target) else {
            equal("loss", &loss[row..=row], &[0.0])?;
            equal("gradient", &gradient[range], &vec![0.0; vocab])?;
            continue;
        };
        let x = wide(&x[range.clone()]);
        let sum: f64 = x.iter().map(|x| x.exp()).sum();
        close("loss", &loss[row..=row], &[sum.ln() - x[target]], &[factor])?;
        let p: Vec<f64> = x.iter().map(|x| x.exp() / sum).collect();
        let one = |i: usize| if i == target { 1.0 } else { 0.0 };
        let want: Vec<f64> = (0..vocab).map(|i| (p[i] - one(i)) * f64::from(scale)).collect();
        let bound: Vec<f64> = (0..vocab).map(|i| factor * (p[i] + one(i)) * f64::from(scale)).collect();
        close("gradient", &gradient[range], &want, &bound)?;
    }
    Ok(())
}
