//! The command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use kernel_report::count::Settings;
use kernel_report::machine::{MACHINES, Machine};
use kernel_report::report::{Report, report};
use kernel_report::resources::Toolkit;
use kernel_report::{Error, Result, problem, render};

/// Counts what CUDA kernels do, without a GPU, and models how far they are from the limits of known GPUs.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Problem files: kernels in PTX, their launches and sizes
    #[arg(required = true, value_name = "PROBLEMS.toml")]
    files: Vec<PathBuf>,
    /// GPUs to model: architectures (sm_80) or names (a100); all by default
    #[arg(long, value_name = "GPU", value_delimiter = ',')]
    arch: Vec<String>,
    /// Report on kernels and sizes whose names hold this text only
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Blocks to run at most, spread evenly over the grid (0: all)
    #[arg(long, value_name = "N", default_value_t = 32)]
    blocks: u32,
    /// Run with the checks of the emulated device (slower)
    #[arg(long)]
    check: bool,
    /// Seed of the random data
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The assembler (default: in CUDA_HOME, PATH, .cuda)
    #[arg(long, value_name = "FILE")]
    ptxas: Option<PathBuf>,
    /// Write the report as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as Markdown too
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let machines = machines(&args.arch)?;
    let mut toolkit = Toolkit::find();
    if let Some(ptxas) = &args.ptxas {
        let folder = ptxas.parent().unwrap_or(Path::new(".")).to_path_buf();
        toolkit = Toolkit { ptxas: Some(ptxas.clone()), ..Toolkit::in_folders(&[folder]) };
    }
    let settings = Settings { max_blocks: args.blocks, checks: args.check, seed: args.seed };
    let mut all = Report { problems: Vec::new(), notes: Vec::new() };
    for file in &args.files {
        let mut family = problem::read(file)?;
        if let Some(text) = &args.only {
            family.problems.retain(|p| p.kernel.contains(text) || p.size.contains(text));
        }
        let mut say = |p: &problem::Problem| eprintln!("counting {}, {}", p.kernel, p.size);
        let part = report(&family, &machines, &toolkit, settings, &mut say)?;
        all.problems.extend(part.problems);
        all.notes.extend(part.notes.into_iter().filter(|note| !all.notes.contains(note)).collect::<Vec<_>>());
    }
    // A closed pipe is no failure.
    let _ = write!(std::io::stdout().lock(), "{}", render::text(&all));
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&all)
            .map_err(|e| Error::Io { path: path.clone(), source: e.into() })?;
        write(path, &(json + "\n"))?;
    }
    if let Some(path) = &args.markdown {
        write(path, &render::markdown(&all))?;
    }
    Ok(())
}

fn machines(names: &[String]) -> Result<Vec<Machine>> {
    if names.is_empty() {
        return Ok(MACHINES.to_vec());
    }
    let mut machines: Vec<Machine> = Vec::new();
    for name in names {
        let found = Machine::find(name);
        if found.is_empty() {
            let known: Vec<String> = MACHINES.iter().map(|m| format!("{} ({})", m.arch, m.name)).collect();
            let detail = format!("no GPU is called '{name}'; known are {}", known.join(", "));
            return Err(Error::Tool { tool: "--arch".to_string(), detail });
        }
        machines.extend(found.into_iter().filter(|m| !machines.contains(m)).collect::<Vec<_>>());
    }
    Ok(machines)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::io(path))
}
