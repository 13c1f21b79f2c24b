//! What is refused, with the line and the reason.

use cuda::ptx::parse;

use super::{parse_kernel, parse_module};

#[test]
fn an_error_shows_its_line() {
    let error = parse(".version 9.0\n.target sm_80\n\n  .entry k() { bogus a;\n}\n").unwrap_err();
    assert_eq!((error.line, error.text.as_str()), (4, ".entry k() { bogus a;"));
    assert_eq!(error.to_string(), "line 4: a is not declared\n  .entry k() { bogus a;");
    let error =
        parse(&format!(".version 9.0 .target sm_80 .entry k() {{ {} }}", "x".repeat(10_000))).unwrap_err();
    assert!(error.text.len() < 200, "{error}");
}

#[test]
fn headers() {
    for (text, line, message) in [
        ("", 1, "expected .version, found the end of the text"),
        ("\n\n.target sm_80", 3, "expected .version, found \".target\""),
        (".version 9\n", 1, "9 is not a version"),
        (".version 9.0.1", 1, "expected .target"),
        (".version 10.0", 1, "PTX version 10.0 is not supported"),
        (".version 2.3", 1, "PTX version 2.3 is not supported"),
        (".version 9.0\n.version 9.0", 2, "expected .target"),
        (".version 9.0\n.target foo", 2, "foo is not an architecture"),
        (".version 9.0\n.target sm_80, map_f64_to_f32", 2, "option map_f64_to_f32 is not supported"),
        (".version 9.0\n.target sm_80\n.address_size 32", 3, "addresses of 32 bits are not supported"),
        (".version 9.0\n.target sm_80\n.address_size 48", 3, "cannot have 48 bits"),
        (".version 9.0 .target sm_80 .target sm_80", 1, "unknown directive .target"),
        (".version 9.0 /* .target sm_80", 1, "comment has no end"),
        (".version 9.0 .target sm_80\n\u{e9}", 2, "unexpected character 'é'"),
        (".version 9.0 .target sm_80\n#line 1", 2, "unexpected character '#'"),
        (".version 9.0 .target sm_80 .file 1 \"abc\n\"", 1, "string has no end"),
        (".version 9.0 .target sm_80\n.file 1 \"abc\\", 2, "string has no end"),
        (".version 9.0 .target sm_80 . global", 1, "name is missing after the dot"),
        (".version 9.0 .target sm_80 $ 5", 1, "unexpected character '$'"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!(error.line, line, "{text}: {error}");
    }
}

#[test]
fn directives_of_the_module() {
    for (text, message) in [
        (".unknown", "unknown directive .unknown"),
        (".visible .unknown", "unknown directive .unknown"),
        ("ret;", "expected a directive, found \"ret\""),
        (";", "expected a directive, found \";\""),
        (".loc 1 2 3", "unknown directive .loc"),
        (".local .b32 x;", ".local variable cannot be declared outside of a function"),
        (".param .b32 x;", ".param variable cannot be declared outside of a function"),
        (".reg .b32 x;", "unknown directive .reg"),
        (".common .shared .b32 x;", "only global variables can be .common"),
        (".pragma \"foo\";", "pragma \"foo\" is not known"),
        (".pragma \"nounroll\"", "expected \";\""),
        (".section .foo { }", "section .foo is not known"),
        (".section .debug_x { .b8 1", "section .debug_x has no end"),
        (".file 1 \"a\" .file 1 \"b\"", "file 1 is declared already"),
        (".file -1 \"a\"", "expected a file index"),
        (".file 4294967296 \"a\"", "4294967296 is not a file index"),
        (".alias f, g;", "f is not a declared function"),
        (".entry k(); .func f(); .alias f, k;", "k is not a declared function"),
        (".func f(); .func g(); .alias f, g;", "g has no body"),
        (".func f() { } .func g() { } .alias f, g;", "f is defined already"),
        (".func f(); .func g() { } .func h() { } .alias f, g; .alias f, h;", "f is defined already"),
        (".func f(.param .b32 a); .func g() { } .alias f, g;", "f has other parameters than g"),
    ] {
        let error = parse_module(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!(error.line, 4, "{text}: {error}");
    }
}

#[test]
fn variables() {
    for (text, message) in [
        (".global x;", "expected a type"),
        (".global .f8 x;", ".f8 is not a type"),
        (".global .texref x;", "textures and surfaces (.texref) are not supported"),
        (
            ".global .attribute(.managed) .b32 x;",
            "variables with attributes (managed, unified) are not supported",
        ),
        (".global .pred x;", "a predicate cannot lie in memory"),
        (".global .v4 .f64 x;", "a vector has at most 128 bits"),
        (".global .align 3 .b8 x;", "power of two"),
        (".global .align 0 .b8 x;", "power of two"),
        (".global .b8 .align 4 x;", "expected the name of a variable"),
        (".global .b8 x[0];", "an array cannot have 0 elements"),
        (".global .b8 x[-1];", "an array cannot have -1 elements"),
        (".global .b8 x[1.5];", "an array size must be an integer"),
        (".global .b8 x[4][];", "expected an array size"),
        (".global .b8 x[];", "x has no size"),
        (".shared .b8 x[];", "x has no size"),
        (".global .b8 x[1099511627776][1099511627776];", "x is too large"),
        (".global .b8 x<4>;", "only registers can be declared as a range"),
        (".global .b8 _;", "expected the name of a variable"),
        (".global .b8 x .global .b8 y;", "expected \";\""),
        (".global .b8 x; .const .b8 x;", "x is declared already"),
        (".func x(); .global .b8 x;", "x is declared already"),
        (".extern .global .b8 x[4]; .global .b8 x[5];", "x was declared otherwise in line 4"),
        (".extern .global .b8 x; .const .b8 x;", "x was declared otherwise"),
        (".shared .b32 x = 1;", "only global and constant variables can be initialised"),
        (".extern .global .b32 x = 1;", "an extern variable cannot be initialised"),
        (".global .b32 x[2] = {1, 2, 3};", "more than the 2 values"),
        (".global .b32 x[2][2] = {1, 2, 3, 4};", "expected \"{\""),
        (".global .b32 x[2] = 1;", "expected \"{\""),
        (".global .b32 x = {1};", "expected a constant"),
        (".global .b32 x[2] = {1, };", "expected a value"),
        (".global .b32 x[] = {};", "initialiser is empty"),
        (".global .b8 x = 256;", "256 does not fit 8 bits"),
        (".global .b8 x = -129;", "-129 does not fit 8 bits"),
        (".global .u32 x = 4294967296;", "does not fit 32 bits"),
        (".global .f32 x = 1;", "an integer cannot initialise a floating-point variable"),
        (".global .u32 x = 1.5;", "a floating-point number cannot initialise an integer variable"),
        (".global .f16 x = 1.5;", "half-precision variables cannot be initialised"),
        (".global .b8 x[4] = \"abc\";", "expected \"{\""),
        (".global .b8 x[4] = {\"abc\"};", "a string cannot be an initial value"),
        (".global .u64 x = y;", "y is not declared"),
        (".shared .b8 y; .global .u64 x = y;", "y lies in neither global nor constant memory"),
        (".global .b8 y; .global .b64 x = y;", "only variables of type .u32 and .u64 can hold an address"),
        (".global .b8 y; .global .u8 x = 0xff(y);", "masked addresses such as 0xff(x) are not supported"),
        (".global .b8 y; .global .u64 x = y-4;", "expected \";\""),
        (".global .b8 y; .global .u64 x = y+1.5;", "an offset must be an integer"),
        (".global .b8 y; .global .u64 x = y+18446744073709551615;", "does not fit 64 bits"),
        (".global .b8 y; .global .u64 x = generic(y;", "expected \")\""),
    ] {
        let error = parse_module(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!(error.line, 4, "{text}: {error}");
    }
}

#[test]
fn functions() {
    for (text, message) in [
        (".entry", "expected the name of a function"),
        (".entry k()", "expected a body or \";\""),
        (".entry k() {", "expected an instruction, found the end of the text"),
        (".entry k(.reg .b32 x) { }", "a kernel cannot have parameters in registers"),
        (".entry k(.local .b32 x) { }", "unknown directive .local of a parameter"),
        (".entry k(.param .b32 x, .param .b32 x) { }", "x is declared already"),
        (".entry k(.param .b32 x,) { }", "expected a parameter"),
        (".entry k(.param .b8 x[]) { }", "parameters without size are not supported"),
        (".entry k(.param .ptr .u64 x) { }", ".ptr is not a type"),
        (".entry k() .maxntid 0 { }", "this number must be positive"),
        (".entry k() .maxntid 1, 2, 3, 4 { }", "expected a body"),
        (".entry k() .maxntid 4 .reqntid 4 { }", ".maxntid and .reqntid exclude each other"),
        (".entry k() .maxnreg { }", "expected a number"),
        (".entry k() .explicitcluster { }", "clusters (.explicitcluster) are not supported"),
        (".entry k() .reqnctapercluster 2 { }", "clusters (.reqnctapercluster) are not supported"),
        (".entry k() .maxclusterrank 2 { }", "clusters (.maxclusterrank) are not supported"),
        (".entry k() .noreturn { }", "unknown directive .noreturn here"),
        (".entry k() .unknown 4 { }", "unknown directive .unknown here"),
        (".func f() .maxntid 4 { }", "unknown directive .maxntid here"),
        (".func .attribute(.managed) f();", "attribute .managed of a function is not known"),
        (".func (.param .b32 r) f() .noreturn { }", "a function with a return value cannot be .noreturn"),
        (".func (.param .b32 r, .param .b32 s) f();", "several return values must lie in registers"),
        (".func f(.reg .v2 .b32 x);", "a parameter in a register is a scalar"),
        (".func f() { } .func f() { }", "f is defined already, in line 4"),
        (".func f() { } .func f();", "f is defined already"),
        (".func f() { .reg .b32 a; } .entry f() { }", "f is defined already"),
        (".func f(); .entry f() { }", "f was declared otherwise in line 4"),
        (".func f(.param .b32 a); .func f(.param .b64 a) { }", "f was declared otherwise"),
        (".func f(.param .b32 a); .func f(.param .u32 a) { }", "f was declared otherwise"),
        (".func f(.param .b32 a); .func f(.reg .b32 a) { }", "f was declared otherwise"),
        (".func f(.param .b32 a); .func (.param .b32 a) f() { }", "f was declared otherwise"),
        (
            ".func f(.param .align 4 .b8 a[8]); .func f(.param .align 8 .b8 a[8]) { }",
            "f was declared otherwise",
        ),
        (".global .b32 f; .func f() { }", "f is declared already"),
        (".extern .func f() { }", "f is extern and cannot have a body"),
        (".func f(.param .b32 a) { .reg .b32 a; }", "a is declared already"),
    ] {
        let error = parse_module(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!(error.line, 4, "{text}: {error}");
    }
}

#[test]
fn statements() {
    for (text, message) in [
        (";", "expected an instruction, found \";\""),
        ("} }", "expected a directive"),
        ("{", "expected an instruction, found the end"),
        ("ret", "expected an operand, found \"}\""),
        ("ret; ret bar;", "bar is not declared"),
        (".file 1 \"a\"", "unknown directive .file in a function"),
        (".extern .shared .b8 s[];", "unknown directive .extern in a function"),
        (".unknown 4;", "unknown directive .unknown in a function"),
        (".branchtargets L;", ".branchtargets needs a label"),
        (".callprototype _ ();", ".callprototype needs a label"),
        (".loc 1 2", "expected a column"),
        (".loc 1 2 3, discriminator 4", "unknown attribute discriminator of .loc"),
        (".reg .b32 a;", "a is declared already"),
        (".reg .b32 %r1; .reg .b32 %r<2>;", "%r1 is declared already"),
        (".reg .b32 %r1<5>, %r<20>;", "%r10 is declared already"),
        (".reg .b32 n;", "n is declared already"),
        (".reg .align 4 .b32 z;", "expected a register without alignment"),
        (".reg .b32 %r<x>;", "expected a number of registers"),
        (".reg .b32 %r<4;", "expected \">\""),
        (".reg .b32 _;", "expected the name of a register"),
        ("{ .reg .b32 inner; } mov.b32 inner, 1;", "inner is not declared"),
        ("L: L:", "L is declared already"),
        ("a:", "a is declared already"),
        ("bra L;", "label L is not declared"),
        ("bra a;", "a is not a label"),
        ("bra array;", "label array is not declared"),
        ("bra;", "expected a label"),
        ("bra L, L; L:", "expected \";\""),
        ("bra L; { L: }", "label L is not declared"),
        ("T: .branchtargets L; bra T; L:", "T is not a label"),
        ("T: .branchtargets L;", "label L is not declared"),
        ("T: .branchtargets;", "expected a label"),
        ("brx.idx a, T; T: .branchtargets L; L:", "T is no .branchtargets declared above"),
        ("L: brx.idx a, L;", "L is no .branchtargets declared above"),
        ("brx.idx a;", "expected \",\""),
        ("@r ret;", "r is not declared"),
        ("@v ret;", "v is not a scalar register"),
        ("@!! ret;", "expected a predicate"),
        ("T: .calltargets nothing;", "nothing is not a declared function"),
        ("T: .callprototype _ (.param .b32 _)", "expected \";\""),
        ("T: .callprototype f ();", "expected \"_\""),
    ] {
        let error = parse_kernel(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
        assert!((6..=7).contains(&error.line), "{text}: {error}");
    }
}

#[test]
fn operands() {
    for (text, message) in [
        ("mov.b32 a, nothing;", "nothing is not declared"),
        ("mov.b32 a, %r1;", "%r1 is not declared"),
        ("mov.b32 a, %envreg32;", "%envreg32 is not declared"),
        ("mov.b32 a, %envreg07;", "%envreg07 is not declared"),
        ("mov.b32 a, %tid.q;", ".q is not a component of a vector"),
        ("mov.b32 a, %laneid.x;", "component .x of a scalar register is not supported"),
        ("vadd.u32.u32.u32 a, b.h0, c.b1;", "component .h0 of a scalar register is not supported"),
        ("mov.b32 a, w.z;", "w has only 2 components"),
        ("mov.b32 a,;", "expected an operand"),
        ("mov.b32 a b;", "expected \";\""),
        ("mov.b32 a, b", "expected \";\""),
        ("mov.b32 a, .b;", "expected an operand"),
        ("mov.b32 a, \"text\";", "expected an operand"),
        ("mov.b64 wide, array-4;", "expected \";\""),
        ("L: mov.b64 wide, L;", "label L cannot be an operand here"),
        ("ld.b32 a, [];", "expected an address"),
        ("ld.b32 a, [wide;", "expected \"]\""),
        ("ld.b32 a, [wide-8];", "expected \"]\""),
        ("ld.b32 a, [wide+b];", "expected an offset"),
        ("ld.b32 a, [wide+1.5];", "an offset must be an integer"),
        ("ld.b32 a, [wide+9223372036854775808];", "offset 9223372036854775808 does not fit 64 bits"),
        ("ld.b32 a, [%tid.x];", "an address begins with"),
        ("ld.b32 a, [v];", "an address begins with"),
        ("ld.b32 a, [[wide]];", "expected an address"),
        (
            "tex.2d.v4.f32.f32 v, [wide, {f, f}];",
            "coordinates in an address (tensors, textures) are not supported",
        ),
        ("mov.b64 {}, wide;", "expected an operand"),
        ("mov.b64 {a, {b}}, wide;", "a vector cannot hold a vector"),
        ("mov.b64 {a, w}, wide;", "this cannot be an element of a vector"),
        ("st.v2.u64 [wide], {wide, callee};", "this cannot be an element of a vector"),
        ("mov.b64 {a, [wide]}, wide;", "this cannot be an element of a vector"),
        ("mov.b64 {a b}, wide;", "expected \"}\""),
        ("setp.eq.b32 p|1, a, b;", "expected an operand"),
        ("setp.eq.b32 p|array, a, b;", "\"|\" joins two registers"),
        ("setp.eq.b32 p|q|p, a, b;", "expected \";\""),
        ("op !nothing;", "nothing is not declared"),
        ("op !array;", "array is not a scalar register"),
        ("call nothing;", "nothing is not declared"),
        ("call array;", "array is not a function"),
        ("call (a) callee;", "expected \",\""),
        ("call callee, (%tid.x);", "a register, a constant or a .param variable is needed here"),
        ("call callee, ([wide]);", "a register, a constant or a .param variable is needed here"),
        ("call callee, (array+4);", "a register, a constant or a .param variable is needed here"),
        ("call callee, (a;", "expected \")\""),
        ("call wide, (a);", "an indirect call needs a prototype"),
        ("call wide, (a), proto;", "proto is no prototype or list of call targets declared above"),
        ("P: .callprototype _ (); call callee, (), P;", "a direct call has no prototype"),
    ] {
        let error = parse_kernel(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!(error.line, 6, "{text}: {error}");
    }
}
