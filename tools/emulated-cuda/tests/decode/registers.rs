//! Register allocation: random programs do the same before and after it.

use std::fmt::Write;

use proptest::prelude::*;

use super::{
    interpreter::{decoded, source},
    load, named,
};

/// A stream of random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % limit
    }
}

/// Writes random programs.
struct Writer {
    random: Random,
    text: String,
    /// Labels so far, and loop counters.
    names: u32,
    /// Registers of each kind.
    registers: u64,
}

impl Writer {
    fn word(&mut self) -> String {
        format!("%r{}", self.random.below(self.registers))
    }

    fn wide(&mut self) -> String {
        format!("%rd{}", self.random.below(self.registers))
    }

    fn pred(&mut self) -> String {
        format!("%p{}", self.random.below(4))
    }

    fn word_or_literal(&mut self) -> String {
        if self.random.below(4) == 0 { self.random.below(1 << 32).to_string() } else { self.word() }
    }

    /// One instruction, sometimes guarded.
    fn instruction(&mut self) {
        if self.random.below(5) == 0 {
            let (negated, guard) = (self.random.below(2) == 0, self.pred());
            write!(self.text, "@{}{guard} ", if negated { "!" } else { "" }).unwrap();
        }
        let (r, d, p) = (self.word(), self.wide(), self.pred());
        let (a, b, c) = (self.word(), self.word_or_literal(), self.word());
        let (x, y, q) = (self.wide(), self.wide(), self.pred());
        let line = match self.random.below(16) {
            0 | 1 => format!("add.u32 {r}, {a}, {b};"),
            2 => format!("xor.b32 {r}, {a}, {b};"),
            3 => format!("mad.lo.u32 {r}, {a}, {b}, {c};"),
            4 | 5 => format!("mul.wide.u32 {d}, {a}, {b};"),
            6 | 7 => format!("add.u64 {d}, {x}, {y};"),
            8 => format!("mov.b64 {d}, {{{a}, {b}}};"),
            9 => {
                format!("mov.b64 {{{r}, {}}}, {x};", if r == c { format!("%r{}", self.registers) } else { c })
            }
            10 => format!("setp.lt.u32 {p}, {a}, {b};"),
            11 if p != q => format!("setp.lt.u32 {p}|{q}, {a}, {b};"),
            11 => format!("xor.pred {p}, {q}, !{p};"),
            12 => format!("selp.b32 {r}, {a}, {b}, {p};"),
            13 => format!("selp.b64 {d}, {x}, {y}, !{p};"),
            14 => format!("mov.u32 {r}, {b};"),
            _ => format!("mov.u64 {d}, {x};"),
        };
        self.text.push_str(&line);
        self.text.push('\n');
    }

    fn store(&mut self) {
        let (r, d) = (self.word(), self.wide());
        let line = if self.random.below(2) == 0 { format!("u32 [g], {r}") } else { format!("u64 [g], {d}") };
        writeln!(self.text, "st.global.{line};").unwrap();
    }

    fn block(&mut self, depth: u32) {
        for _ in 0..self.random.below(6) + 1 {
            match self.random.below(10) {
                0 if depth > 0 => {
                    // if, perhaps with an else
                    self.names += 1;
                    let (name, p) = (self.names, self.pred());
                    writeln!(self.text, "@{p} bra ELSE{name};").unwrap();
                    self.block(depth - 1);
                    writeln!(self.text, "bra END{name};\nELSE{name}:").unwrap();
                    if self.random.below(2) == 0 {
                        self.block(depth - 1);
                    }
                    writeln!(self.text, "END{name}:").unwrap();
                }
                1 if depth > 0 => {
                    self.names += 1;
                    let (name, turns) = (self.names, self.random.below(4) + 1);
                    writeln!(self.text, "mov.u32 %c{name}, {turns};\nLOOP{name}:").unwrap();
                    self.block(depth - 1);
                    writeln!(
                        self.text,
                        "sub.u32 %c{name}, %c{name}, 1;\nsetp.ne.u32 %l{name}, %c{name}, 0;\n@%l{name} bra LOOP{name};"
                    )
                    .unwrap();
                }
                2 => self.store(),
                _ => self.instruction(),
            }
        }
    }
}

/// A random program; in an `initialised` one, every register is written first.
fn program(seed: u64, registers: u64, initialised: bool) -> String {
    let mut writer = Writer { random: Random(seed), text: String::new(), names: 0, registers };
    for at in (0..registers).filter(|_| initialised) {
        writeln!(writer.text, "mov.u32 %r{at}, {};\nmov.u64 %rd{at}, {};", at * 77, at * 0x1_0000_0001)
            .unwrap();
    }
    for at in (0..4).filter(|_| initialised) {
        writeln!(writer.text, "setp.lt.u32 %p{at}, {}, 2;", at % 3).unwrap();
    }
    for _ in 0..4 {
        writer.block(3);
        writer.store();
    }
    let names = writer.names + 1;
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.global .align 8 .b8 g[8];\n.visible .entry k()\n{{\n\
         .reg .pred %p<4>;\n.reg .pred %l<{names}>;\n.reg .b32 %c<{names}>;\n.reg .b32 %r<{}>;\n.reg .b64 %rd<{registers}>;\n\
         {}ret;\n}}\n",
        registers + 1,
        writer.text
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn allocated_programs_do_the_same(seed: u64, registers in 2u64..24) {
        let text = program(seed, registers, true);
        let module = cuda::ptx::parse(&text).unwrap();
        let expected = source(module.functions[0].body.as_ref().unwrap());
        prop_assert!(expected.is_ok());
        let kernel = named(&text, "k");
        prop_assert!(kernel.program.tracked_names.is_empty());
        prop_assert_eq!(decoded(&kernel.program), expected, "{}", text);
    }

    #[test]
    fn undefined_reads_are_found_where_they_happen(seed: u64, registers in 2u64..12) {
        let text = program(seed, registers, false);
        let module = cuda::ptx::parse(&text).unwrap();
        let expected = source(module.functions[0].body.as_ref().unwrap());
        let kernel = named(&text, "k");
        let found = decoded(&kernel.program);
        // An instruction with two undefined registers may name either.
        match (&expected, &found) {
            (Err(_), Err(name)) => prop_assert!(name.starts_with('%')),
            _ => prop_assert_eq!(found, expected, "{}", text),
        }
    }
}

/// The rows that a kernel takes follow from what is live at once, not from how many registers it names.
#[test]
fn rows_are_used_again() {
    let mut body = String::from("mov.u32 %r0, 1;\n");
    for at in 1..1000 {
        writeln!(body, "add.u32 %r{at}, %r{}, {at};", at - 1).unwrap();
    }
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.global .u32 g;\n.visible .entry k()\n{{\n.reg .b32 %r<1000>;\n\
         {body}st.global.u32 [g], %r999;\nret;\n}}\n"
    );
    let kernel = named(&text, "k");
    assert_eq!(kernel.program.rows, 1);
    assert_eq!(decoded(&kernel.program), Ok(vec![1 + 999 * 1000 / 2]));
}

/// The results of a vector load lie apart from its address and from each other, wanted or not.
#[test]
fn results_of_one_instruction_lie_apart() {
    let text = super::module(
        "sm_80",
        "ld.param.u64 %rd1, [p0];\nld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%rd1];\nst.global.u32 [g], %r2;",
    );
    let program = &named(&text, "k").program;
    let o = &program.code[1].o[..5];
    let mut taken = vec![o[0], o[1], o[2], o[3], o[4], o[4] + 1];
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 6, "{o:?}");
}

/// More registers than slots can name are an error, not a wrong program.
#[test]
fn too_many_rows_are_an_error() {
    let count = 17_000;
    let mut body = String::new();
    for at in 0..count {
        writeln!(body, "mov.u64 %rd{at}, %clock64;").unwrap();
    }
    for at in 0..count {
        writeln!(body, "st.global.u64 [g], %rd{at};").unwrap();
    }
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.global .u64 g;\n.visible .entry k()\n{{\n.reg .b64 %rd<{count}>;\n\
         {body}ret;\n}}\n"
    );
    let error = load(&text).unwrap_err().to_string();
    assert!(error.contains("are live at once"), "{error}");
}
