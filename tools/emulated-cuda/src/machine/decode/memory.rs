//! Loads, stores, prefetches and conversions of addresses.

use super::{Arg, Decoder, Frame, arithmetic::count, modifiers::Modifiers};
use crate::{
    machine::op::{Address, Op, Order, Scope, Shape, Width, Window},
    ptx::ast::{Base, Instruction, Operand, Space, Symbol, Type},
};

/// What the modifiers of a load or store say. Like ptxas, this takes them in any order, each kind once.
#[derive(Default)]
struct Access<'i> {
    order: Option<&'i str>,
    scope: Option<Scope>,
    mmio: bool,
    space: Option<Space>,
    /// `.param::entry`: of the kernel, in a function too.
    entry: bool,
    cache: Option<&'i str>,
    /// Eviction from L1.
    eviction: Option<&'i str>,
    prefetch: Option<&'i str>,
    /// `.L2::cache_hint`: one more operand.
    policy: bool,
    /// `.nc`
    constant: bool,
    unified: bool,
    vector: Option<&'i str>,
}

/// Sets what may be said once.
pub(super) fn once<T>(slot: &mut Option<T>, value: T, name: &str) -> Result<(), String> {
    match slot.replace(value) {
        Some(_) => Err(format!("a second modifier like .{name}")),
        None => Ok(()),
    }
}

fn flag(slot: &mut bool, name: &str) -> Result<(), String> {
    if std::mem::replace(slot, true) { Err(format!("a second modifier like .{name}")) } else { Ok(()) }
}

const EVICTIONS: &[&str] =
    &["L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"];

impl<'i> Access<'i> {
    fn parse(i: &'i Instruction) -> Result<(Self, Type), String> {
        let (orders, caches, load): (&[&str], &[&str], bool) = match i.opcode.as_str() {
            "ld" => (&["weak", "volatile", "relaxed", "acquire"], &["ca", "cg", "cs", "lu", "cv"], true),
            "ldu" => (&[], &[], false),
            _ => (&["weak", "volatile", "relaxed", "release"], &["wb", "cg", "cs", "wt"], false),
        };
        let plain = i.opcode != "ldu";
        let mut m = Modifiers::new(i);
        let mut access = Self::default();
        loop {
            let name = m.peek().unwrap_or_default();
            if m.any(orders).is_some() {
                once(&mut access.order, name, name)?;
            } else if plain && m.take("mmio") {
                flag(&mut access.mmio, name)?;
            } else if plain && let Some(scope) = m.scope()? {
                once(&mut access.scope, scope, name)?;
            } else if let Some(space) = m.space()? {
                access.entry = name == "param::entry";
                once(&mut access.space, space, name)?;
            } else if m.any(caches).is_some() {
                once(&mut access.cache, name, name)?;
            } else if plain && m.any(EVICTIONS).is_some() {
                once(&mut access.eviction, name, name)?;
            } else if load && m.any(&["L2::64B", "L2::128B", "L2::256B"]).is_some() {
                once(&mut access.prefetch, name, name)?;
            } else if plain && m.take("L2::cache_hint") {
                flag(&mut access.policy, name)?;
            } else if load && m.take("nc") {
                flag(&mut access.constant, name)?;
            } else if load && m.take("unified") {
                flag(&mut access.unified, name)?;
            } else if m.any(&["v2", "v4"]).is_some() {
                once(&mut access.vector, name, name)?;
            } else {
                break;
            }
        }
        match m.peek() {
            Some("v8") => return Err("vectors of 8 (sm_100) are not supported".into()),
            Some(name) if name.starts_with("L2::evict") => {
                return Err(format!(".{name} (sm_100) is not supported"));
            }
            Some("async" | "bulk") => return Err("bulk and remote copies (sm_90) are not supported".into()),
            _ => {}
        }
        let ty = m.ty()?;
        m.done()?;
        access.check(ty)?;
        Ok((access, ty))
    }

    /// What cannot go together.
    fn check(&self, ty: Type) -> Result<(), String> {
        let scoped = matches!(self.order, Some("relaxed" | "acquire" | "release"));
        let order = self.order.unwrap_or("weak");
        if scoped && self.scope.is_none() {
            return Err(format!(".{order} needs a scope"));
        }
        if !scoped && self.scope.is_some() {
            return Err(format!("a {order} access has no scope"));
        }
        if scoped && !matches!(self.space, None | Some(Space::Global | Space::Shared)) {
            return Err(format!(".{order} is for global and shared memory"));
        }
        if self.mmio && order != "relaxed" {
            return Err(".mmio needs .relaxed".into());
        }
        if (self.cache.is_some() || self.constant) && order != "weak" {
            return Err(format!("a {order} access has no cache operator"));
        }
        if self.eviction.is_some() && order == "volatile" {
            return Err("a volatile access has no eviction priority".into());
        }
        if self.constant && self.space != Some(Space::Global) {
            return Err(".nc is for global memory".into());
        }
        let bytes = self.count() as u32 * ty.size();
        match ty {
            Type::B128 => Err("accesses of 128-bit registers are not supported".into()),
            Type::Pred | Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 => {
                Err(format!("{ty:?} is no type of a load or store"))
            }
            _ if bytes > 16 => Err(format!("{bytes} bytes at once (sm_100) are not supported")),
            _ => Ok(()),
        }
    }

    fn count(&self) -> u8 {
        match self.vector {
            Some("v2") => 2,
            Some(_) => 4,
            None => 1,
        }
    }

    /// The threads that a strong access is for: all where it does not say, as `volatile`.
    fn strong(&self) -> Option<Scope> {
        match self.order {
            None | Some("weak") => None,
            _ => Some(self.scope.unwrap_or(Scope::Device)),
        }
    }
}

/// The `count` registers that a load or store names.
fn elements(operand: &Operand, count: u8) -> Result<&[Operand], String> {
    match operand {
        Operand::Vector(list) if count > 1 && list.len() == count as usize => Ok(list),
        Operand::Vector(list) => Err(format!("a vector of {} where {count} is wanted", list.len())),
        _ if count > 1 => Err(format!("a vector of {count} is wanted")),
        one => Ok(std::slice::from_ref(one)),
    }
}

impl<'a> Decoder<'a> {
    /// Loads, stores, atomics, copies and addresses; false if it is none.
    pub(super) fn memory_op(&mut self, frame: &Frame, i: &Instruction) -> Result<bool, String> {
        match i.opcode.as_str() {
            "ld" | "ldu" => self.load(frame, i)?,
            "st" => self.store(frame, i)?,
            "atom" | "red" => self.atomic(frame, i)?,
            "cp" => self.copy(frame, i)?,
            "isspacep" => self.isspacep(frame, i)?,
            "cvta" => self.cvta(frame, i)?,
            "prefetch" | "prefetchu" | "discard" | "applypriority" => self.hint(frame, i)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether the registers of an access have 64 bits: at least as many as its type, and all alike.
    fn wide_data(&self, frame: &Frame, list: &[Operand], ty: Type) -> Result<bool, String> {
        let mut found = None;
        for operand in list {
            let Some(width) = self.width(frame, operand) else { continue };
            let Some(bytes) = frame.bytes(operand).filter(|_| width != Width::Pred) else {
                return Err("a predicate is not loaded or stored".into());
            };
            if bytes < ty.size() {
                return Err(format!("a register of {bytes} bytes for {ty:?}"));
            }
            if found.is_some_and(|f| f != width) {
                return Err("the registers of a vector differ in size".into());
            }
            found = Some(width);
        }
        Ok(found.map_or(ty.size() == 8, |width| width == Width::Wide))
    }

    /// The cache policy, which is checked and not used.
    pub(super) fn policy(&mut self, frame: &Frame, i: &Instruction, given: bool) -> Result<(), String> {
        if given {
            let policy = i.operands.last().ok_or("a cache policy is missing")?;
            self.source(frame, policy, Width::Wide)?;
        }
        Ok(())
    }

    /// The address of a load or store; `.param::entry` reaches the kernel's parameters from a function too.
    fn access_address(
        &mut self,
        frame: &Frame,
        operand: &Operand,
        access: &Access,
    ) -> Result<(Address, Arg), String> {
        let (mut address, base) = self.address(frame, operand, access.space)?;
        if access.entry && matches!(operand, Operand::Address(Base::Register(_), _)) {
            address.window = Window::Param;
        }
        Ok((address, base))
    }

    fn load(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let (access, ty) = Access::parse(i)?;
        if i.opcode == "ldu" && !matches!(access.space, None | Some(Space::Global)) {
            return Err("ldu is for global memory".into());
        }
        let operands = 2 + usize::from(access.policy);
        count(i, operands..=operands)?;
        let elements = elements(&i.operands[0], access.count())?;
        let wide = self.wide_data(frame, elements, ty)?;
        let width = if wide { Width::Wide } else { Width::Word };
        let targets = elements
            .iter()
            .map(|e| match access.vector {
                Some(_) => self.target_or_sink(frame, e, width),
                None => self.target(frame, e, width),
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.policy(frame, i, access.policy)?;
        let (address, base) = self.access_address(frame, &i.operands[1], &access)?;
        let signed = matches!(ty, Type::S8 | Type::S16 | Type::S32 | Type::S64);
        let shape =
            Shape { count: access.count(), bytes: ty.size() as u8, signed, wide, strong: access.strong() };
        let order = if access.order == Some("acquire") { Order::Acquire } else { Order::None };
        self.emit(Op::Load(address, shape, order), &targets, &[base]);
        Ok(())
    }

    fn store(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let (access, ty) = Access::parse(i)?;
        if access.space == Some(Space::Const) {
            return Err("constants cannot be written".into());
        }
        let operands = 2 + usize::from(access.policy);
        count(i, operands..=operands)?;
        let (address, base) = self.access_address(frame, &i.operands[0], &access)?;
        if address.window == Window::Param {
            return Err("the parameters of a kernel cannot be written".into());
        }
        let elements = elements(&i.operands[1], access.count())?;
        let wide = self.wide_data(frame, elements, ty)?;
        let width = if wide { Width::Wide } else { Width::Word };
        let mut reads = vec![base];
        for element in elements {
            super::operands::literal(element, ty)?;
            reads.push(self.source(frame, element, width)?);
        }
        self.policy(frame, i, access.policy)?;
        let shape = Shape {
            count: access.count(),
            bytes: ty.size() as u8,
            signed: false,
            wide,
            strong: access.strong(),
        };
        let order = if access.order == Some("release") { Order::Release } else { Order::None };
        self.emit(Op::Store(address, shape, order), &[], &reads);
        Ok(())
    }

    /// Prefetches and the like, which change nothing here: only their operands are checked.
    fn hint(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let mut m = Modifiers::new(i);
        if m.peek() == Some("tensormap") {
            return Err("tensor maps (sm_90) are not supported".into());
        }
        let space = m.space()?;
        let (spaces, levels, size): (&[_], &[_], _) = match (i.opcode.as_str(), space) {
            ("prefetch", Some(Space::Global)) => {
                (&[Space::Global], &["L1", "L2", "L2::evict_last", "L2::evict_normal"], false)
            }
            ("prefetch", _) => (&[Space::Local], &["L1", "L2"], false),
            ("prefetchu", _) => (&[], &["L1"], false),
            ("discard", _) => (&[Space::Global], &["L2"], true),
            _ => (&[Space::Global], &["L2::evict_normal"], true),
        };
        if let Some(space) = space.filter(|s| !spaces.contains(s)) {
            return Err(format!("{space:?} memory has no {}", i.opcode));
        }
        if m.any(levels).is_none() {
            return Err(match m.peek() {
                Some(name) => format!("modifier .{name} is not known here"),
                None => "a cache level is missing".into(),
            });
        }
        m.done()?;
        let operands = 1 + usize::from(size);
        count(i, operands..=operands)?;
        self.address(frame, &i.operands[0], space)?;
        if size && i.operands[1] != Operand::Integer(128) {
            return Err("its size must be 128".into());
        }
        self.emit(Op::Nop, &[], &[]);
        Ok(())
    }

    fn isspacep(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let mut m = Modifiers::new(i);
        let window = match m.space()? {
            Some(Space::Const) => return Err("isspacep.const is not supported".into()),
            Some(space) => super::operands::window(Some(space)),
            None => return Err("a state space is missing".into()),
        };
        m.done()?;
        count(i, 2..=2)?;
        let to = self.target(frame, &i.operands[0], Width::Pred)?;
        let address = self.source(frame, &i.operands[1], Width::Wide)?;
        self.emit(Op::IsSpace(window), &[to], &[address]);
        Ok(())
    }

    fn cvta(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let mut m = Modifiers::new(i);
        let to = m.take("to");
        let Some(space) = m.space()? else { return Err("a state space is missing".into()) };
        match m.ty()? {
            Type::U64 => m.done()?,
            _ => return Err("addresses have 64 bits".into()),
        }
        count(i, 2..=2)?;
        let source = match &i.operands[1] {
            Operand::Symbol(..) if to => return Err("a variable has no generic address to convert".into()),
            symbol @ Operand::Symbol(..) => {
                self.in_space(symbol, space)?;
                self.source(frame, symbol, Width::Wide)?
            }
            other => self.source(frame, other, Width::Wide)?,
        };
        let target = self.target(frame, &i.operands[0], Width::Wide)?;
        let window = match &i.operands[1] {
            // The home of a function's parameter may be the kernel's parameters.
            Operand::Symbol(Symbol::Variable(id), _) => self.place(frame, *id)?.0,
            _ => frame.window(Some(space)),
        };
        self.emit(Op::Cvta { window, to }, &[target], &[source]);
        Ok(())
    }
}
