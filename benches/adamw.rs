//! AdamW and clipping on 14 million parameters, against plain loops on one thread.

mod common;

use common::{DIM, HIDDEN, compare, criterion, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warptune::autograd::{Gradients, Param};
use warptune::optim::{AdamW, AdamWSettings, States, clip_grad_norm};
use warptune::tensor::DType;

const MATRICES: usize = 16;

fn steps(c: &mut Criterion) {
    let n = MATRICES * DIM * HIDDEN;
    let kinds = [States::F32, States::Blockwise8];
    for (dtype, states) in [DType::F32, DType::BF16].into_iter().flat_map(|dtype| kinds.map(|s| (dtype, s))) {
        let params: Vec<Param> = (0..MATRICES)
            .map(|i| Param::new(format!("p{i}"), random(i as u64, &[HIDDEN, DIM], dtype)))
            .collect();
        let mut gradients = Gradients::new();
        for (i, p) in params.iter().enumerate() {
            gradients.add(p.id(), random(100 + i as u64, &[HIDDEN, DIM], DType::F32)).unwrap();
        }
        let settings = AdamWSettings { weight_decay: 0.01, states, ..AdamWSettings::default() };
        let mut adam = AdamW::new(settings, params.iter().map(|p| (p.clone(), true)).collect()).unwrap();
        let ours = || adam.step(1e-3, &gradients).unwrap();

        let [mut p, mut m, mut v] = [(); 3].map(|()| vec![0.1f32; n]);
        let g = vec![0.1f32; n];
        let plain = || {
            for (((p, g), m), v) in p.iter_mut().zip(&g).zip(&mut m).zip(&mut v) {
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                *p = *p * (1.0 - 1e-5) - 1e-3 * *m / (v.sqrt() + 1e-8);
            }
            std::hint::black_box(&p);
        };
        // Parameter, m and v are read and written, the gradient read.
        let each = if states == States::F32 { 7 * 4 } else { 3 * 4 + 4 };
        let bytes = Throughput::BytesDecimal((each * n) as u64);
        compare(c, "adamw", &format!("{n}/{dtype}/{states} states"), bytes, ours, ("one thread", plain));
    }
}

fn clip(c: &mut Criterion) {
    let param = Param::new("p", random(1, &[1], DType::F32));
    let n = MATRICES * DIM * HIDDEN;
    let mut gradients = Gradients::new();
    gradients.add(param.id(), random(2, &[n], DType::F32)).unwrap();
    let data = gradients.get(&param).unwrap().to_vec_f32().unwrap();
    let plain = || {
        let norm = data.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
        std::hint::black_box(norm);
    };
    // The norm alone: a limit that is never reached.
    let ours = || {
        clip_grad_norm(&mut gradients, std::slice::from_ref(&param), 1e9).unwrap();
    };
    compare(
        c,
        "gradient norm",
        &n.to_string(),
        Throughput::BytesDecimal((4 * n) as u64),
        ours,
        ("one thread", plain),
    );
}

criterion_group! { name = benches; config = criterion(); targets = steps, clip }
criterion_main!(benches);
