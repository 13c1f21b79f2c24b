//! Two small interpreters of one thread: one on the syntax tree, with a value for each register, one on the decoded program,
//! with rows. They share no code, and know only what the programs of these tests use.

use std::collections::HashMap;

use cuda::{
    machine::{
        lanes::Integer,
        op::{CONSTANT, Compare, NONE, Op, PredOp, Window},
        program::Program,
    },
    ptx::ast::{Base, Body, Operand, RegisterId},
};

/// What a thread did: the values that it stored in global memory, undefined bits as zeros, or that it read something undefined.
pub type Outcome = Result<Vec<u64>, String>;

/// Instructions until a program counts as endless.
const LIMIT: usize = 100_000;

/// Runs a program on rows.
pub fn decoded(program: &Program) -> Outcome {
    let mut thread = Thread {
        program,
        rows: vec![0xdead_beef; program.rows],
        preds: vec![true; program.preds],
        undefined: vec![u64::MAX; program.tracked_names.len()],
        local: vec![0; 4096],
    };
    let mut stored = Vec::new();
    let mut pc = 0;
    for _ in 0..LIMIT {
        let inst = &program.code[pc];
        let tracked = program.tracked_at(pc as u32).cloned().unwrap_or_default();
        assert_eq!(inst.tracked, program.tracked_at(pc as u32).is_some());
        pc += 1;
        let name = |register: u16| program.tracked_names[register as usize].clone();
        if let Some(guard) = tracked.guard.filter(|g| thread.undefined[*g as usize] != 0) {
            return Err(name(guard));
        }
        if inst.guard != NONE && thread.preds[inst.guard as usize] == inst.negated {
            continue;
        }
        // The undefined bits of an operand.
        let lost = |at: usize| {
            let found = tracked.sources.iter().find(|(operand, _)| usize::from(*operand) == at);
            found.map_or(0, |(_, register)| thread.undefined[*register as usize])
        };
        let word = u64::from(u32::MAX);
        let (results, kept) = match inst.op {
            Op::Integer(Integer::Xor32) => ([lost(1) | lost(2), 0], vec![1, 2]),
            Op::Mov { .. } => ([lost(1), 0], vec![1]),
            Op::Pack { .. } => ([lost(1) & word | lost(2) << 32, 0], vec![1, 2]),
            Op::Unpack { .. } => ([lost(2) & word, lost(2) >> 32], vec![2]),
            Op::Selp { .. } => ([if thread.pred(inst.o[3]) { lost(1) } else { lost(2) }, 0], vec![1, 2]),
            Op::Pred(_) => ([u64::from(lost(1) | lost(2) != 0), 0], vec![1, 2]),
            // Of 64 bits, an upper half that is not defined is no fault: it goes to memory.
            Op::Store(_, shape, _) if shape.wide && lost(1) != u64::MAX => ([0; 2], vec![1]),
            _ => ([0; 2], vec![]),
        };
        let read = |(at, register): &(u8, u16)| {
            !kept.contains(&usize::from(*at)) && thread.undefined[*register as usize] != 0
        };
        if let Some((_, register)) = tracked.sources.iter().find(|source| read(source)) {
            return Err(name(*register));
        }
        let unknown = lost(1);
        for &(at, register) in &tracked.targets {
            thread.undefined[register as usize] = results[usize::from(at)];
        }
        let o = &inst.o;
        match inst.op {
            Op::Exit => return Ok(stored),
            Op::Branch { target, .. } => pc = target as usize,
            Op::BranchIndexed { list } => {
                pc = program.branch_lists[list as usize][thread.word(o[0]) as usize] as usize;
            }
            Op::Store(address, shape, _) if address.window == Window::Global => {
                stored.push(thread.value(o[1], shape.wide) & !unknown);
            }
            Op::Store(address, shape, _) => {
                let value = thread.value(o[1], shape.wide).to_le_bytes();
                let at = address.offset as usize;
                thread.local[at..at + shape.bytes as usize].copy_from_slice(&value[..shape.bytes as usize]);
            }
            Op::Load(address, shape, _) => {
                let mut value = [0; 8];
                let at = address.offset as usize;
                value[..shape.bytes as usize].copy_from_slice(&thread.local[at..at + shape.bytes as usize]);
                thread.set(o[0], u64::from_le_bytes(value), shape.wide);
            }
            ref other => thread.step(other, o),
        }
    }
    panic!("endless");
}

struct Thread<'a> {
    program: &'a Program,
    rows: Vec<u32>,
    preds: Vec<bool>,
    /// By tracked register, its undefined bits.
    undefined: Vec<u64>,
    local: Vec<u8>,
}

impl Thread<'_> {
    fn word(&self, slot: u16) -> u32 {
        match slot & CONSTANT {
            0 => self.rows[slot as usize],
            _ => self.program.constants[(slot & !CONSTANT) as usize].0[0],
        }
    }

    fn value(&self, slot: u16, wide: bool) -> u64 {
        // In a pair of constant rows, a lane's halves lie side by side; this thread keeps its own one above the other.
        match (wide, slot & CONSTANT) {
            (false, _) => u64::from(self.word(slot)),
            (true, 0) => u64::from(self.word(slot)) | u64::from(self.word(slot + 1)) << 32,
            (true, _) => {
                let line = &self.program.constants[(slot & !CONSTANT) as usize].0;
                u64::from(line[0]) | u64::from(line[1]) << 32
            }
        }
    }

    fn set(&mut self, slot: u16, value: u64, wide: bool) {
        if slot == NONE {
            return;
        }
        self.rows[slot as usize] = value as u32;
        if wide {
            self.rows[slot as usize + 1] = (value >> 32) as u32;
        }
    }

    fn pred(&self, slot: u16) -> bool {
        slot != CONSTANT && self.preds[slot as usize]
    }

    fn step(&mut self, op: &Op, o: &[u16]) {
        match *op {
            Op::Integer(op) => {
                let (a, b) = (self.word(o[1]), self.word(o[2]));
                let long = |this: &Self, at: usize| this.value(o[at], true);
                let (value, wide) = match op {
                    Integer::AddI32 => (u64::from(a.wrapping_add(b)), false),
                    Integer::SubI32 => (u64::from(a.wrapping_sub(b)), false),
                    Integer::Xor32 => (u64::from(a ^ b), false),
                    Integer::MadI32 => (u64::from(a.wrapping_mul(b).wrapping_add(self.word(o[3]))), false),
                    Integer::MulWideU32 => (u64::from(a) * u64::from(b), true),
                    Integer::AddI64 => (long(self, 1).wrapping_add(long(self, 2)), true),
                    other => panic!("{other:?}"),
                };
                self.set(o[0], value, wide);
            }
            Op::Mov { wide } => self.set(o[0], self.value(o[1], wide), wide),
            Op::Pack { count: 2, wide: true } => {
                // One part at a time, as a machine may: the result must not lie over a part.
                let low = self.word(o[1]);
                self.rows[o[0] as usize] = low;
                self.rows[o[0] as usize + 1] = self.word(o[2]);
            }
            Op::Unpack { count: 2, wide: true } => {
                self.set(o[0], self.value(o[2], true) & 0xffff_ffff, false);
                self.set(o[1], self.value(o[2], true) >> 32, false);
            }
            Op::Setp { compare, .. } => {
                let (a, b) = (self.word(o[2]), self.word(o[3]));
                let holds = match compare {
                    Compare::Lt => a < b,
                    Compare::Ne => a != b,
                    other => panic!("{other:?}"),
                };
                self.preds[o[0] as usize] = holds;
                if o[1] != NONE {
                    self.preds[o[1] as usize] = !holds;
                }
            }
            Op::Selp { wide } => {
                let from = if self.pred(o[3]) { o[1] } else { o[2] };
                self.set(o[0], self.value(from, wide), wide);
            }
            Op::Pred(op) => {
                let a = self.pred(o[1]);
                self.preds[o[0] as usize] = match op {
                    PredOp::Not => !a,
                    PredOp::Xor => a ^ self.pred(o[2]),
                    other => panic!("{other:?}"),
                };
            }
            ref other => panic!("{other:?}"),
        }
    }
}

/// A value, and which of its bits nothing wrote.
#[derive(Clone, Copy, Default)]
struct Known {
    value: u64,
    lost: u64,
}

/// Runs a body on its syntax tree.
pub fn source(body: &Body) -> Outcome {
    let mut values: HashMap<RegisterId, Known> = HashMap::new();
    let mut stored = Vec::new();
    let mut at = 0;
    for _ in 0..LIMIT {
        let Some(i) = body.instructions.get(at) else { return Ok(stored) };
        at += 1;
        let name = |operand: &Operand| match operand {
            Operand::Register(id) | Operand::NotRegister(id) => body.registers[id.0 as usize].name.clone(),
            other => panic!("{other:?}"),
        };
        let look = |operand: &Operand| match operand {
            Operand::Register(id) => values.get(id).copied().unwrap_or(Known { value: 0, lost: u64::MAX }),
            Operand::NotRegister(id) => {
                let known = values.get(id).copied().unwrap_or(Known { value: 0, lost: u64::MAX });
                Known { value: known.value ^ 1, ..known }
            }
            Operand::Integer(value) => Known { value: *value as u64, lost: 0 },
            other => panic!("{other:?}"),
        };
        let full = format!("{}.{}", i.opcode, i.modifiers.join("."));
        let long = matches!(i.modifiers.last().map(String::as_str), Some("u64" | "b64"));
        let bits = if long { u64::MAX } else { 0xffff_ffff };
        // What all bits of must be defined.
        let read = |operand: &Operand| match look(operand) {
            Known { value, lost } if lost & bits == 0 => Ok(value),
            _ => Err(name(operand)),
        };
        if let Some(guard) = i.guard {
            let value = read(&Operand::Register(guard.register))?;
            if (value != 0) == guard.negated {
                continue;
            }
        }
        let o = &i.operands;
        let cut = |Known { value, lost }: Known| Known { value: value & bits, lost: lost & bits };
        let results = match full.as_str() {
            "ret." => return Ok(stored),
            "bra." => {
                let Operand::Label(label) = o[0] else { panic!() };
                at = body.labels[label.0 as usize].1 as usize;
                continue;
            }
            "st.global.u32" | "st.global.u64" => {
                let Operand::Address(Base::Absolute | Base::Symbol(_), _) = o[0] else { panic!() };
                let Known { value, lost } = cut(look(&o[1]));
                if lost == bits {
                    return Err(name(&o[1]));
                }
                stored.push(value & !lost);
                continue;
            }
            // What is undefined stays so, and nothing is wrong yet.
            "mov.u32" | "mov.u64" => vec![(&o[0], cut(look(&o[1])))],
            "mov.b64" => match (&o[0], &o[1]) {
                (target, Operand::Vector(parts)) => {
                    let (low, high) = (look(&parts[0]), look(&parts[1]));
                    let join = |low: u64, high: u64| low & 0xffff_ffff | high << 32;
                    vec![(
                        target,
                        Known { value: join(low.value, high.value), lost: join(low.lost, high.lost) },
                    )]
                }
                (Operand::Vector(parts), whole) => {
                    let Known { value, lost } = look(whole);
                    let low = Known { value: value & 0xffff_ffff, lost: lost & 0xffff_ffff };
                    vec![(&parts[0], low), (&parts[1], Known { value: value >> 32, lost: lost >> 32 })]
                }
                other => panic!("{other:?}"),
            },
            "xor.b32" => {
                let (a, b) = (look(&o[1]), look(&o[2]));
                vec![(&o[0], cut(Known { value: a.value ^ b.value, lost: a.lost | b.lost }))]
            }
            "xor.pred" => {
                let (a, b) = (look(&o[1]), look(&o[2]));
                vec![(&o[0], Known { value: a.value ^ b.value, lost: a.lost | b.lost })]
            }
            "selp.b32" | "selp.b64" => {
                vec![(&o[0], cut(look(if read(&o[3])? & 1 != 0 { &o[1] } else { &o[2] })))]
            }
            _ => {
                let v = o[1..].iter().map(&read).collect::<Result<Vec<_>, _>>()?;
                let low = |value: u64| value & 0xffff_ffff;
                let result = match full.as_str() {
                    "add.u32" => low(v[0].wrapping_add(v[1])),
                    "add.u64" => v[0].wrapping_add(v[1]),
                    "sub.u32" => low(v[0].wrapping_sub(v[1])),
                    "mad.lo.u32" => low(v[0].wrapping_mul(v[1]).wrapping_add(v[2])),
                    "mul.wide.u32" => low(v[0]) * low(v[1]),
                    "setp.lt.u32" => u64::from(low(v[0]) < low(v[1])),
                    "setp.ne.u32" => u64::from(low(v[0]) != low(v[1])),
                    other => panic!("{other}"),
                };
                let known = |value| Known { value, lost: 0 };
                match &o[0] {
                    Operand::Pair(p, q) => vec![(&**p, known(result)), (&**q, known(result ^ 1))],
                    one => vec![(one, known(result))],
                }
            }
        };
        for (target, known) in results {
            let Operand::Register(id) = target else { panic!("{target:?}") };
            values.insert(*id, known);
        }
    }
    panic!("endless");
}
