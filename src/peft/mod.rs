//! Parameter-efficient fine-tuning: one file a method.

pub mod bitdelta;
pub mod loftq;
pub mod lora;
