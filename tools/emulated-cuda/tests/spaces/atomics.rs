//! Atomics.

use cuda::machine::{
    Checks,
    FaultKind::*,
    memory::AllocationKind,
    op::{AtomicKind, AtomicKind::*, AtomicType, AtomicType::*, Window},
};
use half::{bf16, f16};
use proptest::prelude::*;

use super::*;

fn bytes(ty: AtomicType) -> usize {
    match ty {
        U16 | F16 | Bf16 => 2,
        U32 | S32 | F32 | F16x2 | Bf16x2 => 4,
        U64 | S64 | F64 => 8,
    }
}

/// What the PTX ISA says, on numbers of 128 bits.
fn integer(kind: AtomicKind, old: i128, a: i128, b: i128) -> i128 {
    match kind {
        Add => old + a,
        Min => {
            if a < old {
                a
            } else {
                old
            }
        }
        Max => {
            if a > old {
                a
            } else {
                old
            }
        }
        Inc => {
            if old >= a {
                0
            } else {
                old + 1
            }
        }
        Dec => {
            if old == 0 || old > a {
                a
            } else {
                old - 1
            }
        }
        And => old & a,
        Or => old | a,
        Xor => old ^ a,
        Exch => a,
        Cas => {
            if old == a {
                b
            } else {
                old
            }
        }
    }
}

/// Sums of f16 and bf16 by search: the nearest representable number, even where two are.
fn nearest_half(exact: f64, value: impl Fn(u16) -> f64) -> u16 {
    let candidates = (0..=u16::MAX)
        .filter(|&h| value(h).is_finite() && (value(h).is_sign_negative() == exact.is_sign_negative()));
    candidates
        .min_by(|&x, &y| {
            let distance = |h: u16| (value(h) - exact).abs();
            distance(x).total_cmp(&distance(y)).then((x & 1).cmp(&(y & 1)))
        })
        .unwrap()
}

/// Lane by lane on one place: returns the old values and the last.
fn run(
    window: Window,
    kind: AtomicKind,
    ty: AtomicType,
    first: u64,
    a: &[u64; 32],
    b: &[u64; 32],
) -> ([u64; 32], u64) {
    let machine = machine(WRITTEN, 2);
    let mut spaces = machine.spaces(32);
    let at = if window == Window::Global { machine.allocate(64, AllocationKind::Device) } else { 64 };
    let size = bytes(ty);
    let mut data = [0; 1024];
    data[..8].copy_from_slice(&first.to_le_bytes());
    store(&mut spaces, window, &[at; 32], 1, shape(1, size as u8), &data).unwrap();
    let mut old = [0; 32];
    spaces.atomic(site(0, 5), window, &[at; 32], FULL, kind, ty, Scope::Device, a, b, &mut old).unwrap();
    let last = load(&mut spaces, window, &[at; 32], 1, shape(1, size as u8)).unwrap();
    let mut value = [0; 8];
    value[..size].copy_from_slice(&last[..size]);
    (old, u64::from_le_bytes(value))
}

fn windows() -> impl Strategy<Value = Window> {
    prop_oneof![Just(Window::Global), Just(Window::Shared)]
}

/// Small numbers, limits, anything.
fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..4u64,
        Just(u64::MAX),
        Just(1 << 63),
        Just(0x7fff_ffff),
        Just(0x8000_0000),
        Just(0xffff_ffff),
        any::<u64>()
    ]
}

fn lanes_of_numbers() -> impl Strategy<Value = [u64; 32]> {
    proptest::collection::vec(numbers(), 32).prop_map(|v| std::array::from_fn(|l| v[l]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn integers(
        window in windows(),
        ty in prop_oneof![Just(U16), Just(U32), Just(S32), Just(U64), Just(S64)],
        kind in prop_oneof![Just(Add), Just(Min), Just(Max), Just(Inc), Just(Dec), Just(And), Just(Or), Just(Xor), Just(Exch), Just(Cas)],
        first in numbers(), a in lanes_of_numbers(), b in lanes_of_numbers(),
    ) {
        prop_assume!(!matches!(kind, Inc | Dec) || ty == U32);
        let bits = 8 * bytes(ty) as u32;
        let low = |v: u64| (v & (u64::MAX >> (64 - bits))) as i128;
        let number = |v: u64| match ty {
            S32 => v as i32 as i128,
            S64 => v as i64 as i128,
            _ => low(v),
        };
        let (old, last) = run(window, kind, ty, first, &a, &b);
        let mut value = number(first);
        for lane in 0..32 {
            prop_assert_eq!(old[lane] as i128, low(value as u64), "lane {}", lane);
            value = number(integer(kind, value, number(a[lane]), number(b[lane])) as u64);
        }
        prop_assert_eq!(last as i128, low(value as u64));
    }

    #[test]
    fn floats(window in windows(), first: u32, a in proptest::array::uniform32(any::<f32>())) {
        let first = f32::from_bits(first & 0x7eff_ffff);
        let flush = |v: f32| if window == Window::Global && v.is_subnormal() { 0f32.copysign(v) } else { v };
        let (old, last) = run(window, Add, F32, first.to_bits().into(), &a.map(|v| v.to_bits().into()), &[0; 32]);
        let mut value = first;
        for lane in 0..32 {
            prop_assert_eq!(old[lane], u64::from(value.to_bits()));
            value = flush(flush(value) + flush(a[lane]));
        }
        prop_assert_eq!(last, u64::from(value.to_bits()));

        let (first, a) = (f64::from(first) * 1e-30, a.map(|v| f64::from(v) * 1e30));
        let (_, last) = run(window, Add, F64, first.to_bits(), &a.map(f64::to_bits), &[0; 32]);
        let sum = a.iter().fold(first, |sum, v| sum + v);
        prop_assert_eq!(last, sum.to_bits());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// One lane adds; the sum is compared with a search through all numbers of the format.
    #[test]
    fn halves(window in windows(), x: u16, y: u16, other: u32, z: u16) {
        let one = |mask: u16, v: u16| if v & mask == mask { v & !0x4000 } else { v };
        let sum = |ty, exponent: u16, value: &dyn Fn(u16) -> f64| {
            let (x, y) = (one(exponent, x), one(exponent, y));
            let mut a = [1 << 15; 32];
            a[0] = u64::from(y);
            // The others add -0, which changes nothing but the sign of a zero.
            let (_, last) = run(window, Add, ty, x.into(), &a, &[0; 32]);
            let exact = value(x) + value(y);
            (last as u16, exact)
        };
        let (got, exact) = sum(F16, 0x7c00, &|h| f16::from_bits(h).to_f64());
        if exact.abs() < 65504.0 && exact != 0.0 {
            prop_assert_eq!(got, nearest_half(exact, |h| f16::from_bits(h).to_f64()));
        }
        let (got, exact) = sum(Bf16, 0x7f80, &|h| bf16::from_bits(h).to_f64());
        if exact.abs() < 3e38 && exact != 0.0 {
            prop_assert_eq!(got, nearest_half(exact, |h| bf16::from_bits(h).to_f64()));
        }
        // Both halves of a pair.
        let pair = u64::from(one(0x7c00, x)) | u64::from(one(0x7c00, z)) << 16;
        let mut a = [0x8000_8000; 32];
        a[0] = u64::from(other & 0xbbff_bbff);
        let (_, both) = run(window, Add, F16x2, pair, &a, &[0; 32]);
        for shift in [0, 16] {
            let part = a.map(|v| v >> shift & 0xffff);
            let (_, alone) = run(window, Add, F16, pair >> shift & 0xffff, &part, &[0; 32]);
            prop_assert_eq!(both >> shift & 0xffff, alone);
        }
    }
}

#[test]
fn special_values() {
    let f = |v: f32| u64::from(v.to_bits());
    for window in [Window::Global, Window::Shared] {
        let run = |kind, ty, first, a| run(window, kind, ty, first, &[a; 32], &[0; 32]).1;
        assert_eq!(run(Add, F32, f(f32::INFINITY), f(f32::NEG_INFINITY)), 0x7fff_ffff);
        assert_eq!(run(Add, F16, 0x7c00, 0xfc00), 0x7fff);
        assert_eq!(run(Add, Bf16, 0x7f80, 0xff80), 0x7fff);
        assert_eq!(run(Min, F32, f(f32::NAN), f(1.0)), f(1.0));
        assert_eq!(run(Max, F32, f(2.0), f(f32::NAN)), f(2.0));
        assert_eq!(run(Max, F32, f(-0.0), f(0.0)), f(0.0));
        assert_eq!(run(Min, F32, f(0.0), f(-0.0)), f(-0.0));
        assert_eq!(run(Exch, F32, f(f32::NAN), 0x7f80_0001), 0x7f80_0001, "an exchange moves bits");
        let subnormal = 0x0000_0003;
        let expected = if window == Window::Global { 0 } else { subnormal };
        assert_eq!(run(Add, F32, 0, f(-0.0)), 0);
        let (_, last) = super::atomics::run(window, Add, F32, subnormal, &[f(-0.0); 32], &[0; 32]);
        assert_eq!(last, expected);
    }
}

#[test]
fn places_are_checked() {
    let machine = machine(Checks::ALL, 4);
    let mut s = machine.spaces(32);
    let at = machine.allocate(64, AllocationKind::Device);
    let constant = machine.allocate(64, AllocationKind::Constant);
    let mut old = [0; 32];
    let mut run = |window, address, ty| {
        let result = s.atomic(
            site(0, 5),
            window,
            &[address; 32],
            4,
            Add,
            ty,
            Scope::Device,
            &[1; 32],
            &[0; 32],
            &mut old,
        );
        fault(result)
    };
    assert_eq!(run(Window::Global, at, U32), (Uninitialised, 2));
    assert_eq!(run(Window::Global, at + 64, U32), (IllegalAddress, 2));
    assert_eq!(run(Window::Global, at + 4, U64), (Misaligned, 2));
    assert_eq!(run(Window::Global, constant, U32), (IllegalAddress, 2));
    assert_eq!(run(Window::Shared, 0, U32), (Uninitialised, 2));
    assert_eq!(run(Window::Shared, 2, U32), (Misaligned, 2));
    assert_eq!(run(Window::Shared, SHARED.into(), U32), (IllegalAddress, 2));
    assert_eq!(run(Window::Local, 0, U32), (IllegalAddress, 2));
}

#[test]
fn blocks_on_other_threads_lose_nothing() {
    let machine = machine(Checks::ALL, 4);
    let at = machine.allocate(64, AllocationKind::Device);
    machine.device.memory.write(at, &[0; 64]).unwrap();
    const ROUNDS: u64 = 2000;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut s = machine.spaces(32);
                let mut old = [0; 32];
                for _ in 0..ROUNDS {
                    for (place, ty, one) in
                        [(at, U32, 1), (at + 8, F32, 1f32.to_bits().into()), (at + 16, F16x2, 0x3c00)]
                    {
                        s.atomic(
                            site(0, 5),
                            Window::Global,
                            &[place; 32],
                            3,
                            Add,
                            ty,
                            Scope::Device,
                            &[one; 32],
                            &[0; 32],
                            &mut old,
                        )
                        .unwrap();
                    }
                }
            });
        }
    });
    let mut bytes = [0; 64];
    machine.device.memory.read(at, &mut bytes).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(u64::from(word(0)), 3 * 2 * ROUNDS);
    assert_eq!(f32::from_bits(word(8)), (3 * 2 * ROUNDS) as f32);
    // Sums of ones in f16 stop at 2048.
    assert_eq!(f16::from_bits(word(16) as u16).to_f32(), 2048.0);
}
