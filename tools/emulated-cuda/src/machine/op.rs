//! A decoded instruction.

mod modes;

pub use modes::*;

use super::lanes::{Float, Integer, Packed};
use crate::arith::{convert::Conversion, mma::Mma, round::Rounding};

/// Operands that an instruction may have at most: `mma` with 4 + 4 + 2 + 4 registers.
pub const MAX_OPERANDS: usize = 14;

/// Index of a register row, of a predicate, or (with [`CONSTANT`] set) of a row of constants.
pub type Slot = u16;

/// Marks a slot as a row of the program's constants.
pub const CONSTANT: Slot = 0x8000;

/// A destination that is not wanted (`_`), or an operand that is not there.
pub const NONE: Slot = 0xffff;

/// An instruction, ready to run: destinations first in `o`, then sources.
#[derive(Clone, Copy, Debug)]
pub struct Inst {
    /// What to do.
    pub op: Op,
    /// Predicate of the guard, or [`NONE`].
    pub guard: Slot,
    /// Whether the guard asks for false.
    pub negated: bool,
    /// Whether [`super::program::Program::tracked`] says more about its registers.
    pub tracked: bool,
    /// Its operands.
    pub o: [Slot; MAX_OPERANDS],
}

// The machine reads one for every warp instruction: it stays within a cache line.
const _: () = assert!(size_of::<Inst>() <= 64);

/// How many rows an operand takes, or that it is a predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// Up to 32 bits: one row.
    Word,
    /// 64 bits: two rows.
    Wide,
    /// A predicate.
    Pred,
}

/// What an instruction does. Operands are named in the order in which they lie in [`Inst::o`].
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// A pure function of each lane, on integers and bits.
    Integer(Integer),
    /// The same on f32 and f64.
    Float(Float),
    /// The same on f16, bf16 and pairs of these.
    Packed(Packed),
    /// `d, a, (b, (c))` with rounding, flush and saturation.
    Directed {
        /// The operation.
        op: DirectedOp,
        /// f64 instead of f32.
        double: bool,
        /// Rounding.
        round: Rounding,
        /// Flush subnormals.
        ftz: bool,
        /// Clamp to [0, 1].
        sat: bool,
    },
    /// `d, a(, b)`
    Convert {
        /// From what to what.
        conversion: Conversion,
        /// Whether the destination has 64 bits.
        wide: bool,
    },
    /// `p, q, a, b, c`: comparison, the other predicate, operands, predicate to combine with.
    Setp {
        /// The comparison.
        compare: Compare,
        /// Of what.
        ty: CompareType,
        /// How to combine.
        combine: Option<BoolOp>,
        /// Whether the predicate is inverted first.
        not: bool,
    },
    /// `p, q, a, b, c` on two halves: p from the low ones, q from the high ones.
    SetpHalves {
        /// The comparison.
        compare: Compare,
        /// bf16 instead of f16.
        brain: bool,
        /// How to combine.
        combine: Option<BoolOp>,
        /// Whether the predicate is inverted first.
        not: bool,
    },
    /// `d, a, b, c`: all ones (or 1.0) where the comparison holds.
    Set {
        /// The comparison.
        compare: Compare,
        /// Of what.
        ty: CompareType,
        /// What true is, in 32 bits.
        one: u32,
        /// How to combine.
        combine: Option<BoolOp>,
        /// Whether the predicate is inverted first.
        not: bool,
    },
    /// `d, a, b, c` on two halves: `one` in each half where the comparison holds.
    SetHalves {
        /// The comparison.
        compare: Compare,
        /// bf16 instead of f16.
        brain: bool,
        /// What true is.
        one: u16,
        /// How to combine.
        combine: Option<BoolOp>,
        /// Whether the predicate is inverted first.
        not: bool,
    },
    /// `d, a, b, p`
    Selp {
        /// 64 bits.
        wide: bool,
    },
    /// `p, a`: whether a float has a property.
    Testp {
        /// The property.
        property: FloatProperty,
        /// f64 instead of f32.
        double: bool,
    },
    /// `p, a, b`
    Pred(PredOp),
    /// `d, a`: a move, through which an undefined value may pass.
    Mov {
        /// 64 bits.
        wide: bool,
    },
    /// `d, a, b(, c, d)`: `mov` from a vector of `count` registers.
    Pack {
        /// 2 or 4 parts.
        count: u8,
        /// 64 bits.
        wide: bool,
    },
    /// `d0, d1(, d2, d3), a`
    Unpack {
        /// 2 or 4 parts.
        count: u8,
        /// 64 bits.
        wide: bool,
    },
    /// `d, a, b(, c)` with the carry flag: add, sub, mad.
    Carry {
        /// What.
        op: CarryOp,
        /// 64 bits.
        wide: bool,
        /// Whether the carry comes in.
        reads: bool,
        /// Whether it goes out.
        writes: bool,
        /// Signed, for `mad.hi`.
        signed: bool,
    },
    /// `d`
    Special(Special),
    /// `d0.., a`
    Load(Address, Shape, Order),
    /// `a, s0..`
    Store(Address, Shape, Order),
    /// `d, a, b(, c)`; `d` is [`NONE`] for `red`.
    Atomic(Address, AtomicKind, AtomicType, Order, Scope),
    /// `d, a`: whether the address lies in the window.
    IsSpace(Window),
    /// `d, a`: adds or takes off the start of a window.
    Cvta {
        /// The window.
        window: Window,
        /// From generic to the window.
        to: bool,
    },
    /// `d|p, a, b, c, mask`
    Shuffle(ShuffleMode),
    /// `p or d, a, mask`
    Vote {
        /// The mode.
        mode: VoteMode,
        /// Whether the predicate is inverted.
        not: bool,
    },
    /// `d(|p), a, mask`
    Match {
        /// `.all` instead of `.any`
        all: bool,
        /// 64 bits.
        wide: bool,
    },
    /// `d`
    ActiveMask,
    /// `d, a, mask`
    Redux(ReduxOp),
    /// `d0.., a`: matrices of 8 x 8 b16.
    LdMatrix {
        /// 1, 2 or 4.
        count: u8,
        /// `.trans`
        trans: bool,
        /// The address.
        address: Address,
    },
    /// `a, s0..`
    StMatrix {
        /// 1, 2 or 4.
        count: u8,
        /// `.trans`
        trans: bool,
        /// The address.
        address: Address,
    },
    /// `d, a`
    MovMatrix,
    /// `d.., a.., b.., c..`
    Mma(Mma),
    /// `to, from(, bytes or p)`: to shared memory.
    CpAsync {
        /// 4, 8 or 16.
        bytes: u8,
        /// The shared address.
        to: Address,
        /// The global address.
        from: Address,
        /// Whether a third operand says how many bytes to read.
        sized: bool,
        /// Whether a third operand is a predicate that says that none are read.
        ignore: bool,
    },
    /// Closes a group of copies.
    CpAsyncCommit,
    /// Waits until at most so many groups are pending.
    CpAsyncWait(u32),
    /// Waits for every copy, committed or not.
    CpAsyncWaitAll,
    /// `a`
    CpAsyncArrive {
        /// The address of the mbarrier.
        address: Address,
        /// Whether the expected count stays as it is.
        noinc: bool,
    },
    /// `(state or p,) a(, count or state or parity)`; [`NONE`] for a count that is not given.
    Mbarrier(MbarrierKind, Address),
    /// `(d or p,) id, count(, p)`; [`NONE`] for no count.
    Barrier {
        /// What it does.
        kind: BarKind,
        /// Whether all lanes of the warp must come together.
        aligned: bool,
        /// Whether the predicate is inverted.
        not: bool,
    },
    /// `mask`
    WarpSync,
    /// `membar`, `fence`: orders the thread's accesses.
    Fence(Scope),
    /// To an instruction.
    Branch {
        /// Its index.
        target: u32,
        /// Whether the text promises that no lane differs.
        uniform: bool,
    },
    /// `index`: to the entry of a list of targets.
    BranchIndexed {
        /// Index of the list.
        list: u32,
    },
    /// The thread is done.
    Exit,
    /// `trap`
    Trap,
    /// A call of `vprintf`: local offsets of the format, the arguments and the result.
    Printf {
        /// Parameter that holds the address of the format.
        format: u32,
        /// Parameter that holds the address of the arguments.
        arguments: u32,
    },
    /// A call of `__assertfail`: local offset of the parameters message, file, line, function.
    AssertFail {
        /// Index of the offsets in the program.
        at: u32,
    },
    /// Lets other warps run.
    Sleep,
    /// Does nothing here: hints and prefetches.
    Nop,
}

/// Arithmetic with the carry flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CarryOp {
    Add,
    Sub,
    MadLo,
    MadHi,
}
