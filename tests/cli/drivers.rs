//! What is said where the CUDA driver is missing, has no device, or is too old. The binary is started with the emulated driver's shared
//! library as the driver that it finds, or with none.

use std::path::PathBuf;
use std::process::Command;

use super::{Answer, answer, command};
use crate::support::tiny::Tiny;

/// The emulated driver's shared library, which was built with this test and lies beside it.
fn emulated() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap();
    let places = [folder.join("libcuda.so"), folder.parent().unwrap().join("libcuda.so")];
    let found = places.iter().find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{} was built with this test", places[0].display())).clone()
}

/// The binary where the loader looks for a driver in one folder first: there the emulated one is, or nothing. A driver of the machine's own is
/// hidden by the former, not by the latter.
pub fn with_driver(tiny: &Tiny, present: bool, args: &[&str]) -> Command {
    let folder = tiny.path("driver");
    std::fs::create_dir_all(&folder).unwrap();
    let link = folder.join("libcuda.so");
    if present && !link.exists() {
        std::os::unix::fs::symlink(emulated(), link).unwrap();
    }
    let mut command = command(tiny, args);
    command.env("LD_LIBRARY_PATH", folder);
    command
}

/// What the emulated driver with this setting makes of a command.
fn ask(tiny: &Tiny, (name, value): (&str, &str), args: &[&str]) -> Answer {
    answer(with_driver(tiny, true, args).env(name, value).output().unwrap())
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

const TOO_OLD: &str = "the provided PTX was compiled with an unsupported toolchain.; the driver is older than the kernels' PTX: update it, \
                       or build with its toolkit's nvcc (CUDA_HOME)";
const NO_DEVICE: &str = "cuda: starting the driver: no CUDA-capable device is detected; no GPU is visible: see nvidia-smi and \
                         CUDA_VISIBLE_DEVICES";

/// A command that asks for the GPU.
const GENERATE: [&str; 7] = ["generate", "--model", "model", "--prompt", "zero", "--device", "cuda"];

#[test]
fn a_driver_without_devices() {
    let tiny = Tiny::new();
    let setting = ("EMULATED_CUDA_DEVICES", "0");
    let shown = ask(&tiny, setting, &["doctor"]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    says(&shown.out, &["driver library    found, of CUDA 13.0", &format!("devices           {NO_DEVICE}")]);
    // Whoever asks for the device gets the report, and the error.
    let asked = ask(&tiny, setting, &["doctor", "--device", "cuda"]);
    assert_eq!((asked.code, asked.out), (Some(1), shown.out));
    says(&asked.err, &[NO_DEVICE]);
    let refused = ask(&tiny, setting, &GENERATE);
    assert_eq!(refused.code, Some(1));
    says(&refused.err, &[NO_DEVICE]);
}

#[test]
fn a_driver_that_is_older_than_the_kernels() {
    let tiny = Tiny::new();
    let setting = ("EMULATED_CUDA_VERSION", "11.4");
    let shown = ask(&tiny, setting, &["doctor"]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    says(&shown.out, &["found, of CUDA 11.4", "device 0          cuda: loading the kernels of ", TOO_OLD]);
    let refused = ask(&tiny, setting, &GENERATE);
    assert_eq!(refused.code, Some(1));
    says(&refused.err, &["cuda: loading the kernels of ", TOO_OLD]);
}

#[test]
fn a_device_that_has_all_that_is_needed() {
    let tiny = Tiny::new();
    let shown = ask(&tiny, ("EMULATED_CUDA_SM_COUNT", "7"), &["doctor"]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    says(
        &shown.out,
        &["Emulated CUDA device, compute capability 8.0, 7 multiprocessors", "the kernels load and work"],
    );
}

#[test]
fn memory_that_does_not_suffice() {
    let tiny = Tiny::new();
    let refused = ask(&tiny, ("EMULATED_CUDA_MEMORY", "1M"), &GENERATE);
    assert_eq!(refused.code, Some(1));
    says(&refused.err, &["out of memory"]);
}

#[test]
fn no_driver_at_all() {
    let tiny = Tiny::new();
    let shown = answer(with_driver(&tiny, false, &["doctor"]).output().unwrap());
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    if shown.out.contains("driver library    found") {
        return; // This machine has one, where the loader looks in any case.
    }
    says(
        &shown.out,
        &["driver library    none (libcuda.so.1 comes with NVIDIA's driver)", "devices           none"],
    );
    let refused = answer(with_driver(&tiny, false, &GENERATE).output().unwrap());
    assert_eq!(refused.code, Some(1));
    says(
        &refused.err,
        &["cuda: driver: no CUDA driver library (libcuda.so) is installed: use the device cpu"],
    );
}

/// Training of every weight with so little memory that a step does not fit beside AdamW's states.
#[test]
fn paged_states_make_room_for_a_step() {
    let tiny = Tiny::sized(128, 6);
    let trained = |memory: &str, more: &[&str], output: &str| {
        let mut args = vec![
            "sft",
            "--model",
            "model",
            "--data",
            "data.jsonl",
            "--full",
            "--device",
            "cuda",
            "--batch-size",
            "1",
        ];
        args.extend([
            "--max-tokens",
            "96",
            "--max-steps",
            "2",
            "--set",
            "train.eval_every=0",
            "--out",
            output,
        ]);
        args.extend(more);
        ask(&tiny, ("EMULATED_CUDA_MEMORY", memory), &args)
    };
    let model = |output: &str| std::fs::read(tiny.path(output).join("model/model.safetensors")).unwrap();
    for (optimizer, little) in [("adamw", "13M"), ("adamw8bit", "9M")] {
        let with = ["--optimizer", optimizer];
        let ample = trained("1G", &with, &format!("{optimizer}-ample"));
        assert_eq!(ample.code, Some(0), "{}", ample.err);
        let refused = trained(little, &with, &format!("{optimizer}-refused"));
        assert_eq!(refused.code, Some(1), "{}", refused.out);
        says(&refused.err, &["more do not fit"]);
        let paged = trained(little, &[&with[..], &["--paged"]].concat(), &format!("{optimizer}-paged"));
        assert_eq!(paged.code, Some(0), "{}", paged.err);
        says(&paged.out, &["states (paged)"]);
        assert!(model(&format!("{optimizer}-ample")) == model(&format!("{optimizer}-paged")), "{optimizer}");
    }
}
