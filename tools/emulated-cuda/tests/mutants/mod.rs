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
use accepted::{ACCEPTED, Accepted};
use mutate::{Mutant, mutants};

/// How a mutant was noticed.
type Notice = String;

/// A file of kernels, as one compiler made it.
struct Subject {
    text: String,
    /// The cases, each with the kernels that it launches.
    cases: Vec<(Case, BTreeSet<String>)>,
    /// Instructions that no block may need.
    limit: u64,
    /// Orders of warps and blocks to try.
    seeds: u64,
}

fn options(seed: u64, instruction_limit: u64) -> Options {
    Options { threads: 1, seed, instruction_limit, ..Options::default() }
}

impl Subject {
    /// Runs the kernels as they are.
    fn new(file: &str, text: String) -> Self {
        let (mut largest, mut cooperative) = (0, false);
        let cases = CASES.iter().filter(|c| c.file == file).map(|case| {
            let options = Options { counters: true, ..options(0, u64::MAX) };
            let mut machine = Machine::new(&text, options).expect("the kernel as it is loads");
            let result = (case.run)(&mut Session::new(&mut machine));
            result.unwrap_or_else(|e| panic!("{} as it is: {e}", case.name));
            largest = largest.max(machine.largest_launch);
            cooperative |= machine.cooperative;
            (*case, machine.launched)
        });
        let cases = cases.collect();
        // Where blocks meet, what goes wrong depends on who comes first.
        Self { text, cases, limit: 4 * largest + 10_000, seeds: if cooperative { 40 } else { 1 } }
    }

    /// Runs a mutant until something notices its fault.
    fn notice(&self, mutant: &Mutant) -> Option<Notice> {
        let text = mutant.apply(&self.text);
        // A function that is no entry may be called from any kernel.
        let entry = self.cases.iter().any(|(_, kernels)| kernels.contains(&mutant.function));
        for (case, _) in self.cases.iter().filter(|(_, kernels)| !entry || kernels.contains(&mutant.function))
        {
            for seed in 0..self.seeds {
                let Ok(mut machine) = Machine::new(&text, options(seed, self.limit)) else {
                    return Some("load".into());
                };
                match (case.run)(&mut Session::new(&mut machine)) {
                    Ok(()) => {}
                    Err(Failure::Load(_)) => return Some("load".into()),
                    Err(Failure::Report(kind, _)) => return Some(kind),
                    Err(Failure::Wrong(_)) => return Some("result".into()),
                }
            }
        }
        None
    }
}

#[test]
fn every_mutant_is_noticed() {
    let files: BTreeSet<&str> = CASES.iter().map(|c| c.file).collect();
    let (mut table, mut wrong) = (String::new(), String::new());
    let mut kinds: BTreeMap<&str, BTreeMap<Notice, usize>> = BTreeMap::new();
    let mut used: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for file in files {
        for compiler in COMPILERS {
            let Some(text) = ptx(compiler, file) else { continue };
            let place = format!("{compiler}/{file}");
            let subject = Subject::new(file, text);
            let mut by: BTreeMap<Notice, usize> = BTreeMap::new();
            for mutant in mutants(&subject.text) {
                let noticed = catch_unwind(AssertUnwindSafe(|| subject.notice(&mutant)));
                let accepted =
                    ACCEPTED.iter().enumerate().find_map(|(i, a)| Some((i, a.find(&place, &mutant)?)));
                accepted.into_iter().for_each(|at| *used.entry(at).or_default() += 1);
                let (label, problem) = match (noticed, accepted) {
                    (Ok(Some(kind)), None) => (kind, None),
                    (Ok(None), Some(_)) => ("accepted".into(), None),
                    (Ok(None), None) => ("nothing".into(), Some("nothing notices")),
                    (Ok(Some(kind)), Some(_)) => (kind, Some("accepted, and yet noticed:")),
                    (Err(_), _) => ("panic".into(), Some("the machine panics with")),
                };
                if let Some(problem) = problem {
                    let Mutant { kind, function, before, after, .. } = &mutant;
                    let _ = writeln!(wrong, "{problem} {place}, {function}, {kind}: `{before}` -> `{after}`");
                }
                *by.entry(label.clone()).or_default() += 1;
                *kinds.entry(mutant.kind).or_default().entry(label).or_default() += 1;
            }
            let _ = writeln!(table, "{place}: {} mutants: {by:?}", by.values().sum::<usize>());
        }
    }
    println!("{table}");
    kinds.iter().for_each(|(kind, by)| println!("{kind}: {by:?}"));
    for (i, Accepted { reason, mutants }) in ACCEPTED.iter().enumerate() {
        let counts: Vec<usize> =
            (0..mutants.len()).map(|j| used.get(&(i, j)).copied().unwrap_or(0)).collect();
        println!("{} accepted: {reason}", counts.iter().sum::<usize>());
        for (mutant, _) in mutants.iter().zip(&counts).filter(|(_, count)| **count == 0) {
            let _ = writeln!(wrong, "accepted, but there is no such mutant any more: {mutant:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
