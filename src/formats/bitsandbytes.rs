//! 4-bit weights as bitsandbytes and transformers lay them out in a checkpoint. Beside a weight's codes (`NAME`, two a byte) there are
//! `NAME.absmax`, the scales of its blocks (f32, or bytes where they are quantized too: then `NAME.nested_absmax` and
//! `NAME.nested_quant_map`), `NAME.quant_map` (what the codes stand for) and `NAME.quant_state.bitsandbytes__nf4` (or `__fp4`): JSON as bytes.

use serde_json::{Map, Value, json};

use super::checkpoint::Checkpoint;
use super::json::Fields;
use super::raw::{RawDType, RawTensor};
use super::safetensors::TensorSpec;
use crate::error::{Error, Result};

/// The kinds of codes, in bitsandbytes' names.
const KINDS: [&str; 2] = ["nf4", "fp4"];

/// The settings key in config.json.
pub const CONFIG_KEY: &str = "quantization_config";

/// A weight as a checkpoint holds it; the parts fit each other.
#[derive(Debug)]
pub struct QuantizedWeight<'a> {
    /// `nf4` or `fp4`.
    pub kind: &'static str,
    /// Rows and columns of the matrix.
    pub shape: [usize; 2],
    /// Elements that share a scale.
    pub block: usize,
    /// Two codes a byte.
    pub codes: RawTensor<'a>,
    /// Scales: F32, or U8 where they are nested.
    pub absmax: RawTensor<'a>,
    /// What F32 numbers the codes stand for, 16.
    pub map: RawTensor<'a>,
    /// What scales in U8 stand for.
    pub nested: Option<Nested<'a>>,
}

/// What scales in U8 stand for.
#[derive(Debug)]
pub struct Nested<'a> {
    /// F32, one for each `block` scales.
    pub absmax: RawTensor<'a>,
    /// What F32 numbers the codes stand for, 256.
    pub map: RawTensor<'a>,
    /// Added to each scale.
    pub offset: f32,
    /// Scales that share an entry of `absmax`.
    pub block: usize,
}

/// The names of the parts that may be beside the codes of the weight `name`.
pub fn part_names(name: &str) -> impl Iterator<Item = String> + '_ {
    let fixed = ["absmax", "quant_map", "nested_absmax", "nested_quant_map"].into_iter();
    fixed
        .map(move |part| format!("{name}.{part}"))
        .chain(KINDS.into_iter().map(move |kind| state_name(name, kind)))
}

fn state_name(name: &str, kind: &str) -> String {
    format!("{name}.quant_state.bitsandbytes__{kind}")
}

/// The weight `name` of a checkpoint, `None` if it is not in 4 bits.
///
/// # Errors
/// [`Error::Format`], naming the tensor, when a part is missing, has another size than the rest call for, or says what is not known.
pub fn read<'a>(checkpoint: &'a Checkpoint, name: &str) -> Result<Option<QuantizedWeight<'a>>> {
    let Some(kind) = KINDS.into_iter().find(|kind| checkpoint.contains(&state_name(name, kind))) else {
        return Ok(None);
    };
    let path = checkpoint.path();
    let key = state_name(name, kind);
    let bad = |detail: String| Error::format_key(path, &key, detail);
    let state = checkpoint.get(&key)?;
    let state: Map<String, Value> =
        serde_json::from_slice(state.bytes()).map_err(|e| bad(format!("is not a JSON object: {e}")))?;
    let fields = Fields::new(path, &state);
    if fields.str("quant_type")? != Some(kind) {
        return Err(bad(format!("its quant_type is not '{kind}'")));
    }
    let size = |field: &str| {
        let value = fields.uint(field)?.and_then(|n| usize::try_from(n).ok());
        value.filter(|&n| n > 0).ok_or_else(|| bad(format!("'{field}' is missing or 0")))
    };
    let block = size("blocksize")?;
    let dims = state.get("shape").and_then(Value::as_array);
    let dims: Option<Vec<usize>> =
        dims.and_then(|d| d.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect());
    let Some(&[rows, columns]) = dims.as_deref() else {
        return Err(bad("'shape' is not that of a matrix".into()));
    };
    let count =
        rows.checked_mul(columns).ok_or_else(|| bad(format!("shape [{rows}, {columns}] overflows")))?;
    let part = |suffix: &str, dtype: Option<RawDType>, bytes: usize| {
        let raw = checkpoint.get(&format!("{name}{suffix}"))?;
        if raw.bytes().len() != bytes || dtype.is_some_and(|dtype| raw.dtype() != dtype) {
            let expected = dtype.map_or(String::new(), |dtype| format!(" of {dtype}"));
            let detail = format!(
                "{} {:?} for a matrix [{rows}, {columns}] in blocks of {block}: {bytes} bytes{expected} are expected",
                raw.dtype(),
                raw.shape()
            );
            return Err(Error::format_key(path, raw.name(), detail));
        }
        Ok(raw)
    };
    let blocks = count.div_ceil(block);
    // The codes may be stored as numbers of any type (bnb_4bit_quant_storage).
    let codes = part("", None, count.div_ceil(2))?;
    let map = part(".quant_map", Some(RawDType::F32), 64)?;
    let is_nested = checkpoint.contains(&format!("{name}.nested_absmax"));
    let (absmax, nested) = if is_nested {
        let nested_block = size("nested_blocksize")?;
        let offset = state.get("nested_offset").and_then(Value::as_f64);
        let offset = offset.ok_or_else(|| bad("'nested_offset' is missing".into()))? as f32;
        let nested = Nested {
            absmax: part(".nested_absmax", Some(RawDType::F32), blocks.div_ceil(nested_block) * 4)?,
            map: part(".nested_quant_map", Some(RawDType::F32), 1024)?,
            offset,
            block: nested_block,
        };
        (part(".absmax", Some(RawDType::U8), blocks)?, Some(nested))
    } else {
        (part(".absmax", Some(RawDType::F32), blocks * 4)?, None)
    };
    Ok(Some(QuantizedWeight { kind, shape: [rows, columns], block, codes, absmax, map, nested }))
}

/// How a weight is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// `nf4` or `fp4`.
    pub kind: &'static str,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Elements that share a scale.
    pub block: usize,
    /// Scales that share an entry of `nested_absmax`, if they are nested.
    pub nested_block: Option<usize>,
    /// The type that the weight had, in torch's name: bitsandbytes decodes to it.
    pub dtype: &'static str,
}

/// A part of a quantized weight in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Two codes a byte.
    Codes,
    /// Scales.
    Absmax,
    /// What codes stand for.
    Map,
    /// Scales of the scales.
    NestedAbsmax,
    /// What codes of scales stand for.
    NestedMap,
    /// The rest, as JSON.
    State,
}

/// Room for any number as JSON writes it.
const LONGEST_NUMBER: usize = 25;

impl Layout {
    /// The tensors of the weight `name`.
    pub fn specs(&self, name: &str) -> Vec<(Part, TensorSpec)> {
        let count = self.shape[0] * self.shape[1];
        let blocks = count.div_ceil(self.block);
        let spec = |part, suffix: &str, dtype, shape: Vec<usize>| {
            (part, TensorSpec { name: format!("{name}{suffix}"), dtype, shape })
        };
        let scales = if self.nested_block.is_some() { RawDType::U8 } else { RawDType::F32 };
        let mut all = vec![
            spec(Part::Codes, "", RawDType::U8, vec![count.div_ceil(2), 1]),
            spec(Part::Absmax, ".absmax", scales, vec![blocks]),
            spec(Part::Map, ".quant_map", RawDType::F32, vec![16]),
        ];
        if let Some(block) = self.nested_block {
            all.push(spec(Part::NestedAbsmax, ".nested_absmax", RawDType::F32, vec![blocks.div_ceil(block)]));
            all.push(spec(Part::NestedMap, ".nested_quant_map", RawDType::F32, vec![256]));
        }
        let length = self.state_length();
        let state =
            TensorSpec { name: state_name(name, self.kind), dtype: RawDType::U8, shape: vec![length] };
        all.push((Part::State, state));
        all
    }

    fn json(&self, offset: f32) -> String {
        let mut state = json!({
            "quant_type": self.kind, "blocksize": self.block, "dtype": self.dtype, "shape": self.shape,
        });
        if let (Some(block), Some(map)) = (self.nested_block, state.as_object_mut()) {
            map.insert("nested_blocksize".into(), json!(block));
            map.insert("nested_dtype".into(), json!("float32"));
            map.insert("nested_offset".into(), json!(f64::from(offset)));
        }
        state.to_string()
    }

    /// Bytes of [`Layout::state`], which do not depend on the offset: the header of the file says them before any weight is quantized.
    fn state_length(&self) -> usize {
        self.json(0.0).len() + self.nested_block.map_or(0, |_| LONGEST_NUMBER)
    }

    /// The JSON, followed by spaces.
    pub fn state(&self, offset: f32) -> Vec<u8> {
        let mut text = self.json(offset).into_bytes();
        text.resize(self.state_length(), b' ');
        text
    }
}

/// What config.json says of weights of this kind, as transformers writes it.
pub fn config(kind: &str, double: bool, compute_dtype: &str) -> Value {
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": compute_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    })
}

/// An error unless a config.json says nothing of quantization, or that the weights are in 4 bits by bitsandbytes.
pub(super) fn check_config(fields: &Fields<'_>) -> Result<()> {
    let Some(quantization) = fields.object(CONFIG_KEY, "quantization_config.")? else {
        return Ok(());
    };
    let method = quantization.str("quant_method")?.unwrap_or("unknown");
    match (method, quantization.bool("load_in_4bit")?) {
        ("bitsandbytes", Some(true)) => Ok(()),
        ("bitsandbytes", _) => Err(Error::unsupported(
            "a checkpoint quantized by 'bitsandbytes' to 8 bits",
            "take one in 4 bits, or the unquantized model",
        )),
        _ => Err(Error::unsupported(
            format!("a checkpoint quantized by '{method}'"),
            "take the unquantized model, one in 4 bits by bitsandbytes, or a GGUF file of it",
        )),
    }
}
