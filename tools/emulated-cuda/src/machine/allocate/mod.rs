//! From decoded instructions to a program: registers become rows, labels become indices.

mod defined;
mod flow;
mod liveness;
mod rows;

use self::{defined::Undefined, flow::Flow, liveness::Liveness};
use super::{
    decode::{Arg, Label, Proto, Virtual},
    op::{CONSTANT, Inst, NONE, Op, Slot, Width},
    program::Program,
};

/// A kernel before its registers are allocated.
pub struct Input {
    /// The instructions; branch targets are labels.
    pub protos: Vec<Proto>,
    /// Widths of the registers.
    pub widths: Vec<Width>,
    /// Names of the registers, empty for a temporary: one that is written just before it is read, under the same guard.
    pub names: Vec<String>,
    /// Where the labels stand.
    pub labels: Vec<u32>,
    /// Targets of indexed branches.
    pub branch_lists: Vec<Vec<Label>>,
}

impl Input {
    /// Whether a register is the decoder's own.
    fn temporary(&self, register: Virtual) -> bool {
        self.names[register as usize].is_empty()
    }
}

/// The registers that an instruction reads, its guard first.
fn reads(proto: &Proto) -> impl Iterator<Item = Virtual> + '_ {
    let guard = proto.guard.map(|(register, _)| register);
    guard.into_iter().chain(registers(&proto.args[proto.writes as usize..]))
}

/// The registers that an instruction writes.
fn writes(proto: &Proto) -> impl Iterator<Item = Virtual> + '_ {
    registers(&proto.args[..proto.writes as usize])
}

fn registers(args: &[Arg]) -> impl Iterator<Item = Virtual> + '_ {
    args.iter().filter_map(|arg| match arg {
        Arg::Reg(register) => Some(*register),
        _ => None,
    })
}

/// Allocates registers and resolves labels.
///
/// # Errors
/// The line and what is too much for this machine.
pub fn finish(input: Input) -> Result<Program, (u32, String)> {
    let first = input.protos.first().map_or(0, |p| p.location.line);
    let flow = Flow::new(&input).map_err(|m| (first, m))?;
    let liveness = Liveness::new(&input, &flow).map_err(|m| (first, m))?;
    let rows = rows::allocate(&input, &flow, &liveness)?;
    let undefined = Undefined::new(&input, liveness.at_entry()).map_err(|m| (first, m))?;
    let target = |label: Label| input.labels[label as usize];
    let mut program = Program {
        code: Vec::with_capacity(input.protos.len()),
        classes: input.protos.iter().map(|p| p.op.class()).collect(),
        places: input.protos.iter().map(|p| p.location).collect(),
        rows: rows.rows,
        preds: rows.preds,
        branch_lists: input
            .branch_lists
            .iter()
            .map(|list| list.iter().map(|&label| target(label)).collect())
            .collect(),
        ..Program::default()
    };
    for (index, proto) in input.protos.iter().enumerate() {
        let op = match proto.op {
            Op::Branch { target: label, uniform } => Op::Branch { target: target(label), uniform },
            other => other,
        };
        let tracked = undefined.instruction(proto);
        program.code.push(Inst {
            op,
            guard: proto.guard.map_or(NONE, |(register, _)| rows.slots[register as usize]),
            negated: proto.guard.is_some_and(|(_, negated)| negated),
            tracked: tracked.is_some(),
            o: proto.args.map(|arg| slot(arg, &rows.slots)),
        });
        if let Some(tracked) = tracked {
            program.tracked.push((index as u32, tracked));
        }
    }
    (program.tracked_names, program.tracked_widths) = undefined.registers(&input);
    Ok(program)
}

fn slot(arg: Arg, slots: &[Slot]) -> Slot {
    match arg {
        Arg::None => NONE,
        Arg::Reg(register) => slots[register as usize],
        Arg::Const(at) => CONSTANT | at,
        Arg::False => CONSTANT,
    }
}
