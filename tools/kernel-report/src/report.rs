//! All that is to be said of problems, put together.

use std::collections::BTreeMap;
use std::path::Path;

use emulated_cuda::machine::Counters;
use serde::Serialize;

use crate::count::{self, Settings};
use crate::machine::Machine;
use crate::model::{Ideal, Launch, Modelled, model};
use crate::occupancy::Block;
use crate::problem::{Family, Problem};
use crate::resources::{Resources, Toolkit, assemble};
use crate::sass;
use crate::{Error, Result};

/// What a kernel is on one GPU.
#[derive(Clone, Debug, Serialize)]
pub struct OnMachine {
    /// The GPU.
    pub machine: &'static str,
    /// Its architecture.
    pub arch: &'static str,
    /// From ptxas; none without it.
    pub resources: Option<Resources>,
    /// Machine instructions for each PTX instruction of the main loop, from the disassembly; none without it.
    pub instruction_ratio: Option<f64>,
    /// Modelled; or why it could not run there.
    pub modelled: Result<Modelled, String>,
}

/// What is to be said of one problem.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The kernel.
    pub kernel: String,
    /// The problem size's name and values.
    pub size: String,
    /// The sizes by name.
    pub sizes: BTreeMap<String, u64>,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// Counted on the emulated device: exact, of the blocks that ran (`counted.blocks`).
    pub counted: Counters,
    /// The least that the problem asks for.
    pub ideal: Ideal,
    /// For each GPU.
    pub machines: Vec<OnMachine>,
}

impl Entry {
    /// Blocks of the grid.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }
}

/// A whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The problems.
    pub problems: Vec<Entry>,
    /// What could not be found out, and why.
    pub notes: Vec<String>,
}

/// What ptxas and nvdisasm say of a PTX file on one architecture.
struct Assembled {
    resources: BTreeMap<String, Resources>,
    /// Instruction ratios by kernel.
    ratios: BTreeMap<String, f64>,
}

/// Counts every problem of a family, and models each on every machine. `say` hears of each problem before it is run.
///
/// # Errors
/// If the PTX cannot be read or a problem does not run. Tools that are not there, or refuse, are noted in the report.
pub fn report(
    family: &Family,
    machines: &[Machine],
    toolkit: &Toolkit,
    settings: Settings,
    say: &mut dyn FnMut(&Problem),
) -> Result<Report> {
    let ptx = family.text()?;
    let mut notes = Vec::new();
    let mut assembled: BTreeMap<&str, Assembled> = BTreeMap::new();
    for machine in machines {
        if !assembled.contains_key(machine.arch) {
            assembled.insert(machine.arch, tools(&ptx, machine.arch, toolkit, &mut notes)?);
        }
    }
    let mut problems = Vec::new();
    for problem in &family.problems {
        say(problem);
        let counted = count::count(&ptx, problem, settings)?;
        let on = |machine: &Machine| {
            let of_arch = &assembled[machine.arch];
            let resources = of_arch.resources.get(&problem.kernel).copied();
            let instruction_ratio = of_arch.ratios.get(&problem.kernel).copied();
            let block = Block {
                threads: problem.threads(),
                registers: resources.map(|r| r.registers),
                shared: resources.map_or(counted.static_shared, |r| r.shared) + problem.dynamic_shared,
            };
            let blocks = problem.blocks();
            let launch = Launch { blocks, block, instruction_ratio: instruction_ratio.unwrap_or(1.0) };
            let modelled = model(machine, &counted.counters, &launch, &problem.ideal);
            OnMachine { machine: machine.name, arch: machine.arch, resources, instruction_ratio, modelled }
        };
        problems.push(Entry {
            kernel: problem.kernel.clone(),
            size: problem.size.clone(),
            sizes: problem.sizes.clone(),
            grid: problem.grid,
            block: problem.block,
            dynamic_shared: problem.dynamic_shared,
            ideal: problem.ideal.clone(),
            machines: machines.iter().map(on).collect(),
            counted: counted.counters,
        });
    }
    Ok(Report { problems, notes })
}

/// Asks the tools, and notes what they do not tell.
fn tools(ptx: &str, arch: &str, toolkit: &Toolkit, notes: &mut Vec<String>) -> Result<Assembled> {
    let mut assembled = Assembled { resources: BTreeMap::new(), ratios: BTreeMap::new() };
    let Some(ptxas) = &toolkit.ptxas else {
        let note = "no ptxas found (CUDA_HOME, PATH, .cuda): registers and spills are not known, occupancy is without registers";
        if !notes.iter().any(|n| n == note) {
            notes.push(note.to_string());
        }
        return Ok(assembled);
    };
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let [source, cubin] = ["kernels.ptx", "kernels.cubin"].map(|name| folder.path().join(name));
    std::fs::write(&source, ptx).map_err(Error::io(&source))?;
    match assemble(ptxas, &source, arch, &cubin) {
        Ok(resources) => assembled.resources = resources,
        Err(error) => {
            notes.push(format!("{arch}: {error}"));
            return Ok(assembled);
        }
    }
    match &toolkit.nvdisasm {
        Some(nvdisasm) => {
            if let Err(error) = ratios(nvdisasm, &cubin, ptx, &mut assembled) {
                notes.push(format!("{arch}: {error}"));
            }
        }
        None => notes.push(format!("{arch}: no nvdisasm found: issue is counted in PTX instructions")),
    }
    Ok(assembled)
}

fn ratios(nvdisasm: &Path, cubin: &Path, ptx: &str, assembled: &mut Assembled) -> Result<()> {
    for kernel in assembled.resources.keys() {
        let machine = sass::of_cubin(nvdisasm, cubin, kernel)?;
        if let (Some(ptx), Some(machine)) = (sass::of_ptx(ptx, kernel), machine)
            && let Some(ratio) = sass::instruction_ratio(&ptx, &machine)
        {
            assembled.ratios.insert(kernel.clone(), ratio);
        }
    }
    Ok(())
}
