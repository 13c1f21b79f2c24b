//! Parameter-efficient fine-tuning: one file a method.

pub mod loftq;
pub mod lora;
