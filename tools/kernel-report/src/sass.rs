//! How many machine instructions ptxas makes of the PTX instructions of a kernel's main loop.
//!
//! The main loop is the one that holds the most of the work: tensor operations, or else accesses to global memory, and so on
//! down a list. The first kind of work that both forms of the loop hold also says how often each form goes round (ptxas may unroll), so
//! that instructions for each piece of work can be compared.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::path::Path;

use crate::Result;
use crate::resources::run;

/// Kinds of work by which a main loop is found: the beginnings of PTX and of machine opcodes.
const WORK: [(&[&str], &[&str]); 6] = [
    (&["mma."], &["HMMA", "IMMA", "BMMA", "DMMA", "QMMA"]),
    (&["cp.async.ca", "cp.async.cg"], &["LDGSTS"]),
    (&["ld.global"], &["LDG"]),
    (&["ld.shared", "ldmatrix"], &["LDS"]),
    (&["fma.rn.f32", "fma.rn.ftz.f32"], &["FFMA"]),
    (&["st.global"], &["STG"]),
];

/// Opcodes and the places of labels of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// The opcode of each instruction, with its modifiers.
    pub opcodes: Vec<String>,
    /// Loops: the instructions from a label to a branch back to it.
    pub loops: Vec<RangeInclusive<usize>>,
}

/// Machine instructions for each PTX instruction of the main loop; of the whole kernel where it has no loop. None if the two
/// have no kind of work in common.
pub fn instruction_ratio(ptx: &Code, machine: &Code) -> Option<f64> {
    let amount = |code: &Code, range: RangeInclusive<usize>, of: &[&str]| {
        code.opcodes[range].iter().filter(|opcode| of.iter().any(|start| opcode.starts_with(start))).count()
    };
    for (in_ptx, in_machine) in WORK {
        let (a, b) = (main_loop(ptx, in_ptx), main_loop(machine, in_machine));
        let (Some(a), Some(b)) = (a, b) else { continue };
        let works = (amount(ptx, a.clone(), in_ptx), amount(machine, b.clone(), in_machine));
        let lengths = (a.clone().count() as f64, b.clone().count() as f64);
        if works.0 > 0 && works.1 > 0 {
            return Some((lengths.1 / works.1 as f64) / (lengths.0 / works.0 as f64));
        }
    }
    None
}

/// The smallest of the loops that hold the most of some work; the whole kernel if it has no loop, none if no loop holds any.
fn main_loop(code: &Code, work: &[&str]) -> Option<RangeInclusive<usize>> {
    let is_work: Vec<bool> =
        code.opcodes.iter().map(|opcode| work.iter().any(|start| opcode.starts_with(start))).collect();
    let amount = |range: &RangeInclusive<usize>| is_work[range.clone()].iter().filter(|w| **w).count();
    let inner = |range: &RangeInclusive<usize>| {
        !code.loops.iter().any(|l| l != range && range.contains(l.start()) && range.contains(l.end()))
    };
    if code.loops.is_empty() && !code.opcodes.is_empty() {
        return Some(0..=code.opcodes.len() - 1);
    }
    // Work that lies in inner loops runs most often; an outer loop counts only where the inner ones hold none.
    let best = |only_inner: bool| {
        let candidates = code.loops.iter().filter(|l| (!only_inner || inner(l)) && amount(l) > 0);
        candidates.max_by_key(|l| (amount(l), std::cmp::Reverse(l.end() - l.start()))).cloned()
    };
    best(true).or_else(|| best(false))
}

/// The code of a kernel in PTX text; none if it is not there.
pub fn of_ptx(text: &str, kernel: &str) -> Option<Code> {
    let lines = text.lines().skip_while(|line| !is_entry(line, kernel)).skip(1);
    let lines = lines.skip_while(|line| !line.trim_start().starts_with('{'));
    let mut builder = Builder::default();
    let (mut depth, mut statement) = (0, String::new());
    for line in lines {
        let line = line.split("//").next().unwrap_or_default().trim();
        // The only directive inside a body that no semicolon ends.
        if line.starts_with(".loc") {
            continue;
        }
        for c in line.chars().chain([' ']) {
            let begins = statement.trim().is_empty();
            match c {
                '{' if begins => depth += 1,
                '}' if begins => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(builder.finish());
                    }
                }
                ':' if !statement.trim().contains(char::is_whitespace) => {
                    builder.label(statement.trim());
                    statement.clear();
                }
                ';' => {
                    if !statement.trim_start().starts_with('.') {
                        builder.instruction(statement.trim(), "bra");
                    }
                    statement.clear();
                }
                c => statement.push(c),
            }
        }
    }
    None
}

fn is_entry(line: &str, kernel: &str) -> bool {
    let Some((_, name)) = line.split_once(".entry") else { return false };
    name.trim_start().split(|c: char| !(c.is_alphanumeric() || "_$%".contains(c))).next() == Some(kernel)
}

/// The code of a kernel in a cubin.
///
/// # Errors
/// If nvdisasm does not run.
pub fn of_cubin(nvdisasm: &Path, cubin: &Path, kernel: &str) -> Result<Option<Code>> {
    Ok(of_disassembly(&run(nvdisasm, &["-c".as_ref(), cubin.as_os_str()])?.stdout, kernel))
}

/// The code of a kernel in what `nvdisasm -c` prints; none if it is not there.
pub fn of_disassembly(text: &str, kernel: &str) -> Option<Code> {
    let start = format!(".text.{kernel}:");
    let mut lines = text.lines().skip_while(|line| line.trim() != start);
    lines.next()?;
    let mut builder = Builder::default();
    for line in lines {
        let line = line.trim();
        if line.starts_with("//---") || line.starts_with(".section") {
            break;
        }
        if let Some(label) = line.strip_suffix(':') {
            builder.label(label);
        } else if let Some((_, instruction)) = line.strip_prefix("/*").and_then(|rest| rest.split_once("*/"))
        {
            builder.instruction(instruction.trim(), "BRA");
        }
    }
    // What follows the last exit is a branch to itself and padding.
    let code = builder.finish();
    let end =
        code.opcodes.iter().rposition(|opcode| opcode == "EXIT").map_or(code.opcodes.len(), |at| at + 1);
    let loops = code.loops.into_iter().filter(|l| *l.end() < end).collect();
    Some(Code { opcodes: code.opcodes[..end].to_vec(), loops })
}

#[derive(Default)]
struct Builder {
    code: Code,
    labels: HashMap<String, usize>,
}

impl Builder {
    fn label(&mut self, name: &str) {
        self.labels.insert(name.to_string(), self.code.opcodes.len());
    }

    fn instruction(&mut self, text: &str, branch: &str) {
        // A guard comes first: @p bra, @!P0 BRA.
        let text = match text.strip_prefix('@') {
            Some(guarded) => {
                guarded.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start())
            }
            None => text,
        };
        let (opcode, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let opcode = opcode.trim_end_matches(';');
        if opcode.is_empty() {
            return;
        }
        let here = self.code.opcodes.len();
        self.code.opcodes.push(opcode.to_string());
        if opcode.split('.').next() == Some(branch) {
            let target = operands.split(|c: char| " \t;,`()".contains(c)).rfind(|part| !part.is_empty());
            if let Some(&start) = target.and_then(|target| self.labels.get(target)) {
                self.code.loops.push(start..=here);
            }
        }
    }

    /// Branches back to one label are one loop.
    fn finish(mut self) -> Code {
        let mut ends: BTreeMap<usize, usize> = BTreeMap::new();
        for range in &self.code.loops {
            let end = ends.entry(*range.start()).or_default();
            *end = (*end).max(*range.end());
        }
        self.code.loops = ends.into_iter().map(|(start, end)| start..=end).collect();
        self.code
    }
}
