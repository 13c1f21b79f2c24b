//! Sums, prefix sums, counts, sorting, transposition.

use crate::kernels::{
    data::{EPS, Random, close, equal},
    gpu::{Failure, Session, Shape, line},
};

pub fn reduce(s: &mut Session<'_>) -> Result<(), Failure> {
    // In the second, threads, warps and a block have nothing to add.
    for (n, blocks) in [(40_003, 37), (70, 2)] {
        let x = Random::new(5).f32s(n, 1.0);
        let (dx, partial, out) = (s.upload(&x), s.output::<f32>(blocks), s.output::<f32>(1));
        s.launch("reduce_partial", line(blocks, 256), &[dx.into(), partial.into(), (n as i32).into()])?;
        s.launch("reduce_final", line(1, 32), &[partial.into(), out.into(), (blocks as i32).into()])?;

        let want: f64 = x.iter().map(|&x| f64::from(x)).sum();
        let size: f64 = x.iter().map(|&x| f64::from(x.abs())).sum();
        // No element takes part in more roundings: 5 in its thread, 5 in its warp, 5 in its block, 7 in the end.
        close("out", &s.download::<f32>(out), &[want], &[EPS * 22.0 * size])?;
    }
    Ok(())
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
    let add = |sum: u32, x: &[u32]| x.iter().fold(sum, |sum, &x| sum.wrapping_add(x));
    let want: Vec<u32> = (1..=n).map(|n| add(0, &x[..n])).collect();

    // From the start; and as if three blocks were under way, two of which have told no more than their own sums.
    // The first also with all blocks at once.
    for (done, cooperative) in [(0, false), (0, true), (3, false)] {
        let (mut flags, mut sums, mut prefixes) =
            (vec![0u32; blocks], vec![0u32; blocks], vec![0u32; blocks]);
        for block in 0..done {
            flags[block] = if block == 0 { 2 } else { 1 };
            sums[block] = add(0, &x[block * 256..][..256]);
            prefixes[block] = add(0, &x[..(block + 1) * 256]);
        }
        let (dx, dy) = (s.upload(&x), s.output::<u32>(n));
        let ticket = s.upload(&[done as u32]);
        // What stands behind no flag has not been written.
        let flags = s.upload(&flags);
        let sums = s.upload_front(&sums[..done], blocks);
        let prefixes = s.upload_front(&prefixes[..done.min(1)], blocks);
        let buffers = [dx, dy, ticket, flags, sums, prefixes].map(Into::into);
        let args = [&buffers[..], &[(n as i32).into()]].concat();
        let shape = Shape { cooperative, ..line(blocks - done, 256) };
        s.launch("scan_lookback", shape, &args)?;
        equal("y", &s.download::<u32>(dy)[done * 256..], &want[done * 256..])?;
    }
    Ok(())
}

pub fn bytes(s: &mut Session<'_>) -> Result<(), Failure> {
    // Rows that end inside of a lane's bytes, at every place; and one that fills them.
    for k in [256usize + 8 * 3 + 7, 5, 3, 8 * 4 + 6, 8 * 2 + 1, 8 * 2 + 2, 4, 64] {
        let (rows, pitch) = (2, k.next_multiple_of(8) + 8);
        let mut random = Random::new(k as u64);
        let b: Vec<u8> = (0..rows * k).map(|_| random.below(256) as u8).collect();
        let mut table = random.f32s(16, 1.0);
        table[7] = 0.0;
        let (db, dt, dy) = (s.upload_rows(&b, k, pitch), s.upload(&table), s.output::<f32>(rows));
        let args = [db.into(), dt.into(), dy.into(), (k as i32).into(), (pitch as i32).into()];
        s.launch("bytes", line(rows, 32), &args)?;

        let products = |row: usize| {
            let at = |nibble: u8| f64::from(table[usize::from(nibble)]);
            b[row * k..(row + 1) * k].iter().map(move |b| at(b >> 4) * at(b & 15))
        };
        let want: Vec<f64> = (0..rows).map(|row| products(row).sum()).collect();
        // At most 2 times 8 sums with a rounding each in the lane, and 5 in the warp.
        let size = (0..rows).map(|row| products(row).map(f64::abs).sum::<f64>());
        let bound: Vec<f64> = size.map(|size| 22.0 * EPS * size).collect();
        close("y", &s.download::<f32>(dy), &want, &bound)?;
    }
    Ok(())
}

pub fn histogram(s: &mut Session<'_>) -> Result<(), Failure> {
    // In the second, a block and most threads have nothing to count.
    for n in [3_001, 150] {
        let mut random = Random::new(7);
        // Small values are more frequent, so that lanes collide.
        let x: Vec<u8> = (0..n).map(|_| random.below(64).min(random.below(64)) as u8).collect();
        let (dx, counts) = (s.upload(&x), s.upload(&[0u32; 64]));
        s.launch("histogram", line(3, 128), &[dx.into(), counts.into(), n.into()])?;

        let mut want = [0; 64];
        x.iter().for_each(|&v| want[usize::from(v)] += 1);
        equal("counts", &s.download::<u32>(counts), &want)?;
    }
    Ok(())
}

pub fn transpose(s: &mut Session<'_>) -> Result<(), Failure> {
    for (rows, cols) in [(45, 70), (33, 65)] {
        let x = Random::new(8).words(rows * cols);
        let (dx, dy) = (s.upload(&x), s.output::<u32>(rows * cols));
        let grid = [cols.div_ceil(32) as u32, rows.div_ceil(32) as u32, 1];
        let shape = Shape { grid, block: [32, 8, 1], cooperative: false };
        s.launch("transpose", shape, &[dx.into(), dy.into(), (rows as i32).into(), (cols as i32).into()])?;

        let want: Vec<u32> = (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect();
        equal("y", &s.download::<u32>(dy), &want)?;
    }
    Ok(())
}

pub fn sort(s: &mut Session<'_>) -> Result<(), Failure> {
    // The last block lacks less than half of its keys, and more.
    for n in [256 + 143, 256 + 100] {
        let mut keys = Random::new(9).words(n);
        keys[17] = u32::MAX;
        keys[300] = keys[301];
        let device = s.upload(&keys);
        s.launch("sort_blocks", line(2, 128), &[device.into(), (n as i32).into()])?;

        keys.chunks_mut(256).for_each(<[u32]>::sort_unstable);
        equal("keys", &s.download::<u32>(device), &keys)?;
    }
    Ok(())
}
