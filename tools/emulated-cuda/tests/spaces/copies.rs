//! Asynchronous copies.

use cuda::machine::{
    Checks,
    FaultKind::*,
    memory::AllocationKind,
    op::{AtomicKind, AtomicType, Window},
    windows,
};
use proptest::prelude::*;

use super::*;

fn copy(spaces: &mut Spaces, warp: u32, to: u64, from: u64, mask: u32, bytes: u8) -> Result {
    let step = u64::from(bytes);
    let sizes = [u32::from(bytes); 32];
    spaces.cp_async(site(warp, 20), &every(to, step), Window::Global, &every(from, step), mask, bytes, &sizes)
}

fn peek(spaces: &Spaces, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    spaces.peek(0, 0, windows::SHARED + address, &mut bytes).unwrap();
    bytes
}

/// A machine whose device memory holds 1024 known bytes.
fn source(checks: Checks) -> (Machine, u64) {
    let machine = machine(checks, 4);
    let at = machine.allocate(1024, AllocationKind::Device);
    machine.device.memory.write(at, &data(3)).unwrap();
    (machine, at)
}

#[test]
fn data_lands_at_the_wait() {
    for checks in [Checks::ALL, Checks::NONE] {
        let (machine, at) = source(checks);
        let mut s = machine.spaces(64);
        write(&mut s, (0, 0), 1, 4, 77).unwrap();
        copy(&mut s, 0, 0, at, FULL, 16).unwrap();
        s.cp_async_commit(site(0, 21), FULL);
        assert_eq!(peek(&s, 0, 512), [0xff; 512], "neither the old bytes nor the new ones");
        for address in [0, 8, 508] {
            let trouble = read(&mut s, (0, address as u32 / 16), 22, address).unwrap_err();
            assert_eq!(trouble.kind, AsyncCopy);
            assert!(
                trouble.message.contains("PTX line 21 (kernel.cu:120): `instruction 20;`"),
                "{}",
                trouble.message
            );
            assert_eq!(write(&mut s, (1, 3), 22, address, 1).unwrap_err().kind, AsyncCopy);
        }
        let mut old = [0; 32];
        let (kind, ty) = (AtomicKind::Add, AtomicType::U32);
        let result = s.atomic(
            site(0, 1),
            Window::Shared,
            &[0; 32],
            1,
            kind,
            ty,
            Scope::Device,
            &[1; 32],
            &[0; 32],
            &mut old,
        );
        assert_eq!(fault(result), (AsyncCopy, 0));
        assert_eq!(fault(copy(&mut s, 0, 496, at, 1, 16)), (AsyncCopy, 0));
        let mut rows = [[0; 16]; 32];
        assert_eq!(
            fault(s.ldmatrix(site(0, 1), Window::Shared, &every(496, 16), 1, &mut rows)),
            (AsyncCopy, 0)
        );
        s.cp_async_wait(site(0, 23), FULL, Some(1));
        assert_eq!(peek(&s, 0, 512), [0xff; 512], "one group may stay");
        s.cp_async_wait(site(0, 23), FULL, Some(0));
        assert_eq!(peek(&s, 0, 512), data(3)[..512]);
        s.load(site(0, 24), Window::Shared, &every(0, 16), FULL, shape(4, 4), &mut [0; 1024]).unwrap();
        // Again, and nobody waits: the next block knows nothing of it.
        copy(&mut s, 0, 512, at, FULL, 16).unwrap();
        s.reset(0);
        write(&mut s, (1, 3), 25, 512, 1).unwrap();
        s.cp_async_wait(site(0, 26), FULL, None);
        assert_eq!(peek(&s, 512, 4), [1, 0, 0, 0]);
    }
}

#[test]
fn a_lane_overwrites_what_another_copies() {
    let (machine, at) = source(Checks::ALL);
    let mut s = machine.spaces(32);
    let mut to = every(0, 16);
    to[9] = 32;
    let result = s.cp_async(site(0, 20), &to, Window::Global, &every(at, 16), FULL, 16, &[16; 32]);
    assert_eq!(fault(result), (AsyncCopy, 9));
}

#[test]
fn the_rest_is_zeros() {
    let (machine, at) = source(WRITTEN);
    let mut s = machine.spaces(32);
    let sizes: [u32; 32] = std::array::from_fn(|l| l as u32 % 9);
    // Lanes that read nothing may point anywhere.
    let from: [u64; 32] = std::array::from_fn(|l| if sizes[l] == 0 { 0 } else { at + 8 * l as u64 });
    s.cp_async(site(0, 20), &every(8, 8), Window::Generic, &from, FULL, 8, &sizes).unwrap();
    s.cp_async_wait(site(0, 21), FULL, None);
    for lane in 0..32 {
        let mut expected = data(3)[lane * 8..][..8].to_vec();
        expected[sizes[lane] as usize..].fill(0);
        assert_eq!(peek(&s, 8 + 8 * lane as u64, 8), expected, "lane {lane}");
    }
    assert_eq!(s.counters.global_copy.bytes, sizes.iter().map(|s| u64::from(*s)).sum::<u64>());
    load(&mut s, Window::Shared, &every(8, 8), FULL, shape(2, 4)).unwrap();
}

#[test]
fn both_sides_are_checked() {
    let (machine, at) = source(Checks::NONE);
    let mut s = machine.spaces(32);
    assert_eq!(fault(copy(&mut s, 0, u64::from(SHARED) - 256, at, FULL, 16)), (IllegalAddress, 16));
    let mut s = machine.spaces(32);
    assert_eq!(fault(copy(&mut s, 0, 8, at, FULL, 16)), (Misaligned, 0));
    assert_eq!(fault(copy(&mut s, 0, 0, at + 4, FULL, 8)), (Misaligned, 0));
    assert_eq!(fault(copy(&mut s, 0, 0, at + 768, FULL, 16)), (IllegalAddress, 16));
    let from = every(windows::SHARED, 4);
    let result = s.cp_async(site(0, 20), &every(0, 4), Window::Generic, &from, 4, 4, &[4; 32]);
    assert_eq!(fault(result), (IllegalAddress, 2));
    let result = s.cp_async(site(0, 20), &every(0, 4), Window::Global, &every(at, 4), 4, 4, &[5; 32]);
    assert_eq!(fault(result), (Undefined, 2));
    // A partial read past the end, by one byte.
    let result = s.cp_async(site(0, 20), &every(0, 8), Window::Global, &[at + 1024; 32], 4, 8, &[1; 32]);
    assert_eq!(fault(result), (IllegalAddress, 2));
    let (machine, _) = source(Checks::ALL);
    let fresh = machine.allocate(512, AllocationKind::Device);
    let mut s = machine.spaces(32);
    assert_eq!(fault(copy(&mut s, 0, 0, fresh, FULL << 4, 16)), (Uninitialised, 4));
}

#[test]
fn copies_race() {
    let (machine, at) = source(Checks::ALL);
    let wait = |s: &mut Spaces| s.cp_async_wait(site(0, 23), FULL, None);
    // After the wait, the lane that copied may read; others need a barrier.
    let mut s = machine.spaces(64);
    copy(&mut s, 0, 0, at, FULL, 16).unwrap();
    wait(&mut s);
    read(&mut s, (0, 2), 24, 36).unwrap();
    let trouble = read(&mut s, (0, 3), 24, 36).unwrap_err();
    assert_eq!(trouble.kind, Race);
    assert!(trouble.message.contains("warp 0, lane 2) wrote at PTX line 21"), "{}", trouble.message);
    let mut s = machine.spaces(64);
    copy(&mut s, 0, 0, at, FULL, 16).unwrap();
    wait(&mut s);
    barrier(&mut s, &[0, 1]);
    read(&mut s, (1, 3), 24, 36).unwrap();
    // A barrier before the wait is none after it.
    let mut s = machine.spaces(64);
    copy(&mut s, 0, 0, at, FULL, 16).unwrap();
    barrier(&mut s, &[0, 1]);
    wait(&mut s);
    assert_eq!(read(&mut s, (1, 3), 24, 36).unwrap_err().kind, Race);
    // A copy to what others may still be reading.
    let mut s = machine.spaces(64);
    write(&mut s, (1, 3), 10, 36, 1).unwrap();
    read(&mut s, (1, 3), 11, 36).unwrap();
    let trouble = copy(&mut s, 0, 0, at, FULL, 16).unwrap_err();
    assert_eq!((trouble.kind, trouble.lane), (Race, 2));
    assert!(trouble.message.contains("write after read"), "{}", trouble.message);
    barrier(&mut s, &[0, 1]);
    copy(&mut s, 0, 512, at, FULL, 16).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Copy(u32),
    Commit(u32),
    Wait(u32, Option<u32>),
}

fn steps() -> impl Strategy<Value = Step> {
    let mask = || prop_oneof![2 => Just(FULL), 1 => any::<u32>()];
    prop_oneof![
        3 => mask().prop_map(Step::Copy),
        3 => mask().prop_map(Step::Commit),
        2 => (mask(), proptest::option::of(0..4u32)).prop_map(|(mask, pending)| Step::Wait(mask, pending)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Each lane has its own groups.
    #[test]
    fn groups(steps in proptest::collection::vec(steps(), 1..30)) {
        let (machine, at) = source(Checks::ALL);
        let mut s = machine.spaces(32);
        // By lane: places under way by closed group, and those in the open one.
        let mut closed: Vec<Vec<Vec<u64>>> = vec![Vec::new(); 32];
        let mut open: Vec<Vec<u64>> = vec![Vec::new(); 32];
        let mut landed = vec![];
        let mut place = 0;
        for step in steps {
            let lanes = |mask: u32| (0..32).filter(move |l| mask >> l & 1 != 0);
            match step {
                Step::Copy(mask) => {
                    copy(&mut s, 0, place, at, mask, 4).unwrap();
                    lanes(mask).for_each(|l| open[l].push(place + 4 * l as u64));
                    place += 128;
                }
                Step::Commit(mask) => {
                    s.cp_async_commit(site(0, 1), mask);
                    lanes(mask).for_each(|l| closed[l].push(std::mem::take(&mut open[l])));
                }
                Step::Wait(mask, pending) => {
                    s.cp_async_wait(site(0, 1), mask, pending);
                    for lane in lanes(mask) {
                        let stay = pending.map_or(0, |p| p as usize).min(closed[lane].len());
                        let done = closed[lane].len() - stay;
                        landed.extend(closed[lane].drain(..done).flatten());
                        // What is done does not count as a group any more; keep the numbers.
                        if pending.is_none() {
                            landed.append(&mut open[lane]);
                        }
                    }
                }
            }
            for place in (0..place).step_by(4) {
                let lane = place % 128 / 4;
                let there = data(3)[lane as usize * 4..][..4].to_vec();
                let expected = if landed.contains(&place) { there } else { vec![0xff; 4] };
                prop_assert_eq!(peek(&s, place, 4), expected, "at {}", place);
            }
        }
    }
}
