//! Sums, prefix sums, counts, sorting, transposition.

use crate::kernels::{
    data::{EPS, Random, close, equal},
    gpu::{Failure, Session, Shape, line},
};

pub fn reduce(s: &mut Session<'_>) -> Result<(), Failure> {
    let (n, blocks) = (40_003, 37);
    let x = Random::new(5).f32s(n, 1.0);
    let (dx, partial, out) = (s.upload(&x), s.output::<f32>(blocks), s.output::<f32>(1));
    s.launch("reduce_partial", line(blocks, 256), &[dx.into(), partial.into(), (n as i32).into()])?;
    s.launch("reduce_final", line(1, 32), &[partial.into(), out.into(), (blocks as i32).into()])?;

    let want: f64 = x.iter().map(|&x| f64::from(x)).sum();
    let size: f64 = x.iter().map(|&x| f64::from(x.abs())).sum();
    // Each element takes part in at most so many roundings: 5 in its thread, 5 in its warp, 8 in its block, and so on.
    close("out", &s.download::<f32>(out), &[want], &[EPS * 30.0 * size])
}

pub fn scan_block(s: &mut Session<'_>) -> Result<(), Failure> {
    for n in [1, 31, 203, 256] {
        let x = Random::new(n as u64).f32s(n, 1.0);
        let (dx, dy) = (s.upload(&x), s.output::<f32>(n));
        s.launch("scan_block", line(1, 256), &[dx.into(), dy.into(), (n as i32).into()])?;

        let sums = |f: fn(f64) -> f64| -> Vec<f64> {
            let add = |sum: &mut f64, &x: &f32| {
                *sum += f(f64::from(x));
                Some(*sum)
            };
            x.iter().scan(0.0, add).collect()
        };
        // At most 5 roundings in the warp, 8 among warps and one at the end.
        let bound: Vec<f64> = sums(f64::abs).iter().map(|x| EPS * 14.0 * x).collect();
        close("y", &s.download::<f32>(dy), &sums(|x| x), &bound)?;
    }
    Ok(())
}

pub fn scan_lookback(s: &mut Session<'_>) -> Result<(), Failure> {
    let n: usize = 5 * 256 + 77;
    let blocks = n.div_ceil(256);
    let x = Random::new(6).words(n);
    let (dx, dy) = (s.upload(&x), s.output::<u32>(n));
    let (ticket, flags) = (s.upload(&[0u32]), s.upload(&vec![0u32; blocks]));
    let (sums, prefixes) = (s.output::<u32>(blocks), s.output::<u32>(blocks));
    let buffers = [dx, dy, ticket, flags, sums, prefixes].map(Into::into);
    s.launch("scan_lookback", line(blocks, 256), &[&buffers[..], &[(n as i32).into()]].concat())?;

    let add = |sum: &mut u32, &x: &u32| {
        *sum = sum.wrapping_add(x);
        Some(*sum)
    };
    equal("y", &s.download::<u32>(dy), &x.iter().scan(0, add).collect::<Vec<_>>())
}

pub fn histogram(s: &mut Session<'_>) -> Result<(), Failure> {
    let n = 3_001;
    let mut random = Random::new(7);
    // Small values are more frequent, so that lanes collide.
    let x: Vec<u8> = (0..n).map(|_| random.below(64).min(random.below(64)) as u8).collect();
    let (dx, counts) = (s.upload(&x), s.upload(&[0u32; 64]));
    s.launch("histogram", line(3, 128), &[dx.into(), counts.into(), n.into()])?;

    let mut want = [0; 64];
    x.iter().for_each(|&v| want[usize::from(v)] += 1);
    equal("counts", &s.download::<u32>(counts), &want)
}

pub fn transpose(s: &mut Session<'_>) -> Result<(), Failure> {
    let (rows, cols) = (45, 70);
    let x = Random::new(8).words(rows * cols);
    let (dx, dy) = (s.upload(&x), s.output::<u32>(rows * cols));
    let shape = Shape {
        grid: [cols.div_ceil(32) as u32, rows.div_ceil(32) as u32, 1],
        block: [32, 8, 1],
        cooperative: false,
    };
    s.launch("transpose", shape, &[dx.into(), dy.into(), (rows as i32).into(), (cols as i32).into()])?;

    let want: Vec<u32> = (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect();
    equal("y", &s.download::<u32>(dy), &want)
}

pub fn sort(s: &mut Session<'_>) -> Result<(), Failure> {
    let n = 256 + 143;
    let mut keys = Random::new(9).words(n);
    keys[17] = u32::MAX;
    keys[300] = keys[301];
    let device = s.upload(&keys);
    s.launch("sort_blocks", line(2, 128), &[device.into(), (n as i32).into()])?;

    keys.chunks_mut(256).for_each(<[u32]>::sort_unstable);
    equal("keys", &s.download::<u32>(device), &keys)
}
