//! A step of AdamW on the CPU.

use half::bf16;
use rayon::prelude::*;

use super::Update;
use super::blockwise::{BLOCK, books, encode_signed, encode_unsigned};
use super::state::{Averages, Blocks, Slot};
use crate::Result;
use crate::device::cpu::lanes::{Kernel, Simd, dispatch};
use crate::device::cpu::parallel::GRAIN;
use crate::device::philox::Philox;
use crate::tensor::{DType, Tensor};

impl Slot {
    /// A step in host memory.
    pub(super) fn step(&mut self, grad: &[f32], update: &Update, random: Philox) -> Result<()> {
        let averages = Piece::pieces(&mut self.averages)?;
        match &mut self.master {
            Some(master) => {
                step(master.make_mut_f32()?, grad, averages, update);
                let rounded = master.to_dtype(DType::BF16)?;
                self.param.update(|value| {
                    *value = rounded;
                    Ok(())
                })
            }
            None => self.param.update(|value| {
                if value.dtype() == DType::F32 {
                    step(value.make_mut_f32()?, grad, averages, update);
                } else {
                    let p = value.as_bf16()?;
                    let p = step_rounding_at_random(p, grad, averages, update, random, self.first_word);
                    *value = Tensor::from_bf16(p, value.shape());
                }
                Ok(())
            }),
        }
    }
}

/// Averages of [`GRAIN`] elements, or of the last of a parameter.
enum Piece<'a> {
    F32 { m: &'a mut [f32], v: &'a mut [f32] },
    Blockwise { m: Coded<'a>, v: Coded<'a> },
}

/// Blocks of codes, and the scale of each.
struct Coded<'a> {
    codes: &'a mut [u8],
    absmax: &'a mut [f32],
}

impl<'a> Piece<'a> {
    fn pieces(averages: &'a mut Averages) -> Result<Vec<Piece<'a>>> {
        // GRAIN is a multiple of BLOCK.
        fn coded(blocks: &mut Blocks) -> Result<impl Iterator<Item = Coded<'_>>> {
            let codes = blocks.codes.make_mut_u8()?.chunks_mut(GRAIN);
            let absmax = blocks.absmax.make_mut_f32()?.chunks_mut(GRAIN / BLOCK);
            Ok(codes.zip(absmax).map(|(codes, absmax)| Coded { codes, absmax }))
        }
        Ok(match averages {
            Averages::F32 { exp_avg, exp_avg_sq } => {
                let m = exp_avg.make_mut_f32()?.chunks_mut(GRAIN);
                let v = exp_avg_sq.make_mut_f32()?.chunks_mut(GRAIN);
                m.zip(v).map(|(m, v)| Piece::F32 { m, v }).collect()
            }
            Averages::Blockwise { exp_avg, exp_avg_sq } => {
                let pieces = coded(exp_avg)?.zip(coded(exp_avg_sq)?);
                pieces.map(|(m, v)| Piece::Blockwise { m, v }).collect()
            }
        })
    }
}

/// Steps p, and its averages with it.
fn step(p: &mut [f32], g: &[f32], averages: Vec<Piece<'_>>, update: &Update) {
    let pieces = p.par_chunks_mut(GRAIN).zip(g.par_chunks(GRAIN)).zip(averages);
    pieces.for_each(|((p, g), averages)| dispatch(Step { p, g, averages, update: *update }));
}

/// As [`step`] for a bf16 parameter without a master copy: element i is rounded with word `first_word + i`, the first a multiple of 4.
fn step_rounding_at_random(
    p: &[bf16],
    g: &[f32],
    averages: Vec<Piece<'_>>,
    update: &Update,
    random: Philox,
    first_word: u64,
) -> Vec<bf16> {
    let mut out = vec![bf16::ZERO; p.len()];
    let pieces = out.par_chunks_mut(GRAIN).zip(p.par_chunks(GRAIN)).zip(g.par_chunks(GRAIN)).zip(averages);
    pieces.enumerate().for_each(|(i, (((out, p), g), averages))| {
        let mut wide: Vec<f32> = p.iter().map(|p| p.to_f32()).collect();
        dispatch(Step { p: &mut wide, g, averages, update: *update });
        dispatch(Round { from: &wide, to: out, random, block: (first_word + (i * GRAIN) as u64) / 4 });
    });
    out
}

struct Step<'a> {
    p: &'a mut [f32],
    g: &'a [f32],
    averages: Piece<'a>,
    update: Update,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Step { p, g, averages, update } = self;
        match averages {
            Piece::F32 { m, v } => advance(p, g, m, v, &update),
            Piece::Blockwise { m, v } => {
                let (signed, unsigned) = (&books().signed, &books().unsigned);
                let codes = m.codes.chunks_mut(BLOCK).zip(v.codes.chunks_mut(BLOCK));
                let blocks = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK)).zip(codes);
                for (((p, g), (m_codes, v_codes)), (m_absmax, v_absmax)) in
                    blocks.zip(m.absmax.iter_mut().zip(v.absmax))
                {
                    let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
                    let (m, v) = (&mut m[..p.len()], &mut v[..p.len()]);
                    signed.decode(m_codes, *m_absmax, m);
                    unsigned.decode(v_codes, *v_absmax, v);
                    advance(p, g, m, v, &update);
                    *m_absmax = encode_signed(m, m_codes);
                    *v_absmax = encode_unsigned(v, v_codes);
                }
            }
        }
    }
}

/// A plain loop, which the compiler vectorises. Products and sums are rounded one by one whatever the instruction set:
/// the same bits everywhere, also in kernels/common/adamw.cuh.
#[inline(always)]
fn advance(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], u: &Update) {
    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        *p *= u.shrink;
        *m += u.one_minus_beta1 * (g - *m);
        *v = *v * u.beta2 + u.one_minus_beta2 * g * g;
        let root = v.sqrt() / u.root_correction2 + u.eps;
        *p += u.minus_step_size * *m / root;
    }
}

/// Blocks of random words drawn together.
const BLOCKS: usize = 8;

struct Round<'a> {
    from: &'a [f32],
    to: &'a mut [bf16],
    random: Philox,
    /// The block of the first word.
    block: u64,
}

impl Kernel for Round<'_> {
    type Output = ();

    /// Plain loops, which the compiler vectorises.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let mut block = self.block;
        for (from, to) in self.from.chunks(4 * BLOCKS).zip(self.to.chunks_mut(4 * BLOCKS)) {
            let pairs = self.random.blocks::<BLOCKS>(block);
            for ((from, to), pair) in from.chunks(2).zip(to.chunks_mut(2)).zip(pairs.as_flattened()) {
                for ((x, y), word) in from.iter().zip(to).zip([*pair as u32, (pair >> 32) as u32]) {
                    *y = rounded_at_random(*x, word);
                }
            }
            block += BLOCKS as u64;
        }
    }
}

/// x rounded to bf16: the upper half of `word` is added to the half of the bits that is cut off, so that the mean over words is x.
#[inline(always)]
fn rounded_at_random(x: f32, word: u32) -> bf16 {
    let bits = x.to_bits();
    let carried = if x.is_finite() { bits.wrapping_add(word >> 16) } else { bits };
    let quiet_nan = if x.is_nan() { 0x40_0000 } else { 0 };
    bf16::from_bits(((carried | quiet_nan) >> 16) as u16)
}
