//! Races in global memory: pairs that are ordered and pairs that are not, of one block and of two.

use cuda::machine::{
    FaultKind::*,
    memory::AllocationKind,
    op::{AtomicKind, AtomicType, Order, Window},
};

use super::*;

/// A block, a warp and a lane.
type Thread = (usize, u32, usize);

const A: Thread = (0, 0, 3);
const B: Thread = (1, 1, 5);
const C: Thread = (2, 0, 7);

/// Three blocks of two warps on 4 KiB of memory.
struct Blocks3<'a> {
    blocks: Vec<Spaces<'a>>,
    at: u64,
}

fn with(body: impl FnOnce(&mut Blocks3)) {
    let machine = machine(RACES, 4);
    let at = machine.allocate(4096, AllocationKind::Global);
    let ledger = machine.ledger();
    let blocks = (0..3).map(|block| machine.block(ledger, block, 64)).collect();
    body(&mut Blocks3 { blocks, at });
}

impl Blocks3<'_> {
    fn access(
        &mut self,
        (block, warp, lane): Thread,
        pc: u32,
        place: u64,
        shape: Shape,
        value: Option<u32>,
    ) -> Result<u32> {
        let (site, at, mask) = (site(warp, pc), [self.at + place; 32], 1 << lane);
        let size = shape.bytes as usize;
        let mut data = [0; 1024];
        match value {
            Some(value) => {
                data[lane * size..][..size].copy_from_slice(&u64::from(value).to_le_bytes()[..size]);
                self.blocks[block].store(site, Window::Global, &at, mask, shape, &data).map(|()| value)
            }
            None => {
                self.blocks[block].load(site, Window::Global, &at, mask, shape, &mut data)?;
                let mut word = [0; 4];
                word[..size.min(4)].copy_from_slice(&data[lane * size..][..size.min(4)]);
                Ok(u32::from_le_bytes(word))
            }
        }
    }

    fn read(&mut self, thread: Thread, place: u64) -> Result<u32> {
        self.access(thread, 10, place, shape(1, 4), None)
    }

    fn write(&mut self, thread: Thread, place: u64, value: u32) -> Result<u32> {
        self.access(thread, 11, place, shape(1, 4), Some(value))
    }

    fn strong(&mut self, thread: Thread, place: u64, value: Option<u32>) -> Result<u32> {
        self.access(thread, 12, place, strong(1, 4), value)
    }

    fn add_in(&mut self, (block, warp, lane): Thread, place: u64, scope: Scope) -> Result<u64> {
        let (site, at, mut old) = (site(warp, 13), [self.at + place; 32], [0; 32]);
        let (kind, ty) = (AtomicKind::Add, AtomicType::U32);
        self.blocks[block].atomic(
            site,
            Window::Global,
            &at,
            1 << lane,
            kind,
            ty,
            scope,
            &[1; 32],
            &[0; 32],
            &mut old,
        )?;
        Ok(old[lane])
    }

    fn add(&mut self, thread: Thread, place: u64) -> Result<u64> {
        self.add_in(thread, place, Scope::Device)
    }

    fn fence(&mut self, (block, warp, lane): Thread, scope: Scope) {
        self.blocks[block].fence(warp, 1 << lane, scope);
    }

    /// All threads of a block meet.
    fn barrier(&mut self, block: usize) {
        barrier(&mut self.blocks[block], &[0, 1]);
    }
}

fn race<T>(result: Result<T>, (_, _, lane): Thread) -> String {
    let trouble = result.err().expect("a race");
    assert_eq!((trouble.kind, trouble.lane), (Race, lane as u32), "{}", trouble.message);
    trouble.message
}

#[test]
fn unordered_pairs_race() {
    // Of two blocks, of two warps, and of two lanes.
    for other in [B, (0, 1, 3), (0, 0, 4)] {
        with(|s| {
            s.write(A, 64, 1).unwrap();
            let message = race(s.read(other, 64), other);
            for part in [
                "read after write at 0x",
                "of global memory, with nothing that orders them",
                "thread 3 (warp 0, lane 3) of block [0, 0, 0] wrote at PTX line 12 (kernel.cu:111): `instruction 11;`",
                &format!(
                    "of block [{}, 0, 0] read at PTX line 11 (kernel.cu:110): `instruction 10;`",
                    other.0
                ),
            ] {
                assert!(message.contains(part), "{part} is not in: {message}");
            }
        });
        with(|s| {
            s.read(A, 64).unwrap();
            assert!(race(s.write(other, 64, 1), other).contains("write after read"));
        });
        with(|s| {
            s.write(A, 64, 1).unwrap();
            assert!(race(s.write(other, 64, 2), other).contains("write after write"));
        });
        // Two reads do not race, nor neighbours, nor writes of what is there.
        with(|s| {
            s.read(A, 64).unwrap();
            s.read(other, 64).unwrap();
            s.write(A, 60, 1).unwrap();
            s.write(other, 68, 2).unwrap();
            s.write(A, 72, 7).unwrap();
            s.write(other, 72, 7).unwrap();
            race(s.write(other, 72, 8), other);
        });
        // One thread alone.
        with(|s| {
            for value in 0..3 {
                s.write(other, 64, value).unwrap();
                assert_eq!(s.read(other, 64).unwrap(), value);
            }
        });
    }
}

#[test]
fn bytes_of_one_word() {
    with(|s| {
        for (thread, place) in [(A, 64), (B, 65), (C, 66)] {
            s.access(thread, 1, place, shape(1, 1), Some(7)).unwrap();
        }
        s.access(A, 1, 64, shape(1, 1), None).unwrap();
        race(s.access(A, 1, 64, shape(1, 2), None), A);
        race(s.access(C, 1, 64, shape(1, 8), None), C);
    });
}

#[test]
fn barriers_order_the_threads_of_a_block() {
    with(|s| {
        let other = (0, 1, 9);
        for round in 0..3 {
            s.write(A, 64, round).unwrap();
            s.barrier(0);
            assert_eq!(s.read(other, 64).unwrap(), round);
            s.barrier(0);
        }
        // Barriers of two blocks order nothing between these.
        s.barrier(1);
        race(s.read(B, 64), B);
    });
    with(|s| {
        s.write(A, 64, 1).unwrap();
        s.blocks[0].warp_sync(0, FULL);
        s.read((0, 0, 20), 64).unwrap();
        race(s.read((0, 1, 20), 64), (0, 1, 20));
    });
}

#[test]
fn fences_and_flags() {
    for (releases, acquires) in [(true, true), (false, true), (true, false)] {
        with(|s| {
            s.write(A, 64, 1).unwrap();
            if releases {
                s.fence(A, Scope::Device);
            }
            s.write(A, 68, 1).unwrap();
            s.strong(A, 128, Some(1)).unwrap();
            assert_eq!(s.strong(B, 128, None).unwrap(), 1);
            if acquires {
                s.fence(B, Scope::Device);
            }
            assert_eq!(s.read(B, 64).is_ok(), releases && acquires);
            // Written after the fence.
            race(s.read(B, 68), B);
        });
    }
    // A flag that nobody read, that another lane read, or that was read before it was written.
    with(|s| {
        s.write(A, 64, 1).unwrap();
        s.fence(A, Scope::Device);
        s.strong(B, 128, None).unwrap();
        s.strong(A, 128, Some(1)).unwrap();
        s.fence(B, Scope::Device);
        race(s.read(B, 64), B);
        s.strong((1, 1, 6), 128, None).unwrap();
        s.fence(B, Scope::Device);
        race(s.read(B, 64), B);
        s.fence((1, 1, 6), Scope::Device);
        s.read((1, 1, 6), 64).unwrap();
    });
    // The other lanes of its block are ordered after it by a barrier.
    with(|s| {
        s.write((0, 1, 1), 64, 1).unwrap();
        s.barrier(0);
        s.fence(A, Scope::Device);
        s.strong(A, 128, Some(1)).unwrap();
        s.strong(B, 128, None).unwrap();
        s.fence(B, Scope::Device);
        s.barrier(1);
        s.read((1, 0, 30), 64).unwrap();
        s.write((1, 0, 30), 64, 2).unwrap();
        race(s.read(C, 64), C);
    });
}

#[test]
fn accesses_that_are_fences_for_themselves() {
    let ordered = |s: &mut Blocks3, (block, warp, lane): Thread, order, value: Option<u32>, place| {
        s.blocks[block].begin(warp, 1 << lane, order, Scope::Device);
        s.strong((block, warp, lane), place, value).unwrap();
        s.blocks[block].end(warp, 1 << lane, order, Scope::Device);
    };
    with(|s| {
        s.write(A, 64, 1).unwrap();
        ordered(s, A, Order::Release, Some(1), 128);
        ordered(s, B, Order::Acquire, None, 128);
        s.read(B, 64).unwrap();
    });
    // Not for another access.
    with(|s| {
        s.write(A, 64, 1).unwrap();
        ordered(s, A, Order::Release, Some(1), 128);
        s.strong(A, 132, Some(1)).unwrap();
        ordered(s, B, Order::Acquire, None, 132);
        race(s.read(B, 64), B);
        s.strong(B, 128, None).unwrap();
        ordered(s, B, Order::Acquire, None, 132);
        race(s.read(B, 64), B);
        s.fence(B, Scope::Device);
        s.read(B, 64).unwrap();
    });
    // A load that acquires releases nothing.
    with(|s| {
        s.write(A, 64, 1).unwrap();
        ordered(s, A, Order::Acquire, None, 132);
        s.strong(A, 128, Some(1)).unwrap();
        ordered(s, B, Order::Acquire, None, 128);
        race(s.read(B, 64), B);
    });
}

#[test]
fn order_goes_on_from_block_to_block() {
    let pass = |s: &mut Blocks3, from: Thread, to: Thread, place| {
        s.fence(from, Scope::Device);
        s.strong(from, place, Some(1)).unwrap();
        s.strong(to, place, None).unwrap();
        s.fence(to, Scope::Device);
    };
    with(|s| {
        s.write(A, 64, 1).unwrap();
        pass(s, A, B, 128);
        pass(s, B, C, 132);
        s.write(C, 64, 2).unwrap();
        pass(s, C, A, 136);
        // What A has written since is not what came back.
        assert_eq!(s.read(A, 64).unwrap(), 2);
        race(s.read(B, 64), B);
    });
    // Another thread of the block learns of what its own block did, by way of another one.
    with(|s| {
        s.write(A, 64, 1).unwrap();
        pass(s, A, B, 128);
        let other = (0, 1, 4);
        pass(s, B, other, 132);
        s.read(other, 64).unwrap();
    });
}

#[test]
fn atomics() {
    with(|s| {
        for thread in [A, B, C, (0, 1, 0)] {
            s.add(thread, 64).unwrap();
        }
        s.strong(B, 64, None).unwrap();
        s.strong(C, 64, Some(9)).unwrap();
        race(s.read(B, 64), B);
    });
    for writes in [false, true] {
        with(|s| {
            if writes { s.write(A, 64, 1) } else { s.read(A, 64) }.unwrap();
            race(s.add(B, 64), B);
        });
    }
    // A strong access does not make up for a weak one before it.
    with(|s| {
        s.write(A, 64, 1).unwrap();
        s.add(A, 64).unwrap();
        race(s.add(B, 64), B);
    });
    // One for the block alone is no match for another block's.
    for (first, second) in [(Scope::Block, Scope::Device), (Scope::Device, Scope::Block)] {
        with(|s| {
            s.add_in(A, 64, first).unwrap();
            s.add_in((0, 1, 7), 64, second).unwrap();
            race(s.add_in(B, 64, second), B);
        });
    }
    // An atomic hands on what was there before it; a store does not.
    for store in [false, true] {
        with(|s| {
            s.write(A, 64, 1).unwrap();
            s.fence(A, Scope::Device);
            s.add(A, 128).unwrap();
            if store {
                _ = s.strong(B, 128, Some(5)).unwrap()
            } else {
                _ = s.add(B, 128).unwrap()
            }
            s.strong(C, 128, None).unwrap();
            s.fence(C, Scope::Device);
            assert_eq!(s.read(C, 64).is_ok(), !store);
        });
    }
}

/// Whoever has read strongly what a strong write left comes after that, with no fence: the consumer of a flag may reset it.
#[test]
fn what_was_observed_is_ordered() {
    for weak_read in [false, true] {
        with(|s| {
            s.strong(A, 128, Some(1)).unwrap();
            if weak_read {
                race(s.read(B, 128), B);
            }
            assert_eq!(s.strong(B, 128, None).unwrap(), 1);
            s.read(B, 128).unwrap();
            s.write(B, 128, 0).unwrap();
            // Whoever has not.
            race(s.write(C, 128, 5), C);
        });
    }
    // The rest of its block, after a barrier; but not what was written before the flag.
    with(|s| {
        s.write(A, 64, 1).unwrap();
        s.strong(A, 128, Some(1)).unwrap();
        s.strong(B, 128, None).unwrap();
        race(s.write((1, 0, 0), 128, 3), (1, 0, 0));
        s.barrier(1);
        s.write((1, 0, 0), 128, 3).unwrap();
        race(s.read((1, 0, 0), 64), (1, 0, 0));
    });
    // What it has not seen, as it came later.
    with(|s| {
        s.strong(A, 128, Some(1)).unwrap();
        s.strong(B, 128, None).unwrap();
        s.strong(A, 128, Some(2)).unwrap();
        race(s.write(B, 128, 0), B);
    });
    // The last of those who count has seen all the others.
    with(|s| {
        for block in [0, 1, 2, 1, 0] {
            s.add((block, 0, 0), 128).unwrap();
        }
        race(s.write((1, 0, 0), 128, 0), (1, 0, 0));
        s.write((0, 0, 0), 128, 0).unwrap();
        race(s.add((2, 0, 0), 128), (2, 0, 0));
    });
}

#[test]
fn fences_of_a_block() {
    for (first, second, far) in [
        (Scope::Block, Scope::Device, false),
        (Scope::Device, Scope::Block, false),
        (Scope::Device, Scope::Device, true),
    ] {
        with(|s| {
            s.write(A, 64, 1).unwrap();
            s.fence(A, first);
            s.strong(A, 128, Some(1)).unwrap();
            // Whoever is in the block needs no more.
            let near = (0, 1, 2);
            for thread in [near, B] {
                s.strong(thread, 128, None).unwrap();
                s.fence(thread, second);
            }
            s.read(near, 64).unwrap();
            assert_eq!(s.read(B, 64).is_ok(), far);
        });
    }
}

/// The last block to take a ticket: NVIDIA's samples have no fence between the ticket and the barrier.
#[test]
fn a_barrier_after_a_ticket() {
    for fenced in [true, false] {
        with(|s| {
            for block in 0..3 {
                s.write((block, 0, 0), 64 + 4 * block as u64, 1).unwrap();
                if fenced || block != 1 {
                    s.fence((block, 0, 0), Scope::Device);
                }
                s.add((block, 0, 0), 128).unwrap();
                s.barrier(block);
            }
            let reader = (2, 1, 11);
            s.read(reader, 64).unwrap();
            assert_eq!(s.read(reader, 68).is_ok(), fenced);
            // Whoever has not taken the last ticket knows nothing of it.
            race(s.read((1, 0, 0), 72), (1, 0, 0));
        });
    }
    // A flag is no ticket.
    with(|s| {
        s.write(A, 64, 1).unwrap();
        s.fence(A, Scope::Device);
        s.strong(A, 128, Some(1)).unwrap();
        s.strong(B, 128, None).unwrap();
        s.barrier(1);
        race(s.read(B, 64), B);
    });
}

#[test]
fn copies_read_global_memory() {
    with(|s| {
        let (to, from) = (every(0, 16), every(s.at, 16));
        s.blocks[0].cp_async(site(0, 1), &to, Window::Global, &from, FULL, 16, &[16; 32]).unwrap();
        assert!(
            race(s.write(B, 16 * 9 + 4, 1), B).contains("thread 9 (warp 0, lane 9) of block [0, 0, 0] read")
        );
        // Of the next ones, 4 bytes are read.
        let from = every(s.at + 1024, 16);
        s.blocks[0]
            .cp_async(site(1, 1), &to.map(|a| a + 1024), Window::Global, &from, FULL, 16, &[4; 32])
            .unwrap();
        s.write(B, 1024 + 16 * 9 + 4, 1).unwrap();
        race(s.write(B, 1024 + 16 * 9, 1), B);
    });
}
