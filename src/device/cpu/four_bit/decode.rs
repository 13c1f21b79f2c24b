//! 4-bit codes to numbers.

use super::decode_scales;
use crate::Result;
use crate::device::cpu::coded::Coded;
use crate::device::cpu::lanes::{Kernel, Simd, dispatch};
use crate::tensor::{BlockScales, QuantizedTensor};

/// A quantized tensor's memory on the host, from some element on.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(super) levels: &'static [f32; 16],
    pub(super) codes: &'a [u8],
    pub(super) block: usize,
    scales: Scales<'a>,
    /// The element that element 0 of the view is.
    pub(super) start: usize,
}

#[derive(Clone, Copy)]
enum Scales<'a> {
    Plain(&'a [f32]),
    Nested { codes: &'a [u8], absmax: &'a [f32], map: &'a [f32], offset: f32, block: usize },
}

impl<'a> Packed<'a> {
    /// The memory of a tensor; an error if it is on a device.
    pub fn of(tensor: &'a QuantizedTensor) -> Result<Packed<'a>> {
        let scales = match tensor.scales() {
            BlockScales::Plain(absmax) => Scales::Plain(absmax.as_f32()?),
            BlockScales::Nested(nested) => Scales::Nested {
                codes: nested.codes.as_u8()?,
                absmax: nested.absmax.as_f32()?,
                map: nested.map.as_f32()?,
                offset: nested.offset,
                block: nested.block,
            },
        };
        let (levels, codes) = (tensor.kind().levels(), tensor.codes().as_u8()?);
        Ok(Packed { levels, codes, block: tensor.block(), scales, start: 0 })
    }

    /// The same from element `offset` on.
    pub fn from(self, offset: usize) -> Packed<'a> {
        Packed { start: self.start + offset, ..self }
    }

    /// Scales of blocks `first..first + out.len()` of the tensor.
    pub(super) fn scales(&self, first: usize, out: &mut [f32]) {
        match self.scales {
            Scales::Plain(scales) => out.copy_from_slice(&scales[first..][..out.len()]),
            Scales::Nested { codes, absmax, map, offset, block } => {
                decode_scales((codes, absmax, map), (offset, block), first, out);
            }
        }
    }

    /// Elements `offset..offset + out.len()`: each the product of its level and its block's scale, rounded to f32. Panics beyond the end.
    pub fn decode(self, offset: usize, out: &mut [f32]) {
        dispatch(Decode { packed: self.from(offset), out });
    }

    /// As [`Packed::decode`], inside a kernel.
    #[inline(always)]
    pub(super) fn decode_with<S: Simd>(self, s: S, offset: usize, out: &mut [f32]) {
        Decode { packed: self.from(offset), out }.run(s);
    }
}

/// The same as rows of `cols` elements.
#[derive(Clone, Copy)]
pub(in crate::device::cpu) struct PackedRows<'a> {
    pub packed: Packed<'a>,
    pub cols: usize,
}

impl Coded for PackedRows<'_> {
    #[inline(always)]
    fn decode_with<S: Simd>(self, s: S, row: usize, col: usize, out: &mut [f32]) {
        self.packed.decode_with(s, row * self.cols + col, out);
    }
}

struct Decode<'a> {
    packed: Packed<'a>,
    out: &'a mut [f32],
}

/// Scales that are decoded at a time.
const SCALES: usize = 64;

impl Kernel for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Packed { levels, codes, block, start, .. } = self.packed;
        let table = s.table(levels);
        let (mut at, mut left) = (start, self.out);
        let mut scales = [0.0; SCALES];
        while !left.is_empty() {
            let first = at / block;
            let blocks = (at + left.len()).div_ceil(block) - first;
            let scales = &mut scales[..blocks.min(SCALES)];
            self.packed.scales(first, scales);
            for (i, &scale) in scales.iter().enumerate() {
                let len = ((first + i + 1) * block - at).min(left.len());
                let (out, rest) = left.split_at_mut(len);
                decode_block(s, (table, levels), codes, at, scale, out);
                at += len;
                left = rest;
            }
        }
    }
}

/// Elements `at..at + out.len()`, all of one block.
#[inline(always)]
fn decode_block<S: Simd>(
    s: S,
    (table, levels): (S::Table, &[f32; 16]),
    codes: &[u8],
    at: usize,
    scale: f32,
    out: &mut [f32],
) {
    let level = |at: usize| {
        let byte = codes[at / 2];
        levels[usize::from(if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 })]
    };
    // An odd start: the lower half of a byte.
    let odd = (at % 2).min(out.len());
    let (head, out) = out.split_at_mut(odd);
    head.iter_mut().for_each(|out| *out = level(at) * scale);
    let at = at + odd;
    let factor = s.splat(scale);
    let mut done = 0;
    while out.len() - done >= S::LANES {
        let v = s.look_up(table, &codes[(at + done) / 2..]);
        s.store(s.mul(v, factor), &mut out[done..]);
        done += S::LANES;
    }
    for (i, out) in out[done..].iter_mut().enumerate() {
        *out = level(at + done + i) * scale;
    }
}
