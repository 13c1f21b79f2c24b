//! Distillation of scales: against PyTorch, and as a run.

use serde_json::{Value, json};
use warptune::autograd::Param;
use warptune::data::{Batch, Sample};
use warptune::device::Device;
use warptune::formats::Checkpoint;
use warptune::formats::bitdelta::Delta;
use warptune::models::Decoder;
use warptune::optim::schedule::{Schedule, ScheduleKind};
use warptune::peft::bitdelta::{errors, scales};
use warptune::tensor::DType;
use warptune::train::launch::Start;
use warptune::train::options::TrainOptions;
use warptune::train::recipes::distill::{DataOptions, Options, compressed, distance, run};
use warptune::train::step::{Stepper, Window};

use super::options;
use super::sft::{computed, launch};
use crate::support::devices::{assert_no_reports, cuda};
use crate::support::golden::{Golden, assert_near};
use crate::support::pair::{self, Pair};
use crate::support::tiny::Tiny;

/// The teacher, the student and its scales.
fn models(golden: &Golden, delta: &Delta, device: Device) -> (Decoder, Decoder, Vec<Param>) {
    let fine = Checkpoint::open(&golden.folder().join("fine_tuned")).unwrap();
    let base = Checkpoint::open(&golden.folder().join("base")).unwrap();
    let teacher = Decoder::load(&fine, &fine.config().unwrap(), DType::F32).unwrap();
    let student = compressed(&teacher, &base, delta).unwrap();
    [&teacher, &student].iter().for_each(|model| model.to_device(device).unwrap());
    let scales = scales(&student);
    (teacher, student, scales)
}

fn batch(sequences: &Value) -> Batch {
    let samples: Vec<Sample> = sequences
        .as_array()
        .unwrap()
        .iter()
        .map(|ids| {
            let ids: Vec<u32> =
                ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            Sample { trained: vec![true; ids.len()], ids, line: 1 }
        })
        .collect();
    Batch::new(&samples)
}

/// Scales, losses of every step and what the scales end as, for a scale a matrix and a scale a row. On the device each step begins at the CPU's
/// scales, as in `golden_steps`.
#[test]
fn the_golden_steps() {
    let golden = Golden::open_bitdelta();
    for (kind, per_row) in [("matrix", false), ("row", true)] {
        let folder = tempfile::tempdir().unwrap();
        let [base, fine] = ["base", "fine_tuned"].map(|name| golden.folder().join(name));
        let delta = pair::compressed(&base, &fine, folder.path(), per_row);
        let (teacher, student, params) = models(&golden, &delta, Device::Cpu);
        let there = models(&golden, &delta, cuda());
        for param in &params {
            let module = param.name().strip_suffix(".scale").unwrap();
            let stored = &golden.tensor(&format!("{kind}.initial.{module}")).values;
            assert_eq!(&param.value().to_vec_f32().unwrap(), stored, "{kind}: {module}");
        }
        let (json, results) = (golden.json(), &golden.json()[kind]);
        let adamw = &json["adamw"];
        let number = |value: &Value| value.as_f64().unwrap();
        let numbers = |value: &Value| value.as_array().unwrap().iter().map(number).collect::<Vec<f64>>();
        let (f32_run, f64_run) = (numbers(&results["losses"]), numbers(&results["f64"]["losses"]));
        let worst = f32_run.iter().zip(&f64_run).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let options = TrainOptions {
            weight_decay: number(&adamw["weight_decay"]),
            beta1: number(&adamw["betas"][0]),
            beta2: number(&adamw["betas"][1]),
            epsilon: number(&adamw["eps"]),
            ..options()
        };
        let total_steps = adamw["steps"].as_u64().unwrap();
        let schedule =
            Schedule { kind: ScheduleKind::Cosine, peak: number(&adamw["lr"]), warmup_steps: 0, total_steps };
        let stepper = |params: &[Param]| {
            Stepper::new(params.iter().map(|p| (p.clone(), true)).collect(), &options).unwrap()
        };
        let mut on_cpu = stepper(&params);
        for (i, sequences) in json["batches"].as_array().unwrap().iter().enumerate() {
            for (copy, param) in there.2.iter().zip(&params) {
                copy.update(|value| {
                    *value = param.value().to_device(cuda())?;
                    Ok(())
                })
                .unwrap();
            }
            let batches = [batch(sequences)];
            let window = Window {
                batches: &batches,
                labelled: batches[0].len(),
                step: i as u64 + 1,
                micro_step: i as u64,
            };
            let step = |(teacher, student): (&Decoder, &Decoder), stepper: &mut Stepper| {
                let loss = |tape: &_, batch: &Batch, tokens| distance(teacher, student, tape, batch, tokens);
                stepper.step(&window, schedule.rate(i as u64), &loss).unwrap()
            };
            let report = step((&teacher, &student), &mut on_cpu);
            let on_device = step((&there.0, &there.1), &mut stepper(&there.2));
            // Twice PyTorch's worst error from the f64 run (errors of a step live on in later ones), or eight roundings.
            let allowed = 2.0 * worst + 8.0 * DType::F32.unit_roundoff() * f64_run[i];
            for (what, report) in [("CPU", report), ("device", on_device)] {
                let error = (report.loss - f64_run[i]).abs();
                assert!(
                    error <= allowed,
                    "{kind} step {i} on {what}: {}, expected {} +- {allowed:e}",
                    report.loss,
                    f64_run[i]
                );
                if i == 0 {
                    let [a, b] = [&results["grad_norm"], &results["f64"]["grad_norm"]].map(number);
                    let allowed = 3.0 * (a - b).abs() + 8.0 * DType::F32.unit_roundoff() * b;
                    assert!(
                        (report.grad_norm - b).abs() <= allowed,
                        "{kind} on {what}: {} for {b}",
                        report.grad_norm
                    );
                }
            }
        }
        // AdamW blows up the rounding errors of single gradients; which ones is chance.
        let error = |param: &Param| {
            let module = param.name().strip_suffix(".scale").unwrap();
            number(&json["f32_error"][format!("{kind}.final.{module}")])
        };
        let worst = params.iter().map(error).fold(0.0, f64::max);
        for param in &params {
            let name = format!("{kind}.final.{}", param.name().strip_suffix(".scale").unwrap());
            assert_near(
                &name,
                &param.value().to_vec_f32().unwrap(),
                &golden.tensor(&name).values,
                3.0 * worst,
            );
        }
    }
    assert_no_reports();
}

/// A tiny model, a fine-tuned one and texts.
fn tiny() -> (Tiny, Pair) {
    let tiny = Tiny::sized(32, 2);
    let pair = Pair::of(&tiny.model());
    (tiny, pair)
}

fn distill(tiny: &Tiny, pair: &Pair, output: &str) -> Options {
    Options {
        base: tiny.model().display().to_string(),
        fine_tuned: pair.fine().display().to_string(),
        delta: None,
        per_row: false,
        dtype: DType::F32,
        data: DataOptions { train: tiny.data(), samples: 16, validation_samples: 4, max_tokens: 24 },
        train: TrainOptions {
            learning_rate: 5e-4,
            schedule: ScheduleKind::Cosine,
            max_steps: Some(12),
            eval_every: 6,
            ..options()
        },
        output: tiny.path(output),
        device: Device::Cpu,
    }
}

#[test]
fn a_run_brings_the_models_together() {
    let (tiny, pair) = tiny();
    for (name, per_row, dtype) in
        [("matrix", false, DType::F32), ("row", true, DType::F32), ("bf16", false, DType::BF16)]
    {
        let options = Options { per_row, dtype, ..distill(&tiny, &pair, name) };
        run(&options, &launch(Start::New)).unwrap();
        let records = computed(&options.output);
        let evals: Vec<f64> = records.iter().filter_map(|r| r.eval_loss).collect();
        assert_eq!(evals.len(), 3, "{name}: at 0, 6 and 12");
        assert!(evals[2] < evals[0], "{name}: {evals:?}");
        assert!(records.iter().all(|r| r.perplexity.is_none()), "a squared error has no perplexity");
        let [initial, result] = ["initial", "delta"].map(|f| Delta::open(&options.output.join(f)).unwrap());
        assert_eq!(result.config().modules, initial.config().modules);
        assert_eq!(result.config().recipe["scales"], json!("distilled"));
        for module in &initial.config().modules {
            let (a, b) = (initial.signs(&module.name).unwrap(), result.signs(&module.name).unwrap());
            assert!(a.bytes() == b.bytes(), "{name}: signs are frozen");
            assert!(
                initial.scale(&module.name).unwrap() != result.scale(&module.name).unwrap(),
                "{name}: scales are not"
            );
        }
        let [base, fine] = [pair.base(), &pair.fine()].map(|folder| Checkpoint::open(folder).unwrap());
        assert_eq!(errors(&result, &base, &fine).unwrap().len(), initial.config().modules.len());
        assert!(options.output.join("delta/tokenizer.json").is_file());
    }
    // Checkpointing changes no bit; a delta that is there already is taken.
    let named = Options {
        delta: Some(tiny.path("matrix/initial")),
        train: TrainOptions { gradient_checkpointing: Some(true), ..distill(&tiny, &pair, "").train },
        ..distill(&tiny, &pair, "named")
    };
    run(&named, &launch(Start::New)).unwrap();
    assert!(computed(&tiny.path("named")) == computed(&tiny.path("matrix")));
    assert!(!tiny.path("named/initial").exists());
    let weights = |run: &str| std::fs::read(tiny.path(run).join("delta/delta.safetensors")).unwrap();
    assert!(weights("named") == weights("matrix"));
}

#[test]
fn a_resumed_run_is_the_uninterrupted_run() {
    let (tiny, pair) = tiny();
    let options = |name: &str| {
        let mut options = distill(&tiny, &pair, name);
        options.train =
            TrainOptions { save_every: 5, keep_last: 0, accumulation: 2, batch_size: 2, ..options.train };
        options
    };
    run(&options("whole"), &launch(Start::New)).unwrap();
    run(&options("cut"), &launch(Start::New)).unwrap();
    std::fs::remove_dir_all(tiny.path("cut/delta")).unwrap();
    let point = tiny.path("cut/checkpoints/checkpoint-5");
    run(&options("cut"), &launch(Start::Checkpoint(point))).unwrap();
    assert!(computed(&tiny.path("whole")) == computed(&tiny.path("cut")));
    let weights = |run: &str| std::fs::read(tiny.path(run).join("delta/delta.safetensors")).unwrap();
    assert!(weights("whole") == weights("cut"));
}

#[test]
fn what_does_not_fit_is_refused_before_the_first_step() {
    let (tiny, pair) = tiny();
    let refused = |options: Options| run(&options, &launch(Start::New)).unwrap_err().to_string();
    run(&distill(&tiny, &pair, "made"), &launch(Start::New)).unwrap();
    let again = refused(distill(&tiny, &pair, "made"));
    assert!(again.contains("already holds a run"), "{again}");
    // The delta of another base.
    let other = Options {
        base: pair.fine().display().to_string(),
        delta: Some(tiny.path("made/delta")),
        ..distill(&tiny, &pair, "other")
    };
    let error = refused(other);
    assert!(error.contains("is not the base"), "{error}");
    let mut half = distill(&tiny, &pair, "half");
    half.dtype = DType::F16;
    assert!(refused(half).contains("f16"));
    // A dry run leaves nothing.
    let dry = warptune::train::launch::Launch { dry_run: true, ..launch(Start::New) };
    run(&distill(&tiny, &pair, "dry"), &dry).unwrap();
    assert!(!tiny.path("dry").exists());
}
