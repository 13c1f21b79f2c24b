//! The devices that tests run on: the CPU, and a CUDA device, which is the emulated one unless a real one is asked for.

use std::sync::LazyLock;

use emulated_cuda::machine::{Checks, Options};
use warptune::device::Device;

/// Whether the tests run on a real GPU (`WARPTUNE_TEST_DEVICE=cuda`).
fn real() -> bool {
    match std::env::var("WARPTUNE_TEST_DEVICE") {
        Err(_) => false,
        Ok(name) if name == "cuda" => true,
        Ok(other) => panic!("WARPTUNE_TEST_DEVICE is '{other}': 'cuda' (a real GPU) or nothing is expected"),
    }
}

/// Multiprocessors of the emulated device: few, so that small products have more tiles than run at once.
const MULTIPROCESSORS: u32 = 5;

/// The CUDA device. Every tensor is an allocation of its own, so that the emulated driver sees each access outside one and
/// each read of what nobody wrote; all its checks are on.
pub fn cuda() -> Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| {
        if !real() {
            let options = Options { checks: Checks::ALL, sm_count: MULTIPROCESSORS, ..Options::default() };
            emulated_cuda::install(options).unwrap();
            Device::Cuda(0).cuda().unwrap().set_memory_caching(false);
        }
        Device::Cuda(0)
    });
    *DEVICE
}

/// How many multiprocessors the CUDA device has.
pub fn multiprocessors() -> usize {
    cuda().cuda().unwrap().properties().multiprocessors
}

/// Runs a test on the CPU, then on the CUDA device.
#[track_caller]
pub fn on_each(test: impl Fn(Device)) {
    test(Device::Cpu);
    test(cuda());
    assert_no_reports();
}

/// Panics if the emulated driver's checks found anything, in this test or in another that ran before.
#[track_caller]
pub fn assert_no_reports() {
    let reports = emulated_cuda::reports();
    assert!(
        reports.is_empty(),
        "{} reports of the driver's checks, the first: {}",
        reports.len(),
        reports[0]
    );
}
