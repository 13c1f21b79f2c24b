//! The GPUs that kernels are modelled on. Every figure is a datasheet's or arithmetic on one, unless its comment says otherwise;
//! none was measured here.

use serde::Serialize;

/// A GPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Its name.
    pub name: &'static str,
    /// The architecture that its kernels are assembled for.
    pub arch: &'static str,
    /// Multiprocessors.
    pub sms: u32,
    /// Clock under load, GHz.
    pub ghz: f64,
    /// bf16 fused multiply-adds of the tensor cores a clock and multiprocessor, f32 accumulators.
    pub tensor_fma: f64,
    /// The share of them that `mma.sync` reaches; the rest needs `wgmma`.
    pub mma_share: f64,
    /// f32 lanes a multiprocessor.
    pub f32_lanes: f64,
    /// f64 lanes a multiprocessor.
    pub f64_lanes: f64,
    /// Integer lanes a multiprocessor.
    pub int_lanes: f64,
    /// Lanes for ex2, rcp, rsqrt and their like a multiprocessor.
    pub special_lanes: f64,
    /// DRAM bandwidth, bytes a second.
    pub dram_bytes_per_s: f64,
    /// Size of the L2 cache in bytes.
    pub l2_bytes: f64,
    /// Bandwidth of the L2 cache, bytes a clock, all multiprocessors together.
    pub l2_bytes_per_clock: f64,
    /// Shared memory of a multiprocessor in bytes.
    pub shared_per_sm: u32,
    /// Shared memory that one block may have, in bytes.
    pub shared_per_block: u32,
    /// Warps that a multiprocessor holds.
    pub max_warps: u32,
    /// Blocks that a multiprocessor holds.
    pub max_blocks: u32,
}

/// Warp instructions that a multiprocessor issues a clock: one for each of its four parts.
pub const ISSUE_PER_CLOCK: f64 = 4.0;
/// A pass over the 32 banks of shared memory (128 bytes) takes one clock of the multiprocessor.
pub const WAVEFRONTS_PER_CLOCK: f64 = 1.0;
/// Bytes that one multiprocessor takes from L2 a clock.
pub const L2_BYTES_PER_CLOCK_AND_SM: f64 = 64.0;
/// Threads of a warp.
pub const WARP: u32 = 32;
/// Bytes of a sector, the unit of traffic between L1, L2 and DRAM.
pub const SECTOR: f64 = 32.0;

const KIB: u32 = 1 << 10;
const MIB: f64 = (1 << 20) as f64;

/// NVIDIA A100, 80 GB. L2: 5120 bytes a clock, from the architecture's white paper.
pub const A100: Machine = Machine {
    name: "A100 80 GB",
    arch: "sm_80",
    sms: 108,
    ghz: 1.41,
    tensor_fma: 1024.0,
    mma_share: 1.0,
    f32_lanes: 64.0,
    f64_lanes: 32.0,
    int_lanes: 64.0,
    special_lanes: 16.0,
    dram_bytes_per_s: 2.04e12,
    l2_bytes: 40.0 * MIB,
    l2_bytes_per_clock: 5120.0,
    shared_per_sm: 164 * KIB,
    shared_per_block: 163 * KIB,
    max_warps: 64,
    max_blocks: 32,
};

/// NVIDIA GeForce RTX 4090. Tensor cores at the rate for f32 accumulators, half of that for f16. L2: no figure is published; published
/// measurements lie around 5 TB/s.
pub const RTX_4090: Machine = Machine {
    name: "RTX 4090",
    arch: "sm_89",
    sms: 128,
    ghz: 2.52,
    tensor_fma: 256.0,
    mma_share: 1.0,
    f32_lanes: 128.0,
    f64_lanes: 2.0,
    int_lanes: 64.0,
    special_lanes: 16.0,
    dram_bytes_per_s: 1.01e12,
    l2_bytes: 72.0 * MIB,
    l2_bytes_per_clock: 2048.0,
    shared_per_sm: 100 * KIB,
    shared_per_block: 99 * KIB,
    max_warps: 48,
    max_blocks: 24,
};

/// NVIDIA H100 SXM. `mma.sync` reaches about 62 % of what `wgmma` does. L2: no figure is published; the A100's is taken.
pub const H100: Machine = Machine {
    name: "H100 SXM",
    arch: "sm_90",
    sms: 132,
    ghz: 1.83,
    tensor_fma: 2048.0,
    mma_share: 0.62,
    f32_lanes: 128.0,
    f64_lanes: 64.0,
    int_lanes: 64.0,
    special_lanes: 16.0,
    dram_bytes_per_s: 3.35e12,
    l2_bytes: 50.0 * MIB,
    l2_bytes_per_clock: 5120.0,
    shared_per_sm: 228 * KIB,
    shared_per_block: 227 * KIB,
    max_warps: 64,
    max_blocks: 32,
};

/// Every GPU that is known.
pub const MACHINES: [Machine; 3] = [A100, RTX_4090, H100];

impl Machine {
    /// The machines of an architecture (`sm_80`), or the one whose name holds `text`, whatever its letters' case.
    pub fn find(text: &str) -> Vec<Machine> {
        let text = text.to_lowercase();
        MACHINES.into_iter().filter(|m| m.arch == text || m.name.to_lowercase().contains(&text)).collect()
    }

    /// Tensor fused multiply-adds a clock and multiprocessor for operands of this type, relative to those of bf16; none where the
    /// tensor cores do not take it.
    pub fn tensor_rate(&self, operands: &str) -> Option<f64> {
        let relative = match operands {
            "f16" | "bf16" => 1.0,
            "tf32" => 0.5,
            "s8" | "u8" => 2.0,
            "e4m3" | "e5m2" if self.arch != "sm_80" => 2.0,
            "s4" | "u4" if self.arch != "sm_90" => 4.0,
            "b1" if self.arch != "sm_90" => 16.0,
            "f64" if self.arch == "sm_80" => 1.0 / 16.0,
            "f64" if self.arch == "sm_90" => 1.0 / 16.0,
            _ => return None,
        };
        Some(relative * self.tensor_fma)
    }

    /// Clocks a second.
    pub fn hertz(&self) -> f64 {
        self.ghz * 1e9
    }

    /// DRAM bytes a clock.
    pub fn dram_bytes_per_clock(&self) -> f64 {
        self.dram_bytes_per_s / self.hertz()
    }
}
