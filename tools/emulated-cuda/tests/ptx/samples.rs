//! What compilers really emit; each file says how it was made.

use cuda::ptx::{
    ast::{Function, Instruction, Module, Operand, Symbol},
    parse,
};

use super::{function, variable};

/// Every sample.
pub const ALL: [&str; 5] = [
    include_str!("samples/nvcc_features.ptx"),
    include_str!("samples/nvcc_lineinfo.ptx"),
    include_str!("samples/nvcc_debug.ptx"),
    include_str!("samples/clang_o2.ptx"),
    include_str!("samples/clang_debug.ptx"),
];

fn sample(index: usize) -> Module {
    parse(ALL[index]).unwrap_or_else(|error| panic!("{error}"))
}

fn instructions(function: &Function) -> &[Instruction] {
    &function.body.as_ref().expect("a body").instructions
}

/// An instruction is a line that begins with a tab, a guard or an opcode, and ends with a semicolon, or begins a call.
/// A count of its own, to show that nothing was left out.
fn instruction_lines(text: &str) -> usize {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|l| {
            (l.ends_with(';') && l.len() > 2 && l.starts_with(|c: char| c.is_alphabetic() || c == '@'))
                || l.starts_with("call")
        })
        .filter(|l| !l.contains(".callprototype") && !l.starts_with("_Z"))
        .count()
}

#[test]
fn every_instruction_is_there() {
    for (index, text) in ALL.iter().enumerate() {
        let module = sample(index);
        let bodies = module.functions.iter().filter_map(|f| f.body.as_ref());
        let found: usize = bodies.map(|b| b.instructions.len()).sum();
        // Two instructions of the inline assembler share a line that begins with a brace.
        let inline = if index == 0 { 2 } else { 0 };
        assert_eq!(found, instruction_lines(text) + inline, "sample {index}");
    }
}

#[test]
fn nvcc_features() {
    let module = sample(0);
    assert_eq!((module.version, module.target.as_str()), ((9, 0), "sm_80"));
    let kernel = function(&module, "_Z8features4PairPfi");
    assert_eq!((kernel.max_threads, kernel.min_blocks), (Some([128, 1, 1]), Some(2)));
    assert_eq!(kernel.params.len(), 3);
    assert!(function(&module, "vprintf").body.is_none());
    assert_eq!(variable(&module, "table").init, [1.5f32, -2.0].map(f32::to_le_bytes).concat());
    assert!(variable(&module, "where").relocations[0].generic);
    let functions = &variable(&module, "functions").relocations;
    let names: Vec<_> = functions
        .iter()
        .map(|r| match r.symbol {
            Symbol::Function(id) => module.functions[id.0 as usize].name.as_str(),
            Symbol::Variable(_) => panic!("a function is meant"),
        })
        .collect();
    assert_eq!(names, ["_Z5twicei", "_Z4nexti"]);
    let calls = instructions(kernel).iter().filter(|i| i.opcode == "call");
    let indirect = calls.filter(|i| matches!(i.operands.last(), Some(Operand::Prototype(_)))).count();
    assert_eq!(indirect, 1);
    // The inline assembler loops on a label of its own.
    let body = kernel.body.as_ref().unwrap();
    let (label, at) =
        body.labels.iter().enumerate().find(|(_, l)| l.0 == "DONE").map(|(i, l)| (i, l.1)).unwrap();
    let Operand::Label(target) = body.instructions[at as usize + 1].operands[0] else {
        panic!("a branch is meant")
    };
    assert_eq!(target.0 as usize, label);
}

#[test]
fn nvcc_lineinfo() {
    let module = sample(1);
    assert_eq!(module.files, [(1, "inlined.cu".to_owned())]);
    let kernel = instructions(&module.functions[0]);
    let lines: Vec<_> =
        kernel.iter().map(|i| (i.opcode.as_str(), i.location.file, i.location.source_line)).collect();
    // The multiplication was inlined from the first line.
    assert!(lines.contains(&("mul", 1, 1)), "{lines:?}");
    assert!(lines.iter().all(|l| l.0 == "mul" && l.2 <= 2 || l.2 == 2), "{lines:?}");
    for i in kernel {
        let line = ALL[1].lines().nth(i.location.line as usize - 1).unwrap();
        assert!(line.trim_start().starts_with(&i.opcode), "{line}");
    }
}

#[test]
fn debug_information() {
    for index in [2, 4] {
        let module = sample(index);
        assert_eq!(module.target, "sm_80");
        for f in module.functions.iter().filter(|f| f.body.is_some()) {
            let body = f.body.as_ref().unwrap();
            let end = body.labels.iter().find(|(name, _)| name.contains("func_end")).unwrap();
            assert_eq!(end.1 as usize, body.instructions.len());
            assert!(body.instructions.iter().all(|i| i.location.source_line > 0));
        }
    }
}

#[test]
fn clang_o2() {
    let module = sample(3);
    let kernel = function(&module, "_Z6kernel4PairPf");
    let local = kernel.body.as_ref().unwrap().variables.iter().map(|v| &module.variables[v.0 as usize]);
    let names: Vec<_> = local.map(|v| (v.name.as_str(), v.size)).collect();
    let expected = [
        ("__local_depot1", 16),
        ("_ZZ6kernel4PairPfE6buffer", 256),
        ("param0", 12),
        ("param1", 4),
        ("retval0", 4),
    ];
    assert_eq!(names, expected);
}
