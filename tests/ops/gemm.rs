//! The matrix product that the ops stand on.

use proptest::prelude::*;
use warptune::device::cpu::gemm::{Init, Product, gemm};
use warptune::device::cpu::matrix::Mat;
use warptune::tensor::{DType, Tensor};

use super::{FLOATS, cases, float_type};
use crate::reference::matmul::{product, product_magnitude, transposed};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, under_thread_counts, values};

/// A stored operand, and the logical matrix that it stands for.
fn operand(random: &mut Random, rows: usize, cols: usize, dtype: DType, flipped: bool) -> (Tensor, Vec<f64>) {
    if flipped {
        let stored = random.tensor(&[cols, rows], dtype, 1.0);
        let logical = transposed(&values(&stored), cols, rows);
        return (stored, logical);
    }
    let stored = random.tensor(&[rows, cols], dtype, 1.0);
    let logical = values(&stored);
    (stored, logical)
}

fn view(stored: &Tensor, flipped: bool) -> Mat<'_> {
    let view = Mat::of(stored, "test").unwrap();
    if flipped { view.t() } else { view }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn is_the_sum_of_the_products(
        (m, k, n) in (1usize..70, 1usize..90, 1usize..70),
        (a_type, b_type) in (float_type(), float_type()),
        (a_flipped, b_flipped) in (any::<bool>(), any::<bool>()),
        init in 0..3,
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let (a, a64) = operand(&mut random, m, k, a_type, a_flipped);
        let (b, b64) = operand(&mut random, k, n, b_type, b_flipped);
        let bias = random.vec(n, 1.0);
        let before = random.vec(m * n, 1.0);
        // What is not to be read is poisoned.
        let mut out = if init == 1 { before.clone() } else { vec![f32::NAN; m * n] };
        let (start, added): (_, Vec<f64>) = match init {
            0 => (Init::Zero, vec![0.0; m * n]),
            1 => (Init::Keep, before.iter().map(|&x| f64::from(x)).collect()),
            _ => (Init::Bias(&bias), (0..m * n).map(|i| f64::from(bias[i % n])).collect()),
        };
        let (a, b) = (view(&a, a_flipped), view(&b, b_flipped));
        // Two terms, so that accumulation is seen.
        gemm(&mut out, (m, n), start, &[Product::of(a, b), Product { alpha: -0.5, a, b }]);
        let half = product(&a64, &b64, m, k, n);
        let oracle: Vec<f64> = half.iter().zip(&added).map(|(p, s)| s + 0.5 * p).collect();
        let size: Vec<f64> = product_magnitude(&a64, &b64, m, k, n).iter().zip(&added).map(|(p, s)| 1.5 * p + s.abs()).collect();
        let tolerance = Tolerance::rounding(DType::F32, (k + 4) as f64, &size);
        assert_close("gemm", &Tensor::from_f32(out, &[m, n]), &oracle, &tolerance);
    }
}

#[test]
fn a_few_rows_give_the_same_for_any_thread_count_and_alone_or_together() {
    let mut random = Random::new(3);
    for dtype in FLOATS {
        let (k, n) = (203, 1029);
        let x = random.tensor(&[11, k], dtype, 1.0);
        let w = random.tensor(&[n, k], dtype, 1.0);
        let run = |rows: usize| {
            let mut out = vec![f32::NAN; rows * n];
            let x = Mat::of(&x, "test").unwrap().row_range(0, rows);
            gemm(&mut out, (rows, n), Init::Zero, &[Product::of(x, Mat::of(&w, "test").unwrap().t())]);
            bits(&Tensor::from_f32(out, &[rows, n]))
        };
        let [one, two, again] = under_thread_counts(|| run(11));
        assert!(one == two && two == again);
        assert!(
            run(1) == one[..n] && run(6) == one[..6 * n],
            "a sequence's numbers depend on who is decoded beside it"
        );
    }
}

#[test]
fn large_products_do_not_depend_on_the_thread_count() {
    let mut random = Random::new(4);
    for dtype in FLOATS {
        let (m, k, n) = (130, 1100, 260);
        let (a, b) = (random.tensor(&[m, k], dtype, 1.0), random.tensor(&[n, k], dtype, 1.0));
        let [one, two, again] = under_thread_counts(|| {
            let mut out = vec![half::bf16::from_f32(f32::NAN); m * n];
            let (a, b) = (Mat::of(&a, "test").unwrap(), Mat::of(&b, "test").unwrap().t());
            gemm(&mut out, (m, n), Init::Zero, &[Product::of(a, b)]);
            bits(&Tensor::from_bf16(out, &[m, n]))
        });
        assert!(one == two && two == again);
    }
}

#[test]
fn an_empty_inner_dimension_gives_zeros() {
    let empty: [f32; 0] = [];
    let mut out = [f32::NAN; 6];
    let (a, b) = (Mat::f32(&empty, 2, 0), Mat::f32(&empty, 0, 3));
    gemm(&mut out, (2, 3), Init::Zero, &[Product::of(a, b)]);
    assert_eq!(out, [0.0; 6]);
    gemm(&mut out, (2, 3), Init::Bias(&[1.0, 2.0, 3.0]), &[]);
    assert_eq!(out, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
}
