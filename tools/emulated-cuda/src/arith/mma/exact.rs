//! Shapes that need no vector code of their own: f64 and single bits.

use crate::arith::Row;

/// D = A B + C for m8n8k4 of f64: a chain of fused multiply-adds along k, which begins with C.
///
/// Lane 4g + t holds row g, column t of A; row t, column g of B; columns 2t and 2t + 1 of row g of C and D.
#[inline(always)]
pub(super) fn f64_m8n8k4(a: &[&Row], b: &[&Row], c: &[&Row], d: &mut [Row]) {
    for lane in 0..32 {
        let group = lane / 4;
        for i in 0..2 {
            let column = lane % 4 * 2 + i;
            let mut sum = f64_at(&c[2 * i..], lane);
            for k in 0..4 {
                sum = f64_at(a, 4 * group + k).mul_add(f64_at(b, 4 * column + k), sum);
            }
            let bits = if sum.is_nan() { CANONICAL_NAN } else { sum.to_bits() };
            let to = &mut d[2 * i + lane / 16];
            to[lane % 16 * 2] = bits as u32;
            to[lane % 16 * 2 + 1] = (bits >> 32) as u32;
        }
    }
}

/// What an operation on f64 returns for any NaN.
const CANONICAL_NAN: u64 = 0xfff8_0000_0000_0000;

/// A lane of a 64-bit register: 16 lanes lie in each of its two rows.
#[inline(always)]
fn f64_at(rows: &[&Row], lane: usize) -> f64 {
    let row = rows[lane / 16];
    let at = lane % 16 * 2;
    f64::from_bits(u64::from(row[at]) | u64::from(row[at + 1]) << 32)
}

/// D = C + the number of ones of each row of A and (or else xor) each column of B.
#[inline(always)]
pub(super) fn bits(and: bool, a: &[&Row], b: &[&Row], c: &[&Row], d: &mut [Row]) {
    for (register, to) in d.iter_mut().enumerate() {
        let mut sum = *c[register];
        for (i, b) in b.iter().enumerate() {
            let a = a[if a.len() == 1 { 0 } else { 2 * i + register / 2 }];
            for t in 0..4 {
                for group in 0..8 {
                    let left = a[4 * group + t];
                    for pair in 0..4 {
                        let right = b[4 * (2 * pair + register % 2) + t];
                        let both = if and { left & right } else { left ^ right };
                        let sum = &mut sum[4 * group + pair];
                        *sum = sum.wrapping_add(both.count_ones());
                    }
                }
            }
        }
        *to = sum;
    }
}
