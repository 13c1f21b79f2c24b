//! A report as text for a terminal and as Markdown. What was counted and what is modelled is labelled so.

use std::fmt::Write;

use emulated_cuda::machine::counters::{ALL_CLASSES, Counters, Traffic, Wavefronts};

use crate::model::Modelled;
use crate::report::{Entry, OnMachine, Report};

/// A table, its columns aligned.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|s| s.to_string()).collect()] }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }

    fn text(&self) -> String {
        let widths = self.widths();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::from("  ");
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:<width$}  ");
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }

    fn markdown(&self) -> String {
        let mut out = String::new();
        for (i, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
            if i == 0 {
                let _ = writeln!(out, "|{}", " --- |".repeat(row.len()));
            }
        }
        out
    }
}

/// The report for a terminal.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    for entry in &report.problems {
        let _ = writeln!(out, "{}", title(entry));
        let _ = writeln!(out, "\ncounted ({})\n{}", sample(entry), counted(&entry.counted).text().trim_end());
        let _ = writeln!(out, "\nfrom ptxas, and modelled\n{}", modelled(entry).text().trim_end());
        let _ = writeln!(out, "\nmodelled load of each pipe, of the busiest\n{}", loads(entry).text());
        lines(&mut out, "  note: ", &notes(entry));
        let _ = writeln!(out);
    }
    lines(&mut out, "note: ", &report.notes);
    out
}

/// The report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    for entry in &report.problems {
        let _ = writeln!(out, "## {}\n", title(entry));
        let _ = writeln!(out, "Counted ({}):\n\n{}", sample(entry), counted(&entry.counted).markdown());
        let _ = writeln!(out, "From ptxas, and modelled:\n\n{}", modelled(entry).markdown());
        let _ = writeln!(out, "Modelled load of each pipe, of the busiest:\n\n{}", loads(entry).markdown());
        let notes = notes(entry);
        lines(&mut out, "- ", &notes);
        if !notes.is_empty() {
            let _ = writeln!(out);
        }
    }
    lines(&mut out, "- ", &report.notes);
    out
}

fn lines(out: &mut String, start: &str, texts: &[String]) {
    for text in texts {
        let _ = writeln!(out, "{start}{text}");
    }
}

fn title(entry: &Entry) -> String {
    let dims = |d: [u32; 3]| d.map(|n| n.to_string()).join(" x ");
    let shared = match entry.dynamic_shared {
        0 => String::new(),
        bytes => format!(", {bytes} bytes of dynamic shared memory"),
    };
    let (name, size) = (&entry.kernel, &entry.size);
    format!("{name}, {size}: grid {}, block {}{shared}", dims(entry.grid), dims(entry.block))
}

fn sample(entry: &Entry) -> String {
    match (entry.counted.blocks, entry.blocks()) {
        (some, all) if some < all => format!("{some} of {all} blocks"),
        (all, _) => format!("all {all} blocks"),
    }
}

fn counted(counters: &Counters) -> Table {
    let mut table = Table::new(&["what", "count", "of it"]);
    let classes = ALL_CLASSES.iter().zip(counters.instructions).filter(|(_, n)| *n > 0);
    let mut classes: Vec<(String, u64)> =
        classes.map(|(class, n)| (format!("{class:?}").to_lowercase(), n)).collect();
    classes.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let list = |items: Vec<(String, u64)>| {
        let items = items.into_iter().map(|(name, n)| format!("{name} {}", figure(n)));
        items.collect::<Vec<_>>().join(", ")
    };
    let mut row = |what: &str, count: u64, of: String| {
        if count > 0 {
            table.row(vec![what.to_string(), figure(count), of]);
        }
    };
    row("warp instructions", counters.warp_instructions(), list(classes));
    let mma = counters.mma.iter().map(|(kind, n)| (kind.to_string(), *n)).collect::<Vec<_>>();
    row("tensor operations", counters.mma.values().sum(), list(mma));
    for (what, traffic) in [
        ("global loads", counters.global_load),
        ("global stores", counters.global_store),
        ("async copies", counters.global_copy),
    ] {
        row(what, traffic.requests, of_traffic(&traffic));
    }
    for (what, passes) in [("shared loads", counters.shared_load), ("shared stores", counters.shared_store)] {
        row(what, passes.requests, of_passes(&passes));
    }
    row("distinct sectors read", counters.footprint_read, bytes(counters.footprint_read * 32));
    row("distinct sectors written", counters.footprint_written, bytes(counters.footprint_written * 32));
    row("global atomics", counters.global_atomics, String::new());
    row("shared atomics", counters.shared_atomics, String::new());
    row("local loads and stores", counters.local_loads + counters.local_stores, String::new());
    row("barrier arrivals", counters.barriers, String::new());
    row("divergent branches", counters.divergent_branches, String::new());
    table
}

fn of_traffic(traffic: &Traffic) -> String {
    let share = percent(traffic.ideal_sectors as f64, traffic.sectors as f64);
    format!("{} sectors, {share} of them needed; {}", figure(traffic.sectors), bytes(traffic.bytes))
}

fn of_passes(passes: &Wavefronts) -> String {
    let conflicts = passes.wavefronts.saturating_sub(passes.ideal);
    let conflicts = match conflicts {
        0 => "no bank conflict".to_string(),
        some => format!("{} for bank conflicts", figure(some)),
    };
    format!("{} passes, {conflicts}; {}", figure(passes.wavefronts), bytes(passes.bytes))
}

fn modelled(entry: &Entry) -> Table {
    let mut table = Table::new(&[
        "GPU",
        "registers",
        "spills",
        "shared",
        "SASS/PTX",
        "blocks/SM",
        "occupancy",
        "waves",
        "limit",
        "time",
        "ideal",
        "efficiency",
    ]);
    for on in &entry.machines {
        let mut cells = vec![on.machine.to_string()];
        match &on.resources {
            Some(r) => cells.extend([
                r.registers.to_string(),
                bytes(u64::from(r.spill_stores) + u64::from(r.spill_loads)),
                bytes(u64::from(r.shared) + u64::from(entry.dynamic_shared)),
            ]),
            None => cells.extend(["?".to_string(), "?".to_string(), "?".to_string()]),
        }
        cells.push(on.instruction_ratio.map_or("?".to_string(), |ratio| format!("{ratio:.2}")));
        match &on.modelled {
            Ok(m) => cells.extend([
                format!("{} ({:?})", m.occupancy.blocks, m.occupancy.bound).to_lowercase(),
                format!("{:.0} %", 100.0 * m.occupancy.share),
                format!("{:.2}", m.waves),
                m.limit.to_string(),
                time(m.seconds),
                time(m.ideal_seconds),
                format!("{:.0} %", 100.0 * m.efficiency),
            ]),
            Err(why) => cells.push(why.clone()),
        }
        table.row(cells);
    }
    table
}

fn loads(entry: &Entry) -> Table {
    let models: Vec<(&OnMachine, &Modelled)> =
        entry.machines.iter().filter_map(|on| Some((on, on.modelled.as_ref().ok()?))).collect();
    let mut pipes: Vec<_> = models.iter().flat_map(|(_, m)| &m.cycles).filter(|(_, c)| *c > 0.0).collect();
    pipes.sort_by_key(|(pipe, _)| *pipe);
    pipes.dedup_by_key(|(pipe, _)| *pipe);
    let names: Vec<String> = pipes.iter().map(|(pipe, _)| pipe.to_string()).collect();
    let mut head = vec!["GPU"];
    head.extend(names.iter().map(String::as_str));
    let mut table = Table::new(&head);
    for (on, m) in models {
        let most = m.cycles_of(m.limit);
        let load = |pipe| percent(m.cycles_of(pipe), most);
        table.row(
            [on.machine.to_string()].into_iter().chain(pipes.iter().map(|(pipe, _)| load(*pipe))).collect(),
        );
    }
    table
}

/// What is to be kept in mind, each once.
fn notes(entry: &Entry) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for note in entry.machines.iter().filter_map(|on| on.modelled.as_ref().ok()).flat_map(|m| &m.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    notes
}

/// A count: exact up to six digits.
fn figure(n: u64) -> String {
    match n as f64 {
        x if x >= 1e9 => format!("{:.3} G", x / 1e9),
        x if x >= 1e6 => format!("{:.3} M", x / 1e6),
        _ => n.to_string(),
    }
}

fn bytes(n: u64) -> String {
    match n as f64 {
        x if x >= 1e9 => format!("{:.2} GB", x / 1e9),
        x if x >= 1e6 => format!("{:.2} MB", x / 1e6),
        x if x >= 1e4 => format!("{:.1} kB", x / 1e3),
        _ => format!("{n} B"),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.2} us", s * 1e6),
    }
}

fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.0} %", 100.0 * part / whole) } else { "0 %".to_string() }
}
