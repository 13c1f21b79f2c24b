//! The `warptune` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    warptune::cli::main(std::env::args_os())
}
