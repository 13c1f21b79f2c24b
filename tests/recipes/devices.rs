//! Whole runs on the CUDA device against the same runs on the CPU.

use std::ops::ControlFlow;
use std::path::Path;

use warptune::data::{OverLong, SftOptions};
use warptune::device::Device;
use warptune::formats::peft::{LoraConfig, Targets};
use warptune::generate::{GenerateOptions, generate};
use warptune::optim::States;
use warptune::optim::schedule::ScheduleKind;
use warptune::peft::lora;
use warptune::tensor::DType;
use warptune::train::base_model::{self, BaseModel};
use warptune::train::launch::Start;
use warptune::train::metrics::Record;
use warptune::train::options::{TrainOptions, Warmup};
use warptune::train::recipes::sft::{DataOptions, Method, Options, run};

use super::options;
use super::sft::{computed, launch, lora as lora_method, sft};
use crate::support::devices::{assert_no_reports, cuda};
use crate::support::tiny::Tiny;

fn losses(run: &Path) -> Vec<f64> {
    computed(run).iter().flat_map(|r: &Record| [r.loss, r.eval_loss]).flatten().collect()
}

/// How far losses may be apart, relative to their size: eight roundings, as golden losses may be. What a step does to the parameters carries
/// errors on, but these runs are tame: 1.2e-7 was the largest difference seen, twenty steps included.
const BOUND: f64 = 8.0 / (1u64 << 24) as f64;

#[test]
fn losses_are_those_of_the_cpu() {
    let tiny = Tiny::new();
    for (name, method) in [("lora", lora_method()), ("full", Method::Full)] {
        let runs = [Device::Cpu, cuda()].map(|device| {
            let output = format!("{name}-{device}").replace(':', "-");
            let options = Options { device, ..sft(&tiny, method.clone(), &output) };
            run(&options, &launch(Start::New)).unwrap();
            losses(&options.output)
        });
        assert_eq!(runs[0].len(), 23, "20 losses, 3 evaluations");
        for (step, (cpu, device)) in runs[0].iter().zip(&runs[1]).enumerate() {
            assert!((cpu - device).abs() <= BOUND * cpu, "{name}, value {step}: {cpu} and {device}");
        }
    }
    assert_no_reports();
}

#[test]
fn runs_repeat_and_resume_bit_for_bit() {
    let tiny = Tiny::new();
    let full = (DType::F32, Method::Full, "model/model.safetensors");
    let lora = |dtype| (dtype, lora_method(), "adapter/adapter_model.safetensors");
    for (kind, states, paged, (dtype, method, result)) in [
        ("lora", States::F32, false, lora(DType::F32)),
        ("lora-bf16", States::F32, false, lora(DType::BF16)),
        ("full", States::F32, false, full.clone()),
        ("full-8bit", States::Blockwise8, true, full),
    ] {
        let options = |name: &str| {
            let base = sft(&tiny, method.clone(), &format!("{kind}-{name}"));
            let steps =
                TrainOptions { max_steps: Some(6), save_every: 3, keep_last: 0, ..base.train.clone() };
            let train = TrainOptions { states, paged, ..steps };
            Options { device: cuda(), dtype, train, ..base }
        };
        let weights = |options: &Options| std::fs::read(options.output.join(result)).unwrap();
        let (first, second) = (options("first"), options("second"));
        run(&first, &launch(Start::New)).unwrap();
        run(&second, &launch(Start::New)).unwrap();
        assert!(computed(&first.output) == computed(&second.output), "{kind}");
        assert!(weights(&first) == weights(&second), "{kind}: two runs end with other weights");
        // Again from the middle.
        let point = second.output.join("checkpoints/checkpoint-3");
        run(&second, &launch(Start::Checkpoint(point))).unwrap();
        assert!(computed(&first.output) == computed(&second.output), "{kind}");
        assert!(weights(&first) == weights(&second), "{kind}: the resumed run ends with other weights");
    }
    assert_no_reports();
}

#[test]
fn a_merged_model_is_saved_from_the_device_as_from_the_host() {
    let tiny = Tiny::new();
    let options = sft(&tiny, lora_method(), "run");
    run(&options, &launch(Start::New)).unwrap();
    let [host, device] = [Device::Cpu, cuda()].map(|device| {
        let mut model = base_model::load(&tiny.model(), DType::F32).unwrap().model;
        model.to_device(device).unwrap();
        lora::load(&mut model, &options.output.join("adapter")).unwrap();
        lora::merge(&mut model).unwrap();
        assert_eq!(model.device(), device);
        let folder = tiny.path(&format!("merged-{}", device.to_string().replace(':', "-")));
        model.save(&folder).unwrap();
        std::fs::read(folder.join("model.safetensors")).unwrap()
    });
    assert!(host == device);
}

/// The quickstart's fine-tuning, 20 steps, with sequences of 128 tokens one at a time (the emulated device takes seconds a step); then
/// greedy answers of both models.
#[test]
fn the_quickstarts_training_and_answers_are_those_of_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let base = assets.join("base");
    let answers = [Device::Cpu, cuda()].map(|device| {
        let config = LoraConfig::new(16, 32.0, Targets::AllLinear);
        let options = Options {
            model: base.display().to_string(),
            dtype: DType::F32,
            quantization: None,
            loftq: 0,
            method: Method::Lora(Box::new(config)),
            data: DataOptions {
                train: assets.join("couplets.jsonl"),
                validation: None,
                validation_fraction: 0.0,
                packing: true,
                examples: SftOptions { max_tokens: 128, over_long: OverLong::Drop, ..SftOptions::default() },
            },
            train: TrainOptions {
                learning_rate: 1.5e-3,
                schedule: ScheduleKind::Cosine,
                warmup: Warmup::Steps(10),
                clip_norm: Some(1.0),
                batch_size: 1,
                ..options()
            },
            output: folder.path().join(device.to_string().replace(':', "-")),
            device,
        };
        run(&options, &launch(Start::New)).unwrap();
        let BaseModel { mut model, tokenizer } = base_model::load(&base, DType::F32).unwrap();
        model.to_device(device).unwrap();
        lora::load(&mut model, &options.output.join("adapter")).unwrap();
        let prompt = tokenizer.encode("Speak of the night.", true).unwrap();
        let greedy = GenerateOptions { max_new_tokens: 12, ..GenerateOptions::default() };
        let answer = generate(&model, &[prompt], &greedy, &mut |_, _| ControlFlow::Continue(())).unwrap();
        (losses(&options.output), answer)
    });
    let [(cpu, host), (device, there)] = &answers;
    assert_eq!((cpu.len(), host[0].ids.len()), (20, 12));
    for (step, (a, b)) in cpu.iter().zip(device).enumerate() {
        assert!((a - b).abs() <= BOUND * a, "step {step}: {a} and {b}");
    }
    assert_eq!(host, there, "greedy answers");
    assert_no_reports();
}
