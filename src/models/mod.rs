//! Whole models, made of the layers of [`crate::nn`].

pub mod decoder;

pub use decoder::{DecodeStep, Decoder, TensorSlot, quantize_checkpoint, tensor_slots};
