//! What ptxas makes of kernels: registers, spills, shared memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::{Error, Result};

/// What ptxas says of a kernel on one architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread stores because registers ran out.
    pub spill_stores: u32,
    /// Bytes that it loads again.
    pub spill_loads: u32,
    /// Bytes of a thread's stack.
    pub stack: u32,
    /// Static shared memory of a block in bytes.
    pub shared: u32,
    /// Barriers of a block.
    pub barriers: u32,
}

/// The tools of a CUDA toolkit, as far as they are at hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toolkit {
    /// The assembler.
    pub ptxas: Option<PathBuf>,
    /// The disassembler.
    pub nvdisasm: Option<PathBuf>,
}

impl Toolkit {
    /// Looks in `CUDA_HOME`, then in `PATH`, then in `.cuda`, where tools/install-nvcc puts a toolkit.
    pub fn find() -> Toolkit {
        let mut folders: Vec<PathBuf> =
            std::env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin")).into_iter().collect();
        folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        folders.push(PathBuf::from(".cuda/nvidia/cu13/bin"));
        Toolkit::in_folders(&folders)
    }

    /// The tools in the first of `folders` that has them.
    pub fn in_folders(folders: &[PathBuf]) -> Toolkit {
        let tool = |name: &str| folders.iter().map(|f| f.join(name)).find(|path| path.is_file());
        Toolkit { ptxas: tool("ptxas"), nvdisasm: tool("nvdisasm") }
    }
}

/// Assembles a PTX file for an architecture into `cubin`; what ptxas says of each kernel, by name.
///
/// # Errors
/// If ptxas cannot be started, or what it says when it fails.
pub fn assemble(ptxas: &Path, ptx: &Path, arch: &str, cubin: &Path) -> Result<BTreeMap<String, Resources>> {
    let arch = format!("-arch={arch}");
    let args = ["-v".as_ref(), arch.as_ref(), "-o".as_ref(), cubin.as_os_str(), ptx.as_os_str()];
    let said = run(ptxas, &args)?;
    Ok(parse(&said.stderr).into_iter().chain(parse(&said.stdout)).collect())
}

/// What a tool wrote.
pub(crate) struct Said {
    pub stdout: String,
    pub stderr: String,
}

/// Runs a tool to its end.
pub(crate) fn run(tool: &Path, args: &[&std::ffi::OsStr]) -> Result<Said> {
    let failed = |detail: String| Error::Tool { tool: tool.display().to_string(), detail };
    let output = Command::new(tool).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|e| failed(format!("cannot be started: {e}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = Said { stdout: text(&output.stdout), stderr: text(&output.stderr) };
    match output.status.success() {
        true => Ok(said),
        false => {
            Err(failed(format!("{}\n{}{}", output.status, said.stderr, said.stdout).trim_end().to_string()))
        }
    }
}

/// Reads what `ptxas -v` prints; what it says of device functions is passed over.
pub fn parse(text: &str) -> BTreeMap<String, Resources> {
    let mut kernels: BTreeMap<String, Resources> = BTreeMap::new();
    // The kernel that the "Used" line is about, and the function that the line of its stack is about.
    let (mut entry, mut function) = (None, None);
    for line in text.lines() {
        let line = line.strip_prefix("ptxas info    : ").unwrap_or(line).trim();
        if let Some(rest) = line.strip_prefix("Compiling entry function '") {
            entry = rest.split('\'').next().map(str::to_owned);
            function = None;
            kernels.extend(entry.clone().map(|name| (name, Resources::default())));
        } else if let Some(name) = line.strip_prefix("Function properties for ") {
            function = Some(name.to_owned());
        } else if line.contains("bytes stack frame") {
            if let Some(kernel) = function.take().and_then(|name| kernels.get_mut(&name)) {
                kernel.stack = before(line, "bytes stack frame");
                kernel.spill_stores = before(line, "bytes spill stores");
                kernel.spill_loads = before(line, "bytes spill loads");
            }
        } else if line.starts_with("Used ")
            && let Some(kernel) = entry.take().and_then(|name| kernels.get_mut(&name))
        {
            kernel.registers = before(line, "registers");
            kernel.barriers = before(line, "barriers");
            kernel.shared = before(line, "bytes smem");
        }
    }
    kernels
}

/// The number before `words` in a line, 0 if it is not there.
fn before(line: &str, words: &str) -> u32 {
    let number = line.find(words).and_then(|at| line[..at].split_whitespace().next_back());
    number.and_then(|text| text.parse().ok()).unwrap_or(0)
}
