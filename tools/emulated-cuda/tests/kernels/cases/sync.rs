//! Warps that wait for warps, blocks that wait for blocks.

use crate::kernels::{
    data::{EPS, Random, close, equal, wide},
    gpu::{Failure, Session, Shape, line, plane},
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
    let (da, arrived) = (s.upload(&a), s.upload(&[0u32]));
    // Without a step nothing may change; else nothing may be read before it is written.
    let db = if steps == 0 { s.upload(&a) } else { s.output::<f32>(n) };
    let shape = Shape { cooperative: true, ..line(3, 64) };
    s.launch("grid_sync", shape, &[da.into(), db.into(), arrived.into(), (n as i32).into(), steps.into()])?;

    let mut want = wide(&a);
    for _ in 0..steps {
        want = (0..n).map(|i| (want[(i + n - 1) % n] + want[i] + want[(i + 1) % n]) / 3.0).collect();
    }
    // Each step averages errors and adds three roundings of values below 1.
    let result = if steps % 2 == 0 { da } else { db };
    close("result", &s.download::<f32>(result), &want, &vec![f64::from(3 * steps) * EPS; n])?;
    if steps == 0 { close("b", &s.download::<f32>(db), &want, &vec![0.0; n]) } else { Ok(()) }
}

pub fn last_block(s: &mut Session<'_>) -> Result<(), Failure> {
    // More blocks than a block has threads; and with all of them at once, the last one not full.
    for (n, cooperative) in [(64 * 70, false), (64 * 5 - 9, true)] {
        let x = Random::new(17).f32s(n, 1.0);
        let blocks = n.div_ceil(64);
        let (dx, partial, sum) = (s.upload(&x), s.output::<f32>(blocks), s.output::<f32>(1));
        let ticket = s.upload(&[0u32]);
        let shape = Shape { cooperative, ..line(blocks, 64) };
        // The second launch finds the ticket as the first did.
        for _ in 0..2 {
            let args = [dx.into(), partial.into(), sum.into(), ticket.into(), (n as i32).into()];
            s.launch("last_block", shape, &args)?;
            let want: f64 = x.iter().map(|&x| f64::from(x)).sum();
            let size: f64 = x.iter().map(|&x| f64::from(x.abs())).sum();
            // 6 roundings in a block, 2 in a thread of the last, 6 in that block.
            close("sum", &s.download::<f32>(sum), &[want], &[14.0 * EPS * size])?;
        }
        equal("ticket", &s.download::<u32>(ticket), &[0])?;
    }
    Ok(())
}

pub fn in_turn(s: &mut Session<'_>) -> Result<(), Failure> {
    for cooperative in [false, true] {
        let (n, parts) = (64 + 37, 4);
        let x = Random::new(18).f32s(n * parts, 1.0);
        let blocks = n.div_ceil(64);
        let (dx, dc, lock) = (s.upload(&x), s.output::<f32>(n), s.upload(&vec![0u32; blocks]));
        let shape = Shape { cooperative, ..plane(blocks, parts, 64) };
        s.launch("in_turn", shape, &[dx.into(), dc.into(), lock.into(), (n as i32).into()])?;

        // In this order and no other.
        let want: Vec<f32> = (0..n).map(|i| (1..parts).fold(x[i], |sum, k| sum + x[k * n + i])).collect();
        equal("c", &s.download::<f32>(dc), &want)?;
    }
    Ok(())
}

pub fn hand_on(s: &mut Session<'_>) -> Result<(), Failure> {
    for cooperative in [false, true] {
        let x = Random::new(19).words(7);
        let (dx, dy, flags) = (s.upload(&x), s.output::<u32>(x.len()), s.upload(&vec![0u32; x.len()]));
        let shape = Shape { cooperative, ..line(x.len(), 32) };
        s.launch("hand_on", shape, &[dx.into(), dy.into(), flags.into()])?;

        let want: Vec<u32> =
            (1..=x.len()).map(|n| x[..n].iter().fold(0, |a: u32, b| a.wrapping_add(*b))).collect();
        equal("y", &s.download::<u32>(dy), &want)?;
    }
    Ok(())
}
