//! How far a result may be from the f64 oracle, and the comparison.

use warptune::tensor::{DType, Tensor};

/// The largest error allowed of each element.
#[derive(Clone)]
pub struct Tolerance(Vec<f64>);

impl Tolerance {
    /// Twice the largest error that a plain implementation of the same type makes (FlashAttention's rule), the same for
    /// all elements. On tiny inputs that error can be 0 by luck: add [`Tolerance::rounding`].
    pub fn twice_naive(naive: &[f64], oracle: &[f64]) -> Tolerance {
        assert_eq!(naive.len(), oracle.len());
        let worst = naive.iter().zip(oracle).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst.is_finite(), "the naive implementation is not finite");
        Tolerance(vec![2.0 * worst; oracle.len()])
    }

    /// `roundings` roundings to `dtype` of numbers as large as `magnitude`. For a sum of k products, the rounding error of
    /// any order of summation is at most k roundings of sum |a||b|.
    pub fn rounding(dtype: DType, roundings: f64, magnitude: &[f64]) -> Tolerance {
        let unit = dtype.unit_roundoff() * roundings;
        // Below 2^-14 numbers of f16 are 2^-24 apart.
        let least = f64::from(f32::MIN_POSITIVE)
            + if dtype == DType::F16 { roundings / f64::from(1 << 25) } else { 0.0 };
        Tolerance(magnitude.iter().map(|m| unit * m.abs() + least).collect())
    }

    /// The sum of two tolerances.
    pub fn plus(self, other: Tolerance) -> Tolerance {
        assert_eq!(self.0.len(), other.0.len());
        Tolerance(self.0.into_iter().zip(other.0).map(|(a, b)| a + b).collect())
    }
}

/// Elements of a tile in reports.
const TILE: usize = 16;

/// Panics unless every element of `ours` is within `tolerance` of `oracle`: names the worst element, and how many of the
/// 16 x 16 tiles (of the last two dimensions) are wrong, so that one bad tile is seen as such.
#[track_caller]
#[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN must fail
pub fn assert_close(what: &str, ours: &Tensor, oracle: &[f64], tolerance: &Tolerance) {
    let got = super::values(ours);
    assert_eq!(
        got.len(),
        oracle.len(),
        "{what}: {:?} against {} expected elements",
        ours.shape(),
        oracle.len()
    );
    assert_eq!(tolerance.0.len(), oracle.len(), "{what}: tolerance of another length");
    if let Some(i) = got.iter().position(|x| !x.is_finite()) {
        panic!("{what}: element {:?} is {}, expected {}", index(ours.shape(), i), got[i], oracle[i]);
    }
    let cols = ours.shape().last().copied().unwrap_or(1).max(1);
    let mut bad_tiles = std::collections::BTreeMap::<(usize, usize), usize>::new();
    let mut worst: Option<(f64, usize)> = None;
    for (i, ((&x, &y), &tol)) in got.iter().zip(oracle).zip(&tolerance.0).enumerate() {
        let err = (x - y).abs();
        if !(err <= tol) {
            *bad_tiles.entry((i / cols / TILE, i % cols / TILE)).or_default() += 1;
            let ratio = err / tol;
            if worst.is_none_or(|(w, _)| !(ratio <= w)) {
                worst = Some((ratio, i));
            }
        }
    }
    if let Some((ratio, i)) = worst {
        let tiles: Vec<_> = bad_tiles.iter().take(8).collect();
        panic!(
            "{what} {:?}: element {:?} is {}, expected {} +- {:e} ({ratio:.2} times the tolerance); {} wrong elements in {} \
             tiles of {TILE} x {TILE}: {tiles:?}",
            ours.shape(),
            index(ours.shape(), i),
            got[i],
            oracle[i],
            tolerance.0[i],
            bad_tiles.values().sum::<usize>(),
            bad_tiles.len(),
        );
    }
}

fn index(shape: &[usize], mut i: usize) -> Vec<usize> {
    let mut out: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&d| {
            let r = i % d;
            i /= d;
            r
        })
        .collect();
    out.reverse();
    out
}
