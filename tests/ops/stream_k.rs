//! Products whose tiles do not fill a device a whole number of times: the last ones are made in pieces along k, which are added in order.
//! With epilogues and adapters: tests/ops/epilogue.rs; of weights in 4 bits: tests/ops/quantized_matmul.rs.

use warptune::autograd::{Tape, Var};
use warptune::device::cuda::plan::{Slots, StreamK, TileCost};
use warptune::ops::epilogue::Epilogue;
use warptune::ops::matmul::matmul;
use warptune::tensor::{DType, Tensor};

use super::half_type;
use crate::reference::matmul::{product, product_magnitude, transposed};
use crate::support::bits;
use crate::support::devices::{assert_no_reports, cuda, multiprocessors};
use crate::support::gradcheck::run_at;
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::values;

fn op(tape: &Tape, v: &[Var]) -> warptune::Result<Var> {
    matmul(tape, &v[0], &v[1], None, Epilogue::None)
}

/// How an operand lies, as src/ops/matmul/plan.rs has it: y, dx and dW.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Nt,
    Nn,
    Tn,
}
const CASES: [Case; 3] = [Case::Nt, Case::Nn, Case::Tn];

/// C `[m, n]` of operands of types `a` and `b` against the oracle, and twice.
fn check(random: &mut Random, case: Case, [m, n, k]: [usize; 3], [a, b]: [DType; 2]) {
    // x, W and dy, of which only what makes C counts.
    let [x, w, dy] = match case {
        Case::Nt => [([m, k], a), ([n, k], b), ([m, n], a)],
        Case::Nn => [([m, n], a), ([k, n], b), ([m, k], a)],
        Case::Tn => [([k, n], b), ([m, n], b), ([k, m], a)],
    };
    let [x, w, dy] = [x, w, dy].map(|(shape, dtype)| random.tensor(&shape, dtype, 1.0));
    let [left, right] = match case {
        Case::Nt => [values(&x), transposed(&values(&w), n, k)],
        Case::Nn => [values(&dy), values(&w)],
        Case::Tn => [transposed(&values(&dy), k, m), values(&x)],
    };
    let wanted = match case {
        Case::Nt => None,
        Case::Nn => Some(0),
        Case::Tn => Some(1),
    };
    let inputs = [x, w];
    let run = || -> Tensor {
        let tape = if wanted.is_some() { Tape::recording() } else { Tape::inference() };
        let outcome = run_at(cuda(), tape, &inputs, &dy, |i| Some(i) == wanted, op).unwrap();
        wanted.map_or(outcome.output.clone(), |i| outcome.grad(i).clone())
    };
    let c = run();
    let name = format!("{case:?} {m} x {n} x {k}, {a} times {b}");
    let oracle = product(&left, &right, m, k, n);
    let size = product_magnitude(&left, &right, m, k, n);
    // Any order of k sums in f32, and the result's own rounding.
    let sums = Tolerance::rounding(DType::F32, k as f64, &size);
    assert_close(&name, &c, &oracle, &sums.plus(Tolerance::rounding(c.dtype(), 1.0, &oracle)));
    assert_eq!(bits(&c), bits(&run()), "{name}: two runs differ");
    assert_no_reports();
}

/// How many blocks run at once; the plan for C of so many tiles.
fn tensor_cores(tiles: usize, k: usize) -> (usize, StreamK) {
    let shared_memory = cuda().cuda().unwrap().properties().shared_memory;
    let slots = Slots::new(multiprocessors(), shared_memory, 66 << 10, 2);
    (slots.multiprocessors * slots.each, StreamK::new(tiles, k, slots, TileCost::TENSOR_CORES))
}

/// A little more than a wave, streamed through tiles' ends and not; less than one; a single tile. In a row of tiles and in a column;
/// k of whole spans and of a part of one, rows that start on 16 bytes and rows that do not.
#[test]
fn waves_that_are_not_full() {
    let mut random = Random::new(1);
    let (slots, _) = tensor_cores(1, 64);
    let shapes = [
        (slots + 3, 3200, 20),
        (slots + 2, 2555, 17),
        (slots + 1, 1288, 33),
        (slots * 3 / 5, 2040, 120),
        (slots * 3 / 5, 2041, 3),
        (1, 1101, 18),
    ];
    let mut kinds = [0; 3];
    for (i, (tiles, k, thin)) in shapes.into_iter().enumerate() {
        let (_, plan) = tensor_cores(tiles, k);
        assert!(plan.tail > 0, "{tiles} tiles of {k}: {plan:?}");
        kinds[0] += usize::from(plan.whole > 0);
        kinds[1] += usize::from(plan.stride % plan.each != 0);
        kinds[2] += usize::from(plan.stride > k.div_ceil(StreamK::SPAN));
        let long = tiles * 128 - [0, 64, 5][i % 3];
        for (j, case) in CASES.into_iter().enumerate() {
            // The largest is dear.
            if i == 0 && j > 0 {
                continue;
            }
            // 16 rows of y and less are streamed.
            let thin = if case == Case::Nt { thin.max(17) } else { thin };
            let [m, n] = if j == i % 2 { [long, thin] } else { [thin, long] };
            check(&mut random, case, [m, n, k], [half_type(i + j); 2]);
        }
    }
    assert!(kinds.iter().all(|&count| count > 0), "whole tiles beside pieces, streamed, in parts: {kinds:?}");
}

/// The same on the ordinary cores, by all types.
#[test]
fn waves_of_ordinary_cores() {
    let mut random = Random::new(2);
    let shared_memory = cuda().cuda().unwrap().properties().shared_memory;
    let slots = Slots::new(multiprocessors(), shared_memory, 10 << 10, 3);
    let at_once = slots.multiprocessors * slots.each;
    for (i, (tiles, k)) in [(at_once + 1, 1030), (at_once * 2 / 5, 777), (2, 1024)].into_iter().enumerate() {
        let plan = StreamK::new(tiles, k, slots, TileCost::ORDINARY_CORES);
        assert!(plan.tail > 0, "{tiles} tiles of {k}: {plan:?}");
        let long = tiles * 64 - [3, 0, 1][i];
        for (j, case) in CASES.into_iter().enumerate() {
            let half = half_type(i + j);
            for types in [[DType::F32; 2], [DType::F32, half], [half, DType::F32]] {
                if case == Case::Tn && types != [DType::F32; 2] {
                    continue;
                }
                let [m, n] = if j == i { [long, 18] } else { [21, long] };
                check(&mut random, case, [m, n, k], types);
            }
        }
    }
}

/// Nothing to sum, and nothing to make.
#[test]
fn empty_products() {
    let mut random = Random::new(3);
    for case in CASES {
        for shape in [[20, 130, 0], [0, 130, 1024], [20, 0, 1024]] {
            check(&mut random, case, shape, [DType::BF16; 2]);
            check(&mut random, case, shape, [DType::F32; 2]);
        }
    }
}
