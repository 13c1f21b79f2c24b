//! Embedding: exact, since rows are copied; its gradient against sums in f64.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::ops::embedding::embedding;
use warptune::tensor::{DType, Tensor};

use super::{cases, float_type};
use crate::reference::embedding::{embedding as reference, embedding_backward};
use crate::reference::stored;
use crate::support::gradcheck::{assert_deterministic, check_oracle, dot, forward_backward};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn rows_and_gradients_match_the_oracle(
        (tokens, vocab, dim) in (0usize..60, 1usize..40, 1usize..50),
        (table_type, out_type) in (float_type(), float_type()),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let ids = random.ids(tokens, vocab);
        let table = random.tensor(&[vocab, dim], table_type, 1.0);
        let dy = random.tensor(&[tokens, dim], out_type, 1.0);
        let op = |tape: &Tape, v: &[Var]| embedding(tape, &ids, &v[0], out_type);
        let outcome = forward_backward(std::slice::from_ref(&table), &dy, op).unwrap();

        let id = ids.as_u32().unwrap();
        prop_assert_eq!(values(&outcome.output), stored(&reference(id, &values(&table), dim), out_type));
        prop_assert_eq!(outcome.output.shape(), [tokens, dim]);
        let exact = embedding_backward(id, &values(&dy), vocab, dim);
        let abs: Vec<f64> = values(&dy).iter().map(|g| g.abs()).collect();
        let size = embedding_backward(id, &abs, vocab, dim);
        assert_close("dtable", outcome.grad(0), &exact, &Tolerance::rounding(DType::F32, tokens as f64, &size));
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
    assert_deterministic(&[table], &dy, Tape::recording, |tape, v| embedding(tape, &ids, &v[0], DType::F32));
}

#[test]
fn an_id_outside_the_table_is_named() {
    let table = Var::constant(Tensor::zeros(&[5, 2], DType::F32));
    let ids = Tensor::from_u32(vec![4, 5], &[2]);
    let error = embedding(&Tape::inference(), &ids, &table, DType::F32).unwrap_err();
    assert_eq!(error.to_string(), "embedding: id 5 at position 1 is outside the table of 5 rows");
    let floats = Tensor::zeros(&[2], DType::F32);
    assert!(embedding(&Tape::inference(), &floats, &table, DType::F32).is_err());
    assert!(embedding(&Tape::inference(), &ids.rows(0, 1).unwrap(), &table, DType::U32).is_err());
    let row = embedding(&Tape::inference(), &ids.rows(0, 1).unwrap(), &table, DType::BF16).unwrap();
    assert_eq!(bits(row.value()), [0, 0]);
}
