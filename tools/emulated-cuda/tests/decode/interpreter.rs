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

/// What a thread did: the values that it stored in global memory, or that it read something undefined.
pub type Outcome = Result<Vec<u64>, String>;

/// Instructions until a program counts as endless.
const LIMIT: usize = 100_000;

/// Runs a program on rows.
pub fn decoded(program: &Program) -> Outcome {
    let mut thread = Thread {
        program,
        rows: vec![0xdead_beef; program.rows],
        preds: vec![true; program.preds],
        undefined: vec![true; program.tracked_names.len()],
        local: vec![0; 4096],
    };
    let mut stored = Vec::new();
    let mut pc = 0;
    for _ in 0..LIMIT {
        let inst = &program.code[pc];
        let tracked = program.tracked.get(&(pc as u32)).cloned().unwrap_or_default();
        assert_eq!(inst.tracked, program.tracked.contains_key(&(pc as u32)));
        pc += 1;
        if tracked.guard.is_some_and(|g| thread.undefined[g as usize]) {
            return Err(program.tracked_names[tracked.guard.unwrap() as usize].clone());
        }
        if inst.guard != NONE && thread.preds[inst.guard as usize] == inst.negated {
            continue;
        }
        if let Some(&read) = tracked.reads.iter().find(|&&r| thread.undefined[r as usize]) {
            return Err(program.tracked_names[read as usize].clone());
        }
        let lost = tracked.copies.iter().any(|&r| thread.undefined[r as usize]);
        for &write in &tracked.writes {
            thread.undefined[write as usize] = lost;
        }
        let o = &inst.o;
        match inst.op {
            Op::Exit => return Ok(stored),
            Op::Branch { target, .. } => pc = target as usize,
            Op::BranchIndexed { list } => {
                pc = program.branch_lists[list as usize][thread.word(o[0]) as usize] as usize;
            }
            Op::Store(address, shape, _) if address.window == Window::Global => {
                stored.push(thread.value(o[1], shape.wide));
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
    undefined: Vec<bool>,
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

/// Runs a body on its syntax tree.
pub fn source(body: &Body) -> Outcome {
    let mut values: HashMap<RegisterId, u64> = HashMap::new();
    let mut stored = Vec::new();
    let mut at = 0;
    for _ in 0..LIMIT {
        let Some(i) = body.instructions.get(at) else { return Ok(stored) };
        at += 1;
        let name = |id: RegisterId| body.registers[id.0 as usize].name.clone();
        let read = |values: &HashMap<RegisterId, u64>, operand: &Operand| match operand {
            Operand::Register(id) => values.get(id).copied().ok_or_else(|| name(*id)),
            Operand::NotRegister(id) => values.get(id).map(|v| v ^ 1).ok_or_else(|| name(*id)),
            Operand::Integer(value) => Ok(*value as u64),
            other => panic!("{other:?}"),
        };
        if let Some(guard) = i.guard {
            let value = read(&values, &Operand::Register(guard.register))?;
            if (value != 0) == guard.negated {
                continue;
            }
        }
        let full = format!("{}.{}", i.opcode, i.modifiers.join("."));
        let o = &i.operands;
        let long = matches!(i.modifiers.last().map(String::as_str), Some("u64" | "b64"));
        let cut = |value: u64| if long { value } else { value & 0xffff_ffff };
        match full.as_str() {
            "ret." => return Ok(stored),
            "bra." => {
                let Operand::Label(label) = o[0] else { panic!() };
                at = body.labels[label.0 as usize].1 as usize;
            }
            "st.global.u32" | "st.global.u64" => {
                let Operand::Address(Base::Absolute | Base::Symbol(_), _) = o[0] else { panic!() };
                stored.push(cut(read(&values, &o[1])?));
            }
            // Copies: what is undefined stays so, and nothing is wrong yet.
            "mov.u32" | "mov.u64" => {
                let value = read(&values, &o[1]).map(cut);
                copy(&mut values, &o[0], value);
            }
            "mov.b64" => match (&o[0], &o[1]) {
                (target, Operand::Vector(parts)) => {
                    let parts: Result<Vec<u64>, String> = parts.iter().map(|p| read(&values, p)).collect();
                    let whole = parts.map(|p| p[0] & 0xffff_ffff | p[1] << 32);
                    copy(&mut values, target, whole);
                }
                (Operand::Vector(parts), whole) => {
                    let whole = read(&values, whole);
                    copy(&mut values, &parts[0], whole.clone().map(|w| w & 0xffff_ffff));
                    copy(&mut values, &parts[1], whole.map(|w| w >> 32));
                }
                other => panic!("{other:?}"),
            },
            _ => {
                let v = o[1..].iter().map(|x| read(&values, x)).collect::<Result<Vec<_>, _>>()?;
                let result = match full.as_str() {
                    "add.u32" | "add.u64" => cut(v[0].wrapping_add(v[1])),
                    "sub.u32" => cut(v[0].wrapping_sub(v[1])),
                    "xor.b32" => cut(v[0] ^ v[1]),
                    "mad.lo.u32" => cut(v[0].wrapping_mul(v[1]).wrapping_add(v[2])),
                    "mul.wide.u32" => (v[0] & 0xffff_ffff) * (v[1] & 0xffff_ffff),
                    "setp.lt.u32" => u64::from(cut(v[0]) < cut(v[1])),
                    "setp.ne.u32" => u64::from(cut(v[0]) != cut(v[1])),
                    "selp.b32" | "selp.b64" => cut(if v[2] & 1 != 0 { v[0] } else { v[1] }),
                    "not.pred" => v[0] ^ 1,
                    "xor.pred" => v[0] ^ v[1],
                    other => panic!("{other}"),
                };
                match &o[0] {
                    Operand::Pair(p, q) => {
                        copy(&mut values, p, Ok(result));
                        copy(&mut values, q, Ok(result ^ 1));
                    }
                    one => copy(&mut values, one, Ok(result)),
                }
            }
        }
    }
    panic!("endless");
}

fn copy(values: &mut HashMap<RegisterId, u64>, target: &Operand, value: Result<u64, String>) {
    let Operand::Register(id) = target else { panic!("{target:?}") };
    match value {
        Ok(value) => _ = values.insert(*id, value),
        Err(_) => _ = values.remove(id),
    }
}
