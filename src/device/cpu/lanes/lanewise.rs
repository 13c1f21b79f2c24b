//! Functions of each element by itself, over whole slices and all threads.

use super::{Kernel, Lane, MAX_LANES, Simd, dispatch};
use crate::device::cpu::parallel::GRAIN;

/// A function of IN numbers that gives OUT numbers. `apply` must be `#[inline(always)]`.
pub(crate) trait Lanewise<const IN: usize, const OUT: usize>: Copy + Sync {
    fn apply<S: Simd>(self, s: S, x: [S::V; IN]) -> [S::V; OUT];
}

/// `outputs[..][i] = f(inputs[..][i])` for every i. The slices must have the same length.
pub(crate) fn map<F, T, const IN: usize, const OUT: usize>(f: F, inputs: [&[T]; IN], outputs: [&mut [T]; OUT])
where
    F: Lanewise<IN, OUT>,
    T: Lane,
{
    let len = outputs[0].len();
    assert!(inputs.iter().all(|x| x.len() == len) && outputs.iter().all(|x| x.len() == len));
    split(f, inputs, outputs);
}

fn split<F, T, const IN: usize, const OUT: usize>(f: F, inputs: [&[T]; IN], outputs: [&mut [T]; OUT])
where
    F: Lanewise<IN, OUT>,
    T: Lane,
{
    let len = outputs[0].len();
    if len <= GRAIN {
        return dispatch(Piece { f, inputs, outputs });
    }
    // Whole registers on the left, so that only the last piece has a ragged end.
    let middle = (len / 2).next_multiple_of(MAX_LANES);
    let left_in = inputs.map(|x| &x[..middle]);
    let right_in = inputs.map(|x| &x[middle..]);
    let mut right_out = Vec::with_capacity(OUT);
    let left_out = outputs.map(|x| {
        let (left, right) = x.split_at_mut(middle);
        right_out.push(right);
        left
    });
    let mut right_out = right_out.into_iter();
    let right_out = [(); OUT].map(|()| right_out.next().unwrap_or_default());
    rayon::join(|| split(f, left_in, left_out), || split(f, right_in, right_out));
}

struct Piece<'a, F, T, const IN: usize, const OUT: usize> {
    f: F,
    inputs: [&'a [T]; IN],
    outputs: [&'a mut [T]; OUT],
}

impl<F, T, const IN: usize, const OUT: usize> Kernel for Piece<'_, F, T, IN, OUT>
where
    F: Lanewise<IN, OUT>,
    T: Lane,
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Piece { f, inputs, outputs } = self;
        let len = outputs[0].len();
        let mut start = 0;
        while start < len {
            let end = (start + S::LANES).min(len);
            let mut x = [s.splat(0.0); IN];
            for i in 0..IN {
                x[i] = T::load_some(s, &inputs[i][start..end]);
            }
            let y = f.apply(s, x);
            for i in 0..OUT {
                T::store_some(s, y[i], &mut outputs[i][start..end]);
            }
            start = end;
        }
    }
}
