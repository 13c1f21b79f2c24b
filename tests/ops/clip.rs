//! Clipping by the global norm.

use proptest::prelude::*;
use warptune::Error;
use warptune::autograd::{Gradients, Param};
use warptune::optim::clip_grad_norm;
use warptune::tensor::{DType, Tensor};

use super::cases;
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, under_thread_counts, values};

/// Two parameters with gradients, and one without.
fn setup(sizes: [usize; 2], std: f64, seed: u64) -> (Vec<Param>, Gradients) {
    let mut random = Random::new(seed);
    let mut params: Vec<Param> =
        (0..2).map(|i| Param::new(format!("p{i}"), Tensor::zeros(&[sizes[i]], DType::F32))).collect();
    let mut gradients = Gradients::new();
    for (p, n) in params.iter().zip(sizes) {
        gradients.add(p.id(), random.tensor(&[n], DType::F32, std)).unwrap();
    }
    params.push(Param::new("frozen", Tensor::scalar(1.0)));
    (params, gradients)
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn norm_and_gradients_match_f64(
        sizes in [0usize..3000, 1usize..40_000],
        std in 1e-6f64..1e4,
        max_norm in 1e-3f64..100.0,
        seed in any::<u64>(),
    ) {
        let (params, mut gradients) = setup(sizes, std, seed);
        let before: Vec<Vec<f64>> = params[..2].iter().map(|p| values(gradients.get(p).unwrap())).collect();
        let exact = before.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let norm = clip_grad_norm(&mut gradients, &params, max_norm).unwrap();
        let terms = before.iter().flatten().count() as f64;
        prop_assert!((norm - exact).abs() <= terms * f64::EPSILON * exact, "{norm} and {exact}");
        let factor = (max_norm / (exact + 1e-6)).min(1.0);
        for (p, before) in params.iter().zip(before) {
            let expected: Vec<f64> = before.iter().map(|g| g * factor).collect();
            // The factor's rounding and the product's.
            assert_close(p.name(), gradients.get(p).unwrap(), &expected, &Tolerance::rounding(DType::F32, 2.0, &expected));
        }
    }
}

#[test]
fn below_the_limit_nothing_changes() {
    let (params, mut gradients) = setup([5, 7], 1.0, 1);
    let before = bits(gradients.get(&params[1]).unwrap());
    for limit in [1e3, f64::INFINITY] {
        clip_grad_norm(&mut gradients, &params, limit).unwrap();
        assert_eq!(bits(gradients.get(&params[1]).unwrap()), before);
    }
    assert_eq!(clip_grad_norm(&mut Gradients::new(), &params, 1.0).unwrap(), 0.0);
}

#[test]
fn same_bits_for_any_thread_count() {
    let run = || {
        let (params, mut gradients) = setup([70_001, 33_333], 1.0, 2);
        let norm = clip_grad_norm(&mut gradients, &params, 1.0).unwrap();
        (norm.to_bits(), bits(gradients.get(&params[0]).unwrap()))
    };
    let [one, two, again] = under_thread_counts(run);
    assert!(one == two && two == again);
}

#[test]
fn the_parameter_that_went_non_finite_is_named_and_nothing_is_changed() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (params, mut gradients) = setup([50, 70], 1.0, 3);
        gradients.get_mut(&params[1]).unwrap().make_mut_f32().unwrap()[69] = bad;
        let before = bits(gradients.get(&params[0]).unwrap());
        let error = clip_grad_norm(&mut gradients, &params, 0.1).unwrap_err();
        assert!(matches!(&error, Error::NonFinite { place: Some(name), .. } if name == "p1"), "{error}");
        assert_eq!(bits(gradients.get(&params[0]).unwrap()), before);
    }
}

#[test]
fn a_limit_that_is_not_positive_is_refused() {
    let (params, mut gradients) = setup([1, 1], 1.0, 4);
    for limit in [0.0, -1.0, f64::NAN] {
        assert!(clip_grad_norm(&mut gradients, &params, limit).is_err());
    }
}
