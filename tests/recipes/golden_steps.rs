//! Ten optimizer steps against PyTorch's, through the training step itself.

use serde_json::Value;
use warptune::autograd::Param;
use warptune::device::Device;
use warptune::formats::Architecture;
use warptune::models::Decoder;
use warptune::peft::lora;
use warptune::tensor::DType;
use warptune::train::options::TrainOptions;
use warptune::train::step::{Stepper, Window};

use super::options;
use crate::support::devices::{assert_no_reports, cuda};
use crate::support::golden::{Golden, MODELS, QUANTIZED, assert_near};

/// Runs the golden file's ten steps on the parameters of the model that `load` gives, and compares the loss of each, and what they end as.
///
/// The same steps on the CUDA device each begin at the CPU's parameters. Left to itself a second f32 run ends elsewhere: AdamW gives a
/// tiny gradient whose sign rounding turned a whole step, so that half a rounding of the first weights, on the CPU alone, moves the last
/// ones by up to 25 times PyTorch's own error. That runs on the device stay with the CPU's where they can is tested in `devices`.
fn check(golden: &Golden, results: &str, on_device: bool, load: impl Fn(Device) -> (Decoder, Vec<Param>)) {
    let (model, params) = load(Device::Cpu);
    let there = on_device.then(|| load(cuda()));
    let path = golden.folder().join(results);
    let results: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let adamw = &results["adamw"];
    let number = |value: &Value| value.as_f64().unwrap();
    let options = TrainOptions {
        learning_rate: number(&adamw["lr"]),
        weight_decay: number(&adamw["weight_decay"]),
        beta1: number(&adamw["betas"][0]),
        beta2: number(&adamw["betas"][1]),
        epsilon: number(&adamw["eps"]),
        ..options()
    };
    let numbers = |value: &Value| value.as_array().unwrap().iter().map(number).collect::<Vec<f64>>();
    let (f32_run, f64_run) = (numbers(&results["adamw_losses"]), numbers(&results["f64"]["adamw_losses"]));
    // Twice PyTorch's worst error from the f64 run (errors of a step live on in later ones), or eight roundings.
    let worst = f32_run.iter().zip(&f64_run).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);

    let mut stepper = Stepper::new(params.iter().map(|p| (p.clone(), true)).collect(), &options).unwrap();
    let (batch, labels, denominator) = (golden.batch(), golden.labels(), golden.denominator());
    for (i, expected) in f64_run.iter().enumerate() {
        for (copy, param) in there.iter().flat_map(|(_, copies)| copies).zip(&params) {
            copy.update(|value| {
                *value = param.value().to_device(cuda())?;
                Ok(())
            })
            .unwrap();
        }
        let window = Window {
            batches: &[()],
            labelled: denominator as usize,
            step: i as u64 + 1,
            micro_step: i as u64,
        };
        let on = |model: &Decoder, stepper: &mut Stepper| {
            let loss = |tape: &_, (): &(), denominator| model.loss(tape, &batch, &labels, denominator);
            stepper.step(&window, options.learning_rate, &loss).unwrap()
        };
        let report = on(&model, &mut stepper);
        let on_device = there.as_ref().map(|(there, copies)| {
            let copies = copies.iter().map(|p| (p.clone(), true)).collect();
            on(there, &mut Stepper::new(copies, &options).unwrap())
        });
        if let Some(on_device) = &on_device {
            // A loss is the difference of two numbers of the size of an untrained model's, the logarithm of the vocabulary.
            let roundings = 8.0 * DType::F32.unit_roundoff() * f64_run[0];
            let (a, b) = (report.loss, on_device.loss);
            assert!((a - b).abs() <= roundings, "{path:?} step {i}: {a}, and {b} on the device");
        }
        let allowed = 2.0 * worst + 8.0 * DType::F32.unit_roundoff() * expected;
        let error = (report.loss - expected).abs();
        assert!(error <= allowed, "{path:?} step {i}: {}, expected {expected} +- {allowed:e}", report.loss);
        if i == 0 {
            golden.assert_scalar("grad_norm", report.grad_norm);
            on_device.iter().for_each(|report| golden.assert_scalar("grad_norm", report.grad_norm));
        }
    }
    // AdamW divides small gradients by their own size, so it blows up the rounding errors of single elements: which ones is
    // chance. PyTorch's worst over all parameters is what one may expect in any.
    let finals = golden.names("final.");
    let error = |name: &&str| number(&results["f32_error"][format!("final.{name}")]);
    let worst = finals.iter().map(error).fold(0.0, f64::max);
    for name in finals {
        let param = params.iter().find(|p| p.name() == name).unwrap();
        let ours = param.value().fetch_f32().unwrap();
        let expected = &golden.tensor(&format!("final.{name}")).values;
        match model.config().architecture == Architecture::Gpt2
            && name.starts_with("transformer.h.")
            && name.ends_with(".weight")
        {
            // Conv1D: stored transposed.
            true => assert_near(name, &transposed(&ours, param.value().shape()), expected, 3.0 * worst),
            false => assert_near(name, &ours, expected, 3.0 * worst),
        }
    }
    assert_no_reports();
}

fn transposed(values: &[f32], shape: &[usize]) -> Vec<f32> {
    let &[rows, columns] = shape else { panic!("a matrix expected") };
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

#[test]
fn every_weight() {
    for name in MODELS {
        let golden = Golden::open(name);
        check(&golden, "golden.json", true, |device| {
            let model = golden.model_at(device);
            model.set_trainable(true);
            let params = model.parameters();
            (model, params)
        });
    }
}

#[test]
fn adapters() {
    for name in MODELS {
        let golden = Golden::open_lora(name);
        check(&golden, "lora.json", true, |device| {
            let mut model = golden.model_at(device);
            lora::load(&mut model, &golden.adapter()).unwrap();
            let params = lora::adapter_parameters(&model);
            (model, params)
        });
    }
}

/// On models whose linear layers are in 4-bit blocks; on the CPU.
#[test]
fn adapters_on_4_bits() {
    for name in QUANTIZED {
        let golden = Golden::open_quantized(name, "lora");
        check(&golden, "lora.json", false, |device| {
            let mut model = golden.model_at(device);
            lora::load(&mut model, &golden.adapter()).unwrap();
            let params = lora::adapter_parameters(&model);
            (model, params)
        });
    }
}
