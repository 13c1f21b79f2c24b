//! Runs that end in the middle: Ctrl-C, kill -9, a full disk. Each goes on to the same bits.

#![cfg(unix)]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use warptune::train::metrics::{self, Record};

use super::{answer, bytes, command, sft, succeed};
use crate::support::tiny::Tiny;

const STEPS: &str = "400";

/// The run that nothing interrupts, and its twin that is started but not waited for.
fn whole_and_child(tiny: &Tiny) -> (PathBuf, Child) {
    let train =
        |output| sft(&["--max-steps", STEPS, "--lora-r", "4", "--set", "lora.dropout=0.1", "--out", output]);
    succeed(tiny, &train("whole"));
    let child = command(tiny, &train("run")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    (tiny.path("whole"), child)
}

fn wait_for(path: &Path, child: &mut Child) {
    let start = Instant::now();
    while !path.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before {path:?} was there");
        assert!(start.elapsed() < Duration::from_secs(120), "{path:?} never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn computed(run: &Path) -> Vec<Record> {
    let records = metrics::read(&run.join("metrics.jsonl")).unwrap();
    records.into_iter().map(|r| Record { tokens_per_s: None, peak_rss_mib: None, ..r }).collect()
}

/// Panics unless both runs computed the same.
#[track_caller]
fn assert_same(whole: &Path, run: &Path) {
    let (a, b) = (computed(whole), computed(run));
    let steps: Vec<u64> = b.iter().map(|r| r.step).collect();
    assert_eq!(steps, (0..=400).collect::<Vec<_>>(), "each step once");
    assert!(a == b, "the metrics differ");
    let adapter = "adapter/adapter_model.safetensors";
    assert!(bytes(&whole.join(adapter)) == bytes(&run.join(adapter)), "the adapters differ");
}

#[test]
fn after_kill_9() {
    let tiny = Tiny::new();
    let (whole, mut child) = whole_and_child(&tiny);
    // Twice, the second time in the resumed run.
    wait_for(&tiny.path("run/checkpoints/checkpoint-50"), &mut child);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    // As if it had been killed in the middle of a checkpoint too.
    std::fs::create_dir(tiny.path("run/checkpoints/checkpoint-9999.tmp")).unwrap();
    let mut child = command(&tiny, &["sft", "--resume", "run"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&tiny.path("run/checkpoints/checkpoint-150"), &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let shown = succeed(&tiny, &["sft", "--resume", "run"]).out;
    assert!(shown.contains("resuming after step"), "{shown}");
    assert_same(&whole, &tiny.path("run"));
    let left: Vec<_> =
        std::fs::read_dir(tiny.path("run/checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the newest two, no leftovers: {left:?}");
}

#[test]
fn after_ctrl_c() {
    let tiny = Tiny::new();
    let (whole, mut child) = whole_and_child(&tiny);
    wait_for(&tiny.path("run/checkpoints/checkpoint-20"), &mut child);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let said = answer(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{}", said.err);
    assert!(
        said.err.contains("stopped after step") && said.err.contains("warptune sft --resume run"),
        "{}",
        said.err
    );
    // By the config that names the folder, too.
    succeed(&tiny, &["sft", "--config", "run/config.toml", "--resume"]);
    assert_same(&whole, &tiny.path("run"));
}

#[test]
fn after_the_disk_was_full() {
    let tiny = Tiny::new();
    let (whole, mut child) = whole_and_child(&tiny);
    wait_for(&tiny.path("run/checkpoints/checkpoint-20"), &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let newest = newest_checkpoint(&tiny);
    let weights = bytes(&newest.join("adapter_model.safetensors"));
    // Files of at most 4 KiB: metrics and curve grow beyond that, and so would the next checkpoint.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" sft --resume run";
    let full = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_warptune")])
        .current_dir(tiny.path(""))
        .output()
        .unwrap();
    let said = answer(full);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("error: run/") && said.err.contains("cannot write"), "{}", said.err);
    assert!(!said.err.contains("panicked"), "{}", said.err);
    assert_eq!(newest_checkpoint(&tiny), newest);
    assert!(bytes(&newest.join("adapter_model.safetensors")) == weights, "the last checkpoint is as it was");
    succeed(&tiny, &["sft", "--resume", "run"]);
    assert_same(&whole, &tiny.path("run"));
}

fn newest_checkpoint(tiny: &Tiny) -> PathBuf {
    let entries = std::fs::read_dir(tiny.path("run/checkpoints")).unwrap();
    let step = |path: &PathBuf| -> Option<u64> { path.to_str()?.rsplit('-').next()?.parse().ok() };
    entries
        .map(|e| e.unwrap().path())
        .filter(|path| step(path).is_some())
        .max_by_key(|path| step(path))
        .unwrap()
}
