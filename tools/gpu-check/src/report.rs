//! The figures, as tables and as JSON.

use std::fmt::Write;

use serde::Serialize;
use warptune::device::cuda::Properties;
use warptune::{Error, Result};

/// A timed kernel, or a few of them that make up an op.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Op, pass, type and shape.
    pub name: String,
    /// Seconds of one call.
    pub seconds: f64,
    /// Floating-point operations that it must do.
    pub operations: f64,
    /// Bytes that it must move at least.
    pub bytes: f64,
    /// Seconds that cuBLAS and cuBLASLt take for the same.
    pub cublas: Option<f64>,
    /// See `cublas`.
    pub cublaslt: Option<f64>,
}

/// A timed training step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Model, method, type, batch.
    pub name: String,
    /// Seconds of one step.
    pub seconds: f64,
    /// Tokens of it.
    pub tokens: f64,
    /// Operations that the model needs for them: 6 a parameter and token where all are trained, 4 under LoRA, and those of
    /// attention.
    pub operations: f64,
    /// Its loss, so that one sees that it computed something.
    pub loss: f64,
}

/// Everything that was found.
#[derive(Serialize)]
pub struct Report {
    /// The device.
    pub device: String,
    /// bf16 tensor core operations a second of a known device.
    pub peak: Option<f64>,
    /// Bytes read and written a second by a copy on the device.
    pub copy_bandwidth: Option<f64>,
    /// Whether the sizes are those of a GPU.
    pub full: bool,
    /// Kernels.
    pub kernels: Vec<Measured>,
    /// Training steps.
    pub models: Vec<Step>,
    /// Remarks.
    pub notes: Vec<String>,
}

impl Report {
    /// An empty report.
    pub fn new(properties: &Properties, full: bool) -> Report {
        let (major, minor) = properties.capability;
        let device = format!(
            "{}, compute capability {major}.{minor}, {} multiprocessors, {:.1} GiB",
            properties.name,
            properties.multiprocessors,
            properties.memory as f64 / f64::from(1 << 30)
        );
        let known = kernel_report::machine::MACHINES.iter().find(|machine| {
            let model = machine.name.split_whitespace().find(|word| word.chars().any(|c| c.is_ascii_digit()));
            model.is_some_and(|model| properties.name.contains(model))
        });
        // Two operations a fused multiply-add.
        let peak = known.map(|m| 2.0 * m.tensor_fma * f64::from(m.sms) * m.ghz * 1e9);
        let notes = Vec::new();
        Report { device, peak, copy_bandwidth: None, full, kernels: Vec::new(), models: Vec::new(), notes }
    }

    /// The figures.
    pub fn json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self);
        text.map_err(|e| Error::Model { what: "report".into(), detail: e.to_string() })
    }

    /// The tables.
    pub fn markdown(&self) -> String {
        let mut out = format!("# {}\n\n", self.device);
        let copy = self.copy_bandwidth.unwrap_or(f64::NAN);
        let _ = writeln!(out, "A copy on the device reads and writes {:.0} GB/s.", copy / 1e9);
        if let Some(peak) = self.peak {
            let _ = writeln!(out, "Peak of its tensor cores (bf16, datasheet): {:.0} TFLOP/s.", peak / 1e12);
        }
        if !self.full {
            let _ = writeln!(out, "Tiny sizes: the times say nothing about the kernels.");
        }
        out += "\n| kernel | us | TFLOP/s | of peak | GB/s | of copy | of cuBLAS | of cuBLASLt |\n|---|---|---|---|---|---|---|---|\n";
        let share = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{:.0} %", 100.0 * x));
        for k in &self.kernels {
            let rate = k.operations / k.seconds;
            let bytes = k.bytes / k.seconds;
            let _ = writeln!(
                out,
                "| {} | {:.1} | {:.2} | {} | {:.0} | {} | {} | {} |",
                k.name,
                1e6 * k.seconds,
                rate / 1e12,
                share(self.peak.map(|peak| rate / peak)),
                bytes / 1e9,
                share(self.copy_bandwidth.map(|copy| bytes / copy)),
                share(k.cublas.map(|theirs| theirs / k.seconds)),
                share(k.cublaslt.map(|theirs| theirs / k.seconds)),
            );
        }
        if !self.models.is_empty() {
            out += "\n| training step | ms | tokens/s | TFLOP/s | MFU | loss |\n|---|---|---|---|---|---|\n";
        }
        for m in &self.models {
            let rate = m.operations / m.seconds;
            let _ = writeln!(
                out,
                "| {} | {:.1} | {:.0} | {:.2} | {} | {:.3} |",
                m.name,
                1e3 * m.seconds,
                m.tokens / m.seconds,
                rate / 1e12,
                share(self.peak.map(|peak| rate / peak)),
                m.loss
            );
        }
        if !self.notes.is_empty() {
            out.push('\n');
        }
        self.notes.iter().for_each(|note| out += &format!("{note}.\n"));
        out
    }
}
