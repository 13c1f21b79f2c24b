//! Global and constant variables: their memory and their first contents.

use std::collections::HashMap;

use super::unsupported;
use crate::{
    machine::{
        Device,
        memory::MemoryError,
        program::{LoadError, allocation_kind},
    },
    ptx::ast::{Linkage, Module, Space, Symbol, VariableId},
};

/// What [`place_variables`] did.
pub struct Placed {
    /// Device addresses by variable.
    pub addresses: HashMap<VariableId, u64>,
    /// Device addresses and sizes by name.
    pub named: HashMap<String, (u64, u64)>,
    /// Everything that was allocated.
    pub allocations: Vec<u64>,
}

/// Allocates and initialises the global and constant variables of a module.
pub fn place_variables(device: &Device, module: &Module, lines: &[String]) -> Result<Placed, LoadError> {
    let mut placed = Placed { addresses: HashMap::new(), named: HashMap::new(), allocations: Vec::new() };
    let result = fill_variables(device, module, lines, &mut placed);
    if result.is_err() {
        for &address in &placed.allocations {
            // Allocated just above.
            let _ = device.memory.free(address);
        }
    }
    result.map(|()| placed)
}

fn fill_variables(
    device: &Device,
    module: &Module,
    lines: &[String],
    placed: &mut Placed,
) -> Result<(), LoadError> {
    let memory = |e: MemoryError, name: &str| LoadError::Memory(format!("variable {name}: {e}"));
    for (index, variable) in module.variables.iter().enumerate() {
        if !matches!(variable.space, Space::Global | Space::Const) {
            continue;
        }
        if variable.linkage == Linkage::Extern {
            let message = format!("{} is declared here and defined in no module", variable.name);
            return Err(unsupported(variable.line, message, lines));
        }
        if variable.align > 512 {
            return Err(unsupported(variable.line, "alignment above 512 bytes", lines));
        }
        let address = device
            .memory
            .allocate(variable.size, allocation_kind(variable.space))
            .map_err(|e| memory(e, &variable.name))?;
        placed.allocations.push(address);
        placed.addresses.insert(VariableId(index as u32), address);
        placed.named.insert(variable.name.clone(), (address, variable.size));
    }
    for (index, variable) in module.variables.iter().enumerate() {
        let Some(&address) = placed.addresses.get(&VariableId(index as u32)) else { continue };
        let mut bytes = variable.init.clone();
        for relocation in &variable.relocations {
            let target = match relocation.symbol {
                Symbol::Variable(id) => placed.addresses.get(&id).copied().ok_or_else(|| {
                    let name = &module.variables[id.0 as usize].name;
                    format!("{name} has an address that only a thread knows")
                }),
                Symbol::Function(id) => {
                    let name = &module.functions[id.0 as usize].name;
                    Err(format!("the address of function {name}: indirect calls are not supported"))
                }
            };
            let target = target.map_err(|message| unsupported(variable.line, message, lines))?;
            let value = target.wrapping_add(relocation.addend as u64).to_le_bytes();
            let at = relocation.offset as usize;
            let size = relocation.size as usize;
            let Some(room) = bytes.get_mut(at..at + size).filter(|_| size == 8) else {
                return Err(unsupported(variable.line, "an address takes 8 bytes", lines));
            };
            room.copy_from_slice(&value[..size]);
        }
        if variable.size > 0 {
            // Variables without initialiser are zero, as on hardware.
            device.memory.fill(address, &[0], variable.size).map_err(|e| memory(e, &variable.name))?;
            device.memory.write(address, &bytes).map_err(|e| memory(e, &variable.name))?;
        }
    }
    Ok(())
}
