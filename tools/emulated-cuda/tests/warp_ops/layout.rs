//! Where the elements of a matrix lie in the registers of a warp: the formulas of the PTX ISA, "Matrix Fragments for
//! mma...", shape by shape as they stand there.

use cuda::arith::{
    Row,
    mma::{Level, Mma},
};

/// Row and column of element i of a lane.
type Position = fn(lane: usize, i: usize) -> (usize, usize);

/// How the elements of one matrix are spread over lanes and registers.
#[derive(Clone, Copy)]
pub struct Fragment {
    pub rows: usize,
    pub columns: usize,
    /// Bits of an element.
    bits: usize,
    /// Elements of a lane.
    count: usize,
    position: Position,
}

/// A matrix of raw elements, by rows.
pub type Matrix = Vec<u64>;

impl Fragment {
    /// Rows of 32 lanes.
    fn register_rows(self) -> usize {
        self.count * self.bits / 32
    }

    /// Row, word of the lane and shift of an element.
    fn place(self, lane: usize, i: usize) -> (usize, usize, usize) {
        match self.bits {
            // A register is two rows, seen as one array of 32 numbers of 64 bits.
            64 => (2 * i + lane / 16, lane % 16 * 2, 0),
            bits => (i * bits / 32, lane, i * bits % 32),
        }
    }

    /// The registers that hold the matrix.
    pub fn scatter(self, matrix: &Matrix) -> Vec<Row> {
        let mut rows = vec![[0; 32]; self.register_rows()];
        for lane in 0..32 {
            for i in 0..self.count {
                let (row, column) = (self.position)(lane, i);
                let value = matrix[row * self.columns + column];
                let (register, word, shift) = self.place(lane, i);
                rows[register][word] |= (value << shift) as u32;
                if self.bits == 64 {
                    rows[register][word + 1] = (value >> 32) as u32;
                }
            }
        }
        rows
    }

    /// The matrix that the registers hold. Every element must be held once.
    pub fn gather(self, rows: &[Row]) -> Matrix {
        let mut matrix = vec![None; self.rows * self.columns];
        for lane in 0..32 {
            for i in 0..self.count {
                let (row, column) = (self.position)(lane, i);
                let (register, word, shift) = self.place(lane, i);
                let mut value = u64::from(rows[register][word] >> shift);
                if self.bits == 64 {
                    value |= u64::from(rows[register][word + 1]) << 32;
                } else {
                    value &= (1 << self.bits) - 1;
                }
                let old = matrix[row * self.columns + column].replace(value);
                assert_eq!(old, None, "element {row}, {column} twice");
            }
        }
        matrix.into_iter().map(Option::unwrap).collect()
    }
}

/// An operation with its fragments.
#[derive(Clone, Copy)]
pub struct Case {
    /// Modifiers after `mma.sync.aligned.`
    pub text: &'static str,
    pub a: Fragment,
    pub b: Fragment,
    pub c: Fragment,
}

impl Case {
    pub fn k(self) -> usize {
        self.a.columns
    }

    pub fn mma(self) -> Mma {
        parse(self.text).unwrap()
    }

    /// D, through registers that are poisoned before, and the same for all vector instructions.
    pub fn run(self, a: &Matrix, b: &Matrix, c: &Matrix) -> Matrix {
        let [a, b, c] = [self.a.scatter(a), self.b.scatter(b), self.c.scatter(c)];
        let [a, b, c]: [Vec<&Row>; 3] = [a.iter().collect(), b.iter().collect(), c.iter().collect()];
        let mut first = None;
        for level in Level::all() {
            let mut d = vec![[0xdead_beef; 32]; c.len() + 1];
            self.mma().run_at(level, &a, &b, &c, &mut d);
            assert_eq!(d.pop(), Some([0xdead_beef; 32]), "{} writes too many registers", self.text);
            assert_eq!(first.get_or_insert(d.clone()), &d, "{} at {level:?}", self.text);
        }
        let mut d = vec![[0xdead_beef; 32]; c.len()];
        self.mma().run(&a, &b, &c, &mut d);
        assert_eq!(first, Some(d.clone()), "{}", self.text);
        self.c.gather(&d)
    }
}

/// `Mma::parse` of the modifiers after `mma.sync.aligned.`
pub fn parse(text: &str) -> Result<Mma, String> {
    Mma::parse(&["sync", "aligned"].into_iter().chain(text.split('.')).collect::<Vec<_>>())
}

fn group(lane: usize) -> usize {
    lane >> 2
}

fn thread(lane: usize) -> usize {
    lane % 4
}

fn c_m16(bits: usize) -> Fragment {
    let position: Position =
        |lane, i| (if i < 2 { group(lane) } else { group(lane) + 8 }, thread(lane) * 2 + (i & 1));
    Fragment { rows: 16, columns: 8, bits, count: 4, position }
}

fn c_m8(bits: usize) -> Fragment {
    Fragment {
        rows: 8,
        columns: 8,
        bits,
        count: 2,
        position: |lane, i| (group(lane), thread(lane) * 2 + (i & 1)),
    }
}

/// Shapes of f16 and bf16, of which `text` names one.
pub fn halves(text: &'static str, c_bits: usize) -> Case {
    let (a, b) = if text.starts_with("m16n8k16") {
        let a: Position = |lane, i| {
            let row = if i < 2 || (4..6).contains(&i) { group(lane) } else { group(lane) + 8 };
            (row, thread(lane) * 2 + (i & 1) + if i < 4 { 0 } else { 8 })
        };
        let b: Position = |lane, i| (thread(lane) * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, group(lane));
        (
            Fragment { rows: 16, columns: 16, bits: 16, count: 8, position: a },
            Fragment { rows: 16, columns: 8, bits: 16, count: 4, position: b },
        )
    } else {
        let a: Position =
            |lane, i| (if i < 2 { group(lane) } else { group(lane) + 8 }, thread(lane) * 2 + (i & 1));
        let b: Position = |lane, i| (thread(lane) * 2 + i, group(lane));
        (
            Fragment { rows: 16, columns: 8, bits: 16, count: 4, position: a },
            Fragment { rows: 8, columns: 8, bits: 16, count: 2, position: b },
        )
    };
    Case { text, a, b, c: c_m16(c_bits) }
}

pub fn tf32(text: &'static str) -> Case {
    let (a, b) = if text.starts_with("m16n8k4") {
        let a: Position = |lane, i| (if i == 0 { group(lane) } else { group(lane) + 8 }, thread(lane));
        (
            Fragment { rows: 16, columns: 4, bits: 32, count: 2, position: a },
            Fragment {
                rows: 4,
                columns: 8,
                bits: 32,
                count: 1,
                position: |lane, _| (thread(lane), group(lane)),
            },
        )
    } else {
        let a: Position = |lane, i| {
            let row = if i == 0 || i == 2 { group(lane) } else { group(lane) + 8 };
            (row, if i < 2 { thread(lane) } else { thread(lane) + 4 })
        };
        let b: Position = |lane, i| (if i == 0 { thread(lane) } else { thread(lane) + 4 }, group(lane));
        (
            Fragment { rows: 16, columns: 8, bits: 32, count: 4, position: a },
            Fragment { rows: 8, columns: 8, bits: 32, count: 2, position: b },
        )
    };
    Case { text, a, b, c: c_m16(32) }
}

pub fn f64_m8n8k4() -> Case {
    Case {
        text: "m8n8k4.row.col.f64.f64.f64.f64",
        a: Fragment { rows: 8, columns: 4, bits: 64, count: 1, position: |lane, _| (lane >> 2, lane % 4) },
        b: Fragment { rows: 4, columns: 8, bits: 64, count: 1, position: |lane, _| (lane % 4, lane >> 2) },
        c: c_m8(64),
    }
}

/// 8-bit integers.
pub fn bytes(text: &'static str) -> Case {
    let (a, b): (Fragment, Fragment) = match text.split('.').next() {
        Some("m8n8k16") => (
            Fragment {
                rows: 8,
                columns: 16,
                bits: 8,
                count: 4,
                position: |l, i| (group(l), thread(l) * 4 + i),
            },
            Fragment {
                rows: 16,
                columns: 8,
                bits: 8,
                count: 4,
                position: |l, i| (thread(l) * 4 + i, group(l)),
            },
        ),
        Some("m16n8k16") => {
            let a: Position =
                |lane, i| (if i < 4 { group(lane) } else { group(lane) + 8 }, thread(lane) * 4 + (i & 3));
            (
                Fragment { rows: 16, columns: 16, bits: 8, count: 8, position: a },
                Fragment {
                    rows: 16,
                    columns: 8,
                    bits: 8,
                    count: 4,
                    position: |l, i| (thread(l) * 4 + i, group(l)),
                },
            )
        }
        _ => {
            let a: Position = |lane, i| {
                let row = if i < 4 || (8..12).contains(&i) { group(lane) } else { group(lane) + 8 };
                (row, thread(lane) * 4 + (i & 3) + if i < 8 { 0 } else { 16 })
            };
            let b: Position =
                |lane, i| (thread(lane) * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, group(lane));
            (
                Fragment { rows: 16, columns: 32, bits: 8, count: 16, position: a },
                Fragment { rows: 32, columns: 8, bits: 8, count: 8, position: b },
            )
        }
    };
    Case { text, a, b, c: if text.starts_with("m8") { c_m8(32) } else { c_m16(32) } }
}

/// 4-bit integers.
pub fn nibbles(text: &'static str) -> Case {
    let (a, b): (Fragment, Fragment) = match text.split('.').next() {
        Some("m8n8k32") => (
            Fragment {
                rows: 8,
                columns: 32,
                bits: 4,
                count: 8,
                position: |l, i| (group(l), thread(l) * 8 + i),
            },
            Fragment {
                rows: 32,
                columns: 8,
                bits: 4,
                count: 8,
                position: |l, i| (thread(l) * 8 + i, group(l)),
            },
        ),
        Some("m16n8k32") => {
            let a: Position =
                |lane, i| (if i < 8 { group(lane) } else { group(lane) + 8 }, thread(lane) * 8 + (i & 7));
            (
                Fragment { rows: 16, columns: 32, bits: 4, count: 16, position: a },
                Fragment {
                    rows: 32,
                    columns: 8,
                    bits: 4,
                    count: 8,
                    position: |l, i| (thread(l) * 8 + i, group(l)),
                },
            )
        }
        _ => {
            let a: Position = |lane, i| {
                let row = if i < 8 || (16..24).contains(&i) { group(lane) } else { group(lane) + 8 };
                (row, thread(lane) * 8 + (i & 7) + if i < 16 { 0 } else { 32 })
            };
            let b: Position =
                |lane, i| (thread(lane) * 8 + (i & 7) + if i < 8 { 0 } else { 32 }, group(lane));
            (
                Fragment { rows: 16, columns: 64, bits: 4, count: 32, position: a },
                Fragment { rows: 64, columns: 8, bits: 4, count: 16, position: b },
            )
        }
    };
    Case { text, a, b, c: if text.starts_with("m8") { c_m8(32) } else { c_m16(32) } }
}

/// Single bits.
pub fn single_bits(text: &'static str) -> Case {
    let (a, b): (Fragment, Fragment) = match text.split('.').next() {
        Some("m8n8k128") => (
            Fragment {
                rows: 8,
                columns: 128,
                bits: 1,
                count: 32,
                position: |l, i| (group(l), thread(l) * 32 + i),
            },
            Fragment {
                rows: 128,
                columns: 8,
                bits: 1,
                count: 32,
                position: |l, i| (thread(l) * 32 + i, group(l)),
            },
        ),
        Some("m16n8k128") => {
            let a: Position = |lane, i| {
                (if i < 32 { group(lane) } else { group(lane) + 8 }, thread(lane) * 32 + (i & 0x1f))
            };
            (
                Fragment { rows: 16, columns: 128, bits: 1, count: 64, position: a },
                Fragment {
                    rows: 128,
                    columns: 8,
                    bits: 1,
                    count: 32,
                    position: |l, i| (thread(l) * 32 + i, group(l)),
                },
            )
        }
        _ => {
            let a: Position = |lane, i| {
                let row = if i < 32 || (64..96).contains(&i) { group(lane) } else { group(lane) + 8 };
                (row, thread(lane) * 32 + (i & 0x1f) + if i < 64 { 0 } else { 128 })
            };
            let b: Position =
                |lane, i| (thread(lane) * 32 + (i & 0x1f) + if i < 32 { 0 } else { 128 }, group(lane));
            (
                Fragment { rows: 16, columns: 256, bits: 1, count: 128, position: a },
                Fragment { rows: 256, columns: 8, bits: 1, count: 64, position: b },
            )
        }
    };
    Case { text, a, b, c: if text.starts_with("m8") { c_m8(32) } else { c_m16(32) } }
}
