//! Ops: against the oracles, on ragged shapes and both float types; gradients; determinism.

mod adamw;
mod add;
mod attention;
mod clip;
mod columns;
mod dropout;
mod embedding;
mod gelu;
mod gemm;
mod kv_attention;
mod layer_norm;
mod linear_cross_entropy;
mod lora_matmul;
mod matmul;
mod quantize;
mod quantized_matmul;
mod rms_norm;
mod rope;
mod sample;
mod simd;
mod swiglu;

use proptest::prelude::*;
use warptune::tensor::DType;

/// Either float type.
pub fn float_type() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::BF16)]
}

/// Few cases, always the same ones: the suite is to be quick and repeatable.
pub fn cases(n: u32) -> ProptestConfig {
    let rng_seed = proptest::test_runner::RngSeed::Fixed(1);
    ProptestConfig { cases: n, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}
