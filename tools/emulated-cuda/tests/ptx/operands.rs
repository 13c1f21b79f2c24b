//! The forms of operands.

use cuda::ptx::ast::{Base, Operand, RegisterId, Symbol, VariableId};

use super::operands;

// Registers of the kernel that holds the instruction.
const P: RegisterId = RegisterId(0);
const Q: RegisterId = RegisterId(1);
const A: RegisterId = RegisterId(2);
const WIDE: RegisterId = RegisterId(5);
const F: RegisterId = RegisterId(6);
/// `v.x`, the first of four.
const V: u32 = 7;

fn register(id: RegisterId) -> Operand {
    Operand::Register(id)
}

/// `array`, the first variable of the module.
const ARRAY: Symbol = Symbol::Variable(VariableId(0));
/// `n`, the second parameter of the kernel.
const N: Symbol = Symbol::Variable(VariableId(2));

#[test]
fn special_registers() {
    for (text, name, component) in [
        ("%tid.x", "%tid", Some('x')),
        ("%nctaid.z", "%nctaid", Some('z')),
        ("%tid.w", "%tid", Some('w')),
        ("%ntid.g", "%ntid", Some('y')),
        ("%tid", "%tid", None),
        ("%laneid", "%laneid", None),
        ("%clock64", "%clock64", None),
        ("%envreg31", "%envreg31", None),
        ("%pm7_64", "%pm7_64", None),
        ("%dynamic_smem_size", "%dynamic_smem_size", None),
    ] {
        let found = operands(&format!("mov.u32 a, {text};"));
        assert_eq!(found, [register(A), Operand::Special(name.into(), component)], "{text}");
    }
}

#[test]
fn addresses() {
    for (text, base, offset) in [
        ("[wide]", Base::Register(WIDE), 0),
        ("[wide+0]", Base::Register(WIDE), 0),
        ("[wide+16]", Base::Register(WIDE), 16),
        ("[wide+-8]", Base::Register(WIDE), -8),
        ("[ wide + 4 * 2 + 1 ]", Base::Register(WIDE), 9),
        ("[array]", Base::Symbol(ARRAY), 0),
        ("[array+0x10]", Base::Symbol(ARRAY), 16),
        ("[n+4]", Base::Symbol(N), 4),
        ("[16]", Base::Absolute, 16),
        ("[4 + WARP_SZ]", Base::Absolute, 36),
        ("[0xffffffffffffffff]", Base::Absolute, -1),
    ] {
        assert_eq!(operands(&format!("ld.u32 a, {text};"))[1], Operand::Address(base, offset), "{text}");
    }
}

#[test]
fn symbols() {
    assert_eq!(operands("mov.u64 wide, array;")[1], Operand::Symbol(ARRAY, 0));
    assert_eq!(operands("mov.u64 wide, array+4*3;")[1], Operand::Symbol(ARRAY, 12));
    assert_eq!(operands("mov.u64 wide, n;")[1], Operand::Symbol(N, 0));
}

#[test]
fn vectors() {
    let vector = |list: Vec<Operand>| Operand::Vector(list);
    let expected = vector(vec![
        register(A),
        Operand::Sink,
        Operand::Integer(-1),
        Operand::F32(0x3f80_0000),
        Operand::F64(0),
    ]);
    assert_eq!(operands("mov.b64 {a, _, -1, 0f3F800000, 0.0}, wide;"), [expected, register(WIDE)]);
    assert_eq!(
        operands("st.v2.u32 [wide], {%tid.x, array};")[1],
        vector(vec![Operand::Special("%tid".into(), Some('x')), Operand::Symbol(ARRAY, 0)])
    );
    assert_eq!(operands("op {a};"), [vector(vec![register(A)])]);
}

#[test]
fn vector_registers() {
    let whole = Operand::Vector((V..V + 4).map(|i| register(RegisterId(i))).collect());
    assert_eq!(operands("ld.v4.f32 v, [wide];")[0], whole);
    for (text, index) in
        [("v.x", 0), ("v.y", 1), ("v.z", 2), ("v.w", 3), ("v.r", 0), ("v.g", 1), ("v.b", 2), ("v.a", 3)]
    {
        assert_eq!(
            operands(&format!("mov.f32 f, {text};")),
            [register(F), register(RegisterId(V + index))],
            "{text}"
        );
    }
    assert_eq!(operands("op {w.y, v.x}, [w.x];")[1], Operand::Address(Base::Register(RegisterId(V + 4)), 0));
}

#[test]
fn pairs_and_negations() {
    let pair = |a: Operand, b: Operand| Operand::Pair(Box::new(a), Box::new(b));
    assert_eq!(operands("setp.lt.and.f32 p|q, f, f, !p;")[..1], [pair(register(P), register(Q))]);
    assert_eq!(operands("setp.lt.and.f32 p | q, f, f, !p;")[3], Operand::NotRegister(P));
    assert_eq!(operands("elect.sync _|p, -1;"), [pair(Operand::Sink, register(P)), Operand::Integer(-1)]);
    assert_eq!(operands("shfl.sync.bfly.b32 a|_, a, 1, 31, -1;")[0], pair(register(A), Operand::Sink));
    // The operator of constants is another matter.
    assert_eq!(operands("mov.b32 a, 1|6;")[1], Operand::Integer(7));
    assert_eq!(operands("mov.b32 a, !WARP_SZ;")[1], Operand::Integer(0));
}

#[test]
fn no_operands() {
    assert_eq!(operands("ret;"), []);
    assert_eq!(operands("membar.gl;"), []);
}
