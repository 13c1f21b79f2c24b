//! Rotary position embedding (arXiv 2104.09864).

use std::sync::Arc;

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::tensor::Tensor;

/// Which elements of a head's vector turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// i and i + D/2 (Hugging Face's Llama, NeoX).
    Half,
    /// 2i and 2i + 1 (the original paper, GPT-J).
    Interleaved,
}

/// How the frequencies are changed for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies are divided by a factor, high ones kept, smoothly between.
    Llama3 {
        /// Factor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original_max_position / low_freq_factor` are low frequencies.
        low_freq_factor: f32,
        /// Wavelengths below `original_max_position / high_freq_factor` are high frequencies.
        high_freq_factor: f32,
        /// Context length that the model was first trained with.
        original_max_position: usize,
    },
}

/// Inverse frequencies of a rotary embedding, and the pairing.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Radians a position for each of the D/2 pairs.
    pub inverse_frequencies: Arc<[f32]>,
    /// Which elements turn together.
    pub pairing: RopePairing,
}

/// Turns each head's vector by its token's position. x: `[T, heads * head_dim]`, positions: u32 `[T]`.
pub fn rope(tape: &Tape, x: &Var, positions: &Tensor, table: &RopeTable, head_dim: usize) -> Result<Var> {
    let _ = (tape, x, positions, table, head_dim);
    Err(crate::Error::unsupported("rope", "being written"))
}
