//! Dequantization: bit for bit the `gguf` package's, and within f32 rounding of the definition in f64.

use proptest::prelude::*;
use warptune::formats::safetensors::SafetensorsFile;
use warptune::formats::{RawDType, RawTensor};

use super::block_oracle::element;
use super::golden;

const QUANTIZED: [(RawDType, &str); 8] = [
    (RawDType::Q8_0, "Q8_0"),
    (RawDType::Q4_0, "Q4_0"),
    (RawDType::Q4_1, "Q4_1"),
    (RawDType::Q5_0, "Q5_0"),
    (RawDType::Q5_1, "Q5_1"),
    (RawDType::Q4K, "Q4_K"),
    (RawDType::Q5K, "Q5_K"),
    (RawDType::Q6K, "Q6_K"),
];

/// Checks a tensor against the definition. Each value is at most three f32 roundings away from the exact one, each of
/// them relative to the largest term of the sum.
fn check_by_definition(tensor: &RawTensor<'_>, values: &[f32]) {
    let (elems, size) = (tensor.dtype().block_elems(), tensor.dtype().block_bytes());
    for (b, block) in tensor.bytes().chunks(size).enumerate() {
        let exact: Vec<f64> = (0..elems).map(|i| element(tensor.dtype(), block, i)).collect();
        let largest = exact.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        // A difference of two terms can be much smaller than they are: their size is that of the block's largest value
        // plus the offset, and the offset is at most the range.
        let bound = 3.0 * f64::from(f32::EPSILON) * 2.0 * largest;
        for (i, &want) in exact.iter().enumerate() {
            let got = f64::from(values[b * elems + i]);
            assert!(
                (got - want).abs() <= bound,
                "{} block {b} element {i}: {got} for {want}",
                tensor.dtype()
            );
        }
    }
}

#[test]
fn equals_the_gguf_package() {
    let file = SafetensorsFile::open(&golden("gguf/blocks.safetensors")).unwrap();
    for (dtype, name) in QUANTIZED {
        let bytes = file.get(&format!("{name}.bytes")).unwrap();
        let want = file.get(&format!("{name}.values")).unwrap();
        let tensor = RawTensor::new(name, dtype, want.shape().to_vec(), bytes.bytes().to_vec()).unwrap();
        let (got, want) = (tensor.to_f32().unwrap(), want.to_f32().unwrap());
        let differing = got.iter().zip(&want).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(differing, None, "{name}: first differing element");
        check_by_definition(&tensor, &got);
        // A range of rows is the same numbers.
        let row = want.len() / tensor.rows();
        assert_eq!(tensor.dequantize_rows(1..3).unwrap(), want[row..3 * row]);
        assert!(tensor.dequantize_rows(2..4).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn follows_the_definition(which in 0..QUANTIZED.len(), rows in 0usize..5, blocks in 1usize..4, seed: u64) {
        let (dtype, name) = QUANTIZED[which];
        let mut state = seed | 1;
        let mut byte = || { state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); (state >> 56) as u8 };
        let mut bytes: Vec<u8> = (0..rows * blocks * dtype.block_bytes()).map(|_| byte()).collect();
        // Clearing the top exponent bit keeps the f16 scales finite.
        let scales: &[usize] = match dtype {
            RawDType::Q8_0 | RawDType::Q4_0 | RawDType::Q5_0 => &[0],
            RawDType::Q6K => &[208],
            _ => &[0, 2],
        };
        for block in bytes.chunks_mut(dtype.block_bytes()) {
            for at in scales { block[at + 1] &= 0b1011_1111; }
        }
        let shape = vec![rows, blocks * dtype.block_elems()];
        let tensor = RawTensor::new(name, dtype, shape, bytes).unwrap();
        check_by_definition(&tensor, &tensor.to_f32().unwrap());
    }
}

#[test]
fn rounding_to_f16() {
    let values = [1.0f32, 1.0 + 1.0 / 4096.0, -0.1, 65504.0, 0.0];
    let tensor = RawTensor::from_f32("w", vec![5], &values).unwrap();
    let want: Vec<f32> = values.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect();
    assert_eq!(tensor.to_f32_via_f16().unwrap(), want);
    assert_ne!(want[1], values[1]);
    let too_large = RawTensor::from_f32("w", vec![1], &[70000.0]).unwrap();
    assert!(too_large.to_f32_via_f16().unwrap_err().to_string().contains("65504"));
}

#[test]
fn integers_are_not_weights() {
    let ids = RawTensor::new("ids", RawDType::I64, vec![2], vec![0u8; 16]).unwrap();
    assert!(ids.to_f32().unwrap_err().to_string().contains("'ids' is I64"));
}

#[test]
fn bytes_must_fit_the_shape() {
    for (dtype, shape, bytes) in [
        (RawDType::F32, vec![2, 3], 23),
        (RawDType::Q4_0, vec![33], 18),
        (RawDType::Q4_0, vec![2, 16], 18),
        (RawDType::F32, vec![usize::MAX, usize::MAX], 4),
    ] {
        assert!(RawTensor::new("w", dtype, shape.clone(), vec![0u8; bytes]).is_err(), "{dtype} {shape:?}");
    }
}
