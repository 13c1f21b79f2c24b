//! Rotary position embedding settings, in the spellings of transformers 4 and 5.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::formats::json::Fields;

/// transformers' default base.
const DEFAULT_THETA: f64 = 10_000.0;

/// Rotary position embedding: pair i of a head turns by position / theta^(2i / head_dim), before scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// The base.
    pub theta: f64,
    /// How frequencies were stretched for a longer context.
    pub scaling: RopeScaling,
}

/// Changes to the frequencies f_i = theta^(-2i / head_dim).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// f / factor.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1: by wavelength w = 2 pi / f. Unchanged where w < original / high; f / factor where
    /// w > original / low; between, (1 - s) f / factor + s f with s = (original / w - low) / (high - low).
    Llama3 {
        /// At least 1.
        factor: f64,
        /// `low`.
        low_freq_factor: f64,
        /// `high`, larger than `low`.
        high_freq_factor: f64,
        /// `original`: the context length of the pre-training, in tokens.
        original_max_positions: usize,
    },
}

impl Rope {
    /// Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (transformers 4).
    pub(super) fn from_fields(fields: &Fields<'_>, max_positions: usize) -> Result<Rope> {
        // transformers 5 prefers the old key when both are there.
        let scaling = match fields.object("rope_scaling", "rope_scaling.")? {
            Some(scaling) => Some(scaling),
            None => fields.object("rope_parameters", "rope_parameters.")?,
        };
        let nested_theta = scaling.map(|s| s.float("rope_theta")).transpose()?.flatten();
        let theta = nested_theta.or(fields.float("rope_theta")?).unwrap_or(DEFAULT_THETA);
        if !(theta > 0.0 && theta < 1e15) {
            return Err(fields.error("rope_theta", format!("must be positive, not {theta}")));
        }
        let partial = match scaling {
            Some(s) => s.float("partial_rotary_factor")?,
            None => None,
        };
        if let Some(partial) = partial.or(fields.float("partial_rotary_factor")?)
            && partial != 1.0
        {
            return Err(Error::unsupported(
                "partial_rotary_factor other than 1",
                "rotation of whole heads is",
            ));
        }
        let scaling = match scaling {
            Some(s) => scaling_from(&s, max_positions)?,
            None => RopeScaling::None,
        };
        Ok(Rope { theta, scaling })
    }

    /// Writes the keys of transformers 5 and, since most tools still read those, of transformers 4.
    pub(super) fn write(&self, map: &mut Map<String, Value>) {
        let mut scaling = match self.scaling {
            RopeScaling::None => json!({"rope_type": "default"}),
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_positions,
                })
            }
        };
        let old = if self.scaling == RopeScaling::None { Value::Null } else { scaling.clone() };
        scaling["rope_theta"] = json!(self.theta);
        map.insert("rope_parameters".into(), scaling);
        map.insert("rope_theta".into(), json!(self.theta));
        map.insert("rope_scaling".into(), old);
    }
}

fn scaling_from(fields: &Fields<'_>, max_positions: usize) -> Result<RopeScaling> {
    let kind = match fields.str("rope_type")? {
        Some(kind) => Some(kind),
        None => fields.str("type")?,
    };
    let number = |key: &str| -> Result<f64> {
        fields.float(key)?.ok_or_else(|| fields.error(key, "is missing and has no default"))
    };
    let factor = || -> Result<f64> {
        let factor = number("factor")?;
        if factor >= 1.0 {
            Ok(factor)
        } else {
            Err(fields.error("factor", format!("must be at least 1, not {factor}")))
        }
    };
    match kind {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
        Some("llama3") => {
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if !(low > 0.0 && high > low) {
                return Err(fields.error(
                    "high_freq_factor",
                    format!("must exceed low_freq_factor ({low}), not be {high}"),
                ));
            }
            let original = match fields.uint("original_max_position_embeddings")? {
                Some(n) => usize::try_from(n).unwrap_or(0),
                None => max_positions,
            };
            if original == 0 {
                return Err(fields.error("original_max_position_embeddings", "must be a number of tokens"));
            }
            Ok(RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions: original,
            })
        }
        Some(other) => {
            Err(Error::unsupported(format!("rope scaling '{other}'"), "default, linear and llama3 are"))
        }
    }
}
