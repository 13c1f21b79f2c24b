//! Tests of the emulator as its users see it, a folder for each part.

mod kernels;
mod mutants;
