//! The command line: flags and config files in, calls of the library out.

mod bench;
mod bench_quantized;
mod bitdelta;
mod chat;
mod config;
mod device;
mod doctor;
mod generate;
mod interrupt;
mod merge;
mod plan;
mod pretrain;
mod preview;
mod quantize;
mod quickstart;
mod sampling;
mod settings;
mod sft;
mod source;
mod start;
mod stream;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::device::philox::Philox;
use crate::{Error, Result};

/// Fine-tune language models in one binary.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// Threads to compute with (default: all cores; results do not depend on it)
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Quickstart(quickstart::QuickstartArgs),
    Sft(Box<sft::SftArgs>),
    Pretrain(Box<pretrain::PretrainArgs>),
    Generate(Box<generate::GenerateArgs>),
    Chat(Box<chat::ChatArgs>),
    Merge(merge::MergeArgs),
    Quantize(quantize::QuantizeArgs),
    Plan(plan::PlanArgs),
    Bitdelta(bitdelta::BitdeltaArgs),
    Preview(preview::PreviewArgs),
    Doctor(doctor::DoctorArgs),
    #[command(hide = true)]
    BenchStep(bench::BenchStepArgs),
    #[command(hide = true)]
    BenchGenerate(bench::BenchGenerateArgs),
    #[command(hide = true)]
    BenchQuantized(bench_quantized::BenchQuantizedArgs),
}

/// Exit code of a run that the user stopped, as shells count it for SIGINT.
const INTERRUPTED: u8 = 130;
/// Exit code of a command line or config that makes no sense.
const USAGE: u8 = 2;

/// Runs the command line `args` (the program's name first) and returns the exit code: 0; 1 for a failure; 2 for flags
/// or settings that make no sense; 130 after Ctrl-C.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version come here too; where they cannot be printed there is nobody to tell.
            let _ = e.print();
            return ExitCode::from(e.exit_code().clamp(0, 255) as u8);
        }
    };
    match set_threads(cli.threads).and_then(|()| run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let code = match &e {
                Error::Interrupted(_) => INTERRUPTED,
                Error::Config { .. } => USAGE,
                _ => 1,
            };
            let prefix = if code == INTERRUPTED { "" } else { "error: " };
            eprintln!("{prefix}{e}");
            ExitCode::from(code)
        }
    }
}

fn set_threads(threads: Option<usize>) -> Result<()> {
    let Some(threads) = threads else { return Ok(()) };
    if threads == 0 {
        return Err(Error::config("threads", "is 0; it must be at least 1"));
    }
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    built.map_err(|e| Error::config("threads", format!("cannot be set: {e}")))
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Quickstart(args) => args.run(),
        Command::Sft(args) => args.run(),
        Command::Pretrain(args) => args.run(),
        Command::Generate(args) => args.run(),
        Command::Chat(args) => args.run(),
        Command::Merge(args) => args.run(),
        Command::Quantize(args) => args.run(),
        Command::Plan(args) => args.run(),
        Command::Bitdelta(args) => args.run(),
        Command::Preview(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::BenchStep(args) => args.run(),
        Command::BenchGenerate(args) => args.run(),
        Command::BenchQuantized(args) => args.run(),
    }
}

/// Random token ids, the same for the same generator.
fn random_ids(random: Philox, count: usize, vocab: usize) -> Vec<u32> {
    (0..count as u64).map(|i| ((u64::from(random.word(i)) * vocab as u64) >> 32) as u32).collect()
}
