//! Threads that part.

use std::collections::BTreeMap;

use crate::kernels::{
    data::{Random, equal},
    gpu::{Failure, Session, Shape, line},
};

pub fn collatz(s: &mut Session<'_>) -> Result<(), Failure> {
    let n = 100u32;
    for limit in [0, 100] {
        let x: Vec<u32> = (1..=n).collect();
        let (dx, steps) = (s.upload(&x), s.output::<u32>(x.len()));
        s.launch("collatz", line(2, 64), &[dx.into(), steps.into(), (n as i32).into(), limit.into()])?;

        let next = |&v: &u32| (v != 1).then(|| if v.is_multiple_of(2) { v / 2 } else { 3 * v + 1 });
        let count = |v: u32| std::iter::successors(Some(v), next).skip(1).take(limit as usize).count() as u32;
        equal("steps", &s.download::<u32>(steps), &x.iter().map(|&v| count(v)).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn digest(seed: u32, rounds: u32) -> u32 {
    let (mut a, mut b) = (seed, !seed);
    for i in 0..rounds {
        a = a.wrapping_add(b ^ i.wrapping_mul(0x9e37_79b9));
        b = b.rotate_left(13).wrapping_add(a);
    }
    a ^ b
}

fn run_program(mut code: u64, thread: u32) -> u32 {
    let (mut a, mut b) = (thread, 1u32);
    loop {
        match code & 15 {
            0 => return a ^ b,
            1 => a = a.wrapping_add(b),
            2 => b = a.wrapping_mul(3).wrapping_add(1),
            3 => a ^= a << 7,
            4 => a = b.wrapping_sub(a),
            5 => b ^= b >> 5,
            6 => a = digest(a, b & 3),
            7 => b = a.count_ones(),
            8 => (a, b) = (b, a),
            9 => a %= b | 1,
            10 => b = a & 0xff,
            11 => a |= b << 16,
            _ => a = a.wrapping_add(1),
        }
        code >>= 4;
    }
}

pub fn interpret(s: &mut Session<'_>) -> Result<(), Failure> {
    let n = 120;
    let mut random = Random::new(21);
    let programs: Vec<u64> = (0..n).map(|i| random.bits() >> (i % 13 * 4)).collect();
    let (code, out) = (s.upload(&programs), s.output::<u32>(n));
    s.launch("interpret", line(2, 64), &[code.into(), out.into(), (n as i32).into()])?;

    let want: Vec<u32> = programs.iter().enumerate().map(|(i, &code)| run_program(code, i as u32)).collect();
    equal("out", &s.download::<u32>(out), &want)
}

pub fn branch_table(s: &mut Session<'_>) -> Result<(), Failure> {
    let n = 115;
    let mut random = Random::new(22);
    let (ops, x) = (random.words(n), random.words(n));
    let (dops, dx, out) = (s.upload(&ops), s.upload(&x), s.output::<u32>(n));
    s.launch("branch_table", line(2, 64), &[dops.into(), dx.into(), out.into(), (n as i32).into()])?;

    let apply = |(&op, &x): (&u32, &u32)| match op % 4 {
        0 => x.wrapping_add(1),
        1 => x.wrapping_mul(x),
        2 => x >> 3,
        _ => !x,
    };
    equal("out", &s.download::<u32>(out), &ops.iter().zip(&x).map(apply).collect::<Vec<_>>())
}

pub fn compact(s: &mut Session<'_>) -> Result<(), Failure> {
    // Blocks one after the other, and side by side.
    compact_of(s, false)?;
    compact_of(s, true)
}

fn compact_of(s: &mut Session<'_>, cooperative: bool) -> Result<(), Failure> {
    let n = 303;
    let x = Random::new(23).words(n);
    let keep = |x: &u32| x.is_multiple_of(3);
    let count = x.iter().copied().filter(|x| keep(x)).count();
    let (dx, kept, counter) = (s.upload(&x), s.output::<u32>(count), s.upload(&[0u32]));
    let shape = Shape { cooperative, ..line(n.div_ceil(64), 64) };
    s.launch("compact", shape, &[dx.into(), kept.into(), counter.into(), (n as i32).into()])?;

    // Warps come in any order: a run of each warp's elements, by its first.
    let kept = s.download_unordered::<u32>(kept);
    equal("counter", &s.download::<u32>(counter), &[count as u32])?;
    let runs = x.chunks(32).map(|warp| warp.iter().copied().filter(keep).collect::<Vec<_>>());
    let runs: BTreeMap<u32, Vec<u32>> = runs.filter(|run| !run.is_empty()).map(|run| (run[0], run)).collect();
    let mut rest = &kept[..];
    while let Some(first) = rest.first() {
        let run = runs.get(first).filter(|run| rest.starts_with(run));
        let run =
            run.ok_or_else(|| Failure::Wrong(format!("kept: no warp has a run that starts with {first}")))?;
        rest = &rest[run.len()..];
    }
    let mut sorted = kept;
    let mut want: Vec<u32> = x.into_iter().filter(keep).collect();
    sorted.sort_unstable();
    want.sort_unstable();
    equal("kept, sorted", &sorted, &want)
}

pub fn group_sums(s: &mut Session<'_>) -> Result<(), Failure> {
    let n = 96;
    let mut random = Random::new(24);
    let (mut keys, mut x) = (vec![6u32; n], random.words(n));
    keys[..64].iter_mut().for_each(|k| *k = random.below(5));
    x[70] = 0;
    let (dkeys, dx, sums, flags) = (s.upload(&keys), s.upload(&x), s.output::<u32>(n), s.output::<u32>(n));
    let buffers = [dkeys, dx, sums, flags].map(Into::into);
    s.launch("group_sums", line(2, 64), &[&buffers[..], &[(n as i32).into()]].concat())?;

    let peers = |i: usize| (i / 32 * 32..i / 32 * 32 + 32).filter(move |&j| j < n);
    let want: Vec<u32> = (0..n)
        .map(|i| peers(i).filter(|&j| keys[j] == keys[i]).fold(0u32, |sum, j| sum.wrapping_add(x[j])))
        .collect();
    equal("sums", &s.download::<u32>(sums), &want)?;
    let want: Vec<u32> = (0..n)
        .map(|i| {
            let like_first = peers(i).filter(|&j| keys[j] == keys[i / 32 * 32]).count() as u32;
            let odd = peers(i).filter(|&j| keys[j] % 2 == 1).count() as u32;
            let zero = peers(i).any(|j| x[j] == 0);
            u32::from(like_first == 32) | u32::from(zero) << 1 | odd << 8 | like_first << 16
        })
        .collect();
    equal("flags", &s.download::<u32>(flags), &want)
}

pub fn local_sort(s: &mut Session<'_>) -> Result<(), Failure> {
    let n = 70;
    let mut x: Vec<i32> = Random::new(25).words(n * 12).into_iter().map(|x| x as i32).collect();
    x[5] = x[6];
    let (dx, dy) = (s.upload(&x), s.output::<i32>(x.len()));
    s.launch("local_sort", line(2, 64), &[dx.into(), dy.into(), (n as i32).into()])?;

    x.chunks_mut(12).for_each(<[i32]>::sort_unstable);
    equal("y", &s.download::<i32>(dy), &x)
}
