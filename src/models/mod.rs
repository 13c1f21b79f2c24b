//! Whole models, made of the layers of [`crate::nn`].

pub mod decoder;

pub use decoder::{DecodeStep, Decoder, WeightShape, quantize_checkpoint, weight_shapes};
