//! The arithmetic of single instructions, as plain functions of their operands.
//!
//! Results are those that the PTX ISA documents. Where it leaves a choice (which NaN, division by zero, errors within a bound)
//! the functions say what they return; it is the same on every machine, so that two runs agree to the last bit.

pub mod convert;
pub mod exact;
pub mod half;
pub mod integer;
pub mod matrix;
pub mod mma;
pub mod round;
pub mod special;
pub mod warp;

/// A value of 32 bits for each lane of a warp.
pub type Row = [u32; 32];
