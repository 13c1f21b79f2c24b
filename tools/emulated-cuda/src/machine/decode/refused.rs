//! What this machine does not do, by name.

use crate::ptx::ast::Instruction;

/// Why an instruction that nothing decodes is not supported, where there is more to say than its name.
pub(super) fn reason(i: &Instruction) -> Option<&'static str> {
    Some(match i.opcode.as_str() {
        "wgmma" => "matrix instructions of warp groups (sm_90a) are not supported",
        "tcgen05" => "matrix instructions of the fifth generation (sm_100) are not supported",
        "wmma" => "wmma hides how its fragments lie in registers and is not supported: use mma with ldmatrix",
        "tex" | "tld4" | "txq" | "suld" | "sust" | "sured" | "suq" | "istypep" => {
            "textures and surfaces are not supported"
        }
        "alloca" | "stacksave" | "stackrestore" => "local memory whose size is not constant is not supported",
        "elect" | "setmaxnreg" | "griddepcontrol" => "instructions of sm_90 are not supported",
        "mapa" | "getctarank" | "clusterlaunchcontrol" => "clusters (sm_90) are not supported",
        "multimem" | "tensormap" => "multicast and tensor maps (sm_90) are not supported",
        "vadd" | "vsub" | "vabsdiff" | "vmin" | "vmax" | "vshl" | "vshr" | "vmad" | "vset" | "vadd2"
        | "vsub2" | "vavrg2" | "vabsdiff2" | "vmin2" | "vmax2" | "vset2" | "vadd4" | "vsub4" | "vavrg4"
        | "vabsdiff4" | "vmin4" | "vmax4" | "vset4" => "video instructions are not supported",
        "lop3" if i.modifiers.first().is_some_and(|m| m != "b32") => {
            "lop3 with a predicate as its second result is not supported"
        }
        _ => return None,
    })
}
