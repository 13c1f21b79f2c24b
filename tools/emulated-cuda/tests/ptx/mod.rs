//! The PTX front end: text in, tree or error out.

mod bodies;
mod constants;
mod directives;
mod errors;
mod functions;
mod hostile;
mod operands;
mod samples;
mod variables;

use cuda::ptx::{
    ParseError,
    ast::{Body, Function, Instruction, Module, Operand, Variable},
    parse,
};

/// Three lines that begin every module.
const HEADER: &str = ".version 9.0\n.target sm_80\n.address_size 64\n";

/// Parses directives, which begin in line 4.
fn parse_module(directives: &str) -> Result<Module, ParseError> {
    parse(&format!("{HEADER}{directives}"))
}

/// Parses directives that must be valid.
fn module(directives: &str) -> Module {
    parse_module(directives).unwrap_or_else(|error| panic!("{error}\nin {directives}"))
}

/// Parses statements, which begin in line 6: the body of a kernel with two parameters and a few registers.
fn parse_kernel(statements: &str) -> Result<Module, ParseError> {
    let registers =
        ".reg .pred p, q; .reg .b32 a, b, c; .reg .b64 wide; .reg .f32 f; .reg .v4 .f32 v; .reg .v2 .b32 w;";
    parse_module(&format!(
        ".global .b32 array[8]; .func callee() {{ ret; }}\n.entry k(.param .u64 x, .param .b32 n) {{ {registers}\n\
         {statements}\n}}"
    ))
}

/// The last function of a module, which is its kernel here.
fn kernel_of(module: &Module) -> &Function {
    module.functions.last().expect("a function")
}

/// The body of the kernel that holds valid statements.
fn body(statements: &str) -> Body {
    let module = parse_kernel(statements).unwrap_or_else(|error| panic!("{error}\nin {statements}"));
    kernel_of(&module).body.clone().expect("a body")
}

/// The one instruction of a kernel.
fn instruction(statement: &str) -> Instruction {
    let mut all = body(statement).instructions;
    assert_eq!(all.len(), 1, "{statement}");
    all.remove(0)
}

/// The operands of the one instruction of a kernel.
fn operands(statement: &str) -> Vec<Operand> {
    instruction(statement).operands
}

/// A variable by its name.
fn variable<'m>(module: &'m Module, name: &str) -> &'m Variable {
    let mut found = module.variables.iter().filter(|v| v.name == name);
    let variable = found.next().unwrap_or_else(|| panic!("no variable {name}"));
    assert!(found.next().is_none(), "two variables {name}");
    variable
}

/// A function by its name.
fn function<'m>(module: &'m Module, name: &str) -> &'m Function {
    let mut found = module.functions.iter().filter(|f| f.name == name);
    let function = found.next().unwrap_or_else(|| panic!("no function {name}"));
    assert!(found.next().is_none(), "two functions {name}");
    function
}
