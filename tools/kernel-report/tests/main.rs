//! Tests of kernel-report.

mod cli;
mod count;
mod expr;
mod model;
mod occupancy;
mod problem;
mod render;
mod resources;
mod sass;
