//! AdamW and NF4.

use half::bf16;

use crate::kernels::{
    data::{EPS, Random, close, equal, wide},
    gpu::{Failure, Session, line},
};

pub fn adamw(s: &mut Session<'_>) -> Result<(), Failure> {
    let n = 1_031;
    let mut random = Random::new(13);
    let (w, m, g) = (random.f32s(n, 1.0), random.f32s(n, 0.1), random.bf16s(n, 0.5));
    let v: Vec<f32> = random.f32s(n, 0.1).into_iter().map(|x| x * x).collect();
    let [lr, beta1, beta2, eps, decay] = [0.01f32, 0.9, 0.95, 1e-8, 0.1];
    let (correction1, correction2) = (1.0 - beta1.powi(3), 1.0 - beta2.powi(3));
    let [dw, dm, dv] = [&w, &m, &v].map(|x| s.upload(x));
    let (rounded, dg) = (s.output::<bf16>(n), s.upload(&g));
    let step = [lr, beta1, beta2, eps, decay, correction1, correction2];
    let buffers = [dw, rounded, dm, dv, dg].map(Into::into);
    s.launch(
        "adamw",
        line(n.div_ceil(512), 128),
        &[&buffers[..], &[(n as i64).into(), step.into()]].concat(),
    )?;

    let [lr, beta1, beta2, eps, decay, correction1, correction2] = step.map(f64::from);
    let (w, m, v, g) = (wide(&w), wide(&m), wide(&v), wide(&g));
    let want_m: Vec<f64> = (0..n).map(|i| beta1 * m[i] + (1.0 - beta1) * g[i]).collect();
    let want_v: Vec<f64> = (0..n).map(|i| beta2 * v[i] + (1.0 - beta2) * g[i] * g[i]).collect();
    let size_m: Vec<f64> = (0..n).map(|i| beta1 * m[i].abs() + (1.0 - beta1) * g[i].abs()).collect();
    let ratio = |m: f64, v: f64| m / correction1 / ((v / correction2).sqrt() + eps);
    let want_w: Vec<f64> = (0..n).map(|i| w[i] - lr * (ratio(want_m[i], want_v[i]) + decay * w[i])).collect();
    // 1 - beta is exact only up to the rounding of beta, which it magnifies by 1 / (1 - beta).
    close("m", &s.download::<f32>(dm), &want_m, &size_m.iter().map(|x| 16.0 * EPS * x).collect::<Vec<_>>())?;
    close("v", &s.download::<f32>(dv), &want_v, &want_v.iter().map(|x| 32.0 * EPS * x).collect::<Vec<_>>())?;
    let bound: Vec<f64> = (0..n)
        .map(|i| EPS * (2.0 * w[i].abs() + 64.0 * lr * (ratio(size_m[i], want_v[i]) + decay * w[i].abs())))
        .collect();
    let got = s.download::<f32>(dw);
    close("master", &got, &want_w, &bound)?;
    let want: Vec<bf16> = got.into_iter().map(bf16::from_f32).collect();
    equal("weight", &s.download::<bf16>(rounded), &want)
}

/// Levels of the NormalFloat4 data type: QLoRA (2023), appendix E.
const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

pub fn nf4(s: &mut Session<'_>) -> Result<(), Failure> {
    let words = 150;
    let mut random = Random::new(14);
    let (packed, scales) = (random.words(words), random.f32s(words.div_ceil(8), 2.0));
    let (dp, ds, out) = (s.upload(&packed), s.upload(&scales), s.output::<bf16>(words * 8));
    s.launch(
        "nf4_dequant",
        line(words.div_ceil(64), 64),
        &[dp.into(), ds.into(), out.into(), (words as i32).into()],
    )?;

    let bytes: Vec<u8> = packed.iter().flat_map(|w| w.to_le_bytes()).collect();
    let levels = bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|code| LEVELS[usize::from(code)]);
    let want: Vec<bf16> =
        levels.enumerate().map(|(i, level)| bf16::from_f32(level * scales[i / 64])).collect();
    equal("out", &s.download::<bf16>(out), &want)
}
