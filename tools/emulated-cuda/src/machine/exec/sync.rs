//! Barriers of the warp and of the block.

use super::{Env, Flow, Step, first, trouble};
use crate::machine::{
    FaultKind,
    alu::{self, lanes_of},
    barrier::BARRIERS,
    lanes::FULL,
    op::{BarKind, BarRed, Inst, NONE, Op},
    warp::{State, Warp, lane_list},
};

impl Env<'_> {
    /// Runs a barrier.
    pub(super) fn sync(&mut self, warp: &mut Warp, at: usize, inst: &Inst, pc: u32, active: u32) -> Step {
        match inst.op {
            Op::Barrier { kind, aligned, not } => {
                self.block_barrier(warp, at, inst, pc, active, kind, aligned, not)
            }
            _ => self.warp_barrier(warp, at, inst, pc, active),
        }
    }

    fn warp_barrier(&mut self, warp: &mut Warp, at: usize, inst: &Inst, pc: u32, active: u32) -> Step {
        let members = *warp.file.lanes::<u32>(inst.o[0]);
        let wanted = members[first(active)];
        if wanted & active == active && wanted & warp.live & !active == 0 && same(&members, active) {
            self.spaces.warp_sync(warp.index, active);
            return Ok(Flow::Next);
        }
        if let Some(lane) = lanes_of(active).find(|&lane| members[lane] >> lane & 1 == 0) {
            let message = format!("the lane is not in the mask {:#010x} that it waits for", members[lane]);
            return Err(trouble(FaultKind::Undefined, lane, message));
        }
        warp.splits[at].pc = pc + 1;
        let (mut rest, mut waiting) = (active, 0);
        while rest != 0 {
            let mask = members[first(rest)];
            let lanes = lanes_of(rest).filter(|&lane| members[lane] == mask).fold(0, |m, lane| m | 1 << lane);
            if mask & warp.live & !lanes == 0 {
                self.spaces.warp_sync(warp.index, lanes);
            } else {
                waiting |= lanes;
            }
            rest &= !lanes;
        }
        if waiting != 0 {
            warp.part(at, waiting, pc, State::Warp);
        }
        Ok(Flow::Regroup)
    }

    #[allow(clippy::too_many_arguments)]
    fn block_barrier(
        &mut self,
        warp: &mut Warp,
        at: usize,
        inst: &Inst,
        pc: u32,
        active: u32,
        kind: BarKind,
        aligned: bool,
        not: bool,
    ) -> Step {
        let o = &inst.o;
        let lane = first(active);
        if aligned && active != warp.lanes {
            if warp.live != warp.lanes && active == warp.live {
                if self.launch.device.options.checks.barriers {
                    let gone = lane_list(warp.lanes & !warp.live);
                    let message = format!("lanes {gone} of the warp have exited before this barrier");
                    return Err(trouble(FaultKind::Barrier, lane, message));
                }
            } else {
                // The rest of the warp may be on its way here.
                warp.splits[at].pc = pc + 1;
                warp.part(at, active, pc, State::Warp);
                return Ok(Flow::Regroup);
            }
        }
        let file = &warp.file;
        let uniform = |slot| {
            let values = file.lanes::<u32>(slot);
            if same(values, active) { Ok(values[lane]) } else { Err(()) }
        };
        let differ =
            || trouble(FaultKind::Barrier, lane, "the lanes of a warp name different barriers or counts");
        let id = uniform(o[1]).map_err(|()| differ())?;
        let count = match o[2] {
            NONE => None,
            slot => Some(uniform(slot).map_err(|()| differ())?),
        };
        if id as usize >= BARRIERS {
            return Err(trouble(FaultKind::Barrier, lane, format!("barrier {id}: a block has {BARRIERS}")));
        }
        if let Some(count) = count.filter(|c| *c == 0 || c % 32 != 0) {
            let message = format!("a barrier for {count} threads: the count must be a multiple of 32");
            return Err(trouble(FaultKind::Barrier, lane, message));
        }
        let arrived = if aligned { warp.lanes } else { active };
        let barrier = &mut self.barriers[id as usize];
        barrier.arrive(warp.index, arrived, count, kind).map_err(|m| trouble(FaultKind::Barrier, lane, m))?;
        self.spaces.counters.barriers += 1;
        self.spaces.release(warp.index, active, &mut barrier.clock);
        self.arrivals = true;
        if let BarKind::Red(_) = kind {
            let votes = if not { !file.pred(o[3]) } else { file.pred(o[3]) };
            barrier.votes += (votes & active).count_ones();
            barrier.voters += active.count_ones();
        }
        if kind == BarKind::Arrive {
            return Ok(Flow::Next);
        }
        warp.splits[at].pc = pc + 1;
        warp.part(at, active, pc, State::Barrier);
        Ok(Flow::Regroup)
    }

    /// Opens the barriers that are complete: lets those who wait there go on. Whether any was.
    pub fn open_barriers(&mut self, warps: &mut [Warp]) -> Result<bool, (u32, String)> {
        let mut opened = false;
        for id in 0..BARRIERS {
            if !self.barriers[id].busy() {
                continue;
            }
            let checks = self.launch.device.options.checks.barriers;
            // With the checks off, who has left is not waited for.
            let lanes = warps.iter().map(|w| if checks { w.lanes } else { w.live }).filter(|l| *l != 0);
            let expected = lanes.clone().count() as u32 * 32;
            let complete = self.barriers[id].complete(warps.iter().map(|w| w.lanes), expected);
            if !complete.map_err(|message| (id as u32, message))? {
                continue;
            }
            opened = true;
            let barrier = std::mem::take(&mut self.barriers[id]);
            for warp in warps.iter_mut() {
                for index in 0..warp.splits.len() {
                    let split = &warp.splits[index];
                    if split.state != State::Barrier {
                        continue;
                    }
                    let inst = &self.program.code[split.pc as usize];
                    let (mask, lane) = (split.mask, first(split.mask));
                    if warp.file.lanes::<u32>(inst.o[1])[lane] as usize != id {
                        continue;
                    }
                    self.spaces.acquire(warp.index, mask, &barrier.clock);
                    if let Op::Barrier { kind: BarKind::Red(reduction), .. } = inst.op {
                        let (votes, voters) = (barrier.votes, barrier.voters);
                        let all = |holds: bool| if holds { FULL } else { 0 };
                        match reduction {
                            BarRed::Popc => {
                                alu::write(&mut warp.file, inst.o[0], false, &[u64::from(votes); 32], mask)
                            }
                            BarRed::And => warp.file.set_pred(inst.o[0], all(votes == voters), mask),
                            BarRed::Or => warp.file.set_pred(inst.o[0], all(votes > 0), mask),
                        }
                    }
                    let split = &mut warp.splits[index];
                    split.pc += 1;
                    split.state = State::Ready;
                }
            }
            self.barriers[id].reset(warps.len());
        }
        Ok(opened)
    }
}

/// Whether the lanes of a mask hold the same value.
fn same(values: &[u32; 32], mask: u32) -> bool {
    lanes_of(mask).all(|lane| values[lane] == values[first(mask)])
}
