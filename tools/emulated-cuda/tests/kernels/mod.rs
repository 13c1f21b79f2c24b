//! CUDA kernels, written as for hardware and compiled by nvcc and clang, against references in f64.
//!
//! `cu/` holds the sources, `ptx/` what `build` made of them, `cases/` inputs and references. Each case runs through the
//! driver API with every check on, and on machines with other orders of the warps, where it must give the same bits.

mod cases;
mod data;
mod driver;
pub mod gpu;
pub mod machine;
mod manifest;
mod print;

use std::{fs, path::Path};

use cuda::machine::Options;

pub use cases::CASES;
use driver::Driver;
use gpu::{Case, Gpu, Session};
use machine::Machine;

/// The compilers whose PTX is committed, and the folders that hold it.
pub const COMPILERS: [&str; 2] = ["nvcc", "clang"];

/// The text that a compiler made of a file, if it did.
pub fn ptx(compiler: &str, file: &str) -> Option<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/ptx");
    fs::read_to_string(folder.join(compiler).join(file).with_extension("ptx")).ok()
}

/// Runs a case, which must pass, and returns what it read back.
fn run(case: &Case, gpu: &mut dyn Gpu, on: &str) -> Vec<u8> {
    let mut session = Session::new(gpu);
    if let Err(failure) = (case.run)(&mut session) {
        panic!("{} on {on}: {failure}", case.name);
    }
    session.outputs
}

/// Runs a case on everything.
fn check(name: &str) {
    let case = CASES.iter().find(|c| c.name == name).expect("a case of this name");
    let mut compiled = 0;
    for compiler in COMPILERS {
        let Some(text) = ptx(compiler, case.file) else { continue };
        compiled += 1;
        let mut driver = Driver::new(&text).unwrap_or_else(|e| panic!("{name} of {compiler}: {e}"));
        let first = run(case, &mut driver, &format!("the driver, from {compiler}"));
        for seed in [1, 2] {
            let options = Options { seed, ..Options::default() };
            let mut machine =
                Machine::new(&text, options).unwrap_or_else(|e| panic!("{name} of {compiler}: {e}"));
            let again = run(case, &mut machine, &format!("seed {seed}, from {compiler}"));
            assert!(first == again, "{name} of {compiler}: seed {seed} gives other bits");
        }
    }
    assert!(compiled > 0, "{name}: no PTX");
}

/// One test a case.
macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_case_has_a_test() {
            let tests = [$(stringify!($name)),*];
            let cases: Vec<&str> = CASES.iter().map(|c| c.name).collect();
            assert_eq!(cases, tests);
        }
    };
}

tests! {
    adamw attention_bwd attention_fwd bytes cross_entropy collatz interpret branch_table compact group_sums local_sort gemm_f32
    gemm_mma grid_sync histogram last_block in_turn hand_on mma_s8 mma_b1 mma_f16 mma_tf32 nf4 pipeline reduce rmsnorm
    scan_block scan_lookback softmax sort transpose
}
