//! The kernels of lesser processors: the op tests, run again by this very binary with other instruction sets.

use std::process::Command;

/// Tests that together reach every kernel that is written in lanes.
const TESTS: [&str; 9] = [
    "ops::attention::several_tiles",
    "ops::gelu::values_and_gradients_match_the_oracle",
    "ops::kv_attention::values_match_the_oracle",
    "ops::layer_norm::values_and_gradients_match_the_oracle",
    "ops::matmul::values_and_gradients_match_the_oracle",
    "ops::rms_norm::values_and_gradients_match_the_oracle",
    "ops::rope::values_and_gradients_match_the_oracle",
    "ops::swiglu::values_and_gradients_match_the_oracle",
    "tensor::casts_of_f16_are_exact_and_to_f16_are_to_nearest",
];

#[track_caller]
fn run_with(instruction_set: &str) {
    let binary = std::env::current_exe().unwrap();
    let mut command = Command::new(binary);
    command.arg("--exact").args(TESTS).env("WARPTUNE_SIMD", instruction_set);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "with {instruction_set}: {text}");
    let all = format!("test result: ok. {} passed", TESTS.len());
    assert!(text.contains(&all), "with {instruction_set}: a test was renamed? {text}");
}

#[test]
fn avx2() {
    run_with("avx2");
}

#[test]
fn baseline() {
    run_with("baseline");
}
