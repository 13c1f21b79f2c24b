//! Barriers in shared memory.

use cuda::machine::{
    Checks,
    FaultKind::*,
    memory::AllocationKind,
    op::{AtomicKind, AtomicType, MbarrierKind, Window},
    windows,
};

use super::*;

const AT: u64 = 128;
const ARRIVE: MbarrierKind = MbarrierKind::Arrive { drop: false, no_complete: false };
const DROP: MbarrierKind = MbarrierKind::Arrive { drop: true, no_complete: false };
const QUIET: MbarrierKind = MbarrierKind::Arrive { drop: false, no_complete: true };
const TEST: MbarrierKind = MbarrierKind::Test { parity: false, try_wait: false };
const PARITY: MbarrierKind = MbarrierKind::Test { parity: true, try_wait: true };

/// An operation of one lane: its value, and whether the phase is complete.
fn run(s: &mut Spaces, (warp, lane): (u32, u32), kind: MbarrierKind, operand: u64) -> Result<(u64, bool)> {
    let result = s.mbarrier(site(warp, 30), kind, Window::Shared, &[AT; 32], 1 << lane, &[operand; 32])?;
    Ok((result.values[lane as usize], result.complete >> lane & 1 != 0))
}

fn with(count: u64, body: impl FnOnce(&mut Spaces)) {
    let machine = machine(Checks::ALL, 4);
    let mut spaces = machine.spaces(96);
    run(&mut spaces, (0, 0), MbarrierKind::Init, count).unwrap();
    barrier(&mut spaces, &[0, 1, 2]);
    body(&mut spaces);
}

#[test]
fn phases() {
    with(3, |s| {
        for phase in 0..5 {
            let parity = phase & 1;
            let (state, _) = run(s, (0, 1), ARRIVE, 1).unwrap();
            assert!(!run(s, (0, 1), TEST, state).unwrap().1);
            assert!(!run(s, (2, 1), PARITY, parity).unwrap().1);
            assert!(run(s, (2, 1), PARITY, parity ^ 1).unwrap().1, "the phase before is complete");
            let (same, _) = run(s, (1, 1), ARRIVE, 2).unwrap();
            assert!(run(s, (0, 1), TEST, state).unwrap().1);
            assert!(run(s, (1, 1), TEST, same).unwrap().1);
            assert!(run(s, (2, 1), PARITY, parity).unwrap().1);
            assert!(!run(s, (2, 1), PARITY, parity ^ 1).unwrap().1);
        }
    });
}

#[test]
fn a_warp_arrives_at_once() {
    with(64, |s| {
        let mut states = [[0; 32]; 2];
        for (warp, states) in states.iter_mut().enumerate() {
            let at = every(windows::SHARED + AT, 0);
            let result =
                s.mbarrier(site(warp as u32, 30), ARRIVE, Window::Generic, &at, FULL, &[1; 32]).unwrap();
            *states = result.values;
        }
        let result = s.mbarrier(site(1, 31), TEST, Window::Shared, &[AT; 32], FULL, &states[1]).unwrap();
        assert_eq!(result.complete, FULL);
        let result = s.mbarrier(site(2, 31), PARITY, Window::Shared, &[AT; 32], 0xf0, &[0; 32]).unwrap();
        assert_eq!(result.complete, 0xf0);
    });
    // More lanes than a phase takes: the others belong to the next.
    with(20, |s| {
        let result = s.mbarrier(site(0, 30), ARRIVE, Window::Shared, &[AT; 32], FULL, &[1; 32]).unwrap();
        let result = s.mbarrier(site(0, 31), TEST, Window::Shared, &[AT; 32], FULL, &result.values).unwrap();
        assert_eq!(result.complete, 0x000f_ffff);
    });
}

#[test]
fn counts_of_states() {
    with(5, |s| {
        let (state, _) = run(s, (0, 1), QUIET, 3).unwrap();
        assert_eq!(run(s, (0, 1), MbarrierKind::PendingCount, state).unwrap().0, 5);
        let (state, _) = run(s, (0, 1), QUIET, 1).unwrap();
        assert_eq!(run(s, (0, 1), MbarrierKind::PendingCount, state).unwrap().0, 2);
        let complete = run(s, (0, 1), QUIET, 1);
        assert_eq!(fault(complete), (Undefined, 1));
        let (state, _) = run(s, (0, 1), ARRIVE, 1).unwrap();
        assert_eq!(fault(run(s, (0, 1), MbarrierKind::PendingCount, state)), (Undefined, 1));
        assert!(run(s, (0, 1), TEST, state).unwrap().1);
    });
}

#[test]
fn those_who_drop_are_not_waited_for() {
    with(3, |s| {
        run(s, (0, 1), DROP, 1).unwrap();
        let (state, _) = run(s, (0, 2), ARRIVE, 2).unwrap();
        assert!(run(s, (0, 2), TEST, state).unwrap().1);
        let (state, _) = run(s, (0, 2), ARRIVE, 1).unwrap();
        assert!(!run(s, (0, 2), TEST, state).unwrap().1);
        run(s, (0, 3), ARRIVE, 1).unwrap();
        assert!(run(s, (0, 2), TEST, state).unwrap().1);
    });
}

#[test]
fn misuse() {
    with(2, |s| {
        assert_eq!(fault(run(s, (0, 1), ARRIVE, 3)), (Undefined, 1));
        assert_eq!(fault(run(s, (0, 1), ARRIVE, 0)), (Undefined, 1));
        assert_eq!(fault(run(s, (0, 1), PARITY, 2)), (Undefined, 1));
        assert_eq!(fault(run(s, (0, 1), MbarrierKind::Init, 2)), (Undefined, 1));
        // Its bytes belong to nobody else.
        for address in [AT, AT + 4] {
            assert_eq!(read(s, (0, 0), 1, address).unwrap_err().kind, Undefined);
            assert_eq!(write(s, (0, 0), 1, address, 0).unwrap_err().kind, Undefined);
        }
        let mut old = [0; 32];
        let (kind, ty) = (AtomicKind::Exch, AtomicType::U64);
        let result = s.atomic(
            site(0, 1),
            Window::Shared,
            &[AT; 32],
            1,
            kind,
            ty,
            Scope::Device,
            &[1; 32],
            &[0; 32],
            &mut old,
        );
        assert_eq!(fault(result), (Undefined, 0));
        // A state of two phases ago.
        let (state, _) = run(s, (0, 1), ARRIVE, 1).unwrap();
        run(s, (0, 1), ARRIVE, 1).unwrap();
        run(s, (0, 1), ARRIVE, 2).unwrap();
        assert_eq!(fault(run(s, (0, 1), TEST, state)), (Undefined, 1));
        barrier(s, &[0, 1, 2]);
        run(s, (0, 0), MbarrierKind::Inval, 1).unwrap();
        assert_eq!(fault(run(s, (0, 1), ARRIVE, 1)), (Undefined, 1));
        assert_eq!(read(s, (0, 0), 1, AT).unwrap_err().kind, Uninitialised);
        write(s, (0, 0), 1, AT, 0).unwrap();
        read(s, (0, 0), 1, AT).unwrap();
    });
    let machine = machine(Checks::NONE, 4);
    let mut s = machine.spaces(32);
    for (window, address, kind) in [
        (Window::Shared, 12, Misaligned),
        (Window::Shared, u64::from(SHARED), IllegalAddress),
        (Window::Generic, windows::LOCAL, IllegalAddress),
    ] {
        let result = s.mbarrier(site(0, 1), MbarrierKind::Init, window, &[address; 32], 4, &[1; 32]);
        assert_eq!(fault(result), (kind, 2), "{address:#x}");
    }
    for count in [0, 1 << 20] {
        assert_eq!(fault(run(&mut s, (0, 3), MbarrierKind::Init, count)), (Undefined, 3));
    }
    assert_eq!(fault(run(&mut s, (0, 3), ARRIVE, 1)), (Undefined, 3));
    run(&mut s, (0, 3), MbarrierKind::Init, 1).unwrap();
    s.reset(0);
    assert_eq!(fault(run(&mut s, (0, 3), ARRIVE, 1)), (Undefined, 3));
}

#[test]
fn arrivals_and_tests_order() {
    for tests in [false, true] {
        with(1, |s| {
            write(s, (0, 1), 10, 64, 5).unwrap();
            run(s, (0, 1), ARRIVE, 1).unwrap();
            write(s, (0, 1), 10, 68, 5).unwrap();
            if tests {
                assert!(run(s, (1, 2), PARITY, 0).unwrap().1);
            }
            assert_eq!(read(s, (1, 2), 11, 64).is_ok(), tests);
            assert_eq!(read(s, (1, 3), 11, 64).unwrap_err().kind, Race, "another lane did not wait");
            assert_eq!(read(s, (1, 2), 11, 68).unwrap_err().kind, Race, "written after the arrival");
        });
    }
    // An arrival in the phase that runs is not seen by who waited for the last.
    with(2, |s| {
        run(s, (0, 1), ARRIVE, 2).unwrap();
        write(s, (0, 1), 10, 64, 5).unwrap();
        run(s, (0, 1), ARRIVE, 1).unwrap();
        assert!(run(s, (1, 2), PARITY, 0).unwrap().1);
        assert_eq!(read(s, (1, 2), 11, 64).unwrap_err().kind, Race);
    });
    // An initialisation that nothing makes known.
    let machine = machine(Checks::ALL, 4);
    let mut s = machine.spaces(64);
    run(&mut s, (0, 0), MbarrierKind::Init, 1).unwrap();
    run(&mut s, (0, 0), ARRIVE, 1).unwrap();
    assert_eq!(fault(run(&mut s, (1, 0), PARITY, 0)), (Race, 0));
}

/// Lane 4 of warp 0 copies 4 bytes to 256 and, with `number`, more.
fn copy(s: &mut Spaces, machine: &Machine, number: u64) {
    let from = machine.allocate(64, AllocationKind::Global);
    machine.device.memory.write(from, &[7; 64]).unwrap();
    let to = [256 + 4 * number; 32];
    s.cp_async(site(0, 20), &to, Window::Global, &[from; 32], 1 << 4, 4, &[4; 32]).unwrap();
}

fn arrive_after_copies(s: &mut Spaces, lane: u32, noinc: bool) -> Result {
    s.cp_async_arrive(site(0, 21), Window::Shared, &[AT; 32], 1 << lane, noinc)
}

#[test]
fn copies_arrive() {
    let machine = machine(Checks::ALL, 4);
    // With .noinc, the arrival is one of those that were expected.
    let mut s = machine.spaces(96);
    run(&mut s, (0, 0), MbarrierKind::Init, 2).unwrap();
    barrier(&mut s, &[0, 1, 2]);
    copy(&mut s, &machine, 0);
    write(&mut s, (0, 4), 10, 64, 5).unwrap();
    arrive_after_copies(&mut s, 4, true).unwrap();
    copy(&mut s, &machine, 1);
    assert!(!run(&mut s, (1, 2), PARITY, 0).unwrap().1);
    assert_eq!(read(&mut s, (1, 2), 12, 256).unwrap_err().kind, AsyncCopy);
    run(&mut s, (2, 0), ARRIVE, 1).unwrap();
    // The phase is complete: the copy has landed, but for those alone who have waited.
    let trouble = read(&mut s, (1, 3), 12, 256).unwrap_err();
    assert_eq!(trouble.kind, Race);
    assert!(
        trouble.message.contains("a copy that an mbarrier waits for wrote at PTX line 21"),
        "{}",
        trouble.message
    );
    assert!(run(&mut s, (1, 2), PARITY, 0).unwrap().1);
    assert_eq!(read(&mut s, (1, 2), 12, 256).unwrap(), 0x0707_0707);
    // What the thread itself wrote is no copy, and what it copied later is none of those.
    assert_eq!(read(&mut s, (1, 2), 12, 64).unwrap_err().kind, Race);
    assert_eq!(read(&mut s, (1, 2), 12, 260).unwrap_err().kind, AsyncCopy);
    assert_eq!(fault(run(&mut s, (0, 0), MbarrierKind::Inval, 1).map(|_| ())).0, Race);
    s.cp_async_wait(site(0, 22), FULL, None);
    read(&mut s, (0, 4), 12, 260).unwrap();

    // Without, it is one more.
    let mut s = machine.spaces(96);
    run(&mut s, (0, 0), MbarrierKind::Init, 1).unwrap();
    barrier(&mut s, &[0, 1, 2]);
    copy(&mut s, &machine, 0);
    arrive_after_copies(&mut s, 4, false).unwrap();
    assert!(!run(&mut s, (1, 2), PARITY, 0).unwrap().1);
    run(&mut s, (0, 4), ARRIVE, 1).unwrap();
    assert!(run(&mut s, (1, 2), PARITY, 0).unwrap().1);
    assert_eq!(read(&mut s, (1, 2), 12, 256).unwrap(), 0x0707_0707);
    run(&mut s, (0, 4), ARRIVE, 1).unwrap();
    assert!(run(&mut s, (1, 2), PARITY, 1).unwrap().1, "the next phase expects one arrival again");

    // More than expected.
    let mut s = machine.spaces(96);
    run(&mut s, (0, 0), MbarrierKind::Init, 2).unwrap();
    barrier(&mut s, &[0, 1, 2]);
    arrive_after_copies(&mut s, 4, true).unwrap();
    assert_eq!(fault(run(&mut s, (1, 1), ARRIVE, 2)), (Undefined, 1));
    barrier(&mut s, &[0, 1, 2]);
    assert_eq!(fault(run(&mut s, (0, 0), MbarrierKind::Inval, 1)), (Undefined, 0));
}

#[test]
fn each_mbarrier_tells_of_its_own_copies() {
    let machine = machine(Checks::ALL, 4);
    let mut s = machine.spaces(96);
    let other = AT + 8;
    for at in [AT, other] {
        s.mbarrier(site(0, 30), MbarrierKind::Init, Window::Shared, &[at; 32], 1, &[1; 32]).unwrap();
    }
    barrier(&mut s, &[0, 1, 2]);
    copy(&mut s, &machine, 0);
    arrive_after_copies(&mut s, 4, true).unwrap();
    copy(&mut s, &machine, 1);
    s.cp_async_arrive(site(0, 21), Window::Shared, &[other; 32], 1 << 4, true).unwrap();
    // Waiting for the second says nothing of the first, which is a phase of another object.
    let result = s.mbarrier(site(1, 30), PARITY, Window::Shared, &[other; 32], 1, &[0; 32]).unwrap();
    assert_eq!(result.complete, 1);
    read(&mut s, (1, 0), 12, 260).unwrap();
    assert_eq!(read(&mut s, (1, 0), 12, 256).unwrap_err().kind, Race);
}
