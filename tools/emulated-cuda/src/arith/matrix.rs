//! `ldmatrix`, `stmatrix`, `movmatrix`: matrices of 8 x 8 elements of 16 bits, between memory and fragments.
//!
//! A fragment is a register of the warp: lane 4r + t holds columns 2t (low half) and 2t + 1 of row r. The row r of matrix
//! i in memory is the 16 bytes that lane 8i + r points to.

use super::Row;

/// Loads `count` matrices (1, 2 or 4) into as many registers, transposed with `trans`. `rows[i]` is what the address of lane i
/// points to. Registers from `count` on stay as they are.
pub fn ldmatrix(rows: &[[u8; 16]; 32], count: u8, trans: bool, out: &mut [Row; 4]) {
    for (matrix, out) in rows.chunks_exact(8).zip(out).take(count.into()) {
        for lane in 0..32 {
            let word = lane % 4 * 4;
            let row = &matrix[lane / 4];
            out[lane] = u32::from_le_bytes([row[word], row[word + 1], row[word + 2], row[word + 3]]);
        }
        if trans {
            *out = movmatrix(out);
        }
    }
}

/// Stores `count` registers (1, 2 or 4) as matrices, the inverse of [`ldmatrix`]: `rows[i]` goes to where the address of
/// lane i points. Rows from 8 `count` on stay as they are.
pub fn stmatrix(fragments: &[&Row], count: u8, trans: bool, rows: &mut [[u8; 16]; 32]) {
    for (matrix, fragment) in rows.chunks_exact_mut(8).zip(fragments).take(count.into()) {
        let fragment = if trans { movmatrix(fragment) } else { **fragment };
        for lane in 0..32 {
            matrix[lane / 4][lane % 4 * 4..][..4].copy_from_slice(&fragment[lane].to_le_bytes());
        }
    }
}

/// The fragment of the transposed matrix.
pub fn movmatrix(fragment: &Row) -> Row {
    let element = |row: usize, column: usize| fragment[4 * row + column / 2] >> (column % 2 * 16) & 0xffff;
    std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        element(column, row) | element(column + 1, row) << 16
    })
}
