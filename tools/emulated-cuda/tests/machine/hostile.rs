//! Texts that once made the machine panic, hang or take all memory, or could have.

use cuda::machine::{FaultKind, LoadError, Module};

use super::{Setup, launches::printing};

/// Runs a module that prints, whose arguments or format lie at an address of `%rd5`'s.
fn prints(format: &str, prologue: &str) -> Result<super::Ran, Box<cuda::machine::Fault>> {
    Setup::block(32).run_text(&printing(format, prologue))
}

#[test]
fn printf_from_the_end_of_the_address_space() {
    for address in
        ["0xffffffffffffffff", "0xfffffffffffffff9", "0x7fffffffffffffff", "0x01020000fffffffc", "0"]
    {
        let arguments = format!("mov.u64 %rd2, {address};");
        let fault = prints("%d %lld\n", &arguments).expect_err("nothing is there");
        assert!(matches!(fault.kind, FaultKind::Undefined | FaultKind::IllegalAddress), "{fault}");
        let format = format!("mov.u64 %rd4, {address};");
        assert_eq!(prints("%d\n", &format).expect_err("nothing is there").kind, FaultKind::IllegalAddress);
    }
}

#[test]
fn printf_without_end() {
    let mut setup = Setup::block(32);
    setup.options.instruction_limit = 100_000;
    // 4096 spaces at a time, over and over.
    let text =
        printing(&"%4096d".repeat(20), "L:").replace("\nret;", "\nbra L;").replace("depot[8]", "depot[80]");
    let text =
        text.replace("st.local.v2.u32 [depot], {%r1, %r2};", "mov.u32 %r5, 0;\nS:\nadd.u64 %rd6, %rd1, 0;\n");
    let zeros: String =
        (0..10).map(|i| format!("st.local.v2.u32 [depot+{}], {{%r1, %r2}};\n", 8 * i)).collect();
    let text = text.replace("mov.u32 %r5, 0;\nS:\nadd.u64 %rd6, %rd1, 0;\n", &zeros);
    let fault = setup.run_text(&text).expect_err("it prints for ever");
    assert!(fault.kind == FaultKind::Limit && fault.message.contains("printed more than"), "{fault}");
}

#[test]
fn a_sample_of_the_largest_grid() {
    let setup = Setup { grid: [i32::MAX as u32, 65535, 65535], sample: Some(4), ..Setup::block(1) };
    let body = "mov.u32 %r1, %ctaid.z;\nsetp.ge.u32 %p1, %r1, 65535;\n@%p1 trap;";
    assert_eq!(setup.run(body).unwrap().counters.blocks, 4);
}

/// Each function calls the next one twice.
fn doubling(functions: usize, leaf: &str) -> String {
    let mut text = ".version 8.0\n.target sm_80\n.address_size 64\n".to_owned();
    text += &format!(".func f0()\n{{\n{leaf}\n}}\n");
    for index in 1..functions {
        text += &format!(".func f{index}()\n{{\ncall f{0};\ncall f{0};\n}}\n", index - 1);
    }
    text
}

/// Fails to load, and soon.
fn refused(text: &str) {
    let started = std::time::Instant::now();
    let device =
        cuda::machine::Device::new(cuda::machine::Options { memory_bytes: 1 << 20, ..Default::default() });
    match Module::load(&device, text) {
        Err(LoadError::Unsupported { message, .. }) => assert!(message.contains("more than"), "{message}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was loaded"),
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn calls_that_double_over_and_over() {
    let entry = ".visible .entry k()\n{\ncall f59;\nret;\n}\n";
    refused(&(doubling(60, "") + entry));
    refused(&(doubling(60, ".reg .b32 %r<2>;\nmov.u32 %r1, 1;") + entry));
    // Nobody calls the last one.
    refused(&doubling(60, ".reg .b32 %r<2>;\nmov.u32 %r1, 1;"));
}

/// Many kernels that are large once their calls are inlined.
#[test]
fn many_kernels_of_many_calls() {
    let mut text = doubling(17, ".reg .b32 %r<2>;\nmov.u32 %r1, 1;");
    for index in 0..200 {
        text += &format!(".visible .entry k{index}()\n{{\ncall f16;\nret;\n}}\n");
    }
    refused(&text);
}
