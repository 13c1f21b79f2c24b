//! Registers that may hold what nothing wrote: reads of their undefined bits, and where these bits go.

use super::{Env, first, trouble};
use crate::{
    arith::warp as lanewise,
    machine::{
        FaultKind, alu,
        alu::lanes_of,
        lanes::{FULL, File, Integer, Line},
        op::{Address, BoolOp, Inst, MAX_OPERANDS, NONE, Op, Shape, ShuffleMode, Slot, Width, Window},
        program::Tracked,
        spaces::Trouble,
        undefined::{Use, logic, low, predicate_table, source_use, table},
        warp::Warp,
        windows,
    },
};

/// Undefined bits by lane.
type Bits = [u64; 32];

impl Tracked {
    /// The undefined bits of a source, by its place among the operands.
    fn bits(&self, warp: &Warp, operand: usize) -> Bits {
        match self.sources.iter().find(|(at, _)| usize::from(*at) == operand) {
            Some(&(_, register)) => std::array::from_fn(|lane| warp.undefined[register as usize].lane(lane)),
            None => [0; 32],
        }
    }

    /// Lanes in which a source, by its place among the operands, has undefined bits.
    fn lanes(&self, warp: &Warp, operand: usize) -> u32 {
        self.bits(warp, operand).iter().enumerate().fold(0, |all, (lane, b)| all | u32::from(*b != 0) << lane)
    }
}

impl Env<'_> {
    /// Checks what an instruction reads, and notes what it leaves undefined. A shuffle, which may have to wait, notes that
    /// when it runs; and a store, which takes bits to memory, when it knows where.
    #[cold]
    pub(super) fn track(
        &self,
        warp: &mut Warp,
        inst: &Inst,
        pc: u32,
        mask: u32,
        active: u32,
    ) -> Result<(), Box<Trouble>> {
        let Some(tracked) = self.program.tracked_at(pc) else { return Ok(()) };
        if let Some(guard) = tracked.guard {
            self.defined(warp, guard, u64::MAX, mask)?;
        }
        let any = tracked.sources.iter().any(|&(_, r)| warp.undefined[r as usize].lanes & active != 0);
        if any {
            for &(operand, register) in &tracked.sources {
                if let Use::Needs(bits) = source_use(&inst.op, usize::from(operand - tracked.writes)) {
                    self.defined(warp, register, bits, active)?;
                }
            }
        }
        if matches!(inst.op, Op::Shuffle(_)) {
            return Ok(());
        }
        let passed = if any { self.passed(warp, inst, tracked) } else { None };
        for (index, &(_, register)) in tracked.targets.iter().enumerate() {
            let undefined = &mut warp.undefined[register as usize];
            match &passed {
                Some(results) => undefined.set(&results[index], active),
                None => undefined.define(active),
            }
        }
        Ok(())
    }

    /// Bits of a register must be defined in some lanes.
    fn defined(&self, warp: &Warp, register: u16, bits: u64, lanes: u32) -> Result<(), Box<Trouble>> {
        let undefined = &warp.undefined[register as usize];
        match lanes_of(undefined.lanes & lanes).find(|&lane| undefined.lane(lane) & bits != 0) {
            None => Ok(()),
            Some(lane) => Err(self.undefined(warp, register, bits, lane)),
        }
    }

    /// A lane reads bits of a register, not all of which are defined.
    fn undefined(&self, warp: &Warp, register: u16, bits: u64, lane: usize) -> Box<Trouble> {
        let name = &self.program.tracked_names[register as usize];
        let all = match self.program.tracked_widths[register as usize] {
            Width::Pred => 1,
            Width::Word => low(32),
            Width::Wide => low(64),
        } & bits;
        let undefined = warp.undefined[register as usize].lane(lane) & all;
        let message = if undefined == all {
            format!("register {name} is read before anything wrote it")
        } else {
            format!("register {name} is read before anything wrote its bits {undefined:#x}")
        };
        trouble(FaultKind::Uninitialised, lane, message)
    }

    /// The undefined bits of the tracked results of an instruction; none where all are defined.
    fn passed(&self, warp: &Warp, inst: &Inst, tracked: &Tracked) -> Option<Vec<Bits>> {
        let file = &warp.file;
        let o = &inst.o;
        match inst.op {
            Op::Integer(Integer::Lop3) => {
                let tables = *file.lanes::<u32>(o[4]);
                Some(vec![combined(warp, tracked, o, 3, false, |lane| tables[lane] as u8)])
            }
            Op::Integer(op) => match table(op) {
                None => self.moved(warp, inst, tracked),
                Some(table) => {
                    let wide = op.widths().0 == Width::Wide;
                    let bits = combined(warp, tracked, o, op.source_bits().len(), wide, |_| table);
                    let counted = low(op.source_bits()[0]);
                    Some(vec![bits.map(|b| b & counted)])
                }
            },
            Op::Pred(op) => {
                let operand = |at: usize| {
                    if o[at] == NONE { (0, 0) } else { (file.pred(o[at]), tracked.lanes(warp, at)) }
                };
                let ((a, lost_a), (b, lost_b)) = (operand(1), operand(2));
                let lost =
                    logic(predicate_table(op), [a, b, 0].map(u64::from), [lost_a, lost_b, 0].map(u64::from));
                Some(vec![spread(lost as u32)])
            }
            Op::Setp { combine: Some(combine), compare, ty, .. } => {
                let holds = self.simd.compare(compare, ty, file, o[2], o[3]);
                Some(third(warp, tracked, combine, [holds, !holds]))
            }
            Op::SetpHalves { combine: Some(combine), compare, brain, .. } => {
                let (first, second) = alu::compare_halves(compare, brain, file, o[2], o[3]);
                Some(third(warp, tracked, combine, [first, second]))
            }
            Op::Convert { .. } | Op::Mov { .. } | Op::Pack { .. } | Op::Unpack { .. } | Op::Selp { .. } => {
                self.moved(warp, inst, tracked)
            }
            _ => None,
        }
    }

    /// The same for an instruction that moves bits: it does to the undefined bits what it does to values.
    fn moved(&self, warp: &Warp, inst: &Inst, tracked: &Tracked) -> Option<Vec<Bits>> {
        let file = &warp.file;
        let mut scratch =
            File { rows: vec![Line([0; 32]); 2 * MAX_OPERANDS], preds: vec![0], ..File::default() };
        let mut o = [NONE; MAX_OPERANDS];
        for (at, &slot) in inst.o.iter().enumerate().filter(|(_, slot)| **slot != NONE) {
            o[at] = 2 * at as Slot;
            let Some(source) = at.checked_sub(usize::from(tracked.writes)) else { continue };
            match (source_use(&inst.op, source), inst.op) {
                (Use::Passes, _) => {
                    let bits = tracked.bits(warp, at);
                    let found = tracked.sources.iter().find(|(operand, _)| usize::from(*operand) == at);
                    let wide =
                        found.is_some_and(|(_, r)| self.program.tracked_widths[*r as usize] == Width::Wide);
                    alu::write(&mut scratch, o[at], wide, &bits, FULL);
                }
                (Use::Needs(_), Op::Selp { .. }) => {
                    scratch.preds[0] = file.pred(slot);
                    o[at] = 0;
                }
                // What says how the bits move has 32 bits.
                (Use::Needs(_), _) => scratch.store::<u32>(o[at], file.lanes::<u32>(slot), FULL),
            }
        }
        match inst.op {
            Op::Integer(op) => self.simd.integer(op, &mut scratch, &o, FULL),
            Op::Convert { conversion, wide } => self.simd.convert(conversion, wide, &mut scratch, &o, FULL),
            Op::Mov { wide } => {
                let values = alu::read(&scratch, o[1], wide);
                alu::write(&mut scratch, o[0], wide, &values, FULL);
            }
            Op::Pack { count, wide } => alu::pack(&mut scratch, &o, count, wide, FULL),
            Op::Unpack { count, wide } => alu::unpack(&mut scratch, &o, count, wide, FULL),
            Op::Selp { wide } => alu::select(&mut scratch, &o, wide, FULL),
            _ => return None,
        }
        let result = |&(operand, register): &(u8, u16)| {
            let wide = self.program.tracked_widths[register as usize] == Width::Wide;
            alu::read(&scratch, o[usize::from(operand)], wide)
        };
        Some(tracked.targets.iter().map(result).collect())
    }

    /// A shuffle has run: undefined bits go where the values do.
    #[cold]
    pub(super) fn track_shuffle(&self, warp: &mut Warp, mode: ShuffleMode, o: &[Slot], pc: u32, lanes: u32) {
        let Some(tracked) = self.program.tracked_at(pc) else { return };
        let from = tracked.bits(warp, 2).map(|bits| bits as u32);
        let [b, c, members] = [o[3], o[4], o[5]].map(|slot| *warp.file.lanes::<u32>(slot));
        let moved = lanewise::shuffle(mode, &from, &b, &c, lanes, members[first(lanes)]);
        for &(operand, register) in &tracked.targets {
            let undefined = &mut warp.undefined[register as usize];
            match operand {
                0 => undefined.set(&moved.row.map(u64::from), lanes),
                _ => undefined.define(lanes),
            }
        }
    }

    /// The undefined bytes that the lanes of a store take to memory, a bit each. That nothing of an element is defined is
    /// a fault, except where only the thread itself can read it.
    #[cold]
    pub(super) fn stored(
        &self,
        warp: &Warp,
        pc: u32,
        address: Address,
        at: &[u64; 32],
        active: u32,
        shape: Shape,
    ) -> Result<Option<[u16; 32]>, Box<Trouble>> {
        let Some(tracked) = self.program.tracked_at(pc) else { return Ok(None) };
        let mut bytes = [0; 32];
        let size = usize::from(shape.bytes);
        let all = low(8 * size as u32);
        // The first operand is the address.
        for &(operand, register) in tracked.sources.iter().filter(|(operand, _)| *operand > 0) {
            let undefined = &warp.undefined[register as usize];
            for lane in lanes_of(undefined.lanes & active) {
                let bits = undefined.lane(lane) & all;
                let local = match address.window {
                    Window::Generic => windows::resolve(at[lane]).0 == Window::Local,
                    window => window == Window::Local,
                };
                if bits == all && !local {
                    return Err(self.undefined(warp, register, all, lane));
                }
                let element = usize::from(operand - 1) * size;
                for byte in (0..size).filter(|byte| bits >> (8 * byte) & 0xff != 0) {
                    bytes[lane] |= 1 << (element + byte);
                }
            }
        }
        Ok(bytes.iter().any(|b| *b != 0).then_some(bytes))
    }
}

/// The undefined bits of a bitwise function of sources.
fn combined(
    warp: &Warp,
    tracked: &Tracked,
    o: &[Slot],
    sources: usize,
    wide: bool,
    table: impl Fn(usize) -> u8,
) -> Bits {
    let mut values = [[0; 32]; 3];
    let mut undefined = [[0; 32]; 3];
    for source in 0..sources {
        values[source] = alu::read(&warp.file, o[1 + source], wide);
        undefined[source] = tracked.bits(warp, 1 + source);
    }
    std::array::from_fn(|lane| logic(table(lane), values.map(|v| v[lane]), undefined.map(|u| u[lane])))
}

/// The undefined lanes of both results of a comparison that is combined with a predicate.
fn third(warp: &Warp, tracked: &Tracked, combine: BoolOp, holds: [u32; 2]) -> Vec<Bits> {
    let lost = tracked.lanes(warp, 4);
    let results = holds.map(|holds| match combine {
        BoolOp::And => lost & holds,
        BoolOp::Or => lost & !holds,
        BoolOp::Xor => lost,
    });
    tracked.targets.iter().map(|&(operand, _)| spread(results[usize::from(operand)])).collect()
}

/// A bit a lane, as undefined bits of a predicate.
fn spread(lanes: u32) -> Bits {
    std::array::from_fn(|lane| u64::from(lanes >> lane & 1))
}
