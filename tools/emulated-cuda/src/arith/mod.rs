//! The arithmetic of single instructions, as plain functions of their operands.
