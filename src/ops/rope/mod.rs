//! Rotary position embedding (arXiv 2104.09864).

mod cpu;
pub(in crate::ops) mod cuda;

use std::sync::Arc;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::device::{Copies, Device};
use crate::tensor::{DType, Element, Tensor};
use crate::{Error, Result};
use cuda::Turner;

const OP: &str = "rope";

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

impl RopeScaling {
    fn check(self) -> Result<()> {
        let positive = |name: &str, x: f32| match x.is_finite() && x > 0.0 {
            true => Ok(()),
            false => {
                Err(Error::config(format!("rope_scaling.{name}"), format!("{x} is not a positive number")))
            }
        };
        match self {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("factor", factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                positive("factor", factor)?;
                positive("low_freq_factor", low_freq_factor)?;
                positive("high_freq_factor", high_freq_factor)?;
                if low_freq_factor >= high_freq_factor || original_max_position == 0 {
                    let detail = format!(
                        "low_freq_factor {low_freq_factor} must be below high_freq_factor {high_freq_factor}, and \
                         original_max_position_embeddings ({original_max_position}) above 0"
                    );
                    return Err(Error::config("rope_scaling", detail));
                }
                Ok(())
            }
        }
    }

    /// The scaled form of an inverse frequency.
    fn apply(self, frequency: f32) -> f32 {
        match self {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                let context = original_max_position as f32;
                let wavelength = std::f32::consts::TAU / frequency;
                if wavelength > context / low_freq_factor {
                    frequency / factor
                } else if wavelength < context / high_freq_factor {
                    frequency
                } else {
                    let turns = context / wavelength;
                    let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

/// Inverse frequencies of a rotary embedding, and the pairing.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Radians a position for each of the D/2 pairs.
    pub inverse_frequencies: Arc<[f32]>,
    /// Which elements turn together.
    pub pairing: RopePairing,
    /// The frequencies on each device that has turned something by them; clones share it.
    on_devices: Arc<Copies<Tensor>>,
}

impl RopeTable {
    /// Frequencies `theta^(-2i / head_dim)` for i in 0 .. head_dim / 2, scaled. Errors: [`Error::Config`] for an odd or zero
    /// head_dim, a theta that is not above 0, or a scaling that makes no sense.
    pub fn new(head_dim: usize, theta: f32, scaling: RopeScaling, pairing: RopePairing) -> Result<RopeTable> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(Error::config(
                "head_dim",
                format!("{head_dim}: rotary embedding turns pairs, so it must be even"),
            ));
        }
        if !(theta.is_finite() && theta > 0.0) {
            return Err(Error::config("rope_theta", format!("{theta} is not a positive number")));
        }
        scaling.check()?;
        let frequency = |i: usize| scaling.apply(1.0 / theta.powf(2.0 * i as f32 / head_dim as f32));
        let inverse_frequencies = (0..head_dim / 2).map(frequency).collect();
        Ok(RopeTable { inverse_frequencies, pairing, on_devices: Arc::default() })
    }

    /// The inverse frequencies, f32 `[D / 2]`, on a device: copied there at the first call.
    pub(in crate::ops) fn frequencies_on(&self, device: Device) -> Result<Tensor> {
        self.on_devices.get(device, (), || {
            let frequencies = self.inverse_frequencies.to_vec();
            Tensor::from_f32(frequencies, &[self.inverse_frequencies.len()]).to_device(device)
        })
    }
}

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Direction {
    Forward,
    Backward,
}

/// Turns each head's vector by its token's position. x: `[T, heads * head_dim]`, positions: u32 `[T]`.
///
/// A pair (a, b) becomes (a cos t - b sin t, b cos t + a sin t) with t = position * inverse frequency, in f32 as Hugging
/// Face computes it. Saved: cosines and sines, `[T, head_dim / 2]` each (on a CUDA device the positions, from which they are
/// found again); backward turns the gradient by -t.
/// Errors: [`Error::Shape`] if the columns are not whole heads, the table is of another head_dim, or there is not one
/// position for each token; [`Error::DType`].
pub fn rope(tape: &Tape, x: &Var, positions: &Tensor, table: &RopeTable, head_dim: usize) -> Result<Var> {
    let device = place(OP, [x.value(), positions])?;
    check(x.value(), positions, table, head_dim)?;
    if let Some(device) = device {
        let turner = Turner::new(device, positions, table)?;
        let y = turner.turn(x.value(), Direction::Forward)?;
        return tape
            .record(OP, &[x], y, move |dy, context| context.give(0, turner.turn(&dy, Direction::Backward)?));
    }
    on_host(tape, x, &Arc::new(cpu::Angles::new(positions.as_u32()?, table)))
}

/// [`rope`] of queries and keys of the same tokens: `[T, heads * head_dim]` and `[T, kv_heads * head_dim]` of one type. Cosines and sines
/// are found once; on a CUDA device one launch turns both, and, where both gradients arrive, one turns those. Values and gradients are those
/// of `rope`, bit by bit.
///
/// Errors: those of [`rope`], for either; [`Error::DType`] if their types differ.
pub fn rope_both(
    tape: &Tape,
    q: &Var,
    k: &Var,
    positions: &Tensor,
    table: &RopeTable,
    head_dim: usize,
) -> Result<[Var; 2]> {
    let device = place(OP, [q.value(), k.value(), positions])?;
    check(q.value(), positions, table, head_dim)?;
    check(k.value(), positions, table, head_dim)?;
    if q.dtype() != k.dtype() {
        let detail = format!("queries {} and keys {} differ in type", q.dtype(), k.dtype());
        return Err(Error::DType { op: OP, detail });
    }
    let Some(device) = device else {
        let angles = Arc::new(cpu::Angles::new(positions.as_u32()?, table));
        return Ok([on_host(tape, q, &angles)?, on_host(tape, k, &angles)?]);
    };
    let turner = Arc::new(Turner::new(device, positions, table)?);
    let [of_q, of_k] = turner.turn_both([q.value(), k.value()], Direction::Forward)?;
    let for_q = Arc::clone(&turner);
    let turned_q = tape
        .record(OP, &[q], of_q, move |dy, context| context.give(0, for_q.turn(&dy, Direction::Backward)?))?;
    if !k.requires_grad() {
        return Ok([turned_q, Var::constant(of_k)]);
    }
    let dtype = q.dtype();
    // Whatever uses the turned queries comes after this on the tape, so that their gradient is complete when this runs: if there is one, it
    // is turned here, and nothing is left for the node above.
    let turned_k =
        tape.record(OP, &[k, q, &turned_q], of_k, move |dk, context| match context.take(2, dtype) {
            Some(dq) => {
                let [dq, dk] = turner.turn_both([&dq, &dk], Direction::Backward)?;
                context.give(0, dk)?;
                context.give(1, dq)
            }
            None => context.give(0, turner.turn(&dk, Direction::Backward)?),
        })?;
    Ok([turned_q, turned_k])
}

/// What a [`rope`] checks of its operands but where they are.
pub(in crate::ops) fn check(
    x: &Tensor,
    positions: &Tensor,
    table: &RopeTable,
    head_dim: usize,
) -> Result<()> {
    let (tokens, cols) = x.dims2(OP)?;
    let pairs = table.inverse_frequencies.len();
    if pairs == 0 || head_dim != 2 * pairs || !cols.is_multiple_of(head_dim) {
        let detail = format!(
            "x {:?}, heads of {head_dim}, and a table for heads of {}, do not fit",
            x.shape(),
            2 * pairs
        );
        return Err(Error::Shape { op: OP, detail });
    }
    if positions.dims1(OP)? != tokens {
        let detail = format!("{:?} positions for {tokens} tokens", positions.shape());
        return Err(Error::Shape { op: OP, detail });
    }
    if positions.dtype() != DType::U32 {
        let detail = format!("positions are {}, u32 expected", positions.dtype());
        return Err(Error::DType { op: OP, detail });
    }
    Ok(())
}

/// A rope in host memory, by angles that have been found.
fn on_host(tape: &Tape, x: &Var, angles: &Arc<cpu::Angles>) -> Result<Var> {
    let (_, cols) = x.value().dims2(OP)?;
    let angles = Arc::clone(angles);
    crate::dispatch_float!(OP, x.dtype(), T => {
        let y = T::tensor(cpu::turn(T::slice(x.value())?, &angles, cols, Direction::Forward), x.shape());
        tape.record(OP, &[x], y, move |dy, context| {
            let dx = cpu::turn(T::slice(&dy)?, &angles, cols, Direction::Backward);
            context.give(0, T::tensor(dx, dy.shape()))
        })
    })
}
