//! Tensors on devices.

use half::{bf16, f16};
use warptune::device::Device;
use warptune::tensor::{DType, SignTensor, Tensor};

use crate::support::devices::{assert_no_reports, cuda, on_each};
use crate::support::random::Random;
use crate::support::{bits, values};

#[test]
fn round_trips_keep_every_bit() {
    let mut random = Random::new(1);
    for shape in [&[][..], &[0], &[7], &[3, 0, 5], &[5, 33], &[2, 3, 17]] {
        let tensors = [
            random.tensor(shape, DType::F32, 1.0),
            random.tensor(shape, DType::BF16, 1.0),
            random.tensor(shape, DType::F16, 1.0),
            random.ids(shape.iter().product(), 1 << 31).reshape(shape).unwrap(),
        ];
        for tensor in tensors {
            let there = tensor.to_device(cuda()).unwrap();
            assert_eq!((there.device(), there.shape(), there.dtype()), (cuda(), shape, tensor.dtype()));
            assert_eq!(bits(&there), bits(&tensor));
        }
    }
    assert_no_reports();
}

#[test]
fn zeros_are_zeros() {
    on_each(|device| {
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::U32] {
            for shape in [&[0, 3][..], &[1], &[31, 5]] {
                let zeros = Tensor::zeros_on(device, shape, dtype).unwrap();
                assert_eq!((zeros.device(), zeros.shape(), zeros.dtype()), (device, shape, dtype));
                assert_eq!(bits(&zeros), vec![0; shape.iter().product()]);
            }
        }
    });
}

#[test]
fn full_tensors_are_full() {
    on_each(|device| {
        let (narrow, half) = (bf16::from_f32(0.1).to_f32(), f16::from_f32(0.1).to_f32());
        for (dtype, expected) in [(DType::F32, 0.1f32), (DType::BF16, narrow), (DType::F16, half)] {
            for shape in [&[0, 3][..], &[], &[31, 5]] {
                let full = Tensor::full_on(device, shape, dtype, 0.1).unwrap();
                assert_eq!((full.device(), full.shape(), full.dtype()), (device, shape, dtype));
                assert_eq!(values(&full), vec![f64::from(expected); shape.iter().product()]);
            }
        }
        assert!(Tensor::full_on(device, &[2], DType::U32, 1.0).is_err());
    });
}

#[test]
fn rows_and_reshaped_tensors_share_memory_on_a_device() {
    let x = Random::new(2).tensor(&[6, 3, 5], DType::BF16, 1.0);
    let there = x.to_device(cuda()).unwrap();
    let rows = there.rows(1, 4).unwrap().rows(1, 2).unwrap();
    assert_eq!(bits(&rows), bits(&x.rows(2, 2).unwrap()));
    let flat = there.reshape(&[18, 5]).unwrap();
    assert_eq!(bits(&flat.rows(7, 1).unwrap()), bits(&x.reshape(&[18, 5]).unwrap().rows(7, 1).unwrap()));
    drop(there);
    assert_eq!(bits(&rows), bits(&x.rows(2, 2).unwrap()), "the memory lives as long as its last tensor");
    assert_no_reports();
}

#[test]
fn casts_round_to_nearest_and_back_exactly() {
    // Two of these lie halfway between two numbers of bf16.
    let edges = [
        0.0,
        -0.0,
        1.0,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        f32::MIN_POSITIVE,
        1e-40,
        f32::MAX,
        f32::INFINITY,
    ];
    let mut x: Vec<f32> = edges.iter().flat_map(|x| [*x, -x]).collect();
    x.extend(Random::new(3).vec(1001, 100.0));
    let expected: Vec<u32> = x.iter().map(|x| u32::from(bf16::from_f32(*x).to_bits())).collect();
    on_each(|device| {
        let there = Tensor::from_f32(x.clone(), &[x.len()]).to_device(device).unwrap();
        // A row of an odd offset is aligned to its elements alone.
        for start in [0, 1, 4] {
            let part = there.rows(start, x.len() - start).unwrap();
            let rounded = part.to_dtype(DType::BF16).unwrap();
            assert_eq!((rounded.device(), rounded.shape()), (device, part.shape()));
            assert_eq!(bits(&rounded), expected[start..]);
            let back: Vec<u32> = expected[start..].iter().map(|bits| bits << 16).collect();
            assert_eq!(bits(&rounded.to_dtype(DType::F32).unwrap()), back);
        }
        let nan = Tensor::from_f32(vec![f32::NAN; 3], &[3]).to_device(device).unwrap();
        assert!(values(&nan.to_dtype(DType::BF16).unwrap()).iter().all(|x| x.is_nan()));
        assert!(there.rows(0, 0).unwrap().to_dtype(DType::BF16).unwrap().shape() == [0]);
        let ids = Tensor::from_u32(vec![1], &[1]).to_device(device).unwrap();
        assert!(ids.to_dtype(DType::F32).is_err());
    });
}

/// Every f16, every f32 halfway between two of them and those next to it, both signs: nearest, ties to even, infinity from 65520 on.
#[test]
fn casts_of_f16_are_exact_and_to_f16_are_to_nearest() {
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let finite: Vec<f32> = (0..0x7c00).map(|bits| f16::from_bits(bits).to_f32()).collect();
    let mut x =
        vec![65519.996, 65520.0, 65536.0, 1e6, f32::MAX, f32::INFINITY, 1e-8, f32::MIN_POSITIVE, 1e-45];
    for pair in finite.windows(2) {
        // Exact: 12 bits are enough.
        let middle = (pair[0] + pair[1]) / 2.0;
        x.extend([
            pair[0],
            middle,
            f32::from_bits(middle.to_bits() - 1),
            f32::from_bits(middle.to_bits() + 1),
        ]);
    }
    let x: Vec<f32> = x.iter().flat_map(|&x| [x, -x]).collect();
    // f64 has room for the distances, which decide.
    let nearest = |x: f32| {
        let at = finite.partition_point(|&y| y <= x.abs()).max(1) - 1;
        let up = finite.get(at + 1).map_or(65536.0, |&y| f64::from(y));
        let (x64, down) = (f64::from(x.abs()), f64::from(finite[at]));
        let go_up = x64 - down > up - x64 || (x64 - down == up - x64 && at % 2 == 1);
        let bits = at as u32 + u32::from(go_up);
        if x.is_sign_negative() { bits | 0x8000 } else { bits }
    };
    let expected: Vec<u32> = x.iter().map(|&x| nearest(x)).collect();
    on_each(|device| {
        let there = Tensor::from_f32(x.clone(), &[x.len()]).to_device(device).unwrap();
        for start in [0, 1] {
            let part = there.rows(start, x.len() - start).unwrap().to_dtype(DType::F16).unwrap();
            assert!(bits(&part) == expected[start..], "on {device} from {start}");
        }
        let there = Tensor::from_f16(all.clone(), &[all.len()]).to_device(device).unwrap();
        let (wide, back) = (there.to_dtype(DType::F32).unwrap(), there.to_dtype(DType::F32).unwrap());
        let back = back.to_dtype(DType::F16).unwrap().to_device(Device::Cpu).unwrap();
        for ((x, y), back) in all.iter().zip(values(&wide)).zip(back.as_f16().unwrap()) {
            assert!(x.to_f64() == y || (x.is_nan() && y.is_nan()), "{x} became {y} on {device}");
            assert!(x.to_bits() == back.to_bits() || (x.is_nan() && back.is_nan()), "{x} became {back}");
        }
        // Between the two, by way of f32, which holds both.
        for (from, to) in [(DType::F16, DType::BF16), (DType::BF16, DType::F16)] {
            let x = there.to_dtype(DType::F32).unwrap().rows(0, 0x7c00).unwrap().to_dtype(from).unwrap();
            let twice = x.to_dtype(DType::F32).unwrap().to_dtype(to).unwrap();
            let direct = x.to_dtype(to).unwrap();
            assert_eq!((direct.dtype(), direct.device()), (to, device));
            assert!(bits(&direct) == bits(&twice), "{from} to {to} on {device}");
        }
    });
}

#[test]
fn names_of_types() {
    for (names, dtype) in [
        (&["f32", "float32"][..], DType::F32),
        (&["bf16", "bfloat16"], DType::BF16),
        (&["f16", "float16", "half"], DType::F16),
    ] {
        assert!(names.iter().all(|name| name.parse::<DType>().unwrap() == dtype));
        assert_eq!(dtype.to_string().parse::<DType>().unwrap(), dtype);
    }
    assert!("f64".parse::<DType>().unwrap_err().to_string().contains("none of f32, bf16, f16"));
}

#[test]
fn sums_in_place_round_once_and_leave_other_tensors_alone() {
    let mut random = Random::new(4);
    for (own, other) in [
        (DType::F32, DType::F32),
        (DType::F32, DType::BF16),
        (DType::BF16, DType::F32),
        (DType::BF16, DType::BF16),
        (DType::F32, DType::F16),
        (DType::F16, DType::F32),
        (DType::F16, DType::F16),
    ] {
        let (a, b) = (random.tensor(&[13, 7], own, 1.0), random.tensor(&[13, 7], other, 1.0));
        let sums = values(&a).iter().zip(values(&b)).map(|(a, b)| (*a as f32) + (b as f32)).collect();
        let expected = Tensor::from_f32(sums, &[13, 7]).to_dtype(own).unwrap();
        on_each(|device| {
            let mut sum = a.to_device(device).unwrap();
            let shared = sum.clone();
            let x = b.to_device(device).unwrap();
            sum.add_assign(&x).unwrap();
            assert_eq!(bits(&sum), bits(&expected), "{own} += {other}");
            assert_eq!(bits(&shared), bits(&a), "a tensor that shared the memory has changed");
            sum.add_assign(&x).unwrap();
            assert_ne!(bits(&sum), bits(&expected));
            let mut part = shared.rows(3, 5).unwrap();
            drop(shared);
            part.add_assign(&x.rows(3, 5).unwrap()).unwrap();
            assert_eq!(bits(&part), bits(&expected.rows(3, 5).unwrap()));
        });
    }
}

/// No kernel of a CUDA device takes both types of 16 bits.
#[test]
fn bf16_and_f16_do_not_meet_on_a_device() {
    let [mut a, b] = [DType::BF16, DType::F16].map(|t| Tensor::zeros_on(cuda(), &[3], t).unwrap());
    let error = a.add_assign(&b).unwrap_err().to_string();
    assert_eq!(error, "add_assign: bf16 and f16 operands; the CUDA kernels take one of the two, and f32");
    assert_no_reports();
}

#[test]
fn the_host_reads_a_device_only_when_asked() {
    let x = Tensor::from_f32(vec![2.5, f32::NAN], &[2]);
    let there = x.to_device(cuda()).unwrap();
    let error = there.to_vec_f32().unwrap_err().to_string();
    assert_eq!(error, "tensor: f32 on cuda:0 read as f32 on the host");
    assert!(there.as_bf16().is_err());
    let mut sum = x.clone();
    let error = sum.add_assign(&there).unwrap_err().to_string();
    assert!(error.contains("cuda:0"), "{error}");
    let mut sum = there.clone();
    let error = sum.add_assign(&x).unwrap_err().to_string();
    assert_eq!(error, "cuda: add_assign: f32 tensor [2]: lives on cpu, the op runs on cuda:0");

    // These are requests.
    assert_eq!(there.fetch_f32().unwrap()[0], 2.5);
    assert_eq!(there.rows(0, 1).unwrap().item().unwrap(), 2.5);
    assert_eq!(there.first_non_finite().unwrap(), Some(1));
    assert_eq!(there.to_device(Device::Cpu).unwrap().device(), Device::Cpu);
    assert_no_reports();
}

/// Signs of a difference: bit 1 where it is not below zero, the first element in the lowest bit, rows of whole words; and the mean magnitude.
#[test]
fn signs_of_a_difference() {
    let fine = [1.0, -2.0, 0.0, 3.0, -0.0, -1.0];
    let (signs, mean) = SignTensor::from_difference(&fine, &[0.0, 0.0, 0.0, 4.0, 0.0, 1.0], [2, 3]).unwrap();
    assert_eq!(signs.bits().as_u8().unwrap(), [0b101, 0, 0, 0, 0b010, 0, 0, 0]);
    assert_eq!(mean, 6.0 / 6.0);
    assert_eq!((signs.shape(), signs.numel(), signs.bytes()), (&[2, 3], 6, 8));
    assert_eq!((signs.sign(0, 0).unwrap(), signs.sign(0, 1).unwrap()), (1.0, -1.0));
    assert!(signs.sign(2, 0).is_err() && signs.sign(0, 3).is_err());

    let mut random = Random::new(4);
    for (rows, cols) in [(3, 70), (5, 32), (1, 31), (0, 4), (4, 0)] {
        let (fine, base) = (random.vec(rows * cols, 1.0), random.vec(rows * cols, 1.0));
        let (signs, mean) = SignTensor::from_difference(&fine, &base, [rows, cols]).unwrap();
        let difference: Vec<f32> = fine.iter().zip(&base).map(|(f, b)| f - b).collect();
        for (i, d) in difference.iter().enumerate() {
            assert_eq!(signs.sign(i / cols, i % cols).unwrap(), if *d >= 0.0 { 1.0 } else { -1.0 });
        }
        let exact = difference.iter().map(|d| f64::from(d.abs())).sum::<f64>() / (rows * cols).max(1) as f64;
        assert!((f64::from(mean) - exact).abs() <= 1e-7 * exact);
        let there = signs.to_device(cuda()).unwrap();
        assert_eq!(there.device(), cuda());
        assert!(
            there.to_device(Device::Cpu).unwrap().bits().as_u8().unwrap() == signs.bits().as_u8().unwrap()
        );
        // What is saved comes back.
        assert!(SignTensor::new([rows, cols], signs.bits().clone()).is_ok());
    }
    let bytes = |bytes: Vec<u8>| Tensor::from_u8(bytes, &[1, 4]);
    assert!(SignTensor::new([1, 9], bytes(vec![255, 1, 0, 0])).is_ok());
    assert!(SignTensor::new([1, 9], bytes(vec![255, 2, 0, 0])).is_err());
    assert!(SignTensor::new([1, 33], bytes(vec![255, 1, 0, 0])).is_err());
    assert!(SignTensor::new([2, 9], bytes(vec![255, 1, 0, 0])).is_err());
    assert!(SignTensor::from_difference(&[1.0, 2.0], &[1.0], [1, 2]).is_err());
    assert!(SignTensor::from_difference(&[f32::NAN, 2.0], &[1.0, 1.0], [1, 2]).is_err());
    assert_no_reports();
}
