//! `gpu-check`: how fast the kernels and whole training steps are on the GPU at hand, against its copy bandwidth and cuBLAS.
//! `tools/gpu-check/run` is the whole check: build, tests, quickstart, then this.

mod baseline;
mod cases;
mod clock;
mod models;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use warptune::device::Device;
use warptune::{Error, Result};

use report::Report;

/// Time every kernel and the training steps of two models; print a table, write a JSON file.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// cuda, cuda:N, or emulated (to try the tool without a GPU: its times mean nothing)
    #[arg(long, default_value = "cuda")]
    device: String,
    /// Tiny sizes
    #[arg(long)]
    tiny: bool,
    /// Only cases whose name contains this
    #[arg(long, default_value = "")]
    filter: String,
    /// Where the figures go
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the tables go, as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// The sizes of a check.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Tokens of a batch.
    pub tokens: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Width of the MLP.
    pub hidden: usize,
    /// Words.
    pub vocab: usize,
    /// Whether they are those of a GPU.
    pub full: bool,
}

const FULL: Sizes = Sizes { tokens: 4096, dim: 4096, hidden: 11008, vocab: 32000, full: true };
const TINY: Sizes = Sizes { tokens: 48, dim: 64, hidden: 96, vocab: 130, full: false };

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let device = match args.device.as_str() {
        "emulated" => {
            let refuse = |detail: String| Error::Cuda { what: "emulated driver".into(), detail };
            let mut options =
                emulated_cuda::machine::Options::from_env().map_err(|e| refuse(e.to_string()))?;
            // The allocator keeps its memory for the life of the process.
            options.checks.leaks = false;
            emulated_cuda::install(options).map_err(|e| refuse(e.to_string()))?;
            Device::Cuda(0)
        }
        name => name.parse()?,
    };
    let sizes = if args.tiny { TINY } else { FULL };
    let properties = device.cuda()?.properties().clone();
    let mut report = Report::new(&properties, sizes.full);
    report.copy_bandwidth = Some(baseline::copy_bandwidth(device, sizes)?);
    let wanted = |name: &str| name.contains(&args.filter);
    for case in cases::all(device, sizes)?.into_iter().filter(|case| wanted(&case.name)) {
        let measured = case.measure(device)?;
        eprintln!("{:<44} {:>10.1} us", measured.name, 1e6 * measured.seconds);
        report.kernels.push(measured);
    }
    match baseline::Blas::new(device) {
        Ok(blas) => blas.compare(&mut report.kernels)?,
        Err(why) => report.notes.push(format!("no comparison with cuBLAS: {why}")),
    }
    for case in models::all(sizes).into_iter().filter(|case| wanted(case.shape)) {
        if case.is_lora() {
            report.kernels.push(case.decode(device)?);
        }
        let measured = case.measure(device)?;
        eprintln!("{:<44} {:>10.1} ms", measured.name, 1e3 * measured.seconds);
        report.models.push(measured);
    }
    let memory = device.cuda()?.memory_stats();
    report.notes.push(format!("device memory: {} MiB at the peak", memory.peak >> 20));
    print!("{}", report.markdown());
    let write =
        |path: &PathBuf, text: String| std::fs::write(path, text).map_err(Error::io(path, "cannot write"));
    if let Some(path) = &args.json {
        write(path, report.json()?)?;
    }
    if let Some(path) = &args.markdown {
        write(path, report.markdown())?;
    }
    Ok(())
}
