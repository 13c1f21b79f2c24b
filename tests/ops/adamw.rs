//! AdamW: against the paper's algorithm in f64, saved and loaded, with bf16 parameters, and the same bits on every device.

use std::collections::BTreeMap;

use proptest::prelude::*;
use warptune::autograd::{Gradients, Param};
use warptune::device::Device;
use warptune::optim::{AdamW, AdamWSettings};
use warptune::tensor::{DType, Tensor};

use super::cases;
use crate::reference::adamw::{State, step};
use crate::reference::{cast, stored};
use crate::support::devices::{assert_no_reports, cuda, on_each};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, under_thread_counts, values};

fn gradients(params: &[Param], random: &mut Random, std: f64) -> Gradients {
    let mut gradients = Gradients::new();
    for p in params {
        let grad = random.tensor(p.value().shape(), DType::F32, std);
        gradients.add(p.id(), grad.to_device(p.value().device()).unwrap()).unwrap();
    }
    gradients
}

/// Parameters of several chunks of a launch, of less than one, and of none.
fn params(random: &mut Random, device: Device, dtype: DType) -> Vec<Param> {
    let shapes: [&[usize]; 4] = [&[37, 11], &[1], &[0], &[300, 70]];
    let param = |(i, shape): (usize, &&[usize])| {
        Param::new(format!("p{i}"), random.tensor(shape, dtype, 1.0).to_device(device).unwrap())
    };
    shapes.iter().enumerate().map(param).collect()
}

fn optimizer(settings: AdamWSettings, params: &[Param]) -> AdamW {
    let decayed = params.iter().enumerate().map(|(i, p)| (p.clone(), i % 2 == 0)).collect();
    AdamW::new(settings, decayed).unwrap()
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn ten_steps_match_the_paper(
        n in 1usize..200,
        (b1, b2) in (0.0f64..0.99, 0.5f64..0.9999),
        lr in 1e-5f64..0.1,
        (decay, decayed) in (0.0f64..0.2, any::<bool>()),
        gradient_size in 1e-4f64..10.0,
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let param = Param::new("p", random.tensor(&[n], DType::F32, 1.0));
        let settings = AdamWSettings { betas: (b1, b2), eps: 1e-8, weight_decay: decay, ..AdamWSettings::default() };
        let mut ours = AdamW::new(settings, vec![(param.clone(), decayed)]).unwrap();
        let start = values(&param.value());
        let mut exact = State { p: start.clone(), m: vec![0.0; n], v: vec![0.0; n] };
        let mut naive = State::<f32> { p: cast(&start), m: vec![0.0; n], v: vec![0.0; n] };
        let decay = if decayed { decay } else { 0.0 };
        let mut size: Vec<f64> = start.iter().map(|p| p.abs()).collect();
        for t in 1..=10 {
            // A schedule: each step has its own learning rate.
            let lr = lr / f64::from(t);
            let grads = gradients(std::slice::from_ref(&param), &mut random, gradient_size);
            let g = values(grads.get(&param).unwrap());
            ours.step(lr, &grads).unwrap();
            step(&mut exact, &g, t, lr, decay, (b1, b2), 1e-8);
            step(&mut naive, &cast::<_, f32>(&g), t, lr, decay, (b1, b2), 1e-8);
            size.iter_mut().zip(&exact.p).for_each(|(s, p)| *s += p.abs() + 10.0 * lr);
        }
        let tolerance = |naive: &[f32], exact: &[f64], size: &[f64]| {
            Tolerance::twice_naive(&stored(naive, DType::F32), exact).plus(Tolerance::rounding(DType::F32, 1.0, size))
        };
        assert_close("p", &param.value(), &exact.p, &tolerance(&naive.p, &exact.p, &size));
        let state: BTreeMap<_, _> = ours.state_tensors().unwrap().into_iter().collect();
        let scale = vec![4.0 * gradient_size; n];
        let square = vec![16.0 * gradient_size * gradient_size; n];
        assert_close("m", &state["exp_avg.p"], &exact.m, &tolerance(&naive.m, &exact.m, &scale));
        assert_close("v", &state["exp_avg_sq.p"], &exact.v, &tolerance(&naive.v, &exact.v, &square));
        prop_assert_eq!(state.len(), 2);
        prop_assert_eq!(ours.steps(), 10);
    }
}

/// The bits of the parameters and of the state after `steps` steps; after `save_at` of them the state moves to a new optimizer.
fn run(
    device: Device,
    dtype: DType,
    settings: AdamWSettings,
    steps: u64,
    save_at: Option<u64>,
) -> Vec<Vec<u32>> {
    let mut random = Random::new(1);
    let params = params(&mut random, device, dtype);
    let mut adam = optimizer(settings, &params);
    for t in 0..steps {
        if save_at == Some(t) {
            let (steps, state) = (adam.steps(), adam.state_tensors().unwrap().into_iter().collect());
            adam = optimizer(settings, &params);
            adam.load_state(steps, state).unwrap();
        }
        adam.step(1e-3, &gradients(&params, &mut random, 1.0)).unwrap();
    }
    let state = adam.state_tensors().unwrap();
    params.iter().map(Param::value).chain(state.into_iter().map(|(_, t)| t)).map(|t| bits(&t)).collect()
}

#[test]
fn a_loaded_state_goes_on_with_the_same_bits_for_any_thread_count_and_on_any_device() {
    let settings = AdamWSettings { weight_decay: 0.1, seed: 5, ..AdamWSettings::default() };
    let at_random = AdamWSettings { stochastic_rounding: true, ..settings };
    for (dtype, settings) in [(DType::F32, settings), (DType::BF16, settings), (DType::BF16, at_random)] {
        let [one, two, again] = under_thread_counts(|| run(Device::Cpu, dtype, settings, 6, None));
        assert!(one == two && two == again);
        assert!(run(Device::Cpu, dtype, settings, 6, Some(3)) == one);
        for save_at in [None, Some(3)] {
            assert!(run(cuda(), dtype, settings, 6, save_at) == one, "{dtype} {settings:?}");
        }
        assert_no_reports();
    }
}

/// Numbers at the edges of f32: denormal squares, squares that overflow, zeros of both signs.
#[test]
fn extreme_numbers_have_the_same_bits_on_a_device() {
    let edges = [0.0, -0.0, 1e-30, -1e-20, 1e-45, 1e19, -3e19, 3e38, 1.0, f32::MIN_POSITIVE, f32::INFINITY];
    let pairs: Vec<(f32, f32)> = edges.iter().flat_map(|&p| edges.iter().map(move |&g| (p, g))).collect();
    for (dtype, stochastic_rounding) in [(DType::F32, false), (DType::BF16, false), (DType::BF16, true)] {
        let settings = AdamWSettings { weight_decay: 0.01, stochastic_rounding, ..AdamWSettings::default() };
        let run = |device| {
            let tensor = |data: Vec<f32>| Tensor::from_f32(data, &[pairs.len()]);
            let value = tensor(pairs.iter().map(|x| x.0).collect()).to_dtype(dtype).unwrap();
            let param = Param::new("p", value.to_device(device).unwrap());
            let mut adam = AdamW::new(settings, vec![(param.clone(), true)]).unwrap();
            let mut grads = Gradients::new();
            grads
                .add(param.id(), tensor(pairs.iter().map(|x| x.1).collect()).to_device(device).unwrap())
                .unwrap();
            (0..3).for_each(|_| adam.step(1e-2, &grads).unwrap());
            let state = adam.state_tensors().unwrap().into_iter().map(|(_, t)| t);
            std::iter::once(param.value()).chain(state).map(|t| values(&t)).collect::<Vec<_>>()
        };
        let (here, there) = (run(Device::Cpu), run(cuda()));
        for (here, there) in here.iter().flatten().zip(there.iter().flatten()) {
            // What is not a number has no bits to compare.
            assert!(here.to_bits() == there.to_bits() || here.is_nan() && there.is_nan(), "{here} {there}");
        }
        assert!(here[0].iter().any(|x| x.is_nan()) && here[0].iter().any(|x| x.is_finite()));
        assert_no_reports();
    }
}

#[test]
fn what_others_hold_of_a_parameter_or_a_gradient_stays() {
    for stochastic_rounding in [false, true] {
        for dtype in [DType::F32, DType::BF16] {
            on_each(|device| {
                let params = params(&mut Random::new(3), device, dtype);
                let settings = AdamWSettings { stochastic_rounding, ..AdamWSettings::default() };
                let mut adam = optimizer(settings, &params);
                let held = params[3].value();
                let before = bits(&held);
                adam.step(0.1, &gradients(&params, &mut Random::new(4), 1.0)).unwrap();
                assert_eq!(bits(&held), before);
                assert_ne!(bits(&params[3].value()), before);
            });
        }
    }
}

#[test]
fn rounding_at_random_takes_a_neighbour_and_is_right_on_average() {
    let (n, steps, lr) = (20_000, 4, 3e-3);
    on_each(|device| {
        let run = |seed| {
            let start = Tensor::full_on(device, &[n], DType::BF16, -1.25).unwrap();
            let param = Param::new("p", start);
            let settings = AdamWSettings { stochastic_rounding: true, seed, ..AdamWSettings::default() };
            let mut adam = AdamW::new(settings, vec![(param.clone(), false)]).unwrap();
            assert_eq!(adam.state_tensors().unwrap().len(), 2, "no master copy");
            let mut grads = Gradients::new();
            grads.add(param.id(), Tensor::full_on(device, &[n], DType::F32, 1.0).unwrap()).unwrap();
            (0..steps).for_each(|_| adam.step(lr, &grads).unwrap());
            values(&param.value())
        };
        let found = run(1);
        // bf16 has steps of 2^-7 here, more than twice a step of the optimizer, which is lr with a constant gradient.
        let step = 1.0 / 128.0;
        let mean = found.iter().sum::<f64>() / n as f64;
        let expected = -1.25 - f64::from(steps) * lr;
        // The variance of one rounding is at most step^2 / 4; five standard errors.
        let error = 5.0 * (f64::from(steps) * step * step / 4.0 / n as f64).sqrt();
        assert!((mean - expected).abs() < error, "{mean}, expected {expected} +- {error}");
        let largest = found.iter().fold(0.0, |m: f64, x| m.max((x + 1.25).abs()));
        assert!(largest <= f64::from(steps) * step && found.iter().all(|x| (x / step).fract() == 0.0));
        assert_ne!(found, run(2));
        assert_eq!(found, run(1));
    });
}

#[test]
fn steps_too_small_for_bf16_add_up_in_the_master_copy() {
    let param = Param::new("p", Tensor::from_f32(vec![1.0], &[1]).to_dtype(DType::BF16).unwrap());
    let mut adam = AdamW::new(AdamWSettings::default(), vec![(param.clone(), false)]).unwrap();
    let mut grads = Gradients::new();
    grads.add(param.id(), Tensor::from_f32(vec![1.0], &[1])).unwrap();
    // Each step moves p by about lr; bf16 has steps of 2^-8 below 1.
    for _ in 0..8 {
        adam.step(1e-3, &grads).unwrap();
    }
    assert_eq!(values(&param.value()), [1.0 - 2.0 / 256.0]);
    let master = &adam.state_tensors().unwrap()[2];
    assert_eq!(master.0, "master.p");
    assert!((values(&master.1)[0] - 0.992).abs() < 1e-6);
}

#[test]
fn a_parameter_without_a_gradient_stays() {
    let param = Param::new("p", Tensor::scalar(2.0));
    let settings = AdamWSettings { weight_decay: 0.5, ..AdamWSettings::default() };
    let mut adam = AdamW::new(settings, vec![(param.clone(), true)]).unwrap();
    adam.step(0.1, &Gradients::new()).unwrap();
    assert_eq!(param.value().item().unwrap(), 2.0);
}

#[test]
fn states_and_gradients_that_do_not_fit_are_named() {
    let params = params(&mut Random::new(2), Device::Cpu, DType::BF16);
    let mut adam = optimizer(AdamWSettings::default(), &params);
    let good: BTreeMap<String, Tensor> = adam.state_tensors().unwrap().into_iter().collect();
    assert_eq!(good.len(), 12);
    let mut refuse = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut state = good.clone();
        change(&mut state);
        let error = adam.load_state(7, state).unwrap_err().to_string();
        assert_eq!(adam.steps(), 0, "nothing may have changed");
        error
    };
    assert!(refuse(&|s| drop(s.remove("master.p1"))).contains("lacks 'master.p1'"));
    assert!(
        refuse(&|s| drop(s.insert("exp_avg.q".into(), Tensor::scalar(0.0))))
            .contains("'exp_avg.q' belongs to no")
    );
    let other = |s: &mut BTreeMap<String, Tensor>| drop(s.insert("exp_avg.p0".into(), Tensor::scalar(0.0)));
    assert!(refuse(&other).contains("expected f32 [37, 11]"));

    let mut grads = Gradients::new();
    grads.add(params[0].id(), Tensor::scalar(1.0)).unwrap();
    assert!(adam.step(0.1, &grads).unwrap_err().to_string().contains("parameter 'p0' [37, 11]"));
    let mut grads = Gradients::new();
    grads.add(params[1].id(), Tensor::zeros_on(cuda(), &[1], DType::F32).unwrap()).unwrap();
    let error = adam.step(0.1, &grads).unwrap_err().to_string();
    assert!(error.contains("parameter 'p1' or its gradient is on cuda:0, its state on cpu"), "{error}");
    assert_eq!(adam.steps(), 0);
}

#[test]
fn bad_settings_and_duplicates_are_refused() {
    let p = || Param::new("p", Tensor::scalar(1.0));
    let new = |settings| AdamW::new(settings, vec![(p(), true)]).err().map(|e| e.to_string());
    let good = AdamWSettings::default();
    assert_eq!(new(good), None);
    for betas in [(1.0, 0.9), (0.9, -0.1), (f64::NAN, 0.9)] {
        assert!(new(AdamWSettings { betas, ..good }).unwrap().contains("beta"));
    }
    assert!(new(AdamWSettings { eps: -1.0, ..good }).unwrap().contains("eps"));
    assert!(new(AdamWSettings { weight_decay: f64::INFINITY, ..good }).unwrap().contains("weight decay"));
    assert!(AdamW::new(good, vec![(p(), true), (p(), true)]).is_err());
    assert!(AdamW::new(good, vec![(Param::new("i", Tensor::zeros(&[1], DType::U32)), true)]).is_err());
}
