//! `printf` and `assert` of the device.

use std::{env, process::Command};

use cuda::machine::Options;

use super::{
    gpu::{Failure, Session, line},
    machine::Machine,
    ptx,
};

/// Set in the process whose output the test below reads.
const CHILD: &str = "EMULATED_CUDA_TEST_PRINT";

fn machine() -> Machine {
    Machine::new(&ptx("nvcc", "print").expect("its PTX"), Options::default()).expect("it loads")
}

#[test]
fn printf_writes_to_stdout() {
    if env::var_os(CHILD).is_some() {
        let mut machine = machine();
        let mut s = Session::new(&mut machine);
        let x = s.upload(&[1.0f32, -2.5, 0.0, -0.0625]);
        s.launch("print_negative", line(2, 3), &[x.into(), 4.into()]).expect("no report");
        return;
    }
    let mut child = Command::new(env::current_exe().expect("this test's binary"));
    child.args(["--exact", "kernels::print::printf_writes_to_stdout", "--nocapture"]).env(CHILD, "1");
    let output = child.output().expect("the child runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<&str> = text.lines().filter(|l| l.starts_with("x[")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["x[1] = -2.500 (negative, 123456789abd)", "x[3] = -0.062 (negative, 123456789abf)"]);
}

#[test]
fn a_failed_assertion_is_a_report() {
    let mut machine = machine();
    let mut s = Session::new(&mut machine);
    let x = s.upload(&[3, 5, 4]);
    s.launch("assert_below", line(1, 32), &[x.into(), 3.into(), 6.into()]).expect("all are below 6");
    match s.launch("assert_below", line(1, 32), &[x.into(), 3.into(), 5.into()]) {
        Err(Failure::Report(kind, text)) => {
            assert_eq!(kind, "Assert");
            assert!(text.contains("x[i] < limit") && text.contains("[1, 0, 0]"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}
