//! Local memory.

use cuda::machine::{Checks, FaultKind::*, op::Window, windows};
use proptest::prelude::*;

use super::*;

proptest! {
    /// A sequence of accesses by two warps against one array a thread.
    #[test]
    fn each_thread_has_its_own(
        accesses in proptest::collection::vec((any::<bool>(), 0..2u32, 0..7usize, 0..32u64, any::<u32>(), any::<bool>()), 1..40),
    ) {
        let machine = machine(Checks::ALL, 4);
        let mut spaces = machine.spaces(64);
        let mut model = vec![[None; 64]; 64];
        for (index, (stores, warp, kind, place, mask, uniform)) in accesses.into_iter().enumerate() {
            let shape = [shape(1, 1), shape(1, 2), shape(1, 4), shape(1, 8), shape(2, 4), shape(4, 4), shape(4, 1)][kind];
            let size = shape.count as usize * shape.bytes as usize;
            let places = 64 / size as u64;
            let addresses: [u64; 32] = std::array::from_fn(|l| {
                (place + if uniform { 0 } else { l as u64 }) % places * size as u64
            });
            let mask = if mask % 2 == 0 { FULL } else { mask };
            let lanes = (0..32).filter(|l| mask >> l & 1 != 0);
            let bytes = data(index as u8);
            if stores {
                spaces.store(site(warp, 0), Window::Local, &addresses, mask, shape, &bytes).unwrap();
                for (lane, byte) in lanes.flat_map(|l| (0..size).map(move |b| (l, b))) {
                    model[warp as usize * 32 + lane][addresses[lane] as usize + byte] = Some(bytes[lane * size + byte]);
                }
                continue;
            }
            let mut loaded = [0xee; 1024];
            let result = spaces.load(site(warp, 0), Window::Local, &addresses, mask, shape, &mut loaded);
            let cell = |lane: usize| &model[warp as usize * 32 + lane][addresses[lane] as usize..][..size];
            match lanes.clone().find(|&l| cell(l).contains(&None)) {
                Some(lane) => prop_assert_eq!(fault(result), (Uninitialised, lane as u32)),
                None => {
                    result.unwrap();
                    for lane in lanes {
                        let got: Vec<_> = loaded[lane * size..][..size].iter().map(|b| Some(*b)).collect();
                        prop_assert_eq!(&got[..], cell(lane));
                    }
                }
            }
        }
    }
}

#[test]
fn bounds_and_alignment() {
    for checks in [Checks::ALL, Checks::NONE] {
        let machine = machine(checks, 4);
        let mut spaces = machine.spaces(64);
        for mask in [FULL, 1] {
            for address in [64, 60, u64::MAX - 7, 1 << 32] {
                let result = store(&mut spaces, Window::Local, &[address; 32], mask, shape(1, 8), &data(0));
                assert_eq!(fault(result), (IllegalAddress, 0), "{address:#x}");
            }
            assert_eq!(fault(load(&mut spaces, Window::Local, &[4; 32], mask, shape(1, 8))), (Misaligned, 0));
        }
        let result =
            store(&mut spaces, Window::Generic, &[windows::LOCAL + 64; 32], 4, shape(1, 1), &data(0));
        assert_eq!(fault(result), (IllegalAddress, 2));
    }
}

#[test]
fn the_next_block_starts_anew() {
    let machine = machine(Checks::ALL, 4);
    let mut spaces = machine.spaces(32);
    store(&mut spaces, Window::Local, &[8; 32], FULL, shape(1, 4), &data(0)).unwrap();
    load(&mut spaces, Window::Local, &[8; 32], FULL, shape(1, 4)).unwrap();
    spaces.reset(0);
    assert_eq!(fault(load(&mut spaces, Window::Local, &[8; 32], FULL, shape(1, 4))), (Uninitialised, 0));
}
