//! Fine-tuning on weights in 4 bits.

use warptune::Error;
use warptune::device::Device;
use warptune::formats::Checkpoint;
use warptune::formats::peft::Adapter;
use warptune::models::quantize_checkpoint;
use warptune::ops::quantize::Quantization;
use warptune::peft::lora;
use warptune::tensor::{DType, QuantKind};
use warptune::text::TextTokenizer;
use warptune::train::base_model;
use warptune::train::launch::Start;
use warptune::train::options::TrainOptions;
use warptune::train::recipes::sft::{Method, Options, run};

use super::options;
use super::sft::{computed, launch, lora as lora_method, losses, sft};
use crate::support::devices::{assert_no_reports, cuda};
use crate::support::tiny::Tiny;

/// QLoRA: the same run with the frozen weights in 4 bits learns as well, resumes to the same bits, and refuses to train what it cannot.
#[test]
fn adapters_on_4_bits() {
    let tiny = Tiny::sized(64, 2);
    let how = Quantization::new(QuantKind::Nf4);
    let quantized = Options { quantization: Some(how), ..sft(&tiny, lora_method(), "quantized") };
    for options in [&quantized, &sft(&tiny, lora_method(), "plain")] {
        run(options, &launch(Start::New)).unwrap();
    }
    let losses = |folder: &str| losses(&tiny.path(folder)).0;
    let (ours, plain) = (losses("quantized"), losses("plain"));
    assert_eq!(ours.len(), plain.len());
    assert!(ours != plain, "the weights differ");
    let (first, last) = (ours[0], ours[ours.len() - 1]);
    assert!(last < first, "{first} -> {last}");
    // As far as without: the weights are about the same.
    assert!((first / plain[0] - 1.0).abs() < 0.1, "{first} {}", plain[0]);

    let error = run(&Options { method: Method::Full, ..quantized.clone() }, &launch(Start::New)).unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
    // From a folder that is quantized already, the same bits.
    let checkpoint = Checkpoint::open(&tiny.model()).unwrap();
    let folder = tiny.path("folder");
    quantize_checkpoint(&checkpoint, &checkpoint.config().unwrap(), &how, &folder).unwrap();
    TextTokenizer::load(tiny.model()).unwrap().save(&folder).unwrap();
    let from_folder = Options {
        model: folder.display().to_string(),
        quantization: None,
        loftq: 0,
        ..sft(&tiny, lora_method(), "from_folder")
    };
    run(&from_folder, &launch(Start::New)).unwrap();
    assert_eq!(losses("from_folder"), ours);
    let error = run(&Options { method: Method::Full, ..from_folder }, &launch(Start::New)).unwrap_err();
    assert!(error.to_string().contains("4 bits"), "{error}");
}

fn quantized(tiny: &Tiny, loftq: usize, output: &str) -> Options {
    let quantization = Some(Quantization::new(QuantKind::Nf4));
    Options { quantization, loftq, ..sft(tiny, lora_method(), output) }
}

/// Layers of a model in 4 bits are computed again in the backward unless the config says no; it changes no bit.
#[test]
fn layers_are_recomputed_by_default() {
    let tiny = Tiny::sized(64, 2);
    let with = |name: &str, gradient_checkpointing| {
        let base = quantized(&tiny, 0, name);
        Options { train: TrainOptions { gradient_checkpointing, ..options() }, ..base }
    };
    for (name, choice) in [("usual", None), ("on", Some(true)), ("off", Some(false))] {
        run(&with(name, choice), &launch(Start::New)).unwrap();
        assert!(computed(&tiny.path("usual")) == computed(&tiny.path(name)), "{name}");
    }
    let model = |quantization: Option<&Quantization>| {
        base_model::load_with(&tiny.model(), DType::F32, quantization).unwrap().model
    };
    let (dense, in_4_bits) = (model(None), model(Some(&Quantization::new(QuantKind::Nf4))));
    let choose = |gradient_checkpointing| TrainOptions { gradient_checkpointing, ..options() };
    assert!(choose(None).checkpoints_layers(&in_4_bits) && !choose(None).checkpoints_layers(&dense));
    assert!(choose(Some(true)).checkpoints_layers(&dense));
    assert!(!choose(Some(false)).checkpoints_layers(&in_4_bits));
}

/// LoftQ: the adapters start as it found them, and runs resume to the same bits, also on a base that it changed.
#[test]
fn loftq_starts_and_resumes() {
    let tiny = Tiny::sized(64, 2);
    for (name, loftq) in [("plain", 0), ("once", 1), ("often", 4)] {
        run(&quantized(&tiny, loftq, name), &launch(Start::New)).unwrap();
    }
    let first = |name: &str| losses(&tiny.path(name)).1[0];
    assert!(first("plain") != first("once") && first("once") != first("often"));

    for (name, loftq) in [("once", 1), ("often", 4)] {
        let output = format!("{name}-again");
        let again = quantized(&tiny, loftq, &output);
        let again = Options { train: TrainOptions { save_every: 5, keep_last: 0, ..again.train }, ..again };
        run(&again, &launch(Start::New)).unwrap();
        let point = again.output.join("checkpoints/checkpoint-10");
        run(&again, &launch(Start::Checkpoint(point))).unwrap();
        assert!(computed(&again.output) == computed(&tiny.path(name)), "{name}");
        // With one iteration the base is what quantizing gives, with more it lies in the run folder; the adapter says so.
        let base = again.output.join("base");
        assert_eq!(base.join("model.safetensors").is_file(), loftq > 1, "{name}");
        let adapter = again.output.join("adapter");
        let named = Adapter::open(&adapter).unwrap().config().base_model.clone();
        match loftq {
            1 => assert_eq!(named, None, "the method's own"),
            _ => assert_eq!(named, Some(base.display().to_string())),
        }
        if loftq > 1 {
            let mut model = base_model::load(&base, DType::F32).unwrap().model;
            lora::load(&mut model, &adapter).unwrap();
        }
    }

    let dense = Options { quantization: None, ..quantized(&tiny, 1, "refused") };
    let error = run(&dense, &launch(Start::New)).unwrap_err().to_string();
    assert!(error.contains("lora.loftq") && error.contains("model.quantize"), "{error}");
}

/// A whole run on the CUDA device: quantized there or here, the losses are those of the CPU; it repeats and resumes bit for bit.
#[test]
fn on_the_device_as_on_the_cpu() {
    let tiny = Tiny::sized(64, 2);
    let bound = 8.0 / f64::from(1 << 24);
    let on = |device: Device, dtype: DType, name: &str| {
        let options = Options { device, dtype, ..quantized(&tiny, 1, name) };
        let train =
            TrainOptions { max_steps: Some(6), eval_every: 3, save_every: 3, keep_last: 0, ..options.train };
        let options = Options { train, ..options };
        run(&options, &launch(Start::New)).unwrap();
        options
    };
    for (dtype, bound) in [(DType::F32, bound), (DType::BF16, 2e-2)] {
        let name = |what: &str| format!("{what}-{dtype}");
        let host = on(Device::Cpu, dtype, &name("host"));
        let there = on(cuda(), dtype, &name("there"));
        let of = |options: &Options| {
            let (train, eval) = losses(&options.output);
            [train, eval].concat()
        };
        let (ours, theirs) = (of(&host), of(&there));
        assert_eq!(ours.len(), 9, "6 losses, 3 evaluations");
        for (step, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            assert!((a - b).abs() <= bound * a, "{dtype}, value {step}: {a} and {b}");
        }
        let again = on(cuda(), dtype, &name("again"));
        assert!(computed(&again.output) == computed(&there.output), "{dtype}");
        let point = again.output.join("checkpoints/checkpoint-3");
        run(&again, &launch(Start::Checkpoint(point))).unwrap();
        assert!(computed(&again.output) == computed(&there.output), "{dtype}: resumed");
    }
    assert_no_reports();
}
