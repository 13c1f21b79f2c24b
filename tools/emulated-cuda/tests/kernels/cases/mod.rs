//! Inputs and references of the kernels in `cu/`.

mod attention;
mod divergent;
mod gemm;
mod mma;
mod norms;
mod primitives;
mod sync;
mod training;

use super::gpu::Case;

/// Every case, in the order of their files' names.
pub const CASES: &[Case] = &[
    Case { name: "adamw", file: "adamw", run: training::adamw },
    Case { name: "attention_bwd", file: "attention_bwd", run: attention::backward },
    Case { name: "attention_fwd", file: "attention_fwd", run: attention::forward },
    Case { name: "bytes", file: "bytes", run: primitives::bytes },
    Case { name: "cross_entropy", file: "cross_entropy", run: norms::cross_entropy },
    Case { name: "collatz", file: "divergent", run: divergent::collatz },
    Case { name: "interpret", file: "divergent", run: divergent::interpret },
    Case { name: "branch_table", file: "divergent", run: divergent::branch_table },
    Case { name: "compact", file: "divergent", run: divergent::compact },
    Case { name: "group_sums", file: "divergent", run: divergent::group_sums },
    Case { name: "local_sort", file: "divergent", run: divergent::local_sort },
    Case { name: "gemm_f32", file: "gemm_f32", run: gemm::plain },
    Case { name: "gemm_mma", file: "gemm_mma", run: gemm::tensor_cores },
    Case { name: "grid_sync", file: "grid_sync", run: sync::grid_sync },
    Case { name: "histogram", file: "histogram", run: primitives::histogram },
    Case { name: "last_block", file: "meet", run: sync::last_block },
    Case { name: "in_turn", file: "meet", run: sync::in_turn },
    Case { name: "hand_on", file: "meet", run: sync::hand_on },
    Case { name: "mma_s8", file: "mma_types", run: mma::s8 },
    Case { name: "mma_b1", file: "mma_types", run: mma::b1 },
    Case { name: "mma_f16", file: "mma_types", run: mma::f16 },
    Case { name: "mma_tf32", file: "mma_types", run: mma::tf32 },
    Case { name: "nf4", file: "nf4", run: training::nf4 },
    Case { name: "pipeline", file: "pipeline", run: sync::pipeline },
    Case { name: "reduce", file: "reduce", run: primitives::reduce },
    Case { name: "rmsnorm", file: "rmsnorm", run: norms::rms_norm },
    Case { name: "scan_block", file: "scan", run: primitives::scan_block },
    Case { name: "scan_lookback", file: "scan", run: primitives::scan_lookback },
    Case { name: "softmax", file: "softmax", run: norms::softmax },
    Case { name: "sort", file: "sort", run: primitives::sort },
    Case { name: "transpose", file: "transpose", run: primitives::transpose },
];
