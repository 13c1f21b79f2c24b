//! Philox against its authors' known answers, and what is built on it; CUDA devices.

mod cuda;
mod prebuilt;

use warptune::device::philox::Philox;

#[test]
fn philox_gives_the_known_answers() {
    // Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, answer.
    let known = [
        ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
        (
            [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
            [0xa4093822, 0x299f31d0],
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
        ),
    ];
    for (counter, key, answer) in known {
        let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let philox = Philox { seed: join(key[0], key[1]), stream: join(counter[2], counter[3]) };
        assert_eq!(philox.block(join(counter[0], counter[1])), answer);
    }
}

#[test]
fn uniform_and_normal_numbers_have_the_right_moments() {
    let random = Philox { seed: 1, stream: 2 };
    let n = 100_000;
    let mean = (0..n).map(|i| f64::from(random.uniform(i))).sum::<f64>() / n as f64;
    // Five standard errors.
    assert!((mean - 0.5).abs() < 5.0 * (1.0 / 12.0f64).sqrt() / (n as f64).sqrt(), "{mean}");
    let normal = random.normal(n as usize, 2.0);
    let mean = normal.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
    let variance = normal.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
    assert!(mean.abs() < 5.0 * 2.0 / (n as f64).sqrt(), "{mean}");
    assert!((variance / 4.0 - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt(), "{variance}");
}
