//! Every instruction of the integer table against the ISA's own words, in 128-bit arithmetic and bit by bit.

use super::{check, integers};
use cuda::machine::lanes::Integer;

/// Bits and signedness of an integer type.
fn typed(name: &str) -> Option<(u32, bool)> {
    let bits = name.get(1..)?.parse().ok()?;
    matches!(name.as_bytes()[0], b'u' | b's' | b'b').then_some((bits, name.starts_with('s')))
}

/// The number that a register's bits are.
fn number(bits: u64, (width, signed): (u32, bool)) -> i128 {
    let bits = bits as i128 & ((1 << width) - 1);
    if signed && bits >> (width - 1) & 1 != 0 { bits - (1 << width) } else { bits }
}

/// The bits of a number.
fn wrapped(value: i128, width: u32) -> u64 {
    (value & ((1 << width) - 1)) as u64
}

fn bit(value: u64, at: u64) -> u64 {
    if at < 64 { value >> at & 1 } else { 0 }
}

/// What the ISA says that an instruction returns.
pub fn reference(mnemonic: &str, s: &[u64]) -> u64 {
    let parts: Vec<&str> = mnemonic.split('.').collect();
    let (op, modifiers) = (parts[0], &parts[1..]);
    let has = |name: &str| modifiers.contains(&name);
    let ty = modifiers.iter().find_map(|m| typed(m)).unwrap_or((32, false));
    let (width, signed) = ty;
    if has("u16x2") || has("s16x2") {
        let name = if has("u16x2") { "u16" } else { "s16" };
        let halves = |shift: u32| {
            let half: Vec<u64> = s.iter().map(|v| v >> shift & 0xffff).collect();
            let result = reference(&format!("{op}.{name}"), &half);
            if has("relu") { number(result, (16, true)).max(0) as u64 } else { result }
        };
        return halves(16) << 16 | halves(0);
    }
    let n = |i: usize| number(s[i], ty);
    let clamp = |v: i128| v.clamp(-(1 << (width - 1)), (1 << (width - 1)) - 1);
    let low32 = |i: usize| s[i] & 0xffff_ffff;
    match op {
        "add" if has("sat") => wrapped(clamp(n(0) + n(1)), width),
        "sub" if has("sat") => wrapped(clamp(n(0) - n(1)), width),
        "add" => wrapped(n(0) + n(1), width),
        "sub" => wrapped(n(0) - n(1), width),
        "mul" | "mad" if has("wide") => {
            let c = if op == "mad" { number(s[2], (2 * width, signed)) } else { 0 };
            wrapped(n(0) * n(1) + c, 2 * width)
        }
        "mul" | "mad" | "mul24" | "mad24" => {
            let narrow = op.ends_with("24");
            let factor = |i: usize| if narrow { number(s[i], (24, signed)) } else { n(i) };
            let product = if signed {
                factor(0) * factor(1)
            } else {
                // Two 64-bit factors fill 128 bits: the sign bit is just one of them here.
                (factor(0) as u128).wrapping_mul(factor(1) as u128) as i128
            };
            let shift = match (has("hi"), narrow) {
                (false, _) => 0,
                (true, true) => 16,
                (true, false) => width,
            };
            let part =
                if narrow { product >> shift } else { number(wrapped_wide(product, shift, width), ty) };
            let c = if op.starts_with("mad") { n(2) } else { 0 };
            let part = if has("sat") { number(part as u64, (32, true)) } else { part };
            wrapped(if has("sat") { clamp(part + c) } else { part + c }, width)
        }
        "sad" => wrapped(n(2) + if n(0) < n(1) { n(1) - n(0) } else { n(0) - n(1) }, width),
        "div" | "rem" if n(1) == 0 => wrapped(-1, width),
        "div" => wrapped(n(0) / n(1), width),
        "rem" => wrapped(n(0) % n(1), width),
        "abs" => wrapped(n(0).abs(), width),
        "neg" => wrapped(-n(0), width),
        "min" | "max" => {
            let value = if (op == "min") == (n(0) < n(1)) { n(0) } else { n(1) };
            wrapped(if has("relu") { value.max(0) } else { value }, width)
        }
        "popc" => (0..width as u64).map(|i| bit(s[0], i)).sum(),
        "clz" => (0..width as u64).rev().take_while(|&i| bit(s[0], i) == 0).count() as u64,
        "brev" => (0..width as u64).map(|i| bit(s[0], i) << (width as u64 - 1 - i)).sum(),
        "bfind" => {
            let value = if n(0) < 0 { !n(0) } else { n(0) };
            match (0..width).rev().find(|i| value >> i & 1 != 0) {
                None => 0xffff_ffff,
                Some(i) if has("shiftamt") => (width - 1 - i) as u64,
                Some(i) => i as u64,
            }
        }
        "fns" => {
            let (mask, base, offset) = (s[0], low32(1) as i64, number(s[2], (32, true)) as i64);
            if base > 31 {
                return 0xffff_ffff;
            }
            if offset == 0 {
                return if bit(mask, base as u64) == 1 { base as u64 } else { 0xffff_ffff };
            }
            let (mut at, mut left) = (base, offset.abs() - 1);
            while (0..32).contains(&at) {
                if bit(mask, at as u64) == 1 {
                    if left == 0 {
                        return at as u64;
                    }
                    left -= 1;
                }
                at += offset.signum();
            }
            0xffff_ffff
        }
        "bfe" => {
            let (msb, pos, len) = (width as u64 - 1, s[1] & 0xff, s[2] & 0xff);
            let sign = if !signed || len == 0 { 0 } else { bit(s[0], (pos + len - 1).min(msb)) };
            (0..=msb)
                .map(|i| if i < len && pos + i <= msb { bit(s[0], pos + i) << i } else { sign << i })
                .sum()
        }
        "bfi" => {
            let (msb, pos, len) = (width as u64 - 1, s[2] & 0xff, s[3] & 0xff);
            let inside = |i: u64| i >= pos && i - pos < len;
            (0..=msb).map(|i| if inside(i) { bit(s[0], i - pos) << i } else { bit(s[1], i) << i }).sum()
        }
        "szext" => {
            let bits = match low32(1) {
                32.. if has("clamp") => 32,
                bits => bits as u32 % 32,
            };
            if bits == 0 { 0 } else { wrapped(number(s[0], (bits, signed)), 32) }
        }
        "bmsk" => {
            let wrap = has("wrap");
            let (at, len) = if wrap { (low32(0) % 32, low32(1) % 32) } else { (low32(0), low32(1)) };
            (0..32).filter(|&i| i >= at && i - at < len).map(|i| 1 << i).sum()
        }
        "dp4a" | "dp2a" => {
            let types: Vec<bool> = modifiers.iter().filter_map(|m| typed(m)).map(|t| t.1).collect();
            let (count, bits) = if op == "dp4a" { (4, 8) } else { (2, 16) };
            let from = if has("hi") { 2 } else { 0 };
            let sum: i128 = (0..count)
                .map(|i| {
                    number(s[0] >> (bits * i), (bits, types[0]))
                        * number(s[1] >> (8 * (from + i)), (8, types[1]))
                })
                .sum();
            wrapped(sum + low32(2) as i128, 32)
        }
        "and" => wrapped(n(0) & n(1), width),
        "or" => wrapped(n(0) | n(1), width),
        "xor" => wrapped(n(0) ^ n(1), width),
        "not" => wrapped(!n(0), width),
        "cnot" => (n(0) == 0) as u64,
        "lop3" => (0..32).map(|i| bit(s[3], bit(s[0], i) << 2 | bit(s[1], i) << 1 | bit(s[2], i)) << i).sum(),
        "shl" => {
            if low32(1) >= width as u64 {
                0
            } else {
                wrapped(n(0) << low32(1), width)
            }
        }
        "shr" => wrapped(n(0) >> low32(1).min(width as u64), width),
        "shf" => {
            let (n, both) =
                (if has("wrap") { low32(2) % 32 } else { low32(2).min(32) }, low32(1) << 32 | low32(0));
            if has("l") { (both as u128) << n >> 32 & 0xffff_ffff } else { (both as u128) >> n & 0xffff_ffff }
                .try_into()
                .unwrap_or(0)
        }
        "prmt" => {
            let byte = |i: u64| (low32(1) << 32 | low32(0)) >> (8 * i) & 0xff;
            let k = s[2] & 3;
            // From the ISA's table: rows by selector, columns d.b3 to d.b0.
            let table: [[u64; 4]; 4] = match modifiers.get(1) {
                Some(&"f4e") => [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]],
                Some(&"b4e") => [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]],
                Some(&"rc8") => [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]],
                Some(&"ecl") => [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]],
                Some(&"ecr") => [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]],
                Some(&"rc16") => [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]],
                _ => {
                    return (0..4)
                        .map(|i| {
                            let control = s[2] >> (4 * i) & 15;
                            let value = byte(control & 7);
                            let value = if control < 8 { value } else { value / 128 * 255 };
                            value << (8 * i)
                        })
                        .sum();
                }
            };
            (0..4).map(|i| byte(table[k as usize][3 - i]) << (8 * i)).sum()
        }
        "slct" => {
            let not_negative = match modifiers.last() {
                Some(&"s32") => number(s[2], (32, true)) >= 0,
                _ => {
                    let c = f32::from_bits(s[2] as u32);
                    c >= 0.0 || has("ftz") && c.abs() < f32::MIN_POSITIVE
                }
            };
            let width =
                modifiers.iter().find(|m| **m != "ftz").and_then(|m| m[1..].parse().ok()).unwrap_or(0);
            wrapped(s[!not_negative as usize] as i128, width)
        }
        "cvt" => {
            let to = typed(modifiers[2]).unwrap_or((0, false));
            let (least, most) =
                if to.1 { (-(1 << (to.0 - 1)), (1 << (to.0 - 1)) - 1) } else { (0, (1 << to.0) - 1) };
            let field = |i: usize| wrapped(number(s[i], (32, true)).clamp(least, most), to.0);
            let above = if to.0 == 16 { 0 } else { low32(2) << (2 * to.0) };
            (above | field(0) << to.0 | field(1)) & 0xffff_ffff
        }
        _ => panic!("no reference for {mnemonic}"),
    }
}

/// `width` bits from bit `shift` on.
fn wrapped_wide(value: i128, shift: u32, width: u32) -> u64 {
    (((value as u128) >> shift) & ((1u128 << width) - 1)) as u64
}

#[test]
fn every_integer_instruction() {
    for mnemonic in Integer::MNEMONICS {
        check(mnemonic, integers(), |operands| reference(mnemonic, operands));
    }
}

#[test]
fn division_never_panics_and_wraps() {
    assert_eq!(reference("div.s32", &[0x8000_0000, 0xffff_ffff]), 0x8000_0000);
    for bits in [16, 32, 64] {
        let (least, minus_one) = (1 << (bits - 1), wrapped(-1, bits));
        for (op, b, wanted) in
            [("div", minus_one, least), ("rem", minus_one, 0), ("div", 0, minus_one), ("rem", 0, minus_one)]
        {
            let mnemonic = format!("{op}.s{bits}");
            assert_eq!(super::run(&mnemonic, &[[least; 32], [b; 32]]), [wanted; 32], "{mnemonic} by {b:x}");
        }
    }
}

#[test]
fn the_examples_of_the_isa() {
    let run = |mnemonic: &str, operands: &[u64]| {
        let rows: Vec<_> = operands.iter().map(|&v| [v; 32]).collect();
        super::run(mnemonic, &rows)[0]
    };
    assert_eq!(run("fns.b32", &[0xaaaa_aaaa, 3, 1]), 3);
    assert_eq!(run("fns.b32", &[0xaaaa_aaaa, 3, 0xffff_ffff]), 3);
    assert_eq!(run("fns.b32", &[0xaaaa_aaaa, 2, 1]), 3);
    assert_eq!(run("fns.b32", &[0xaaaa_aaaa, 2, 0xffff_ffff]), 1);
    assert_eq!(run("bmsk.wrap.b32", &[1, 2]), 6);
    assert_eq!(run("szext.wrap.u32", &[0xffff_ffff, 0]), 0);
    // immLut of `(a & b | c) ^ a`
    assert_eq!(run("lop3.b32", &[0xf0, 0xcc, 0xaa, 0x1a]) & 0xff, (0xf0 & 0xcc | 0xaa) ^ 0xf0);
    // Four bytes: r4 = {clamped r2, r3, and the low bytes of the third}.
    assert_eq!(run("cvt.pack.sat.u8.s32.b32", &[300, 0xffff_ffff, 0x1234_5678]), 0x5678_ff00);
}
