//! Tests of the emulated driver and of the machine below it.

mod spaces;
