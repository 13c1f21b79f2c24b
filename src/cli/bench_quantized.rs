//! `warptune bench-quantized`: the products with a weight in 4-bit blocks, timed, for comparisons with bitsandbytes (tools/bench). It prints one
//! JSON object.

use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::Result;
use crate::autograd::{Gradients, Tape, Var};
use crate::cli::bench::median;
use crate::cli::settings::float_dtype;
use crate::device::philox::Philox;
use crate::ops::epilogue::Epilogue;
use crate::ops::quantize::{Quantization, dequantize, quantize};
use crate::ops::quantized_matmul::quantized_matmul;
use crate::tensor::{DType, QuantKind, QuantizedTensor, Tensor};
use crate::train::metrics::peak_rss_mib;
use crate::train::say;

/// Time quantizing (NF4, blocks of 64, plain scales), dequantizing and the linear layer on random numbers, and print JSON.
#[derive(clap::Args)]
pub(super) struct BenchQuantizedArgs {
    /// Rows and columns of the weight
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Rows of the layer's input, one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 256, 1024])]
    rows: Vec<usize>,
    /// Times that each is run; the median counts
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Type of the numbers
    #[arg(long, default_value = "f32")]
    dtype: String,
}

impl BenchQuantizedArgs {
    pub(super) fn run(&self) -> Result<()> {
        let (dtype, size) = (float_dtype("dtype", &self.dtype)?, self.size);
        let how = Quantization { double: false, ..Quantization::new(QuantKind::Nf4) };
        let weight = random(0, size, size, dtype)?;
        let packed = quantize(&weight, &how)?;
        let mut times = Map::new();
        let mut time = |name: String, run: &dyn Fn() -> Result<()>| -> Result<()> {
            run()?;
            let one = || -> Result<f64> {
                let started = Instant::now();
                run()?;
                Ok(started.elapsed().as_secs_f64() * 1e3)
            };
            let all = (0..self.runs).map(|_| one()).collect::<Result<Vec<f64>>>()?;
            times.insert(name, json!(median(&all)));
            Ok(())
        };
        time("quantize_ms".into(), &|| quantize(&weight, &how).map(drop))?;
        time("dequantize_ms".into(), &|| dequantize(&packed, dtype).map(drop))?;
        for &rows in &self.rows {
            let x = random(1, rows, size, dtype)?;
            let dy = random(2, rows, size, dtype)?;
            time(format!("forward_{rows}_ms"), &|| {
                let x = Var::constant(x.clone());
                quantized_matmul(&Tape::inference(), &x, &packed, None, Epilogue::None).map(drop)
            })?;
            time(format!("forward_backward_{rows}_ms"), &|| forward_backward(&x, &dy, &packed))?;
        }
        times.insert("peak_rss_mib".into(), json!(peak_rss_mib()));
        say(Value::Object(times));
        Ok(())
    }
}

fn forward_backward(x: &Tensor, dy: &Tensor, weight: &QuantizedTensor) -> Result<()> {
    let tape = Tape::recording();
    let x = tape.input(x.clone());
    let y = quantized_matmul(&tape, &x, weight, None, Epilogue::None)?;
    tape.backward_inputs(&y, dy.clone(), &[&x], &mut Gradients::new()).map(drop)
}

/// Uniform in +-1.
fn random(stream: u64, rows: usize, columns: usize, dtype: DType) -> Result<Tensor> {
    let random = Philox { seed: 0, stream };
    let values = (0..(rows * columns) as u64).map(|i| 2.0 * random.uniform(i) - 1.0).collect();
    Tensor::from_f32(values, &[rows, columns]).to_dtype(dtype)
}
