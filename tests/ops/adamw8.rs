//! AdamW with averages in 8 bits: bitsandbytes' states, every step against f64, how far many steps may be from it, and the same bits on
//! every device.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use safetensors::SafeTensors;
use warptune::autograd::{Gradients, Param};
use warptune::device::Device;
use warptune::optim::{AdamW, AdamWSettings, States};
use warptune::tensor::{DType, Tensor};

use super::cases;
use crate::reference::adamw::{State, step};
use crate::reference::adamw8::{BLOCK, decoded, dynamic_map, largest_error, scales};
use crate::support::devices::{assert_no_reports, cuda, on_each};
use crate::support::random::Random;
use crate::support::{bits, under_thread_counts, values};

const UNIT: f64 = DType::F32.unit_roundoff();

fn settings() -> AdamWSettings {
    AdamWSettings { states: States::Blockwise8, ..AdamWSettings::default() }
}

fn vector(data: Vec<f32>) -> Tensor {
    let len = data.len();
    Tensor::from_f32(data, &[len])
}

fn gradients_of(param: &Param, grad: &Tensor) -> Gradients {
    let mut gradients = Gradients::new();
    gradients.add(param.id(), grad.to_device(param.value().device()).unwrap()).unwrap();
    gradients
}

fn saved(optimizer: &AdamW) -> BTreeMap<String, Tensor> {
    optimizer.state_tensors().unwrap().into_iter().collect()
}

/// The state of the parameter `p`, by part.
struct Coded {
    m: (Vec<u8>, Vec<f64>),
    v: (Vec<u8>, Vec<f64>),
}

impl Coded {
    fn of(state: &BTreeMap<String, Tensor>) -> Coded {
        let part = |name: &str| {
            let codes = state[&format!("{name}.p")].as_u8().unwrap().to_vec();
            (codes, values(&state[&format!("{name}_absmax.p")]))
        };
        Coded { m: part("exp_avg"), v: part("exp_avg_sq") }
    }

    fn zeros(n: usize) -> Coded {
        let zeros = || (vec![0; n], vec![0.0; n.div_ceil(BLOCK)]);
        Coded { m: zeros(), v: zeros() }
    }

    fn decoded(&self) -> [Vec<f64>; 2] {
        let [signed, unsigned] = [true, false].map(dynamic_map);
        [decoded(&signed, &self.m.0, &self.m.1), decoded(&unsigned, &self.v.0, &self.v.1)]
    }
}

/// What one step was given.
struct Given<'a> {
    settings: AdamWSettings,
    t: i32,
    lr: f64,
    p: &'a [f64],
    g: &'a [f64],
    before: &'a Coded,
}

/// Panics unless parameters and states are what the step in f64 makes of the decoded states before it: numbers to some roundings, codes the
/// nearest.
fn check_step(given: &Given<'_>, p: &[f64], after: &Coded, least_v: bool) {
    let Given { settings, t, lr, .. } = *given;
    let ((b1, b2), eps, decay) = (settings.betas, settings.eps, settings.weight_decay);
    let [m0, v0] = given.before.decoded();
    let mut exact = State { p: given.p.to_vec(), m: m0.clone(), v: v0 };
    step(&mut exact, given.g, t, lr, decay, (b1, b2), eps);
    let step_size = lr / (1.0 - b1.powi(t));
    for i in 0..p.len() {
        let root = (exact.v[i] / (1.0 - b2.powi(t))).sqrt() + eps;
        // Roundings of m are of numbers as large as its parts; those of the rest are of the step.
        let size = given.p[i].abs() + exact.p[i].abs() + step_size * (m0[i].abs() + given.g[i].abs()) / root;
        let error = (p[i] - exact.p[i]).abs();
        let tolerance = 16.0 * UNIT * size + f64::from(f32::MIN_POSITIVE);
        assert!(error <= tolerance, "step {t}, p[{i}] is {}, expected {} +- {tolerance:e}", p[i], exact.p[i]);
    }
    for (name, signed, (codes, absmax), exact, parts) in
        [("m", true, &after.m, &exact.m, &m0), ("v", false, &after.v, &exact.v, &vec![0.0; p.len()])]
    {
        let map = dynamic_map(signed);
        for (i, (&have, &want)) in absmax.iter().zip(&scales(exact)).enumerate() {
            let parts = parts[i * BLOCK..].iter().take(BLOCK).fold(want, |m: f64, x| m.max(x.abs()));
            assert!(
                (have - want).abs() <= 8.0 * UNIT * parts + 1e-37,
                "step {t}, {name}, scale {i}: {have}, {want}"
            );
        }
        for (i, (&code, &exact)) in codes.iter().zip(exact).enumerate() {
            let scale = absmax[i / BLOCK];
            if scale < 1e-30 {
                // Denormal numbers, or nothing to tell apart.
                continue;
            }
            let x = exact / scale;
            let distance = |code: u8| (map[usize::from(code)] - x).abs();
            let nearest = (0..=255).map(distance).fold(f64::INFINITY, f64::min);
            let rounding = 8.0 * UNIT * (x.abs() + parts[i].abs() / scale) + 1e-12;
            let raised = least_v && !signed && code == 1 && exact > 0.0;
            assert!(
                raised || distance(code) <= nearest + rounding,
                "step {t}, {name}[{i}] = {exact:e}, {x:e} of the scale, is code {code} ({:e}), {} off; the nearest is {nearest:e}",
                map[usize::from(code)],
                distance(code)
            );
            assert!(
                signed || !least_v || code > 0 || exact <= 1e-37,
                "step {t}, v[{i}] = {exact:e} became 0"
            );
        }
    }
}

fn golden<R>(f: impl FnOnce(&serde_json::Value, &dyn Fn(&str) -> Tensor) -> R) -> R {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/optim");
    let json = serde_json::from_slice(&std::fs::read(folder.join("adamw8.json")).unwrap()).unwrap();
    let data = std::fs::read(folder.join("adamw8.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&data).unwrap();
    f(&json, &|name| {
        let view = file.tensor(name).unwrap();
        match view.dtype() {
            safetensors::Dtype::U8 => Tensor::from_u8(view.data().to_vec(), view.shape()),
            _ => {
                let (words, _) = view.data().as_chunks::<4>();
                Tensor::from_f32(words.iter().map(|b| f32::from_le_bytes(*b)).collect(), view.shape())
            }
        }
    })
}

/// `numbers` of tools/golden/optim.py.
fn formula(n: usize, step: i64) -> Vec<f64> {
    let number = |i: i64| {
        ((i * i * 40503 + i * 9973 + step * 7_046_029) % (1 << 24)) as f64 / f64::from(1 << 24) - 0.5
    };
    (0..n as i64).map(number).collect()
}

/// `gradient` of tools/golden/optim.py.
fn formula_gradient(n: usize, step: i64) -> Vec<f32> {
    let mut g = formula(n, step);
    for (i, g) in g.iter_mut().enumerate() {
        *g *= 2f64.powi(-(i as i32 * 7 % 24));
        if i % 50 == 7 || step <= 2 && (512..768).contains(&i) {
            *g = 0.0;
        }
    }
    g.into_iter().map(|g| g as f32).collect()
}

/// Each step goes on from bitsandbytes' state before it, loaded as it is.
#[test]
fn the_steps_of_bitsandbytes_from_its_states() {
    golden(|json, stored| {
        let (n, lr) = (json["elements"].as_u64().unwrap() as usize, json["lr"].as_f64().unwrap());
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        let settings = AdamWSettings {
            betas: (number(&json["betas"][0]), number(&json["betas"][1])),
            eps: number(&json["eps"]),
            weight_decay: number(&json["weight_decay"]),
            ..settings()
        };
        let state_of = |step: u64| -> BTreeMap<String, Tensor> {
            let parts = [
                ("exp_avg", "state1"),
                ("exp_avg_absmax", "absmax1"),
                ("exp_avg_sq", "state2"),
                ("exp_avg_sq_absmax", "absmax2"),
            ];
            parts
                .into_iter()
                .map(|(ours, theirs)| (format!("{ours}.p"), stored(&format!("{theirs}.{step}"))))
                .collect()
        };
        on_each(|device| {
            for t in 1..=json["steps"].as_u64().unwrap() {
                let start = match t {
                    1 => vector(formula(n, 0).into_iter().map(|p| p as f32).collect()),
                    _ => stored(&format!("param.{}", t - 1)),
                };
                let param = Param::new("p", start.to_device(device).unwrap());
                let mut ours = AdamW::new(settings, vec![(param.clone(), true)]).unwrap();
                let before = if t == 1 { Coded::zeros(n) } else { Coded::of(&state_of(t - 1)) };
                if t > 1 {
                    ours.load_state(t - 1, state_of(t - 1)).unwrap();
                }
                let grad = vector(formula_gradient(n, t as i64));
                ours.step(lr, &gradients_of(&param, &grad)).unwrap();
                let given = Given {
                    settings,
                    t: t as i32,
                    lr,
                    p: &values(&start),
                    g: &values(&grad),
                    before: &before,
                };
                let (after, theirs) = (Coded::of(&saved(&ours)), Coded::of(&state_of(t)));
                check_step(&given, &values(&stored(&format!("param.{t}"))), &theirs, false);
                check_step(&given, &values(&param.value()), &after, true);
                // Codes are equal but for numbers between two of them, and the v that they make 0.
                let differ = |ours: &[u8], theirs: &[u8], absmax: &[f64]| {
                    let pairs = ours.iter().zip(theirs).enumerate();
                    let other = pairs.filter(|&(i, (a, b))| a != b && absmax[i / BLOCK] > 0.0);
                    other.map(|(_, (a, b))| (*a, *b)).collect::<Vec<_>>()
                };
                let m = differ(&after.m.0, &theirs.m.0, &after.m.1);
                assert!(m.len() <= n / 1000 && m.iter().all(|(a, b)| a.abs_diff(*b) == 1), "step {t}: {m:?}");
                let mut v = differ(&after.v.0, &theirs.v.0, &after.v.1);
                v.retain(|&pair| pair != (1, 0));
                assert!(v.len() <= n / 1000 && v.iter().all(|(a, b)| a.abs_diff(*b) == 1), "step {t}: {v:?}");
            }
        });
    });
}

/// Gradients of sizes that differ by `spread` binary orders within a block.
fn gradient(random: &mut Random, n: usize, size: f64, spread: u32) -> Vec<f64> {
    let normal = values(&random.tensor(&[n], DType::F32, 1.0));
    let sizes = normal.into_iter().enumerate();
    sizes
        .map(|(i, x)| f64::from((x * size * 2f64.powi(-((i * 5) as i32 % (spread as i32 + 1)))) as f32))
        .collect()
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn each_step_is_that_of_the_decoded_states(
        n in 4096usize..4700,
        (b1, b2) in (0.0f64..0.99, 0.5f64..0.9999),
        lr in 1e-5f64..0.1,
        decay in 0.0f64..0.2,
        (size, spread) in (1e-9f64..1e4, 0u32..30),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let settings = AdamWSettings { betas: (b1, b2), weight_decay: decay, ..settings() };
        let param = Param::new("p", random.tensor(&[n], DType::F32, 1.0));
        let mut ours = AdamW::new(settings, vec![(param.clone(), true)]).unwrap();
        for t in 1..=4 {
            let before = if t == 1 { Coded::zeros(n) } else { Coded::of(&saved(&ours)) };
            let (p, g) = (values(&param.value()), gradient(&mut random, n, size, spread));
            ours.step(lr, &gradients_of(&param, &vector(g.iter().map(|&g| g as f32).collect()))).unwrap();
            let given = Given { settings, t, lr, p: &p, g: &g, before: &before };
            check_step(&given, &values(&param.value()), &Coded::of(&saved(&ours)), true);
        }
    }

    /// What the states lose of a step: m at most 0.0071 of its block's largest, which dies away with beta1; v 0.0036, which adds up. The steps of
    /// the largest and the smallest m and v that this allows bound the parameters.
    #[test]
    fn many_steps_stay_within_the_bound_of_the_codes(
        lr in 1e-4f64..1e-2,
        size in 1e-4f64..10.0,
        b1 in 0.5f64..0.95,
        seed in any::<u64>(),
    ) {
        let (n, steps, b2, eps) = (4096, 25, 0.999, 1e-8);
        let mut random = Random::new(seed);
        let param = Param::new("p", random.tensor(&[n], DType::F32, 1.0));
        let settings = AdamWSettings { betas: (b1, b2), eps, ..settings() };
        let mut ours = AdamW::new(settings, vec![(param.clone(), false)]).unwrap();
        let start = values(&param.value());
        let mut exact = State { p: start.clone(), m: vec![0.0; n], v: vec![0.0; n] };
        let [of_m, of_v] = [true, false].map(|signed| largest_error(&dynamic_map(signed)) * (1.0 + 1e-5));
        assert!(of_m <= 0.0071 && of_v <= 0.0036);
        // How far states and parameters may be off; those of blocks' scales beside them.
        let (mut m_off, mut v_off, mut p_off) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        let mut loose = 0.0;
        for t in 1..=steps {
            // Of sizes from a quarter to 1, either sign.
            let g: Vec<f64> = values(&random.tensor(&[n], DType::F32, 1.0)).into_iter()
                .map(|x| f64::from((x.signum() * size * (0.25 + 0.75 * (x.abs() % 1.0))) as f32)).collect();
            ours.step(lr, &gradients_of(&param, &vector(g.iter().map(|&g| g as f32).collect()))).unwrap();
            step(&mut exact, &g, t, lr, 0.0, (b1, b2), eps);
            let (c1, c2) = (1.0 - b1.powi(t), 1.0 - b2.powi(t));
            for i in 0..n {
                (m_off[i], v_off[i]) = (b1 * m_off[i], b2 * v_off[i]);
                let (m, v) = (exact.m[i], exact.v[i]);
                let least = (v - v_off[i]).max((1.0 - b2) * g[i] * g[i]);
                let update = |m: f64, v: f64| lr * m / c1 / ((v / c2).sqrt() + eps);
                let corners = [m - m_off[i], m + m_off[i]].into_iter().flat_map(|m| [least, v + v_off[i]].map(|v| update(m, v)));
                p_off[i] += corners.map(|u| (u - update(m, v)).abs()).fold(0.0, f64::max);
            }
            let worst = |off: &[f64]| off.chunks(BLOCK).map(|x| x.iter().fold(0.0, |m: f64, &x| m.max(x))).collect::<Vec<f64>>();
            let (m_worst, v_worst) = (worst(&m_off), worst(&v_off));
            let (m_scale, v_scale) = (scales(&exact.m), scales(&exact.v));
            for i in 0..n {
                m_off[i] += of_m * (m_scale[i / BLOCK] + m_worst[i / BLOCK]);
                v_off[i] += of_v * (v_scale[i / BLOCK] + v_worst[i / BLOCK]);
            }
        }
        let p = values(&param.value());
        for i in 0..n {
            let bound = p_off[i] + 64.0 * UNIT * (start[i].abs() + f64::from(steps) * lr);
            let off = (p[i] - exact.p[i]).abs();
            assert!(off <= bound, "p[{i}] is {off:e} off, at most {bound:e} are allowed");
            loose += bound / (f64::from(steps) * lr * n as f64);
        }
        // The bound says something: less than a tenth of what steps of lr each move at the most.
        assert!(loose < 0.1, "{loose}");
        let norm = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
        let (off, moved) = (norm(&p, &exact.p), norm(&exact.p, &start));
        assert!(off < 0.03 * moved, "{off} off after a way of {moved}");
    }
}

/// Parameters of several chunks of a launch, of whole and of broken blocks, of the fewest elements in 8 bits and of one less, and of none.
fn params(random: &mut Random, device: Device, dtype: DType) -> Vec<Param> {
    let shapes: [&[usize]; 8] = [&[4096], &[4095], &[0], &[67, 65], &[5], &[17, 256], &[4097], &[129, 131]];
    let param = |(i, shape): (usize, &&[usize])| {
        Param::new(format!("p{i}"), random.tensor(shape, dtype, 1.0).to_device(device).unwrap())
    };
    shapes.iter().enumerate().map(param).collect()
}

/// The bits of parameters and states after steps; after `save_at` of them the state moves to a new optimizer. `g` makes a gradient of a random one.
fn run(
    device: Device,
    dtype: DType,
    settings: AdamWSettings,
    save_at: Option<u64>,
    g: impl Fn(f32) -> f32,
) -> Vec<Vec<u32>> {
    let mut random = Random::new(1);
    let params = params(&mut random, device, dtype);
    let decayed = || params.iter().enumerate().map(|(i, p)| (p.clone(), i % 2 == 0)).collect();
    let mut adam = AdamW::new(settings, decayed()).unwrap();
    for t in 0..4 {
        if save_at == Some(t) {
            let (steps, state) = (adam.steps(), saved(&adam));
            adam = AdamW::new(settings, decayed()).unwrap();
            adam.load_state(steps, state).unwrap();
        }
        let mut gradients = Gradients::new();
        for p in &params {
            let grad = random.tensor(p.value().shape(), DType::F32, 1.0);
            let grad = Tensor::from_f32(grad.as_f32().unwrap().iter().map(|&x| g(x)).collect(), grad.shape());
            gradients.add(p.id(), grad.to_device(device).unwrap()).unwrap();
        }
        adam.step(1e-3, &gradients).unwrap();
    }
    let state = adam.state_tensors().unwrap();
    params.iter().map(Param::value).chain(state.into_iter().map(|(_, t)| t)).map(|t| bits(&t)).collect()
}

#[test]
fn a_loaded_state_goes_on_with_the_same_bits_for_any_thread_count_and_on_any_device() {
    let settings = AdamWSettings { weight_decay: 0.1, seed: 5, ..settings() };
    let at_random = AdamWSettings { stochastic_rounding: true, ..settings };
    for (dtype, settings) in [(DType::F32, settings), (DType::BF16, settings), (DType::BF16, at_random)] {
        let [one, two, again] = under_thread_counts(|| run(Device::Cpu, dtype, settings, None, |x| x));
        assert!(one == two && two == again);
        assert!(run(Device::Cpu, dtype, settings, Some(2), |x| x) == one);
        for save_at in [None, Some(2)] {
            assert!(run(cuda(), dtype, settings, save_at, |x| x) == one, "{dtype} {settings:?}");
        }
        assert_no_reports();
    }
}

/// Gradients that are zero, huge, denormal or of every size, squares that overflow.
#[test]
fn extreme_gradients_have_the_same_bits_on_a_device() {
    type Of = fn(f32) -> f32;
    let sizes: [(&str, Of); 6] = [
        ("zero", |x| x * 0.0),
        ("tiny", |x| x * 1e-22),
        ("denormal", |x| x * 1e-40),
        ("huge", |x| x * 1e18),
        ("of every size", |x| x * 10f32.powf(x * 4.0)),
        ("some zero", |x| if x < 0.5 { 0.0 } else { x }),
    ];
    for (name, g) in sizes {
        let one = run(Device::Cpu, DType::F32, settings(), None, g);
        assert!(run(cuda(), DType::F32, settings(), None, g) == one, "{name}");
        for bits in one.iter().take(8).flatten() {
            assert!(f32::from_bits(*bits).is_finite(), "{name}");
        }
    }
    assert_no_reports();
}

#[test]
fn a_gradient_of_zeros_changes_nothing() {
    on_each(|device| {
        let start = Random::new(3).tensor(&[5000], DType::F32, 1.0);
        let param = Param::new("p", start.to_device(device).unwrap());
        let mut adam = AdamW::new(settings(), vec![(param.clone(), false)]).unwrap();
        let zeros = Tensor::zeros(&[5000], DType::F32);
        (0..3).for_each(|_| adam.step(0.1, &gradients_of(&param, &zeros)).unwrap());
        assert_eq!(bits(&param.value()), bits(&start));
        let [m, v] = Coded::of(&saved(&adam)).decoded();
        assert!(m.iter().chain(&v).all(|&x| x == 0.0));
    });
}

/// A gradient that vanishes leaves an m and a v; if v became 0 next to a large neighbour, steps would be m / eps.
#[test]
fn a_small_gradient_beside_a_large_one_makes_no_large_step() {
    on_each(|device| {
        let n = 4096;
        let param = Param::new("p", Tensor::zeros_on(device, &[n], DType::F32).unwrap());
        let mut adam = AdamW::new(settings(), vec![(param.clone(), false)]).unwrap();
        for t in 0..6 {
            // 1, and 1e-4, whose square is 1e-8 of the other; it is 0 from the second step on.
            let small = if t == 0 { 1e-4 } else { 0.0 };
            let grad = vector((0..n).map(|i| if i % 2 == 0 { 1.0 } else { small }).collect());
            adam.step(1e-3, &gradients_of(&param, &grad)).unwrap();
        }
        let largest = values(&param.value()).into_iter().fold(0.0, |m: f64, p| m.max(p.abs()));
        assert!(largest <= 6.001e-3, "{largest}");
    });
}

#[test]
fn a_block_that_is_not_finite_stays_so_and_is_alone() {
    let run = |device, bad: f32| {
        let n = 4096 + 100;
        let param = Param::new("p", Tensor::full_on(device, &[n], DType::F32, 1.0).unwrap());
        let mut adam = AdamW::new(settings(), vec![(param.clone(), false)]).unwrap();
        for t in 0..3 {
            let grad = (0..n).map(|i| if t == 0 && i == 300 { bad } else { 0.5 }).collect();
            adam.step(1e-3, &gradients_of(&param, &vector(grad))).unwrap();
        }
        values(&param.value())
    };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for device in [Device::Cpu, cuda()] {
            let p = run(device, bad);
            for (i, p) in p.iter().enumerate() {
                assert_eq!(p.is_nan(), i / BLOCK == 300 / BLOCK, "{device}: {bad}, p[{i}] is {p}");
            }
        }
    }
    assert_no_reports();
}

#[test]
fn small_tensors_keep_f32_and_sizes_are_what_is_said() {
    let params = params(&mut Random::new(2), Device::Cpu, DType::F32);
    let adam = AdamW::new(settings(), params.iter().map(|p| (p.clone(), false)).collect()).unwrap();
    let state = saved(&adam);
    for p in &params {
        let (n, name) = (p.value().numel(), p.name());
        for part in ["exp_avg", "exp_avg_sq"] {
            let (codes, absmax) =
                (&state[&format!("{part}.{name}")], state.get(&format!("{part}_absmax.{name}")));
            assert_eq!(codes.shape(), p.value().shape());
            if n < 4096 {
                assert!(codes.dtype() == DType::F32 && absmax.is_none());
            } else {
                assert_eq!(codes.dtype(), DType::U8);
                assert_eq!(absmax.unwrap().shape(), [n.div_ceil(BLOCK)]);
            }
        }
    }
}

#[test]
fn states_of_the_other_kind_are_refused_by_name() {
    let param = Param::new("p", Tensor::zeros(&[64, 64], DType::F32));
    let new =
        |states| AdamW::new(AdamWSettings { states, ..settings() }, vec![(param.clone(), true)]).unwrap();
    let (mut wide, mut coded) = (new(States::F32), new(States::Blockwise8));
    let error = coded.load_state(3, saved(&wide)).unwrap_err().to_string();
    assert!(
        error.contains("with f32 states; this one has 8-bit states") && error.contains("train.optimizer"),
        "{error}"
    );
    let error = wide.load_state(3, saved(&coded)).unwrap_err().to_string();
    assert!(
        error.contains("with 8-bit states; this one has f32 states") && error.contains("train.optimizer"),
        "{error}"
    );
    let mut state = saved(&coded);
    state.remove("exp_avg_absmax.p");
    assert!(coded.load_state(3, state).unwrap_err().to_string().contains("lacks 'exp_avg_absmax.p'"));
    let mut state = saved(&coded);
    state.insert("exp_avg_absmax.p".into(), Tensor::zeros(&[15], DType::F32));
    assert!(coded.load_state(3, state).unwrap_err().to_string().contains("expected f32 [16]"));
    assert_eq!((wide.steps(), coded.steps()), (0, 0), "nothing may have changed");
}

/// States in host memory, all of them or those that a device has no room for, change no bit.
#[test]
fn states_in_host_memory_have_the_same_bits() {
    let at_random = AdamWSettings { stochastic_rounding: true, ..settings() };
    for (dtype, settings) in [
        (DType::F32, settings()),
        (DType::BF16, settings()),
        (DType::BF16, at_random),
        (DType::BF16, AdamWSettings::default()),
    ] {
        let one = run(Device::Cpu, dtype, settings, None, |x| x);
        let device = cuda().cuda().unwrap();
        // No room, the rest of the device, and a little less than that.
        for reserve in [usize::MAX, 0, device.memory_room().unwrap().saturating_sub(100_000)] {
            let settings = AdamWSettings { paged: Some(reserve), ..settings };
            for save_at in [None, Some(2)] {
                assert!(run(cuda(), dtype, settings, save_at, |x| x) == one, "{dtype} {settings:?}");
            }
            assert!(run(Device::Cpu, dtype, settings, None, |x| x) == one, "on the CPU it means nothing");
        }
    }
    assert_no_reports();
}

#[test]
fn states_that_are_moved_away_between_steps_go_on_with_the_same_bits() {
    for states in [States::F32, States::Blockwise8] {
        let run = |device, paged, bytes: usize| {
            let mut random = Random::new(1);
            let params = params(&mut random, device, DType::BF16);
            let settings = AdamWSettings { states, paged, ..AdamWSettings::default() };
            let mut adam = AdamW::new(settings, params.iter().map(|p| (p.clone(), false)).collect()).unwrap();
            let mut moved = Vec::new();
            for _ in 0..3 {
                let mut gradients = Gradients::new();
                for p in &params {
                    let grad = random.tensor(p.value().shape(), DType::F32, 1.0);
                    gradients.add(p.id(), grad.to_device(device).unwrap()).unwrap();
                }
                adam.step(1e-3, &gradients).unwrap();
                moved.push(adam.page_out(bytes).unwrap());
            }
            let state = adam.state_tensors().unwrap().into_iter().map(|(_, t)| t);
            (params.iter().map(Param::value).chain(state).map(|t| bits(&t)).collect::<Vec<_>>(), moved)
        };
        let (expected, moved) = run(Device::Cpu, Some(0), usize::MAX);
        assert_eq!(moved, [false; 3], "the host has all");
        let found = run(cuda(), Some(0), 1);
        assert!(found.0 == expected && found.1 == [true; 3], "one at a time: {:?}", found.1);
        let found = run(cuda(), Some(0), usize::MAX);
        assert!(found.0 == expected && found.1 == [true, false, false], "all at once: {:?}", found.1);
        let found = run(cuda(), None, usize::MAX);
        assert!(found.0 == expected && found.1 == [false; 3], "not without being asked: {:?}", found.1);
    }
    assert_no_reports();
}

#[test]
fn states_in_host_memory_are_counted_there() {
    let param = Param::new("p", Tensor::zeros_on(cuda(), &[64, 100], DType::BF16).unwrap());
    for (states, average) in [(States::F32, 4), (States::Blockwise8, 1)] {
        let settings = AdamWSettings { states, paged: Some(usize::MAX), ..AdamWSettings::default() };
        let adam = AdamW::new(settings, vec![(param.clone(), false)]).unwrap();
        let host = cuda().cuda().unwrap().memory_stats().host;
        // Other tests may have some, too.
        assert!(host >= 6400 * (2 * average + 4), "{host} bytes");
        assert_eq!(adam.state_tensors().unwrap()[0].1.device(), Device::Cpu);
    }
    assert_no_reports();
}
