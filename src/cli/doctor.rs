//! `warptune doctor`: what this machine offers, and what this binary makes of it.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::cli::device;
use crate::device::Device;
use crate::device::cuda::{self, CudaDevice, embedded};
use crate::tensor::{DType, Tensor};
use crate::train::say;
use crate::{Error, Result};

/// Report what this machine offers and what the binary makes of it.
#[derive(clap::Args)]
pub(super) struct DoctorArgs {
    /// A device to open first: with 'emulated' the report is on the emulated driver
    #[arg(long, value_name = device::VALUES)]
    device: Option<String>,
}

impl DoctorArgs {
    pub(super) fn run(&self) -> Result<()> {
        // What is wrong with it stands in the report too, which is what was asked for.
        let opened = self.device.as_ref().map(|name| device::open(name));
        report();
        opened.transpose().map(|_| ())
    }
}

fn report() {
    say(format!("warptune {}", env!("CARGO_PKG_VERSION")));
    say(format!("  platform          {} {}", std::env::consts::OS, std::env::consts::ARCH));
    say(format!("  optional parts    {}", optional_parts()));
    say("\ncpu");
    if let Some(name) = cpu_name() {
        say(format!("  model             {name}"));
    }
    let available = std::thread::available_parallelism().map_or("unknown".to_string(), |n| n.to_string());
    say(format!("  threads           {} in use, {available} available", rayon::current_num_threads()));
    say(format!("  vector features   {}", vector_features()));
    if let Some((total, free)) = memory_gib() {
        say(format!("  memory            {total:.1} GiB, {free:.1} GiB available"));
    }
    say("\ngpu");
    say(format!("  driver library    {}", driver_library()));
    say(format!("  nvidia-smi        {}", nvidia_smi()));
    say(format!("  kernels           {} modules, {}", embedded::MODULES.len(), embedded::ORIGIN));
    devices().iter().for_each(say);
}

fn optional_parts() -> String {
    let parts = [
        ("hub", cfg!(feature = "hub")),
        ("parquet", cfg!(feature = "parquet")),
        ("emulated", cfg!(feature = "emulated")),
    ];
    parts.map(|(name, on)| format!("{name} {}", if on { "yes" } else { "no" })).join(", ")
}

fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// The features that the CPU kernels look for, of those that this CPU has.
fn vector_features() -> String {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let known = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let known: [(&str, bool); 0] = [];
    let present: Vec<&str> = known.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    if present.is_empty() { "none known".to_string() } else { present.join(" ") }
}

/// Total and available memory, in GiB.
fn memory_gib() -> Option<(f64, f64)> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<f64> {
        let line = info.lines().find_map(|l| l.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / (1 << 20) as f64)
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?))
}

fn driver_library() -> String {
    match (cuda::driver_present(), cuda::driver_version()) {
        (false, _) => "none (libcuda.so.1 comes with NVIDIA's driver)".to_string(),
        (true, Ok((major, minor))) => format!("found, of CUDA {major}.{minor}"),
        (true, Err(e)) => format!("found; {e}"),
    }
}

/// What the driver says of each device, and whether the kernels load there and work.
fn devices() -> Vec<String> {
    if !cuda::driver_present() {
        return vec!["  devices           none".to_string()];
    }
    match cuda::device_count() {
        Err(e) => vec![format!("  devices           {e}")],
        Ok(0) => vec!["  devices           none".to_string()],
        Ok(count) => {
            (0..count).map(|ordinal| format!("  device {ordinal:<11}{}", describe(ordinal))).collect()
        }
    }
}

fn describe(ordinal: usize) -> String {
    match Device::Cuda(ordinal).cuda().and_then(|device| Ok((device.properties(), works(device)?))) {
        Ok((found, ())) => {
            let (major, minor) = found.capability;
            let memory = found.memory as f64 / f64::from(1 << 30);
            format!(
                "{}, compute capability {major}.{minor}, {} multiprocessors, {memory:.1} GiB; the kernels load and work",
                found.name, found.multiprocessors
            )
        }
        Err(e) => e.to_string(),
    }
}

/// Loads every module, and runs one kernel.
fn works(device: &'static CudaDevice) -> Result<()> {
    device.load_all()?;
    let x = Tensor::from_f32(vec![1.5, -2.0, 0.25], &[3]).to_device(Device::Cuda(device.ordinal()))?;
    let back = x.to_dtype(DType::BF16)?.fetch_f32()?;
    match back == [1.5, -2.0, 0.25] {
        true => Ok(()),
        false => Err(Error::Cuda { what: device.name().into(), detail: format!("a cast gave {back:?}") }),
    }
}

/// What nvidia-smi tells, where there is one.
fn nvidia_smi() -> String {
    let query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
    let answer = Command::new("nvidia-smi").args(query).stdin(Stdio::null()).stderr(Stdio::null()).output();
    match answer {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
        }
        Ok(output) => format!("nvidia-smi is there but failed ({})", output.status),
        Err(_) if Path::new("/proc/driver/nvidia/version").exists() => {
            "an NVIDIA kernel driver is loaded, but there is no nvidia-smi to ask".to_string()
        }
        Err(_) => "none found (no nvidia-smi)".to_string(),
    }
}
