//! Tensors on devices.

use half::bf16;
use warptune::device::Device;
use warptune::tensor::{DType, Tensor};

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
        for dtype in [DType::F32, DType::BF16, DType::U32] {
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
        for (dtype, expected) in [(DType::F32, 0.1f32), (DType::BF16, bf16::from_f32(0.1).to_f32())] {
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

#[test]
fn sums_in_place_round_once_and_leave_other_tensors_alone() {
    let mut random = Random::new(4);
    for (own, other) in [
        (DType::F32, DType::F32),
        (DType::F32, DType::BF16),
        (DType::BF16, DType::F32),
        (DType::BF16, DType::BF16),
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
