//! The command.

use std::path::Path;
use std::process::{Command, Output};

use crate::count::{PROBLEMS, SCALE};

fn run(folder: &Path, args: &[&str]) -> (bool, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_kernel-report")).args(args).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.success(), text(stdout), text(stderr))
}

#[test]
fn a_report_from_files_to_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("scale.ptx"), SCALE).unwrap();
    std::fs::write(folder.path().join("problems.toml"), PROBLEMS).unwrap();
    let args =
        ["problems.toml", "--arch", "sm_80,h100", "--only", "64", "--json", "r.json", "--markdown", "r.md"];
    let (ok, out, err) = run(folder.path(), &args);
    assert!(ok, "{out}{err}");
    assert!(err.contains("counting scale, 64 Ki") && !err.contains("10000"), "{err}");
    assert!(
        out.contains("counted (32 of 256 blocks)") && out.contains("A100 80 GB") && out.contains("H100 SXM"),
        "{out}"
    );
    assert!(!out.contains("4090"), "{out}");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    let [entry] = json["problems"].as_array().unwrap().as_slice() else { panic!("{json}") };
    // Both ways once through memory, and nothing else: the model finds it there.
    assert_eq!(entry["machines"][0]["modelled"]["Ok"]["limit"], "dram");
    assert!(std::fs::read_to_string(folder.path().join("r.md")).unwrap().contains("## scale, 64 Ki"));
}

#[test]
fn mistakes_end_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("problems.toml"), PROBLEMS).unwrap();
    std::fs::write(folder.path().join("broken.toml"), "ptx = 3").unwrap();
    for (args, part) in [
        (["problems.toml"].as_slice(), "scale.ptx"),
        (&["broken.toml"], "broken.toml"),
        (&["nowhere.toml"], "nowhere.toml"),
        (&["problems.toml", "--arch", "sm_20"], "no GPU is called 'sm_20'; known are sm_80 (A100 80 GB)"),
        (&[], "PROBLEMS.toml"),
    ] {
        let (ok, _, err) = run(folder.path(), args);
        assert!(!ok && err.contains(part) && !err.contains("panicked"), "{args:?}: {err}");
    }
}
