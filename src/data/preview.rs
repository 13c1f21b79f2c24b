//! A look at the data as the model will see it.

use std::io::Write;

use console::Style;

use super::{Sample, SftSet, Stats};
use crate::text::TextTokenizer;
use crate::{Error, Result};

/// Writes the format, the figures, the notes and the first `count` samples, in which the tokens that carry loss are coloured;
/// without `colors` they stand in double brackets.
pub fn preview(
    out: &mut impl Write,
    tokenizer: &TextTokenizer,
    set: &SftSet,
    count: usize,
    colors: bool,
) -> Result<()> {
    let mut text = format!("format: {}\n{}", set.format, summarize(&set.stats));
    for note in &set.notes {
        text += &format!("note: {note}\n");
    }
    for sample in set.samples.iter().take(count) {
        text += &format!(
            "\n--- line {}: {} tokens, {} with loss\n{}\n",
            sample.line,
            sample.ids.len(),
            sample.loss_tokens(),
            paint(tokenizer, sample, colors)?
        );
    }
    out.write_all(text.as_bytes()).map_err(Error::io("output", "cannot write"))
}

/// The figures of a set in words.
pub fn summarize(stats: &Stats) -> String {
    let share = 100.0 * stats.loss_tokens as f64 / stats.tokens.max(1) as f64;
    let p = |percent| stats.length_percentile(percent);
    format!(
        "examples: {}, tokens: {}, with loss: {} ({share:.1} %)\nlengths: shortest {}, median {}, 90 % up to {}, 99 % up to {}, \
         longest {}\n",
        stats.examples,
        stats.tokens,
        stats.loss_tokens,
        p(0),
        p(50),
        p(90),
        p(99),
        p(100)
    )
}

/// The text of a sample, the tokens with loss marked.
fn paint(tokenizer: &TextTokenizer, sample: &Sample, colors: bool) -> Result<String> {
    let (loss, plain) =
        (Style::new().green().bold().force_styling(true), Style::new().dim().force_styling(true));
    let mut text = String::new();
    let mut run = String::new();
    let mut run_trained = false;
    // A character that is split over tokens is painted as the token that completes it.
    let mut close = |run: &mut String, trained: bool| {
        if !run.is_empty() {
            text += &match (colors, trained) {
                (true, true) => loss.apply_to(&run).to_string(),
                (true, false) => plain.apply_to(&run).to_string(),
                (false, true) => format!("[[{run}]]"),
                (false, false) => run.clone(),
            };
            run.clear();
        }
    };
    let mut stream = tokenizer.stream(false);
    for (&id, &trained) in sample.ids.iter().zip(&sample.trained) {
        if trained != run_trained {
            close(&mut run, run_trained);
            run_trained = trained;
        }
        run.push_str(&stream.push(id)?);
    }
    run.push_str(&stream.finish()?);
    close(&mut run, run_trained);
    Ok(text)
}
