//! Clipping by the global norm.

use proptest::prelude::*;
use warptune::Error;
use warptune::autograd::{Gradients, Param};
use warptune::device::Device;
use warptune::optim::clip_grad_norm;
use warptune::tensor::{DType, Tensor};

use super::cases;
use crate::support::devices::{assert_no_reports, cuda, on_each};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, under_thread_counts, values};

/// Two parameters with gradients on a device, and one without.
fn setup(device: Device, sizes: [usize; 2], std: f64, seed: u64) -> (Vec<Param>, Gradients) {
    let mut random = Random::new(seed);
    let mut params: Vec<Param> =
        (0..2).map(|i| Param::new(format!("p{i}"), Tensor::zeros(&[sizes[i]], DType::F32))).collect();
    let mut gradients = Gradients::new();
    for (p, n) in params.iter().zip(sizes) {
        let grad = random.tensor(&[n], DType::F32, std).to_device(device).unwrap();
        gradients.add(p.id(), grad).unwrap();
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
        on_each(|device| {
            let (params, mut gradients) = setup(device, sizes, std, seed);
            let before: Vec<Vec<f64>> = params[..2].iter().map(|p| values(gradients.get(p).unwrap())).collect();
            let exact = before.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
            let norm = clip_grad_norm(&mut gradients, &params, max_norm).unwrap();
            let terms = before.iter().flatten().count() as f64;
            assert!((norm - exact).abs() <= terms * f64::EPSILON * exact, "{norm} and {exact}");
            let factor = (max_norm / (exact + 1e-6)).min(1.0);
            for (p, before) in params.iter().zip(before) {
                let expected: Vec<f64> = before.iter().map(|g| g * factor).collect();
                // The factor's rounding and the product's.
                assert_close(p.name(), gradients.get(p).unwrap(), &expected, &Tolerance::rounding(DType::F32, 2.0, &expected));
            }
        });
    }
}

#[test]
fn below_the_limit_nothing_changes() {
    on_each(|device| {
        let (params, mut gradients) = setup(device, [5, 7], 1.0, 1);
        let before = bits(gradients.get(&params[1]).unwrap());
        for limit in [1e3, f64::INFINITY] {
            clip_grad_norm(&mut gradients, &params, limit).unwrap();
            assert_eq!(bits(gradients.get(&params[1]).unwrap()), before);
        }
        assert_eq!(clip_grad_norm(&mut Gradients::new(), &params, 1.0).unwrap(), 0.0);
    });
}

#[test]
fn same_bits_for_any_thread_count_and_on_every_run_of_a_device() {
    let run = |device| {
        let (params, mut gradients) = setup(device, [70_001, 33_333], 1.0, 2);
        let norm = clip_grad_norm(&mut gradients, &params, 1.0).unwrap();
        (norm.to_bits(), bits(gradients.get(&params[0]).unwrap()))
    };
    let [one, two, again] = under_thread_counts(|| run(Device::Cpu));
    assert!(one == two && two == again);
    assert!(run(cuda()) == run(cuda()));
    assert_no_reports();
}

#[test]
fn the_parameter_that_went_non_finite_is_named_and_nothing_is_changed() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        on_each(|device| {
            let (params, mut gradients) = setup(device, [50, 70], 1.0, 3);
            let grad = gradients.get_mut(&params[1]).unwrap();
            let mut data = grad.to_device(Device::Cpu).unwrap().into_vec_f32().unwrap();
            data[69] = bad;
            *grad = Tensor::from_f32(data, &[70]).to_device(device).unwrap();
            let before = bits(gradients.get(&params[0]).unwrap());
            let error = clip_grad_norm(&mut gradients, &params, 0.1).unwrap_err();
            assert!(matches!(&error, Error::NonFinite { place: Some(name), .. } if name == "p1"), "{error}");
            assert_eq!(bits(gradients.get(&params[0]).unwrap()), before);
        });
    }
}

#[test]
fn gradients_here_and_there_have_one_norm_and_what_others_hold_of_them_stays() {
    let (params, mut gradients) = setup(Device::Cpu, [300, 70], 1.0, 5);
    let norm = clip_grad_norm(&mut gradients, &params, f64::INFINITY).unwrap();
    let grad = gradients.get_mut(&params[1]).unwrap();
    *grad = grad.to_device(cuda()).unwrap();
    let (held, before) = (grad.clone(), bits(grad));
    let found = clip_grad_norm(&mut gradients, &params, norm / 2.0).unwrap();
    assert!((found - norm).abs() <= 400.0 * f64::EPSILON * norm);
    let clipped = clip_grad_norm(&mut gradients, &params, f64::INFINITY).unwrap();
    assert!((clipped / norm - 0.5).abs() < 1e-6, "{clipped} of {norm}");
    assert_eq!(bits(&held), before);
    assert_no_reports();
}

#[test]
fn a_limit_that_is_not_positive_is_refused() {
    let (params, mut gradients) = setup(Device::Cpu, [1, 1], 1.0, 4);
    for limit in [0.0, -1.0, f64::NAN] {
        assert!(clip_grad_norm(&mut gradients, &params, limit).is_err());
    }
}
