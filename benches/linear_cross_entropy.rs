//! The fused head and loss, against all logits at once, then the softmax, then the gradient.

mod common;

use common::{DIM, VOCAB, compare, criterion, forward_backward, ids, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use warptune::autograd::{Gradients, Tape, Var};
use warptune::ops::epilogue::Epilogue;
use warptune::ops::linear_cross_entropy::linear_cross_entropy;
use warptune::ops::matmul::matmul;
use warptune::tensor::{DType, Tensor};

/// Tokens with a label: about half of a batch of 4 x 256 in fine-tuning.
const LABELLED: usize = 512;

/// The logits of the whole batch by a matmul, the softmax with the standard library's exp, and dx by the matmul's backward.
fn unfused(x: &Tensor, w: &Tensor, labels: &[u32], gradient: bool) {
    let tape = if gradient { Tape::recording() } else { Tape::inference() };
    let input = tape.input(x.clone());
    let logits = matmul(&tape, &input, &Var::constant(w.clone()), None, Epilogue::None).unwrap();
    let mut p = logits.value().to_vec_f32().unwrap();
    let n = labels.len() as f32;
    let losses: Vec<f32> = p
        .par_chunks_mut(VOCAB)
        .zip(labels)
        .map(|(row, &label)| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let at_label = row[label as usize] - max;
            row.iter_mut().for_each(|l| *l = (*l - max).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|l| *l /= sum * n);
            row[label as usize] -= 1.0 / n;
            sum.ln() - at_label
        })
        .collect();
    std::hint::black_box(losses);
    if gradient {
        let dlogits = Tensor::from_f32(p, logits.shape()).to_dtype(logits.dtype()).unwrap();
        let dx = tape.backward_inputs(&logits, dlogits, &[&input], &mut Gradients::new()).unwrap();
        std::hint::black_box(dx);
    }
}

fn loss(c: &mut Criterion) {
    let labels = ids(3, LABELLED, VOCAB);
    let flop = |products: usize| Throughput::Elements((2 * products * LABELLED * DIM * VOCAB) as u64);
    let group = "linear_cross_entropy (FLOP)";
    for dtype in [DType::F32, DType::BF16] {
        let x = random(1, &[LABELLED, DIM], dtype);
        let w = random(2, &[VOCAB, DIM], dtype);
        let labels_slice = labels.as_u32().unwrap();
        let run = |tape: &Tape, x: &Var, w: &Var| {
            linear_cross_entropy(tape, x, w, &labels, LABELLED as f32).unwrap()
        };
        let constants = [x.clone(), w.clone()].map(Var::constant);
        let only_loss = || drop(run(&Tape::inference(), &constants[0], &constants[1]));
        let name = format!("loss {LABELLED}x{DIM}x{VOCAB}/{dtype}");
        compare(
            c,
            group,
            &name,
            flop(1),
            only_loss,
            ("all logits at once", || unfused(&x, &w, labels_slice, false)),
        );

        let inputs = [x.clone()];
        let one = Tensor::scalar(1.0);
        let with_dx = || forward_backward(&inputs, &one, |tape, v| run(tape, &v[0], &constants[1]));
        let name = format!("loss and dx {LABELLED}x{DIM}x{VOCAB}/{dtype}");
        compare(
            c,
            group,
            &name,
            flop(2),
            with_dx,
            ("all logits at once", || unfused(&x, &w, labels_slice, true)),
        );
    }
}

criterion_group! { name = benches; config = criterion(); targets = loss }
criterion_main!(benches);
