//! Races in shared memory: pairs that are ordered and pairs that are not.

use cuda::machine::{
    FaultKind::*,
    memory::AllocationKind,
    op::{AtomicKind, AtomicType, Window},
};

use super::*;

const A: (u32, u32) = (0, 3);
const B: (u32, u32) = (1, 5);
const C: (u32, u32) = (2, 7);

/// `body` runs on the memories of three warps.
fn with(body: impl FnOnce(&mut Spaces)) {
    let machine = machine(RACES, 4);
    body(&mut machine.spaces(96));
}

fn race<T>(result: Result<T>, lane: u32) -> String {
    let trouble = result.err().expect("a race");
    assert_eq!((trouble.kind, trouble.lane), (Race, lane), "{}", trouble.message);
    trouble.message
}

fn atomic(spaces: &mut Spaces, (warp, lane): (u32, u32), address: u64) -> Result {
    let mut old = [0; 32];
    let (kind, ty) = (AtomicKind::Add, AtomicType::U32);
    spaces.atomic(
        site(warp, 9),
        Window::Shared,
        &[address; 32],
        1 << lane,
        kind,
        ty,
        Scope::Device,
        &[1; 32],
        &[0; 32],
        &mut old,
    )
}

fn flag(spaces: &mut Spaces, (warp, lane): (u32, u32), window: Window, address: u64, writes: bool) -> Result {
    let mut data = [1; 1024];
    let (site, shape) = (site(warp, 8), strong(1, 4));
    match writes {
        true => spaces.store(site, window, &[address; 32], 1 << lane, shape, &data),
        false => spaces.load(site, window, &[address; 32], 1 << lane, shape, &mut data),
    }
}

#[test]
fn unordered_pairs_race() {
    with(|s| {
        write(s, A, 10, 64, 1).unwrap();
        let message = race(read(s, B, 11, 64), 5);
        for part in [
            "read after write at 0x40",
            "thread 3 (warp 0, lane 3) wrote at PTX line 11 (kernel.cu:110): `instruction 10;`",
            "thread 37 (warp 1, lane 5) read at PTX line 12 (kernel.cu:111): `instruction 11;`",
        ] {
            assert!(message.contains(part), "{message}");
        }
    });
    with(|s| {
        read(s, A, 10, 64).unwrap();
        assert!(race(write(s, B, 11, 64, 2), 5).contains("write after read"));
    });
    with(|s| {
        write(s, A, 10, 64, 1).unwrap();
        assert!(race(write(s, B, 11, 64, 2), 5).contains("write after write"));
    });
    // Lanes of one warp.
    with(|s| {
        write(s, (0, 3), 10, 64, 1).unwrap();
        read(s, (0, 3), 10, 64).unwrap();
        race(read(s, (0, 4), 11, 64), 4);
    });
    // Two reads do not race, nor neighbours.
    with(|s| {
        read(s, A, 10, 64).unwrap();
        read(s, B, 10, 64).unwrap();
        write(s, A, 10, 68, 64).unwrap();
        write(s, B, 10, 72, 64).unwrap();
    });
}

#[test]
fn a_read_of_a_warp_that_released_nothing_hides_no_later_one() {
    with(|s| {
        read(s, B, 10, 64).unwrap();
        let mut clock = Clock::default();
        s.release(2, FULL, &mut clock);
        s.acquire(1, FULL, &clock);
        read(s, C, 10, 64).unwrap();
        read(s, B, 10, 64).unwrap();
        s.warp_sync(1, FULL);
        race(write(s, B, 11, 64, 1), 5);
    });
    // The same of writes that are tolerated.
    with(|s| {
        write(s, B, 10, 68, 1).unwrap();
        let mut clock = Clock::default();
        s.release(2, FULL, &mut clock);
        s.acquire(1, FULL, &clock);
        write(s, C, 10, 64, 1).unwrap();
        write(s, B, 10, 64, 1).unwrap();
        s.warp_sync(1, FULL);
        race(write(s, B, 11, 64, 2), 5);
    });
}

#[test]
fn every_reader_counts() {
    // Not the last reader, nor the last of its warp.
    for first in [(0, 2), (1, 6), (1, 30)] {
        with(|s| {
            read(s, first, 10, 64).unwrap();
            barrier(s, &[0]);
            for reader in [(0, 2), (0, 9), (1, 6), (1, 30)] {
                read(s, reader, 11, 64).unwrap();
            }
            // All but one hand over to C.
            let mut clock = Clock::default();
            for (warp, lanes) in [(0, 1 << 2 | 1 << 9), (1, 1 << 6 | 1 << 30)] {
                let lanes = if warp == first.0 { lanes & !(1 << first.1) } else { lanes };
                s.release(warp, lanes, &mut clock);
            }
            s.acquire(C.0, 1 << C.1, &clock);
            let message = race(write(s, C, 12, 64, 1), C.1);
            assert!(message.contains(&format!("warp {}, lane {}", first.0, first.1)), "{message}");
        });
    }
}

#[test]
fn barriers_order() {
    with(|s| {
        for round in 0..3 {
            write(s, A, 10, 64, round).unwrap();
            barrier(s, &[0, 1, 2]);
            assert_eq!(read(s, B, 11, 64).unwrap(), round);
            read(s, C, 11, 64).unwrap();
            barrier(s, &[0, 1, 2]);
        }
    });
    // C is not at the barrier.
    with(|s| {
        write(s, A, 10, 64, 1).unwrap();
        barrier(s, &[0, 1]);
        read(s, B, 11, 64).unwrap();
        race(read(s, C, 12, 64), 7);
    });
    // What comes after an arrival is not part of it.
    with(|s| {
        let mut clock = Clock::default();
        write(s, A, 10, 64, 1).unwrap();
        s.release(0, FULL, &mut clock);
        write(s, A, 10, 68, 1).unwrap();
        s.acquire(1, FULL, &clock);
        read(s, B, 11, 64).unwrap();
        race(read(s, B, 11, 68), 5);
    });
    // Who arrives only learns nothing.
    with(|s| {
        let mut clock = Clock::default();
        write(s, B, 10, 64, 1).unwrap();
        s.release(0, FULL, &mut clock);
        s.release(1, FULL, &mut clock);
        s.acquire(1, FULL, &clock);
        race(read(s, A, 11, 64), 3);
    });
}

#[test]
fn order_is_transitive() {
    with(|s| {
        write(s, A, 10, 64, 1).unwrap();
        barrier(s, &[0, 1]);
        barrier(s, &[1, 2]);
        read(s, C, 11, 64).unwrap();
        write(s, C, 11, 64, 2).unwrap();
    });
    // Through single lanes.
    with(|s| {
        write(s, A, 10, 64, 1).unwrap();
        let (mut first, mut second) = (Clock::default(), Clock::default());
        s.release(A.0, 1 << A.1, &mut first);
        s.acquire(B.0, 1 << 9, &first);
        s.warp_sync(B.0, 1 << 9 | 1 << B.1);
        s.release(B.0, 1 << B.1, &mut second);
        s.acquire(C.0, 1 << C.1, &second);
        read(s, C, 11, 64).unwrap();
        race(read(s, (C.0, 8), 12, 64), 8);
    });
}

#[test]
fn warp_sync_orders_its_lanes_alone() {
    with(|s| {
        write(s, (0, 1), 10, 64, 1).unwrap();
        s.warp_sync(0, FULL);
        read(s, (0, 20), 11, 64).unwrap();
        race(read(s, (1, 1), 11, 64), 1);
    });
    with(|s| {
        write(s, (0, 1), 10, 64, 1).unwrap();
        s.warp_sync(0, 0x0000_ffff);
        read(s, (0, 15), 11, 64).unwrap();
        race(read(s, (0, 16), 11, 64), 16);
    });
    // Lanes that meet without the writer learn nothing.
    with(|s| {
        write(s, (0, 1), 10, 64, 1).unwrap();
        s.warp_sync(0, 0xffff_0000);
        race(read(s, (0, 16), 11, 64), 16);
    });
    // Two halves of a warp at the same barrier, one after the other, are a whole warp.
    with(|s| {
        write(s, (0, 1), 10, 64, 1).unwrap();
        write(s, (0, 30), 10, 68, 1).unwrap();
        let mut clock = Clock::default();
        s.release(0, 0xffff, &mut clock);
        s.release(0, 0xffff_0000, &mut clock);
        s.release(1, FULL, &mut clock);
        s.acquire(1, FULL, &clock);
        s.acquire(0, 0xffff_0000, &clock);
        read(s, B, 11, 64).unwrap();
        read(s, B, 11, 68).unwrap();
        read(s, (0, 30), 11, 64).unwrap();
        race(read(s, (0, 2), 11, 68), 2);
    });
}

#[test]
fn lanes_of_one_instruction() {
    let one = |value: u8, other: u8| {
        let mut data = [value; 1024];
        data[40..44].fill(other);
        data
    };
    with(|s| {
        let result = s.store(site(0, 10), Window::Shared, &[64; 32], FULL, shape(1, 4), &one(7, 8));
        assert!(race(result, 10).contains("write after write"));
    });
    // All write the same: tolerated, also across warps.
    with(|s| {
        for warp in 0..3 {
            s.store(site(warp, 10), Window::Shared, &[64; 32], FULL, shape(1, 4), &one(7, 7)).unwrap();
        }
        race(read(s, C, 11, 64), 7);
    });
    // All of these writes have to be ordered before what comes later, not only the last.
    with(|s| {
        write(s, A, 10, 64, 1).unwrap();
        write(s, B, 10, 64, 1).unwrap();
        barrier(s, &[1, 2]);
        race(write(s, C, 11, 64, 2), 7);
    });
}

#[test]
fn strong_accesses() {
    with(|s| {
        atomic(s, A, 64).unwrap();
        atomic(s, B, 64).unwrap();
        flag(s, C, Window::Shared, 64, true).unwrap();
        flag(s, A, Window::Shared, 64, false).unwrap();
        race(read(s, B, 11, 64), 5);
    });
    for writes in [false, true] {
        with(|s| {
            let plain = if writes { write(s, A, 10, 64, 1) } else { read(s, A, 10, 64).map(|_| ()) };
            plain.unwrap();
            race(atomic(s, B, 64), 5);
        });
    }
    // An atomic that is not the last one at its place.
    with(|s| {
        atomic(s, A, 64).unwrap();
        atomic(s, B, 64).unwrap();
        barrier(s, &[1, 2]);
        race(read(s, C, 11, 64), 7);
    });
    with(|s| {
        atomic(s, A, 64).unwrap();
        atomic(s, B, 64).unwrap();
        barrier(s, &[0, 1, 2]);
        read(s, C, 11, 64).unwrap();
    });
}

#[test]
fn a_strong_access_does_not_make_up_for_a_weak_one_before_it() {
    with(|s| {
        read(s, A, 10, 64).unwrap();
        flag(s, A, Window::Shared, 64, false).unwrap();
        race(flag(s, B, Window::Shared, 64, true), 5);
    });
    with(|s| {
        write(s, A, 10, 64, 1).unwrap();
        flag(s, A, Window::Shared, 64, true).unwrap();
        race(flag(s, B, Window::Shared, 64, false), 5);
    });
    // Nor do those of others who are ordered after it.
    with(|s| {
        write(s, A, 10, 64, 1).unwrap();
        barrier(s, &[0, 1]);
        flag(s, B, Window::Shared, 64, true).unwrap();
        flag(s, A, Window::Shared, 64, true).unwrap();
        assert!(race(flag(s, C, Window::Shared, 64, false), 7).contains("warp 0, lane 3"));
    });
}

#[test]
fn fences_and_flags() {
    let machine = machine(RACES, 4);
    let global = machine.allocate(64, AllocationKind::Global);
    for (window, at) in [(Window::Shared, 128), (Window::Global, global)] {
        for (writer_fences, reader_fences, ordered) in
            [(true, true, true), (false, true, false), (true, false, false)]
        {
            let mut s = machine.spaces(96);
            write(&mut s, A, 10, 64, 1).unwrap();
            if writer_fences {
                s.fence(A.0, 1 << A.1, Scope::Device);
            }
            write(&mut s, A, 10, 68, 1).unwrap();
            flag(&mut s, A, window, at, true).unwrap();
            flag(&mut s, B, window, at, false).unwrap();
            if reader_fences {
                s.fence(B.0, 1 << B.1, Scope::Device);
            }
            assert_eq!(read(&mut s, B, 11, 64).is_ok(), ordered);
            // Written after the fence.
            assert!(read(&mut s, B, 11, 68).is_err());
        }
        // Nobody read the flag, or a lane that did not fence, or another flag.
        let mut s = machine.spaces(96);
        write(&mut s, A, 10, 64, 1).unwrap();
        s.fence(A.0, FULL, Scope::Device);
        flag(&mut s, (A.0, 4), window, at, true).unwrap();
        flag(&mut s, A, window, at + 4, true).unwrap();
        flag(&mut s, B, window, at, false).unwrap();
        flag(&mut s, C, window, at + 4, false).unwrap();
        s.fence(B.0, FULL, Scope::Device);
        race(read(&mut s, B, 11, 64), 5);
        race(read(&mut s, C, 11, 64), 7);
        s.fence(C.0, 1 << C.1, Scope::Device);
        read(&mut s, C, 11, 64).unwrap();
    }
}

#[test]
fn atomics_hand_on_what_stores_cut_off() {
    for (store, ordered) in [(false, true), (true, false)] {
        with(|s| {
            write(s, A, 10, 64, 1).unwrap();
            s.fence(A.0, 1 << A.1, Scope::Device);
            atomic(s, A, 128).unwrap();
            // B adds to the flag, or overwrites it, without a fence.
            if store {
                flag(s, B, Window::Shared, 128, true).unwrap()
            } else {
                atomic(s, B, 128).unwrap()
            }
            flag(s, C, Window::Shared, 128, false).unwrap();
            s.fence(C.0, FULL, Scope::Device);
            assert_eq!(read(s, C, 11, 64).is_ok(), ordered);
        });
    }
    // The last to arrive at a counter sees what all wrote, even if many others came between.
    with(|s| {
        for lane in 0..32 {
            write(s, (0, lane), 10, 256 + u64::from(lane) * 4, lane).unwrap();
            s.fence(0, 1 << lane, Scope::Device);
            atomic(s, (0, lane), 128).unwrap();
        }
        atomic(s, B, 128).unwrap();
        s.fence(B.0, 1 << B.1, Scope::Device);
        for lane in 0..32 {
            read(s, B, 11, 256 + lane * 4).unwrap();
        }
        race(read(s, (1, 6), 12, 256), 6);
    });
}

#[test]
fn bytes_do_not_race_with_their_neighbours() {
    let machine = machine(RACES, 1);
    let mut s = machine.spaces(96);
    let data = data(1);
    for warp in 0..3u32 {
        s.store(site(warp, 10), Window::Shared, &every(64 + u64::from(warp), 4), FULL, shape(1, 1), &data)
            .unwrap();
    }
    s.load(site(0, 11), Window::Shared, &every(64, 4), FULL, shape(1, 1), &mut [0; 1024]).unwrap();
    let result = s.load(site(0, 11), Window::Shared, &every(64, 4), FULL, shape(1, 2), &mut [0; 1024]);
    race(result, 0);
}

#[test]
fn blocks_do_not_race_with_each_other() {
    with(|s| {
        for warp in [0, 1, 2, 1, 0] {
            write(s, (warp, 2), 10, 64, 1).unwrap();
            read(s, (warp, 2), 10, 64).unwrap();
            s.reset(0);
        }
        write(s, A, 10, 64, 1).unwrap();
        race(read(s, B, 11, 64), 5);
    });
}

#[test]
fn a_block_that_is_no_whole_number_of_warps() {
    let machine = machine(RACES, 4);
    let mut s = machine.spaces(40);
    write(&mut s, (1, 2), 10, 64, 1).unwrap();
    // Only the lanes that are there arrive.
    let mut clock = Clock::default();
    s.release(0, FULL, &mut clock);
    s.release(1, 0xff, &mut clock);
    s.acquire(0, FULL, &clock);
    s.acquire(1, 0xff, &clock);
    read(&mut s, A, 11, 64).unwrap();
    read(&mut s, (1, 7), 11, 64).unwrap();
}

#[test]
fn matrix_rows_are_read_by_the_lanes_that_hold_their_addresses() {
    with(|s| {
        let mut rows = [[0; 16]; 32];
        s.ldmatrix(site(0, 10), Window::Shared, &every(0, 16), 4, &mut rows).unwrap();
        write(s, (0, 9), 11, 9 * 16 + 4, 1).unwrap();
        race(write(s, (0, 9), 11, 10 * 16, 1), 9);
    });
}
