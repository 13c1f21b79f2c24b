//! Functions: attributes, names, parameters.

use std::ffi::c_char;

use super::{
    super::{
        attributes::{REGISTERS, SHARED_OPT_IN, WARP},
        ffi::{Out, Text, exports},
        handles::Id,
        state::{Current, State, current},
        status::{Outcome, Status},
    },
    Function, LoadedModule,
};
use crate::machine::Kernel;

const MAX_DYNAMIC_SHARED: u32 = 8;
const CARVEOUT: u32 = 9;
/// Registers that a thread can have.
const MAX_REGISTERS: u32 = 255;
/// Registers are given out in multiples of this.
const REGISTER_UNIT: u32 = 8;

/// Registers of a thread, as ptxas would report them. This machine's own count stands in for ptxas's, with
/// its two bounds: what an instruction can name, and what lets a block of the kernel's largest size run. So a
/// launch never fails for want of registers; whether it would on hardware only ptxas can tell.
pub fn registers(kernel: &Kernel) -> u32 {
    let warps = kernel.max_threads.max(1).div_ceil(WARP).next_multiple_of(4);
    let bound = REGISTERS / (warps * WARP) / REGISTER_UNIT * REGISTER_UNIT;
    kernel.registers.clamp(1, bound.min(MAX_REGISTERS))
}

impl Function {
    /// An attribute by its number.
    pub fn attribute(&self, which: u32) -> Outcome<i32> {
        let kernel = &self.kernel;
        Ok(match which {
            0 => kernel.max_threads as i32,
            1 => kernel.static_shared as i32,
            2 => kernel.const_bytes as i32,
            3 => kernel.local_bytes as i32,
            4 => registers(kernel) as i32,
            // The virtual architecture, and the one that it was compiled for.
            5 => kernel.target as i32,
            6 => super::TARGET as i32,
            MAX_DYNAMIC_SHARED => self.max_dynamic_shared as i32,
            CARVEOUT => self.carveout,
            // Caching, and everything that concerns clusters.
            7 | 10..=15 => 0,
            _ => return Err(Status::INVALID_VALUE),
        })
    }

    /// Sets an attribute.
    pub fn set_attribute(&mut self, which: u32, value: i32) -> Outcome {
        let room = SHARED_OPT_IN.saturating_sub(self.kernel.static_shared);
        match (which, value) {
            (MAX_DYNAMIC_SHARED, 0..) if value as u32 <= room => self.max_dynamic_shared = value as u32,
            (CARVEOUT, -1..=100) => self.carveout = value,
            (11..=15, 0) => {}
            (11..=15, _) => return Err(Status::NOT_SUPPORTED),
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }

    /// Offset and size of a parameter.
    pub fn parameter(&self, index: usize, offset: Out<usize>, size: Out<usize>) -> Outcome {
        let parameter = self.kernel.parameters.get(index).ok_or(Status::INVALID_VALUE)?;
        offset.set(parameter.offset as usize)?;
        size.offer(parameter.size as usize);
        Ok(())
    }
}

impl Current {
    /// The function that a handle means: a kernel of a library stands for its function in the current
    /// context.
    pub fn function(&mut self, handle: Id<Function>) -> Outcome<Id<Function>> {
        if self.state.functions.contains(handle) {
            return Ok(handle);
        }
        super::kernel::function(self, Id::from_raw(handle.raw()))
    }
}

/// Reads something of a function.
fn read<T>(handle: Id<Function>, read: impl FnOnce(&State, &Function) -> Outcome<T>) -> Outcome<T> {
    let mut current = current()?;
    let id = current.function(handle)?;
    read(&current.state, current.state.functions.get(id)?)
}

exports! {
    /// An attribute.
    fn cuFuncGetAttribute(out: Out<i32>, which: u32, function: Id<Function>) {
        out.set(read(function, |_, function| function.attribute(which))?)
    }

    /// Sets an attribute.
    fn cuFuncSetAttribute(function: Id<Function>, which: u32, value: i32) {
        let mut current = current()?;
        let id = current.function(function)?;
        current.state.functions.get_mut(id)?.set_attribute(which, value)
    }

    /// Sets the preferred split of L1 and shared memory, which changes nothing here.
    fn cuFuncSetCacheConfig(function: Id<Function>, config: u32) {
        read(function, |_, _| if config <= 3 { Ok(()) } else { Err(Status::INVALID_VALUE) })
    }

    /// Sets the width of shared memory banks, which this device does not have.
    fn cuFuncSetSharedMemConfig(function: Id<Function>, config: u32) {
        read(function, |_, _| if config <= 2 { Ok(()) } else { Err(Status::INVALID_VALUE) })
    }

    /// The module of a function.
    fn cuFuncGetModule(out: Out<Id<LoadedModule>>, function: Id<Function>) {
        out.set(read(function, |_, function| Ok(function.module))?)
    }

    /// The name of a function, which stays where it is for as long as the module is loaded.
    fn cuFuncGetName(out: Out<*const c_char>, function: Id<Function>) {
        out.set(read(function, |_, function| Ok(function.name.as_ptr()))?)
    }

    /// Offset and size of a parameter.
    fn cuFuncGetParamInfo(function: Id<Function>, index: usize, offset: Out<usize>, size: Out<usize>) {
        read(function, |_, function| function.parameter(index, offset, size))
    }

    /// Whether a function is loaded: always.
    fn cuFuncIsLoaded(out: Out<u32>, function: Id<Function>) {
        out.set(read(function, |_, _| Ok(1))?)
    }

    /// Loads a function: done already.
    fn cuFuncLoad(function: Id<Function>) {
        read(function, |_, _| Ok(()))
    }

    /// Texture references do not exist here.
    fn cuModuleGetTexRef(out: Out<Id<()>>, module: Id<LoadedModule>, name: Text) {
        no_reference(out, module, name)
    }

    /// Surface references do not exist here.
    fn cuModuleGetSurfRef(out: Out<Id<()>>, module: Id<LoadedModule>, name: Text) {
        no_reference(out, module, name)
    }
}

fn no_reference(out: Out<Id<()>>, module: Id<LoadedModule>, name: Text) -> Outcome {
    out.check()?;
    name.get()?;
    current()?.state.modules.get(module)?;
    Err(Status::NOT_FOUND)
}
