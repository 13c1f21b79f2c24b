//! Numbers in the words of a fragment, and the rounding of results. Without branches, so that 16 lanes take as long as one.

/// A kind of number that a word holds `P` of, low to high along k.
pub(super) trait Number<const P: usize>: Copy {
    /// Number `part` of the word, as the f32 that it is equal to.
    fn get(self, word: u32, part: usize) -> f32;
}

/// bf16.
#[derive(Clone, Copy)]
pub(super) struct Bf16;

/// f16.
#[derive(Clone, Copy)]
pub(super) struct F16;

/// tf32: hardware does not look at the 13 bits below.
#[derive(Clone, Copy)]
pub(super) struct Tf32;

/// An integer of 32 / P bits.
#[derive(Clone, Copy)]
pub(super) struct Integer {
    /// Whether its top bit is a sign.
    pub signed: bool,
}

impl Number<2> for Bf16 {
    #[inline(always)]
    fn get(self, word: u32, part: usize) -> f32 {
        f32::from_bits(if part == 0 { word << 16 } else { word & 0xffff_0000 })
    }
}

impl Number<2> for F16 {
    #[inline(always)]
    fn get(self, word: u32, part: usize) -> f32 {
        f16_to_f32(word >> (16 * part))
    }
}

impl Number<1> for Tf32 {
    #[inline(always)]
    fn get(self, word: u32, _: usize) -> f32 {
        f32::from_bits(word & 0xffff_e000)
    }
}

impl<const P: usize> Number<P> for Integer {
    #[inline(always)]
    fn get(self, word: u32, part: usize) -> f32 {
        let bits = 32 / P;
        let value = word >> (bits * part) & ((1 << bits) - 1);
        let sign = u32::from(self.signed) << (bits - 1);
        ((value ^ sign) as i32 - sign as i32) as f32
    }
}

/// The f16 in the low half.
#[inline(always)]
fn f16_to_f32(half: u32) -> f32 {
    let size = half & 0x7fff;
    // The same bits 13 places up have an exponent that is too small by 127 - 15, subnormals included.
    let scale = f32::from_bits((127 + 127 - 15) << 23);
    let finite = (f32::from_bits(size << 13) * scale).to_bits();
    let bits = if size >= 0x7c00 { 0x7f80_0000 | finite } else { finite };
    f32::from_bits(bits | (half & 0x8000) << 16)
}

/// The nearest f16, ties to even, in the low half; any NaN is 0x7fff.
#[inline(always)]
pub(super) fn f32_to_f16(x: f32) -> u32 {
    let bits = x.to_bits();
    let size = bits & 0x7fff_ffff;
    // Less the difference of the exponents' offsets, plus half of the last place, less one where the last bit is even.
    let normal = size.wrapping_sub((127 - 15) << 23).wrapping_add(0xfff + (size >> 13 & 1)) >> 13;
    // The last place of a subnormal is that of 0.5 in f32, so that the addition rounds to it.
    let subnormal = (f32::from_bits(size) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let near = if size < (127 - 14) << 23 { subnormal } else { normal };
    // The carry has already made an infinity of what is nearer to 65536 than to 65504.
    let bounded = if size >= 65536f32.to_bits() { 0x7c00 } else { near };
    if size > 0x7f80_0000 { 0x7fff } else { bounded | bits >> 16 & 0x8000 }
}

/// The same number; any NaN is 0x7fffffff.
#[inline(always)]
pub(super) fn canonical(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(0x7fff_ffff) } else { x }
}
