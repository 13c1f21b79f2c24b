//! `warptune chat`: a conversation on the terminal.

use std::io::{BufRead, IsTerminal, Write};

use serde_json::json;

use crate::cli::interrupt;
use crate::cli::sampling::SamplingArgs;
use crate::cli::source::ModelArgs;
use crate::cli::stream::AnswerStream;
use crate::generate::generate;
use crate::text::{ChatTemplate, Conversation};
use crate::train::Interrupt;
use crate::train::base_model::BaseModel;
use crate::{Error, Result};

/// Talk with a model. /reset forgets the conversation, /exit (or Ctrl-D) ends it, Ctrl-C stops an answer.
#[derive(clap::Args)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    source: ModelArgs,
    /// System message at the beginning of the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

impl ChatArgs {
    pub(super) fn run(&self) -> Result<()> {
        let base = self.source.load()?;
        let (template, note) = base.tokenizer.chat_template(false)?;
        note.iter().for_each(|note| eprintln!("note: {note}"));
        let interrupt = interrupt::on_ctrl_c_quietly()?;
        let mut conversation = self.start();
        let mut lines = std::io::stdin().lock().lines();
        loop {
            // While it waits for a line, a first Ctrl-C counts as the second: it ends the program.
            interrupt.request();
            if std::io::stdin().is_terminal() {
                let _ = write!(std::io::stdout(), "> ").and_then(|()| std::io::stdout().flush());
            }
            let Some(line) = lines.next() else { return Ok(()) };
            let line = line.map_err(Error::io("standard input", "cannot read"))?;
            match line.trim() {
                "" => {}
                "/exit" | "/quit" => return Ok(()),
                "/reset" => conversation = self.start(),
                text => {
                    interrupt.clear();
                    let turns = conversation.messages.len();
                    conversation.messages.push(json!({"role": "user", "content": text}));
                    match self.answer(&base, &template, &conversation, &interrupt) {
                        Ok(answer) => {
                            conversation.messages.push(json!({"role": "assistant", "content": answer}));
                        }
                        // The conversation goes on without the turn that failed (it may have been too long).
                        Err(e) => {
                            conversation.messages.truncate(turns);
                            eprintln!("error: {e}; /reset begins a new conversation");
                        }
                    }
                }
            }
        }
    }

    fn start(&self) -> Conversation {
        Conversation::from_turns(self.system.as_deref().map(|text| ("system", text)))
    }

    fn answer(
        &self,
        base: &BaseModel,
        template: &ChatTemplate,
        conversation: &Conversation,
        interrupt: &Interrupt,
    ) -> Result<String> {
        let BaseModel { model, tokenizer } = base;
        let ids = tokenizer.encode(&template.render(conversation, true)?, false)?;
        let decode = |ids: &[u32]| tokenizer.decode(ids, true);
        let options = self.sampling.options(tokenizer, &decode)?;
        let mut answer = AnswerStream::new(tokenizer, self.sampling.stop());
        generate(model, &[ids], &options, &mut |_, id| answer.push(id, interrupt))?;
        answer.finish()
    }
}
