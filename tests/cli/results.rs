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

    // In half precision too: rounded a little, not another model.
    let merge = ["merge", "--adapter", "run/adapter", "--out", "half", "--dtype", "f16", "--verify"];
    let shown = succeed(&tiny, &merge).out;
    assert!(shown.contains("over 256 positions"), "{shown}");
    let size = |folder: &str| std::fs::metadata(tiny.path(folder).join("model.safetensors")).unwrap().len();
    assert!(size("half") < size("merged") * 6 / 10, "{} of {}", size("half"), size("merged"));
    assert_eq!(generate(&["--model", "half", "--dtype", "f16"]).out, tuned.out);
}

#[test]
fn quantize_train_generate_merge() {
    let tiny = Tiny::sized(64, 1);
    let quantize = ["quantize", "model", "--nf4", "--double-quant", "--out", "small"];
    let shown = succeed(&tiny, &quantize).out;
    assert!(shown.contains("small"), "{shown}");
    fail(&tiny, 2, &quantize, &["already holds a model"]);
    fail(&tiny, 2, &["quantize", "model", "--block", "48", "--out", "x"], &["power of two"]);
    fail(&tiny, 1, &["quantize", "small", "--out", "x"], &["quantized already"]);
    assert!(!tiny.path("x").join("model.safetensors").exists());

    let more = ["--max-steps", "40", "--lr", "0.02", "--set", "data.validation=0"];
    let shown = succeed(&tiny, &sft(&[&["--quantize", "nf4", "--out", "run"], &more[..]].concat())).out;
    assert!(shown.contains("frozen (nf4)") && shown.contains("in 4 bits"), "{shown}");
    let generate = |more: &[&str]| {
        let mut args = vec!["generate", "--prompt", "What follows one, 1 times?", "--max-new-tokens", "12"];
        args.extend(more);
        succeed(&tiny, &args).out
    };
    // The adapter on the quantized folder, and on the model that is quantized while it is loaded.
    let tuned = generate(&["--model", "small", "--adapter", "run/adapter"]);
    assert_eq!(generate(&["--adapter", "run/adapter", "--quantize", "nf4"]), tuned);
    assert_ne!(generate(&["--model", "small"]), tuned);
    let merge = ["merge", "--model", "small", "--adapter", "run/adapter", "--out", "merged", "--verify"];
    let shown = succeed(&tiny, &merge).out;
    assert!(shown.contains("largest logit gap"), "{shown}");
    assert_eq!(generate(&["--model", "merged"]), tuned);
    let merge = ["merge", "--model", "small", "--adapter", "run/adapter", "--requantize"];
    let shown = succeed(&tiny, &[&merge[..], &["nf4", "--out", "again", "--verify"]].concat()).out;
    assert!(shown.contains("largest logit gap"), "{shown}");
    let size = |name: &str| std::fs::metadata(tiny.path(name).join("model.safetensors")).unwrap().len();
    assert!(size("again") < size("merged") / 2, "{} of {}", size("again"), size("merged"));
    assert!(!generate(&["--model", "again"]).is_empty());
    fail(&tiny, 2, &[&merge[..], &["int3", "--out", "x"]].concat(), &["requantize", "nf4, fp4"]);
    // Without an adapter it dequantizes.
    succeed(&tiny, &["merge", "--model", "small", "--dtype", "bf16", "--out", "plain"]);
    fail(&tiny, 2, &sft(&["--quantize", "int3"]), &["model.quantize", "nf4, fp4"]);
    fail(&tiny, 1, &["sft", "--model", "small", "--data", "data.jsonl", "--full"], &["4 bits"]);
}

#[test]
fn a_model_without_a_chat_template_is_asked_as_it_was_trained() {
    let tiny = Tiny::new();
    tiny.forget_chat_template();
    let prompt = "What follows one, 1 times?";
    let chatml = format!("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n");
    let generate = |more: &[&str]| {
        let mut args = vec!["generate", "--max-new-tokens", "12"];
        args.extend(more);
        succeed(&tiny, &args).out
    };
    let more = ["--max-steps", "30", "--lr", "0.02", "--set", "data.validation=0"];
    for (kind, source) in [
        (["--out", "full", "--full"].as_slice(), ["--model", "full/model"]),
        (&["--out", "lora"], ["--adapter", "lora/adapter"]),
        (&[], ["--adapter", "lora/checkpoints/checkpoint-30"]),
    ] {
        if !kind.is_empty() {
            let shown = succeed(&tiny, &sft(&[kind, &more].concat())).out;
            assert!(shown.contains("note: the model has no chat template: using ChatML"), "{shown}");
        }
        let [flag, value] = source;
        let asked = generate(&[flag, value, "--prompt", prompt]);
        assert_eq!(asked, generate(&[flag, value, "--raw", "--prompt", &chatml]), "{value}");
        assert_ne!(asked, generate(&[flag, value, "--raw", "--prompt", prompt]), "{value}");
    }
    succeed(&tiny, &["merge", "--adapter", "lora/adapter", "--out", "merged"]);
    assert_eq!(
        generate(&["--model", "merged", "--prompt", prompt]),
        generate(&["--adapter", "lora/adapter", "--prompt", prompt])
    );
    // An adapter of plain text says by its tokenizer that it knows no template.
    std::fs::write(tiny.path("text.jsonl"), "{\"text\": \"one two three\"}\n".repeat(8)).unwrap();
    let args = ["sft", "--model", "model", "--data", "text.jsonl", "--out", "text", "--max-steps", "2"];
    succeed(&tiny, &args);
    let ask = |more: &[&str]| generate(&[&["--adapter", "text/adapter", "--prompt", prompt], more].concat());
    assert_eq!(ask(&[]), ask(&["--raw"]));
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
    for part in ["threads", "vector features", "driver library", "kernels"] {
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
