//! Embedding: exact, since rows are copied; its gradient against sums in f64.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::ops::embedding::embedding;
use warptune::tensor::{DType, Tensor};

use super::{FLOATS, cases, float_types, half_type};
use crate::reference::embedding::{embedding as reference, embedding_backward};
use crate::reference::{cast, stored};
use crate::support::devices::{cuda, on_each};
use crate::support::gradcheck::{
    assert_deterministic, assert_repeatable, check_oracle, dot, forward_backward_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn rows_and_gradients_match_the_oracle(
        (tokens, vocab, dim) in (0usize..60, 1usize..40, 1usize..50),
        [table_type, out_type] in float_types::<2>(),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let ids = random.ids(tokens, vocab);
        let table = random.tensor(&[vocab, dim], table_type, 1.0);
        let dy = random.tensor(&[tokens, dim], out_type, 1.0);
        check(&ids, &table, &dy, out_type);
    }
}

/// Rows and gradients on both devices; the gradients' bits are those of sums in f32 in the order of the tokens.
fn check(ids: &Tensor, table: &Tensor, dy: &Tensor, out_type: DType) {
    let (vocab, dim) = table.dims2("test").unwrap();
    let (tokens, id) = (ids.numel(), ids.as_u32().unwrap());
    let rows = stored(&reference(id, &values(table), dim), out_type);
    let exact = embedding_backward(id, &values(dy), vocab, dim);
    let abs: Vec<f64> = values(dy).iter().map(|g| g.abs()).collect();
    let size = embedding_backward(id, &abs, vocab, dim);
    let in_order = embedding_backward(id, &cast::<_, f32>(&values(dy)), vocab, dim);
    on_each(|device| {
        let ids = ids.to_device(device).unwrap();
        let op = |tape: &Tape, v: &[Var]| embedding(tape, &ids, &v[0], out_type);
        let outcome = forward_backward_at(device, std::slice::from_ref(table), dy, op).unwrap();
        assert_eq!(values(&outcome.output), rows);
        assert_eq!(outcome.output.shape(), [tokens, dim]);
        let tolerance = Tolerance::rounding(DType::F32, tokens as f64, &size);
        assert_close("dtable", outcome.grad(0), &exact, &tolerance);
        let ordered: Vec<u32> = in_order.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits(outcome.grad(0)), ordered, "on {device}");
    });
}

/// Several sorted tiles and runs, ids that occur once, often and always, rows of many packs.
#[test]
fn many_ids() {
    let mut random = Random::new(4);
    let cases = [(5000, 3000, 3), (2049, 2, 8), (300, 1, 36), (2, 50, 1032), (4097, 9, 1)];
    for (case, (tokens, vocab, dim)) in cases.into_iter().enumerate() {
        let half = half_type(case);
        let (ids, table) = (random.ids(tokens, vocab), random.tensor(&[vocab, dim], half, 1.0));
        let dy = random.tensor(&[tokens, dim], half, 1.0);
        check(&ids, &table, &dy, half);
    }
}

/// Rows of a table, and gradients, that do not start on 16 bytes.
#[test]
fn rows_that_are_not_aligned() {
    let mut random = Random::new(5);
    for dtype in FLOATS {
        let ids = random.ids(40, 7);
        let table = random.tensor(&[1 + 7 * 32], dtype, 1.0);
        let dy = random.tensor(&[40, 32], dtype, 1.0);
        let part = table.rows(1, 7 * 32).unwrap().reshape(&[7, 32]).unwrap();
        let rows = reference(ids.as_u32().unwrap(), &values(&part), 32);
        on_each(|device| {
            let ids = ids.to_device(device).unwrap();
            let table = table.to_device(device).unwrap().rows(1, 7 * 32).unwrap().reshape(&[7, 32]).unwrap();
            let y = embedding(&Tape::inference(), &ids, &Var::constant(table), dtype).unwrap();
            assert_eq!(values(y.value()), rows);
        });
        check(&ids, &part, &dy, dtype);
    }
}

/// What is on the device is not looked at; an id outside the table reads nothing there, and takes no part in the gradient.
#[test]
fn an_id_outside_the_table_makes_nan_on_a_device() {
    let mut random = Random::new(6);
    let table = random.tensor(&[5, 12], DType::F32, 1.0);
    let dy = random.tensor(&[6, 12], DType::F32, 1.0);
    let ids = [4, 5, 0, u32::MAX, 1 << 30, 4];
    let there = Tensor::from_u32(ids.to_vec(), &[6]).to_device(cuda()).unwrap();
    let op = |tape: &Tape, v: &[Var]| embedding(tape, &there, &v[0], DType::BF16);
    let outcome = forward_backward_at(cuda(), std::slice::from_ref(&table), &dy, op).unwrap();
    let (y, grad, dy) = (values(&outcome.output), values(outcome.grad(0)), values(&dy));
    for (t, &id) in ids.iter().enumerate() {
        let row = &y[t * 12..][..12];
        assert!(if id < 5 { row.iter().all(|x| x.is_finite()) } else { row.iter().all(|x| x.is_nan()) });
    }
    for c in 0..12 {
        let expected = [dy[2 * 12 + c], 0.0, 0.0, 0.0, f64::from((dy[c] + dy[5 * 12 + c]) as f32)];
        assert_eq!((0..5).map(|v| grad[v * 12 + c]).collect::<Vec<_>>(), expected);
    }
    on_each(|_| {});
}

/// No ids, a table without rows, rows without elements.
#[test]
fn nothing() {
    for (tokens, vocab, dim) in [(0, 3, 4), (0, 0, 4), (3, 2, 0)] {
        let ids = Tensor::zeros(&[tokens], DType::U32);
        let (table, dy) =
            (Tensor::zeros(&[vocab, dim], DType::F32), Tensor::zeros(&[tokens, dim], DType::F32));
        check(&ids, &table, &dy, DType::F32);
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let ids = [2, 0, 2, 1];
    let mut random = Random::new(1);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| random.normal()).collect() };
    let (table, dy) = (draw(4 * 3), draw(4 * 3));
    let grad = embedding_backward(&ids, &dy, 4, 3);
    check_oracle(&[table], &[grad], |v| dot(&reference(&ids, &v[0], 3), &dy));
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(2);
    let (ids, table) = (random.ids(500, 37), random.tensor(&[37, 129], DType::F32, 1.0));
    let dy = random.tensor(&[500, 129], DType::F32, 1.0);
    let inputs = [table];
    assert_deterministic(&inputs, &dy, Tape::recording, |tape, v| embedding(tape, &ids, &v[0], DType::F32));
    let there = ids.to_device(cuda()).unwrap();
    let op = |tape: &Tape, v: &[Var]| embedding(tape, &there, &v[0], DType::F32);
    assert_repeatable(cuda(), &inputs, &dy, Tape::recording, op);
}

#[test]
fn an_id_outside_the_table_is_named() {
    let table = Var::constant(Tensor::zeros(&[5, 2], DType::F32));
    let ids = Tensor::from_u32(vec![4, 5], &[2]);
    let error = embedding(&Tape::inference(), &ids, &table, DType::F32).unwrap_err();
    assert_eq!(error.to_string(), "embedding: id 5 at position 1 is outside the table of 5 rows");
    let elsewhere = ids.to_device(cuda()).unwrap();
    let error = embedding(&Tape::inference(), &elsewhere, &table, DType::F32).unwrap_err();
    assert!(error.to_string().contains("two places"), "{error}");
    let floats = Tensor::zeros(&[2], DType::F32);
    assert!(embedding(&Tape::inference(), &floats, &table, DType::F32).is_err());
    assert!(embedding(&Tape::inference(), &ids.rows(0, 1).unwrap(), &table, DType::U32).is_err());
    let row = embedding(&Tape::inference(), &ids.rows(0, 1).unwrap(), &table, DType::BF16).unwrap();
    assert_eq!(bits(row.value()), [0, 0]);
}
