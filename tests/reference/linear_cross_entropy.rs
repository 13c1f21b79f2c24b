//! Cross-entropy of a linear head, with all logits at once.

use super::Real;
use super::matmul::{linear, product, transposed};

/// The loss, and the gradients of x and w. `None` labels carry no loss.
pub fn linear_cross_entropy<R: Real>(
    x: &[R],
    w: &[R],
    labels: &[Option<usize>],
    denominator: f64,
    (dim, vocab): (usize, usize),
) -> (R, Vec<R>, Vec<R>) {
    let rows = labels.len();
    let mut logits = linear(x, w, None, rows, dim, vocab);
    let mut loss = R::of(0.0);
    let scale = R::of(1.0 / denominator);
    for (row, label) in logits.chunks_mut(vocab).zip(labels) {
        let Some(label) = *label else {
            row.fill(R::of(0.0));
            continue;
        };
        let max = row.iter().copied().fold(row[0], |a, b| if b > a { b } else { a });
        let sum: R = row.iter().map(|&l| (l - max).exp()).sum();
        loss += sum.ln() + max - row[label];
        row.iter_mut().for_each(|l| *l = (*l - max).exp() / sum * scale);
        row[label] = row[label] - scale;
    }
    let dx = product(&logits, w, rows, vocab, dim);
    let dw = product(&transposed(&logits, rows, vocab), x, vocab, rows, dim);
    (loss * scale, dx, dw)
}
