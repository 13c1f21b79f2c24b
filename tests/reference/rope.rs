//! Rotary embedding, by the definition.

use super::Real;

/// Which elements turn together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pairs {
    Half,
    Neighbours,
}

/// Turns heads of `2 frequencies.len()` elements of x `[T, cols]`; `sign` -1 turns back. Angles are products in f32, which
/// is part of the definition: they are what models were trained with.
pub fn rope<R: Real>(
    x: &[R],
    cols: usize,
    positions: &[u32],
    frequencies: &[f32],
    pairs: Pairs,
    sign: f64,
) -> Vec<R> {
    let n = frequencies.len();
    let mut y = x.to_vec();
    for (t, &position) in positions.iter().enumerate() {
        for head in (0..cols).step_by(2 * n) {
            for (i, frequency) in frequencies.iter().enumerate() {
                let angle = R::of(sign) * R::of(f64::from(position as f32 * frequency));
                let (a, b) = match pairs {
                    Pairs::Half => (i, i + n),
                    Pairs::Neighbours => (2 * i, 2 * i + 1),
                };
                let (a, b) = (t * cols + head + a, t * cols + head + b);
                y[a] = x[a] * angle.cos() - x[b] * angle.sin();
                y[b] = x[b] * angle.cos() + x[a] * angle.sin();
            }
        }
    }
    y
}
