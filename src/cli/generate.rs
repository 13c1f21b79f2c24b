//! `warptune generate`: prompts in, answers out.

use std::path::PathBuf;
use std::time::Instant;

use crate::cli::interrupt;
use crate::cli::sampling::SamplingArgs;
use crate::cli::source::ModelArgs;
use crate::cli::stream::AnswerStream;
use crate::generate::{Completion, GenerateOptions, generate};
use crate::text::{Conversation, TextTokenizer};
use crate::train::Interrupt;
use crate::train::base_model::BaseModel;
use crate::{Error, Result};

/// Continue prompts with a model, or with a model and a delta or an adapter.
#[derive(clap::Args)]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    source: ModelArgs,
    /// Text to continue (repeatable: the prompts are answered together)
    #[arg(long, short, value_name = "TEXT")]
    prompt: Vec<String>,
    /// File of prompts, one a line
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Continue the prompts as they are. Otherwise they go through the chat template, as a user's message, if the model
    /// has one or its adapter was trained with one
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print tokens a second at the end
    #[arg(long)]
    stats: bool,
}

impl GenerateArgs {
    pub(super) fn run(&self) -> Result<()> {
        let prompts = self.texts()?;
        let BaseModel { model, tokenizer } = self.source.load()?;
        let ids = prompts.iter().map(|text| self.encode(&tokenizer, text)).collect::<Result<Vec<_>>>()?;
        let decode = |ids: &[u32]| tokenizer.decode(ids, true);
        let options = self.sampling.options(&tokenizer, &decode)?;
        let interrupt = interrupt::on_ctrl_c_quietly()?;
        let started = Instant::now();
        let completions = match ids.as_slice() {
            [_] => {
                let mut answer = AnswerStream::new(&tokenizer, self.sampling.stop());
                let completions = generate(&model, &ids, &options, &mut |_, id| answer.push(id, &interrupt))?;
                answer.finish()?;
                completions
            }
            _ => self.batch(&model, &ids, &options, &prompts, &tokenizer, &interrupt)?,
        };
        if self.stats {
            let new: usize = completions.iter().map(|c| c.ids.len()).sum();
            let seconds = started.elapsed().as_secs_f64();
            let read: usize = ids.iter().map(Vec::len).sum();
            eprintln!("{read} prompt tokens, {new} new tokens, {:.1} new tokens/s", new as f64 / seconds);
        }
        Ok(())
    }

    /// Answers several prompts together and prints them one after the other.
    fn batch(
        &self,
        model: &crate::models::Decoder,
        ids: &[Vec<u32>],
        options: &GenerateOptions<'_>,
        prompts: &[String],
        tokenizer: &TextTokenizer,
        interrupt: &Interrupt,
    ) -> Result<Vec<Completion>> {
        let completions = generate(model, ids, options, &mut |_, _| interrupt.as_flow())?;
        for (prompt, completion) in prompts.iter().zip(&completions) {
            crate::train::say(format!("--- {prompt}"));
            let mut answer = AnswerStream::new(tokenizer, self.sampling.stop());
            for &id in &completion.ids {
                if answer.push(id, &Interrupt::new()).is_break() {
                    break;
                }
            }
            answer.finish()?;
        }
        Ok(completions)
    }

    fn texts(&self) -> Result<Vec<String>> {
        let mut texts = self.prompt.clone();
        if let Some(path) = &self.prompts {
            let file = std::fs::read_to_string(path).map_err(Error::io(path, "cannot read"))?;
            texts.extend(file.lines().filter(|line| !line.trim().is_empty()).map(str::to_string));
        }
        match texts.is_empty() {
            true => Err(Error::config("prompt", "is missing: give --prompt TEXT or --prompts FILE")),
            false => Ok(texts),
        }
    }

    fn encode(&self, tokenizer: &TextTokenizer, text: &str) -> Result<Vec<u32>> {
        if self.raw || !tokenizer.has_chat_template() {
            return tokenizer.encode(text, true);
        }
        let (template, _) = tokenizer.chat_template(false)?;
        tokenizer.encode(&template.render(&Conversation::from_turns([("user", text)]), true)?, false)
    }
}
