//! Sectors and wavefronts, against formulas that look at every byte.

use std::collections::{HashMap, HashSet};

use cuda::machine::{
    counters::{Traffic, Wavefronts},
    memory::AllocationKind,
    op::{AtomicKind, AtomicType, Window},
};
use proptest::prelude::*;

use super::*;

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 != 0)
}

fn traffic(addresses: &[u64; 32], mask: u32, sizes: &[u64; 32]) -> Traffic {
    let bytes = || lanes(mask).flat_map(|l| addresses[l]..addresses[l] + sizes[l]);
    let sectors: HashSet<u64> = bytes().map(|b| b / 32).collect();
    let distinct: HashSet<u64> = bytes().collect();
    Traffic {
        requests: 1,
        sectors: sectors.len() as u64,
        ideal_sectors: (distinct.len() as u64).div_ceil(32),
        bytes: bytes().count() as u64,
    }
}

fn wavefronts(addresses: &[u64; 32], mask: u32, size: u64) -> Wavefronts {
    let mut sum = Wavefronts { requests: 1, ..Wavefronts::default() };
    sum.bytes = u64::from(mask.count_ones()) * size;
    let parts = match size {
        16 => 4,
        8 => 2,
        _ => 1,
    };
    for part in 0..parts {
        let mut banks: HashMap<u64, HashSet<u64>> = HashMap::new();
        for lane in lanes(mask).filter(|l| l / (32 / parts) == part) {
            for byte in addresses[lane]..addresses[lane] + size {
                banks.entry(byte / 4 % 32).or_default().insert(byte / 4);
            }
        }
        let words: usize = banks.values().map(|w| w.len()).sum();
        sum.wavefronts += banks.values().map(|w| w.len()).max().unwrap_or(0) as u64;
        sum.ideal += words.div_ceil(32) as u64;
    }
    sum
}

fn places() -> impl Strategy<Value = [u64; 32]> {
    prop_oneof![
        (0..64u64, 0..8u64).prop_map(|(first, step)| std::array::from_fn(|l| first + step * l as u64)),
        (0..64u64, 1..8u64).prop_map(|(first, group)| std::array::from_fn(|l| first + l as u64 / group)),
        (0..32u64).prop_map(|bits| std::array::from_fn(|l| l as u64 ^ bits)),
        proptest::array::uniform32(0..256u64),
    ]
}

fn masks() -> impl Strategy<Value = u32> {
    prop_oneof![Just(FULL), any::<u32>().prop_map(|m| m | 4), (0..32u32).prop_map(|l| 1 << l)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_access_is_counted(
        places in places(), mask in masks(), size in prop_oneof![Just(1u8), Just(2), Just(4), Just(8), Just(16)],
    ) {
        let machine = machine(WRITTEN, 1);
        let footprint = Footprint::new(&machine.device.memory);
        let mut s = machine.counted(&footprint);
        let at = machine.allocate(4096, AllocationKind::Global);
        let bytes = u64::from(size);
        let shape = if size == 16 { shape(4, 4) } else { shape(1, size) };
        let global = places.map(|p| at + p % (4096 / bytes) * bytes);
        let shared = global.map(|a| a - at);
        let expected = traffic(&global, mask, &[bytes; 32]);
        load(&mut s, Window::Global, &global, mask, shape).unwrap();
        prop_assert_eq!(s.counters.global_load, expected);
        store(&mut s, Window::Global, &global, mask, shape, &data(0)).unwrap();
        prop_assert_eq!(s.counters.global_store, expected);
        store(&mut s, Window::Shared, &shared, mask, shape, &data(0)).unwrap();
        let expected = wavefronts(&shared, mask, bytes);
        prop_assert_eq!(s.counters.shared_store, expected);
        load(&mut s, Window::Shared, &shared, mask, shape).unwrap();
        prop_assert_eq!(s.counters.shared_load, expected);
    }

    #[test]
    fn copies_are_counted(places in places(), mask in masks(), size in prop_oneof![Just(4u8), Just(8), Just(16)], cut: [u8; 32]) {
        let machine = machine(WRITTEN, 4);
        let mut s = machine.spaces(32);
        let at = machine.allocate(4096, AllocationKind::Global);
        let bytes = u64::from(size);
        let from = places.map(|p| at + p % (4096 / bytes) * bytes);
        let sizes = cut.map(|c| u32::from(c).min(size.into()));
        s.cp_async(site(0, 0), &every(32, bytes), Window::Global, &from, mask, size, &sizes).unwrap();
        let reading = lanes(mask).filter(|&l| sizes[l] > 0).fold(0, |m, l| m | 1 << l);
        let mut expected = traffic(&from, reading, &sizes.map(u64::from));
        expected.requests = u64::from(reading != 0);
        prop_assert_eq!(s.counters.global_copy, expected);
        prop_assert_eq!(s.counters.shared_store, wavefronts(&every(32, bytes), mask, bytes));
    }

    #[test]
    fn matrices_are_counted(places in proptest::array::uniform32(0..256u64), count in prop_oneof![Just(1u8), Just(2), Just(4)]) {
        let machine = machine(RACES, 4);
        let mut s = machine.spaces(32);
        let at = places.map(|p| p * 16);
        s.ldmatrix(site(0, 0), Window::Shared, &at, count, &mut [[0; 16]; 32]).unwrap();
        let mask = FULL >> (32 - 8 * u32::from(count));
        prop_assert_eq!(s.counters.shared_load, wavefronts(&at, mask, 16));
    }

    #[test]
    fn footprints(accesses in proptest::collection::vec((any::<bool>(), places(), masks()), 1..10), far in 0..4u64) {
        let machine = machine(WRITTEN, 4);
        let footprint = Footprint::new(&machine.device.memory);
        for _ in 0..far {
            machine.allocate(200_000, AllocationKind::Device);
        }
        let at = machine.allocate(4096, AllocationKind::Global);
        let (mut read, mut written) = (HashSet::new(), HashSet::new());
        // Two blocks, at once.
        let blocks = accesses.split_at(accesses.len() / 2);
        std::thread::scope(|scope| {
            for block in [blocks.0, blocks.1] {
                let (machine, footprint) = (&machine, &footprint);
                scope.spawn(move || {
                    let mut s = machine.counted(footprint);
                    for (stores, places, mask) in block {
                        let addresses = places.map(|p| at + p * 8);
                        match stores {
                            true => store(&mut s, Window::Global, &addresses, *mask, shape(2, 4), &data(0)).unwrap(),
                            false => drop(load(&mut s, Window::Global, &addresses, *mask, shape(2, 4)).unwrap()),
                        }
                    }
                });
            }
        });
        for (stores, places, mask) in &accesses {
            let sectors = lanes(*mask).map(|l| (at + places[l] * 8) / 32);
            if *stores { written.extend(sectors) } else { read.extend(sectors) }
        }
        prop_assert_eq!(footprint.count(), (read.len() as u64, written.len() as u64));
    }
}

/// Patterns whose counts every CUDA programmer knows.
#[test]
fn known_patterns() {
    let machine = machine(RACES, 4);
    let at = machine.allocate(8192, AllocationKind::Global);
    let shared = |addresses: [u64; 32], shape| {
        let mut s = machine.spaces(32);
        load(&mut s, Window::Shared, &addresses, FULL, shape).unwrap();
        (s.counters.shared_load.wavefronts, s.counters.shared_load.ideal)
    };
    assert_eq!(shared(every(0, 4), shape(1, 4)), (1, 1));
    assert_eq!(shared(every(0, 0), shape(1, 4)), (1, 1), "a broadcast");
    assert_eq!(shared(every(0, 8), shape(1, 4)), (2, 1), "every other word");
    assert_eq!(shared(every(0, 128), shape(1, 4)), (32, 1), "a column of 32 words");
    assert_eq!(shared(every(0, 128 - 4), shape(1, 4)), (1, 1), "a padded column");
    assert_eq!(shared(every(0, 8), shape(1, 8)), (2, 2));
    assert_eq!(shared(every(0, 16), shape(4, 4)), (4, 4));
    assert_eq!(shared(every(0, 64), shape(4, 4)), (16, 4));
    let matrices = |step: u64| {
        let mut s = machine.spaces(32);
        s.ldmatrix(site(0, 0), Window::Shared, &every(0, step), 4, &mut [[0; 16]; 32]).unwrap();
        (s.counters.shared_load.wavefronts, s.counters.shared_load.ideal)
    };
    assert_eq!(matrices(16), (4, 4));
    assert_eq!(matrices(64 + 16), (4, 4), "padded rows");
    assert_eq!(matrices(64), (16, 4), "rows of 64 bytes: four share their banks");
    assert_eq!(matrices(112), (4, 4));
    let global = |addresses: [u64; 32], shape| {
        let mut s = machine.spaces(32);
        load(&mut s, Window::Global, &addresses, FULL, shape).unwrap();
        (s.counters.global_load.sectors, s.counters.global_load.ideal_sectors)
    };
    assert_eq!(global(every(at, 4), shape(1, 4)), (4, 4));
    assert_eq!(global(every(at + 16, 4), shape(1, 4)), (5, 4), "not aligned");
    assert_eq!(global(every(at, 128), shape(1, 4)), (32, 4));
    assert_eq!(global(every(at, 0), shape(1, 4)), (1, 1));
    assert_eq!(global(every(at, 16), shape(4, 4)), (16, 16));
}

#[test]
fn atomics_and_local_accesses() {
    let machine = machine(WRITTEN, 4);
    let footprint = Footprint::new(&machine.device.memory);
    let mut s = machine.counted(&footprint);
    let at = machine.allocate(64, AllocationKind::Global);
    let mut old = [0; 32];
    for (window, address, mask) in [(Window::Global, at, 7), (Window::Shared, 8, 0xf0f)] {
        let shape = shape(1, 4);
        store(&mut s, window, &[address; 32], 1, shape, &data(0)).unwrap();
        let (kind, ty) = (AtomicKind::Add, AtomicType::U32);
        s.atomic(
            site(0, 0),
            window,
            &[address; 32],
            mask,
            kind,
            ty,
            Scope::Device,
            &[1; 32],
            &[0; 32],
            &mut old,
        )
        .unwrap();
    }
    store(&mut s, Window::Local, &every(0, 0), FULL, shape(1, 4), &data(0)).unwrap();
    for _ in 0..2 {
        load(&mut s, Window::Local, &every(0, 0), 3, shape(1, 4)).unwrap();
    }
    let counters = &s.counters;
    assert_eq!((counters.global_atomics, counters.shared_atomics), (3, 8));
    assert_eq!((counters.local_loads, counters.local_stores), (2, 1));
    assert_eq!(footprint.count(), (1, 1));
}
