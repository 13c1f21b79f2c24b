//! Rotary embedding.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::ops::add::add;
use warptune::ops::columns::columns;
use warptune::ops::rope::{RopePairing, RopeScaling, RopeTable, rope, rope_both};
use warptune::tensor::{DType, Tensor};

use super::{FLOATS, cases, float_type, half_type};
use crate::reference::rope::{Pairs, rope as oracle};
use crate::support::devices::{cuda, on_each};
use crate::support::gradcheck::{
    assert_deterministic, assert_repeatable, check_oracle, dot, forward_backward_at, run_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

fn table(head_dim: usize, scaling: RopeScaling, pairing: RopePairing) -> RopeTable {
    RopeTable::new(head_dim, 10_000.0, scaling, pairing).unwrap()
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn values_and_gradients_match_the_oracle(
        (tokens, heads, pairs) in (0usize..40, 1usize..4, 1usize..40),
        dtype in float_type(),
        halves in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let (pairing, oracle_pairs) =
            if halves { (RopePairing::Half, Pairs::Half) } else { (RopePairing::Interleaved, Pairs::Neighbours) };
        check(&mut random, tokens, heads, &table(2 * pairs, RopeScaling::None, pairing), oracle_pairs, dtype);
    }
}

/// Values and gradients on both devices, at positions below 100 000.
fn check(
    random: &mut Random,
    tokens: usize,
    heads: usize,
    table: &RopeTable,
    oracle_pairs: Pairs,
    dtype: DType,
) {
    let head_dim = 2 * table.inverse_frequencies.len();
    let cols = heads * head_dim;
    let (x, dy) = (random.tensor(&[tokens, cols], dtype, 1.0), random.tensor(&[tokens, cols], dtype, 1.0));
    let positions = random.ids(tokens, 100_000);
    let ids = positions.as_u32().unwrap();
    let exact = [(&x, 1.0), (&dy, -1.0)].map(|(input, sign)| {
        let input = values(input);
        let exact = oracle(&input, cols, ids, &table.inverse_frequencies, oracle_pairs, sign);
        // Two products, a sum, and the sine and cosine themselves; a pair is at most as long as before.
        let largest = input.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let size = vec![1.5 * largest; exact.len()];
        let tolerance =
            Tolerance::rounding(DType::F32, 3.0, &size).plus(Tolerance::rounding(dtype, 1.0, &exact));
        (exact, tolerance)
    });
    on_each(|device| {
        let positions = positions.to_device(device).unwrap();
        let op = |tape: &Tape, v: &[Var]| rope(tape, &v[0], &positions, table, head_dim);
        let outcome = forward_backward_at(device, std::slice::from_ref(&x), &dy, op).unwrap();
        for ((name, ours), (exact, tolerance)) in
            [("y", &outcome.output), ("dx", outcome.grad(0))].into_iter().zip(&exact)
        {
            assert_eq!(ours.dtype(), dtype);
            assert_close(&format!("{name} on {device}"), ours, exact, tolerance);
        }
    });
}

/// Heads of many packs, several tokens a block with a last one that is not full, and heads with more pairs than the shared
/// memory of a block holds.
#[test]
fn heads_of_all_sizes() {
    let mut random = Random::new(3);
    let cases = [(37, 2, 64), (5, 9, 32), (3, 1, 1100), (2, 1, 2056), (1, 33, 64)];
    for (case, (tokens, heads, pairs)) in cases.into_iter().enumerate() {
        for (pairing, oracle_pairs) in
            [(RopePairing::Half, Pairs::Half), (RopePairing::Interleaved, Pairs::Neighbours)]
        {
            let table = table(2 * pairs, RopeScaling::None, pairing);
            for dtype in [DType::F32, half_type(case)] {
                check(&mut random, tokens, heads, &table, oracle_pairs, dtype);
            }
        }
    }
}

/// (1, 0) becomes (cos t, sin t): angles up to what 32 bits hold, near multiples of pi / 2 and far from them.
#[test]
fn angles_of_all_sizes() {
    let mut random = Random::new(5);
    let mut positions: Vec<u32> = (0..800).collect();
    for bits in [16, 24, 32] {
        positions.extend((0..400).map(|_| (random.bits() >> (64 - bits)) as u32));
    }
    positions.extend([u32::MAX, 1 << 24, 710, 103_993, 833_719, 4_272_943, 411_557_987]);
    let tokens = positions.len();
    let x: Vec<f32> = (0..tokens * 4).map(|i| [1.0, 1.0, 0.0, 0.0][i % 4]).collect();
    let table = table(4, RopeScaling::Linear { factor: 0.5 }, RopePairing::Half);
    let x64: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let exact = oracle(&x64, 4, &positions, &table.inverse_frequencies, Pairs::Half, 1.0);
    let (x, positions) = (Tensor::from_f32(x, &[tokens, 4]), Tensor::from_u32(positions, &[tokens]));
    on_each(|device| {
        let (x, positions) =
            (Var::constant(x.to_device(device).unwrap()), positions.to_device(device).unwrap());
        let y = rope(&Tape::inference(), &x, &positions, &table, 4).unwrap();
        // The bound of kernels/common/sincos.cuh; the library's on the CPU is below it.
        let bound = Tolerance::rounding(DType::F32, 1.3, &vec![1.0; exact.len()]);
        assert_close(&format!("turned on {device}"), y.value(), &exact, &bound);
    });
}

/// Rows that do not start on 16 bytes are turned element by element, to the same bits.
#[test]
fn rows_that_are_not_aligned() {
    let mut random = Random::new(7);
    for pairing in [RopePairing::Half, RopePairing::Interleaved] {
        let table = table(32, RopeScaling::None, pairing);
        for dtype in FLOATS {
            let x = random.tensor(&[1 + 5 * 64], dtype, 1.0).to_device(cuda()).unwrap();
            let positions = random.ids(5, 1000).to_device(cuda()).unwrap();
            let apart = x.rows(1, 5 * 64).unwrap().reshape(&[5, 64]).unwrap();
            let aligned = apart.to_device(Device::Cpu).unwrap().to_device(cuda()).unwrap();
            let run = |x: Tensor| {
                let y = rope(&Tape::inference(), &Var::constant(x), &positions, &table, 32).unwrap();
                bits(y.value())
            };
            assert_eq!(run(apart), run(aligned));
        }
    }
    on_each(|_| {});
}

/// What turns queries and keys.
type Both<'a> = &'a dyn Fn(&Tape, &[Var]) -> warptune::Result<[Var; 2]>;

/// Queries and keys in one launch, forward and back, whichever of the two results and of the gradients are used.
#[test]
fn both_have_the_bits_of_each_alone() {
    let mut random = Random::new(8);
    for (tokens, heads, kv_heads, pairs) in
        [(0, 2, 1, 4), (37, 3, 1, 32), (5, 2, 2, 33), (9, 4, 2, 8), (3, 2, 1, 1100)]
    {
        let (head_dim, positions) = (2 * pairs, random.ids(tokens, 5000));
        let (cols, kv_cols) = (heads * head_dim, kv_heads * head_dim);
        for (pairing, dtype) in [
            (RopePairing::Half, DType::BF16),
            (RopePairing::Half, DType::F32),
            (RopePairing::Interleaved, DType::BF16),
            (RopePairing::Interleaved, DType::F32),
        ] {
            let table = table(head_dim, RopeScaling::None, pairing);
            let inputs =
                [random.tensor(&[tokens, cols], dtype, 1.0), random.tensor(&[tokens, kv_cols], dtype, 1.0)];
            let dy = random.tensor(&[tokens, kv_cols], dtype, 1.0);
            on_each(|device| {
                let positions = positions.to_device(device).unwrap();
                let both =
                    |tape: &Tape, v: &[Var]| rope_both(tape, &v[0], &v[1], &positions, &table, head_dim);
                let each = |tape: &Tape, v: &[Var]| -> warptune::Result<[Var; 2]> {
                    let one = |x| rope(tape, x, &positions, &table, head_dim);
                    Ok([one(&v[0])?, one(&v[1])?])
                };
                for used in [[true, true], [true, false], [false, true]] {
                    let result = |tape: &Tape, [q, k]: [Var; 2]| {
                        let first = columns(tape, &q, cols - kv_cols, kv_cols)?;
                        match used {
                            [true, true] => add(tape, &first, &k),
                            [true, false] => Ok(first),
                            _ => Ok(k),
                        }
                    };
                    for wanted in [[true, true], [true, false], [false, true]] {
                        let run = |op: Both<'_>| {
                            let op = |tape: &Tape, v: &[Var]| result(tape, op(tape, v)?);
                            let outcome =
                                run_at(device, Tape::recording(), &inputs, &dy, |i| wanted[i], op).unwrap();
                            let there: Vec<bool> = outcome.grads.iter().map(Option::is_some).collect();
                            (outcome.bits(), there)
                        };
                        assert_eq!(run(&both), run(&each), "{pairs} pairs, {dtype}, {used:?}, {wanted:?}");
                    }
                }
            });
        }
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let mut random = Random::new(1);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| random.normal()).collect() };
    let (x, dy) = (draw(3 * 12), draw(3 * 12));
    let frequencies = [1.0, 0.3, 0.1];
    for pairs in [Pairs::Half, Pairs::Neighbours] {
        let run = |x: &[f64], sign| oracle(x, 12, &[0, 5, 1000], &frequencies, pairs, sign);
        check_oracle(std::slice::from_ref(&x), &[run(&dy, -1.0)], |v| dot(&run(&v[0], 1.0), &dy));
    }
}

/// x = (i - 7.5) / 8 for one head of 16, at positions 3 and 1000.
fn turned(table: &RopeTable) -> Vec<f64> {
    let x: Vec<f32> = (0..32).map(|i| ((i % 16) as f32 - 7.5) / 8.0).collect();
    let positions = Tensor::from_u32(vec![3, 1000], &[2]);
    let x = Var::constant(Tensor::from_f32(x, &[2, 16]));
    values(rope(&Tape::inference(), &x, &positions, table, 16).unwrap().value())
}

#[track_caller]
fn assert_near(ours: &[f64], theirs: &[f64], relative: f64) {
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= relative * b.abs().max(1e-9), "element {i}: {a} against {b}");
    }
}

/// Inverse frequencies of transformers 5.23's LlamaRotaryEmbedding (head_dim 16), and the first and last turned values.
#[test]
fn scalings_agree_with_transformers() {
    let frequencies =
        |table: &RopeTable| -> Vec<f64> { table.inverse_frequencies.iter().map(|&x| f64::from(x)).collect() };
    let plain = table(16, RopeScaling::None, RopePairing::Half);
    let expected = [1.0, 0.31622776, 0.1, 0.031622778, 0.01, 0.0031622779, 0.001, 0.00031622778];
    assert_near(&frequencies(&plain), &expected, 2e-7);
    let expected = [
        0.919297993,
        -0.625859022,
        -0.749143898,
        -0.60141331,
        -0.454175621,
        -0.319008023,
        -0.189936668,
        -0.0633893609,
        -0.194174528,
        -0.551010966,
        0.095372498,
        0.382249296,
        0.549123883,
        0.684504449,
        0.811933875,
        0.937440276,
        -0.578910351,
        0.223131955,
        -0.434604973,
        -0.640362382,
        0.673105717,
        0.326653272,
        -0.785001814,
        -0.350948095,
        -0.740050912,
        -0.803445458,
        0.617601037,
        0.312647611,
        -0.233968467,
        -0.680889249,
        0.28121984,
        0.871577799,
    ];
    assert_near(&turned(&plain), &expected, 1e-4);

    let linear = table(16, RopeScaling::Linear { factor: 4.0 }, RopePairing::Half);
    let expected = [0.25, 0.07905694, 0.025, 0.0079056947, 0.0025, 0.00079056947, 0.00025, 0.000079056947];
    assert_near(&frequencies(&linear), &expected, 2e-7);

    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: 8192,
    };
    let llama3 = RopeTable::new(16, 500_000.0, scaling, RopePairing::Half).unwrap();
    let expected = [
        1.0,
        0.193922758,
        0.0376060307,
        0.00729266508,
        0.000524846022,
        3.42810235e-5,
        6.64786967e-6,
        1.28917316e-6,
    ];
    assert_near(&frequencies(&llama3), &expected, 5e-7);
}

/// Values of transformers 5.23's GPT-J (rotate_every_two), head_dim 16.
#[test]
fn interleaved_pairs_agree_with_transformers() {
    let expected = [
        1.0427780151367188,
        0.6720688939094543,
        0.05647185444831848,
        -0.8864949941635132,
        -0.32560965418815613,
        -0.4278327226638794,
        -0.1807364970445633,
        -0.07998010516166687,
        0.056847721338272095,
        0.1892903447151184,
        0.3083355128765106,
        0.4404448866844177,
        0.5604349970817566,
        0.6891844272613525,
        0.8116102814674377,
        0.9382703900337219,
        0.144609272480011,
        -1.2321325540542603,
        0.8224726319313049,
        -0.3355610966682434,
        -0.5355037450790405,
        -0.047939687967300415,
        -0.17066672444343567,
        -0.09967629611492157,
        0.0495619922876358,
        -0.19132722914218903,
        -0.3033839762210846,
        -0.44387009739875793,
        -0.27459123730659485,
        0.844785213470459,
        0.4806652367115021,
        1.143688440322876,
    ];
    assert_near(&turned(&table(16, RopeScaling::None, RopePairing::Interleaved)), &expected, 1e-4);
}

#[test]
fn position_0_changes_nothing() {
    let mut random = Random::new(6);
    let x = random.tensor(&[3, 24], DType::BF16, 1.0);
    let positions = Tensor::from_u32(vec![0; 3], &[3]);
    for pairing in [RopePairing::Half, RopePairing::Interleaved] {
        let table = table(12, RopeScaling::None, pairing);
        on_each(|device| {
            let (x, positions) = (x.to_device(device).unwrap(), positions.to_device(device).unwrap());
            let y = rope(&Tape::inference(), &Var::constant(x.clone()), &positions, &table, 12).unwrap();
            assert_eq!(values(y.value()), values(&x));
        });
    }
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(2);
    let positions = random.ids(211, 4096);
    for pairing in [RopePairing::Half, RopePairing::Interleaved] {
        let table = table(64, RopeScaling::None, pairing);
        let x = random.tensor(&[211, 320], DType::F32, 1.0);
        let dy = random.tensor(&[211, 320], DType::F32, 1.0);
        let op = |tape: &Tape, v: &[Var]| rope(tape, &v[0], &positions, &table, 64);
        assert_deterministic(std::slice::from_ref(&x), &dy, Tape::recording, op);
        let positions = positions.to_device(cuda()).unwrap();
        assert_repeatable(cuda(), &[x], &dy, Tape::recording, |tape, v| {
            rope(tape, &v[0], &positions, &table, 64)
        });
    }
}

#[test]
fn settings_and_operands_that_make_no_sense() {
    let new = |dim, theta, scaling| RopeTable::new(dim, theta, scaling, RopePairing::Half);
    assert!(new(7, 1e4, RopeScaling::None).unwrap_err().to_string().contains("must be even"));
    assert!(new(0, 1e4, RopeScaling::None).is_err());
    assert!(new(8, 0.0, RopeScaling::None).is_err());
    assert!(new(8, f32::NAN, RopeScaling::None).is_err());
    assert!(new(8, 1e4, RopeScaling::Linear { factor: 0.0 }).is_err());
    let llama3 = |low, high| RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position: 8192,
    };
    assert!(new(8, 1e4, llama3(4.0, 4.0)).is_err());
    assert!(new(8, 1e4, llama3(1.0, 4.0)).is_ok());

    let table = table(8, RopeScaling::None, RopePairing::Half);
    let x = Var::constant(Tensor::zeros(&[2, 16], DType::F32));
    let ids = |n: usize| Tensor::zeros(&[n], DType::U32);
    let tape = Tape::inference();
    assert!(rope(&tape, &x, &ids(2), &table, 8).is_ok());
    assert!(rope(&tape, &x, &ids(3), &table, 8).is_err());
    assert!(rope(&tape, &x, &ids(2), &table, 16).is_err());
    let error = rope(&tape, &x, &Tensor::zeros(&[2], DType::F32), &table, 8).unwrap_err();
    assert_eq!(error.to_string(), "rope: positions are f32, u32 expected");
    let elsewhere = ids(2).to_device(cuda()).unwrap();
    assert!(rope(&tape, &x, &elsewhere, &table, 8).unwrap_err().to_string().contains("two places"));
    assert!(rope(&tape, &Var::constant(Tensor::zeros(&[2, 12], DType::F32)), &ids(2), &table, 8).is_err());
}
