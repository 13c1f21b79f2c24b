//! Runs the instructions of a warp.

mod cross;
mod memory;
mod special;
mod sync;
mod track;

use std::time::Instant;

use super::{
    Device, FaultKind, Kernel, LaunchConfig,
    alu::{self, lanes_of},
    barrier::{BARRIERS, Barrier},
    counters::Counters,
    op::{Inst, NONE, Op},
    program::Program,
    simd::{SIMD, Simd},
    spaces::{Site, Spaces, Trouble},
    warp::{State, Warp},
};

/// What all blocks of a launch share.
pub struct Launch<'a> {
    /// The device.
    pub device: &'a Device,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Its grid and block.
    pub config: LaunchConfig,
    /// Its number among the device's launches.
    pub id: u64,
    /// When it began.
    pub start: Instant,
}

/// What the warps of a block share.
pub struct Env<'a> {
    /// The launch.
    pub launch: &'a Launch<'a>,
    /// The kernel's instructions.
    pub program: &'a Program,
    /// Its memories.
    pub spaces: Spaces<'a>,
    /// Its barriers.
    pub barriers: [Barrier; BARRIERS],
    /// Its index.
    pub block: [u32; 3],
    /// Its index as a number.
    pub linear: u64,
    /// Warp instructions that it has run.
    pub steps: u64,
    /// For each instruction, how often warps ran it and with how many lanes; empty where nothing is counted.
    pub hits: Vec<[u64; 2]>,
    /// What it has printed.
    pub output: Vec<u8>,
    /// Whether a barrier may have become complete.
    pub arrivals: bool,
    simd: &'static Simd,
    /// Whether reads of undefined registers are faults.
    registers: bool,
}

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// All its lanes have left.
    Done,
    /// Its lanes wait.
    Blocked,
    /// Others should have a turn.
    Yielded,
}

/// What an instruction does to the flow of its group of lanes.
enum Flow {
    /// On to the next one.
    Next,
    /// To another one, all lanes.
    Jump(u32),
    /// The groups have changed.
    Regroup,
    /// On to the next one, after other warps.
    Yield,
}

type Step = Result<Flow, Box<Trouble>>;

/// A fault at a lane.
fn trouble(kind: FaultKind, lane: usize, message: impl Into<String>) -> Box<Trouble> {
    Box::new(Trouble { kind, lane: lane as u32, message: message.into() })
}

/// The lowest lane of a mask.
fn first(mask: u32) -> usize {
    mask.trailing_zeros().min(31) as usize
}

impl<'a> Env<'a> {
    /// For the blocks of a launch, one after the other.
    pub fn new(launch: &'a Launch<'a>, spaces: Spaces<'a>) -> Self {
        let program = &launch.kernel.program;
        let options = &launch.device.options;
        Self {
            launch,
            program,
            spaces,
            barriers: Default::default(),
            block: [0; 3],
            linear: 0,
            steps: 0,
            hits: if options.counters { vec![[0; 2]; program.code.len()] } else { Vec::new() },
            output: Vec::new(),
            arrivals: false,
            simd: &SIMD,
            registers: options.checks.uninitialised && !program.tracked_names.is_empty(),
        }
    }

    /// Counts the instructions that ran by their class.
    pub fn count_instructions(&mut self) -> Counters {
        let counters = &mut self.spaces.counters;
        let program = self.program;
        for ((inst, class), [warps, lanes]) in program.code.iter().zip(&program.classes).zip(&self.hits) {
            counters.instructions[*class as usize] += warps;
            counters.thread_instructions += lanes;
            if let Op::Mma(mma) = inst.op
                && *warps > 0
            {
                *counters.mma.entry(mma.name()).or_default() += warps;
            }
        }
        self.hits.iter_mut().for_each(|h| *h = [0; 2]);
        std::mem::take(counters)
    }

    /// Runs a warp until it is done, waits, or has run `budget` instructions.
    ///
    /// # Errors
    /// What a lane did wrong, at the instruction where [`Warp::pc`] stands.
    pub fn run(&mut self, warp: &mut Warp, budget: u32) -> Result<Pause, Box<Trouble>> {
        let limit = self.launch.device.options.instruction_limit;
        let code: &'a [Inst] = &self.program.code;
        let mut left = budget;
        loop {
            let Some(at) = warp.pick() else {
                if warp.splits.is_empty() {
                    return Ok(Pause::Done);
                }
                match warp.meet(self.program) {
                    Some(met) => {
                        self.spaces.warp_sync(warp.index, met.iter().fold(0, |all, (_, lanes)| all | lanes));
                        met.iter().for_each(|&(pc, lanes)| self.count(pc, lanes));
                    }
                    None => return Ok(Pause::Blocked),
                }
                continue;
            };
            loop {
                if left == 0 {
                    return Ok(Pause::Yielded);
                }
                left -= 1;
                self.steps += 1;
                let split = &warp.splits[at];
                let (pc, mask) = (split.pc, split.mask);
                warp.pc = pc;
                if self.steps > limit {
                    let message = format!("the block has run {limit} instructions: the limit");
                    return Err(trouble(FaultKind::Limit, first(mask), message));
                }
                let flow = self.step(warp, at, &code[pc as usize], pc, mask)?;
                match flow {
                    Flow::Next => warp.splits[at].pc = pc + 1,
                    Flow::Jump(target) => warp.splits[at].pc = target,
                    Flow::Regroup => break,
                    Flow::Yield => {
                        warp.splits[at].pc = pc + 1;
                        return Ok(Pause::Yielded);
                    }
                }
                if warp.splits.len() > 1 && warp.should_switch(at) {
                    break;
                }
            }
        }
    }

    /// Runs one instruction for the lanes of `mask`, which are group `at` of the warp.
    #[inline(always)]
    fn step(&mut self, warp: &mut Warp, at: usize, inst: &Inst, pc: u32, mask: u32) -> Step {
        let mut active = mask;
        if inst.guard != NONE {
            let guard = warp.file.pred(inst.guard);
            active &= if inst.negated { !guard } else { guard };
        }
        self.count(pc, active);
        if inst.tracked && self.registers {
            self.track(warp, inst, pc, mask, active)?;
        }
        if active == 0 {
            return Ok(Flow::Next);
        }
        let o = &inst.o;
        let file = &mut warp.file;
        match inst.op {
            Op::Integer(op) => self.simd.integer(op, file, o, active),
            Op::Float(op) => self.simd.float(op, file, o, active),
            Op::Packed(op) => self.simd.packed(op, file, o, active),
            Op::Convert { conversion, wide } => self.simd.convert(conversion, wide, file, o, active),
            Op::Directed { op, double, round, ftz, sat } => {
                alu::directed(file, o, op, double, round, ftz, sat, active);
            }
            Op::Setp { compare, ty, combine, not } => {
                let result = self.simd.compare(compare, ty, file, o[2], o[3]);
                let third = if not { !file.pred(o[4]) } else { file.pred(o[4]) };
                file.set_pred(o[0], alu::combined(result, combine, third), active);
                file.set_pred(o[1], alu::combined(!result, combine, third), active);
            }
            Op::SetpHalves { compare, brain, combine, not } => {
                let (low, high) = alu::compare_halves(compare, brain, file, o[2], o[3]);
                let third = if not { !file.pred(o[4]) } else { file.pred(o[4]) };
                file.set_pred(o[0], alu::combined(low, combine, third), active);
                file.set_pred(o[1], alu::combined(high, combine, third), active);
            }
            Op::Set { compare, ty, one, combine, not } => {
                let result = self.simd.compare(compare, ty, file, o[1], o[2]);
                let third = if not { !file.pred(o[3]) } else { file.pred(o[3]) };
                let out = alu::spread(alu::combined(result, combine, third), one);
                file.store::<u32>(o[0], &out, active);
            }
            Op::SetHalves { compare, brain, one, combine, not } => {
                let (low, high) = alu::compare_halves(compare, brain, file, o[1], o[2]);
                let third = if not { !file.pred(o[3]) } else { file.pred(o[3]) };
                let low = alu::spread(alu::combined(low, combine, third), u32::from(one));
                let high = alu::spread(alu::combined(high, combine, third), u32::from(one) << 16);
                let out: [u32; 32] = std::array::from_fn(|lane| low[lane] | high[lane]);
                file.store::<u32>(o[0], &out, active);
            }
            Op::Testp { property, double } => {
                let bits = alu::test(file, o[1], property, double);
                file.set_pred(o[0], bits, active);
            }
            Op::Selp { wide } => alu::select(file, o, wide, active),
            Op::Pred(op) => {
                let (a, b) = (file.pred(o[1]), file.pred(o[2]));
                file.set_pred(o[0], alu::predicate(op, a, b), active);
            }
            Op::Mov { wide: false } => {
                let value = *file.lanes::<u32>(o[1]);
                file.store::<u32>(o[0], &value, active);
            }
            Op::Mov { wide: true } => {
                let value = *file.lanes::<u64>(o[1]);
                file.store::<u64>(o[0], &value, active);
            }
            Op::Pack { count, wide } => alu::pack(file, o, count, wide, active),
            Op::Unpack { count, wide } => alu::unpack(file, o, count, wide, active),
            Op::Carry { op, wide, reads, writes, signed } => {
                alu::Carry { op, wide, reads, writes, signed }.run(file, o, active);
            }
            Op::Special(special) => self.special(warp, special, o[0], active),
            Op::Branch { target, uniform } => {
                if active == mask {
                    return Ok(Flow::Jump(target));
                }
                if uniform {
                    let message = "the lanes of a branch that is marked uniform part";
                    return Err(trouble(FaultKind::Undefined, first(active), message));
                }
                self.spaces.counters.divergent_branches += 1;
                warp.splits[at].pc = pc + 1;
                warp.part(at, active, target, State::Ready);
                return Ok(Flow::Regroup);
            }
            Op::BranchIndexed { list } => return self.branch_indexed(warp, at, inst, list, mask, active),
            Op::Exit => {
                warp.splits[at].pc = pc + 1;
                warp.exit(at, active);
                return Ok(Flow::Regroup);
            }
            Op::Trap => return Err(trouble(FaultKind::Trap, first(active), "trap")),
            Op::Sleep => return Ok(Flow::Yield),
            Op::Nop => {}
            Op::Load(..)
            | Op::Store(..)
            | Op::Atomic(..)
            | Op::IsSpace(_)
            | Op::Cvta { .. }
            | Op::CpAsync { .. }
            | Op::CpAsyncCommit
            | Op::CpAsyncWait(_)
            | Op::CpAsyncWaitAll
            | Op::CpAsyncArrive { .. }
            | Op::Mbarrier(..)
            | Op::Fence(_)
            | Op::Printf { .. }
            | Op::AssertFail { .. } => return self.memory(warp, inst, Site { pc, warp: warp.index }, active),
            Op::Shuffle(_)
            | Op::Vote { .. }
            | Op::Match { .. }
            | Op::ActiveMask
            | Op::Redux(_)
            | Op::LdMatrix { .. }
            | Op::StMatrix { .. }
            | Op::MovMatrix
            | Op::Mma(_) => return self.cross(warp, at, inst, pc, active),
            Op::Barrier { .. } | Op::WarpSync => return self.sync(warp, at, inst, pc, active),
        }
        Ok(Flow::Next)
    }

    /// Counts a run of an instruction.
    #[inline(always)]
    fn count(&mut self, pc: u32, lanes: u32) {
        if let Some(hit) = self.hits.get_mut(pc as usize) {
            hit[0] += 1;
            hit[1] += u64::from(lanes.count_ones());
        }
    }

    /// Takes lanes out of a run that was counted: they wait, and will be counted when they run together with those they
    /// wait for. `all` where nobody ran.
    #[cold]
    fn uncount(&mut self, pc: u32, lanes: u32, all: bool) {
        if let Some(hit) = self.hits.get_mut(pc as usize) {
            hit[0] -= u64::from(all);
            hit[1] -= u64::from(lanes.count_ones());
        }
    }

    /// `brx.idx`: every lane to its own target.
    #[cold]
    fn branch_indexed(
        &mut self,
        warp: &mut Warp,
        at: usize,
        inst: &Inst,
        list: u32,
        mask: u32,
        active: u32,
    ) -> Step {
        let targets = &self.program.branch_lists[list as usize];
        let index = *warp.file.lanes::<u32>(inst.o[0]);
        if let Some(lane) = lanes_of(active).find(|&lane| index[lane] as usize >= targets.len()) {
            let message = format!("index {} into a list of {} targets", index[lane], targets.len());
            return Err(trouble(FaultKind::Undefined, lane, message));
        }
        warp.splits[at].pc += 1;
        let mut rest = active;
        let mut ways = usize::from(active != mask);
        while rest != 0 {
            let target = targets[index[first(rest)] as usize];
            let same =
                lanes_of(rest).filter(|&l| targets[index[l] as usize] == target).fold(0, |m, l| m | 1 << l);
            // The last lanes of the group take it with them.
            warp.part(at, same, target, State::Ready);
            rest &= !same;
            ways += 1;
        }
        self.spaces.counters.divergent_branches += u64::from(ways > 1);
        Ok(Flow::Regroup)
    }
}
