//! Gradients: the oracle's against finite differences in f64, the engine's by driving any op through the tape.

use warptune::Result;
use warptune::autograd::{Gradients, Tape, Var};
use warptune::device::Device;
use warptune::tensor::Tensor;

/// An op's output, and the gradient of each of its inputs (`None` where none arrived).
pub struct Outcome {
    pub output: Tensor,
    pub grads: Vec<Option<Tensor>>,
}

impl Outcome {
    /// The gradient of input `i`.
    #[track_caller]
    pub fn grad(&self, i: usize) -> &Tensor {
        self.grads[i].as_ref().unwrap_or_else(|| panic!("no gradient arrived at input {i}"))
    }

    /// All bits of all results.
    pub fn bits(&self) -> Vec<Vec<u32>> {
        std::iter::once(&self.output).chain(self.grads.iter().flatten()).map(super::bits).collect()
    }
}

/// Runs `op` on `inputs` on a given tape, then the backward with the output's gradient `seed`; only the inputs that `wanted` says
/// require a gradient.
pub fn forward_backward_on(
    tape: Tape,
    inputs: &[Tensor],
    seed: &Tensor,
    wanted: impl Fn(usize) -> bool,
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
) -> Result<Outcome> {
    run_at(Device::Cpu, tape, inputs, seed, wanted, op)
}

/// As [`forward_backward_on`] with all gradients, on a device.
pub fn forward_backward_at(
    device: Device,
    inputs: &[Tensor],
    seed: &Tensor,
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
) -> Result<Outcome> {
    run_at(device, Tape::recording(), inputs, seed, |_| true, op)
}

/// As [`forward_backward_on`] on a device, where the inputs are moved to and the results come back from.
pub fn run_at(
    device: Device,
    tape: Tape,
    inputs: &[Tensor],
    seed: &Tensor,
    wanted: impl Fn(usize) -> bool,
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
) -> Result<Outcome> {
    let mut vars = Vec::new();
    for (i, x) in inputs.iter().enumerate() {
        let x = x.to_device(device)?;
        vars.push(if wanted(i) { tape.input(x) } else { Var::constant(x) });
    }
    let output = op(&tape, &vars)?;
    let leaves: Vec<usize> = (0..vars.len()).filter(|&i| wanted(i)).collect();
    let refs: Vec<&Var> = leaves.iter().map(|&i| &vars[i]).collect();
    let mut grads: Vec<Option<Tensor>> = vec![None; vars.len()];
    if output.requires_grad() {
        let seed = seed.to_device(device)?;
        let found = tape.backward_inputs(&output, seed, &refs, &mut Gradients::new())?;
        for (i, grad) in leaves.into_iter().zip(found) {
            grads[i] = grad.map(|grad| on(device, grad)).transpose()?;
        }
    }
    Ok(Outcome { output: on(device, output.into_value())?, grads })
}

/// The host's copy of a result that has to be on `device`.
fn on(device: Device, result: Tensor) -> Result<Tensor> {
    assert_eq!(result.device(), device, "a result is on another device than the operands");
    result.to_device(Device::Cpu)
}

/// Panics unless `grads` are the derivatives of the f64 function `f`, by central differences. Large inputs are sampled: at
/// most 64 elements of each.
#[track_caller]
pub fn check_oracle(inputs: &[Vec<f64>], grads: &[Vec<f64>], f: impl Fn(&[Vec<f64>]) -> f64) {
    assert_eq!(inputs.len(), grads.len());
    let mut inputs = inputs.to_vec();
    for k in 0..inputs.len() {
        assert_eq!(inputs[k].len(), grads[k].len(), "gradient of input {k}");
        let stride = inputs[k].len().div_ceil(64).max(1);
        // An error of one element is judged against the size of the whole gradient: cancellation in f is of that size.
        let scale = grads[k].iter().fold(1e-3, |m: f64, g| m.max(g.abs()));
        for i in (0..inputs[k].len()).step_by(stride) {
            let x = inputs[k][i];
            let h = 1e-4 * x.abs().max(1e-1);
            let mut at = |v: f64| {
                inputs[k][i] = v;
                f(&inputs)
            };
            // Fourth order: the truncation error is about h^4 f''''' / 30.
            let slope = (8.0 * (at(x + h) - at(x - h)) - (at(x + 2.0 * h) - at(x - 2.0 * h))) / (12.0 * h);
            inputs[k][i] = x;
            let err = (slope - grads[k][i]).abs();
            assert!(
                err <= 1e-6 * scale,
                "oracle gradient {i} of input {k} is {}, finite differences say {slope}",
                grads[k][i]
            );
        }
    }
}

/// sum_i seed_i y_i: the scalar whose gradient a backward with `seed` computes.
pub fn dot(y: &[f64], seed: &[f64]) -> f64 {
    assert_eq!(y.len(), seed.len());
    y.iter().zip(seed).map(|(a, b)| a * b).sum()
}

/// Panics unless two runs on a device give the same bits of output and gradients.
#[track_caller]
pub fn assert_repeatable(
    device: Device,
    inputs: &[Tensor],
    seed: &Tensor,
    tape: impl Fn() -> Tape,
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
) {
    let run = || run_at(device, tape(), inputs, seed, |_| true, &op).unwrap().bits();
    assert!(run() == run(), "two runs differ on {device}");
}

/// Panics unless two runs, and runs with one and with two threads, give the same bits of output and gradients.
#[track_caller]
pub fn assert_deterministic(
    inputs: &[Tensor],
    seed: &Tensor,
    tape: impl Fn() -> Tape + Sync,
    op: impl Fn(&Tape, &[Var]) -> Result<Var> + Sync,
) {
    let run = || forward_backward_on(tape(), inputs, seed, |_| true, &op).unwrap().bits();
    let [one, two, again] = super::under_thread_counts(run);
    assert!(one == two, "the result depends on the number of threads");
    assert!(two == again, "two runs differ");
}
