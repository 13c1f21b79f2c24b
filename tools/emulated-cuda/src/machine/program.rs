//! A module as the machine runs it.

use std::{collections::HashMap, sync::Arc};

use super::{
    Device,
    counters::Class,
    decode,
    lanes::Line,
    memory::AllocationKind,
    op::{Inst, Width},
};
use crate::ptx::{ParseError, ast::Location};

/// A module could not be loaded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The text is not PTX.
    #[error("PTX {0}")]
    Parse(#[from] ParseError),
    /// An instruction or directive that this machine does not know.
    #[error("PTX line {line}: {message}\n  {text}")]
    Unsupported {
        /// Line, from 1.
        line: u32,
        /// What is not known.
        message: String,
        /// The line's text.
        text: String,
    },
    /// No memory for its variables.
    #[error("{0}")]
    Memory(String),
}

/// Offset and size of a kernel parameter in the parameter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Bytes from the start.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// Operands of an instruction that may have undefined bits when it runs: their places among its operands, and their registers
/// by index among the tracked.
#[derive(Clone, Debug, Default)]
pub struct Tracked {
    /// Its guard: a fault where it is undefined.
    pub guard: Option<u16>,
    /// How many operands it writes.
    pub writes: u8,
    /// Those that it reads where its guard holds.
    pub sources: Vec<(u8, u16)>,
    /// Those that it writes.
    pub targets: Vec<(u8, u16)>,
}

/// The instructions of a kernel with every call inlined.
#[derive(Debug, Default)]
pub struct Program {
    /// The instructions.
    pub code: Vec<Inst>,
    /// The class that each is counted in.
    pub classes: Vec<Class>,
    /// Where each was written.
    pub places: Vec<Location>,
    /// Constants that the instructions use as operands.
    pub constants: Arc<[Line]>,
    /// Rows of registers that a warp needs.
    pub rows: usize,
    /// Predicates that a warp needs.
    pub preds: usize,
    /// Names of the registers that may be read before they are written, or have bits of such.
    pub tracked_names: Vec<String>,
    /// Their widths.
    pub tracked_widths: Vec<Width>,
    /// What instructions do to them, each with the index of the instruction, in their order.
    pub tracked: Vec<(u32, Tracked)>,
    /// Targets of indexed branches.
    pub branch_lists: Vec<Vec<u32>>,
    /// Local offsets of the parameters of assertions.
    pub assertions: Vec<[u32; 4]>,
    /// The text of the module, by lines.
    pub text: Arc<[String]>,
    /// Source files by index.
    pub files: Arc<HashMap<u32, String>>,
}

impl Program {
    /// What an instruction does to the registers that may be read before they are written.
    pub fn tracked_at(&self, pc: u32) -> Option<&Tracked> {
        let at = self.tracked.binary_search_by_key(&pc, |(pc, _)| *pc).ok()?;
        Some(&self.tracked[at].1)
    }
}

/// A kernel that can be launched.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// Bytes of all parameters.
    pub parameter_bytes: u32,
    /// Static shared memory in bytes.
    pub static_shared: u32,
    /// Local memory of a thread in bytes.
    pub local_bytes: u32,
    /// Bytes of constant variables that it can reach.
    pub const_bytes: u32,
    /// Registers that a thread needs, as this machine allocates them (ptxas may differ).
    pub registers: u32,
    /// `.maxntid` as a product, else 1024.
    pub max_threads: u32,
    /// `.reqntid`
    pub required_threads: Option<[u32; 3]>,
    /// `.version` as ten times major plus minor.
    pub ptx_version: u32,
    /// The number of `.target`: 80 for sm_80.
    pub target: u32,
    /// Its instructions.
    pub program: Program,
}

/// A loaded module.
#[derive(Debug)]
pub struct Module {
    /// Kernels by name.
    pub kernels: HashMap<String, Arc<Kernel>>,
    /// Global and constant variables by name: device address and size.
    pub globals: HashMap<String, (u64, u64)>,
    /// Every allocation of the module.
    allocations: Vec<u64>,
}

impl Module {
    /// Parses and decodes PTX text and places its variables in the device's memory.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(device: &Device, text: &str) -> Result<Self, LoadError> {
        let module = crate::ptx::parse(text)?;
        let lines: Arc<[String]> = text.lines().map(str::to_owned).collect();
        let placed = decode::place_variables(device, &module, &lines)?;
        let mut loaded =
            Self { kernels: HashMap::new(), globals: placed.named, allocations: placed.allocations };
        match decode::kernels(&module, &placed.addresses, &lines) {
            Ok(kernels) => {
                loaded.kernels = kernels.into_iter().map(|k| (k.name.clone(), Arc::new(k))).collect();
                Ok(loaded)
            }
            Err(error) => {
                loaded.unload(device);
                Err(error)
            }
        }
    }

    /// Frees its variables.
    pub fn unload(self, device: &Device) {
        for address in self.allocations {
            // They were allocated by `load`, and nothing but this frees them.
            let _ = device.memory.free(address);
        }
    }
}

/// What becomes of a variable in memory.
pub(super) fn allocation_kind(space: crate::ptx::ast::Space) -> AllocationKind {
    match space {
        crate::ptx::ast::Space::Const => AllocationKind::Constant,
        _ => AllocationKind::Global,
    }
}
