//! The linear layer with an adapter, a training step's work (forward and backward, base frozen), against the same made of
//! separate ops.

mod common;

use common::{DIM, HIDDEN, TOKENS, compare, criterion, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warptune::autograd::{Gradients, Tape, Var};
use warptune::ops::add::add;
use warptune::ops::dropout::dropout;
use warptune::ops::epilogue::Epilogue;
use warptune::ops::lora_matmul::{Lora, lora_matmul};
use warptune::ops::matmul::matmul;
use warptune::tensor::{DType, Tensor};

const RANK: usize = 16;
const SCALE: f32 = 2.0;

/// Runs `layer` on x, w, a and b, of which w is frozen, and the backward.
fn step(tensors: &[Tensor; 4], dy: &Tensor, layer: impl Fn(&Tape, &[Var; 4]) -> Var) {
    let tape = Tape::training(1, 1);
    let [x, w, a, b] = tensors.clone();
    let vars = [tape.input(x), Var::constant(w), tape.input(a), tape.input(b)];
    let y = layer(&tape, &vars);
    let wanted = [&vars[0], &vars[2], &vars[3]];
    std::hint::black_box(tape.backward_inputs(&y, dy.clone(), &wanted, &mut Gradients::new()).unwrap());
}

fn training(c: &mut Criterion) {
    for (k, n) in [(DIM, HIDDEN), (HIDDEN, DIM), (DIM, DIM)] {
        for (dtype, p) in [(DType::F32, 0.0), (DType::F32, 0.05), (DType::BF16, 0.0)] {
            let tensors = [
                random(1, &[TOKENS, k], dtype),
                random(2, &[n, k], dtype),
                random(3, &[RANK, k], DType::F32),
                random(4, &[n, RANK], DType::F32),
            ];
            let dy = random(5, &[TOKENS, n], dtype);
            let fused = |tape: &Tape, [x, w, a, b]: &[Var; 4]| {
                lora_matmul(tape, x, w, None, &Lora { a, b, scale: SCALE, dropout: p }, Epilogue::None)
                    .unwrap()
            };
            // The scale is left out: there is no op for it alone.
            let separate = |tape: &Tape, [x, w, a, b]: &[Var; 4]| {
                let base = matmul(tape, x, w, None, Epilogue::None).unwrap();
                let dropped = dropout(tape, x, p).unwrap();
                let down = matmul(tape, &dropped, a, None, Epilogue::None).unwrap();
                add(tape, &base, &matmul(tape, &down, b, None, Epilogue::None).unwrap()).unwrap()
            };
            // y and dx, and six products with the adapter.
            let flop = Throughput::Elements((2 * TOKENS * (2 * n * k + 3 * RANK * (n + k))) as u64);
            let name = format!("forward+backward {TOKENS}x{k}x{n} r={RANK} dropout={p}/{dtype}");
            let ours = || step(&tensors, &dy, fused);
            compare(
                c,
                "lora_matmul (FLOP)",
                &name,
                flop,
                ours,
                ("separate ops", || step(&tensors, &dy, separate)),
            );
        }
    }
}

criterion_group! { name = benches; config = criterion(); targets = training }
criterion_main!(benches);
