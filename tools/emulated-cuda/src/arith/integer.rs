//! Integers and bits: what does not fall out of one Rust operator.
//!
//! The functions take no branch that depends on more than a compile-time parameter where that is possible, so that a loop
//! over 32 lanes becomes vector code.

/// Upper half of the product.
#[inline(always)]
pub fn mul_hi_u16(a: u16, b: u16) -> u16 {
    ((a as u32 * b as u32) >> 16) as u16
}

/// Upper half of the product.
#[inline(always)]
pub fn mul_hi_s16(a: i16, b: i16) -> i16 {
    ((a as i32 * b as i32) >> 16) as i16
}

/// Upper half of the product.
#[inline(always)]
pub fn mul_hi_u32(a: u32, b: u32) -> u32 {
    ((a as u64 * b as u64) >> 32) as u32
}

/// Upper half of the product.
#[inline(always)]
pub fn mul_hi_s32(a: i32, b: i32) -> i32 {
    ((a as i64 * b as i64) >> 32) as i32
}

/// Upper half of the product.
#[inline(always)]
pub fn mul_hi_u64(a: u64, b: u64) -> u64 {
    ((a as u128 * b as u128) >> 64) as u64
}

/// Upper half of the product.
#[inline(always)]
pub fn mul_hi_s64(a: i64, b: i64) -> i64 {
    ((a as i128 * b as i128) >> 64) as i64
}

/// The product of the low 24 bits, 48 bits long.
#[inline(always)]
fn product24_u32(a: u32, b: u32) -> u64 {
    (a & 0xff_ffff) as u64 * (b & 0xff_ffff) as u64
}

/// The product of the low 24 bits as signed numbers, 48 bits long.
#[inline(always)]
fn product24_s32(a: i32, b: i32) -> i64 {
    ((a << 8) >> 8) as i64 * ((b << 8) >> 8) as i64
}

/// Bits 0 to 31 of the product of 24-bit numbers.
#[inline(always)]
pub fn mul24_lo_u32(a: u32, b: u32) -> u32 {
    product24_u32(a, b) as u32
}

/// Bits 0 to 31 of the product of 24-bit numbers.
#[inline(always)]
pub fn mul24_lo_s32(a: i32, b: i32) -> i32 {
    product24_s32(a, b) as i32
}

/// Bits 16 to 47 of the product of 24-bit numbers.
#[inline(always)]
pub fn mul24_hi_u32(a: u32, b: u32) -> u32 {
    (product24_u32(a, b) >> 16) as u32
}

/// Bits 16 to 47 of the product of 24-bit numbers.
#[inline(always)]
pub fn mul24_hi_s32(a: i32, b: i32) -> i32 {
    (product24_s32(a, b) >> 16) as i32
}

// Division by zero is unspecified by the ISA. NVIDIA GPUs return all ones, as quotient and as remainder alike (Direct3D asks
// for it of udiv). The least number divided by -1 wraps around.
macro_rules! division {
    ($div:ident, $rem:ident, $ty:ty) => {
        /// The quotient, towards zero; all ones when `b` is zero.
        #[inline(always)]
        pub fn $div(a: $ty, b: $ty) -> $ty {
            if b == 0 { !0 } else { a.wrapping_div(b) }
        }

        /// The remainder, with the sign of `a`; all ones when `b` is zero.
        #[inline(always)]
        pub fn $rem(a: $ty, b: $ty) -> $ty {
            if b == 0 { !0 } else { a.wrapping_rem(b) }
        }
    };
}
division!(div_u16, rem_u16, u16);
division!(div_s16, rem_s16, i16);
division!(div_u32, rem_u32, u32);
division!(div_s32, rem_s32, i32);
division!(div_u64, rem_u64, u64);
division!(div_s64, rem_s64, i64);

macro_rules! find {
    ($unsigned:ident, $unsigned_shift:ident, $signed:ident, $signed_shift:ident, $u:ty, $i:ty) => {
        /// Position of the highest one; all ones if there is none.
        #[inline(always)]
        pub fn $unsigned(a: $u) -> u32 {
            (<$u>::BITS - 1).wrapping_sub(a.leading_zeros())
        }

        /// How far to shift left until the highest one is on top; all ones if there is none.
        #[inline(always)]
        pub fn $unsigned_shift(a: $u) -> u32 {
            if a == 0 { u32::MAX } else { a.leading_zeros() }
        }

        /// Position of the highest bit that is not the sign; all ones if there is none.
        #[inline(always)]
        pub fn $signed(a: $i) -> u32 {
            $unsigned((a ^ (a >> (<$i>::BITS - 1))) as $u)
        }

        /// How far to shift left until the highest bit that is not the sign is on top; all ones if there is none.
        #[inline(always)]
        pub fn $signed_shift(a: $i) -> u32 {
            $unsigned_shift((a ^ (a >> (<$i>::BITS - 1))) as $u)
        }
    };
}
find!(bfind_u32, bfind_shiftamt_u32, bfind_s32, bfind_shiftamt_s32, u32, i32);
find!(bfind_u64, bfind_shiftamt_u64, bfind_s64, bfind_shiftamt_s64, u64, i64);

/// Position of the n-th one of `mask` from bit `base` on: upwards for a positive `n`, downwards for a negative one, `base` itself
/// for zero; all ones if there is none. A `base` above 31 is undefined in the ISA; here nothing is found from there.
pub fn fns(mask: u32, base: u32, n: i32) -> u32 {
    if base > 31 {
        return u32::MAX;
    }
    if n == 0 {
        return if mask >> base & 1 != 0 { base } else { u32::MAX };
    }
    let up = n > 0;
    let mut left = if up { mask & (u32::MAX << base) } else { mask & (u32::MAX >> (31 - base)) };
    if n.unsigned_abs() > left.count_ones() {
        return u32::MAX;
    }
    for _ in 1..n.unsigned_abs() {
        left &= if up { left - 1 } else { !(1 << bfind_u32(left)) };
    }
    if up { left.trailing_zeros() } else { bfind_u32(left) }
}

macro_rules! fields {
    ($extract:ident, $extract_signed:ident, $insert:ident, $u:ty, $i:ty) => {
        /// The field of `len` bits from bit `pos` on (both modulo 256), filled up with zeros.
        #[inline(always)]
        pub fn $extract(a: $u, pos: u32, len: u32) -> $u {
            let (pos, len) = (pos & 0xff, len & 0xff);
            let shifted = if pos < <$u>::BITS { a >> (pos % <$u>::BITS) } else { 0 };
            let mask = if len < <$u>::BITS { !(!0 << (len % <$u>::BITS)) } else { !0 };
            shifted & mask
        }

        /// The field of `len` bits from bit `pos` on (both modulo 256), filled up with its sign; what lies above the number is its
        /// sign.
        #[inline(always)]
        pub fn $extract_signed(a: $i, pos: u32, len: u32) -> $i {
            let (pos, len) = (pos & 0xff, len & 0xff);
            let shifted = a >> pos.min(<$i>::BITS - 1);
            let spare = <$i>::BITS - len.clamp(1, <$i>::BITS);
            if len == 0 { 0 } else { (shifted << spare) >> spare }
        }

        /// `b` with the low `len` bits of `a` put in from bit `pos` on (both modulo 256).
        #[inline(always)]
        pub fn $insert(a: $u, b: $u, pos: u32, len: u32) -> $u {
            let (pos, len) = (pos & 0xff, len & 0xff);
            let mask: $u = if len < <$u>::BITS { !(!0 << (len % <$u>::BITS)) } else { !0 };
            let at = pos % <$u>::BITS;
            let inserted = b & !(mask << at) | (a & mask) << at;
            if pos < <$u>::BITS { inserted } else { b }
        }
    };
}
fields!(bfe_u32, bfe_s32, bfi_b32, u32, i32);
fields!(bfe_u64, bfe_s64, bfi_b64, u64, i64);

/// The low `n` bits of `a`, filled up with zeros; all of `a` when `n` is 32 or more.
#[inline(always)]
pub fn szext_clamp_u32(a: u32, n: u32) -> u32 {
    if n >= 32 { a } else { szext_wrap_u32(a, n) }
}

/// The low `n` bits of `a`, filled up with their sign; all of `a` when `n` is 32 or more.
#[inline(always)]
pub fn szext_clamp_s32(a: i32, n: u32) -> i32 {
    if n >= 32 { a } else { szext_wrap_s32(a, n) }
}

/// The low `n` modulo 32 bits of `a`, filled up with zeros.
#[inline(always)]
pub fn szext_wrap_u32(a: u32, n: u32) -> u32 {
    a & !(u32::MAX << (n & 31))
}

/// The low `n` modulo 32 bits of `a`, filled up with their sign.
#[inline(always)]
pub fn szext_wrap_s32(a: i32, n: u32) -> i32 {
    let n = n & 31;
    let spare = (32 - n) & 31;
    if n == 0 { 0 } else { (a << spare) >> spare }
}

/// Ones from bit `at` on, `width` of them; none when `at` is 32 or more.
#[inline(always)]
pub fn bmsk_clamp(at: u32, width: u32) -> u32 {
    let ones = if width >= 32 { u32::MAX } else { !(u32::MAX << (width & 31)) };
    if at >= 32 { 0 } else { ones << (at & 31) }
}

/// Ones from bit `at` modulo 32 on, `width` modulo 32 of them.
#[inline(always)]
pub fn bmsk_wrap(at: u32, width: u32) -> u32 {
    !(u32::MAX << (width & 31)) << (at & 31)
}

macro_rules! shifts {
    ($shl:ident, $shr:ident, $sar:ident, $u:ty, $i:ty) => {
        /// To the left; nothing is left when `n` reaches the width.
        #[inline(always)]
        pub fn $shl(a: $u, n: u32) -> $u {
            if n < <$u>::BITS { a << (n % <$u>::BITS) } else { 0 }
        }

        /// To the right with zeros; nothing is left when `n` reaches the width.
        #[inline(always)]
        pub fn $shr(a: $u, n: u32) -> $u {
            if n < <$u>::BITS { a >> (n % <$u>::BITS) } else { 0 }
        }

        /// To the right with the sign; only the sign is left when `n` reaches the width.
        #[inline(always)]
        pub fn $sar(a: $i, n: u32) -> $i {
            a >> n.min(<$i>::BITS - 1)
        }
    };
}
shifts!(shl_b16, shr_u16, shr_s16, u16, i16);
shifts!(shl_b32, shr_u32, shr_s32, u32, i32);
shifts!(shl_b64, shr_u64, shr_s64, u64, i64);

/// The 64 bits of a funnel shift.
#[inline(always)]
fn funnel(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// Upper half of `[b, a]` shifted left by at most 32.
#[inline(always)]
pub fn shf_l_clamp(a: u32, b: u32, n: u32) -> u32 {
    (funnel(a, b) << n.min(32) >> 32) as u32
}

/// Upper half of `[b, a]` shifted left by `n` modulo 32.
#[inline(always)]
pub fn shf_l_wrap(a: u32, b: u32, n: u32) -> u32 {
    (funnel(a, b) << (n & 31) >> 32) as u32
}

/// Lower half of `[b, a]` shifted right by at most 32.
#[inline(always)]
pub fn shf_r_clamp(a: u32, b: u32, n: u32) -> u32 {
    (funnel(a, b) >> n.min(32)) as u32
}

/// Lower half of `[b, a]` shifted right by `n` modulo 32.
#[inline(always)]
pub fn shf_r_wrap(a: u32, b: u32, n: u32) -> u32 {
    (funnel(a, b) >> (n & 31)) as u32
}

/// Four bytes of the eight of `[b, a]`, each chosen by a number from 0 to 7.
#[inline(always)]
fn bytes(a: u32, b: u32, select: impl Fn(u32) -> u32) -> u32 {
    let from = funnel(a, b);
    (0..4).fold(0, |to, i| to | ((from >> (8 * select(i)) & 0xff) as u32) << (8 * i))
}

/// Bytes of `[b, a]`: four bits of `c` choose each, the highest of them asks for the byte's sign instead, eight times.
#[inline(always)]
pub fn prmt(a: u32, b: u32, c: u32) -> u32 {
    let plain = bytes(a, b, |i| c >> (4 * i) & 7);
    // The top bit of each byte, spread over its byte.
    let signs = (plain >> 7 & 0x0101_0101) * 0xff;
    let asked = (0..4).fold(0, |to, i| to | (c >> (4 * i + 3) & 1) << (8 * i)) * 0xff;
    plain & !asked | signs & asked
}

/// Forward 4 extract: bytes upwards from `c` modulo 4 on.
#[inline(always)]
pub fn prmt_f4e(a: u32, b: u32, c: u32) -> u32 {
    bytes(a, b, |i| (c & 3) + i)
}

/// Backward 4 extract: bytes downwards from `c` modulo 4 on.
#[inline(always)]
pub fn prmt_b4e(a: u32, b: u32, c: u32) -> u32 {
    bytes(a, b, |i| (c & 3).wrapping_sub(i) & 7)
}

/// Replicate 8: one byte four times.
#[inline(always)]
pub fn prmt_rc8(a: u32, b: u32, c: u32) -> u32 {
    bytes(a, b, |_| c & 3)
}

/// Edge clamp left: bytes below `c` modulo 4 become that one.
#[inline(always)]
pub fn prmt_ecl(a: u32, b: u32, c: u32) -> u32 {
    bytes(a, b, |i| i.max(c & 3))
}

/// Edge clamp right: bytes above `c` modulo 4 become that one.
#[inline(always)]
pub fn prmt_ecr(a: u32, b: u32, c: u32) -> u32 {
    bytes(a, b, |i| i.min(c & 3))
}

/// Replicate 16: one half twice.
#[inline(always)]
pub fn prmt_rc16(a: u32, b: u32, c: u32) -> u32 {
    bytes(a, b, |i| (c & 1) * 2 + (i & 1))
}

/// The bitwise function whose value on `(a, b, c)` is bit `4 a + 2 b + c` of `table`.
#[inline(always)]
pub fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let entry = |i: u32| 0u32.wrapping_sub(table >> i & 1);
    let choose = |zero: u32, one: u32, by: u32| zero ^ (zero ^ one) & by;
    let low = choose(choose(entry(0), entry(1), c), choose(entry(2), entry(3), c), b);
    let high = choose(choose(entry(4), entry(5), c), choose(entry(6), entry(7), c), b);
    choose(low, high, a)
}

/// Part `i` of `bits` bits, signed or not, as a number whose low 32 bits count.
#[inline(always)]
fn part<const SIGNED: bool>(a: u32, bits: u32, i: u32) -> u32 {
    let top = a << (32 - bits - bits * i);
    if SIGNED { (top as i32 >> (32 - bits)) as u32 } else { top >> (32 - bits) }
}

/// `c` plus the dot product of four bytes with four bytes, each side signed or not.
#[inline(always)]
pub fn dp4a<const SIGNED_A: bool, const SIGNED_B: bool>(a: u32, b: u32, c: u32) -> u32 {
    (0..4)
        .fold(c, |sum, i| sum.wrapping_add(part::<SIGNED_A>(a, 8, i).wrapping_mul(part::<SIGNED_B>(b, 8, i))))
}

/// `c` plus the dot product of two halves with the lower or upper two bytes, each side signed or not.
#[inline(always)]
pub fn dp2a<const HIGH: bool, const SIGNED_A: bool, const SIGNED_B: bool>(a: u32, b: u32, c: u32) -> u32 {
    let from = if HIGH { 2 } else { 0 };
    (0..2).fold(c, |sum, i| {
        sum.wrapping_add(part::<SIGNED_A>(a, 16, i).wrapping_mul(part::<SIGNED_B>(b, 8, from + i)))
    })
}

/// `cvt.pack`: `c` moved up by two fields, `a` clamped to a field above `b` clamped to a field.
#[inline(always)]
pub fn pack_clamped<const SIGNED: bool, const BITS: u32>(a: i32, b: i32, c: u32) -> u32 {
    let (least, most) =
        if SIGNED { (-(1 << (BITS - 1)), (1 << (BITS - 1)) - 1) } else { (0, (1 << BITS) - 1) };
    let field = |v: i32| v.clamp(least, most) as u32 & ((1 << BITS) - 1);
    let above = if 2 * BITS < 32 { c << (2 * BITS % 32) } else { 0 };
    above | field(a) << BITS | field(b)
}
