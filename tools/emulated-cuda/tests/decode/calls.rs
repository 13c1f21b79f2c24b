//! Calls are inlined, with parameters in memory or in registers.

use super::{interpreter::decoded, load, named};

const HEADER: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.global .align 8 .b8 g[8];\n";

/// 3 x + 1 with parameters in memory, as nvcc passes them.
const TRIPLE: &str = ".func (.param .b32 out) triple(.param .b32 in)\n{\n.reg .b32 %r<3>;\n\
    ld.param.u32 %r1, [in];\nmad.lo.u32 %r2, %r1, 3, 1;\nst.param.u32 [out], %r2;\nret;\n}\n";

/// A call of it, from %r1 to %r2.
const CALL: &str = "{\n.param .b32 a0;\n.param .b32 b0;\nst.param.u32 [a0], %r1;\ncall.uni (b0), triple, (a0);\n\
    ld.param.u32 %r2, [b0];\n}\n";

fn run(functions: &str, body: &str) -> Vec<u64> {
    let text = format!(
        "{HEADER}{functions}.visible .entry k()\n{{\n.reg .pred %p<4>;\n.reg .b32 %r<9>;\n.reg .b64 %rd<4>;\n{body}ret;\n}}\n"
    );
    decoded(&named(&text, "k").program).unwrap()
}

fn error(functions: &str, body: &str) -> String {
    let text = format!("{HEADER}{functions}.visible .entry k()\n{{\n.reg .b32 %r<9>;\n{body}ret;\n}}\n");
    load(&text).unwrap_err().to_string()
}

#[test]
fn each_call_has_registers_and_memory_of_its_own() {
    let body = format!(
        "mov.u32 %r1, 5;\n{CALL}st.global.u32 [g], %r2;\nmov.u32 %r1, %r2;\n{CALL}st.global.u32 [g], %r2;\n"
    );
    assert_eq!(run(TRIPLE, &body), [16, 49]);
}

#[test]
fn parameters_in_registers() {
    let two = ".func (.reg .b64 out) wide(.reg .b32 x, .reg .b32 y)\n{\n.reg .pred %p<2>;\n\
               setp.lt.u32 %p1, x, 10;\n@%p1 bra SMALL;\nmov.u64 out, 7;\nret;\nSMALL:\nmul.wide.u32 out, x, y;\nret;\n}\n";
    let body = "mov.u32 %r1, 3;\ncall (%rd1), wide, (%r1, 5);\nst.global.u64 [g], %rd1;\n\
                call (%rd1), wide, (30, %r1);\nst.global.u64 [g], %rd1;\n";
    assert_eq!(run(two, body), [15, 7]);
}

#[test]
fn a_guard_holds_for_the_whole_call() {
    let body = |value: u32| {
        let call = CALL.replace("call.uni", "@%p1 call");
        format!(
            "mov.u32 %r1, {value};\nsetp.lt.u32 %p1, %r1, 10;\n{call}@%p1 st.global.u32 [g], %r2;\nst.global.u32 [g], %r1;\n"
        )
    };
    assert_eq!(run(TRIPLE, &body(4)), [13, 4]);
    assert_eq!(run(TRIPLE, &body(12)), [12]);
}

#[test]
fn calls_in_calls() {
    let nested = format!(
        "{TRIPLE}.func (.param .b32 out) twice(.param .b32 in)\n{{\n.reg .b32 %r<9>;\nld.param.u32 %r1, [in];\n{CALL}\
         mov.u32 %r1, %r2;\n{CALL}st.param.u32 [out], %r2;\nret;\n}}\n"
    );
    let body = format!("mov.u32 %r1, 5;\n{}st.global.u32 [g], %r2;\n", CALL.replace("triple", "twice"));
    assert_eq!(run(&nested, &body), [49]);
}

#[test]
fn recursion_is_an_error() {
    let text = ".func a();\n.func b()\n{\ncall a;\nret;\n}\n.func a()\n{\ncall b;\nret;\n}\n";
    let error = error(text, "call a;\n");
    assert!(error.contains("recursion is not supported"), "{error}");
    assert!(error.contains("call a;"), "{error}");
}

#[test]
fn a_bomb_of_calls_is_an_error_in_time() {
    let mut functions = String::from(".func f0()\n{\nret;\n}\n");
    for at in 1..50 {
        functions += &format!(".func f{at}()\n{{\ncall f{0};\ncall f{0};\nret;\n}}\n", at - 1);
    }
    let started = std::time::Instant::now();
    let error = error(&functions, "call f49;\n");
    assert!(error.contains("calls inlined"), "{error}");
    assert!(started.elapsed().as_secs() < 20);
}

#[test]
fn a_function_without_a_body_is_an_error() {
    let error = error(".extern .func missing();\n", "call missing;\n");
    assert!(error.contains("missing has no body"), "{error}");
}

#[test]
fn the_number_of_parameters_must_match() {
    let error = error(TRIPLE, "{\n.param .b32 a0;\ncall triple, (a0);\n}\n");
    assert!(error.contains("triple has other parameters"), "{error}");
}
