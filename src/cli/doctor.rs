//! `warptune doctor`: what this machine offers, and what this binary makes of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::train::say;

/// Prints the report.
pub fn run() -> Result<()> {
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
    say(format!("  gpus              {}", gpus()));
    say("  compiled kernels  none: this version computes on the CPU only");
    Ok(())
}

fn optional_parts() -> String {
    let parts = [("hub", cfg!(feature = "hub")), ("parquet", cfg!(feature = "parquet"))];
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
    let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
    let mut folders: Vec<PathBuf> =
        std::env::var_os("LD_LIBRARY_PATH").map(|v| std::env::split_paths(&v).collect()).unwrap_or_default();
    let usual = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/lib/wsl/lib",
        "/usr/local/nvidia/lib64",
        "/usr/local/cuda/compat",
        "C:\\Windows\\System32",
    ];
    folders.extend(usual.iter().map(PathBuf::from));
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    match found {
        Some(path) => format!("{} (not used by this version)", path.display()),
        None => format!("no {name} found"),
    }
}

/// What nvidia-smi tells, where there is one.
fn gpus() -> String {
    let query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
    let answer = Command::new("nvidia-smi").args(query).stdin(Stdio::null()).stderr(Stdio::null()).output();
    match answer {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().map(str::trim).collect::<Vec<_>>().join("; ") + " (not used by this version)"
        }
        Ok(output) => format!("nvidia-smi is there but failed ({})", output.status),
        Err(_) if Path::new("/proc/driver/nvidia/version").exists() => {
            "an NVIDIA kernel driver is loaded, but there is no nvidia-smi to ask".to_string()
        }
        Err(_) => "none found (no nvidia-smi)".to_string(),
    }
}
