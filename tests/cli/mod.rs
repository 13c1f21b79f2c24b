//! The real binary, from its command line.

mod bitdelta;
mod config;
mod data_errors;
#[cfg(target_os = "linux")]
pub mod drivers;
mod kill;
mod plan;
mod quickstart;
mod results;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::tiny::Tiny;

/// The binary with arguments; the folder of `tiny` is the working folder.
fn command(tiny: &Tiny, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warptune"));
    command.args(args).current_dir(tiny.path("")).stdin(Stdio::null());
    command
}

/// What the binary said, and its exit code.
struct Answer {
    code: Option<i32>,
    out: String,
    err: String,
}

fn answer(output: Output) -> Answer {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Answer { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn run(tiny: &Tiny, args: &[&str]) -> Answer {
    answer(command(tiny, args).output().unwrap())
}

/// Runs and expects success.
#[track_caller]
fn succeed(tiny: &Tiny, args: &[&str]) -> Answer {
    let answer = run(tiny, args);
    assert_eq!(answer.code, Some(0), "{args:?}\n{}{}", answer.out, answer.err);
    answer
}

/// Runs and expects this exit code, and an error of one line (or a few) with all of `parts`, without a panic.
#[track_caller]
fn fail(tiny: &Tiny, code: i32, args: &[&str], parts: &[&str]) {
    let answer = run(tiny, args);
    assert_eq!(answer.code, Some(code), "{args:?}\n{}{}", answer.out, answer.err);
    for part in parts {
        assert!(answer.err.contains(part), "{args:?}: '{part}' is not in: {}", answer.err);
    }
    assert!(!answer.err.contains("panicked"), "{}", answer.err);
}

/// A fine-tuning command on the tiny model, with further arguments.
fn sft<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["sft", "--model", "model", "--data", "data.jsonl", "--max-tokens", "96"];
    args.extend(["--set", "train.eval_every=20", "--set", "train.save_every=5"]);
    args.extend(more);
    args
}

/// The bytes of a file.
fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
