//! Ops: against the oracles, on ragged shapes and all float types; gradients; determinism.

mod adamw;
mod adamw8;
mod add;
mod attention;
mod cast;
mod clip;
mod columns;
mod dropout;
mod embedding;
mod epilogue;
mod gelu;
mod gemm;
mod kv_attention;
mod layer_norm;
mod linear_cross_entropy;
mod lora_matmul;
mod matmul;
mod mse;
mod quantize;
mod quantized_matmul;
mod rms_norm;
mod rope;
mod sample;
mod sign_matmul;
mod sign_matmul_tenants;
mod simd;
mod stream_k;
mod swiglu;

use proptest::prelude::*;
use warptune::tensor::DType;

/// The float types.
pub const FLOATS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// The one or the other float type of 16 bits: for tests whose cases share them out.
pub fn half_type(case: usize) -> DType {
    [DType::BF16, DType::F16][case % 2]
}

/// Any float type.
pub fn float_type() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::BF16), Just(DType::F16)]
}

/// Float types of an op's operands: bf16 and f16 do not meet on a CUDA device.
pub fn float_types<const N: usize>() -> impl Strategy<Value = [DType; N]> {
    let half = prop_oneof![Just(DType::BF16), Just(DType::F16)];
    (half, any::<[bool; N]>()).prop_map(|(half, wide)| wide.map(|wide| if wide { DType::F32 } else { half }))
}

/// Few cases, always the same ones: the suite is to be quick and repeatable.
pub fn cases(n: u32) -> ProptestConfig {
    let rng_seed = proptest::test_runner::RngSeed::Fixed(1);
    ProptestConfig { cases: n, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}
