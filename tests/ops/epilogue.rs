//! Products with epilogues: residual, activations and gates, of plain linear layers and of such with adapters.

use proptest::prelude::*;
use warptune::Error;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::ops::add::add;
use warptune::ops::epilogue::Epilogue;
use warptune::ops::gelu::{GeluKind, gelu};
use warptune::ops::lora_matmul::{Lora, LoraStack, Segments, lora_matmul, lora_matmul_segmented};
use warptune::ops::matmul::matmul;
use warptune::ops::swiglu::swiglu;
use warptune::tensor::{DType, Tensor};

use super::{FLOATS, cases, float_types, half_type};
use crate::reference::dropout;
use crate::reference::epilogue::{KINDS, Kind};
use crate::reference::lora_matmul::{Runs, Shape, lora_segmented, lora_segmented_backward};
use crate::support::devices::{assert_no_reports, cuda, multiprocessors, on_each};
use crate::support::gradcheck::{
    Outcome, assert_deterministic, assert_repeatable, check_oracle, dot, run_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

const SEED: u64 = 11;
const STEP: u64 = 5;

/// The epilogue of a kind, whose operand is the last of `v`.
fn epilogue(kind: Kind, v: &[Var]) -> Epilogue<'_> {
    match kind {
        Kind::None => Epilogue::None,
        Kind::Residual => Epilogue::Residual(&v[v.len() - 1]),
        Kind::GeluErf => Epilogue::Gelu(GeluKind::Erf),
        Kind::GeluTanh => Epilogue::Gelu(GeluKind::Tanh),
        Kind::SwiGlu => Epilogue::SwiGlu(&v[v.len() - 1]),
    }
}

/// How a layer is adapted.
#[derive(Clone, Debug)]
enum Adapters {
    None,
    /// An adapter of this rank for all rows; the dropout of its input.
    One(usize, f32),
    /// Adapters of this rank for runs of rows.
    Several(usize, Vec<(usize, Option<usize>)>),
}

/// A layer, the types of x, of the weight and of the factors, and its epilogue.
#[derive(Clone, Debug)]
struct Case {
    size: [usize; 3],
    adapters: Adapters,
    types: [DType; 3],
    bias: bool,
    kind: Kind,
}

const SCALES: [f32; 2] = [1.5, -0.75];

impl Case {
    fn shape(&self) -> Shape {
        let [m, k, n] = self.size;
        let r = match self.adapters {
            Adapters::None => 0,
            Adapters::One(r, _) | Adapters::Several(r, _) => r,
        };
        Shape { m, k, n, r }
    }

    fn dropout(&self) -> f32 {
        if let Adapters::One(_, p) = self.adapters { p } else { 0.0 }
    }

    /// As the oracle takes it; one adapter that does nothing where there is none.
    fn runs(&self) -> Runs {
        match &self.adapters {
            Adapters::None => Runs { runs: vec![(self.size[0], None)], scales: vec![] },
            Adapters::One(..) => {
                Runs { runs: vec![(self.size[0], Some(0))], scales: vec![f64::from(SCALES[0])] }
            }
            Adapters::Several(_, runs) => {
                Runs { runs: runs.clone(), scales: SCALES.iter().map(|&s| f64::from(s)).collect() }
            }
        }
    }

    /// x, w, A and B if there are any, and perhaps a bias and an operand.
    fn inputs(&self, random: &mut Random) -> Vec<Tensor> {
        let (Shape { m, k, n, r }, [x, w, a]) = (self.shape(), self.types);
        let mut inputs =
            vec![random.tensor(&[m, k], x, 1.0), random.tensor(&[n, k], w, (k as f64).powf(-0.5))];
        match self.adapters {
            Adapters::None => {}
            Adapters::One(..) => {
                inputs.extend([random.tensor(&[r, k], a, 0.3), random.tensor(&[n, r], a, 0.3)])
            }
            Adapters::Several(..) => {
                inputs.extend([random.tensor(&[2, r, k], a, 0.3), random.tensor(&[2, n, r], a, 0.3)]);
            }
        }
        if self.bias {
            inputs.push(random.tensor(&[n], w, 1.0));
        }
        if self.kind.has_operand() {
            inputs.push(random.tensor(&[m, n], x, 2.0));
        }
        inputs
    }

    fn op(&self, tape: &Tape, v: &[Var]) -> warptune::Result<Var> {
        let epilogue = epilogue(self.kind, v);
        let bias = |i: usize| self.bias.then(|| &v[i]);
        match &self.adapters {
            Adapters::None => matmul(tape, &v[0], &v[1], bias(2), epilogue),
            Adapters::One(_, dropout) => {
                let lora = Lora { a: &v[2], b: &v[3], scale: SCALES[0], dropout: *dropout };
                lora_matmul(tape, &v[0], &v[1], bias(4), &lora, epilogue)
            }
            Adapters::Several(_, runs) => {
                let scales = Tensor::from_f32(SCALES.to_vec(), &[2]).to_device(v[0].value().device())?;
                let loras = LoraStack { a: &v[2], b: &v[3], scales: &scales, dropout: 0.0 };
                let segments = Segments::new(runs.iter().copied());
                lora_matmul_segmented(tape, &v[0], &v[1], bias(4), &loras, &segments, epilogue)
            }
        }
    }

    fn run(&self, device: Device, inputs: &[Tensor], dy: &Tensor) -> Outcome {
        run_at(device, Tape::training(SEED, STEP), inputs, dy, |_| true, |tape, v| self.op(tape, v)).unwrap()
    }

    /// Values and gradients on a device against the oracle, within what roundings may do: those of sums in f32 in any order, of z and dz
    /// to the type of x, of results; and those of pairs of bf16 or f16 (right to 2^-16), where u and v are such.
    fn check(&self, device: Device, inputs: &[Tensor], dy: &Tensor) {
        let (s, runs, dtype) = (self.shape(), self.runs(), self.types[0]);
        let mut v: Vec<Vec<f64>> = inputs.iter().map(values).collect();
        let operand = if self.kind.has_operand() { v.pop().unwrap_or_default() } else { Vec::new() };
        if matches!(self.adapters, Adapters::None) {
            v.splice(2..2, [Vec::new(), Vec::new()]);
        }
        let d = values(dy);
        let p = self.dropout();
        let keep = if p > 0.0 { dropout::mask(SEED, STEP << 32, p, s.m * s.k) } else { vec![1.0; s.m * s.k] };
        let (single, unit) = (DType::F32.unit_roundoff(), dtype.unit_roundoff());
        // Below 2^-14 numbers of f16 are 2^-24 apart.
        let least = if dtype == DType::F16 { 1.0 / f64::from(1 << 25) } else { 0.0 };
        let pairs = device == cuda() && dtype != DType::F32 && self.types[1] == dtype && s.r > 0;
        let of_sums = (s.m + s.k + s.n + s.r + 4) as f64 * single;
        let of_sums = of_sums + if pairs { DType::BF16.unit_roundoff() / 64.0 } else { 0.0 };

        let abs = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x.abs()).collect() };
        let sizes: Vec<Vec<f64>> = v.iter().map(|x| abs(x)).collect();
        let abs_runs = Runs { runs: runs.runs.clone(), scales: abs(&runs.scales) };
        let z = lora_segmented(&v, &keep, &runs, &s);
        let z_size = lora_segmented(&sizes, &keep, &abs_runs, &s);
        let z_error: Vec<f64> =
            z.iter().zip(&z_size).map(|(z, size)| of_sums * size + unit * z.abs() + least).collect();

        let y = self.kind.apply(&z, &operand);
        let [dz, doperand] = self.kind.backward(&z, &operand, &d);
        // The largest slope of y and of dy/dz in z (GELU's are 1.13 and 0.8), and what the functions' own arithmetic may do: e^x has an error
        // for each unit of |x|.
        let errors = (0..z.len()).map(|i| {
            let g = operand.get(i).copied().unwrap_or(0.0);
            let silu = g / (1.0 + (-g).exp());
            let (slope, curve, reach) = match self.kind {
                Kind::None | Kind::Residual => (1.0, 0.0, 0.0),
                Kind::GeluErf | Kind::GeluTanh => (1.14, 0.8, 1.0 + z[i].abs().powi(2)),
                Kind::SwiGlu => (silu.abs(), 0.0, 1.0 + g.abs()),
            };
            let own = 8.0 * single * reach;
            let of_y = slope * z_error[i] + own * y[i].abs() + (single + unit) * y[i].abs();
            let of_dz = curve * z_error[i] * d[i].abs()
                + own * d[i].abs()
                + if reach > 0.0 { unit * dz[i].abs() } else { 0.0 };
            // The slope of silu is at most 1.1.
            let of_doperand = match self.kind {
                Kind::SwiGlu => d[i].abs() * (1.1 * z_error[i] + own * z[i].abs()) + unit * doperand[i].abs(),
                _ => 0.0,
            };
            [of_y + least, of_dz + least, of_doperand + least]
        });
        let errors: Vec<[f64; 3]> = errors.collect();
        let error = |i: usize| -> Vec<f64> { errors.iter().map(|e| e[i]).collect() };
        let absolute = |x: &[f64]| Tolerance::rounding(DType::F32, 1.0 / single, x);

        let outcome = self.run(device, inputs, dy);
        assert_eq!(outcome.output.dtype(), dtype);
        assert_close(&format!("y of {self:?} on {device}"), &outcome.output, &y, &absolute(&error(0)));

        let exact = lora_segmented_backward(&v, &keep, &runs, &dz, &s);
        let of_dz = error(1);
        let largest: Vec<f64> = dz.iter().zip(&of_dz).map(|(dz, e)| dz.abs() + e).collect();
        let size = lora_segmented_backward(&sizes, &keep, &abs_runs, &largest, &s);
        let passed_on = lora_segmented_backward(&sizes, &keep, &abs_runs, &of_dz, &s);
        let names = ["dx", "dW", "dA", "dB", "dbias"];
        let there = [true, true, s.r > 0, s.r > 0, self.bias];
        for (input, i) in (0..5).filter(|&i| there[i]).enumerate() {
            let stored = if i == 0 { dtype } else { DType::F32 };
            let tolerance = absolute(&passed_on[i])
                .plus(Tolerance::rounding(DType::F32, of_sums / single, &size[i]))
                .plus(Tolerance::rounding(stored, 1.0, &exact[i]));
            let grad = outcome.grad(input);
            assert_eq!(grad.dtype(), stored);
            assert_close(&format!("{} of {self:?} on {device}", names[i]), grad, &exact[i], &tolerance);
        }
        if self.kind.has_operand() {
            let grad = outcome.grad(inputs.len() - 1);
            assert_eq!(grad.dtype(), dtype);
            assert_close(&format!("doperand of {self:?} on {device}"), grad, &doperand, &absolute(&error(2)));
        }
    }

    fn check_on(&self, device: Device, seed: u64) {
        let mut random = Random::new(seed);
        let inputs = self.inputs(&mut random);
        let dy = random.tensor(&[self.size[0], self.size[2]], self.types[0], 1.0);
        self.check(device, &inputs, &dy);
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    (0..KINDS.len()).prop_map(|i| KINDS[i])
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn values_and_gradients_match_the_oracle(
        size in (1usize..50, 1usize..60, 1usize..50),
        types in float_types::<3>(),
        adapter in proptest::option::of((1usize..12, prop_oneof![Just(0.0f32), 0.05f32..0.6])),
        bias in any::<bool>(),
        kind in kind(),
        seed in any::<u64>(),
    ) {
        let case = Case {
            size: size.into(),
            adapters: adapter.map_or(Adapters::None, |(r, p)| Adapters::One(r, p)),
            types,
            bias,
            kind,
        };
        on_each(|device| case.check_on(device, seed));
    }

    #[test]
    fn segments_match_the_oracle(
        (k, n, r) in (1usize..40, 1usize..40, 1usize..12),
        runs in proptest::collection::vec((0usize..30, proptest::option::of(0usize..2)), 1..6),
        types in float_types::<3>(),
        bias in any::<bool>(),
        kind in kind(),
        seed in any::<u64>(),
    ) {
        let m = runs.iter().map(|(len, _)| len).sum();
        let case = Case { size: [m, k, n], adapters: Adapters::Several(r, runs), types, bias, kind };
        on_each(|device| case.check_on(device, seed));
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let mut random = Random::new(1);
    let mut draw = || -> Vec<f64> { (0..20).map(|_| random.normal()).collect() };
    let (inputs, dy) = ([draw(), draw()], draw());
    for kind in KINDS {
        let inputs = &inputs[..1 + usize::from(kind.has_operand())];
        let of = |v: &[Vec<f64>], i: usize| v.get(i).cloned().unwrap_or_default();
        let grads = kind.backward(&inputs[0], &of(inputs, 1), &dy);
        check_oracle(inputs, &grads[..inputs.len()], |v| dot(&kind.apply(&v[0], &of(v, 1)), &dy));
    }
}

/// Every kernel that has an epilogue, with each: tiles of the tensor cores, with rows that start on 16 bytes and rows that do not; a k that
/// is split; a few rows; the ordinary cores; adapters with and without a mask.
#[test]
fn every_kernel() {
    let (b, f) = (DType::BF16, DType::F32);
    let one = |r, p| Adapters::One(r, p);
    let several = |r| Adapters::Several(r, vec![(40, Some(1)), (33, None), (60, Some(0))]);
    let few = Adapters::Several(9, vec![(2, Some(1)), (3, None), (5, Some(0))]);
    let layers = [
        ([130, 64, 136], Adapters::None, [b, b, b]),
        ([70, 33, 135], Adapters::None, [b, b, b]),
        ([20, 1056, 40], Adapters::None, [b, b, b]),
        ([33, 1111, 9], Adapters::None, [b, b, b]),
        ([5, 264, 33], Adapters::None, [b, b, b]),
        ([13, 75, 40], Adapters::None, [f, b, b]),
        ([3, 72, 40], Adapters::None, [b, f, b]),
        ([13, 75, 40], Adapters::None, [f, f, b]),
        ([70, 40, 67], Adapters::None, [f, f, f]),
        ([70, 40, 67], Adapters::None, [b, f, f]),
        ([130, 72, 136], one(16, 0.0), [b, b, f]),
        ([40, 67, 131], one(5, 0.2), [b, b, b]),
        ([7, 256, 40], one(8, 0.0), [b, b, f]),
        ([12, 128, 33], one(3, 0.0), [b, b, b]),
        ([66, 40, 70], one(9, 0.1), [f, b, f]),
        ([133, 48, 72], several(8), [b, b, b]),
        ([133, 48, 33], several(8), [f, f, f]),
        ([10, 64, 40], few, [b, b, f]),
    ];
    for (i, (size, adapters, types)) in layers.into_iter().enumerate() {
        for (j, kind) in KINDS.into_iter().enumerate() {
            // Each kernel meets both types of 16 bits.
            let types = types.map(|dtype| if dtype == b { half_type(i + j) } else { dtype });
            let case = Case { size, adapters: adapters.clone(), types, bias: (i + j) % 3 == 0, kind };
            case.check_on(cuda(), (5 * i + j) as u64);
            assert_no_reports();
        }
    }
}

/// Tiles that do not fill the device are made in pieces (tests/ops/stream_k.rs), whose sums get the epilogue: a wave and a little, pieces of
/// two tiles, a single tile; y's product and dx's; on both kinds of cores.
#[test]
fn tiles_in_pieces() {
    let (b, f) = (DType::BF16, DType::F32);
    let one = |r, p| Adapters::One(r, p);
    let several = Adapters::Several(8, vec![(40, Some(1)), (33, None), (60, Some(0))]);
    let slots = 2 * multiprocessors();
    let (more, less) = (slots * 128 + 5, slots * 3 / 5 * 128);
    let layers = [
        ([17, 1288, more], Adapters::None, [b, b, b], Kind::SwiGlu),
        ([18, 1281, more - 9], one(16, 0.0), [b, b, f], Kind::Residual),
        ([17, more + 3, 1288], one(5, 0.2), [b, b, b], Kind::GeluTanh),
        ([133, 2040, less / 2], several.clone(), [b, b, f], Kind::SwiGlu),
        ([133, less / 2 - 4, 2040], several, [b, b, b], Kind::Residual),
        ([20, 1056, 70], one(8, 0.0), [b, b, f], Kind::GeluErf),
        ([20, 70, 1061], one(8, 0.3), [b, b, f], Kind::SwiGlu),
        ([18, 1030, 67], Adapters::None, [f, f, f], Kind::SwiGlu),
        ([18, 1030, 140], one(9, 0.1), [f, f, f], Kind::Residual),
        ([130, 140, 1030], one(9, 0.1), [f, b, f], Kind::GeluErf),
        ([40, 67, 1030], one(4, 0.2), [b, f, f], Kind::None),
    ];
    for (i, (size, adapters, types, kind)) in layers.into_iter().enumerate() {
        let types = types.map(|dtype| if dtype == b { half_type(i) } else { dtype });
        let case = Case { size, adapters, types, bias: i % 2 == 0, kind };
        case.check_on(cuda(), i as u64);
        let mut random = Random::new(i as u64);
        let inputs = case.inputs(&mut random);
        let dy = random.tensor(&[size[0], size[2]], types[0], 1.0);
        assert!(case.run(cuda(), &inputs, &dy).bits() == case.run(cuda(), &inputs, &dy).bits(), "{case:?}");
        assert_no_reports();
    }
}

/// In f32 nothing is rounded between the product and the next op: fused or not, the bits are the same.
#[test]
fn in_f32_the_bits_are_those_of_separate_ops() {
    let mut random = Random::new(2);
    for m in [3, 40] {
        for kind in KINDS {
            let types = [DType::F32; 3];
            let case = Case { size: [m, 70, 45], adapters: Adapters::None, types, bias: true, kind };
            let (inputs, dy) = (case.inputs(&mut random), random.tensor(&[m, 45], DType::F32, 1.0));
            on_each(|device| {
                let separate = run_at(
                    device,
                    Tape::recording(),
                    &inputs,
                    &dy,
                    |_| true,
                    |tape, v| {
                        let z = matmul(tape, &v[0], &v[1], Some(&v[2]), Epilogue::None)?;
                        match kind {
                            Kind::None => Ok(z),
                            Kind::Residual => add(tape, &z, &v[3]),
                            Kind::GeluErf => gelu(tape, &z, GeluKind::Erf),
                            Kind::GeluTanh => gelu(tape, &z, GeluKind::Tanh),
                            Kind::SwiGlu => swiglu(tape, &v[3], &z),
                        }
                    },
                );
                let fused = case.run(device, &inputs, &dy);
                assert_eq!(fused.bits(), separate.unwrap().bits(), "{kind:?} of {m} rows on {device}");
            });
        }
    }
}

/// What nobody will ask for is not kept; what is made is the same.
#[test]
fn the_bits_of_inference_are_those_of_training() {
    let mut random = Random::new(3);
    for (m, adapters) in [(40, Adapters::None), (40, Adapters::One(4, 0.0)), (4, Adapters::One(4, 0.0))] {
        for (i, kind) in KINDS.into_iter().enumerate() {
            let half = half_type(i);
            let types = [half, half, DType::F32];
            let case = Case { size: [m, 64, 40], adapters: adapters.clone(), types, bias: true, kind };
            let (inputs, dy) = (case.inputs(&mut random), random.tensor(&[m, 40], half, 1.0));
            on_each(|device| {
                let trained = case.run(device, &inputs, &dy);
                let v: Vec<Var> =
                    inputs.iter().map(|x| Var::constant(x.to_device(device).unwrap())).collect();
                let inferred = case.op(&Tape::inference(), &v).unwrap();
                assert_eq!(bits(inferred.value()), bits(&trained.output), "{case:?} on {device}");
            });
        }
    }
}

/// Operands that do not start on 16 bytes, and rows of which only some do.
#[test]
fn an_operand_may_start_anywhere() {
    let mut random = Random::new(4);
    let shapes = [(40, 64, 45), (20, 1056, 44), (20, 1056, 45), (5, 64, 45), (140, 40, 9)];
    for (m, k, n) in shapes {
        for dtype in FLOATS {
            let [x, w] =
                [&[m, k], &[n, k]].map(|shape| random.tensor(shape, dtype, 0.3).to_device(cuda()).unwrap());
            let [x, w] = [x, w].map(Var::constant);
            let longer = random.tensor(&[m + 1, n], dtype, 1.0).to_device(cuda()).unwrap();
            let inside = longer.rows(1, m).unwrap();
            let alone = inside.to_device(Device::Cpu).unwrap().to_device(cuda()).unwrap();
            let [inside, alone] = [inside, alone].map(Var::constant);
            for of in [Epilogue::Residual, Epilogue::SwiGlu] {
                let run = |x: &Var, w: &Var, operand| {
                    bits(matmul(&Tape::inference(), x, w, None, of(operand)).unwrap().value())
                };
                assert_eq!(run(&x, &w, &inside), run(&x, &w, &alone), "{m} x {k} x {n} {dtype}");
            }
        }
    }
    assert_no_reports();
}

/// A value that several products use: each adds its gradient to what has arrived, in its own kernel, whichever types and paths there are.
#[test]
fn gradients_of_a_shared_input_are_added() {
    let mut random = Random::new(5);
    for (i, (m, k, n)) in [(40, 64, 72), (33, 45, 31), (5, 64, 40)].into_iter().enumerate() {
        let half = half_type(i);
        for (x_type, w_type) in [(half, half), (DType::F32, half), (half, DType::F32)] {
            let mut draw = |shape: &[usize], dtype, std| random.tensor(shape, dtype, std);
            let inputs = [
                draw(&[m, k], x_type, 1.0),
                draw(&[n, k], w_type, 0.2),
                draw(&[n, k], w_type, 0.2),
                draw(&[3, k], DType::F32, 0.2),
                draw(&[n, 3], DType::F32, 0.2),
            ];
            let dy = draw(&[m, n], x_type, 1.0);
            let op = |tape: &Tape, v: &[Var]| {
                let gate = matmul(tape, &v[0], &v[1], None, Epilogue::None)?;
                let lora = Lora { a: &v[3], b: &v[4], scale: 1.0, dropout: 0.0 };
                lora_matmul(tape, &v[0], &v[2], None, &lora, Epilogue::Residual(&gate))
            };
            let [w1, w2, a, b] = [1, 2, 3, 4].map(|i| values(&inputs[i]));
            let d = values(&dy);
            let (mut exact, mut size) = (vec![0.0; m * k], vec![0.0; m * k]);
            for i in 0..m {
                for j in 0..n {
                    for l in 0..k {
                        let of_adapter: f64 = (0..3).map(|r| b[j * 3 + r] * a[r * k + l]).sum();
                        let of_adapter_size: f64 = (0..3).map(|r| (b[j * 3 + r] * a[r * k + l]).abs()).sum();
                        let g = d[i * n + j];
                        exact[i * k + l] += g * (w1[j * k + l] + w2[j * k + l] + of_adapter);
                        let magnitude = w1[j * k + l].abs() + w2[j * k + l].abs() + of_adapter_size;
                        size[i * k + l] += g.abs() * magnitude;
                    }
                }
            }
            on_each(|device| {
                let outcome = run_at(device, Tape::recording(), &inputs, &dy, |_| true, op).unwrap();
                // Each of the two parts may have been rounded before they are added.
                let tolerance = Tolerance::rounding(DType::F32, (n + k) as f64, &size)
                    .plus(Tolerance::rounding(DType::BF16, 1.0 / 64.0, &size))
                    .plus(Tolerance::rounding(x_type, 3.0, &size));
                assert_close(&format!("dx on {device}"), outcome.grad(0), &exact, &tolerance);
                assert_eq!(outcome.grad(0).dtype(), x_type);
            });
        }
    }
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(6);
    for adapters in [Adapters::None, Adapters::One(8, 0.1)] {
        for (i, kind) in KINDS.into_iter().enumerate() {
            let half = half_type(i);
            let types = [half, half, DType::F32];
            let case = Case { size: [67, 130, 95], adapters: adapters.clone(), types, bias: true, kind };
            let (inputs, dy) = (case.inputs(&mut random), random.tensor(&[67, 95], half, 1.0));
            let tape = || Tape::training(SEED, STEP);
            assert_deterministic(&inputs, &dy, tape, |tape, v| case.op(tape, v));
            assert_repeatable(cuda(), &inputs, &dy, tape, |tape, v| case.op(tape, v));
        }
    }
    assert_no_reports();
}

#[test]
fn no_rows() {
    for kind in KINDS {
        let types = [DType::BF16, DType::BF16, DType::F32];
        for adapters in [Adapters::None, Adapters::One(2, 0.1)] {
            let case = Case { size: [0, 5, 4], adapters, types, bias: true, kind };
            on_each(|device| {
                let inputs = case.inputs(&mut Random::new(7));
                let outcome = case.run(device, &inputs, &Tensor::zeros(&[0, 4], DType::BF16));
                assert_eq!(outcome.output.shape(), [0, 4]);
                assert_eq!(outcome.grad(0).shape(), [0, 5]);
                assert!(values(outcome.grad(1)).iter().all(|&g| g == 0.0));
            });
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let tape = Tape::inference();
    let var = |shape: &[usize], dtype| Var::constant(Tensor::zeros(shape, dtype));
    let (x, w) = (var(&[2, 3], DType::F32), var(&[4, 3], DType::F32));
    let short = var(&[4], DType::F32);
    let error = matmul(&tape, &x, &w, None, Epilogue::Residual(&short)).unwrap_err();
    assert_eq!(error.to_string(), "matmul: residual [4] for a product [2, 4]");
    let half = var(&[2, 4], DType::BF16);
    let error = matmul(&tape, &x, &w, None, Epilogue::SwiGlu(&half)).unwrap_err();
    assert_eq!(error.to_string(), "matmul: bf16 gate for a f32 product");
    let (a, b) = (var(&[1, 3], DType::F32), var(&[4, 1], DType::F32));
    let lora = Lora { a: &a, b: &b, scale: 1.0, dropout: 0.0 };
    let error = lora_matmul(&tape, &x, &w, None, &lora, Epilogue::SwiGlu(&short)).unwrap_err();
    assert!(matches!(error, Error::Shape { op: "lora_matmul", .. }), "{error}");
}
