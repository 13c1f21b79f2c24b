//! Directives of the module.

use cuda::ptx::{
    ast::{Base, Linkage, Operand, Symbol},
    parse,
};

use super::{function, kernel_of, module, variable};

#[test]
fn header() {
    let module = parse(".version 7.8 .target sm_90a, debug, texmode_independent .address_size 64").unwrap();
    assert_eq!(module.version, (7, 8));
    assert_eq!(module.target, "sm_90a");
    // As in ptxas, 64 bits are the default.
    let module = parse("// a comment\n/* another\n*/ .version 8.10\n.target sm_100f\n").unwrap();
    assert_eq!((module.version, module.target.as_str()), ((8, 10), "sm_100f"));
}

#[test]
fn files() {
    let module = module(".file 1 \"a b.cu\"\n.file\t2 \"c\\\"d.cuh\", 1700000000, 12");
    assert_eq!(module.files, [(1, "a b.cu".to_owned()), (2, "c\\\"d.cuh".to_owned())]);
}

#[test]
fn debug_sections_are_skipped() {
    let text =
        ".section .debug_info { .b32 12\n.b8 135,64\n.b32 .debug_abbrev\n$L__x: .b64 $L__func_begin0, -1\n }
        .section .debug_loc { }
        .global .u32 after;";
    let module = module(text);
    assert_eq!(module.variables.len(), 1);
    assert_eq!(module.variables[0].name, "after");
}

#[test]
fn pragmas() {
    let module = module(
        ".pragma \"nounroll\";\n.entry k() .pragma \"enable_smem_spilling\"; { .pragma \"x\", \"y\"; ret; }",
    );
    assert_eq!(kernel_of(&module).body.as_ref().unwrap().instructions.len(), 1);
}

#[test]
fn linkage() {
    let module = module(
        ".extern .shared .b8 e[]; .visible .global .u32 v; .weak .const .u32 w; .common .global .u32 c; .global .u32 i;
         .extern .func f(); .visible .entry k() { } .weak .func g() { }",
    );
    let of = |name| variable(&module, name).linkage;
    assert_eq!(
        ["e", "v", "w", "c", "i"].map(of),
        [Linkage::Extern, Linkage::Visible, Linkage::Weak, Linkage::Common, Linkage::Internal]
    );
    let of = |name| function(&module, name).linkage;
    assert_eq!(["f", "k", "g"].map(of), [Linkage::Extern, Linkage::Visible, Linkage::Weak]);
}

#[test]
fn kernel_directives() {
    let text = ".entry a() .maxntid 128, 2 .minnctapersm 3 .maxnreg 64 { }
        .entry b() .reqntid 8, 4, 2 { } .entry c .maxntid 32 .maxnctapersm 5 { }";
    let module = module(text);
    let (a, b, c) = (&module.functions[0], &module.functions[1], &module.functions[2]);
    assert_eq!((a.max_threads, a.min_blocks, a.max_registers), (Some([128, 2, 1]), Some(3), Some(64)));
    assert_eq!((a.required_threads, a.no_return, a.is_entry), (None, false, true));
    assert_eq!((b.required_threads, b.max_threads), (Some([8, 4, 2]), None));
    assert_eq!((c.max_threads, c.min_blocks), (Some([32, 1, 1]), Some(5)));
}

#[test]
fn function_directives() {
    let text =
        ".func .attribute(.unified(0x1f, 2)) a() .abi_preserve 4 .abi_preserve_control 1 .noreturn { trap; }
        .func b() { }";
    let module = module(text);
    assert!(module.functions[0].no_return && !module.functions[1].no_return);
    assert!(!module.functions[0].is_entry);
}

#[test]
fn aliases_are_replaced_by_what_they_stand_for() {
    let text = ".func real(.param .b32 x) { ret; } .func name(.param .b32 x); .func other(.param .b32 x);
        .global .u64 pointer = name;
        .entry k() { .reg .b64 d; .param .b32 a; call name, (a); mov.u64 d, other; }
        .alias name, real; .alias other, name;";
    let module = module(text);
    let id = |name: &str| {
        let at = module.functions.iter().position(|f| f.name == name).unwrap();
        cuda::ptx::ast::FunctionId(at as u32)
    };
    let instructions = &function(&module, "k").body.as_ref().unwrap().instructions;
    assert_eq!(instructions[0].operands[0], Operand::Function(id("real")));
    assert_eq!(instructions[1].operands[1], Operand::Symbol(Symbol::Function(id("real")), 0));
    assert_eq!(variable(&module, "pointer").relocations[0].symbol, Symbol::Function(id("real")));
    assert!(function(&module, "name").body.is_none());
}

#[test]
fn names_of_kernels_have_addresses() {
    let module = module(".entry a() { } .entry k() { .reg .b64 d; mov.u64 d, a; ld.global.u64 d, [a+8]; }");
    let instructions = &kernel_of(&module).body.as_ref().unwrap().instructions;
    let a = Symbol::Function(cuda::ptx::ast::FunctionId(0));
    assert_eq!(instructions[0].operands[1], Operand::Symbol(a, 0));
    assert_eq!(instructions[1].operands[1], Operand::Address(Base::Symbol(a), 8));
}
