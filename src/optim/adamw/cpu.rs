//! A step of AdamW on the CPU.

use half::bf16;
use rayon::prelude::*;

use super::Update;
use crate::device::cpu::lanes::{Kernel, Simd, dispatch};
use crate::device::cpu::parallel::GRAIN;
use crate::device::philox::Philox;

/// Steps p, and m and v with it.
pub(super) fn step(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], update: &Update) {
    let state = m.par_chunks_mut(GRAIN).zip(v.par_chunks_mut(GRAIN));
    let pieces = p.par_chunks_mut(GRAIN).zip(g.par_chunks(GRAIN)).zip(state);
    pieces.for_each(|((p, g), (m, v))| dispatch(Piece { p, g, m, v, update: *update }));
}

/// As [`step`] for a bf16 parameter without a master copy: element i is rounded with word `first_word + i`, the first a multiple of 4.
pub(super) fn step_rounding_at_random(
    p: &[bf16],
    g: &[f32],
    [m, v]: [&mut [f32]; 2],
    update: &Update,
    random: Philox,
    first_word: u64,
) -> Vec<bf16> {
    let mut out = vec![bf16::ZERO; p.len()];
    let state = m.par_chunks_mut(GRAIN).zip(v.par_chunks_mut(GRAIN));
    let pieces = out.par_chunks_mut(GRAIN).zip(p.par_chunks(GRAIN)).zip(g.par_chunks(GRAIN)).zip(state);
    pieces.enumerate().for_each(|(i, (((out, p), g), (m, v)))| {
        let mut wide: Vec<f32> = p.iter().map(|p| p.to_f32()).collect();
        dispatch(Piece { p: &mut wide, g, m, v, update: *update });
        dispatch(Round { from: &wide, to: out, random, block: (first_word + (i * GRAIN) as u64) / 4 });
    });
    out
}

struct Piece<'a> {
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    update: Update,
}

impl Kernel for Piece<'_> {
    type Output = ();

    /// A plain loop, which the compiler vectorises. Products and sums are rounded one by one whatever the instruction set:
    /// the same bits everywhere, also in kernels/adamw.cu.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Piece { p, g, m, v, update: u } = self;
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            *p *= u.shrink;
            *m += u.one_minus_beta1 * (g - *m);
            *v = *v * u.beta2 + u.one_minus_beta2 * g * g;
            let root = v.sqrt() / u.root_correction2 + u.eps;
            *p += u.minus_step_size * *m / root;
        }
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
