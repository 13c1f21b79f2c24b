//! Texts for the causal objective: documents to one stream of tokens, cut into blocks.

use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{DataFormat, Sample, Stats, open};
use crate::text::TextTokenizer;
use crate::{Error, Result};

/// A tokenized text collection.
#[derive(Clone, Debug)]
pub struct PretrainSet {
    /// Blocks of the stream. Each begins with the last token of the one before, so that every token but the very first is predicted
    /// exactly once.
    pub samples: Vec<Sample>,
    /// Number of documents.
    pub documents: usize,
    /// Figures of `samples`.
    pub stats: Stats,
}

/// Reads documents (a text file is one; each record of a file in the format "text" is one), tokenizes them, ends each with
/// eos, and cuts the stream of all of them into blocks of `block` tokens; the last may be shorter.
///
/// # Errors
/// If a file cannot be read, is not UTF-8 or not in the format "text"; if there is no text; if `block` is below 2.
pub fn load_pretrain(paths: &[PathBuf], tokenizer: &TextTokenizer, block: usize) -> Result<PretrainSet> {
    if block < 2 {
        return Err(Error::config("data.block", format!("must be at least 2 tokens, is {block}")));
    }
    let mut stream = Vec::new();
    let mut documents = 0;
    for path in paths {
        for_each_document(path, |text| {
            stream.extend(encode(tokenizer, text)?);
            stream.extend(tokenizer.eos_id());
            documents += 1;
            Ok(())
        })?;
    }
    if stream.len() < 2 {
        let path = paths.first().cloned().unwrap_or_default();
        return Err(Error::Data { path, line: None, detail: "there is no text in it".to_owned() });
    }
    let samples: Vec<Sample> = (0..stream.len() - 1)
        .step_by(block - 1)
        .enumerate()
        .map(|(i, start)| {
            let ids = stream[start..stream.len().min(start + block)].to_vec();
            let mut trained = vec![true; ids.len()];
            trained[0] = false;
            Sample { ids, trained, line: i + 1 }
        })
        .collect();
    Ok(PretrainSet { stats: Stats::of(&samples), samples, documents })
}

/// Whether a file is one plain text: not Parquet by its first bytes, nor JSON by its name.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub fn is_plain_text(path: &Path) -> Result<bool> {
    let mut head = [0; 4];
    let mut file = std::fs::File::open(path).map_err(Error::io(path, "cannot open"))?;
    let read = file.read(&mut head).map_err(Error::io(path, "cannot read"))?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    Ok(&head[..read] != b"PAR1" && !["json", "jsonl", "ndjson"].contains(&extension.as_str()))
}

/// Calls `use_text` with each document of a file: JSON lines, a JSON array or Parquet with `text`, else one plain text.
pub fn for_each_document(path: &Path, mut use_text: impl FnMut(&str) -> Result<()>) -> Result<()> {
    if is_plain_text(path)? {
        let bytes = std::fs::read(path).map_err(Error::io(path, "cannot read"))?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|e| Error::format(path, format!("not UTF-8 at byte {}", e.valid_up_to() + 1)))?;
        return use_text(text);
    }
    for record in open(path)? {
        let record = record?;
        let text = record.fields.get("text").and_then(|text| text.as_str()).ok_or_else(|| {
            let found = DataFormat::detect(&record.fields).map(|f| format!(" ('{f}')")).unwrap_or_default();
            Error::data(
                path,
                record.line,
                format!("pretraining needs the format 'text', this record has no text under that key{found}"),
            )
        })?;
        use_text(text)?;
    }
    Ok(())
}

/// Tokenizes a document, a long one in parallel pieces that give the same tokens as the whole.
fn encode(tokenizer: &TextTokenizer, text: &str) -> Result<Vec<u32>> {
    let pieces = if tokenizer.splits_at_line_ends() { pieces(text) } else { vec![text] };
    let ids: Vec<Result<Vec<u32>>> = pieces.par_iter().map(|piece| tokenizer.encode(piece, false)).collect();
    let mut all: Vec<u32> = tokenizer.adds_bos()?.into_iter().collect();
    for ids in ids {
        all.extend(ids?);
    }
    Ok(all)
}

/// Pieces of some 64 KiB, cut before a line end between two letters: there every byte-level tokenizer's pattern
/// separates words anyway.
fn pieces(text: &str) -> Vec<&str> {
    const SIZE: usize = 64 << 10;
    let bytes = text.as_bytes();
    let mut pieces = Vec::new();
    let mut start = 0;
    while bytes.len() - start > SIZE {
        let seam = bytes[start + SIZE..]
            .windows(3)
            .position(|w| w[0].is_ascii_alphabetic() && w[1] == b'\n' && w[2].is_ascii_alphabetic());
        let Some(seam) = seam else { break };
        let end = start + SIZE + seam + 1;
        pieces.push(&text[start..end]);
        start = end;
    }
    pieces.push(&text[start..]);
    pieces
}
