//! Bodies: registers, scopes, labels, guards, source lines.

use cuda::ptx::ast::{Guard, LabelId, Location, Operand, RegisterId, Type};

use super::{body, instruction, kernel_of, module};

/// Registers that the kernel of [`body`] declares before its statements: p q a b c wide f v.xyzw w.xy.
const BEFORE: u32 = 13;

fn register(index: u32) -> Operand {
    Operand::Register(RegisterId(index))
}

#[test]
fn registers_and_ranges() {
    let body =
        body(".reg .b32 %r<3>, y; .reg .f64 %fd<0>; .reg .v2 .f16x2 pair; .reg .b128 %q<1>; mov.b32 %r2, y;");
    let names: Vec<_> = body.registers.iter().map(|r| (r.name.as_str(), r.ty)).collect();
    let before = [
        ("p", Type::Pred),
        ("q", Type::Pred),
        ("a", Type::B32),
        ("b", Type::B32),
        ("c", Type::B32),
        ("wide", Type::B64),
        ("f", Type::F32),
        ("v.x", Type::F32),
        ("v.y", Type::F32),
        ("v.z", Type::F32),
        ("v.w", Type::F32),
        ("w.x", Type::B32),
        ("w.y", Type::B32),
    ];
    assert_eq!(names[..before.len()], before);
    let new = [
        ("%r0", Type::B32),
        ("%r1", Type::B32),
        ("%r2", Type::B32),
        ("y", Type::B32),
        ("pair.x", Type::F16x2),
        ("pair.y", Type::F16x2),
        ("%q0", Type::B128),
    ];
    assert_eq!(names[before.len()..], new);
    assert_eq!(body.instructions[0].operands, [register(BEFORE + 2), register(BEFORE + 3)]);
}

#[test]
fn inner_scopes_shadow_outer_ones() {
    let body = body(
        "mov.b32 a, 1;
         { .reg .b64 a; mov.b64 a, 2; { .reg .f32 a; mov.f32 a, b; } mov.b64 a, 3; }
         { .reg .f32 a; mov.f32 a, 4.0; }
         mov.b32 a, 5;",
    );
    let written: Vec<_> = body.instructions.iter().map(|i| i.operands[0].clone()).collect();
    let a = register(2);
    let expected =
        [a.clone(), register(BEFORE), register(BEFORE + 1), register(BEFORE), register(BEFORE + 2), a];
    assert_eq!(written, expected);
}

#[test]
fn a_register_shadows_a_variable_and_a_special_register() {
    let body = body(".reg .b32 array, %tid; mov.b32 array, %tid; mov.b32 a, %ctaid.y;");
    assert_eq!(body.instructions[0].operands, [register(BEFORE), register(BEFORE + 1)]);
    assert_eq!(body.instructions[1].operands[1], Operand::Special("%ctaid".into(), Some('y')));
}

#[test]
fn labels_are_those_of_the_nearest_scope() {
    let body = body(
        "LOOP: { bra LOOP; { LOOP: bra LOOP; } bra END; }
         { bra.uni LOOP; LOOP: }
         bra LOOP; END:",
    );
    let labels: Vec<_> = body.labels.iter().map(|(name, at)| (name.as_str(), *at)).collect();
    assert_eq!(labels, [("LOOP", 0), ("LOOP", 1), ("LOOP", 4), ("END", 5)]);
    let targets: Vec<_> = body.instructions.iter().map(|i| i.operands[0].clone()).collect();
    assert_eq!(targets, [0, 1, 3, 2, 0].map(|i| Operand::Label(LabelId(i))));
}

#[test]
fn indexed_branches() {
    let body = body(
        "first: .branchtargets B, $L__BB0_1, B;
         { second: .branchtargets $L__BB0_1; brx.idx.uni b, second; brx.idx a, first; }
         $L__BB0_1: ret; B: ret;",
    );
    assert_eq!(body.branch_targets, [vec![LabelId(1), LabelId(0), LabelId(1)], vec![LabelId(0)]]);
    assert_eq!(body.instructions[0].operands, [register(3), Operand::BranchTargets(1)]);
    assert_eq!(body.instructions[0].modifiers, ["idx", "uni"]);
    assert_eq!(body.instructions[1].operands, [register(2), Operand::BranchTargets(0)]);
}

#[test]
fn guards() {
    let guard = |text| instruction(text).guard;
    assert_eq!(guard("mov.b32 a, 1;"), None);
    assert_eq!(guard("@q mov.b32 a, 1;"), Some(Guard { register: RegisterId(1), negated: false }));
    assert_eq!(guard("@!p ret;"), Some(Guard { register: RegisterId(0), negated: true }));
    assert_eq!(guard("@ ! p\nret;"), Some(Guard { register: RegisterId(0), negated: true }));
}

#[test]
fn opcodes_and_modifiers_stay_text() {
    let i = instruction("ld.global.L1::no_allocate.L2::256B.v4.u32 {a, b, c, _}, [wide];");
    assert_eq!(i.opcode, "ld");
    assert_eq!(i.modifiers, ["global", "L1::no_allocate", "L2::256B", "v4", "u32"]);
    let i =
        instruction("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [a], [wide], b, [c];");
    assert_eq!(i.modifiers, ["async", "bulk", "shared::cluster", "global", "mbarrier::complete_tx::bytes"]);
    let i = instruction("tex.2d.v4.f32.s32 a;");
    assert_eq!(i.modifiers, ["2d", "v4", "f32", "s32"]);
    assert_eq!(instruction("no_such_thing .at_all;").modifiers, ["at_all"]);
}

#[test]
fn source_lines() {
    let text = ".entry k() { ret;\n.loc 1 25 3\nret;\n\n.loc 2 7 1, function_name $L__info_string0+4, inlined_at 1 26 9
        ret; } .entry l() { ret; } .file 1 \"a.cu\" .file 2 \"b.cuh\"";
    let module = module(text);
    let of =
        |index: usize| module.functions[index].body.as_ref().unwrap().instructions.iter().map(|i| i.location);
    let at = |line, file, source_line| Location { line, file, source_line };
    assert_eq!(of(0).collect::<Vec<_>>(), [at(4, 0, 0), at(6, 1, 25), at(9, 2, 7)]);
    assert_eq!(of(1).collect::<Vec<_>>(), [at(9, 0, 0)]);
}

#[test]
fn comments_count_lines() {
    let text =
        "// .bad\r\n/* .bad\n\n*/ .entry /**/ k() { // begin inline asm\n/* é */ ret; // end inline asm\n}";
    let body = kernel_of(&module(text)).body.clone().unwrap();
    assert_eq!(body.instructions[0].location.line, 8);
}
