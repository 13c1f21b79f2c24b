//! `warptune preview`: examples as the model will see them.

use std::path::PathBuf;

use crate::Result;
use crate::data::{DataFormat, OverLong, SftOptions, load_sft, preview};
use crate::formats::hub;
use crate::train::{base_model, say};

/// Print examples with the tokens that carry loss coloured.
#[derive(clap::Args)]
pub(super) struct PreviewArgs {
    /// Model whose tokenizer and chat template are used
    #[arg(long, value_name = "PATH_OR_ID")]
    model: String,
    /// Examples
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// How many examples
    #[arg(long, value_name = "N", default_value_t = 3)]
    count: usize,
    /// Leave out examples longer than this
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_tokens: usize,
}

impl PreviewArgs {
    pub(super) fn run(&self) -> Result<()> {
        let tokenizer = base_model::load_tokenizer(&hub::resolve(&self.model, None)?)?;
        let (template, note) = tokenizer.chat_template(false)?;
        let options =
            SftOptions { max_tokens: self.max_tokens, over_long: OverLong::Drop, ..SftOptions::default() };
        let set = load_sft(&self.data, &tokenizer, &template, &options)?;
        if let Some(note) = note
            && set.format != DataFormat::Text
        {
            say(format!("note: {note}"));
        }
        let colors = console::colors_enabled();
        preview(&mut std::io::stdout().lock(), &tokenizer, &set, self.count, colors)
    }
}
