//! The PTX of the test kernels with tokens and statements deleted, doubled, swapped and replaced: it may not load, or run into faults,
//! but nothing else may happen.

use cuda::machine::{Checks, Device, LaunchConfig, Module, Options, memory::AllocationKind};

use crate::kernels::{COMPILERS, ptx};

/// Small kernels: with barriers, shuffles, atomics, copies, calls.
const FILES: [&str; 6] = ["reduce", "scan", "histogram", "transpose", "divergent", "print"];
/// Mutants of each text.
const MUTANTS: u64 = 40;

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % below as u64) as usize
    }
}

/// Cuts a text into words, numbers, and everything else by characters.
fn tokens(text: &str) -> Vec<&str> {
    let word = |c: char| c.is_alphanumeric() || "_$%.".contains(c);
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = if word(first) { rest.find(|c| !word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        tokens.push(&rest[..len]);
        rest = &rest[len..];
    }
    tokens
}

/// Numbers at which something may overflow.
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "31",
    "32",
    "33",
    "255",
    "65535",
    "4294967295",
    "-2147483648",
    "0x7fffffffffffffff",
    "0f7F800000",
];

/// The statement around a token, with the semicolon at its end.
fn statement(tokens: &[&str], at: usize) -> std::ops::Range<usize> {
    let ends = |token: &&str| [";", "{", "}", ":"].contains(token);
    let start = tokens[..at].iter().rposition(ends).map_or(0, |end| end + 1);
    let end = tokens[at..].iter().position(ends).map_or(tokens.len(), |end| at + end + 1);
    start..end
}

/// What a token is, as far as the parser looks: registers of a class, numbers, labels.
fn kind(token: &str) -> &str {
    match token.find(|c: char| c.is_ascii_digit()) {
        Some(0) => "0",
        Some(digit) => &token[..digit],
        None => token,
    }
}

fn mutate(text: &str, random: &mut Random) -> String {
    let mut tokens = tokens(text);
    // Mostly in a body, where something still runs afterwards.
    let body = tokens.iter().position(|t| *t == "{").unwrap_or(0);
    for _ in 0..=random.next(3) {
        let from = if random.next(16) == 0 { 0 } else { body };
        let mut pick = |tokens: &[&str], wanted: &dyn Fn(&str) -> bool| {
            let start = from + random.next(tokens.len() - from);
            (start..tokens.len()).find(|&at| wanted(tokens[at])).unwrap_or(start)
        };
        let word = |token: &str| !token.trim().is_empty();
        let operand = |token: &str| token.starts_with(|c: char| c == '%' || c == '$' || c.is_ascii_digit());
        let (at, other) = (pick(&tokens, &operand), pick(&tokens, &word));
        match random.next(8) {
            0 => tokens[at] = NUMBERS[random.next(NUMBERS.len())],
            1 => _ = tokens.drain(statement(&tokens, other)),
            2 => {
                let copy = tokens[statement(&tokens, other)].to_vec();
                let to = statement(&tokens, at).start;
                tokens.splice(to..to, copy);
            }
            3 => match random.next(3) {
                0 => _ = tokens.remove(other),
                1 => tokens.insert(at, tokens[other]),
                _ => tokens.swap(at, other),
            },
            _ => {
                let same = (other..tokens.len()).find(|&o| kind(tokens[o]) == kind(tokens[at]));
                tokens[at] = tokens[same.unwrap_or(at)];
            }
        }
    }
    tokens.concat()
}

/// Loads a module and runs its kernels. Whether it could be loaded, and how many runs ended well.
fn run(text: &str) -> (bool, usize) {
    let device = Device::new(Options {
        checks: Checks::ALL,
        counters: true,
        threads: 1,
        instruction_limit: 5_000,
        memory_bytes: 1 << 20,
        ..Options::default()
    });
    let Ok(module) = Module::load(&device, text) else {
        assert_eq!(device.memory.used(), 0);
        return (false, 0);
    };
    let buffer = device.memory.allocate(32 << 10, AllocationKind::Device).expect("it fits");
    device.memory.fill(buffer, &[0], 32 << 10).expect("inside");
    let mut good = 0;
    for kernel in module.kernels.values() {
        let params: Vec<u8> = kernel
            .parameters
            .iter()
            .flat_map(|p| if p.size == 8 { buffer.to_le_bytes().to_vec() } else { vec![3; p.size as usize] })
            .chain([0; 256])
            .take(kernel.parameter_bytes as usize)
            .collect();
        let block = kernel.required_threads.unwrap_or([40.min(kernel.max_threads), 1, 1]);
        let threads = block.iter().try_fold(1u32, |all, &n| all.checked_mul(n)).unwrap_or(0);
        if !(1..=1024).contains(&threads) || kernel.static_shared > 99 << 10 {
            continue;
        }
        let config =
            LaunchConfig { grid: [2, 1, 1], block, dynamic_shared: 0, cooperative: false, sample: None };
        match device.launch(kernel, config, &params) {
            Ok(_) => good += 1,
            Err(fault) => assert!(!fault.message.is_empty() && fault.kernel == kernel.name),
        }
    }
    module.unload(&device);
    device.memory.free(buffer).expect("it was allocated");
    assert_eq!(device.memory.used(), 0);
    (true, good)
}

#[test]
fn mutants_fail_or_run() {
    let (mut loaded, mut good, mut total) = (0, 0, 0);
    for (index, file) in FILES.into_iter().enumerate() {
        for text in COMPILERS.iter().filter_map(|compiler| ptx(compiler, file)) {
            let mut random = Random(index as u64);
            for _ in 0..MUTANTS {
                let (loads, runs) = run(&mutate(&text, &mut random));
                (loaded, good, total) = (loaded + usize::from(loads), good + runs, total + 1);
            }
        }
    }
    // Else this would test the parser alone.
    assert!(
        loaded * 5 > total && good > total / 10,
        "{loaded} of {total} are loaded, {good} launches end well"
    );
}
