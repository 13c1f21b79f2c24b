//! Pure functions of one lane: a table a family, one line an instruction, run on all 32 lanes at once.

mod float;
mod integer;
mod packed;

pub use float::Float;
pub use integer::Integer;
pub use packed::Packed;

use super::op::{CONSTANT, NONE, Slot, Width};
use crate::arith::Row;

/// All 32 lanes.
pub const FULL: u32 = u32::MAX;

/// A row on a cache line of its own.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub Row);

/// The registers of a warp.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Rows of 32 lanes; a 64-bit register has two, which together hold 32 numbers of 64 bits.
    pub rows: Vec<Line>,
    /// The program's constants, in the same form.
    pub constants: std::sync::Arc<[Line]>,
    /// Predicates, a bit a lane.
    pub preds: Vec<u32>,
    /// The carry flag, a bit a lane.
    pub carry: u32,
}

/// A type that a lane can hold, and how it lies in a register.
pub trait Lane: Copy + 'static {
    /// What the rows hold: 32 or 64 bits.
    type Bits: bytemuck::Pod;
    /// How many rows it takes.
    const WIDTH: Width;
    /// How many bits of these count.
    const BITS: u32 = 8 * size_of::<Self>() as u32;
    /// From the register's bits.
    fn get(bits: Self::Bits) -> Self;
    /// To the register's bits.
    fn put(self) -> Self::Bits;
}

macro_rules! lane {
    ($ty:ty, $bits:ty, $width:ident, $get:expr, $put:expr) => {
        impl Lane for $ty {
            type Bits = $bits;
            const WIDTH: Width = Width::$width;
            #[inline(always)]
            fn get(bits: $bits) -> $ty {
                ($get)(bits)
            }
            #[inline(always)]
            fn put(self) -> $bits {
                ($put)(self)
            }
        }
    };
}

lane!(u16, u32, Word, |b| b as u16, |v| v as u32);
lane!(i16, u32, Word, |b| b as i16, |v| v as u16 as u32);
lane!(u32, u32, Word, |b| b, |v| v);
lane!(i32, u32, Word, |b| b as i32, |v| v as u32);
lane!(f32, u32, Word, f32::from_bits, f32::to_bits);
lane!(u64, u64, Wide, |b| b, |v| v);
lane!(i64, u64, Wide, |b| b as i64, |v| v as u64);
lane!(f64, u64, Wide, f64::from_bits, f64::to_bits);

impl File {
    /// Makes room for a program's registers. They start with a pattern, so that what reads a register that was never
    /// written gives the same result in every run even where the checks are off.
    pub fn start(&mut self, program: &super::program::Program) {
        self.rows.clear();
        self.rows.resize(program.rows, Line([0xbaad_f00d; 32]));
        self.constants = program.constants.clone();
        self.preds.clear();
        self.preds.resize(program.preds, 0);
        self.carry = 0;
    }

    /// The rows of a register or constant as 32 values.
    #[inline(always)]
    pub fn lanes<T: bytemuck::Pod>(&self, slot: Slot) -> &[T; 32] {
        let (from, index) = if slot & CONSTANT != 0 {
            (&*self.constants, (slot & !CONSTANT) as usize)
        } else {
            (&*self.rows, slot as usize)
        };
        let rows = size_of::<T>() / 4;
        let lines = &from[index..index + rows];
        // SAFETY: `lines` holds `rows` lines of 128 bytes, which is 32 values of T; their alignment is 64, and any bits are a T.
        unsafe { &*lines.as_ptr().cast::<[T; 32]>() }
    }

    /// The rows of a register as 32 values.
    #[inline(always)]
    pub fn lanes_mut<T: bytemuck::Pod>(&mut self, slot: Slot) -> &mut [T; 32] {
        let rows = size_of::<T>() / 4;
        let lines = &mut self.rows[slot as usize..slot as usize + rows];
        // SAFETY: as in `lanes`, and borrowed mutably.
        unsafe { &mut *lines.as_mut_ptr().cast::<[T; 32]>() }
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn store<T: bytemuck::Pod>(&mut self, slot: Slot, values: &[T; 32], mask: u32) {
        if slot == NONE {
            return;
        }
        let to = self.lanes_mut::<T>(slot);
        if mask == FULL {
            *to = *values;
        } else {
            for lane in 0..32 {
                to[lane] = if mask >> lane & 1 != 0 { values[lane] } else { to[lane] };
            }
        }
    }

    /// A predicate; true everywhere for [`NONE`].
    #[inline(always)]
    pub fn pred(&self, slot: Slot) -> u32 {
        match slot {
            NONE => FULL,
            CONSTANT => 0,
            _ => self.preds[slot as usize],
        }
    }

    /// Writes the lanes of `mask` of a predicate.
    #[inline(always)]
    pub fn set_pred(&mut self, slot: Slot, value: u32, mask: u32) {
        if slot != NONE {
            let pred = &mut self.preds[slot as usize];
            *pred = *pred & !mask | value & mask;
        }
    }
}

/// Defines a family: its variants, the mnemonics that mean them, the widths of their operands and what they compute.
macro_rules! lane_table {
    ($(#[$doc:meta])* $family:ident {
        $($variant:ident [$($mnemonic:literal)+] ($($arg:ident: $ty:ty),+) -> $ret:ty { $body:expr })+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum $family { $($variant),+ }

        impl $family {
            /// The variant that an opcode with its modifiers means.
            pub fn find(mnemonic: &str) -> Option<Self> {
                match mnemonic {
                    $($($mnemonic)|+ => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Every mnemonic of the family.
            pub const MNEMONICS: &[&str] = &[$($($mnemonic),+),+];

            /// Widths of the destination and of the sources.
            pub fn widths(self) -> (Width, &'static [Width]) {
                match self {
                    $(Self::$variant => (<$ret as Lane>::WIDTH, &[$(<$ty as Lane>::WIDTH),+]),)+
                }
            }

            /// Bits of the sources that count.
            pub fn source_bits(self) -> &'static [u32] {
                match self {
                    $(Self::$variant => &[$(<$ty as Lane>::BITS),+],)+
                }
            }

            /// Runs it on the lanes of `mask`.
            #[inline(always)]
            pub fn apply(self, file: &mut File, o: &[Slot], mask: u32) {
                match self {
                    $(Self::$variant => {
                        let mut next = 0;
                        $(next += 1; let $arg = file.lanes::<<$ty as Lane>::Bits>(o[next]);)+
                        let mut out = [<<$ret as Lane>::Bits as bytemuck::Zeroable>::zeroed(); 32];
                        for lane in 0..32 {
                            $(let $arg = <$ty as Lane>::get($arg[lane]);)+
                            let value: $ret = $body;
                            out[lane] = value.put();
                        }
                        file.store(o[0], &out, mask);
                    })+
                }
            }
        }
    };
}
use lane_table;
