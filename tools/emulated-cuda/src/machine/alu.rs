//! What a lane computes from its own registers and no table holds: comparisons, selections, conversions, moves.

use std::num::FpCategory;

use half::{bf16, f16};

use super::{
    lanes::{File, Lane},
    op::{BoolOp, CarryOp, Compare, CompareType, DirectedOp, FloatProperty, NONE, PredOp, Slot},
};
use crate::arith::{
    Row,
    convert::Conversion,
    round::{Rounding, directed32, directed64, flush32},
};

/// The lanes of a mask, from the lowest.
#[inline(always)]
pub fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let lane = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            lane
        })
    })
}

/// A register of either width as 64-bit values, zero-extended.
#[inline(always)]
pub fn read(file: &File, slot: Slot, wide: bool) -> [u64; 32] {
    if wide { *file.lanes::<u64>(slot) } else { file.lanes::<u32>(slot).map(u64::from) }
}

/// Writes 64-bit values to a register of either width.
#[inline(always)]
pub fn write(file: &mut File, slot: Slot, wide: bool, values: &[u64; 32], mask: u32) {
    if wide {
        file.store(slot, values, mask);
    } else {
        file.store(slot, &values.map(|v| v as u32), mask);
    }
}

/// Runs a conversion.
#[inline(always)]
pub fn convert(conversion: Conversion, wide: bool, file: &mut File, o: &[Slot], mask: u32) {
    let (from_wide, two) = (conversion.source_bits() == 64, conversion.sources() == 2);
    if !wide && !from_wide {
        let mut out: Row = [0; 32];
        let a = file.lanes::<u32>(o[1]);
        let b = if two { file.lanes::<u32>(o[2]) } else { a };
        if conversion.fast32(a, b, &mut out) {
            file.store(o[0], &out, mask);
            return;
        }
    }
    let a = read(file, o[1], from_wide);
    let b = if two { read(file, o[2], from_wide) } else { a };
    let mut out = [0; 32];
    conversion.run([&a, &b], &mut out);
    write(file, o[0], wide, &out, mask);
}

#[inline(always)]
fn holds<T: Copy>(a: &[T; 32], b: &[T; 32], f: impl Fn(T, T) -> bool) -> u32 {
    let mut bits = [0u32; 32];
    for lane in 0..32 {
        bits[lane] = u32::from(f(a[lane], b[lane])) << lane;
    }
    bits.iter().fold(0, |all, bit| all | bit)
}

#[inline(always)]
#[allow(clippy::eq_op, clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)] // Each says what it says of NaN.
fn compared<T: Copy + PartialOrd>(compare: Compare, a: &[T; 32], b: &[T; 32]) -> u32 {
    match compare {
        Compare::Eq => holds(a, b, |x, y| x == y),
        Compare::Ne => holds(a, b, |x, y| x < y || x > y),
        Compare::Lt => holds(a, b, |x, y| x < y),
        Compare::Le => holds(a, b, |x, y| x <= y),
        Compare::Gt => holds(a, b, |x, y| x > y),
        Compare::Ge => holds(a, b, |x, y| x >= y),
        Compare::Equ => holds(a, b, |x, y| !(x < y || x > y)),
        Compare::Neu => holds(a, b, |x, y| x != y),
        Compare::Ltu => holds(a, b, |x, y| !(x >= y)),
        Compare::Leu => holds(a, b, |x, y| !(x > y)),
        Compare::Gtu => holds(a, b, |x, y| !(x <= y)),
        Compare::Geu => holds(a, b, |x, y| !(x < y)),
        Compare::Num => holds(a, b, |x, y| x == x && y == y),
        Compare::Nan => holds(a, b, |x, y| x != x || y != y),
    }
}

/// The lanes in which a comparison holds.
#[inline(always)]
pub fn compare(compare: Compare, ty: CompareType, file: &File, a: Slot, b: Slot) -> u32 {
    #[inline(always)]
    fn of<T: Lane + PartialOrd>(compare: Compare, file: &File, a: Slot, b: Slot) -> u32 {
        let (a, b) = (file.lanes::<T::Bits>(a), file.lanes::<T::Bits>(b));
        compared(compare, &a.map(T::get), &b.map(T::get))
    }
    #[inline(always)]
    fn as_f32(compare: Compare, file: &File, a: Slot, b: Slot, widen: impl Fn(u32) -> f32 + Copy) -> u32 {
        let (a, b) = (file.lanes::<u32>(a), file.lanes::<u32>(b));
        compared(compare, &a.map(widen), &b.map(widen))
    }
    match ty {
        CompareType::U16 => of::<u16>(compare, file, a, b),
        CompareType::S16 => of::<i16>(compare, file, a, b),
        CompareType::U32 => of::<u32>(compare, file, a, b),
        CompareType::S32 => of::<i32>(compare, file, a, b),
        CompareType::U64 => of::<u64>(compare, file, a, b),
        CompareType::S64 => of::<i64>(compare, file, a, b),
        CompareType::F32 => of::<f32>(compare, file, a, b),
        CompareType::F64 => of::<f64>(compare, file, a, b),
        CompareType::F32Ftz => as_f32(compare, file, a, b, |v| flush32(f32::from_bits(v))),
        CompareType::F16 => as_f32(compare, file, a, b, |v| f16::from_bits(v as u16).to_f32()),
        CompareType::Bf16 => as_f32(compare, file, a, b, |v| bf16::from_bits(v as u16).to_f32()),
    }
}

/// The lanes in which a comparison of the low halves and of the high halves holds.
pub fn compare_halves(compare: Compare, brain: bool, file: &File, a: Slot, b: Slot) -> (u32, u32) {
    let widen = |bits: u32| {
        if brain { bf16::from_bits(bits as u16).to_f32() } else { f16::from_bits(bits as u16).to_f32() }
    };
    let (a, b) = (file.lanes::<u32>(a), file.lanes::<u32>(b));
    let half = |shift: u32| compared(compare, &a.map(|v| widen(v >> shift)), &b.map(|v| widen(v >> shift)));
    (half(0), half(16))
}

/// The lanes whose number has a property.
pub fn test(file: &File, a: Slot, property: FloatProperty, double: bool) -> u32 {
    let holds = |class: FpCategory| match property {
        FloatProperty::Finite => !matches!(class, FpCategory::Nan | FpCategory::Infinite),
        FloatProperty::Infinite => class == FpCategory::Infinite,
        FloatProperty::Number => class != FpCategory::Nan,
        FloatProperty::NotANumber => class == FpCategory::Nan,
        // A zero counts as normal.
        FloatProperty::Normal => matches!(class, FpCategory::Normal | FpCategory::Zero),
        FloatProperty::Subnormal => class == FpCategory::Subnormal,
    };
    let values = read(file, a, double);
    let class =
        |v: u64| if double { f64::from_bits(v).classify() } else { f32::from_bits(v as u32).classify() };
    values.iter().enumerate().fold(0, |all, (lane, &v)| all | u32::from(holds(class(v))) << lane)
}

/// Combines a comparison with the third predicate of `setp` and `set`.
pub fn combined(result: u32, combine: Option<BoolOp>, other: u32) -> u32 {
    match combine {
        None => result,
        Some(BoolOp::And) => result & other,
        Some(BoolOp::Or) => result | other,
        Some(BoolOp::Xor) => result ^ other,
    }
}

/// Logic on predicates.
pub fn predicate(op: PredOp, a: u32, b: u32) -> u32 {
    match op {
        PredOp::Mov => a,
        PredOp::Not => !a,
        PredOp::And => a & b,
        PredOp::Or => a | b,
        PredOp::Xor => a ^ b,
    }
}

/// `selp`
pub fn select(file: &mut File, o: &[Slot], wide: bool, mask: u32) {
    let choice = file.pred(o[3]);
    if wide {
        let (a, b) = (file.lanes::<u64>(o[1]), file.lanes::<u64>(o[2]));
        let out = std::array::from_fn(|lane| if choice >> lane & 1 != 0 { a[lane] } else { b[lane] });
        file.store::<u64>(o[0], &out, mask);
    } else {
        let (a, b) = (file.lanes::<u32>(o[1]), file.lanes::<u32>(o[2]));
        let out = std::array::from_fn(|lane| if choice >> lane & 1 != 0 { a[lane] } else { b[lane] });
        file.store::<u32>(o[0], &out, mask);
    }
}

/// Arithmetic with a rounding of its own, flush or saturation, lane by lane.
#[allow(clippy::too_many_arguments)]
pub fn directed(
    file: &mut File,
    o: &[Slot],
    op: DirectedOp,
    double: bool,
    round: Rounding,
    ftz: bool,
    sat: bool,
    mask: u32,
) {
    let operand = |at: usize| if o[at] == NONE { [0; 32] } else { read(file, o[at], double) };
    let (a, b, c) = (operand(1), operand(2), operand(3));
    let mut out = [0u64; 32];
    for lane in lanes_of(mask) {
        out[lane] = if double {
            let [a, b, c] = [a, b, c].map(|v| f64::from_bits(v[lane]));
            directed64(op, round, a, b, c).to_bits()
        } else {
            let [a, b, c] = [a, b, c].map(|v| f32::from_bits(v[lane] as u32));
            u64::from(directed32(op, round, ftz, sat, a, b, c).to_bits())
        };
    }
    write(file, o[0], double, &out, mask);
}

/// Arithmetic with the carry flag.
pub struct Carry {
    /// What.
    pub op: CarryOp,
    /// 64 bits.
    pub wide: bool,
    /// Whether the flag comes in.
    pub reads: bool,
    /// Whether it goes out.
    pub writes: bool,
    /// Signed, for `mad.hi`.
    pub signed: bool,
}

impl Carry {
    /// Runs it on the lanes of `mask`.
    pub fn run(&self, file: &mut File, o: &[Slot], mask: u32) {
        let bits = if self.wide { 64 } else { 32 };
        let low = if self.wide { u64::MAX } else { u64::from(u32::MAX) };
        let (a, b) = (read(file, o[1], self.wide), read(file, o[2], self.wide));
        let c = if o[3] == NONE { [0; 32] } else { read(file, o[3], self.wide) };
        let mut out = [0u64; 32];
        let mut flags = file.carry;
        for lane in lanes_of(mask) {
            let flag = if self.reads { u128::from(file.carry >> lane & 1) } else { 0 };
            let (wide_a, wide_b, wide_c) = (u128::from(a[lane]), u128::from(b[lane]), u128::from(c[lane]));
            let product_high = || {
                if self.signed && self.wide {
                    ((i128::from(a[lane] as i64) * i128::from(b[lane] as i64)) >> 64) as u64
                } else if self.signed {
                    ((i64::from(a[lane] as i32) * i64::from(b[lane] as i32)) >> 32) as u32 as u64
                } else {
                    ((wide_a * wide_b) >> bits) as u64
                }
            };
            let sum = match self.op {
                CarryOp::Add => wide_a + wide_b + flag,
                // A borrow shows in the bits above.
                CarryOp::Sub => wide_a.wrapping_sub(wide_b + flag),
                CarryOp::MadLo => u128::from(a[lane].wrapping_mul(b[lane]) & low) + wide_c + flag,
                CarryOp::MadHi => u128::from(product_high()) + wide_c + flag,
            };
            out[lane] = sum as u64 & low;
            flags = flags & !(1 << lane) | ((sum >> bits & 1) as u32) << lane;
        }
        if self.writes {
            file.carry = flags;
        }
        write(file, o[0], self.wide, &out, mask);
    }
}

/// `mov` from a vector of `count` registers.
pub fn pack(file: &mut File, o: &[Slot], count: u8, wide: bool, mask: u32) {
    let bits = if wide { 64 } else { 32 } / u32::from(count);
    let part = if bits == 32 { u64::from(u32::MAX) } else { 0xffff };
    let mut out = [0u64; 32];
    for (index, &slot) in o[1..=count as usize].iter().enumerate() {
        let values = file.lanes::<u32>(slot);
        for lane in 0..32 {
            out[lane] |= (u64::from(values[lane]) & part) << (index as u32 * bits);
        }
    }
    write(file, o[0], wide, &out, mask);
}

/// `mov` to a vector of `count` registers.
pub fn unpack(file: &mut File, o: &[Slot], count: u8, wide: bool, mask: u32) {
    let bits = if wide { 64 } else { 32 } / u32::from(count);
    let part = if bits == 32 { u32::MAX } else { 0xffff };
    let from = read(file, o[count as usize], wide);
    for (index, &slot) in o[..count as usize].iter().enumerate() {
        file.store::<u32>(slot, &from.map(|v| (v >> (index as u32 * bits)) as u32 & part), mask);
    }
}

/// `set`: `one` where the bit is set.
pub fn spread(bits: u32, one: u32) -> Row {
    std::array::from_fn(|lane| if bits >> lane & 1 != 0 { one } else { 0 })
}
