//! From the syntax tree to programs: calls inlined, operands resolved, every opcode and modifier accounted for.

mod arithmetic;
mod atomic;
mod compare;
mod control;
mod copy;
mod memory;
mod modifiers;
mod operands;
mod refused;
mod sync;
mod target;
mod variables;
mod warp;

pub use variables::place_variables;

use std::{collections::HashMap, sync::Arc};

use super::{
    allocate,
    lanes::Line,
    op::{CONSTANT, MAX_OPERANDS, Op, Slot, Width, Window},
    program::{Kernel, LoadError, Parameter},
};
use crate::ptx::ast::{
    self, Formal, Function, FunctionId, Location, Module, Operand, Space, Symbol, VariableId,
};

/// Instructions of a kernel at most, with its calls inlined.
const MAX_INSTRUCTIONS: usize = 1 << 20;
/// Registers of a kernel at most, with those of its calls; and jump targets.
const MAX_REGISTERS: usize = 1 << 20;
/// Depth of nested calls at most.
const MAX_DEPTH: usize = 64;
/// Local memory of a thread at most, as on hardware.
const MAX_LOCAL: u32 = 512 << 10;

/// Index of a register of the kernel, every inlined call having its own.
pub type Virtual = u32;

/// Index of a jump target.
pub type Label = u32;

/// An operand before registers are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// Not there, or not wanted.
    None,
    /// A register.
    Reg(Virtual),
    /// A row of constants.
    Const(u16),
    /// A predicate that is always false.
    False,
}

/// An instruction before registers are allocated; branch targets are labels.
#[derive(Clone, Debug)]
pub struct Proto {
    /// What it does.
    pub op: Op,
    /// Its guard and whether that is negated.
    pub guard: Option<(Virtual, bool)>,
    /// How many of `args` it writes.
    pub writes: u8,
    /// Destinations, then sources.
    pub args: [Arg; MAX_OPERANDS],
    /// Where it was written.
    pub location: Location,
}

/// Where a variable lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// Offset in the thread's local memory.
    Local(u32),
    /// Offset in the kernel's parameters.
    Param(u32),
}

/// A function being decoded: the kernel, or a call inlined into it.
struct Frame<'a> {
    body: &'a ast::Body,
    /// First of its registers.
    registers: Virtual,
    /// First of its labels.
    labels: Label,
    /// Its parameters and local variables.
    homes: HashMap<VariableId, Home>,
    /// Where `ret` goes; none in a kernel.
    end: Option<Label>,
}

impl Frame<'_> {
    /// The window of a state space, none for generic addresses: the parameters of a function lie in local memory.
    fn window(&self, space: Option<Space>) -> Window {
        match space {
            Some(Space::Param) if self.end.is_some() => Window::Local,
            space => operands::window(space),
        }
    }

    /// A register of 16 bits has no upper half that an instruction on 32 bits could use.
    fn halves(&self, i: &ast::Instruction) -> Result<(), String> {
        let half = |m: &String| ast::Type::named(m).is_some_and(|ty| ty.size() == 2);
        // Loads, stores and conversions have 8-bit types, which lie in registers of 16 bits or more.
        if matches!(i.opcode.as_str(), "ld" | "ldu" | "st" | "cvt" | "call") || i.modifiers.iter().any(half) {
            return Ok(());
        }
        match i.operands.iter().any(|o| self.bytes(o) == Some(2)) {
            true => Err("a register of 16 bits is too narrow".into()),
            false => Ok(()),
        }
    }

    /// The size of an operand that is a register.
    fn bytes(&self, operand: &Operand) -> Option<u32> {
        match operand {
            Operand::Register(id) => Some(self.body.registers[id.0 as usize].ty.size()),
            _ => None,
        }
    }
}

/// The parameters of a kernel, their bytes, and where each lies.
type Layout = (Vec<Parameter>, u32, HashMap<VariableId, Home>);

/// The state of one kernel's decoding.
struct Decoder<'a> {
    module: &'a Module,
    /// The number of the module's `.target`.
    target: u32,
    /// Device addresses of global and constant variables.
    addresses: &'a HashMap<VariableId, u64>,
    /// Offsets of the shared variables that the kernel reaches.
    shared: HashMap<VariableId, u32>,
    protos: Vec<Proto>,
    widths: Vec<Width>,
    names: Vec<String>,
    labels: Vec<u32>,
    constants: Vec<Line>,
    known: HashMap<(Width, u64), u16>,
    branch_lists: Vec<Vec<Label>>,
    assertions: Vec<[u32; 4]>,
    local: u32,
    /// Functions being inlined, to find recursion.
    stack: Vec<FunctionId>,
    location: Location,
    guard: Option<(Virtual, bool)>,
}

fn unsupported(line: u32, message: impl Into<String>, lines: &[String]) -> LoadError {
    let text = lines.get(line.saturating_sub(1) as usize).cloned().unwrap_or_default();
    LoadError::Unsupported { line, message: message.into(), text: text.trim().to_owned() }
}

/// Decodes every kernel of a module.
pub(super) fn kernels(
    module: &Module,
    addresses: &HashMap<VariableId, u64>,
    lines: &Arc<[String]>,
) -> Result<Vec<Kernel>, LoadError> {
    let files = Arc::new(module.files.iter().cloned().collect::<HashMap<_, _>>());
    let target = module.target.trim_start_matches("sm_").trim_end_matches(|c: char| c.is_alphabetic());
    let target = target
        .parse()
        .map_err(|_| unsupported(1, format!("target {:?} is not an architecture", module.target), lines))?;
    let const_bytes =
        module.variables.iter().filter(|v| v.space == Space::Const).map(|v| v.size).sum::<u64>();
    let mut kernels = Vec::new();
    let mut reached = vec![false; module.functions.len()];
    for (index, function) in module.functions.iter().enumerate() {
        let Some(body) = function.body.as_ref().filter(|_| function.is_entry) else { continue };
        let mut decoder = Decoder::new(module, addresses, target, index);
        let wrap = |line: u32, message: String| {
            unsupported(line, format!("{message} (in kernel {})", function.name), lines)
        };
        let static_shared = decoder.place_shared(index, &mut reached).map_err(|m| wrap(function.line, m))?;
        let (parameters, parameter_bytes, homes) =
            decoder.parameters(function).map_err(|m| wrap(function.line, m))?;
        let mut frame = decoder.frame(body, homes, None).map_err(|m| wrap(function.line, m))?;
        decoder.body(&mut frame).map_err(|m| wrap(decoder.location.line, m))?;
        let local_bytes = decoder.local;
        let mut program = allocate::finish(allocate::Input {
            protos: decoder.protos,
            widths: decoder.widths,
            names: decoder.names,
            labels: decoder.labels,
            branch_lists: decoder.branch_lists,
        })
        .map_err(|(line, message)| wrap(line, message))?;
        program.constants = decoder.constants.into();
        program.assertions = decoder.assertions;
        program.text = lines.clone();
        program.files = files.clone();
        let max = function.max_threads.map_or(1024, |[x, y, z]| x.saturating_mul(y).saturating_mul(z));
        kernels.push(Kernel {
            name: function.name.clone(),
            parameters,
            parameter_bytes,
            static_shared,
            local_bytes,
            const_bytes: const_bytes.min(u64::from(u32::MAX)) as u32,
            registers: (program.rows as u32).clamp(16, 255),
            max_threads: max.min(1024),
            required_threads: function.required_threads,
            ptx_version: module.version.0 * 10 + module.version.1,
            target,
            program,
        });
    }
    for (index, function) in module.functions.iter().enumerate() {
        if !reached[index] && function.body.is_some() {
            check_unused(module, addresses, target, index).map_err(|(line, message)| {
                unsupported(line, format!("{message} (in function {})", function.name), lines)
            })?;
        }
    }
    Ok(kernels)
}

/// Decodes a function that no kernel calls, so that what it cannot do is said at load too.
fn check_unused(
    module: &Module,
    addresses: &HashMap<VariableId, u64>,
    target: u32,
    index: usize,
) -> Result<(), (u32, String)> {
    let function = &module.functions[index];
    let Some(body) = &function.body else { return Ok(()) };
    let mut decoder = Decoder::new(module, addresses, target, index);
    let mut decode = || {
        decoder.place_shared(index, &mut vec![false; module.functions.len()])?;
        let mut homes = HashMap::new();
        for formal in function.returns.iter().chain(&function.params) {
            if let Formal::Variable(id) = *formal {
                let variable = &module.variables[id.0 as usize];
                homes.insert(id, Home::Local(decoder.local_bytes(variable.size, variable.align)?));
            }
        }
        let end = decoder.new_label();
        let mut frame = decoder.frame(body, homes, Some(end))?;
        decoder.body(&mut frame)
    };
    decode().map_err(|message| (decoder.location.line, message))
}

impl<'a> Decoder<'a> {
    fn new(
        module: &'a Module,
        addresses: &'a HashMap<VariableId, u64>,
        target: u32,
        function: usize,
    ) -> Self {
        Self {
            module,
            target,
            addresses,
            shared: HashMap::new(),
            protos: Vec::new(),
            widths: Vec::new(),
            names: Vec::new(),
            labels: Vec::new(),
            constants: Vec::new(),
            known: HashMap::new(),
            branch_lists: Vec::new(),
            assertions: Vec::new(),
            local: 0,
            stack: vec![FunctionId(function as u32)],
            location: Location { line: module.functions[function].line, ..Location::default() },
            guard: None,
        }
    }

    /// Offsets of the shared variables that a kernel and what it calls name; the unsized ones come last.
    /// Marks the functions among `functions`.
    fn place_shared(&mut self, kernel: usize, functions: &mut [bool]) -> Result<u32, String> {
        let mut reached = vec![kernel];
        let mut seen = vec![false; self.module.functions.len()];
        let mut variables = Vec::new();
        while let Some(index) = reached.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            functions[index] = true;
            let Some(body) = &self.module.functions[index].body else { continue };
            for operand in body.instructions.iter().flat_map(|i| &i.operands) {
                symbols(operand, &mut |symbol| match symbol {
                    Symbol::Variable(id) => variables.push(id),
                    Symbol::Function(id) => reached.push(id.0 as usize),
                });
            }
        }
        variables.sort();
        variables.dedup();
        let shared =
            variables.into_iter().filter(|v| self.module.variables[v.0 as usize].space == Space::Shared);
        let (sized, dynamic): (Vec<_>, Vec<_>) =
            shared.partition(|v| self.module.variables[v.0 as usize].size > 0);
        let mut next = 0u64;
        for id in sized {
            let variable = &self.module.variables[id.0 as usize];
            next = next.next_multiple_of(u64::from(variable.align.max(1)));
            self.shared.insert(id, next as u32);
            next = next.saturating_add(variable.size);
            if next > 1 << 20 {
                return Err(format!("more than 1 MiB of shared memory, with {}", variable.name));
            }
        }
        let mut end = next;
        for id in dynamic {
            let align = self.module.variables[id.0 as usize].align.max(1);
            let start = next.next_multiple_of(u64::from(align));
            end = end.max(start);
            self.shared.insert(id, start as u32);
        }
        Ok(end as u32)
    }

    /// Lays the parameters of a kernel out.
    fn parameters(&self, function: &Function) -> Result<Layout, String> {
        let limit = if self.module.version < (8, 1) { 4096 } else { 32764 };
        let mut offset = 0u32;
        let mut homes = HashMap::new();
        let mut parameters = Vec::new();
        for formal in &function.params {
            let Formal::Variable(id) = *formal else {
                return Err("the parameters of a kernel lie in memory".into());
            };
            let variable = &self.module.variables[id.0 as usize];
            let size = variable.size.min(1 << 20) as u32;
            offset = offset.next_multiple_of(variable.align.clamp(1, 512));
            parameters.push(Parameter { offset, size });
            homes.insert(id, Home::Param(offset));
            offset += size;
            if offset > limit {
                return Err(format!("more than {limit} bytes of parameters, with {}", variable.name));
            }
        }
        Ok((parameters, offset, homes))
    }

    /// Registers, labels and local variables for a function.
    fn frame(
        &mut self,
        body: &'a ast::Body,
        mut homes: HashMap<VariableId, Home>,
        end: Option<Label>,
    ) -> Result<Frame<'a>, String> {
        let registers = self.widths.len() as Virtual;
        let more = body.registers.len().max(body.labels.len());
        if self.widths.len().max(self.labels.len()) + more > MAX_REGISTERS {
            return Err(format!("more than {MAX_REGISTERS} registers or labels, calls inlined"));
        }
        for register in &body.registers {
            let width = match (register.ty, register.ty.size()) {
                (ast::Type::Pred, _) => Width::Pred,
                (_, 8) => Width::Wide,
                (_, 16) => return Err(format!("register {} of 128 bits", register.name)),
                _ => Width::Word,
            };
            self.widths.push(width);
            self.names.push(register.name.clone());
        }
        let labels = self.labels.len() as Label;
        self.labels.resize(self.labels.len() + body.labels.len(), u32::MAX);
        for &id in &body.variables {
            let variable = &self.module.variables[id.0 as usize];
            if matches!(variable.space, Space::Local | Space::Param) && !homes.contains_key(&id) {
                homes.insert(id, Home::Local(self.local_bytes(variable.size, variable.align)?));
            }
        }
        Ok(Frame { body, registers, labels, homes, end })
    }

    /// Takes local memory.
    fn local_bytes(&mut self, size: u64, align: u32) -> Result<u32, String> {
        let start = self.local.next_multiple_of(align.clamp(1, 512));
        let end = u64::from(start).saturating_add(size);
        if end > u64::from(MAX_LOCAL) {
            return Err(format!("more than {MAX_LOCAL} bytes of local memory for a thread"));
        }
        self.local = end as u32;
        Ok(start)
    }

    /// A label that stands nowhere yet.
    fn new_label(&mut self) -> Label {
        self.labels.push(u32::MAX);
        (self.labels.len() - 1) as Label
    }

    fn bind(&mut self, label: Label) {
        self.labels[label as usize] = self.protos.len() as u32;
    }

    /// Decodes all instructions of a function.
    fn body(&mut self, frame: &mut Frame<'a>) -> Result<(), String> {
        let mut order: Vec<(u32, Label)> =
            frame.body.labels.iter().enumerate().map(|(i, (_, at))| (*at, frame.labels + i as u32)).collect();
        order.sort_unstable();
        let mut order = order.into_iter().peekable();
        for (index, instruction) in frame.body.instructions.iter().enumerate() {
            while let Some((_, label)) = order.next_if(|(at, _)| *at <= index as u32) {
                self.bind(label);
            }
            self.location = instruction.location;
            self.guard = match instruction.guard {
                Some(guard) => Some((self.register(frame, guard.register, Width::Pred)?, guard.negated)),
                None => None,
            };
            self.instruction(frame, instruction)?;
            self.guard = None;
            if self.protos.len() > MAX_INSTRUCTIONS {
                return Err(format!("more than {MAX_INSTRUCTIONS} instructions, calls inlined"));
            }
        }
        for (_, label) in order {
            self.bind(label);
        }
        // Falling off the end is a return.
        if frame.end.is_none() {
            self.emit(Op::Exit, &[], &[]);
        }
        Ok(())
    }

    /// Adds an instruction under the current guard.
    fn emit(&mut self, op: Op, writes: &[Arg], reads: &[Arg]) {
        let mut args = [Arg::None; MAX_OPERANDS];
        args[..writes.len()].copy_from_slice(writes);
        args[writes.len()..writes.len() + reads.len()].copy_from_slice(reads);
        self.protos.push(Proto {
            op,
            guard: self.guard,
            writes: writes.len() as u8,
            args,
            location: self.location,
        });
    }

    /// A register of the decoder's own, without a name: it is written just before it is read, under the same guard.
    fn temporary(&mut self, width: Width) -> Arg {
        self.widths.push(width);
        self.names.push(String::new());
        Arg::Reg((self.widths.len() - 1) as Virtual)
    }

    /// A constant: the same value in all lanes.
    fn constant(&mut self, width: Width, value: u64) -> Result<Arg, String> {
        let value = if width == Width::Word { value & 0xffff_ffff } else { value };
        if let Some(&at) = self.known.get(&(width, value)) {
            return Ok(Arg::Const(at));
        }
        let at = self.constants.len();
        if at + 2 >= CONSTANT as usize {
            return Err("too many constants".into());
        }
        match width {
            Width::Wide => {
                let mut pair = [Line([0; 32]); 2];
                for (lane, line) in pair.iter_mut().flat_map(|l| &mut l.0).enumerate() {
                    *line = (value >> (lane % 2 * 32)) as u32;
                }
                self.constants.extend(pair);
            }
            _ => self.constants.push(Line([value as u32; 32])),
        }
        self.known.insert((width, value), at as Slot);
        Ok(Arg::Const(at as Slot))
    }
}

/// Every symbol that an operand names.
fn symbols(operand: &Operand, found: &mut impl FnMut(Symbol)) {
    match operand {
        Operand::Symbol(symbol, _) | Operand::Address(ast::Base::Symbol(symbol), _) => found(*symbol),
        Operand::Function(id) => found(Symbol::Function(*id)),
        Operand::Vector(list) | Operand::List(list) => list.iter().for_each(|o| symbols(o, found)),
        Operand::Pair(a, b) => {
            symbols(a, found);
            symbols(b, found);
        }
        _ => {}
    }
}
