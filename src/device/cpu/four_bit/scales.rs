//! Scales in 8 bits: double quantization, with the bits of bitsandbytes' CPU backend.

use std::sync::OnceLock;

use rayon::prelude::*;

/// The 8-bit signed dynamic map of bitsandbytes, rising: 0, 1, and with both signs, for i in 0..7, the 2^i midpoints of equal parts of 0.1..1, times
/// 10^(i - 6) (8-bit Approximations for Parallelism in Deep Learning, arXiv 1511.04561).
pub(crate) fn dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| levels(true))
}

/// Its unsigned form: 0, 1, and of each range twice as many midpoints, above 0 alone.
pub(crate) fn unsigned_dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| levels(false))
}

fn levels(signed: bool) -> [f32; 256] {
    let mut map = vec![0.0f32, 1.0];
    for i in 0..7 {
        let parts = 1usize << (i + i32::from(!signed));
        let size = 10f64.powi(i - 6);
        for part in 0..parts {
            let middle = (boundary(part, parts) + boundary(part + 1, parts)) / 2.0;
            // A product of an f32 and a double is an f32 in torch: the factor is rounded first.
            let value = size as f32 * middle;
            map.push(value);
            if signed {
                map.push(-value);
            }
        }
    }
    map.sort_by(f32::total_cmp);
    std::array::from_fn(|i| map[i])
}

/// Boundary `i` of `parts` equal parts of 0.1..1, as torch's linspace has it: from the nearer end, rounded once.
fn boundary(i: usize, parts: usize) -> f32 {
    let step = f64::from((1.0f32 - 0.1) / parts as f32);
    let value = match i < parts.div_ceil(2) {
        true => f64::from(0.1f32) + step * i as f64,
        false => 1.0 - step * (parts - i) as f64,
    };
    value as f32
}

/// Steps on either side of 0 in which numbers from -1 to 1 are told apart.
const HALF_STEPS: f32 = 32767.5;

/// The nearest code of [`dynamic_map`] to each of 65536 equidistant numbers from -1 to 1.
pub(crate) fn nearest() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let map = dynamic_map().map(f64::from);
        let at = |i: usize| i as f64 / f64::from(HALF_STEPS) - 1.0;
        let code = |i: usize| map.windows(2).take_while(|pair| (pair[0] + pair[1]) / 2.0 < at(i)).count();
        (0..1 << 16).map(|i| code(i) as u8).collect()
    })
}

/// Quantizes scales in blocks of `block`: codes of [`dynamic_map`], the largest magnitude of each block, and the offset that was taken off
/// before.
pub(crate) fn nest(scales: &[f32], block: usize) -> (Vec<u8>, Vec<f32>, f32) {
    let offset = mean(scales);
    let table = nearest();
    let mut codes = vec![0u8; scales.len()];
    let mut absmax = vec![0.0f32; scales.len().div_ceil(block)];
    let blocks = scales.par_chunks(block).zip(codes.par_chunks_mut(block)).zip(&mut absmax);
    blocks.for_each(|((scales, codes), absmax)| {
        *absmax = scales.iter().fold(0.0, |m, s| m.max((s - offset).abs()));
        // Equal scales leave nothing to code.
        if *absmax == 0.0 {
            return;
        }
        let factor = 1.0 / *absmax;
        for (scale, code) in scales.iter().zip(codes) {
            let step = ((scale - offset) * factor + 1.0) * HALF_STEPS + 0.5;
            *code = table[(step as usize).min(table.len() - 1)];
        }
    });
    (codes, absmax, offset)
}

/// Scales `start..start + out.len()` of nested ones.
pub(crate) fn decode_scales(
    (codes, absmax, map): (&[u8], &[f32], &[f32]),
    (offset, block): (f32, usize),
    start: usize,
    out: &mut [f32],
) {
    for (i, out) in out.iter_mut().enumerate() {
        // Two roundings, as bitsandbytes makes them.
        let scaled = map[usize::from(codes[start + i])] * absmax[(start + i) / block];
        *out = scaled + offset;
    }
}

/// Lanes of the registers that torch sums with on every x86 processor.
const LANES: usize = 8;

/// The mean as torch computes it on one thread, in the same order of additions, so that an offset has the bits of bitsandbytes'.
fn mean(x: &[f32]) -> f32 {
    let sum = match x.as_chunks::<LANES>() {
        ([], few) => {
            let (groups, rest) = few.as_chunks::<4>();
            cascade(groups.as_flattened().as_chunks::<1>().0, rest.as_chunks::<1>().0)[0]
        }
        (vectors, tail) => {
            let (groups, rest) = vectors.split_at(vectors.len() / 4 * 4);
            let lanes = cascade(groups, rest);
            lanes.iter().fold(tail.iter().sum::<f32>(), |sum, x| sum + x)
        }
    };
    sum / x.len().max(1) as f32
}

/// The sum of vectors: those of `groups` (of four) in four sums, each added up in steps of 16 (of longer vectors more) on 4 levels; then `rest`
/// to the first of the four, then the four.
fn cascade<const N: usize>(groups: &[[f32; N]], rest: &[[f32; N]]) -> [f32; N] {
    const LEVELS: usize = 4;
    let add = |sum: &mut [f32; N], x: &[f32; N]| sum.iter_mut().zip(x).for_each(|(s, x)| *s += x);
    let add_all =
        |sums: &mut [[f32; N]; 4], x: &[[f32; N]; 4]| sums.iter_mut().zip(x).for_each(|(s, x)| add(s, x));
    let (groups, _) = groups.as_chunks::<4>();
    let ceil_log2 = groups.len().next_power_of_two().trailing_zeros() as usize;
    let power = (ceil_log2 / LEVELS).max(4);
    let step = 1 << power;
    let mut sums = [[[0.0f32; N]; 4]; LEVELS];
    let whole = groups.len() / step * step;
    for (i, group) in groups[..whole].iter().enumerate() {
        add_all(&mut sums[0], group);
        let done = i + 1;
        if !done.is_multiple_of(step) {
            continue;
        }
        for level in 1..LEVELS {
            let lower = std::mem::replace(&mut sums[level - 1], [[0.0; N]; 4]);
            add_all(&mut sums[level], &lower);
            if done & ((step - 1) << (level * power)) != 0 {
                break;
            }
        }
    }
    groups[whole..].iter().for_each(|group| add_all(&mut sums[0], group));
    let [mut all, upper @ ..] = sums;
    upper.iter().for_each(|level| add_all(&mut all, level));
    let [mut first, others @ ..] = all;
    rest.iter().for_each(|x| add(&mut first, x));
    others.iter().for_each(|x| add(&mut first, x));
    first
}
