//! Variables: layout, initial values, addresses in them.

use cuda::ptx::ast::{FunctionId, Linkage, Space, Symbol, Type, VariableId};

use super::{body, module, variable};

/// Bytes of 32-bit values.
fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn spaces_types_sizes_and_alignments() {
    let text = ".global .u32 a; .const .align 16 .b8 b[3]; .shared .v4 .f32 c[2][3]; .global .v2 .b16 d;
        .global .b128 e; .extern .shared .align 32 .b8 f[]; .extern .shared .f64 g[][4]; .global .bf16x2 h;
        .global .align 1 .u64 i;";
    let module = module(text);
    let of = |name| {
        let v = variable(&module, name);
        (v.space, v.ty, v.size, v.align)
    };
    assert_eq!(of("a"), (Space::Global, Type::U32, 4, 4));
    assert_eq!(of("b"), (Space::Const, Type::B8, 3, 16));
    assert_eq!(of("c"), (Space::Shared, Type::F32, 96, 16));
    assert_eq!(of("d"), (Space::Global, Type::B16, 4, 4));
    assert_eq!(of("e"), (Space::Global, Type::B128, 16, 16));
    assert_eq!(of("f"), (Space::Shared, Type::B8, 0, 32));
    assert_eq!(of("g"), (Space::Shared, Type::F64, 0, 8));
    assert_eq!(of("h"), (Space::Global, Type::Bf16x2, 4, 4));
    assert_eq!(of("i"), (Space::Global, Type::U64, 8, 1));
    assert!(module.variables.iter().all(|v| v.init.is_empty() && v.relocations.is_empty() && v.line >= 4));
}

#[test]
fn several_names_in_a_declaration() {
    let module = module(".global .s16 a,\n b[2] = {1, -2}, c = 3;");
    let of = |name| {
        let v = variable(&module, name);
        (v.size, v.init.clone(), v.line)
    };
    assert_eq!(of("a"), (2, vec![], 4));
    assert_eq!(of("b"), (4, vec![1, 0, 0xfe, 0xff], 5));
    assert_eq!(of("c"), (2, vec![3, 0], 5));
}

#[test]
fn integers_of_every_size() {
    let text = ".global .s8 a = -128; .global .b8 b = 255; .global .u16 c = 0xffff; .global .s32 d = -1;
        .global .u64 e = 18446744073709551615; .global .b128 f = -2; .global .u64 g = 0x8000000000000000U;";
    let module = module(text);
    let of = |name| variable(&module, name).init.clone();
    assert_eq!(of("a"), [0x80]);
    assert_eq!(of("b"), [255]);
    assert_eq!(of("c"), [0xff; 2]);
    assert_eq!(of("d"), [0xff; 4]);
    assert_eq!(of("e"), [0xff; 8]);
    assert_eq!(of("f"), [vec![0xfe], vec![0xff; 15]].concat());
    assert_eq!(of("g"), [0, 0, 0, 0, 0, 0, 0, 0x80]);
}

#[test]
fn floating_point_numbers() {
    let text = ".global .f32 a[6] = {0f3F800000, 1.5, -.25, 1e3, 0d4000000000000000, 0F7fc00001};
        .global .f64 b[3] = {0d3FF0000000000000, -1.5e-3, 0f3F800000}; .global .b32 c = 0fBF800000;
        .global .b64 d = 2.0;";
    let module = module(text);
    let floats = [1.0f32, 1.5, -0.25, 1000.0, 2.0].map(f32::to_bits);
    assert_eq!(variable(&module, "a").init, [words(&floats), words(&[0x7fc0_0001])].concat());
    let doubles: Vec<u8> = [1.0f64, -1.5e-3, 1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(variable(&module, "b").init, doubles);
    assert_eq!(variable(&module, "c").init, (-1.0f32).to_le_bytes());
    assert_eq!(variable(&module, "d").init, 2.0f64.to_le_bytes());
}

#[test]
fn lists_fill_arrays_row_by_row() {
    let text = ".global .b32 a[2][3] = {{1, 2}, {4}}; .global .b32 b[][2] = {{1}, {3, 4}, {5}};
        .global .b32 c[] = {1, 2, 3}; .global .b32 d[4] = {}; .global .v2 .b32 e = {7, 8};
        .global .v2 .b32 f[] = {{1, 2}, {3}};";
    let module = module(text);
    let of = |name| (variable(&module, name).size, variable(&module, name).init.clone());
    // Short rows leave zeros; what is left off at the end is zero and need not be written.
    assert_eq!(of("a"), (24, words(&[1, 2, 0, 4])));
    assert_eq!(of("b"), (24, words(&[1, 0, 3, 4, 5])));
    assert_eq!(of("c"), (12, words(&[1, 2, 3])));
    assert_eq!(of("d"), (16, vec![]));
    assert_eq!(of("e"), (8, words(&[7, 8])));
    assert_eq!(of("f"), (16, words(&[1, 2, 3])));
}

#[test]
fn addresses() {
    let text = ".global .b8 x[16]; .const .u32 generic = 1; .func f() { }
        .global .u64 a[5] = {x, 3, generic(x)+8, x+-4, f}; .global .u32 b = x+2*3; .global .u64 c = generic;";
    let module = module(text);
    let a = variable(&module, "a");
    assert_eq!(a.size, 40);
    assert_eq!(a.init, [vec![0; 8], vec![3], vec![0; 31]].concat());
    let found: Vec<_> =
        a.relocations.iter().map(|r| (r.offset, r.size, r.symbol, r.addend, r.generic)).collect();
    let x = Symbol::Variable(VariableId(0));
    let expected = [
        (0, 8, x, 0, false),
        (16, 8, x, 8, true),
        (24, 8, x, -4, false),
        (32, 8, Symbol::Function(FunctionId(0)), 0, false),
    ];
    assert_eq!(found, expected);
    let b = &variable(&module, "b").relocations[0];
    assert_eq!((b.offset, b.size, b.symbol, b.addend), (0, 4, x, 6));
    // `generic` without parentheses is a name like any other.
    assert_eq!(variable(&module, "c").relocations[0].symbol, Symbol::Variable(VariableId(1)));
}

#[test]
fn extern_merges_with_its_definition() {
    let text = ".extern .global .b32 a[]; .global .u64 pointer = a; .visible .global .b32 a[2] = {1, 2};
        .extern .global .b32 a[2]; .extern .const .u32 b; .extern .const .u32 b;";
    let module = module(text);
    let a = variable(&module, "a");
    assert_eq!((a.size, a.linkage, a.init.clone()), (8, Linkage::Visible, words(&[1, 2])));
    assert_eq!(variable(&module, "pointer").relocations[0].symbol, Symbol::Variable(VariableId(0)));
    assert_eq!(variable(&module, "b").linkage, Linkage::Extern);
}

#[test]
fn variables_of_a_body() {
    let body =
        body(".local .align 8 .b8 depot[24]; { .param .b64 arg; .shared .f32 tile[4]; } .const .u32 d = 4;");
    // Before them come `array` and the two parameters of the kernel.
    assert_eq!(body.variables, [3, 4, 5, 6].map(VariableId));
}
