//! Instructions in which the lanes of a warp work together.

use super::{Env, Flow, Step, first, memory::addresses, trouble};
use crate::{
    arith::{
        Row, matrix,
        warp::{self as lanewise, Shuffled},
    },
    machine::{
        FaultKind,
        alu::lanes_of,
        lanes::{FULL, File},
        op::{Inst, NONE, Op, Slot, VoteMode},
        spaces::{Site, Trouble},
        warp::{State, Warp, lane_list},
    },
};

/// Lanes that name the same member mask and have all come.
struct Group {
    members: u32,
    lanes: u32,
}

impl Env<'_> {
    /// Runs an instruction of the lanes together; they wait until all that must take part have come.
    pub(super) fn cross(&mut self, warp: &mut Warp, at: usize, inst: &Inst, pc: u32, active: u32) -> Step {
        let o = &inst.o;
        let member_slot = match inst.op {
            Op::ActiveMask => {
                warp.file.store::<u32>(o[0], &[active; 32], active);
                return Ok(Flow::Next);
            }
            Op::Shuffle(_) => o[5],
            Op::Vote { .. } => o[2],
            Op::Match { .. } => o[3],
            Op::Redux(_) => o[2],
            _ => return self.aligned(warp, at, inst, pc, active),
        };
        let members = *warp.file.lanes::<u32>(member_slot);
        let (groups, waiting) = groups(warp, &members, active)?;
        for Group { members, lanes } in &groups {
            self.members(warp, inst, pc, *members, *lanes)?;
        }
        if waiting == 0 {
            return Ok(Flow::Next);
        }
        // Lanes whose partners are still on their way stay here, the others go on.
        self.uncount(pc, waiting, groups.is_empty());
        warp.splits[at].pc = pc + 1;
        warp.part(at, waiting, pc, State::Warp);
        Ok(Flow::Regroup)
    }

    /// Runs an instruction for lanes that have all named the same members and are all here.
    fn members(
        &self,
        warp: &mut Warp,
        inst: &Inst,
        pc: u32,
        members: u32,
        lanes: u32,
    ) -> Result<(), Box<Trouble>> {
        let o = &inst.o;
        if let (Op::Shuffle(mode), true) = (inst.op, inst.tracked && self.registers) {
            self.track_shuffle(warp, mode, o, pc, lanes);
        }
        let file = &mut warp.file;
        match inst.op {
            Op::Shuffle(mode) => {
                let rows = [o[2], o[3], o[4]].map(|slot| *file.lanes::<u32>(slot));
                let Shuffled { row, in_range, undefined } =
                    lanewise::shuffle(mode, &rows[0], &rows[1], &rows[2], lanes, members);
                if undefined != 0 {
                    let message = format!(
                        "a shuffle reads from a lane that takes no part (lanes {} do)",
                        lane_list(lanes)
                    );
                    return Err(trouble(FaultKind::Undefined, first(undefined), message));
                }
                file.store::<u32>(o[0], &row, lanes);
                file.set_pred(o[1], in_range, lanes);
            }
            Op::Vote { mode, not } => {
                let votes = if not { !file.pred(o[1]) } else { file.pred(o[1]) };
                let result = lanewise::vote(mode, votes, lanes);
                if mode == VoteMode::Ballot {
                    file.store::<u32>(o[0], &[result; 32], lanes);
                } else {
                    file.set_pred(o[0], result, lanes);
                }
            }
            Op::Match { all, wide } => {
                let values = crate::machine::alu::read(file, o[2], wide);
                if all {
                    let same = lanewise::match_all(&values, lanes);
                    file.store::<u32>(o[0], &[same; 32], lanes);
                    file.set_pred(o[1], if same != 0 { FULL } else { 0 }, lanes);
                } else {
                    file.store::<u32>(o[0], &lanewise::match_any(&values, lanes), lanes);
                }
            }
            Op::Redux(op) => {
                let result = lanewise::redux(op, file.lanes::<u32>(o[1]), lanes);
                file.store::<u32>(o[0], &[result; 32], lanes);
            }
            _ => unreachable!("`cross` sends only these here"),
        }
        Ok(())
    }

    /// Runs an instruction that takes all 32 lanes.
    fn aligned(&mut self, warp: &mut Warp, at: usize, inst: &Inst, pc: u32, active: u32) -> Step {
        if active != FULL {
            let gone = !warp.live;
            if gone != 0 {
                let why = if warp.lanes == FULL { "have exited" } else { "do not exist or have exited" };
                let message = format!("all 32 lanes must take part, and lanes {} {why}", lane_list(gone));
                return Err(trouble(FaultKind::Undefined, first(active), message));
            }
            self.uncount(pc, active, true);
            warp.splits[at].pc = pc + 1;
            warp.part(at, active, pc, State::Warp);
            return Ok(Flow::Regroup);
        }
        let o = &inst.o;
        let site = Site { pc, warp: warp.index };
        let file = &mut warp.file;
        match inst.op {
            Op::Mma(mma) => {
                let mut slots = o.iter().copied();
                let scale = if mma.wide() { 2 } else { 1 };
                let [d, a, b, c] = mma.registers().map(usize::from);
                let mut take = |n: usize| -> Rows {
                    let mut rows = Rows { slots: [NONE; 8], count: n };
                    rows.slots.iter_mut().take(n).zip(&mut slots).for_each(|(to, from)| *to = from);
                    rows
                };
                let (d, a, b, c) = (take(d), take(a), take(b), take(c));
                let mut out: [Row; 16] = [[0; 32]; 16];
                let (a, b, c) = (a.rows(file, scale), b.rows(file, scale), c.rows(file, scale));
                let written = d.count * scale;
                mma.run(&a.0[..a.1], &b.0[..b.1], &c.0[..c.1], &mut out[..written]);
                for (index, &slot) in d.slots[..d.count].iter().enumerate() {
                    if scale == 2 {
                        let pair: [Row; 2] = [out[2 * index], out[2 * index + 1]];
                        file.store::<u64>(slot, &bytemuck::cast(pair), FULL);
                    } else {
                        file.store::<u32>(slot, &out[index], FULL);
                    }
                }
            }
            Op::LdMatrix { count, trans, address } => {
                let at = addresses(file, address, o[count as usize]);
                let mut rows = [[0; 16]; 32];
                self.spaces.ldmatrix(site, address.window, &at, count, &mut rows)?;
                let mut out = [[0; 32]; 4];
                matrix::ldmatrix(&rows, count, trans, &mut out);
                for (slot, row) in o[..count as usize].iter().zip(&out) {
                    file.store::<u32>(*slot, row, FULL);
                }
            }
            Op::StMatrix { count, trans, address } => {
                let at = addresses(file, address, o[0]);
                let from: [&Row; 4] =
                    std::array::from_fn(|i| file.lanes::<u32>(o[1 + i.min(count as usize - 1)]));
                let mut rows = [[0; 16]; 32];
                matrix::stmatrix(&from[..count as usize], count, trans, &mut rows);
                self.spaces.stmatrix(site, address.window, &at, count, &rows)?;
            }
            Op::MovMatrix => {
                let out = matrix::movmatrix(file.lanes::<u32>(o[1]));
                file.store::<u32>(o[0], &out, FULL);
            }
            _ => unreachable!("`cross` sends only these here"),
        }
        Ok(Flow::Next)
    }
}

/// Registers of a matrix fragment.
struct Rows {
    slots: [Slot; 8],
    count: usize,
}

impl Rows {
    /// Their rows, two for each register of 64 bits, and how many.
    fn rows<'f>(&self, file: &'f File, scale: usize) -> ([&'f Row; 16], usize) {
        let mut rows = [file.lanes::<u32>(self.slots[0]); 16];
        for (index, &slot) in self.slots[..self.count].iter().enumerate() {
            for half in 0..scale {
                rows[index * scale + half] = file.lanes::<u32>(slot + half as Slot);
            }
        }
        (rows, self.count * scale)
    }
}

/// The groups of lanes that are complete, and the lanes that wait.
fn groups(warp: &Warp, members: &[u32; 32], active: u32) -> Result<(Vec<Group>, u32), Box<Trouble>> {
    let mut groups = Vec::with_capacity(1);
    let (mut rest, mut waiting) = (active, 0);
    while rest != 0 {
        let wanted = members[first(rest)];
        let lanes = lanes_of(rest).filter(|&lane| members[lane] == wanted).fold(0, |m, lane| m | 1 << lane);
        if lanes & !wanted != 0 {
            let message = format!("the lane is not in the member mask {wanted:#010x} that it names");
            return Err(trouble(FaultKind::Undefined, first(lanes & !wanted), message));
        }
        if wanted & warp.live & !lanes == 0 {
            groups.push(Group { members: wanted, lanes });
        } else {
            waiting |= lanes;
        }
        rest &= !lanes;
    }
    Ok((groups, waiting))
}
