//! Supervised fine-tuning: a model learns to write the answers of a data set, through LoRA adapters or in all its weights.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::autograd::Param;
use crate::data::{DataFormat, Loader, LoaderOptions, PromptStyle, Sample, SftSet, Stats, load_sft, split};
use crate::device::Device;
use crate::formats::peft::LoraConfig;
use crate::formats::{Checkpoint, hub};
use crate::models::Decoder;
use crate::nn::QuantizedWeight;
use crate::ops::quantize::Quantization;
use crate::peft::{loftq, lora};
use crate::tensor::DType;
use crate::text::TextTokenizer;
use crate::train::base_model::{self, BaseModel};
use crate::train::batch::{batch_loss, evaluate, fingerprint, next_window};
use crate::train::header;
use crate::train::launch::Launch;
use crate::train::memory_plan::{MemoryPlan, Sizes, StepShape};
use crate::train::metrics::Record;
use crate::train::options::{TrainOptions, check_dtype};
use crate::train::run_folder::RunFolder;
use crate::train::state::TrainerState;
use crate::train::step::{Stepper, Window, decay_matrices};
use crate::train::{Recorder, say};
use crate::{Error, Result};

/// What is trained.
#[derive(Clone, Debug)]
pub enum Method {
    /// Adapters; the model's own weights are frozen.
    Lora(Box<LoraConfig>),
    /// Every weight.
    Full,
}

/// The examples.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// The training file.
    pub train: PathBuf,
    /// The validation file; without one, `validation_fraction` of the training examples is held out.
    pub validation: Option<PathBuf>,
    /// Share of the examples that is held out.
    pub validation_fraction: f64,
    /// Whether short examples share a row of `max_length` tokens.
    pub packing: bool,
    /// How a record becomes tokens.
    pub examples: crate::data::SftOptions,
}

/// A fine-tuning run.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder, a GGUF file or a Hub id.
    pub model: String,
    /// Type of the activations, and of frozen weights. Weights that are trained are f32: updates of bf16 weights round to
    /// nothing.
    pub dtype: DType,
    /// How the linear layers are quantized while the model is loaded, if they are: for [`Method::Lora`].
    pub quantization: Option<Quantization>,
    /// What is trained.
    pub method: Method,
    /// Iterations of LoftQ, which lets the adapters start as a repair of the quantization; 0: they start as usual.
    pub loftq: usize,
    /// The examples.
    pub data: DataOptions,
    /// How it is trained.
    pub train: TrainOptions,
    /// The run folder.
    pub output: PathBuf,
    /// Where the model is trained.
    pub device: Device,
}

/// Runs it: prints the header, trains, and leaves the adapter (or model) in the run folder.
///
/// # Errors
/// Whatever is wrong with the model, the data or the settings, before the first step; [`Error::NonFinite`] for a step that
/// fails (the last checkpoint stays); [`Error::Interrupted`], after a checkpoint, if the run was asked to stop.
pub fn run(options: &Options, launch: &Launch) -> Result<()> {
    let train = &options.train;
    check_dtype("model.dtype", options.dtype)?;
    if options.loftq > 0 && options.quantization.is_none() {
        let detail = "repairs what quantization does: it needs model.quantize (--quantize nf4)";
        return Err(Error::config("lora.loftq", detail));
    }
    let folder = RunFolder::new(&options.output);
    let checkpoints = folder.checkpoints(train.keep_last);
    let resume = launch.resume_point(&checkpoints)?;

    // The model. What is trained comes from the checkpoint, where there is one.
    let repaired_base = (options.loftq > 1).then(|| folder.join(REPAIRED_BASE));
    let BaseModel { mut model, mut tokenizer } = match (&options.method, &resume, &repaired_base) {
        (Method::Lora(_), Some(_), Some(base)) => base_model::load(base, options.dtype)?,
        (Method::Lora(_), ..) => {
            let path = hub::resolve(&options.model, None)?;
            base_model::load_with(&path, options.dtype, options.quantization.as_ref())?
        }
        (Method::Full, ..) if options.quantization.is_some() => {
            return Err(Error::config(
                "model.quantize",
                "is for adapters: weights in 4 bits cannot be trained",
            ));
        }
        (Method::Full, None, _) => base_model::load(&hub::resolve(&options.model, None)?, DType::F32)?,
        (Method::Full, Some(point), _) => base_model::load(&point.folder, DType::F32)?,
    };
    if matches!(options.method, Method::Full) && model.quantized_weights().next().is_some() {
        let detail = "has weights in 4 bits, which cannot be trained: train adapters on it";
        return Err(Error::model(options.model.as_str(), detail));
    }
    model.set_dtype(options.dtype)?;
    let checkpointing = train.checkpoints_layers(&model);
    model.set_checkpointing(checkpointing);
    let trained = match (&options.method, &resume) {
        (Method::Lora(config), None) => {
            lora::attach(&mut model, config, train.seed)?;
            if let (1.., Some(how), false) = (options.loftq, &options.quantization, launch.dry_run) {
                let started = Instant::now();
                let checkpoint = Checkpoint::open(&hub::resolve(&options.model, None)?)?;
                loftq::init(&model, &checkpoint, how, options.loftq)?;
                let seconds = started.elapsed().as_secs_f64();
                say(format!("LoftQ       {} iterations in {seconds:.0} s", options.loftq));
            }
            lora::adapter_parameters(&model)
        }
        (Method::Lora(_), Some(point)) => {
            lora::load(&mut model, &point.folder)?;
            lora::adapter_parameters(&model)
        }
        (Method::Full, _) => model.parameters(),
    };
    let all: Vec<Param> = model.parameters().into_iter().chain(lora::adapter_parameters(&model)).collect();

    // The data.
    header::device(options.device)?;
    let quantized: Vec<QuantizedWeight> = model.quantized_weights().cloned().collect();
    header::model(&options.model, model.config(), &all, &quantized);
    let (train_samples, validation_samples) = load_data(options, &mut tokenizer)?;
    let data = fingerprint(&train_samples);
    header::data("training", &Stats::of(&train_samples));
    header::data("validation", &Stats::of(&validation_samples));
    let pack_to = options.data.packing.then_some(options.data.examples.max_tokens);
    let loader = |samples: Vec<Sample>, shuffle| {
        let seed = train.seed;
        Loader::new(samples, LoaderOptions { micro_batch: train.batch_size, pack_to, shuffle, seed })
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
        logits: None,
        device: options.device,
    };
    let sizes = Sizes::of(&model);
    let plan = MemoryPlan::new(model.config(), &sizes, &step).with_optimizer(
        &sizes,
        train.states,
        train.room(options.device)?,
    );
    header::memory(&plan);
    header::steps(total, batches, train);
    header::output(folder.path());
    if launch.dry_run {
        return Ok(());
    }

    // The state: new, or the checkpoint's.
    let planned = |e: Error| e.with_memory_plan(&plan);
    model.to_device(options.device).map_err(planned)?;
    let mut stepper = Stepper::beside(decay_matrices(trained), train, plan.peak).map_err(planned)?;
    let mut state = TrainerState::start(launch.settings.clone(), data);
    if let Some(point) = &resume {
        point.state.check_same_run(&launch.settings, &state.data)?;
        stepper.load_optimizer(&point.folder, point.state.step)?;
        state = point.state.clone();
        train_loader.seek(state.cursor)?;
        say(format!("resuming after step {}", state.step));
    }
    folder.prepare(&launch.config_toml, launch.is_new())?;
    if let (Some(base), None) = (&repaired_base, &resume) {
        model.save_base(base)?;
        tokenizer.save(base)?;
        say(format!("the adapter's base, as LoftQ left it: {}", base.display()));
    }
    checkpoints.remove_leftovers()?;
    checkpoints.remove_after(state.step)?;
    let mut recorder = Recorder::open(folder.path(), resume.as_ref().map(|_| state.step), total)?;
    let schedule = train.schedule(total);

    if let (Some(validation), 0) = (&validation, state.step) {
        let loss = evaluate(&model, validation).map_err(planned)?;
        recorder.record(Record::default().with_eval(loss))?;
    }
    while state.step < total {
        let started = Instant::now();
        let window = next_window(&mut train_loader, train.accumulation);
        let tokens: usize = window.iter().map(|b| b.len()).sum();
        let rate = schedule.rate(state.step);
        let labelled = window.iter().map(|b| b.loss_tokens).sum();
        let micro_step = state.micro_step;
        let window = Window { batches: &window, labelled, step: state.step + 1, micro_step };
        let report = stepper
            .step(&window, rate, &|tape, batch, denominator| batch_loss(&model, tape, batch, denominator))
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
            let loss = evaluate(&model, validation).map_err(planned)?;
            state.note_eval(loss);
            record = record.with_eval(loss);
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
                save_result(options, &model, &tokenizer, folder)?;
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

    let result = folder.join(match options.method {
        Method::Lora(_) => "adapter",
        Method::Full => "model",
    });
    save_result(options, &model, &tokenizer, &result)?;
    // The tokenizer goes with the adapter too: whoever gets it should not have to guess the chat template.
    tokenizer.save(&result)?;
    header::results(&folder, &result, &records, &state);
    Ok(())
}

/// Where in the run folder the base is that LoftQ changed; the adapter fits no other.
const REPAIRED_BASE: &str = "base";

/// The training and validation examples, tokenized. If they went through a chat template that the model does not bring, the
/// tokenizer gets it, so that it is saved with the result.
fn load_data(options: &Options, tokenizer: &mut TextTokenizer) -> Result<(Vec<Sample>, Vec<Sample>)> {
    let data = &options.data;
    let (template, fallback) = tokenizer.chat_template(false)?;
    let load = |path: &Path| -> Result<SftSet> {
        let set = load_sft(path, tokenizer, &template, &data.examples)?;
        say(format!("format      {}: {}", path.display(), set.format));
        set.notes.iter().for_each(|note| say(format!("note: {note}")));
        Ok(set)
    };
    let set = load(&data.train)?;
    let validation = data.validation.as_deref().map(load).transpose()?;
    if let Some(note) = fallback
        && data.examples.style == PromptStyle::Chat
        && set.format != DataFormat::Text
    {
        say(format!("note: {note}"));
        tokenizer.set_chat_template(template.source());
    }
    match validation {
        Some(validation) => Ok((set.samples, validation.samples)),
        None => split(set.samples, data.validation_fraction, options.train.seed),
    }
}

/// Writes what was trained, as peft or transformers read it.
fn save_result(options: &Options, model: &Decoder, tokenizer: &TextTokenizer, folder: &Path) -> Result<()> {
    match &options.method {
        Method::Lora(config) if options.loftq > 1 => {
            let base = options.output.join(REPAIRED_BASE).display().to_string();
            lora::save(model, &LoraConfig { base_model: Some(base), ..(**config).clone() }, folder)
        }
        Method::Lora(config) => lora::save(model, config, folder),
        Method::Full => {
            model.save(folder)?;
            tokenizer.save(folder)
        }
    }
}
