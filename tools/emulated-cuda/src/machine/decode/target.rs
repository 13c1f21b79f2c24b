//! The least architecture that has an instruction: what the module's `.target` does not have, its driver would refuse too.

use super::Decoder;
use crate::ptx::ast::Instruction;

/// The least architecture that has an arithmetic instruction, where that is above sm_75.
fn least(i: &Instruction) -> Option<u32> {
    let has = |name: &str| i.modifiers.iter().any(|m| m == name);
    let brain = has("bf16") || has("bf16x2");
    match i.opcode.as_str() {
        "min" | "max" if has("xorsign") => Some(86),
        "min" | "max" if has("relu") && has("s32") => Some(90),
        "add" | "sub" | "mul" | "ex2" | "tanh" | "set" | "setp" if brain => Some(90),
        "fma" | "min" | "max" | "abs" | "neg" if brain => Some(80),
        "cvt" if has("e4m3x2") || has("e5m2x2") => Some(89),
        "cvt" if has("tf32") => Some(if has("rna") { 80 } else { 90 }),
        "cvt" if has("bf16") && !has("f32") => Some(90),
        "cvt" if brain => Some(80),
        "cp" | "redux" | "mbarrier" | "createpolicy" => Some(80),
        "stmatrix" => Some(90),
        _ => None,
    }
}

impl Decoder<'_> {
    /// Whether the module's target has an arithmetic instruction.
    pub(super) fn available(&self, i: &Instruction) -> Result<(), String> {
        least(i).map_or(Ok(()), |target| self.needs(target, &i.opcode))
    }

    /// What the module's target must have for an instruction to exist.
    pub(super) fn needs(&self, target: u32, what: &str) -> Result<(), String> {
        if self.target >= target {
            return Ok(());
        }
        Err(format!("{what} needs sm_{target}, the module is for sm_{}", self.target))
    }
}
