//! What a kernel did wrong, and where.

use std::fmt;

/// The kind of a fault; decides the error code of the driver API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside every allocation, or after its free.
    IllegalAddress,
    /// An address that is not a multiple of the access size.
    Misaligned,
    /// A read of memory or of a register that nothing wrote.
    Uninitialised,
    /// Two threads touched the same byte, at least one writing, with nothing that orders them.
    Race,
    /// Data of an asynchronous copy touched before its wait.
    AsyncCopy,
    /// A barrier that cannot be right: divergent, wrong count, or exited threads.
    Barrier,
    /// No thread of the block can go on.
    Deadlock,
    /// `trap`
    Trap,
    /// A failed device-side assertion.
    Assert,
    /// The instruction limit was reached.
    Limit,
    /// Something that the instruction set leaves undefined, as a shuffle from outside its mask.
    Undefined,
}

/// A fault of a kernel.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Its kind.
    pub kind: FaultKind,
    /// What happened, with addresses and values.
    pub message: String,
    /// The kernel's name.
    pub kernel: String,
    /// Index of the block.
    pub block: [u32; 3],
    /// Index of the first thread concerned.
    pub thread: [u32; 3],
    /// Line of the PTX text, 0 where there is none.
    pub line: u32,
    /// That line.
    pub text: String,
    /// File and line of the source, where the PTX has them.
    pub source: Option<(String, u32)>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { kind, message, kernel, block, thread, line, text, source } = self;
        writeln!(f, "{kind:?}: {message}")?;
        write!(
            f,
            "  in kernel {kernel}, block {block:?}, thread {thread:?}, PTX line {line}: {}",
            text.trim()
        )?;
        if let Some((file, line)) = source {
            write!(f, "\n  source: {file}:{line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
