//! `warptune bitdelta`, and models with a delta elsewhere.

use super::{bytes, fail, succeed};
use crate::support::pair::Pair;
use crate::support::tiny::Tiny;

fn pair() -> (Tiny, Pair) {
    let tiny = Tiny::sized(32, 2);
    let pair = Pair::of(&tiny.model());
    std::fs::rename(pair.fine(), tiny.path("tuned")).unwrap();
    (tiny, pair)
}

#[test]
fn compress_info_apply_generate_merge() {
    let (tiny, _pair) = pair();
    let compress = ["bitdelta", "compress", "--base", "model", "--fine-tuned", "tuned", "--out", "delta"];
    let shown = succeed(&tiny, &compress).out;
    for part in ["delta in delta", "projections", "in full", "in all", "times less"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    fail(&tiny, 2, &compress, &["already holds a delta"]);
    for file in ["delta.safetensors", "delta_config.json", "config.json", "tokenizer.json"] {
        assert!(tiny.path("delta").join(file).is_file(), "{file}");
    }
    let shown = succeed(&tiny, &["bitdelta", "info", "delta"]).out;
    assert!(shown.contains("base         model, sha256 ") && shown.contains("mlp.down_proj"), "{shown}");
    assert!(!shown.contains("error of D"), "{shown}");
    let shown =
        succeed(&tiny, &["bitdelta", "info", "delta", "--base", "model", "--fine-tuned", "tuned"]).out;
    assert!(shown.contains("error of D") && shown.contains("mean"), "{shown}");

    let apply = ["bitdelta", "apply", "--delta", "delta", "--out", "applied"];
    succeed(&tiny, &apply);
    fail(&tiny, 2, &apply, &["already holds a model"]);
    let generate = |more: &[&str]| {
        let mut args = vec!["generate", "--prompt", "What follows one, 1 times?", "--max-new-tokens", "12"];
        args.extend(more);
        succeed(&tiny, &args).out
    };
    // Greedy tokens of the delta beside the weights, and in them. The base comes from the delta's settings.
    let beside = generate(&["--delta", "delta"]);
    assert_eq!(generate(&["--model", "model", "--delta", "delta"]), beside);
    assert_eq!(generate(&["--model", "applied"]), beside);
    assert_ne!(generate(&["--model", "model"]), beside);
    let merge = ["merge", "--delta", "delta", "--out", "merged", "--verify"];
    let shown = succeed(&tiny, &merge).out;
    assert!(shown.contains("over 256 positions; the likeliest token agrees at 256"), "{shown}");
    assert!(bytes(&tiny.path("merged/model.safetensors")) == bytes(&tiny.path("applied/model.safetensors")));

    // An adapter on base + delta.
    let sft = [
        "sft",
        "--model",
        "applied",
        "--data",
        "data.jsonl",
        "--max-tokens",
        "96",
        "--out",
        "run",
        "--max-steps",
        "3",
    ];
    succeed(&tiny, &sft);
    let both = generate(&["--delta", "delta", "--adapter", "run/adapter"]);
    assert_eq!(generate(&["--model", "applied", "--adapter", "run/adapter"]), both);

    fail(
        &tiny,
        1,
        &["generate", "--model", "tuned", "--delta", "delta", "--prompt", "x"],
        &["is not the base", "q_proj"],
    );
    fail(
        &tiny,
        1,
        &["generate", "--model", "model", "--delta", "model", "--prompt", "x"],
        &["bitdelta compress"],
    );
    fail(&tiny, 2, &["bitdelta", "info", "delta", "--base", "model"], &["--fine-tuned"]);
    fail(&tiny, 2, &["bitdelta", "apply", "--delta", "delta", "--dtype", "int3", "--out", "x"], &["'dtype'"]);
}

#[test]
fn convert_to_the_published_layout_and_back() {
    let (tiny, _pair) = pair();
    succeed(&tiny, &["bitdelta", "compress", "--base", "model", "--fine-tuned", "tuned", "--out", "delta"]);
    let to = ["bitdelta", "convert", "delta", "--to", "reference", "--out", "diff.safetensors"];
    succeed(&tiny, &to);
    fail(&tiny, 2, &to, &["there already"]);
    let back = |more: &[&str]| {
        let mut args = vec!["bitdelta", "convert", "diff.safetensors", "--to", "warptune"];
        args.extend(more);
        args.into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    let args = back(&["--base", "model", "--fine-tuned", "tuned", "--out", "back"]);
    succeed(&tiny, &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(bytes(&tiny.path("back/delta.safetensors")) == bytes(&tiny.path("delta/delta.safetensors")));
    let args = back(&["--out", "none"]);
    fail(&tiny, 2, &args.iter().map(String::as_str).collect::<Vec<_>>(), &["'base'"]);
    let args = ["bitdelta", "convert", "delta", "--to", "gguf", "--out", "none"];
    fail(&tiny, 2, &args, &["'to'", "reference, warptune"]);
    succeed(
        &tiny,
        &["bitdelta", "compress", "--base", "model", "--fine-tuned", "tuned", "--per-row", "--out", "rows"],
    );
    fail(
        &tiny,
        1,
        &["bitdelta", "convert", "rows", "--to", "reference", "--out", "x.safetensors"],
        &["--per-row"],
    );
}

#[test]
fn distill() {
    let (tiny, _pair) = pair();
    std::fs::write(tiny.path("text.txt"), "one two three four five. What follows? ".repeat(60)).unwrap();
    let base = [
        "bitdelta",
        "distill",
        "--base",
        "model",
        "--fine-tuned",
        "tuned",
        "--max-tokens",
        "24",
        "--lr",
        "5e-4",
    ];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    let shown = succeed(&tiny, &with(&["--data", "data.jsonl", "--samples", "16", "--out", "run"])).out;
    for part in ["4 steps", "delta", "signs, a scale a matrix", "validation loss", "saved"] {
        assert!(
            shown.contains(part) || part == "4 steps" && shown.contains("steps       4 "),
            "{part}: {shown}"
        );
    }
    // Plain text is cut into samples; the delta may be one that is there.
    let more = [
        "--data",
        "text.txt",
        "--delta",
        "run/delta",
        "--max-steps",
        "3",
        "--out",
        "text",
        "--device",
        "cpu",
    ];
    succeed(&tiny, &with(&more));
    let generate = |delta: &str| {
        succeed(&tiny, &["generate", "--delta", delta, "--prompt", "one", "--max-new-tokens", "4"]).out
    };
    assert!(!generate("run/delta").is_empty() && !generate("text/delta").is_empty());
    let shown = succeed(&tiny, &["bitdelta", "info", "text/delta"]).out;
    assert!(shown.contains("scales: distilled") && shown.contains("lr: "), "{shown}");
    // The run's own config is one to go on from.
    let settings = std::fs::read_to_string(tiny.path("run/config.toml")).unwrap();
    assert!(settings.contains("samples = 16") && settings.contains("fine_tuned = \"tuned\""), "{settings}");
    fail(&tiny, 2, &with(&["--out", "x"]), &["data.train", "--data"]);
    fail(&tiny, 2, &["bitdelta", "distill", "--data", "text.txt"], &["model.base", "--base"]);
    fail(&tiny, 2, &with(&["--data", "text.txt", "--samples", "0", "--out", "x"]), &["data.samples"]);
    fail(
        &tiny,
        2,
        &with(&["--data", "text.txt", "--set", "model.per_row=true", "--delta", "run/delta", "--out", "x"]),
        &["model.per_row"],
    );
}
