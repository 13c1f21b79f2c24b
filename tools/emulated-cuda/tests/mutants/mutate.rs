//! Small faults of a kernel, made one at a time in its PTX.

use super::text::{Statement, statements};

/// A PTX text with one fault.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// What kind of fault.
    pub kind: &'static str,
    /// The entry or function that has it.
    pub function: String,
    /// The instruction as it was.
    pub before: String,
    /// As it is now.
    pub after: String,
    /// Its place in the text.
    span: std::ops::Range<usize>,
}

impl Mutant {
    /// The whole text with the fault.
    pub fn apply(&self, text: &str) -> String {
        [&text[..self.span.start], &self.after, &text[self.span.end..]].concat()
    }
}

/// Instructions that order something: a kernel without one of them is wrong.
const ORDERING: [(&str, &str); 8] = [
    ("bar.", "barrier deleted"),
    ("bar.warp.", "warp barrier deleted"),
    ("membar", "fence deleted"),
    ("fence", "fence deleted"),
    ("cp.async.commit_group", "commit deleted"),
    ("cp.async.wait", "copy wait deleted"),
    ("cp.async.mbarrier.arrive", "mbarrier arrival deleted"),
    ("mbarrier.arrive", "mbarrier arrival deleted"),
];

/// Every mutant of a text, in the order of its instructions.
pub fn mutants(text: &str) -> Vec<Mutant> {
    let all = statements(text);
    let mut found = Vec::new();
    for s in &all {
        for (kind, after) in faults(s) {
            found.push(Mutant {
                kind,
                function: s.function.to_owned(),
                before: text[s.span.clone()].to_owned(),
                after,
                span: s.span.clone(),
            });
        }
    }
    found
}

fn faults(s: &Statement<'_>) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    // The longest prefix that fits names the kind.
    if let Some((_, kind)) =
        ORDERING.iter().filter(|(p, _)| s.opcode.starts_with(p)).max_by_key(|(p, _)| p.len())
    {
        found.push((*kind, String::new()));
    }
    let class = s.opcode.split('.').next().unwrap_or_default();
    match class {
        "cp" if s.opcode == "cp.async.wait_group" => {
            if let Some(n) = s.operands.first().and_then(|n| n.parse::<u32>().ok()) {
                found.push(("copy wait loosened", with(s, &[(0, (n + 1).to_string())])));
            }
        }
        "bar" if s.operands.len() == 2 => {
            if let Ok(n) = s.operands[1].parse::<u32>() {
                found.push(("barrier count shrunk", with(s, &[(1, (n - 32).to_string())])));
            }
        }
        "mbarrier" => mbarrier(s, &mut found),
        "mma" => fragments(s, &mut found),
        "shfl" => {
            // The operand behind the value: another source, or none but the lane itself.
            let lane = s.operands[2];
            let text = if s.opcode.contains(".idx") {
                let shuffle = with(s, &[(2, "%mutant".into())]);
                format!("{{ .reg .b32 %mutant; xor.b32 %mutant, {lane}, 1; {shuffle} }}")
            } else {
                with(s, &[(2, "0".into())])
            };
            found.push(("shuffle lane changed", text));
        }
        "atom" | "red" => found.extend(plain_update(s).map(|text| ("atomic made plain", text))),
        "setp" => {
            let p = s.operands[0];
            found.push(("mask always true", format!("{} setp.eq.u32 {p}, 0, 0;", s.guard)));
            found.push(("mask always false", format!("{} setp.ne.u32 {p}, 0, 0;", s.guard)));
        }
        _ => {}
    }
    if let Some(p) = s.guard.strip_prefix("@!") {
        found.push(("predicate negated", format!("@{p} {}", unguarded(s))));
    } else if let Some(p) = s.guard.strip_prefix('@') {
        found.push(("predicate negated", format!("@!{p} {}", unguarded(s))));
    }
    if memory_access(s) {
        for (i, operand) in s.operands.iter().enumerate() {
            if let Some(address) = operand.strip_prefix('[').and_then(|o| o.strip_suffix(']')) {
                for (bytes, kind) in [(4, "address + 4"), (16, "address + 16")] {
                    found.push((kind, with(s, &[(i, format!("[{address}+{bytes}]"))])));
                }
            }
        }
    }
    found
}

/// Loads, stores, copies and atomics of memory that threads share.
fn memory_access(s: &Statement<'_>) -> bool {
    let op = s.opcode;
    let space = op.contains(".shared") || op.contains(".global");
    space && ["ld.", "st.", "ldmatrix.", "cp.async.c", "atom.", "red."].iter().any(|p| op.starts_with(p))
}

fn mbarrier(s: &Statement<'_>, found: &mut Vec<(&'static str, String)>) {
    if s.opcode.starts_with("mbarrier.init") {
        let fewer = with(s, &[(1, "%mutant".into())]);
        let text = format!("{{ .reg .b32 %mutant; sub.u32 %mutant, {}, 1; {fewer} }}", s.operands[1]);
        found.push(("mbarrier count shrunk", text));
    } else if s.opcode.starts_with("mbarrier.test_wait") || s.opcode.starts_with("mbarrier.try_wait") {
        found.push(("mbarrier wait deleted", format!("setp.eq.u32 {}, 0, 0;", s.operands[0])));
    }
}

/// Swaps neighbouring registers of a, and those of b.
fn fragments(s: &Statement<'_>, found: &mut Vec<(&'static str, String)>) {
    for operand in [1, 2] {
        let Some(inner) = s.operands[operand].strip_prefix('{').and_then(|o| o.strip_suffix('}')) else {
            continue;
        };
        let registers: Vec<&str> = inner.split(',').map(str::trim).collect();
        for i in 1..registers.len() {
            let mut swapped = registers.clone();
            swapped.swap(i - 1, i);
            found.push((
                "fragment registers swapped",
                with(s, &[(operand, format!("{{{}}}", swapped.join(", ")))]),
            ));
        }
    }
}

/// An atomic addition as a load, an addition and a store.
fn plain_update(s: &Statement<'_>) -> Option<String> {
    let mut parts = s.opcode.split('.');
    let (class, space, op, ty) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if op != "add" || parts.next().is_some() {
        return None;
    }
    let (old, address, value) = match (class, &s.operands[..]) {
        ("atom", [old, address, value]) => (*old, *address, *value),
        ("red", [address, value]) => ("%mutant_old", *address, *value),
        _ => return None,
    };
    let g = s.guard;
    Some(format!(
        "{{ .reg .b32 %mutant_old, %mutant_new; {g} ld.{space}.{ty} %mutant_old, {address}; \
         {g} add.{ty} %mutant_new, %mutant_old, {value}; {g} st.{space}.{ty} {address}, %mutant_new; \
         {g} mov.b32 {old}, %mutant_old; }}"
    ))
}

fn unguarded(s: &Statement<'_>) -> String {
    format!("{} {};", s.opcode, s.operands.join(", "))
}

/// The instruction with other operands.
fn with(s: &Statement<'_>, changes: &[(usize, String)]) -> String {
    let mut operands: Vec<&str> = s.operands.clone();
    for (i, text) in changes {
        operands[*i] = text;
    }
    format!("{} {} {};", s.guard, s.opcode, operands.join(", ")).trim_start().to_owned()
}
