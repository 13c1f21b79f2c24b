//! `warptune quickstart`: the embedded model, fine-tuned on the embedded examples.

use std::path::{Path, PathBuf};

use crate::cli::device;
use crate::cli::sft::SftArgs;
use crate::cli::start::RunArgs;
use crate::cli::stream::AnswerStream;
use crate::formats::write_atomic;
use crate::generate::{GenerateOptions, Sampling, generate};
use crate::peft::lora;
use crate::text::Conversation;
use crate::train::base_model::{self, BaseModel};
use crate::train::metrics::{self, Record};
use crate::train::{Interrupt, next_free, say};
use crate::{Error, Result};

/// What the model is asked before and after.
const PROMPTS: [&str; 3] =
    ["Speak of the night.", "Give me two lines of verse about love.", "What say you of the sea?"];

/// The sampling of the answers: some variety, the same on every run.
const SAMPLING: Sampling =
    Sampling { temperature: 0.7, top_k: 40, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };
const MAX_NEW_TOKENS: usize = 60;

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../../assets/", $name)) as &[u8])),*]
    };
}

/// Everything that the run needs, as it lies in assets/ and will lie in the output folder.
const ASSETS: [(&str, &[u8]); 5] = embedded![
    "base/config.json",
    "base/model.safetensors",
    "base/tokenizer.json",
    "base/tokenizer_config.json",
    "couplets.jsonl",
];

/// The run's settings.
const CONFIG: &[u8] = include_bytes!("../../configs/quickstart.toml");

/// Fine-tune the embedded model on the embedded examples and show what changed
#[derive(clap::Args)]
pub(super) struct QuickstartArgs {
    /// Folder for everything (default: the next free one under runs/)
    #[arg(long, short, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_name = device::VALUES, default_value = "cpu")]
    device: String,
    /// Stop the fine-tuning after so many steps
    #[arg(long, value_name = "N")]
    max_steps: Option<u32>,
}

impl QuickstartArgs {
    pub(super) fn run(&self) -> Result<()> {
        let device = device::open(&self.device)?;
        let out = self.out.clone().unwrap_or_else(|| next_free(Path::new("runs/quickstart")));
        if out.join("run").exists() {
            let detail = format!("{} already holds a run; choose another folder", out.display());
            return Err(Error::config("out", detail));
        }
        for (name, bytes) in ASSETS.into_iter().chain([("quickstart.toml", CONFIG)]) {
            let path = out.join(name);
            let folder = path.parent().unwrap_or(&out);
            std::fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create the folder"))?;
            write_atomic(&path, |file| file.write_all(bytes).map_err(Error::io(&path, "cannot write")))?;
        }
        let (base, run) = (out.join("base"), out.join("run"));

        say(
            "A small Llama, pretrained on Shakespeare's works by this engine, is to learn to answer with two lines of verse.\n",
        );
        say("BEFORE");
        let base_model = || {
            let loaded = base_model::load(&base, crate::tensor::DType::F32)?;
            loaded.model.to_device(device)?;
            Ok::<_, Error>(loaded)
        };
        let model = base_model()?;
        answer(&model)?;
        drop(model);

        say("\nFINE-TUNING");
        let text = |path: &Path| path.display().to_string();
        let config = out.join("quickstart.toml");
        let args = RunArgs::new(config, text(&run), self.device.clone(), self.max_steps);
        SftArgs::new(text(&base), text(&out.join("couplets.jsonl")), args).run()?;

        say("\nLOSS");
        curve(&metrics::read(&run.join("metrics.jsonl"))?);
        say("\nAFTER");
        let mut model = base_model()?;
        lora::load(&mut model.model, &run.join("adapter"))?;
        answer(&model)?;

        let (out, base) = (out.display(), base.display());
        say(format!(
            "\nEverything is in {out}: base/ (the model), couplets.jsonl (the examples), run/ (adapter, metrics,"
        ));
        say("loss.svg, TensorBoard events, checkpoints). To go on from here:\n");
        say(format!("  warptune chat --model {base} --adapter {out}/run/adapter"));
        say(format!("  warptune preview --model {base} --data {out}/couplets.jsonl"));
        say(format!(
            "  warptune merge --model {base} --adapter {out}/run/adapter --out {out}/merged --verify"
        ));
        Ok(())
    }
}

/// Puts the prompts to the model and prints its answers.
fn answer(BaseModel { model, tokenizer }: &BaseModel) -> Result<()> {
    let (template, _) = tokenizer.chat_template(false)?;
    let options = GenerateOptions {
        max_new_tokens: MAX_NEW_TOKENS,
        sampling: SAMPLING,
        seed: 1,
        stop_ids: tokenizer.eos_ids().to_vec(),
        stop_strings: None,
    };
    let nobody = Interrupt::new();
    for prompt in PROMPTS {
        let text = template.render(&Conversation::from_turns([("user", prompt)]), true)?;
        say(format!("> {prompt}"));
        let mut answer = AnswerStream::new(tokenizer, &[]);
        generate(model, &[tokenizer.encode(&text, false)?], &options, &mut |_, id| answer.push(id, &nobody))?;
        answer.finish()?;
    }
    Ok(())
}

/// The training loss as a row of bars, each the mean of a few steps, and the validation losses in figures.
fn curve(records: &[Record]) {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const COLUMNS: usize = 60;
    let losses: Vec<f64> = records.iter().filter_map(|r| r.loss).collect();
    if losses.is_empty() {
        return;
    }
    let means: Vec<f64> = losses
        .chunks(losses.len().div_ceil(COLUMNS))
        .map(|part| part.iter().sum::<f64>() / part.len() as f64)
        .collect();
    let (low, high) = means.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (l.min(x), h.max(x)));
    let height = |x: f64| ((x - low) / (high - low).max(f64::MIN_POSITIVE) * (BARS.len() - 1) as f64).round();
    let bars: String = means.iter().map(|&x| BARS[height(x) as usize]).collect();
    say(format!("training    {bars}  {:.3} -> {:.3}", means[0], means[means.len() - 1]));
    let validation = |r: &Record| r.eval_loss.map(|loss| format!("{loss:.3} (step {})", r.step));
    let points: Vec<String> = records.iter().filter_map(validation).collect();
    say(format!("validation  {}", points.join(", ")));
}
