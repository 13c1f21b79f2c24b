//! The ops. Each has a folder: `mod.rs` checks shapes, dispatches on the device and records the backward; `cpu.rs` (and
//! `cuda.rs`) compute. Conventions that all of them keep:
//!
//! - Matrices are row-major. Activations are `[T, D]`: T tokens of a packed batch, that is, the concatenation of its
//!   sequences without padding; `cu_seqlens` (0, end of sequence 0, end of sequence 1, ...) tells them apart.
//! - Weights of linear layers are `[out, in]`, as PyTorch stores them.
//! - Activations are f32, bf16 or f16; arithmetic and accumulation are f32; one rounding at the end (in f16 to infinity beyond 65504).
//!   Parameters may be of any of these types whatever the activations are, but on a CUDA device bf16 and f16 do not meet; the output
//!   has the activations' type.
//! - The gradient of an activation has the activation's type; the gradient of a parameter is f32.
//! - A gradient that nobody wants (`BackwardContext::needs`) is not computed, and state that only it needs is not kept.
//! - Results do not depend on the number of threads: no sum is split by thread.
//! - An op runs where its operands are, all of them in one place; one that has no kernels there is an error, never a copy.

pub mod add;
pub mod attention;
pub mod cast;
pub mod columns;
pub mod dropout;
pub mod embedding;
pub mod epilogue;
pub mod gelu;
pub mod kv_attention;
pub mod layer_norm;
pub mod linear_cross_entropy;
pub mod lora_matmul;
pub mod matmul;
pub mod mse;
mod place;
pub mod quantize;
pub mod quantized_matmul;
pub mod reshape;
pub mod rms_norm;
pub mod rope;
pub mod sample;
pub mod sign_matmul;
pub mod swiglu;
