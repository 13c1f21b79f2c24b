//! What atomics make of the old value.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use half::{bf16, f16};

use crate::machine::op::{AtomicKind, AtomicType};

/// Bytes of the place.
pub(super) fn size(ty: AtomicType) -> usize {
    use AtomicType::*;
    match ty {
        U16 | F16 | Bf16 => 2,
        U32 | S32 | F32 | F16x2 | Bf16x2 => 4,
        U64 | S64 | F64 => 8,
    }
}

/// Where an atomic runs; addition of f32 differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `atom.add.f32` takes subnormals, and a subnormal result, as zeros of the same sign.
    Global,
    /// Subnormals stay.
    Shared,
}

/// The new value: `old` combined with `a`, or for a compare-and-swap `b` where `old` is `a`.
pub(super) fn combine(kind: AtomicKind, ty: AtomicType, place: Place, old: u64, a: u64, b: u64) -> u64 {
    use AtomicType::*;
    match ty {
        U16 => u64::from(unsigned(kind, old as u16 as u64, a as u16 as u64, b as u16 as u64) as u16),
        U32 => u64::from(unsigned(kind, old as u32 as u64, a as u32 as u64, b as u32 as u64) as u32),
        U64 => unsigned(kind, old, a, b),
        S32 => signed(kind, old as i32 as i64, a as i32 as i64, b as i32 as i64) as u32 as u64,
        S64 => signed(kind, old as i64, a as i64, b as i64) as u64,
        F32 => {
            let flush = place == Place::Global && kind == AtomicKind::Add;
            let value = |bits: u64| {
                let value = f32::from_bits(bits as u32);
                if flush && value.is_subnormal() { value * 0.0 } else { value }
            };
            match float(kind, f64::from(value(old)), f64::from(value(a))) {
                // The sum of two f32 has a f64 that rounds to the same f32.
                Some(result) => {
                    let result = result as f32;
                    let result = if flush && result.is_subnormal() { result * 0.0 } else { result };
                    u64::from(if result.is_nan() { 0x7fff_ffff } else { result.to_bits() })
                }
                None => unsigned(kind, old as u32 as u64, a as u32 as u64, b as u32 as u64),
            }
        }
        F64 => match float(kind, f64::from_bits(old), f64::from_bits(a)) {
            Some(result) => result.to_bits(),
            None => unsigned(kind, old, a, b),
        },
        F16 | Bf16 => u64::from(half_of(kind, ty == Bf16, old as u16, a as u16, b as u16)),
        F16x2 | Bf16x2 => {
            if let AtomicKind::Cas = kind {
                return unsigned(kind, old as u32 as u64, a as u32 as u64, b as u32 as u64);
            }
            let part = |shift: u32| {
                let at = |v: u64| (v >> shift) as u16;
                u64::from(half_of(kind, ty == Bf16x2, at(old), at(a), at(b))) << shift
            };
            part(0) | part(16)
        }
    }
}

/// On numbers that are zero-extended; the caller takes the low bits.
fn unsigned(kind: AtomicKind, old: u64, a: u64, b: u64) -> u64 {
    match kind {
        AtomicKind::Add => old.wrapping_add(a),
        AtomicKind::Min => old.min(a),
        AtomicKind::Max => old.max(a),
        AtomicKind::Inc => {
            if old >= a {
                0
            } else {
                old + 1
            }
        }
        AtomicKind::Dec => {
            if old == 0 || old > a {
                a
            } else {
                old - 1
            }
        }
        AtomicKind::And => old & a,
        AtomicKind::Or => old | a,
        AtomicKind::Xor => old ^ a,
        AtomicKind::Exch => a,
        AtomicKind::Cas => {
            if old == a {
                b
            } else {
                old
            }
        }
    }
}

/// On numbers that are sign-extended.
fn signed(kind: AtomicKind, old: i64, a: i64, b: i64) -> i64 {
    match kind {
        AtomicKind::Min => old.min(a),
        AtomicKind::Max => old.max(a),
        _ => unsigned(kind, old as u64, a as u64, b as u64) as i64,
    }
}

/// Arithmetic; none for what only moves bits.
fn float(kind: AtomicKind, old: f64, a: f64) -> Option<f64> {
    match kind {
        AtomicKind::Add => Some(old + a),
        // Of a number and a NaN, the number; -0 lies below +0.
        AtomicKind::Min if old == a => Some(if old.is_sign_negative() { old } else { a }),
        AtomicKind::Max if old == a => Some(if old.is_sign_negative() { a } else { old }),
        AtomicKind::Min => Some(old.min(a)),
        AtomicKind::Max => Some(old.max(a)),
        _ => None,
    }
}

/// f16 and bf16. The f32 of a sum or extremum rounds to the same half, and its f64 to the same f32.
fn half_of(kind: AtomicKind, brain: bool, old: u16, a: u16, b: u16) -> u16 {
    let value =
        |bits: u16| if brain { bf16::from_bits(bits).to_f64() } else { f16::from_bits(bits).to_f64() };
    match float(kind, value(old), value(a)) {
        Some(result) if result.is_nan() => 0x7fff,
        Some(result) if brain => bf16::from_f32(result as f32).to_bits(),
        Some(result) => f16::from_f32(result as f32).to_bits(),
        None => unsigned(kind, old.into(), a.into(), b.into()) as u16,
    }
}

/// Runs an atomic on global memory; returns the old value.
///
/// # Safety
/// `at` points to that many bytes of device memory, aligned to them.
pub(super) unsafe fn update(at: *mut u8, kind: AtomicKind, ty: AtomicType, a: u64, b: u64) -> u64 {
    let new = |old: u64| combine(kind, ty, Place::Global, old, a, b);
    // SAFETY: the caller's promise; all that touches device memory while a kernel runs takes it for shared bytes.
    unsafe {
        let old = match size(ty) {
            2 => AtomicU16::from_ptr(at.cast())
                .fetch_update(Relaxed, Relaxed, |old| Some(new(old.into()) as u16))
                .map(u64::from)
                .map_err(u64::from),
            4 => AtomicU32::from_ptr(at.cast())
                .fetch_update(Relaxed, Relaxed, |old| Some(new(old.into()) as u32))
                .map(u64::from)
                .map_err(u64::from),
            _ => AtomicU64::from_ptr(at.cast()).fetch_update(Relaxed, Relaxed, |old| Some(new(old))),
        };
        // The closure always gives a value, so that it never fails; either way this is what was found.
        old.unwrap_or_else(|old| old)
    }
}
