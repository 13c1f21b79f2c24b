//! Whole models against PyTorch, and against themselves computed another way.

mod architectures;
mod bitdelta;
mod checkpoints;
mod decode_step;
mod generate;
mod loftq;
mod lora;
mod quantized;
mod sampler;
mod smollm2;
mod untrained;
