//! Pretraining with the causal objective: a fresh model learns to continue texts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use crate::data::{Loader, LoaderOptions, Sample, Stats, for_each_document, load_pretrain, split};
use crate::device::Device;
use crate::formats::DecoderConfig;
use crate::models::Decoder;
use crate::tensor::DType;
use crate::text::{TextTokenizer, train_byte_level_bpe};
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

/// The shape of the model, a Llama.
#[derive(Clone, Debug)]
pub struct ModelShape {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    /// Base of the rotary embedding's wavelengths.
    pub rope_theta: f64,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
}

/// Where the tokenizer comes from.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// A folder with a tokenizer.json.
    Folder(PathBuf),
    /// A byte-level BPE of so many tokens, trained on the texts.
    Train(usize),
}

/// A pretraining run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model.
    pub model: ModelShape,
    /// Type of the activations; weights are f32.
    pub dtype: DType,
    /// Its tokenizer.
    pub tokenizer: TokenizerSource,
    /// Text files (each a document) or JSON lines with `text` (each a document).
    pub files: Vec<PathBuf>,
    /// Tokens of a training sequence.
    pub block: usize,
    /// Share of the sequences that is held out.
    pub validation_fraction: f64,
    /// How it is trained.
    pub train: TrainOptions,
    /// The run folder.
    pub output: PathBuf,
    /// Where the model is trained.
    pub device: Device,
}

/// Runs it: prints the header, trains, and leaves a Hugging Face folder, tokenizer included, in the run folder.
///
/// # Errors
/// Whatever is wrong with the data or the settings, before the first step; [`Error::NonFinite`] for a step that fails (the
/// last checkpoint stays); [`Error::Interrupted`], after a checkpoint, if the run was asked to stop.
pub fn run(options: &Options, launch: &Launch) -> Result<()> {
    let train = &options.train;
    check_dtype("model.dtype", options.dtype)?;
    let folder = RunFolder::new(&options.output);
    let checkpoints = folder.checkpoints(train.keep_last);
    let resume = launch.resume_point(&checkpoints)?;

    // Tokenizer and model: from the checkpoint, where there is one, else new.
    let BaseModel { mut model, tokenizer } = match &resume {
        Some(point) => base_model::load(&point.folder, DType::F32)?,
        None => {
            let tokenizer = tokenizer(options)?;
            let config = config(&options.model, &tokenizer)?;
            BaseModel { model: Decoder::init(&config, train.seed, DType::F32)?, tokenizer }
        }
    };
    model.set_dtype(options.dtype)?;
    let checkpointing = train.checkpoints_layers(&model);
    model.set_checkpointing(checkpointing);
    header::device(options.device)?;
    header::model("new", model.config(), &model.parameters(), &[]);

    // The data.
    let set = load_pretrain(&options.files, &tokenizer, options.block)?;
    let untrained = UntrainedSpecials::of(&set.samples, &tokenizer);
    let (train_samples, validation_samples) = split(set.samples, options.validation_fraction, train.seed)?;
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
    let step = StepShape {
        tokens: train.batch_size * options.block,
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
    let mut stepper =
        Stepper::beside(decay_matrices(model.parameters()), train, plan.peak).map_err(planned)?;
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
                model.save(folder)?;
                tokenizer.save(folder)?;
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

    model.average_rows(&untrained.ids, &untrained.seen)?;
    let result = folder.join("model");
    model.save(&result)?;
    tokenizer.save(&result)?;
    header::results(&folder, &result, &records, &state);
    Ok(())
}

/// Special tokens that the texts do not hold (those of the chat template, say): fine-tuning will want to use them.
struct UntrainedSpecials {
    ids: Vec<u32>,
    /// By token: whether the texts hold it.
    seen: Vec<bool>,
}

impl UntrainedSpecials {
    fn of(samples: &[Sample], tokenizer: &TextTokenizer) -> UntrainedSpecials {
        let mut seen = vec![false; tokenizer.vocab_size()];
        samples.iter().flat_map(|s| &s.ids).for_each(|&id| seen[id as usize] = true);
        let ids =
            (0..seen.len() as u32).filter(|&id| tokenizer.is_special(id) && !seen[id as usize]).collect();
        UntrainedSpecials { ids, seen }
    }
}

fn tokenizer(options: &Options) -> Result<TextTokenizer> {
    let vocab_size = match &options.tokenizer {
        TokenizerSource::Folder(folder) => return TextTokenizer::load(folder),
        TokenizerSource::Train(vocab_size) => *vocab_size,
    };
    let mut lines = Vec::new();
    for path in &options.files {
        for_each_document(path, |text| {
            lines.extend(text.split_inclusive('\n').map(str::to_string));
            Ok(())
        })?;
    }
    train_byte_level_bpe(lines.into_iter(), vocab_size)
}

/// The config.json of a model of this shape for this tokenizer.
fn config(shape: &ModelShape, tokenizer: &TextTokenizer) -> Result<DecoderConfig> {
    let json = json!({
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": tokenizer.vocab_size(),
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_eps,
        "tie_word_embeddings": shape.tie_word_embeddings,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "bos_token_id": tokenizer.bos_id(),
        "eos_token_id": tokenizer.eos_ids(),
        "pad_token_id": tokenizer.pad_id(),
    });
    match json {
        serde_json::Value::Object(map) => DecoderConfig::from_json(Path::new("[model]"), &map),
        _ => Err(Error::config("model", "is not a section")),
    }
}
