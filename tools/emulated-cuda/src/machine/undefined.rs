//! Bits of registers that nothing wrote: which instructions hand them on, and for which they are a fault.
//!
//! An instruction that moves bits, or combines them one by one, may take undefined ones: nvcc fills a register byte by byte
//! with `and` and `or` on what it held before. Its result is undefined in those bits that the undefined ones may change.
//! For everything else a bit that counts must be defined.

use super::{
    lanes::Integer,
    op::{CompareType, Op, PredOp, Width},
};

/// What becomes of the undefined bits of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// They are a fault, where they are among these.
    Needs(u64),
    /// They go on to the result.
    Passes,
}

use Use::{Needs, Passes};

/// The undefined bits of a register.
#[derive(Clone, Debug)]
pub struct Undefined {
    /// The lanes that have some.
    pub lanes: u32,
    /// Which, in these lanes.
    bits: [u64; 32],
}

impl Undefined {
    /// Of a register that nothing has written.
    pub fn new(width: Width) -> Self {
        Self { lanes: u32::MAX, bits: [whole(width); 32] }
    }

    /// Those of a lane.
    #[inline]
    pub fn lane(&self, lane: usize) -> u64 {
        if self.lanes >> lane & 1 != 0 { self.bits[lane] } else { 0 }
    }

    /// Lanes are written, with nothing undefined.
    #[inline]
    pub fn define(&mut self, lanes: u32) {
        self.lanes &= !lanes;
    }

    /// Lanes are written, with these bits undefined.
    pub fn set(&mut self, bits: &[u64; 32], lanes: u32) {
        for lane in super::alu::lanes_of(lanes) {
            self.bits[lane] = bits[lane];
            self.lanes = self.lanes & !(1 << lane) | u32::from(bits[lane] != 0) << lane;
        }
    }
}

/// Every bit of a register.
fn whole(width: Width) -> u64 {
    match width {
        Width::Pred => 1,
        Width::Word => u64::from(u32::MAX),
        Width::Wide => u64::MAX,
    }
}

/// The lowest bits.
pub fn low(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// What an instruction does with the undefined bits of a source, counted from 0.
pub fn source_use(op: &Op, source: usize) -> Use {
    match *op {
        Op::Integer(op) => integer(op, source),
        Op::Float(op) => Needs(low(op.source_bits()[source])),
        Op::Packed(op) => Needs(low(op.source_bits()[source])),
        Op::Convert { conversion, .. } if conversion.moves_bits() => Passes,
        Op::Convert { conversion, .. } => Needs(low(conversion.source_bits())),
        Op::Mov { .. } | Op::Pack { .. } | Op::Unpack { .. } | Op::Pred(_) => Passes,
        Op::Selp { .. } if source < 2 => Passes,
        // The predicate that a comparison is combined with.
        Op::Setp { .. } | Op::SetpHalves { .. } if source == 2 => Passes,
        Op::Setp { ty, .. } | Op::Set { ty, .. } if source < 2 => Needs(low(compared(ty))),
        // What a store takes goes on to memory.
        Op::Store(..) if source > 0 => Passes,
        // Of the lane numbers and the clamp with its mask of segments, so many bits count.
        Op::Shuffle(_) => [Passes, Needs(0x1f), Needs(0x1f1f), Needs(u64::MAX)][source],
        _ => Needs(u64::MAX),
    }
}

fn integer(op: Integer, source: usize) -> Use {
    use Integer::{
        And16, And32, And64, BfeS32, BfeS64, BfeU32, BfeU64, Bfi32, Bfi64, Brev32, Brev64, Lop3, Not16,
        Not32, Not64, Or16, Or32, Or64, Prmt, PrmtB4e, PrmtEcl, PrmtEcr, PrmtF4e, PrmtRc8, PrmtRc16,
        ShfLClamp, ShfLWrap, ShfRClamp, ShfRWrap, Shl16, Shl32, Shl64, ShrS16, ShrS32, ShrS64, ShrU16,
        ShrU32, ShrU64, Slct16, Slct32, Slct64, SlctF16, SlctF32, SlctF64, SlctFtzF16, SlctFtzF32,
        SlctFtzF64, SzextClampS, SzextClampU, SzextWrapS, SzextWrapU, Xor16, Xor32, Xor64,
    };
    // How many sources pass, and what counts of those that say how they do.
    let (passing, control) = match op {
        And16 | And32 | And64 | Or16 | Or32 | Or64 | Xor16 | Xor32 | Xor64 => (2, 0),
        Not16 | Not32 | Not64 | Brev32 | Brev64 => (1, 0),
        Lop3 => (3, 0xff),
        Shl16 | Shl32 | Shl64 | ShrU16 | ShrU32 | ShrU64 | ShrS16 | ShrS32 | ShrS64 => (1, low(32)),
        ShfLClamp | ShfRClamp => (2, low(32)),
        ShfLWrap | ShfRWrap => (2, 0x1f),
        BfeU32 | BfeS32 | BfeU64 | BfeS64 => (1, 0xff),
        Bfi32 | Bfi64 => (2, 0xff),
        SzextClampU | SzextClampS => (1, low(32)),
        SzextWrapU | SzextWrapS => (1, 0x1f),
        Prmt => (2, 0xffff),
        PrmtF4e | PrmtB4e | PrmtRc8 | PrmtEcl | PrmtEcr => (2, 3),
        PrmtRc16 => (2, 1),
        Slct16 | Slct32 | Slct64 | SlctF16 | SlctF32 | SlctF64 | SlctFtzF16 | SlctFtzF32 | SlctFtzF64 => {
            (2, low(32))
        }
        _ => return Needs(low(op.source_bits()[source])),
    };
    if source < passing { Passes } else { Needs(control) }
}

/// Bits of a number that is compared.
fn compared(ty: CompareType) -> u32 {
    match ty {
        CompareType::U16 | CompareType::S16 | CompareType::F16 | CompareType::Bf16 => 16,
        CompareType::U32 | CompareType::S32 | CompareType::F32 | CompareType::F32Ftz => 32,
        CompareType::U64 | CompareType::S64 | CompareType::F64 => 64,
    }
}

/// The table of a bitwise instruction, as `lop3` has it: entry `4 a + 2 b + c`.
pub fn table(op: Integer) -> Option<u8> {
    use Integer::{And16, And32, And64, Not16, Not32, Not64, Or16, Or32, Or64, Xor16, Xor32, Xor64};
    Some(match op {
        And16 | And32 | And64 => A & B,
        Or16 | Or32 | Or64 => A | B,
        Xor16 | Xor32 | Xor64 => A ^ B,
        Not16 | Not32 | Not64 => !A,
        _ => return None,
    })
}

/// The table of logic on predicates.
pub fn predicate_table(op: PredOp) -> u8 {
    match op {
        PredOp::Mov => A,
        PredOp::Not => !A,
        PredOp::And => A & B,
        PredOp::Or => A | B,
        PredOp::Xor => A ^ B,
    }
}

/// The operands themselves, as tables.
const A: u8 = 0xf0;
const B: u8 = 0xcc;

/// The bits of a bitwise function that undefined bits of its operands may change.
pub fn logic(table: u8, values: [u64; 3], undefined: [u64; 3]) -> u64 {
    let (mut zeros, mut ones) = (0, 0);
    for row in 0..8u32 {
        // Where the operands may be what this row of the table is about.
        let mut possible = u64::MAX;
        for (operand, (value, undefined)) in values.iter().zip(undefined).enumerate() {
            let wanted = if row >> (2 - operand) & 1 != 0 { *value } else { !value };
            possible &= wanted | undefined;
        }
        *(if table >> row & 1 != 0 { &mut ones } else { &mut zeros }) |= possible;
    }
    zeros & ones
}
