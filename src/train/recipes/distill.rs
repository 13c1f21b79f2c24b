//! Scale distillation (BitDelta, arXiv 2402.10193): the scales of a 1-bit delta learn to make base + delta say what the fine-tuned model says.
//! Signs, base and everything else are frozen; the loss is the mean squared error between the logits of the two.
//!
//! Both models are in memory: the fine-tuned one with all of its weights, and the base's projections with the signs; embeddings, norms, biases and
//! output projection are the fine-tuned model's in both, and so there once.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::autograd::{Param, Tape, Var};
use crate::data::{
    Batch, Loader, LoaderOptions, OverLong, PromptStyle, Sample, SftOptions, Stats, TrainOn, is_plain_text,
    load_pretrain, load_sft, shuffled,
};
use crate::device::Device;
use crate::formats::bitdelta::{CONFIG_FILE, Delta};
use crate::formats::{Checkpoint, hub};
use crate::models::{Decoder, tensor_slots};
use crate::nn::{TokenBatch, Weight};
use crate::ops::mse::mse;
use crate::peft::bitdelta::{self, CompressOptions};
use crate::tensor::{DType, Tensor};
use crate::text::TextTokenizer;
use crate::train::base_model;
use crate::train::batch::{fingerprint, next_window};
use crate::train::header;
use crate::train::launch::Launch;
use crate::train::memory_plan::{MemoryPlan, Sizes, StepShape};
use crate::train::metrics::Record;
use crate::train::options::{TrainOptions, check_dtype};
use crate::train::run_folder::RunFolder;
use crate::train::state::TrainerState;
use crate::train::step::{Stepper, Window};
use crate::train::{Recorder, say};
use crate::{Error, Result};

/// The delta before any training, if the run made it.
const INITIAL: &str = "initial";
/// The result.
const RESULT: &str = "delta";

/// The calibration texts.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// A text file, which is cut into samples, or JSON lines (or Parquet) in any format of fine-tuning data, each record a sample.
    pub train: PathBuf,
    /// How many samples the run sees at most.
    pub samples: usize,
    /// How many of the rest are held out, to evaluate on.
    pub validation_samples: usize,
    /// Tokens of a sample at most; longer records are cut.
    pub max_tokens: usize,
}

/// A distillation run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The base: a folder, a GGUF file or a Hub id.
    pub base: String,
    /// The fine-tuned model.
    pub fine_tuned: String,
    /// The delta; without one, the run compresses the model first.
    pub delta: Option<PathBuf>,
    /// Whether each row gets a scale of its own, where the run makes the delta.
    pub per_row: bool,
    /// Type of weights and activations. Scales are f32.
    pub dtype: DType,
    /// The calibration texts.
    pub data: DataOptions,
    /// How the scales are trained.
    pub train: TrainOptions,
    /// The run folder.
    pub output: PathBuf,
    /// Where the models are.
    pub device: Device,
}

/// Runs it: prints the header, trains the scales, and leaves the delta in the run folder.
///
/// # Errors
/// Whatever is wrong with the models, the delta, the data or the settings, before the first step; [`Error::NonFinite`] for a step that fails (the
/// last checkpoint stays); [`Error::Interrupted`], after a checkpoint, if the run was asked to stop.
pub fn run(options: &Options, launch: &Launch) -> Result<()> {
    let train = &options.train;
    check_dtype("model.dtype", options.dtype)?;
    let folder = RunFolder::new(&options.output);
    let checkpoints = folder.checkpoints(train.keep_last);
    let resume = launch.resume_point(&checkpoints)?;

    // The models.
    let fine_path = hub::resolve(&options.fine_tuned, None)?;
    let base = Checkpoint::open(&hub::resolve(&options.base, None)?)?;
    let tokenizer = base_model::load_tokenizer(&fine_path)?;
    // What a dry run compresses goes with it.
    let scratch =
        tempfile::tempdir().map_err(Error::io(std::env::temp_dir(), "cannot create a folder in it"))?;
    let initial = if launch.dry_run { scratch.path().join(INITIAL) } else { folder.join(INITIAL) };
    let delta = match &options.delta {
        Some(path) => Delta::open(path)?,
        None => {
            folder.refuse_existing(launch.is_new())?;
            made(options, launch.is_new(), &initial, &base, &fine_path, &tokenizer)?
        }
    };
    let teacher = base_model::load(&fine_path, options.dtype)?.model;
    let mut student = compressed(&teacher, &base, &delta)?;
    let checkpointing = train.checkpoints_layers(&student);
    student.set_checkpointing(checkpointing);
    let scales = bitdelta::scales(&student);
    if let Some(point) = &resume {
        bitdelta::load_scales(&student, &point.folder)?;
    }
    header::device(options.device)?;
    let all = parameters(&teacher, &student, &scales);
    header::model(&options.fine_tuned, teacher.config(), &all, &[]);
    let signs: usize =
        student.linears().filter_map(|(_, linear)| linear.delta()).map(|delta| delta.signs().bytes()).sum();
    let each = if delta.config().per_row { "row" } else { "matrix" };
    say(format!(
        "delta       {}: {} signs, a scale a {each}",
        delta.folder().display(),
        header::count(8 * signs)
    ));

    // The data.
    let (train_samples, validation_samples) = load_data(&options.data, &tokenizer, train.seed)?;
    let data = fingerprint(&train_samples);
    header::data("training", &Stats::of(&train_samples));
    header::data("validation", &Stats::of(&validation_samples));
    let loader = |samples: Vec<Sample>, shuffle| {
        let seed = train.seed;
        Loader::new(samples, LoaderOptions { micro_batch: train.batch_size, pack_to: None, shuffle, seed })
    };
    let mut train_loader = loader(train_samples, true)?;
    let validation = match validation_samples.is_empty() {
        true => None,
        false => Some(loader(validation_samples, false)?),
    };

    // The plan.
    let batches = train_loader.batches_per_epoch();
    let total = train.total_steps(batches as u64);
    let largest = train_loader.pass().map(|b| b.len()).max().unwrap_or(0);
    let step = StepShape {
        tokens: largest,
        dtype: options.dtype,
        checkpointing,
        accumulating: train.accumulation > 1,
        // Those of both models, and their gradient.
        logits: Some(3 * largest * teacher.config().vocab_size * size_of::<f32>()),
        device: options.device,
    };
    let mut sizes = Sizes::of_parameters(&all);
    sizes.parameters += signs;
    let plan = MemoryPlan::new(teacher.config(), &sizes, &step);
    header::memory(&plan);
    header::steps(total, batches, train);
    header::output(folder.path());
    if launch.dry_run {
        return Ok(());
    }

    // The state: new, or the checkpoint's.
    let planned = |e: Error| e.with_memory_plan(&plan);
    teacher.to_device(options.device).map_err(planned)?;
    student.to_device(options.device).map_err(planned)?;
    let trained = scales.iter().map(|scale| (scale.clone(), true)).collect();
    let mut stepper = Stepper::new(trained, train).map_err(planned)?;
    let mut state = TrainerState::start(launch.settings.clone(), data);
    if let Some(point) = &resume {
        point.state.check_same_run(&launch.settings, &state.data)?;
        stepper.load_optimizer(&point.folder, point.state.step)?;
        state = point.state.clone();
        train_loader.seek(state.cursor)?;
        say(format!("resuming after step {}", state.step));
    }
    folder.prepare(&launch.config_toml, launch.is_new())?;
    checkpoints.remove_leftovers()?;
    checkpoints.remove_after(state.step)?;
    let mut recorder = Recorder::open(folder.path(), resume.as_ref().map(|_| state.step), total)?;
    let schedule = train.schedule(total);

    if let (Some(validation), 0) = (&validation, state.step) {
        let loss = evaluate(&teacher, &student, validation).map_err(planned)?;
        recorder.record(Record { eval_loss: Some(loss), ..Record::default() })?;
    }
    while state.step < total {
        let started = Instant::now();
        let window = next_window(&mut train_loader, train.accumulation);
        let tokens: usize = window.iter().map(|b| b.len()).sum();
        let rate = schedule.rate(state.step);
        // Every token of the window counts.
        let window =
            Window { batches: &window, labelled: tokens, step: state.step + 1, micro_step: state.micro_step };
        let report = stepper
            .step(&window, rate, &|tape, batch: &Batch, tokens| {
                distance(&teacher, &student, tape, batch, tokens)
            })
            .map_err(planned)?;
        let seconds = started.elapsed().as_secs_f64();
        let mut record = Record {
            loss: Some(report.loss),
            lr: Some(rate),
            grad_norm: Some(report.grad_norm),
            tokens_per_s: Some(tokens as f64 / seconds),
            ..Record::default()
        };
        state.advance(window.batches.len(), tokens, train_loader.cursor());
        if let Some(validation) = &validation
            && TrainOptions::is_due(train.eval_every, state.step, total)
        {
            let loss = evaluate(&teacher, &student, validation).map_err(planned)?;
            state.note_eval(loss);
            record.eval_loss = Some(loss);
        }
        recorder.record(Record {
            step: state.step,
            epoch: state.epochs(batches),
            tokens: state.tokens,
            ..record
        })?;
        let stop = launch.interrupt.requested();
        if stop || TrainOptions::is_due(train.save_every, state.step, total) {
            recorder.sync()?;
            checkpoints.save(state.step, |folder| {
                bitdelta::save_scales(&student, folder)?;
                stepper.save_optimizer(folder)?;
                state.save(folder)
            })?;
        }
        if stop && state.step < total {
            return Err(Error::Interrupted(format!(
                "stopped after step {}, everything is saved; go on with:\n  {}",
                state.step, launch.resume_command
            )));
        }
    }
    let records = recorder.finish();

    let result = folder.join(RESULT);
    bitdelta::save(&student, &delta, recipe(options, &state), &result)?;
    tokenizer.save(&result)?;
    header::results(&folder, &result, &records, &state);
    Ok(())
}

/// The delta that the run makes in its folder, or made before it was interrupted.
fn made(
    options: &Options,
    new: bool,
    folder: &Path,
    base: &Checkpoint,
    fine_tuned: &Path,
    tokenizer: &TextTokenizer,
) -> Result<Delta> {
    if new || !folder.join(CONFIG_FILE).is_file() {
        let how = CompressOptions {
            per_row: options.per_row,
            base: Some(options.base.clone()),
            fine_tuned: Some(options.fine_tuned.clone()),
        };
        bitdelta::compress(base, &Checkpoint::open(fine_tuned)?, &how, folder, &mut |_, _| {})?;
        tokenizer.save(folder)?;
    }
    Delta::open(folder)
}

/// The compressed model: the teacher's parameters, but the base's projections, with the delta on them. Only the scales are trained.
pub fn compressed(teacher: &Decoder, base: &Checkpoint, delta: &Delta) -> Result<Decoder> {
    delta.check_base(base)?;
    let slots = tensor_slots(teacher.config())?;
    let mut student = teacher.sharing(|path, _| {
        let slot = slots.iter().find(|slot| slot.linear().is_some_and(|(module, _)| module == path));
        let slot = slot.ok_or_else(|| Error::model(path, "is no projection of the model's config"))?;
        let weight = Param::new(slot.name.as_str(), slot.tensor(&base.get(&slot.name)?, teacher.dtype())?);
        Ok(Weight::Dense(weight))
    })?;
    bitdelta::attach(&mut student, delta)?;
    // Its projections, which the student does not share.
    teacher.set_trainable(false);
    bitdelta::scales(&student).iter().for_each(|scale| scale.set_trainable(true));
    Ok(student)
}

/// The parameters of both models, each once.
fn parameters(teacher: &Decoder, student: &Decoder, scales: &[Param]) -> Vec<Param> {
    let mut all = teacher.parameters();
    let known: Vec<_> = all.iter().map(Param::id).collect();
    all.extend(student.parameters().into_iter().filter(|param| !known.contains(&param.id())));
    all.extend(scales.iter().cloned());
    all
}

/// The squared distance of the student's logits from the teacher's over a batch, divided by `tokens` and the number of words: the mean over a window
/// of so many tokens is the sum over its batches.
///
/// # Errors
/// Those of the models.
pub fn distance(
    teacher: &Decoder,
    student: &Decoder,
    tape: &Tape,
    batch: &Batch,
    tokens: f32,
) -> Result<Var> {
    let vector = |values: &[u32]| Tensor::from_u32(values.to_vec(), &[values.len()]);
    let batch = TokenBatch::new(vector(&batch.ids), vector(&batch.positions), batch.cu_seqlens.clone())?;
    let wanted = teacher.logits(teacher.hidden(&Tape::inference(), &batch)?.value())?;
    let ours = student.logits_of(tape, &student.hidden(tape, &batch)?)?;
    mse(tape, &ours, &wanted, tokens * teacher.config().vocab_size as f32)
}

/// The mean squared error over one pass; nothing is recorded.
fn evaluate(teacher: &Decoder, student: &Decoder, loader: &Loader) -> Result<f64> {
    let tokens: usize = loader.pass().map(|b| b.len()).sum();
    let mut mean = 0.0;
    for batch in loader.pass() {
        // Each part is divided by its own tokens alone in f32, and weighed in f64.
        let part = distance(teacher, student, &Tape::inference(), &batch, batch.len() as f32)?;
        mean += f64::from(part.value().item()?) * (batch.len() as f64 / tokens as f64);
    }
    match mean.is_finite() {
        true => Ok(mean),
        false => Err(Error::NonFinite { what: "the evaluation loss".to_string(), place: None }),
    }
}

/// Samples to train on, and held out: as many as are asked for, in an order that the seed decides.
fn load_data(data: &DataOptions, tokenizer: &TextTokenizer, seed: u64) -> Result<(Vec<Sample>, Vec<Sample>)> {
    let mut samples = read(&data.train, tokenizer, data.max_tokens)?;
    // A token of its own says nothing that the fine-tuned model could differ in, and every token counts.
    for sample in &mut samples {
        sample.trained.fill(true);
        sample.trained[0] = false;
    }
    let order = shuffled(samples.len(), seed, 0);
    let (train, rest) = order.split_at(data.samples.min(order.len()));
    if train.len() < data.samples {
        say(format!(
            "note: {} samples of up to {} tokens are all that there are",
            train.len(),
            data.max_tokens
        ));
    }
    let pick = |order: &[usize]| order.iter().map(|&i| samples[i].clone()).collect();
    Ok((pick(train), pick(&rest[..data.validation_samples.min(rest.len())])))
}

fn read(path: &Path, tokenizer: &TextTokenizer, max_tokens: usize) -> Result<Vec<Sample>> {
    if is_plain_text(path)? {
        return Ok(load_pretrain(&[path.to_path_buf()], tokenizer, max_tokens)?.samples);
    }
    let (template, note) = tokenizer.chat_template(false)?;
    note.iter().for_each(|note| say(format!("note: {note}")));
    let how = SftOptions {
        max_tokens,
        over_long: OverLong::Truncate,
        train_on: TrainOn::All,
        style: PromptStyle::Chat,
        format: None,
    };
    let set = load_sft(path, tokenizer, &template, &how)?;
    say(format!("format      {}: {}", path.display(), set.format));
    Ok(set.samples)
}

/// What the delta's settings say of how the scales were found.
fn recipe(options: &Options, state: &TrainerState) -> Map<String, Value> {
    let train = &options.train;
    let mut recipe = Map::new();
    for (key, value) in [
        ("scales", json!("distilled")),
        ("loss", json!("mean squared error of the logits")),
        ("data", json!(options.data.train.file_name().map(|name| name.to_string_lossy()))),
        ("samples", json!(options.data.samples)),
        ("max_tokens", json!(options.data.max_tokens)),
        ("batch_size", json!(train.batch_size * train.accumulation)),
        ("steps", json!(state.step)),
        ("lr", json!(train.learning_rate)),
        ("schedule", json!(train.schedule)),
        ("seed", json!(train.seed)),
    ] {
        recipe.insert(key.to_owned(), value);
    }
    recipe
}
