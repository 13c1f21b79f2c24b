//! What the benches share: quick settings, seeded inputs, and a ratio to a baseline that is timed in turns with the op, so
//! that a machine that slows down slows both.
//!
//! `cargo bench --bench matmul` runs one op's; a filter after `--` chooses among them. Throughput in elements is
//! floating-point operations where the name of the group says so, else elements; in bytes, those read and written at least.

// Each bench uses its part of this.
#![allow(dead_code, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use warptune::autograd::{Gradients, Tape, Var};
use warptune::device::philox::Philox;
use warptune::tensor::{DType, Tensor};

/// SmolLM2-135M: tokens of a batch, width, width of the MLP, vocabulary.
pub const TOKENS: usize = 1024;
pub const DIM: usize = 576;
pub const HIDDEN: usize = 1536;
pub const VOCAB: usize = 49152;

/// A few seconds a bench.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .without_plots()
        .configure_from_args()
}

/// Normal numbers of standard deviation 0.1.
pub fn random(seed: u64, shape: &[usize], dtype: DType) -> Tensor {
    let data = Philox { seed, stream: 0 }.normal(shape.iter().product(), 0.1);
    Tensor::from_f32(data, shape).to_dtype(dtype).unwrap()
}

/// `n` numbers below `limit`.
pub fn ids(seed: u64, n: usize, limit: usize) -> Tensor {
    let random = Philox { seed, stream: 1 };
    Tensor::from_u32((0..n as u64).map(|i| random.word(i) % limit as u32).collect(), &[n])
}

/// A training step's work for one op: the forward on inputs that all require gradients, and the backward.
pub fn forward_backward(inputs: &[Tensor], dy: &Tensor, op: impl Fn(&Tape, &[Var]) -> Var) {
    let tape = Tape::training(1, 1);
    let vars: Vec<Var> = inputs.iter().map(|x| tape.input(x.clone())).collect();
    let y = op(&tape, &vars);
    let refs: Vec<&Var> = vars.iter().collect();
    let grads = tape.backward_inputs(&y, dy.clone(), &refs, &mut Gradients::new()).unwrap();
    std::hint::black_box(grads);
}

/// Benches `ours`, then prints how many times faster than `baseline` it is: the ratio of the medians of alternating runs.
pub fn compare(
    c: &mut Criterion,
    group: &str,
    name: &str,
    throughput: Throughput,
    mut ours: impl FnMut(),
    (baseline_name, mut baseline): (&str, impl FnMut()),
) {
    let mut group = c.benchmark_group(group);
    group.throughput(throughput);
    let mut ran = false;
    group.bench_function(name, |b| {
        ran = true;
        b.iter(&mut ours);
    });
    group.finish();
    if !ran {
        return;
    }
    let mut times = [Vec::new(), Vec::new()];
    let start = Instant::now();
    while times[0].len() < 3 || (start.elapsed() < Duration::from_millis(1500) && times[0].len() < 51) {
        times[0].push(seconds(&mut ours));
        times[1].push(seconds(&mut baseline));
    }
    let [ours, theirs] = times.map(|mut t| {
        t.sort_by(f64::total_cmp);
        t[t.len() / 2]
    });
    println!(
        "{name}: {:.2} times as fast as {baseline_name} ({:.3} ms, {:.3} ms)\n",
        theirs / ours,
        1e3 * ours,
        1e3 * theirs
    );
}

fn seconds(f: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}
