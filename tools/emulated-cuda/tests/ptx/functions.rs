//! Functions: formal parameters, declarations and definitions, calls.

use cuda::ptx::ast::{Formal, FunctionId, Linkage, Operand, RegisterId, Space, Symbol, Type, VariableId};

use super::{function, kernel_of, module, operands, variable};

#[test]
fn parameters_of_a_kernel() {
    let module = module(
        ".entry k(.param .u64 .ptr .global .align 8 a, .param .align 4 .b8 b[12], .param .u64 .ptr c,
            .param .u64 .ptr .shared d, .param .v2 .f32 e) { }",
    );
    assert_eq!(kernel_of(&module).params, [0, 1, 2, 3, 4].map(|i| Formal::Variable(VariableId(i))));
    assert!(kernel_of(&module).returns.is_empty());
    let of = |name| {
        let v = variable(&module, name);
        assert_eq!((v.space, v.linkage), (Space::Param, Linkage::Internal));
        (v.ty, v.size, v.align)
    };
    // `.align` after `.ptr` is that of what the pointer points at.
    assert_eq!(of("a"), (Type::U64, 8, 8));
    assert_eq!(of("b"), (Type::B8, 12, 4));
    assert_eq!(of("c"), (Type::U64, 8, 8));
    assert_eq!(of("d"), (Type::U64, 8, 8));
    assert_eq!(of("e"), (Type::F32, 8, 8));
}

#[test]
fn parameters_of_a_function() {
    let module = module(
        ".func (.reg .b32 r, .reg .f64 s) f(.reg .b64 a, .param .b32 b, .reg .pred c) { .reg .b16 d; mov.b32 r, b; }",
    );
    let f = &module.functions[0];
    assert_eq!(f.returns, [0, 1].map(|i| Formal::Register(RegisterId(i))));
    let (a, b, c) = (RegisterId(2), VariableId(0), RegisterId(3));
    assert_eq!(f.params, [Formal::Register(a), Formal::Variable(b), Formal::Register(c)]);
    let body = f.body.as_ref().unwrap();
    let registers: Vec<_> = body.registers.iter().map(|r| (r.name.as_str(), r.ty)).collect();
    let expected =
        [("r", Type::B32), ("s", Type::F64), ("a", Type::B64), ("c", Type::Pred), ("d", Type::B16)];
    assert_eq!(registers, expected);
    let operands = &body.instructions[0].operands;
    assert_eq!(*operands, [Operand::Register(RegisterId(0)), Operand::Symbol(Symbol::Variable(b), 0)]);
}

#[test]
fn a_declaration_merges_with_its_definition() {
    let module = module(
        ".func (.param .b32 r) f(.param .b64 x); .func g(); .func (.param .b32 other) f(.param .b64 y);
         .entry k() { .param .b32 r; .param .b64 a; call (r), f, (a); }
         .visible .func (.param .b32 result) f(.param .b64 given) { ret; }
         .func stop() .noreturn; .func stop() { exit; }",
    );
    let f = function(&module, "f");
    assert_eq!(f.linkage, Linkage::Visible);
    assert!(f.body.is_some() && function(&module, "g").body.is_none());
    assert!(function(&module, "stop").no_return);
    // The names are those of the definition.
    let Formal::Variable(id) = f.params[0] else { panic!("{:?}", f.params) };
    assert_eq!(module.variables[id.0 as usize].name, "given");
    let call = &function(&module, "k").body.as_ref().unwrap().instructions[0];
    assert_eq!(call.operands[1], Operand::Function(FunctionId(0)));
}

#[test]
fn direct_calls() {
    let f = || Operand::Function(FunctionId(0));
    let list = Operand::List;
    assert_eq!(operands("call callee;"), [f()]);
    assert_eq!(operands("call.uni callee, ();"), [f(), list(vec![])]);
    assert_eq!(operands("call (), callee, ();"), [list(vec![]), f(), list(vec![])]);
    // Whether the arguments suit the function is the decoder's to see.
    let a = Operand::Register(RegisterId(2));
    let x = Operand::Symbol(Symbol::Variable(VariableId(1)), 0);
    assert_eq!(
        operands("call (_), callee, (a, x, 7, 0f00000000, WARP_SZ);"),
        [
            list(vec![Operand::Sink]),
            f(),
            list(vec![a, x, Operand::Integer(7), Operand::F32(0), Operand::Integer(32)])
        ]
    );
}

#[test]
fn indirect_calls() {
    let module = module(
        ".func f(); .entry k() { .reg .b64 t; .param .b32 a, r;
         proto: .callprototype (.param .b32 _) _ (.param .align 8 .b8 _[16], .reg .b32 _, .param .b8 _[]) .noreturn;
         none : .callprototype _ ();
         list: .calltargets f, f;
         call (r), t, (a), proto; call t, none; call.uni t, (a), list; }",
    );
    let instructions = &kernel_of(&module).body.as_ref().unwrap().instructions;
    let t = || Operand::Register(RegisterId(0));
    let of = |index: u32| Operand::List(vec![Operand::Symbol(Symbol::Variable(VariableId(index)), 0)]);
    let prototype = |name: &str| Operand::Prototype(name.to_owned());
    assert_eq!(instructions[0].operands, [of(1), t(), of(0), prototype("proto")]);
    assert_eq!(instructions[1].operands, [t(), prototype("none")]);
    assert_eq!(instructions[2].operands, [t(), of(0), prototype("list")]);
}

#[test]
fn a_function_can_call_itself() {
    let module = module(".func f() { call f; ret; }");
    let instructions = &module.functions[0].body.as_ref().unwrap().instructions;
    assert_eq!(instructions[0].operands, [Operand::Function(FunctionId(0))]);
}
