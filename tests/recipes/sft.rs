//! Fine-tuning runs on a tiny model, in process.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use warptune::Error;
use warptune::data::SftOptions;
use warptune::device::Device;
use warptune::formats::peft::{LoraConfig, Targets};
use warptune::optim::States;
use warptune::tensor::DType;
use warptune::text::{CHATML, TextTokenizer};
use warptune::train::Interrupt;
use warptune::train::launch::{Launch, Start};
use warptune::train::metrics::{self, Record};
use warptune::train::options::TrainOptions;
use warptune::train::recipes::sft::{DataOptions, Method, Options, run};

use super::options;
use crate::support::tiny::Tiny;

pub fn lora() -> Method {
    let mut config = LoraConfig::new(4, 8.0, Targets::AllLinear);
    config.lora_dropout = 0.1;
    Method::Lora(Box::new(config))
}

pub fn sft(tiny: &Tiny, method: Method, output: &str) -> Options {
    Options {
        model: tiny.model().display().to_string(),
        dtype: DType::F32,
        quantization: None,
        loftq: 0,
        method,
        data: DataOptions {
            train: tiny.data(),
            validation: None,
            validation_fraction: 0.1,
            packing: true,
            examples: SftOptions { max_tokens: 96, ..SftOptions::default() },
        },
        train: options(),
        output: tiny.path(output),
        device: Device::Cpu,
    }
}

pub fn launch(start: Start) -> Launch {
    Launch {
        config_toml: String::new(),
        settings: BTreeMap::from([("train.lr".to_string(), "0.01".to_string())]),
        start,
        dry_run: false,
        interrupt: Interrupt::new(),
        resume_command: "warptune sft --resume".to_string(),
    }
}

/// What a run computed, without what its clock and memory said.
pub fn computed(run: &Path) -> Vec<Record> {
    let records = metrics::read(&run.join("metrics.jsonl")).unwrap();
    records.into_iter().map(|r| Record { tokens_per_s: None, peak_rss_mib: None, ..r }).collect()
}

pub fn losses(run: &Path) -> (Vec<f64>, Vec<f64>) {
    let records = computed(run);
    let of = |f: fn(&Record) -> Option<f64>| records.iter().filter_map(f).collect();
    (of(|r| r.loss), of(|r| r.eval_loss))
}

#[test]
fn losses_fall() {
    let tiny = Tiny::new();
    for (name, method) in [("lora", lora()), ("full", Method::Full)] {
        let options = sft(&tiny, method, name);
        run(&options, &launch(Start::New)).unwrap();
        let (train, eval) = losses(&options.output);
        assert_eq!((train.len(), eval.len()), (20, 3), "{name}: a loss a step; evaluations at 0, 10, 20");
        assert!(train[19] < 0.8 * train[0] && eval[2] < 0.9 * eval[0], "{name}: {train:?} {eval:?}");
    }
    for file in ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"] {
        assert!(tiny.path("lora/adapter").join(file).is_file(), "{file}");
    }
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(tiny.path("full/model").join(file).is_file(), "{file}");
    }
}

#[test]
fn variants_learn_too() {
    let tiny = Tiny::new();
    let base = sft(&tiny, lora(), "base");
    run(&base, &launch(Start::New)).unwrap();
    let variants = [
        (
            "checkpointing",
            Options {
                train: TrainOptions { gradient_checkpointing: Some(true), ..options() },
                ..base.clone()
            },
        ),
        ("bf16", Options { dtype: DType::BF16, ..base.clone() }),
        ("unpacked", Options { data: DataOptions { packing: false, ..base.data.clone() }, ..base.clone() }),
        (
            "accumulated",
            Options { train: TrainOptions { batch_size: 2, accumulation: 2, ..options() }, ..base.clone() },
        ),
    ];
    for (name, options) in variants {
        let options = Options { output: tiny.path(name), ..options };
        run(&options, &launch(Start::New)).unwrap();
        let (train, _) = losses(&options.output);
        assert!(train[19] < 0.8 * train[0], "{name}: {train:?}");
    }
    // Recomputing the layers changes no bit, dropout included.
    assert!(computed(&tiny.path("base")) == computed(&tiny.path("checkpointing")));
}

#[test]
fn two_runs_give_the_same_bits() {
    let tiny = Tiny::new();
    for name in ["a", "b"] {
        run(&sft(&tiny, lora(), name), &launch(Start::New)).unwrap();
    }
    assert!(computed(&tiny.path("a")) == computed(&tiny.path("b")));
    let adapter =
        |name: &str| std::fs::read(tiny.path(name).join("adapter/adapter_model.safetensors")).unwrap();
    assert!(adapter("a") == adapter("b"));
}

#[test]
fn a_resumed_run_is_the_uninterrupted_run() {
    let tiny = Tiny::new();
    for (kind, states, method, result) in [
        ("lora", States::F32, lora(), "adapter/adapter_model.safetensors"),
        ("full", States::F32, Method::Full, "model/model.safetensors"),
        ("full-8bit", States::Blockwise8, Method::Full, "model/model.safetensors"),
    ] {
        let options = |name: &str| {
            let mut options = sft(&tiny, method.clone(), &format!("{kind}-{name}"));
            options.train = TrainOptions {
                save_every: 7,
                keep_last: 0,
                accumulation: 2,
                batch_size: 1,
                states,
                ..options.train
            };
            options
        };
        let whole = options("whole");
        run(&whole, &launch(Start::New)).unwrap();
        // As a run that was killed after step 7: its checkpoint, and metrics of later steps.
        let resumed = options("resumed");
        std::fs::create_dir_all(resumed.output.join("checkpoints")).unwrap();
        copy(
            &whole.output.join("checkpoints/checkpoint-7"),
            &resumed.output.join("checkpoints/checkpoint-7"),
        );
        std::fs::copy(whole.output.join("metrics.jsonl"), resumed.output.join("metrics.jsonl")).unwrap();
        run(&resumed, &launch(Start::Latest)).unwrap();
        assert!(computed(&whole.output) == computed(&resumed.output), "{kind}");
        let weights = |options: &Options| std::fs::read(options.output.join(result)).unwrap();
        assert!(weights(&whole) == weights(&resumed), "{kind}: the resumed run ends with other weights");
        // A checkpoint by name, in its own folder.
        let point = resumed.output.join("checkpoints/checkpoint-14");
        run(&resumed, &launch(Start::Checkpoint(point))).unwrap();
        assert!(weights(&whole) == weights(&resumed), "{kind}");
        // The model's tables are large enough for codes.
        let file =
            std::fs::read(whole.output.join("checkpoints/checkpoint-7/optimizer.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let coded = file.iter().filter(|(_, tensor)| tensor.dtype() == safetensors::Dtype::U8).count();
        assert_eq!(coded > 0, states == States::Blockwise8, "{kind}");
    }
}

#[test]
fn a_checkpoint_with_other_states_is_refused_by_the_setting() {
    let tiny = Tiny::new();
    let options = |states| {
        let mut options = sft(&tiny, Method::Full, "run");
        options.train =
            TrainOptions { max_steps: Some(2), save_every: 1, keep_last: 0, states, ..options.train };
        options
    };
    for (then, now) in [(States::F32, States::Blockwise8), (States::Blockwise8, States::F32)] {
        run(&options(then), &launch(Start::New)).unwrap();
        let point = tiny.path("run/checkpoints/checkpoint-1");
        let error = run(&options(now), &launch(Start::Checkpoint(point))).unwrap_err().to_string();
        assert!(error.contains("train.optimizer") && error.contains(&then.to_string()), "{error}");
        std::fs::remove_dir_all(tiny.path("run")).unwrap();
    }
}

#[test]
fn a_resumed_full_run_outlives_the_checkpoint_that_it_began_from() {
    let tiny = Tiny::new();
    let mut options = sft(&tiny, Method::Full, "run");
    options.train = TrainOptions { save_every: 2, keep_last: 1, ..options.train };
    let stopped = launch(Start::New);
    stopped.interrupt.request();
    run(&options, &stopped).unwrap_err();
    run(&options, &launch(Start::Latest)).unwrap();
    assert!(!options.output.join("checkpoints/checkpoint-1").exists());
    let text = "What follows one?";
    let ids = |folder: &Path| TextTokenizer::load(folder).unwrap().encode(text, true).unwrap();
    assert_eq!(ids(&options.output.join("model")), ids(&tiny.model()));
}

#[test]
fn the_chatml_template_of_a_model_without_one_is_saved_with_what_it_trained() {
    let tiny = Tiny::new();
    tiny.forget_chat_template();
    let template =
        |folder: &Path| TextTokenizer::load(folder).unwrap().default_chat_template().map(str::to_owned);
    assert_eq!(template(&tiny.model()), None);
    for (name, method, result) in [("lora", lora(), "adapter"), ("full", Method::Full, "model")] {
        let mut options = sft(&tiny, method, name);
        options.train.max_steps = Some(1);
        run(&options, &launch(Start::New)).unwrap();
        assert_eq!(template(&options.output.join(result)).as_deref(), Some(CHATML), "{name}");
    }
    // Plain text went through no template.
    let mut options = sft(&tiny, Method::Full, "text");
    options.train.max_steps = Some(1);
    options.data.train = tiny.path("text.jsonl");
    std::fs::write(&options.data.train, "{\"text\": \"one two three\"}\n".repeat(20)).unwrap();
    run(&options, &launch(Start::New)).unwrap();
    assert_eq!(template(&options.output.join("model")), None);
}

#[test]
fn an_interrupted_run_saves_and_says_how_to_go_on() {
    let tiny = Tiny::new();
    let options = sft(&tiny, lora(), "stopped");
    let stopped = launch(Start::New);
    stopped.interrupt.request();
    let error = run(&options, &stopped).unwrap_err();
    assert!(matches!(&error, Error::Interrupted(text) if text.contains("warptune sft --resume")), "{error}");
    assert!(options.output.join("checkpoints/checkpoint-1/trainer_state.json").is_file());
    run(&options, &launch(Start::Latest)).unwrap();
    let whole = sft(&tiny, lora(), "whole");
    run(&whole, &launch(Start::New)).unwrap();
    assert!(computed(&whole.output) == computed(&options.output));
}

#[test]
fn another_run_is_not_resumed() {
    let tiny = Tiny::new();
    let options = sft(&tiny, lora(), "run");
    run(&options, &launch(Start::New)).unwrap();
    let taken = run(&options, &launch(Start::New)).unwrap_err().to_string();
    assert!(taken.contains("already holds a run"), "{taken}");

    let mut other = launch(Start::Latest);
    other.settings.insert("train.lr".to_string(), "0.5".to_string());
    let error = run(&options, &other).unwrap_err().to_string();
    assert!(error.contains("train.lr") && error.contains("0.5") && error.contains("0.01"), "{error}");

    let text = std::fs::read_to_string(tiny.data()).unwrap();
    std::fs::write(tiny.data(), text.replace("zero", "nil")).unwrap();
    let error = run(&options, &launch(Start::Latest)).unwrap_err().to_string();
    assert!(error.contains("the training data are not those"), "{error}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
