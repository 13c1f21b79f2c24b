//! Operands: registers, constants, addresses.

use super::{Arg, Decoder, Frame, Home, Virtual};
use crate::{
    machine::{
        op::{Address, Op, Special, Width, Window},
        windows,
    },
    ptx::ast::{Base, Operand, RegisterId, Space, Symbol, Type, VariableId},
};

/// The width of a register for a type.
pub(super) fn width_of(ty: Type) -> Result<Width, String> {
    match (ty, ty.size()) {
        (Type::Pred, _) => Ok(Width::Pred),
        (_, 16) => Err("operands of 128 bits are not supported".into()),
        (_, 8) => Ok(Width::Wide),
        _ => Ok(Width::Word),
    }
}

impl<'a> Decoder<'a> {
    /// A register of a function, which must have a width.
    pub(super) fn register(&self, frame: &Frame, id: RegisterId, width: Width) -> Result<Virtual, String> {
        let register = frame.registers + id.0;
        let found = self.widths[register as usize];
        if found != width {
            let name = &self.names[register as usize];
            return Err(format!("register {name} has the wrong size: {found:?} where {width:?} is needed"));
        }
        Ok(register)
    }

    /// The width of an operand that is a register.
    pub(super) fn width(&self, frame: &Frame, operand: &Operand) -> Option<Width> {
        match operand {
            Operand::Register(id) => Some(self.widths[(frame.registers + id.0) as usize]),
            _ => None,
        }
    }

    /// A destination.
    pub(super) fn target(&self, frame: &Frame, operand: &Operand, width: Width) -> Result<Arg, String> {
        match operand {
            Operand::Register(id) => Ok(Arg::Reg(self.register(frame, *id, width)?)),
            Operand::Sink => Err("its result cannot be discarded".into()),
            other => Err(format!("{} cannot be written to", noun(other))),
        }
    }

    /// A destination that may be `_`.
    pub(super) fn target_or_sink(
        &self,
        frame: &Frame,
        operand: &Operand,
        width: Width,
    ) -> Result<Arg, String> {
        match operand {
            Operand::Sink => Ok(Arg::None),
            other => self.target(frame, other, width),
        }
    }

    /// A source of `width`.
    pub(super) fn source(&mut self, frame: &Frame, operand: &Operand, width: Width) -> Result<Arg, String> {
        match operand {
            Operand::Register(id) => Ok(Arg::Reg(self.register(frame, *id, width)?)),
            Operand::Integer(value) => self.constant(width, *value as u64),
            Operand::F32(bits) => match width {
                Width::Wide => self.constant(width, f64::from(f32::from_bits(*bits)).to_bits()),
                _ => self.constant(width, u64::from(*bits)),
            },
            Operand::F64(bits) => match width {
                Width::Wide => self.constant(width, *bits),
                _ => self.constant(width, u64::from((f64::from_bits(*bits) as f32).to_bits())),
            },
            Operand::Special(name, _) => Err(format!("special register {name} is read by mov and cvt only")),
            Operand::Symbol(symbol, offset) => {
                let (window, address) = self.address_of(frame, *symbol)?;
                if window == Window::Global && width != Width::Wide {
                    return Err("a global address has 64 bits".into());
                }
                self.constant(width, address.wrapping_add(*offset as u64))
            }
            other => Err(format!("{} where a value is wanted", noun(other))),
        }
    }

    /// A predicate and whether it is inverted.
    pub(super) fn predicate(&mut self, frame: &Frame, operand: &Operand) -> Result<(Arg, bool), String> {
        match operand {
            Operand::Register(id) => Ok((Arg::Reg(self.register(frame, *id, Width::Pred)?), false)),
            Operand::NotRegister(id) => Ok((Arg::Reg(self.register(frame, *id, Width::Pred)?), true)),
            Operand::Integer(0) => Ok((Arg::False, false)),
            Operand::Integer(_) => Ok((Arg::False, true)),
            other => Err(format!("{} where a predicate is wanted", noun(other))),
        }
    }

    /// Reads a special register into `to`.
    pub(super) fn special(
        &mut self,
        name: &str,
        component: Option<char>,
        to: Arg,
        width: Width,
    ) -> Result<(), String> {
        let (special, wide) = special(name, component)?;
        if wide != (width == Width::Wide) {
            return Err(format!("special register {name} has another size"));
        }
        self.emit(Op::Special(special), &[to], &[]);
        Ok(())
    }

    /// The address of a symbol in its own state space.
    fn address_of(&self, frame: &Frame, symbol: Symbol) -> Result<(Window, u64), String> {
        match symbol {
            Symbol::Variable(id) => self.place(frame, id),
            Symbol::Function(id) => {
                let name = &self.module.functions[id.0 as usize].name;
                Err(format!("the address of function {name}: indirect calls are not supported"))
            }
        }
    }

    /// A variable must lie in the state space that an instruction names.
    pub(super) fn in_space(&self, operand: &Operand, space: Space) -> Result<(), String> {
        let (Operand::Symbol(Symbol::Variable(id), _)
        | Operand::Address(Base::Symbol(Symbol::Variable(id)), _)) = operand
        else {
            return Ok(());
        };
        let variable = &self.module.variables[id.0 as usize];
        if variable.space != space {
            return Err(format!("{} lies in {:?} memory, not in {space:?}", variable.name, variable.space));
        }
        Ok(())
    }

    /// The window of a variable and its address there.
    pub(super) fn place(&self, frame: &Frame, id: VariableId) -> Result<(Window, u64), String> {
        let variable = &self.module.variables[id.0 as usize];
        let missing = || format!("variable {} is out of reach", variable.name);
        match variable.space {
            Space::Global | Space::Const => {
                Ok((Window::Global, *self.addresses.get(&id).ok_or_else(missing)?))
            }
            Space::Shared => Ok((Window::Shared, u64::from(*self.shared.get(&id).ok_or_else(missing)?))),
            Space::Local | Space::Param => match frame.homes.get(&id).ok_or_else(missing)? {
                Home::Local(offset) => Ok((Window::Local, u64::from(*offset))),
                Home::Param(offset) => Ok((Window::Param, u64::from(*offset))),
            },
        }
    }

    /// `[base + offset]` of an access to a state space, none for generic: the address and its register.
    pub(super) fn address(
        &mut self,
        frame: &Frame,
        operand: &Operand,
        space: Option<Space>,
    ) -> Result<(Address, Arg), String> {
        let Operand::Address(base, offset) = operand else {
            return Err(format!("{} where an address is wanted", noun(operand)));
        };
        if let Some(space) = space {
            self.in_space(operand, space)?;
        }
        let short = i32::try_from(*offset).map_err(|_| format!("offset {offset} does not fit 32 bits"))?;
        let window = frame.window(space);
        match base {
            Base::Register(id) => {
                let register = frame.registers + id.0;
                let wide = match self.widths[register as usize] {
                    Width::Word => false,
                    Width::Wide => true,
                    Width::Pred => return Err("a predicate is not an address".into()),
                };
                if !wide && matches!(window, Window::Generic | Window::Global) {
                    return Err("a global or generic address has 64 bits".into());
                }
                Ok((Address { window, wide, offset: short }, Arg::Reg(register)))
            }
            Base::Symbol(Symbol::Variable(id)) => {
                let (home, at) = self.place(frame, *id)?;
                let at = at.wrapping_add(*offset as u64);
                if window == Window::Generic || window == Window::Global {
                    let base = self.constant(Width::Wide, at.wrapping_add(windows::base(home)))?;
                    return Ok((Address { window, wide: true, offset: 0 }, base));
                }
                // The home of a parameter may be the caller's memory, or the kernel's parameters.
                let offset = i32::try_from(at as i64).map_err(|_| "the offset is too large".to_owned())?;
                Ok((Address { window: home, wide: false, offset }, Arg::None))
            }
            Base::Symbol(Symbol::Function(_)) => Err("a function cannot be read or written".into()),
            Base::Absolute => {
                let base = self.constant(Width::Wide, *offset as u64)?;
                Ok((Address { window, wide: true, offset: 0 }, base))
            }
        }
    }
}

/// The window of a state space, none for generic addresses.
pub(super) fn window(space: Option<Space>) -> Window {
    match space {
        None => Window::Generic,
        Some(Space::Global | Space::Const) => Window::Global,
        Some(Space::Shared) => Window::Shared,
        Some(Space::Local) => Window::Local,
        Some(Space::Param) => Window::Param,
    }
}

/// What an operand is, for messages.
pub(super) fn noun(operand: &Operand) -> &'static str {
    match operand {
        Operand::Register(_) => "a register",
        Operand::NotRegister(_) => "an inverted predicate",
        Operand::Special(..) => "a special register",
        Operand::Integer(_) => "an integer literal",
        Operand::F32(_) | Operand::F64(_) => "a float literal",
        Operand::Symbol(..) => "a symbol",
        Operand::Address(..) => "an address",
        Operand::Vector(_) => "a vector",
        Operand::Pair(..) => "a pair",
        Operand::Sink => "_",
        Operand::Label(_) | Operand::BranchTargets(_) => "a label",
        Operand::Function(_) | Operand::Prototype(_) => "a function",
        Operand::List(_) => "a list",
    }
}

/// A literal must be of the kind of its type: integers for integers, floats for floats, `0f` forms for bits too.
pub(super) fn literal(operand: &Operand, ty: Type) -> Result<(), String> {
    let float = matches!(ty, Type::F32 | Type::F64 | Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2);
    let bits = matches!(ty, Type::B8 | Type::B16 | Type::B32 | Type::B64);
    let fits = match operand {
        Operand::Integer(_) => !float,
        Operand::F32(_) => matches!(ty, Type::F32 | Type::F64) || bits && ty.size() == 4,
        Operand::F64(_) => matches!(ty, Type::F32 | Type::F64) || bits && ty.size() == 8,
        _ => true,
    };
    if fits { Ok(()) } else { Err(format!("{} where {ty:?} is wanted", noun(operand))) }
}

/// A special register and whether it has 64 bits.
fn special(name: &str, component: Option<char>) -> Result<(Special, bool), String> {
    let axis = match component {
        Some('x') => Some(0),
        Some('y') => Some(1),
        Some('z') => Some(2),
        _ => None,
    };
    let narrow = match (name, axis) {
        ("%tid", Some(axis)) => Special::Tid(axis),
        ("%ntid", Some(axis)) => Special::Ntid(axis),
        ("%ctaid", Some(axis)) => Special::Ctaid(axis),
        ("%nctaid", Some(axis)) => Special::Nctaid(axis),
        ("%laneid", None) => Special::LaneId,
        ("%warpid", None) => Special::WarpId,
        ("%nwarpid", None) => Special::NWarpId,
        ("%smid", None) => Special::SmId,
        ("%nsmid", None) => Special::NSmId,
        ("%gridid", None) => return Ok((Special::GridId, true)),
        ("%lanemask_eq", None) => Special::LaneMaskEq,
        ("%lanemask_le", None) => Special::LaneMaskLe,
        ("%lanemask_lt", None) => Special::LaneMaskLt,
        ("%lanemask_ge", None) => Special::LaneMaskGe,
        ("%lanemask_gt", None) => Special::LaneMaskGt,
        ("%clock", None) => Special::Clock,
        ("%clock_hi", None) => Special::ClockHi,
        ("%clock64", None) => return Ok((Special::Clock64, true)),
        ("%globaltimer", None) => return Ok((Special::GlobalTimer, true)),
        ("%globaltimer_lo", None) => Special::GlobalTimerLo,
        ("%globaltimer_hi", None) => Special::GlobalTimerHi,
        ("%dynamic_smem_size", None) => Special::DynamicShared,
        ("%total_smem_size", None) => Special::TotalShared,
        _ if name.starts_with("%pm") && name.ends_with("_64") => return Ok((Special::Zero, true)),
        _ if name.starts_with("%envreg") || name.starts_with("%pm") || name.starts_with("%reserved_smem") => {
            Special::Zero
        }
        _ => return Err(format!("special register {name} with component {component:?} is not supported")),
    };
    Ok((narrow, false))
}
