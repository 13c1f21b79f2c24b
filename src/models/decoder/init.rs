//! A fresh model, for pretraining.

use super::build::{Slot, Start, Value, build};
use super::{Decoder, check_float};
use crate::Result;
use crate::device::philox::Philox;
use crate::formats::DecoderConfig;
use crate::tensor::{DType, Tensor};

/// transformers' default standard deviation.
const DEFAULT_STD: f64 = 0.02;

/// Streams of initial values, apart from those of dropout (numbered from 0) and of adapters.
const STREAM: u64 = 1 << 62;

impl Decoder {
    /// A model with random weights, the same for the same seed: normal with standard deviation `initializer_range`
    /// (0.02 if the config has none), the last projection of each residual branch by 1 / sqrt(2 layers) smaller (GPT-2),
    /// norms 1, biases 0.
    ///
    /// # Errors
    /// A config that asks for what is not supported.
    pub fn init(config: &DecoderConfig, seed: u64, dtype: DType) -> Result<Decoder> {
        check_float(dtype)?;
        let std = config.raw.get("initializer_range").and_then(|v| v.as_f64()).unwrap_or(DEFAULT_STD);
        let mut index = 0;
        build(config, dtype, &mut |slot: &Slot<'_>| {
            let stream = STREAM | index;
            index += 1;
            let n = slot.shape.iter().product();
            let normal = |std: f64| Philox { seed, stream }.normal(n, std as f32);
            let values = match slot.start {
                Start::Normal => normal(std),
                Start::Residual => normal(std / (2.0 * config.num_layers as f64).sqrt()),
                Start::Ones => vec![1.0; n],
                Start::Zeros => vec![0.0; n],
            };
            Ok(Value::Dense(Tensor::from_f32(values, slot.shape).to_dtype(dtype)?))
        })
    }
}
