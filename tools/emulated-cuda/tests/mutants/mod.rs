//! Every fault that is put into a kernel is noticed: by a check, when the module is loaded, or in the result.
//!
//! The kernels are those of `tests/kernels`; `mutate.rs` enumerates the faults in their PTX. A mutant runs through the cases
//! that launch the function which has the fault, until one of them does not pass.

mod accepted;
mod mutate;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    panic::{AssertUnwindSafe, catch_unwind},
};

use cuda::machine::Options;

use crate::kernels::{
    CASES, COMPILERS,
    gpu::{Case, Failure, Session},
    machine::Machine,
    ptx,
};
use accepted::ACCEPTED;
use mutate::{Mutant, mutants};

/// How a mutant was noticed.
type Notice = String;

fn options(instruction_limit: u64) -> Options {
    Options { threads: 1, instruction_limit, ..Options::default() }
}

/// The cases of a file, each with the kernels that it launches, and the warp instructions of the largest launch.
fn survey(file: &str, text: &str) -> (Vec<(Case, BTreeSet<String>)>, u64) {
    let mut largest = 0;
    let cases = CASES.iter().filter(|c| c.file == file).map(|case| {
        let options = Options { counters: true, ..options(u64::MAX) };
        let mut machine = Machine::new(text, options).expect("the kernel as it is loads");
        (case.run)(&mut Session::new(&mut machine)).unwrap_or_else(|e| panic!("{} as it is: {e}", case.name));
        largest = largest.max(machine.largest_launch);
        (*case, machine.launched)
    });
    (cases.collect(), largest)
}

/// Runs a mutant until something notices its fault.
fn notice(mutant: &Mutant, text: &str, cases: &[(Case, BTreeSet<String>)], limit: u64) -> Option<Notice> {
    let text = mutant.apply(text);
    let entry = cases.iter().any(|(_, kernels)| kernels.contains(&mutant.function));
    for (case, kernels) in cases {
        // A function that is no entry may be called from any kernel.
        if entry && !kernels.contains(&mutant.function) {
            continue;
        }
        let mut machine = match Machine::new(&text, options(limit)) {
            Ok(machine) => machine,
            Err(_) => return Some("load".into()),
        };
        match (case.run)(&mut Session::new(&mut machine)) {
            Ok(()) => {}
            Err(Failure::Load(_)) => return Some("load".into()),
            Err(Failure::Report(kind, _)) => return Some(kind),
            Err(Failure::Wrong(_)) => return Some("result".into()),
        }
    }
    None
}

#[test]
fn every_mutant_is_noticed() {
    let files: BTreeSet<&str> = CASES.iter().map(|c| c.file).collect();
    let (mut table, mut survivors, mut stale) = (String::new(), String::new(), String::new());
    let mut kinds: BTreeMap<&str, BTreeMap<Notice, usize>> = BTreeMap::new();
    for file in files {
        for compiler in COMPILERS {
            let Some(text) = ptx(compiler, file) else { continue };
            let (cases, largest) = survey(file, &text);
            let mut by: BTreeMap<Notice, usize> = BTreeMap::new();
            for mutant in mutants(&text) {
                let run = || notice(&mutant, &text, &cases, 4 * largest + 10_000);
                let noticed = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Some("PANIC".into()));
                let place = format!("{compiler}/{file}");
                let reason = ACCEPTED.iter().find(|a| a.covers(&place, &mutant)).map(|a| a.reason);
                let label = match (&noticed, reason) {
                    (Some(kind), None) => kind.clone(),
                    (None, Some(_)) => "accepted".into(),
                    (Some(kind), Some(_)) => {
                        let _ = writeln!(stale, "{place}: {}: `{}`: {kind}", mutant.kind, mutant.before);
                        kind.clone()
                    }
                    (None, None) => {
                        let Mutant { kind, function, before, after, .. } = &mutant;
                        let _ = writeln!(survivors, "{place}: {function}: {kind}: `{before}` -> `{after}`");
                        "SURVIVED".into()
                    }
                };
                *by.entry(label.clone()).or_default() += 1;
                *kinds.entry(mutant.kind).or_default().entry(label).or_default() += 1;
            }
            let ran: usize = by.values().sum();
            let _ = writeln!(table, "{compiler}/{file}: {ran}: {by:?}");
        }
    }
    println!("{table}\nby kind:");
    kinds.iter().for_each(|(kind, by)| println!("{kind}: {by:?}"));
    assert!(!table.contains("PANIC"), "a mutant made the machine panic:\n{table}");
    assert!(survivors.is_empty(), "nothing noticed these:\n{survivors}");
    assert!(stale.is_empty(), "listed as equivalent, and yet noticed:\n{stale}");
}
