//! Global memory.

use std::collections::HashMap;

use cuda::machine::{Checks, FaultKind::*, memory::AllocationKind::*, op::Window, windows};
use proptest::prelude::*;

use super::*;

/// Shapes of every size.
fn shapes() -> impl Strategy<Value = Shape> {
    let size = prop_oneof![
        Just((1, 1)),
        Just((1, 2)),
        Just((1, 4)),
        Just((1, 8)),
        Just((2, 1)),
        Just((2, 2)),
        Just((2, 4)),
        Just((2, 8)),
        Just((4, 1)),
        Just((4, 2)),
        Just((4, 4)),
        Just((4, 8)),
        Just((1, 16)),
    ];
    (size, any::<bool>()).prop_map(|((count, bytes), strong)| Shape {
        strong: strong.then_some(Scope::Device),
        ..shape(count, bytes)
    })
}

/// Patterns of places, by lane: consecutive, the same, in pairs, backwards, anywhere.
fn places() -> impl Strategy<Value = [u64; 32]> {
    prop_oneof![
        (0..32u64).prop_map(|first| std::array::from_fn(|l| first + l as u64)),
        (0..64u64).prop_map(|place| [place; 32]),
        (0..32u64).prop_map(|first| std::array::from_fn(|l| first + l as u64 / 2)),
        (0..32u64).prop_map(|first| std::array::from_fn(|l| first + 31 - l as u64)),
        (0..32u64, any::<u32>())
            .prop_map(|(first, cut)| std::array::from_fn(|l| first + (l as u64 ^ u64::from(cut >> l & 1)))),
        proptest::array::uniform32(0..64u64),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Stores, then loads, through every window and pattern, against a map of bytes.
    #[test]
    fn bytes_go_where_they_should(
        shape in shapes(), stores in places(), loads in places(), mask: [u32; 2], seed: u8, window in 0..3, check: bool,
    ) {
        let checks = if check { Checks { races: false, ..Checks::ALL } } else { Checks::NONE };
        let machine = machine(checks, 1);
        let mut spaces = machine.spaces(32);
        let size = shape.count as usize * shape.bytes as usize;
        let (window, base) = match window {
            0 => (Window::Global, machine.allocate(64 * size as u64, Device)),
            1 => (Window::Shared, 0),
            _ => (Window::Generic, windows::SHARED + 1024),
        };
        let at = |places: &[u64; 32]| places.map(|p| base + p * size as u64);
        let bytes = data(seed);
        let mut model = HashMap::new();
        let mask_of = |m: u32| if m.is_multiple_of(3) { FULL } else { m };
        store(&mut spaces, window, &at(&stores), mask_of(mask[0]), shape, &bytes).unwrap();
        for lane in (0..32).filter(|l| mask_of(mask[0]) >> l & 1 != 0) {
            for byte in 0..size {
                model.insert(stores[lane] as usize * size + byte, bytes[lane * size + byte]);
            }
        }
        let result = load(&mut spaces, window, &at(&loads), mask_of(mask[1]), shape);
        let lanes: Vec<usize> = (0..32).filter(|l| mask_of(mask[1]) >> l & 1 != 0).collect();
        let missing = lanes.iter().find(|&&l| !model.contains_key(&(loads[l] as usize * size)));
        match (check, missing) {
            (true, Some(&lane)) => prop_assert_eq!(fault(result), (Uninitialised, lane as u32)),
            _ => {
                let loaded = result.unwrap();
                for lane in 0..32 {
                    for byte in 0..size {
                        let expected = match lanes.contains(&lane) {
                            true => *model.get(&(loads[lane] as usize * size + byte)).unwrap_or(&0xff),
                            false => 0xee,
                        };
                        prop_assert_eq!(loaded[lane * size + byte], expected, "lane {} byte {}", lane, byte);
                    }
                }
            }
        }
    }
}

#[test]
fn bounds_of_every_lane_are_checked() {
    for checks in [Checks::ALL, Checks::NONE] {
        let machine = machine(checks, 4);
        let mut spaces = machine.spaces(32);
        let at = machine.allocate(100, Global);
        let next = machine.allocate(64, Global);
        assert!(next - at < 2048, "the gap between two allocations is what a strided access might miss");
        load(&mut spaces, Window::Global, &every(at, 4), 0x1ff_ffff, shape(1, 4)).unwrap();
        for mask in [FULL, 0x0fff_ffff, 1 << 25] {
            let result = load(&mut spaces, Window::Global, &every(at, 4), mask, shape(1, 4));
            assert_eq!(fault(result), (IllegalAddress, 25));
            let result = store(&mut spaces, Window::Global, &every(at, 4), mask, shape(1, 4), &data(0));
            assert_eq!(fault(result), (IllegalAddress, 25));
        }
        // From one allocation across the gap into the next.
        let stride = u64::from(shape(4, 8).bytes) * 4;
        let first = next - 512 - 32;
        if first >= at && first < at + 100 {
            assert_eq!(
                fault(load(&mut spaces, Window::Global, &every(first, stride), FULL, shape(4, 8))).0,
                IllegalAddress
            );
        }
        let wild = [0, 8, u64::MAX - 7, 1 << 47, at - 8, windows::PARAM + (1 << 32)];
        for address in wild {
            let result = load(&mut spaces, Window::Generic, &[address; 32], 1 << 7, shape(1, 8));
            assert_eq!(fault(result), (IllegalAddress, 7), "{address:#x}");
        }
        let odd = load(&mut spaces, Window::Global, &every(at + 2, 4), FULL, shape(1, 4));
        assert_eq!(fault(odd), (Misaligned, 0));
        let mut addresses = every(at, 0);
        addresses[9] = at + 4;
        assert_eq!(fault(load(&mut spaces, Window::Global, &addresses, FULL, shape(2, 4))), (Misaligned, 9));
        machine.device.memory.free(at).unwrap();
        let freed = load(&mut spaces, Window::Global, &[at; 32], 1, shape(1, 4)).unwrap_err();
        assert_eq!(freed.kind, IllegalAddress);
        assert!(freed.message.contains("freed"), "{}", freed.message);
    }
}

#[test]
fn a_run_does_not_leap_over_a_gap() {
    for checks in [Checks::ALL, Checks::NONE] {
        let machine = machine(checks, 4);
        let mut spaces = machine.spaces(32);
        // The end of the first and the start of the second lie less than 1024 bytes apart.
        let first = machine.allocate(511, Global);
        let second = machine.allocate(4096, Global);
        let from = second - 1024 + 32;
        assert!(from < first + 511 && second < from + 1024);
        let result = load(&mut spaces, Window::Global, &every(from, 32), FULL, shape(4, 8));
        assert_eq!(fault(result).0, IllegalAddress);
        let result = store(&mut spaces, Window::Global, &every(from, 32), FULL, shape(4, 8), &data(1));
        assert_eq!(fault(result).0, IllegalAddress);
    }
}

#[test]
fn constants_are_read_only() {
    for checks in [Checks::ALL, Checks::NONE] {
        let machine = machine(checks, 4);
        let mut spaces = machine.spaces(32);
        let at = machine.allocate(128, Constant);
        machine.device.memory.write(at, &data(3)[..128]).unwrap();
        let loaded = load(&mut spaces, Window::Global, &every(at, 4), FULL, shape(1, 4)).unwrap();
        assert_eq!(loaded[..128], data(3)[..128]);
        let result = store(&mut spaces, Window::Global, &every(at, 4), 0xff0, shape(1, 4), &data(0));
        assert_eq!(fault(result), (IllegalAddress, 4));
    }
}

#[test]
fn uninitialised_bytes_are_named() {
    let machine = machine(WRITTEN, 4);
    let mut spaces = machine.spaces(32);
    let at = machine.allocate(256, Device);
    store(&mut spaces, Window::Global, &every(at, 4), 0x00ff_ffff, shape(1, 4), &data(0)).unwrap();
    load(&mut spaces, Window::Global, &every(at, 4), 0x00ff_ffff, shape(1, 4)).unwrap();
    let trouble = load(&mut spaces, Window::Global, &every(at, 4), FULL, shape(1, 4)).unwrap_err();
    assert_eq!((trouble.kind, trouble.lane), (Uninitialised, 24));
    assert!(trouble.message.contains("byte 96 of the 256 bytes"), "{}", trouble.message);
    // Half of an access.
    let result = load(&mut spaces, Window::Global, &[at + 88; 32], 2, shape(2, 4))
        .and_then(|_| load(&mut spaces, Window::Global, &[at + 80; 32], 2, shape(4, 4)).map(|_| ()));
    result.unwrap();
    assert_eq!(fault(load(&mut spaces, Window::Global, &[at + 96; 32], 2, shape(2, 4))), (Uninitialised, 1));
}

#[test]
fn generic_addresses_go_to_their_windows() {
    let machine = machine(WRITTEN, 4);
    let mut spaces = machine.spaces(32);
    let global = machine.allocate(128, Device);
    // A quarter of the lanes each: global, shared, local, parameters.
    let base = [global, windows::SHARED + 64, windows::LOCAL + 16, windows::PARAM];
    let addresses: [u64; 32] = std::array::from_fn(|l| match l % 4 {
        2 => base[2],
        3 => base[3] + (l as u64 / 4 % 4) * 4,
        w => base[w] + l as u64 / 4 * 4,
    });
    let bytes = data(9);
    store(&mut spaces, Window::Generic, &addresses, 0x7777_7777, shape(1, 4), &bytes).unwrap();
    let loaded = load(&mut spaces, Window::Generic, &addresses, FULL, shape(1, 4)).unwrap();
    for lane in 0..32 {
        let expected = match lane % 4 {
            3 => machine.params[lane / 4 % 4 * 4..][..4].to_vec(),
            _ => bytes[lane * 4..][..4].to_vec(),
        };
        assert_eq!(loaded[lane * 4..][..4], expected, "lane {lane}");
    }
    let result = store(&mut spaces, Window::Generic, &addresses, 1 << 11, shape(1, 4), &bytes);
    assert_eq!(fault(result), (IllegalAddress, 11));
    let mut word = [0; 4];
    for lane in [0usize, 1, 2, 3, 10] {
        spaces.peek(0, lane as u32, addresses[lane], &mut word).unwrap();
        assert_eq!(word, loaded[lane * 4..][..4]);
    }
    for address in [windows::SHARED + 4094, windows::LOCAL + 62, windows::PARAM + 13, global + 126, 16] {
        assert_eq!(spaces.peek(0, 5, address, &mut word).unwrap_err().kind, IllegalAddress);
    }
}

#[test]
fn parameters_have_bounds() {
    let machine = machine(Checks::ALL, 4);
    let mut spaces = machine.spaces(32);
    let loaded = load(&mut spaces, Window::Param, &[8; 32], FULL, shape(2, 4)).unwrap();
    assert!(loaded[..256].chunks(8).all(|c| c == [8, 9, 10, 11, 12, 13, 14, 15]));
    assert_eq!(fault(load(&mut spaces, Window::Param, &[16; 32], 4, shape(1, 1))), (IllegalAddress, 2));
    assert_eq!(fault(load(&mut spaces, Window::Param, &[2; 32], 4, shape(1, 4))), (Misaligned, 2));
}
