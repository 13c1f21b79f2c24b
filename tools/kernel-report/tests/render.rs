//! Reports as text.

use std::collections::BTreeMap;

use emulated_cuda::machine::counters::{Counters, Traffic, Wavefronts};
use kernel_report::machine::{A100, H100};
use kernel_report::model::{Ideal, Launch, model};
use kernel_report::occupancy::Block;
use kernel_report::render::{markdown, text};
use kernel_report::report::{Entry, OnMachine, Report};
use kernel_report::resources::Resources;

fn report() -> Report {
    let mut counters = Counters {
        blocks: 16,
        warps: 64,
        global_load: Traffic { requests: 64, sectors: 512, ideal_sectors: 256, bytes: 8192 },
        shared_load: Wavefronts { requests: 64, wavefronts: 128, ideal: 64, bytes: 8192 },
        mma: BTreeMap::from([("m16n8k16.bf16", 6_400_000)]),
        ..Counters::default()
    };
    counters.instructions[0] = 12_345_678;
    let ideal = Ideal { operations: vec![("bf16".to_string(), 1e9)], bytes: 1e6 };
    let block = Block { threads: 128, registers: Some(92), shared: 24_576 };
    let launch = Launch { blocks: 4096, block, instruction_ratio: 1.25 };
    let resources = Some(Resources {
        registers: 92,
        spill_stores: 8,
        spill_loads: 4,
        shared: 24_576,
        ..Resources::default()
    });
    let a100 = OnMachine {
        machine: A100.name,
        arch: A100.arch,
        resources,
        instruction_ratio: Some(1.25),
        modelled: model(&A100, &counters, &launch, &ideal),
    };
    let h100 = OnMachine {
        machine: H100.name,
        arch: H100.arch,
        resources: None,
        instruction_ratio: None,
        modelled: Err("it does | not fit".to_string()),
    };
    let entry = Entry {
        kernel: "gemm".to_string(),
        size: "big".to_string(),
        sizes: BTreeMap::from([("n".to_string(), 4096)]),
        grid: [64, 64, 1],
        block: [128, 1, 1],
        dynamic_shared: 0,
        counted: counters,
        ideal,
        machines: vec![a100, h100],
    };
    Report { problems: vec![entry], notes: vec!["something is missing".to_string()] }
}

#[test]
fn text_labels_what_was_counted_and_what_is_modelled() {
    let text = text(&report());
    for part in [
        "gemm, big: grid 64 x 64 x 1, block 128 x 1 x 1\n",
        "counted (16 of 4096 blocks)",
        "warp instructions  12.346 M  integer 12.346 M",
        "m16n8k16.bf16 6.400 M",
        "512 sectors, 50 % of them needed; 8192 B",
        "128 passes, 64 for bank conflicts; 8192 B",
        "from ptxas, and modelled",
        "A100 80 GB  92         12 B    24.6 kB  1.25      5 (registers)",
        "H100 SXM    ?",
        "it does | not fit",
        "modelled load of each pipe, of the busiest",
        "100 %",
        "note: DRAM: the bytes of ideal",
        "note: something is missing",
    ] {
        assert!(text.contains(part), "'{part}' is not in:\n{text}");
    }
    assert!(text.lines().all(|line| line == line.trim_end()), "{text}");
}

#[test]
fn markdown_has_whole_tables() {
    let markdown = markdown(&report());
    assert!(markdown.starts_with("## gemm, big"), "{markdown}");
    assert!(markdown.contains("it does \\| not fit") && markdown.contains("Modelled load"), "{markdown}");
    let mut columns = None;
    for line in markdown.lines() {
        let count = line.replace("\\|", "").matches('|').count();
        match (line.starts_with('|'), columns) {
            (true, None) => columns = Some(count),
            // A row may be shorter (it says why there is no model), never longer than its head.
            (true, Some(head)) => assert!(count <= head, "{line}"),
            (false, _) => columns = None,
        }
    }
}

#[test]
fn json_keeps_counted_and_modelled_apart() {
    let json = serde_json::to_value(report()).unwrap();
    let entry = &json["problems"][0];
    assert_eq!(entry["counted"]["mma"]["m16n8k16.bf16"], 6_400_000);
    assert_eq!(entry["counted"]["instructions"]["integer"], 12_345_678);
    let modelled = &entry["machines"][0]["modelled"]["Ok"];
    assert!(modelled["seconds"].as_f64().unwrap() > 0.0 && modelled["limit"].is_string());
    assert_eq!(entry["machines"][1]["modelled"]["Err"], "it does | not fit");
}
