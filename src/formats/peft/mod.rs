//! Adapters as the `peft` library lays them out: a folder with `adapter_config.json` and `adapter_model.safetensors`.

mod adapter;
mod config;
mod targets;

pub use adapter::{Adapter, LoraPair, tensor_name, write_adapter};
pub use config::LoraConfig;
pub use targets::Targets;

/// The settings of an adapter.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The tensors of an adapter.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
