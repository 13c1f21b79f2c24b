//! Races in global memory between many blocks, by accesses of whole warps, and between launches.

use cuda::machine::{
    FaultKind::*,
    memory::AllocationKind,
    op::{AtomicKind, AtomicType, Window},
};

use super::*;

#[test]
fn accesses_of_whole_warps() {
    let data = data(1);
    // Lanes side by side, over lines and pages; lanes apart; and all in one place.
    for (base, step, size) in [(0u64, 4u64, 4u8), (4096 - 64, 4, 4), (40, 8, 8), (0, 68, 4), (128, 0, 4)] {
        let machine = machine(RACES, 4);
        let at = machine.allocate(8192, AllocationKind::Global) + base;
        let ledger = machine.ledger();
        let mut first = machine.block(ledger, 0, 64);
        first
            .load(site(0, 1), Window::Global, &every(at, step), FULL, shape(1, size), &mut [0; 1024])
            .unwrap();
        for lane in [0u64, 13, 31] {
            let place = at + lane * step;
            for (offset, races) in [(0, true), (u64::from(size), step == u64::from(size) && lane < 31)] {
                let mut other = machine.block(ledger, 1 + lane, 64);
                let result =
                    other.store(site(1, 2), Window::Global, &[place + offset; 32], 2, shape(1, size), &data);
                assert_eq!(result.is_err(), races, "{base} {step} {lane} {offset}");
                if let Err(trouble) = result
                    && step > 0
                {
                    let reader = lane + u64::from(offset > 0);
                    let text = format!("thread {reader} (warp 0, lane {reader}) of block [0, 0, 0] read");
                    assert!(trouble.message.contains(&text), "{}", trouble.message);
                }
            }
        }
    }
}

#[test]
fn every_arrival_counts() {
    // Many blocks meet at a counter, again and again.
    let machine = machine(RACES, 4);
    let at = machine.allocate(4096, AllocationKind::Global);
    let ledger = machine.ledger();
    let mut blocks: Vec<_> = (0..64).map(|block| machine.block(ledger, block, 32)).collect();
    let mut data = [0; 1024];
    for round in 0..4u8 {
        data.fill(round);
        for (number, block) in blocks.iter_mut().enumerate() {
            let place = [at + 256 + 4 * number as u64; 32];
            block.store(site(0, 1), Window::Global, &place, 1, shape(1, 4), &data).unwrap();
            // In the last round, one does not say what it did.
            if round < 3 || number != 37 {
                block.fence(0, 1, Scope::Device);
            }
            let (kind, ty, mut old) = (AtomicKind::Add, AtomicType::U32, [0; 32]);
            block
                .atomic(
                    site(0, 2),
                    Window::Global,
                    &[at; 32],
                    1,
                    kind,
                    ty,
                    Scope::Device,
                    &[1; 32],
                    &[0; 32],
                    &mut old,
                )
                .unwrap();
        }
        for (number, block) in blocks.iter_mut().enumerate() {
            block.load(site(0, 3), Window::Global, &[at; 32], 1, strong(1, 4), &mut data).unwrap();
            block.fence(0, 1, Scope::Device);
            for other in 0..64u64 {
                let place = [at + 256 + 4 * other; 32];
                let result = block.load(site(0, 4), Window::Global, &place, 1, shape(1, 4), &mut data);
                let ordered = round < 3 || other != 37 || number == 37;
                assert_eq!(result.is_ok(), ordered, "{round}, block {number} of {other}");
            }
            // They all have read before anybody writes again.
            block.fence(0, 1, Scope::Device);
            let (kind, ty, mut old) = (AtomicKind::Add, AtomicType::U32, [0; 32]);
            block
                .atomic(
                    site(0, 5),
                    Window::Global,
                    &[at + 4; 32],
                    1,
                    kind,
                    ty,
                    Scope::Device,
                    &[1; 32],
                    &[0; 32],
                    &mut old,
                )
                .unwrap();
        }
        for block in &mut blocks {
            block.load(site(0, 6), Window::Global, &[at + 4; 32], 1, strong(1, 4), &mut data).unwrap();
            block.fence(0, 1, Scope::Device);
        }
    }
}

#[test]
fn a_long_chain_of_blocks() {
    // Each waits for the one before it: the last knows what all did.
    const BLOCKS: u64 = 3000;
    let machine = machine(RACES, 4);
    let at = machine.allocate(8 * BLOCKS, AllocationKind::Global);
    let ledger = machine.ledger();
    let mut block = machine.block(ledger, 0, 32);
    let mut data = [0; 1024];
    for number in 0..BLOCKS {
        block.reset(number);
        if number > 0 {
            block
                .load(site(0, 1), Window::Global, &[at + 8 * number - 8; 32], 1, strong(1, 4), &mut data)
                .unwrap();
            block.fence(0, 1, Scope::Device);
        }
        for other in [0, number / 2, number].into_iter().filter(|other| *other < number) {
            block
                .load(site(0, 2), Window::Global, &[at + 8 * other + 4; 32], 1, shape(1, 4), &mut data)
                .unwrap();
        }
        let mine = [at + 8 * number + 4; 32];
        block.store(site(0, 3), Window::Global, &mine, 1, shape(1, 4), &data).unwrap();
        block.fence(0, 1, Scope::Device);
        block.store(site(0, 4), Window::Global, &[at + 8 * number; 32], 1, strong(1, 4), &data).unwrap();
    }
    // One that has waited for nobody.
    block.reset(BLOCKS);
    let result = block.load(site(0, 5), Window::Global, &[at + 4; 32], 1, shape(1, 4), &mut data);
    assert_eq!(fault(result), (Race, 0));
}

#[test]
fn what_the_host_wrote_may_be_read_by_all() {
    let machine = machine(Checks::ALL, 4);
    for kind in [AllocationKind::Constant, AllocationKind::Host, AllocationKind::Device] {
        let at = machine.allocate(256, kind);
        machine.device.memory.write(at, &[7; 256]).unwrap();
        let ledger = machine.ledger();
        for block in 0..3 {
            let mut block = machine.block(ledger, block, 32);
            load(&mut block, Window::Global, &every(at, 4), FULL, shape(1, 4)).unwrap();
        }
    }
}

#[test]
fn launches_do_not_race_with_each_other() {
    let machine = machine(RACES, 4);
    let at = machine.allocate(256, AllocationKind::Global);
    for launch in 0..3 {
        let mut block = machine.block(machine.ledger(), launch, 32);
        store(&mut block, Window::Global, &every(at, 4), FULL, shape(1, 4), &data(launch as u8)).unwrap();
    }
}
