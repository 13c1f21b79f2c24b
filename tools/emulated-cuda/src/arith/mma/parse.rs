//! Which operation the modifiers of `mma` mean.

use super::{Kind, Mma};

pub(super) fn parse(modifiers: &[&str]) -> Result<Mma, String> {
    refuse_by_name(modifiers)?;
    let ["sync", "aligned", shape, "row", "col", rest @ ..] = modifiers else {
        return Err("only mma.sync.aligned.SHAPE.row.col is supported".into());
    };
    let (saturate, rest) = match rest {
        ["satfinite", rest @ ..] => (true, rest),
        _ => (false, rest),
    };
    let signs = |a: &str, b: &str| [a.starts_with('s'), b.starts_with('s')];
    let kind = match *rest {
        ["f32", "bf16", "bf16", "f32"] => Kind::Bf16,
        ["f32", "f16", "f16", "f32"] => Kind::F16 { narrow: false },
        ["f16", "f16", "f16", "f16"] => Kind::F16 { narrow: true },
        ["f32", "tf32", "tf32", "f32"] => Kind::Tf32,
        ["f64", "f64", "f64", "f64"] => Kind::F64,
        ["s32", a @ ("s8" | "u8"), b @ ("s8" | "u8"), "s32"] => Kind::Int8 { signed: signs(a, b) },
        ["s32", a @ ("s4" | "u4"), b @ ("s4" | "u4"), "s32"] => Kind::Int4 { signed: signs(a, b) },
        ["s32", "b1", "b1", "s32", "xor", "popc"] => Kind::Bits { and: false },
        ["s32", "b1", "b1", "s32", "and", "popc"] => Kind::Bits { and: true },
        _ => return Err(format!("the types {} are unknown", rest.join("."))),
    };
    if saturate && !matches!(kind, Kind::Int8 { .. } | Kind::Int4 { .. }) {
        return Err("only integers take .satfinite".into());
    }
    let (m, k) = match (kind, *shape) {
        (Kind::Bf16 | Kind::F16 { .. } | Kind::Tf32, "m16n8k8") => (16, 8),
        (Kind::Bf16 | Kind::F16 { .. } | Kind::Int8 { .. }, "m16n8k16") => (16, 16),
        (Kind::Tf32, "m16n8k4") => (16, 4),
        (Kind::F64, "m8n8k4") => (8, 4),
        (Kind::Int8 { .. }, "m8n8k16") => (8, 16),
        (Kind::Int8 { .. } | Kind::Int4 { .. }, "m16n8k32") => (16, 32),
        (Kind::Int4 { .. }, "m8n8k32") => (8, 32),
        (Kind::Int4 { .. }, "m16n8k64") => (16, 64),
        (Kind::Bits { .. }, "m8n8k128") => (8, 128),
        (Kind::Bits { .. }, "m16n8k128") => (16, 128),
        (Kind::Bits { .. }, "m16n8k256") => (16, 256),
        _ => return Err(format!("shape {shape} does not exist on sm_80 for {}", rest.join("."))),
    };
    Ok(Mma { kind, m, k, saturate })
}

/// What other devices have, and this one has not.
fn refuse_by_name(modifiers: &[&str]) -> Result<(), String> {
    let has = |test: fn(&str) -> bool| modifiers.iter().any(|m| test(m));
    if has(|m| m == "sp" || m.starts_with("sp::")) {
        return Err("sparse matrices (mma.sp) are not supported".into());
    }
    if has(|m| m.starts_with("kind::") || m == "block_scale") {
        return Err("block-scaled and mixed kinds (sm_120) are not supported".into());
    }
    if has(|m| matches!(m, "e4m3" | "e5m2")) {
        return Err("fp8 (sm_89) is not supported".into());
    }
    if modifiers.contains(&"m8n8k4") && modifiers.contains(&"f16") {
        return Err("m8n8k4 with f16, the shape of sm_70, is not supported".into());
    }
    Ok(())
}
