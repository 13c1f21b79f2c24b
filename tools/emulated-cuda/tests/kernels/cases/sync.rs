//! Warps that wait for warps, blocks that wait for blocks.

use crate::kernels::{
    data::{EPS, Random, close, wide},
    gpu::{Failure, Session, Shape, line},
};

pub fn pipeline(s: &mut Session<'_>) -> Result<(), Failure> {
    pipeline_of(s, 11, 2)?;
    // The last block has nothing to do.
    pipeline_of(s, 2, 3)
}

fn pipeline_of(s: &mut Session<'_>, rows: usize, blocks: usize) -> Result<(), Failure> {
    let cols = 384;
    let mut x = Random::new(15).f32s(rows * cols, 5.0);
    x[cols..2 * cols].fill(0.0);
    let (dx, dy, tops) = (s.upload(&x), s.output::<f32>(x.len()), s.output::<f32>(blocks));
    s.launch("pipeline", line(blocks, 128), &[dx.into(), dy.into(), tops.into(), (rows as i32).into()])?;

    let y = s.download::<f32>(dy);
    let mut want_tops = vec![0.0; blocks];
    for (row, x) in x.chunks(cols).enumerate() {
        let x = wide(x);
        let top = x.iter().fold(0.0, |top: f64, x| top.max(x.abs()));
        want_tops[row % blocks] += top;
        let want: Vec<f64> = x.iter().map(|x| if top > 0.0 { x / top } else { 0.0 }).collect();
        let bound: Vec<f64> = want.iter().map(|y| 4.0 * EPS * y.abs()).collect();
        close("y", &y[row * cols..(row + 1) * cols], &want, &bound)?;
    }
    let bound: Vec<f64> = want_tops.iter().map(|x| rows as f64 * EPS * x).collect();
    close("tops", &s.download::<f32>(tops), &want_tops, &bound)
}

pub fn grid_sync(s: &mut Session<'_>) -> Result<(), Failure> {
    grid_sync_of(s, 450, 5)?;
    // One block has nothing to do; and no step at all.
    grid_sync_of(s, 100, 4)?;
    grid_sync_of(s, 100, 0)
}

fn grid_sync_of(s: &mut Session<'_>, n: usize, steps: i32) -> Result<(), Failure> {
    let a = Random::new(16).f32s(n, 1.0);
    let (da, db, arrived) = (s.upload(&a), s.output::<f32>(n), s.upload(&[0u32]));
    let shape = Shape { cooperative: true, ..line(3, 64) };
    s.launch("grid_sync", shape, &[da.into(), db.into(), arrived.into(), (n as i32).into(), steps.into()])?;

    let mut want = wide(&a);
    for _ in 0..steps {
        want = (0..n).map(|i| (want[(i + n - 1) % n] + want[i] + want[(i + 1) % n]) / 3.0).collect();
    }
    // Each step averages errors and adds three roundings of values below 1.
    let result = if steps % 2 == 0 { da } else { db };
    close("result", &s.download::<f32>(result), &want, &vec![f64::from(3 * steps) * EPS; n])
}
