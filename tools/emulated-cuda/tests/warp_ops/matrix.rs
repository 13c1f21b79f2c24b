//! `ldmatrix`, `stmatrix`, `movmatrix`.

use cuda::arith::{
    Row,
    matrix::{ldmatrix, movmatrix, stmatrix},
};

use super::Random;

/// Element of matrix `i` in memory.
fn in_memory(rows: &[[u8; 16]; 32], i: usize, row: usize, column: usize) -> u16 {
    let bytes = rows[8 * i + row];
    u16::from(bytes[2 * column]) + 256 * u16::from(bytes[2 * column + 1])
}

/// Element of the 8 x 8 matrix whose fragment the register is. The figure of the ISA: each row is held by four threads in
/// turn, each of which has two elements, the first in the low half.
fn in_fragment(fragment: &Row, row: usize, column: usize) -> u16 {
    let thread = row * 4 + column / 2;
    let [low, high] = [fragment[thread] as u16, (fragment[thread] >> 16) as u16];
    if column.is_multiple_of(2) { low } else { high }
}

fn memory(random: &mut Random) -> [[u8; 16]; 32] {
    std::array::from_fn(|_| std::array::from_fn(|_| random.word() as u8))
}

#[test]
fn ldmatrix_spreads_rows_over_lanes() {
    let mut random = Random::new(10);
    for count in [1, 2, 4] {
        for trans in [false, true] {
            let rows = memory(&mut random);
            let poison = random.row();
            let mut out = [poison; 4];
            ldmatrix(&rows, count as u8, trans, &mut out);
            for (i, fragment) in out.iter().enumerate() {
                if i >= count {
                    assert_eq!(*fragment, poison, "register {i} of x{count}");
                    continue;
                }
                for row in 0..8 {
                    for column in 0..8 {
                        let (from_row, from_column) = if trans { (column, row) } else { (row, column) };
                        assert_eq!(
                            in_fragment(fragment, row, column),
                            in_memory(&rows, i, from_row, from_column),
                            "x{count} trans {trans}: matrix {i}, {row}, {column}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn stmatrix_gathers_rows_from_lanes() {
    let mut random = Random::new(11);
    for count in [1, 2, 4] {
        for trans in [false, true] {
            let fragments: [Row; 4] = std::array::from_fn(|_| random.row());
            let before = memory(&mut random);
            let mut rows = before;
            stmatrix(&fragments.iter().take(count).collect::<Vec<_>>(), count as u8, trans, &mut rows);
            assert_eq!(rows[8 * count..], before[8 * count..]);
            for (i, fragment) in fragments.iter().enumerate().take(count) {
                for row in 0..8 {
                    for column in 0..8 {
                        let (to_row, to_column) = if trans { (column, row) } else { (row, column) };
                        assert_eq!(
                            in_memory(&rows, i, to_row, to_column),
                            in_fragment(fragment, row, column),
                            "x{count} trans {trans}: matrix {i}, {row}, {column}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn movmatrix_transposes() {
    let mut random = Random::new(12);
    for _ in 0..20 {
        let fragment = random.row();
        let transposed = movmatrix(&fragment);
        for row in 0..8 {
            for column in 0..8 {
                assert_eq!(in_fragment(&transposed, row, column), in_fragment(&fragment, column, row));
            }
        }
    }
}
