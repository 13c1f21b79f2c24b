//! Quantization in blocks of 4 bits: bitsandbytes' bits, and the definition.

use std::path::Path;

use half::bf16;
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sha2::{Digest, Sha256};
use warptune::Error;
use warptune::device::Device;
use warptune::ops::quantize::{NESTED_BLOCK, Quantization, dequantize, quantize};
use warptune::tensor::{BlockScales, DType, NestedScales, QuantKind, QuantizedTensor, Tensor};

use super::{FLOATS, cases, float_type};
use crate::reference::quantize::{NF4, decoded, fp4, scales, smallest_errors};
use crate::support::devices::{assert_no_reports, cuda};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, under_thread_counts, values};

fn levels(kind: QuantKind) -> [f64; 16] {
    match kind {
        QuantKind::Nf4 => NF4,
        QuantKind::Fp4 => fp4(),
    }
}

fn plain(x: &QuantizedTensor) -> &Tensor {
    match x.scales() {
        BlockScales::Plain(scales) => scales,
        BlockScales::Nested(_) => panic!("plain scales expected"),
    }
}

fn nested(x: &QuantizedTensor) -> &NestedScales {
    match x.scales() {
        BlockScales::Nested(nested) => nested,
        BlockScales::Plain(_) => panic!("nested scales expected"),
    }
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    match tensor.dtype() {
        DType::U8 => tensor.as_u8().unwrap().to_vec(),
        _ => tensor.as_f32().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn stored(file: &SafeTensors<'_>, name: &str) -> Tensor {
    let view = file.tensor(name).unwrap();
    let shape = view.shape();
    match view.dtype() {
        Dtype::F32 => {
            let (data, _) = view.data().as_chunks::<4>();
            Tensor::from_f32(data.iter().map(|b| f32::from_le_bytes(*b)).collect(), shape)
        }
        Dtype::BF16 => {
            let (data, _) = view.data().as_chunks::<2>();
            Tensor::from_bf16(data.iter().map(|b| bf16::from_le_bytes(*b)).collect(), shape)
        }
        Dtype::U8 => Tensor::from_u8(view.data().to_vec(), shape),
        other => panic!("{name}: {other}"),
    }
}

fn golden<R>(f: impl FnOnce(&Value, &SafeTensors<'_>) -> R) -> R {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quantize");
    let json = serde_json::from_slice(&std::fs::read(folder.join("blocks.json")).unwrap()).unwrap();
    let data = std::fs::read(folder.join("blocks.safetensors")).unwrap();
    f(&json, &SafeTensors::deserialize(&data).unwrap())
}

#[test]
fn the_bits_of_bitsandbytes() {
    golden(|json, file| {
        let list = json["cases"].as_array().unwrap();
        assert!(list.len() > 200);
        for (i, case) in list.iter().enumerate() {
            let name = format!("case {i}: {case}");
            let text = |key: &str| case[key].as_str().unwrap();
            let x = stored(file, &format!("input.{}.{}", text("input"), text("dtype")));
            let kind: QuantKind = text("kind").parse().unwrap();
            let (block, double) =
                (case["block"].as_u64().unwrap() as usize, case["nested"].as_bool().unwrap());
            let ours = quantize(&x, &Quantization { kind, block, double }).unwrap();
            let same = |part: &str, tensor: &Tensor| {
                let expected = bytes(&stored(file, &format!("{i}.{part}")));
                let ours = bytes(tensor);
                let at = ours.iter().zip(&expected).position(|(a, b)| a != b);
                assert!(ours == expected, "{name}: {part} differs from byte {at:?} on");
            };
            match ours.scales() {
                BlockScales::Plain(scales) => {
                    same("packed", ours.codes());
                    same("absmax", scales);
                }
                BlockScales::Nested(nested) => {
                    let offset = case["offset"].as_f64().unwrap() as f32;
                    assert_eq!(
                        nested.offset.to_bits(),
                        offset.to_bits(),
                        "{name}: {} {offset}",
                        nested.offset
                    );
                    same("absmax_codes", &nested.codes);
                    same("nested_absmax", &nested.absmax);
                    assert_eq!(nested.block, NESTED_BLOCK);
                }
            }
        }
    });
}

#[test]
fn the_maps_of_bitsandbytes() {
    golden(|_, file| {
        for kind in [QuantKind::Nf4, QuantKind::Fp4] {
            let map = stored(file, &format!("map.{kind}"));
            assert_eq!(bits(&map), kind.levels().map(f32::to_bits), "{kind}");
        }
        let x = Tensor::from_f32(vec![1.0, 2.0], &[1, 2]);
        let x = quantize(&x, &Quantization::new(QuantKind::Nf4)).unwrap();
        let (ours, theirs) = (nested(&x).map.as_f32().unwrap(), stored(file, "map.dynamic"));
        for (i, (a, b)) in ours.iter().zip(theirs.as_f32().unwrap()).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "entry {i}: {a}, expected {b}");
        }
    });
}

/// Thousands of scales, whose mean torch adds up on several levels.
#[test]
fn the_bits_of_bitsandbytes_for_a_large_matrix() {
    golden(|json, _| {
        let large = &json["large"];
        let size = |key: &str| large[key].as_u64().unwrap();
        let (rows, columns) = (size("rows"), size("columns"));
        let value = |i: u64| {
            let uniform = (i * i * 40503 + i * 9973) % (1 << 24);
            ((uniform as f64 / f64::from(1 << 24) - 0.5) * (1 + i / columns % 97) as f64) as f32
        };
        let x = (0..rows * columns).map(value).collect();
        let x = Tensor::from_f32(x, &[rows as usize, columns as usize]);
        for ours in under_thread_counts(|| quantize(&x, &Quantization::new(QuantKind::Nf4)).unwrap()) {
            let nested = nested(&ours);
            assert_eq!(digest(&bytes(ours.codes())), large["packed"].as_str().unwrap());
            assert_eq!(nested.offset, large["offset"].as_f64().unwrap() as f32);
            assert_eq!(digest(&bytes(&nested.absmax)), large["nested_absmax"].as_str().unwrap());
            assert_eq!(digest(&bytes(&nested.codes)), large["absmax_codes"].as_str().unwrap());
            // 4 bits an element, and 0.127 for the scales (and the map).
            let scales = (ours.bytes() - 1024) as f64 * 8.0 / ours.numel() as f64 - 4.0;
            assert!((scales - (8.0 / 64.0 + 32.0 / (64.0 * 256.0))).abs() < 1e-3, "{scales} bits");
        }
    });
}

fn kind() -> impl Strategy<Value = QuantKind> {
    prop_oneof![Just(QuantKind::Nf4), Just(QuantKind::Fp4)]
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn each_code_is_the_nearest_level(
        (rows, columns) in (1usize..20, 1usize..150),
        (kind, dtype) in (kind(), float_type()),
        block in (5u32..12).prop_map(|p| 1usize << p),
        size in -20i32..20,
        seed in any::<u64>(),
    ) {
        // f16 ends at 2^16.
        let size = if dtype == DType::F16 { size.min(12) } else { size };
        let x = Random::new(seed).tensor(&[rows, columns], dtype, f64::from(size).exp2());
        let ours = quantize(&x, &Quantization { kind, block, double: false }).unwrap();
        let (exact, levels) = (values(&x), levels(kind));
        let largest = scales(&exact, block);
        prop_assert_eq!(values(plain(&ours)), largest.clone());
        let codes = ours.codes().as_u8().unwrap();
        let back = decoded(codes, &largest, &levels, block, exact.len());
        // The quotient is rounded, twice: at a midpoint either neighbour may be taken.
        let smallest = smallest_errors(&exact, &levels, block);
        for (i, x) in exact.iter().enumerate() {
            let slack = 4.0 * DType::F32.unit_roundoff() * largest[i / block];
            prop_assert!((back[i] - x).abs() <= smallest[i] + slack, "element {}: {} becomes {}", i, x, back[i]);
        }
        let full: Vec<f64> = (0..exact.len()).map(|i| largest[i / block]).collect();
        for dtype in [DType::F32, DType::BF16] {
            let tolerance =
                Tolerance::rounding(dtype, 1.0, &back).plus(Tolerance::rounding(DType::F32, 2.0, &full));
            assert_close("dequantized", &dequantize(&ours, dtype).unwrap(), &back, &tolerance);
        }
    }

    #[test]
    fn nested_scales_are_near(
        (rows, columns) in (1usize..40, 1usize..700),
        block in (5u32..9).prop_map(|p| 1usize << p),
        seed in any::<u64>(),
    ) {
        let x = Random::new(seed).tensor(&[rows, columns], DType::F32, 0.02);
        let how = Quantization { kind: QuantKind::Nf4, block, double: true };
        let [one, two, again] = under_thread_counts(|| quantize(&x, &how).unwrap());
        let exact = scales(&values(&x), block);
        let mean = exact.iter().sum::<f64>() / exact.len() as f64;
        let n = nested(&one);
        prop_assert!((f64::from(n.offset) - mean).abs() <= 1e-6 * mean);
        let map = n.map.as_f32().unwrap();
        let centred: Vec<f64> = exact.iter().map(|s| s - f64::from(n.offset)).collect();
        for (i, (block, codes)) in
            centred.chunks(NESTED_BLOCK).zip(n.codes.as_u8().unwrap().chunks(NESTED_BLOCK)).enumerate()
        {
            let absmax = block.iter().fold(0.0, |m: f64, s| m.max(s.abs()));
            prop_assert!((f64::from(n.absmax.as_f32().unwrap()[i]) - absmax).abs() <= 1e-6 * mean);
            for (s, &code) in block.iter().zip(codes) {
                let nearest = map.iter().map(|m| (f64::from(*m) * absmax - s).abs()).fold(f64::INFINITY, f64::min);
                let error = (f64::from(map[usize::from(code)]) * absmax - s).abs();
                // bitsandbytes rounds to one of 65536 steps first: half a step for the choice, and so one for the error.
                let slack = absmax / 32767.5 + 1e-6 * mean;
                prop_assert!(error <= nearest + slack, "scale {}: code {}, off by {}, not {}", s, code, error, nearest);
            }
        }
        for other in [two, again] {
            prop_assert!(bytes(other.codes()) == bytes(one.codes()));
            prop_assert!(bytes(&nested(&other).codes) == bytes(&n.codes));
        }
    }
}

/// The mean squared error of NF4 on normal numbers: 0.0094 of their variance at blocks of 64, as the levels and the distribution of a block's
/// largest magnitude give it; FP4's is larger.
#[test]
fn the_error_that_the_format_promises() {
    let x = Random::new(5).tensor(&[512, 1024], DType::F32, 1.0);
    let exact = values(&x);
    let error = |kind, double| {
        let how = Quantization { kind, block: 64, double };
        let back = values(&dequantize(&quantize(&x, &how).unwrap(), DType::F32).unwrap());
        exact.iter().zip(&back).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / exact.len() as f64
    };
    let by_definition = |levels: &[f64; 16]| {
        smallest_errors(&exact, levels, 64).iter().map(|e| e * e).sum::<f64>() / exact.len() as f64
    };
    let (nf4, doubled, fp4_error) =
        (error(QuantKind::Nf4, false), error(QuantKind::Nf4, true), error(QuantKind::Fp4, false));
    assert!((nf4 / by_definition(&NF4) - 1.0).abs() < 1e-4, "{nf4}");
    assert!((fp4_error / by_definition(&fp4()) - 1.0).abs() < 1e-4, "{fp4_error}");
    assert!((0.008..0.0105).contains(&nf4), "{nf4}");
    assert!(fp4_error > 1.2 * nf4, "{fp4_error} {nf4}");
    // 8-bit scales cost next to nothing.
    assert!((doubled / nf4 - 1.0).abs() < 0.01, "{doubled} {nf4}");
}

/// Codes, scales and what they decode to have the same bits on a device.
#[test]
fn a_device_has_the_same_bits() {
    let mut random = Random::new(11);
    let cpu = |x: &Tensor| bytes(&x.to_device(Device::Cpu).unwrap());
    for (i, (rows, columns)) in
        [(1, 1), (3, 31), (1, 32), (7, 65), (5, 129), (64, 96), (33, 512), (2, 4097), (300, 70)]
            .into_iter()
            .enumerate()
    {
        for block in [32, 64, 128, 256, 1024, 4096] {
            let how = Quantization {
                kind: if i % 2 == 0 { QuantKind::Nf4 } else { QuantKind::Fp4 },
                block,
                double: (i + block / 64) % 2 == 0,
            };
            let dtype = FLOATS[(i + block / 128) % 3];
            let x = random.tensor(&[rows, columns], dtype, 0.3);
            let here = quantize(&x, &how).unwrap();
            let there = quantize(&x.to_device(cuda()).unwrap(), &how).unwrap();
            assert_eq!(there.device(), cuda());
            assert_eq!(cpu(there.codes()), bytes(here.codes()), "{rows} x {columns}, {how:?}, {dtype}");
            match (here.scales(), there.scales()) {
                (BlockScales::Plain(a), BlockScales::Plain(b)) => assert_eq!(cpu(b), bytes(a)),
                (BlockScales::Nested(a), BlockScales::Nested(b)) => {
                    assert_eq!(b.offset.to_bits(), a.offset.to_bits());
                    assert_eq!((cpu(&b.codes), cpu(&b.absmax)), (bytes(&a.codes), bytes(&a.absmax)));
                }
                _ => panic!("scales of two kinds"),
            }
            for dtype in FLOATS {
                let back = dequantize(&there, dtype).unwrap().to_device(Device::Cpu).unwrap();
                assert_eq!(bits(&back), bits(&dequantize(&here, dtype).unwrap()), "{how:?} to {dtype}");
            }
        }
    }
    let empty = quantize(
        &Tensor::zeros_on(cuda(), &[0, 64], DType::F32).unwrap(),
        &Quantization::new(QuantKind::Nf4),
    );
    assert_eq!(dequantize(&empty.unwrap(), DType::F32).unwrap().shape(), [0, 64]);
    // Enough scales for every level of their mean.
    let x = random.tensor(&[521, 1031], DType::F32, 0.02);
    let how = Quantization { kind: QuantKind::Nf4, block: 32, double: true };
    let there = quantize(&x.to_device(cuda()).unwrap(), &how).unwrap();
    assert_eq!(nested(&there).offset.to_bits(), nested(&quantize(&x, &how).unwrap()).offset.to_bits());
    let mut broken = vec![1.0; 200];
    broken[131] = f32::NAN;
    let broken = Tensor::from_f32(broken, &[2, 100]).to_device(cuda()).unwrap();
    assert!(matches!(quantize(&broken, &how), Err(Error::NonFinite { .. })));
    assert_no_reports();
}

#[test]
fn zeros_decode_to_zeros() {
    for double in [false, true] {
        for kind in [QuantKind::Nf4, QuantKind::Fp4] {
            let x = Tensor::zeros(&[3, 100], DType::F32);
            let ours = quantize(&x, &Quantization { kind, block: 64, double }).unwrap();
            assert!(values(&dequantize(&ours, DType::BF16).unwrap()).iter().all(|&x| x.abs() < 1e-37));
        }
        let empty =
            quantize(&Tensor::zeros(&[0, 64], DType::F32), &Quantization::new(QuantKind::Nf4)).unwrap();
        assert_eq!(dequantize(&empty, DType::F32).unwrap().shape(), [0, 64]);
    }
}

#[test]
fn what_cannot_be_quantized() {
    let how = Quantization::new(QuantKind::Nf4);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![1.0; 200];
        x[131] = bad;
        let error = quantize(&Tensor::from_f32(x, &[2, 100]), &how).unwrap_err();
        assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    }
    let x = Tensor::zeros(&[4, 4], DType::F32);
    for block in [0, 16, 48, 8192] {
        let error = quantize(&x, &Quantization { block, ..how }).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
    assert!(matches!(quantize(&Tensor::zeros(&[4], DType::F32), &how), Err(Error::Shape { .. })));
    assert!(matches!(quantize(&Tensor::zeros(&[4, 4], DType::U32), &how), Err(Error::DType { .. })));
    let part = |n: usize| Tensor::zeros(&[n], DType::U8);
    let scales = |n: usize| BlockScales::Plain(Tensor::zeros(&[n], DType::F32));
    let new = |codes, scales| QuantizedTensor::new(QuantKind::Nf4, [3, 65], 64, codes, scales);
    assert!(new(part(98), scales(4)).is_ok());
    assert!(matches!(new(part(97), scales(4)), Err(Error::Shape { .. })));
    assert!(matches!(new(part(98), scales(3)), Err(Error::Shape { .. })));
    assert!(QuantizedTensor::new(QuantKind::Nf4, [usize::MAX, 2], 64, part(0), scales(0)).is_err());
}
