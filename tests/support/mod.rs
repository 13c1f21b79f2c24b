//! What the tests share: random inputs, tolerances that are derived and not guessed, gradient and determinism checks.

pub mod devices;
pub mod golden;
pub mod gradcheck;
pub mod pair;
pub mod random;

pub mod tiny;
pub mod tolerance;

use warptune::device::Device;
use warptune::tensor::{DType, Tensor};

/// The elements of a float tensor, exactly, from whatever device.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_device(Device::Cpu).unwrap().fetch_f32().unwrap().into_iter().map(f64::from).collect()
}

/// The bits of a tensor's elements, for comparisons that allow no difference at all.
pub fn bits(tensor: &Tensor) -> Vec<u32> {
    let tensor = &tensor.to_device(Device::Cpu).unwrap();
    match tensor.dtype() {
        DType::BF16 => tensor.as_bf16().unwrap().iter().map(|x| u32::from(x.to_bits())).collect(),
        DType::F16 => tensor.as_f16().unwrap().iter().map(|x| u32::from(x.to_bits())).collect(),
        DType::F32 => tensor.as_f32().unwrap().iter().map(|x| x.to_bits()).collect(),
        DType::U8 => tensor.as_u8().unwrap().iter().map(|&x| u32::from(x)).collect(),
        _ => tensor.as_u32().unwrap().to_vec(),
    }
}

/// Runs `f` with one thread, then with two, then with two again; returns the three results.
pub fn under_thread_counts<R: Send>(f: impl Fn() -> R + Sync) -> [R; 3] {
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let two = pool(2);
    [pool(1).install(&f), two.install(&f), two.install(&f)]
}
