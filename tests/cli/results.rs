//! What the commands other than training do.

use std::io::Write;
use std::process::Stdio;

use super::{answer, command, fail, run, sft, succeed};
use crate::support::tiny::Tiny;

#[test]
fn train_generate_merge() {
    let tiny = Tiny::new();
    let more = ["--out", "run", "--max-steps", "60", "--lr", "0.02", "--set", "data.validation=0"];
    let shown = succeed(&tiny, &sft(&more)).out;
    assert!(shown.contains("training loss"), "{shown}");
    let prompt = "What follows one, 1 times?";
    let generate = |more: &[&str]| {
        let mut args = vec!["generate", "--prompt", prompt, "--max-new-tokens", "12"];
        args.extend(more);
        succeed(&tiny, &args)
    };
    let tuned = generate(&["--adapter", "run/adapter", "--stats"]);
    let base = generate(&["--model", "model"]);
    assert_ne!(tuned.out, base.out, "training changes what the model writes");
    assert!(tuned.err.contains("new tokens/s"), "{}", tuned.err);
    // A checkpoint is an adapter too.
    assert_eq!(generate(&["--adapter", "run/checkpoints/checkpoint-60"]).out, tuned.out);

    let merge = ["merge", "--model", "model", "--adapter", "run/adapter", "--out", "merged", "--verify"];
    let shown = succeed(&tiny, &merge).out;
    assert!(shown.contains("largest logit gap"), "{shown}");
    assert!(shown.contains("over 256 positions; the likeliest token agrees at 256"), "{shown}");
    assert_eq!(generate(&["--model", "merged"]).out, tuned.out);
    fail(&tiny, 2, &merge, &["already holds a model"]);
}

#[test]
fn several_prompts_are_answered_as_each_alone() {
    let tiny = Tiny::new();
    let alone = |prompt: &str| {
        succeed(&tiny, &["generate", "--model", "model", "--prompt", prompt, "--max-new-tokens", "6"]).out
    };
    std::fs::write(tiny.path("prompts.txt"), "one two\n\nthree\n").unwrap();
    let together = succeed(
        &tiny,
        &["generate", "--model", "model", "--prompts", "prompts.txt", "--max-new-tokens", "6"],
    )
    .out;
    assert_eq!(together, format!("--- one two\n{}--- three\n{}", alone("one two"), alone("three")));
    fail(&tiny, 2, &["generate", "--model", "model"], &["'prompt': is missing"]);
    fail(&tiny, 2, &["generate", "--model", "model", "--prompt", "x", "--top-p", "2"], &["'top_p'"]);
}

#[test]
fn an_answer_ends_before_a_stop_string() {
    let tiny = Tiny::new();
    let ask = ["generate", "--model", "model", "--prompt", "one two", "--max-new-tokens", "12"];
    let whole = succeed(&tiny, &ask).out;
    let stop = whole.trim_end().chars().skip(3).take(2).collect::<String>();
    let mut args = ask.to_vec();
    args.extend(["--stop", &stop]);
    let cut = succeed(&tiny, &args).out;
    assert_eq!(cut.trim_end_matches('\n'), &whole[..whole.find(&stop).unwrap()]);
}

#[test]
fn chat_reads_lines_and_keeps_the_conversation() {
    let tiny = Tiny::new();
    let mut child =
        command(&tiny, &["chat", "--model", "model", "--system", "Count.", "--max-new-tokens", "4"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    // The last is too long for the model's 128 positions; the conversation goes on after it.
    let long = "one ".repeat(300);
    write!(child.stdin.take().unwrap(), "one\n\n{long}\n/reset\ntwo\n/exit\nthree\n").unwrap();
    let said = answer(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(said.err.matches("error:").count(), 1, "{}", said.err);
    assert!(said.err.contains("/reset"), "{}", said.err);
}

#[test]
fn preview_marks_what_carries_loss() {
    let tiny = Tiny::new();
    let shown = succeed(&tiny, &["preview", "--model", "model", "--data", "data.jsonl", "--count", "2"]).out;
    assert!(shown.contains("prompt+completion"), "{shown}");
    assert!(shown.contains("What follows zero, 1 times?"), "{shown}");
    assert!(shown.contains("[[one.<|im_end|>"), "{shown}");
    assert_eq!(shown.matches("--- line").count(), 2);
}

#[test]
fn doctor_tells_the_truth_about_kernels() {
    let tiny = Tiny::new();
    let shown = succeed(&tiny, &["doctor"]).out;
    for part in ["threads", "vector features", "driver library", "compiled kernels"] {
        assert!(shown.contains(part), "{shown}");
    }
}

#[test]
fn benchmarks_print_json() {
    let tiny = Tiny::new();
    let args = ["bench-step", "--model", "model", "--length", "32", "--steps", "3", "--warmup", "1"];
    let report: serde_json::Value = serde_json::from_str(&succeed(&tiny, &args).out).unwrap();
    assert_eq!(report["step_ms"].as_array().unwrap().len(), 3);
    assert!(report["median_ms"].as_f64().unwrap() > 0.0);
    let args = [
        "bench-generate",
        "--model",
        "model",
        "--prompt",
        "8",
        "--new",
        "20",
        "--runs",
        "2",
        "--threads",
        "1",
    ];
    let report: serde_json::Value = serde_json::from_str(&succeed(&tiny, &args).out).unwrap();
    assert_eq!(report["tokens_per_s"].as_array().unwrap().len(), 2);
    assert!(report["median_tokens_per_s"].as_f64().unwrap() > 0.0);
    assert!(!run(&tiny, &["--help"]).out.contains("bench-"), "they are for benchmarks, not for users");
}
