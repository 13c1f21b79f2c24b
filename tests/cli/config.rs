//! Settings: files, --set, flags; what is wrong with them is said by name, with exit code 2.

use super::{fail, sft, succeed};
use crate::support::tiny::Tiny;

#[test]
fn what_makes_no_sense_is_named() {
    let tiny = Tiny::new();
    let cases: [(&[&str], &[&str]); 18] = [
        (&["--set", "train.lrr=1"], &["'train.lrr'", "did you mean 'train.lr'?"]),
        (&["--set", "trian.lr=1"], &["'trian'", "did you mean 'train'?"]),
        (&["--set", "colour=1"], &["'colour'", "known here: output, seed, device, method"]),
        (&["--set", "train.lr=fast"], &["'train.lr'", "fast"]),
        (&["--set", "train.lr=-1"], &["'train.lr'", "is -1; it must be above 0"]),
        (&["--set", "train=3"], &["'train'", "is a section"]),
        (&["--set", "train.schedule=sawtooth"], &["'train.schedule'", "constant, linear, cosine"]),
        (&["--optimizer", "sgd"], &["'train.optimizer'", "sgd", "adamw, adamw8bit"]),
        (&["--set", "train.paged=maybe"], &["'train.paged'", "maybe"]),
        (&["--set", "train.batch_size=0"], &["'train.batch_size'", "at least 1"]),
        (&["--set", "train.batch_size=-3"], &["'train.batch_size'"]),
        (&["--set", "model.dtype=f64"], &["'model.dtype'", "f32, bf16, f16"]),
        (&["--dtype", "f16"], &["'model.dtype'", "is f16", "train in bf16"]),
        (&["--device", "gpu"], &["'device'", "cpu, cuda, cuda:N, emulated"]),
        (&["--set", "lora.r=0"], &["'lora.r'"]),
        (&["--set", "lora.targets=[1, 2]"], &["'lora.targets'", "all-linear"]),
        (&["--set", "novalue"], &["novalue", "KEY=VALUE"]),
        (&["--lora-targets", "no_such_module"], &["no_such_module", "q_proj"]),
    ];
    for (more, parts) in cases {
        fail(&tiny, 2, &sft(more), parts);
    }
    fail(&tiny, 2, &["sft", "--data", "data.jsonl"], &["'model.path': is missing", "--model"]);
    fail(&tiny, 2, &["sft", "--model", "model"], &["'data.train': is missing"]);
    fail(
        &tiny,
        2,
        &["pretrain", "--data", "data.jsonl", "--set", "model.dtype=f16"],
        &["'model.dtype'", "is f16", "train in bf16"],
    );
    fail(&tiny, 2, &["sft", "--no-such-flag"], &["--no-such-flag"]);
    fail(&tiny, 2, &["sft", "--resume", "nowhere"], &["'resume'", "nowhere"]);
    std::fs::write(tiny.path("broken.toml"), "[train\nlr = 1").unwrap();
    fail(&tiny, 1, &sft(&["--config", "broken.toml"]), &["broken.toml", "TOML"]);
    assert!(!tiny.path("runs").exists(), "nothing was started");
}

#[test]
fn flags_win_over_set_wins_over_the_file() {
    let tiny = Tiny::new();
    let config = "output = \"run\"\n[train]\nlr = 1e-3\nepochs = 3\nmax_steps = 2\n[lora]\nr = 2\ntargets = [\"q_proj\"]\n";
    std::fs::write(tiny.path("config.toml"), config).unwrap();
    let more = [
        "--config",
        "config.toml",
        "--set",
        "train.lr=2e-3",
        "--set",
        "lora.r=3",
        "--set",
        "seed=9",
        "--lora-r",
        "4",
    ];
    succeed(&tiny, &sft(&more));
    let resolved = std::fs::read_to_string(tiny.path("run/config.toml")).unwrap();
    let table: toml::Table = resolved.parse().unwrap();
    assert_eq!(table["train"]["lr"].as_float(), Some(2e-3));
    assert_eq!(table["train"]["epochs"].as_integer(), Some(3));
    assert_eq!(table["train"]["clip_norm"].as_float(), Some(1.0), "defaults are written out");
    assert_eq!(table["lora"]["r"].as_integer(), Some(4));
    assert_eq!(table["seed"].as_integer(), Some(9));
    // The resolved config is a config: the same run again, elsewhere.
    succeed(&tiny, &["sft", "--config", "run/config.toml", "--out", "again"]);
    let adapter =
        |run: &str| std::fs::read(tiny.path(run).join("adapter/adapter_model.safetensors")).unwrap();
    assert!(adapter("run") == adapter("again"));
    let again = std::fs::read_to_string(tiny.path("again/config.toml")).unwrap();
    assert_eq!(resolved.replace("output = \"run\"", "output = \"again\""), again);
}

#[test]
fn target_modules_are_names_or_a_pattern() {
    let tiny = Tiny::new();
    let cases = [
        ("q_proj", vec!["q_proj"]),
        ("q_proj, mlp.up_proj", vec!["q_proj", "up_proj"]),
        (r".*\.[kv]{1,2}_proj", vec!["k_proj", "v_proj"]),
        ("all-linear", vec!["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
    ];
    for (i, (targets, expected)) in cases.into_iter().enumerate() {
        let out = format!("run{i}");
        succeed(&tiny, &sft(&["--max-steps", "1", "--out", &out, "--lora-targets", targets]));
        let file = std::fs::read(tiny.path(&out).join("adapter/adapter_model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let module = |name: &str| name.strip_suffix(".lora_A.weight")?.rsplit('.').next().map(str::to_owned);
        let mut adapted: Vec<String> = tensors.names().into_iter().filter_map(module).collect();
        adapted.sort();
        assert_eq!(adapted, expected, "{targets}");
    }
}

#[test]
fn a_dry_run_shows_the_plan_and_leaves_nothing() {
    let tiny = Tiny::new();
    let shown = succeed(&tiny, &sft(&["--dry-run"])).out;
    for part in
        ["device      cpu", "parameters", "trainable (f32)", "frozen (f32)", "memory      about", "logits"]
    {
        assert!(shown.contains(part), "'{part}' is not in:\n{shown}");
    }
    for part in ["training", "examples", "with loss", "validation", "steps", "runs/sft-1"] {
        assert!(shown.contains(part), "'{part}' is not in:\n{shown}");
    }
    assert!(!tiny.path("runs").exists());
}

#[test]
fn runs_are_numbered() {
    let tiny = Tiny::new();
    for folder in ["runs/sft-1", "runs/sft-2"] {
        succeed(&tiny, &sft(&["--max-steps", "1"]));
        assert!(tiny.path(folder).join("adapter").is_dir());
    }
    fail(&tiny, 2, &sft(&["--out", "runs/sft-2"]), &["already holds a run", "--resume runs/sft-2"]);
}
