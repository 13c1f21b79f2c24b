//! What concerns a whole process: these tests run this test binary again, one test of it alone, in an
//! environment of its own.

use std::process::{Command, Output};

use cuda::{InstallError, machine::Options};
use cudarc::driver::{CudaContext, sys};

use super::support::{Code, fails, function, ok};

/// Runs one of the tests below that are ignored otherwise.
fn child(test: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("driver::installed::{test}"), "--ignored", "--nocapture"]);
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
#[ignore = "run by the test of the same name"]
fn counting() {
    cuda::install(Options::from_env().unwrap()).unwrap();
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let add = function(&context, "add");
    let mut words = stream.clone_htod(&[0u32; 64]).unwrap();
    let address = cudarc::driver::DevicePtrMut::device_ptr_mut(&mut words, &stream).0;
    for _ in 0..2 {
        assert_eq!(
            super::support::launch(add.cu_function(), 64, stream.cu_stream(), address, 64),
            Code::CUDA_SUCCESS
        );
    }
    assert!(cuda::launches().is_empty(), "nothing has run yet");
    stream.synchronize().unwrap();
    let launches = cuda::take_launches();
    assert_eq!(launches.len(), 2);
    assert_eq!((launches[0].kernel.as_str(), launches[0].config.block), ("add", [64, 1, 1]));
    assert_eq!(launches[1].counters.blocks, 1);
    assert!(cuda::launches().is_empty());
    assert_eq!(
        super::support::launch(add.cu_function(), 64, stream.cu_stream(), address, 64),
        Code::CUDA_SUCCESS
    );
    stream.synchronize().unwrap();
}

#[test]
fn counters_are_written_to_a_file_or_as_a_table() {
    let folder = std::env::temp_dir().join(format!("emulated-cuda-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("counters.json");
    child("counting", &[("EMULATED_CUDA_COUNTERS", file.to_str().unwrap())]);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(json[0]["kernel"], "add");
    assert_eq!(json[0]["block"], serde_json::json!([64, 1, 1]));
    assert_eq!(json[0]["counters"]["blocks"], 1);
    std::fs::remove_dir_all(&folder).unwrap();
    let output = child("counting", &[("EMULATED_CUDA_COUNTERS", "-")]);
    let table = String::from_utf8(output.stderr).unwrap();
    assert!(
        table.lines().any(|line| line.trim_start().starts_with("1 ") && line.ends_with(" add")),
        "{table}"
    );
}

#[test]
#[ignore = "run by the test of the same name"]
fn filling() {
    cuda::install(Options::from_env().unwrap()).unwrap();
    let context = CudaContext::new(0).unwrap();
    assert_eq!(context.total_mem().unwrap(), 64 << 20);
    let stream = context.new_stream().unwrap();
    // Six times half of the device's memory: only if the frees take effect does it fit.
    for _ in 0..6 {
        // SAFETY: nothing reads the memory.
        drop(unsafe { stream.alloc::<u8>(32 << 20) }.unwrap());
    }
    let mut address = 0;
    ok!(sys::cuMemAlloc_v2(&mut address, 1 << 20));
}

#[test]
fn memory_freed_in_stream_order_can_be_had_again_at_once_and_leaks_are_reported_at_the_end() {
    let output = child("filling", &[("EMULATED_CUDA_MEMORY", "64M")]);
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(report.contains("========= Leaked 1048576 bytes in 1 allocations"), "{report}");
    let quiet = child("filling", &[("EMULATED_CUDA_MEMORY", "64M"), ("EMULATED_CUDA_CHECKS", "races")]);
    let report = String::from_utf8(quiet.stderr).unwrap();
    assert!(!report.contains("Leaked"), "{report}");
}

#[test]
#[ignore = "run by the test of the same name"]
fn installing_twice() {
    cuda::install(Options::default()).unwrap();
    cuda::install(Options::default()).unwrap();
    let other = cuda::install(Options { seed: 1, ..Options::default() });
    assert!(matches!(other, Err(InstallError::Options(options)) if *options == Options::default()));
}

#[test]
fn installing_again_is_nothing_with_the_same_options_and_an_error_with_others() {
    child("installing_twice", &[]);
}

#[test]
#[ignore = "run by the test of the same name"]
fn installing_late() {
    // Something of that name is there: what it is does not matter.
    let path = std::env::var("STAND_IN").unwrap();
    let path = std::ffi::CString::new(path).unwrap();
    // SAFETY: the path is a C string.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY) };
    assert!(!library.is_null());
    let error = cuda::install(Options::default()).unwrap_err();
    assert!(error.to_string().starts_with("libcuda.so is loaded already"), "{error}");
}

#[test]
fn a_driver_that_is_loaded_already_is_not_replaced() {
    // The shared library of this crate lies beside the test's folder.
    let folder = std::env::current_exe().unwrap();
    let library = folder.parent().unwrap().join("libcuda.so");
    let library = if library.exists() {
        library
    } else {
        folder.parent().unwrap().parent().unwrap().join("libcuda.so")
    };
    assert!(library.exists(), "{} was built with this test", library.display());
    child("installing_late", &[("STAND_IN", library.to_str().unwrap())]);
}

#[test]
#[ignore = "run by the test of the same name"]
fn a_bad_environment() {
    // Without an installed driver, `cuInit` reads the environment itself.
    let mut count = 0;
    // SAFETY: the place is the test's own; the functions are those of this crate, which the linker finds.
    unsafe {
        assert_eq!(cuDeviceGetCount(&mut count), Code::CUDA_ERROR_NOT_INITIALIZED as i32);
        assert_eq!(cuInit(0), Code::CUDA_ERROR_INVALID_VALUE as i32);
    }
    assert!(cuda::device().is_none());
}

#[test]
#[ignore = "run by the test of the same name"]
fn without_devices() {
    let (mut count, mut version) = (7, 0);
    // SAFETY: as above.
    unsafe {
        assert_eq!(cuDriverGetVersion(&mut version), Code::CUDA_SUCCESS as i32);
        assert_eq!(cuInit(0), Code::CUDA_ERROR_NO_DEVICE as i32);
        assert_eq!(cuDeviceGetCount(&mut count), Code::CUDA_ERROR_NOT_INITIALIZED as i32);
    }
    assert_eq!((count, version), (7, 13000));
}

#[test]
fn without_devices_the_driver_does_not_start() {
    child("without_devices", &[("EMULATED_CUDA_DEVICES", "0")]);
}

#[test]
#[ignore = "run by the test of the same name"]
fn an_old_driver() {
    cuda::install(Options::from_env().unwrap()).unwrap();
    let mut version = 0;
    ok!(sys::cuDriverGetVersion(&mut version));
    assert_eq!(version, 12020);
    let context = CudaContext::new(0).unwrap();
    // PTX 8.0 came with CUDA 12.0.
    function(&context, "add");
    let image =
        std::ffi::CString::new(super::support::KERNELS.replace(".version 8.0", ".version 8.3")).unwrap();
    let (mut module, mut library) = (std::ptr::null_mut(), std::ptr::null_mut());
    let null = std::ptr::null_mut::<std::ffi::c_void>();
    fails!(sys::cuModuleLoadData(&mut module, image.as_ptr().cast()), CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    fails!(
        sys::cuLibraryLoadData(
            &mut library,
            image.as_ptr().cast(),
            null.cast(),
            null.cast(),
            0,
            null.cast(),
            null.cast(),
            0
        ),
        CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    );
}

#[test]
fn an_old_driver_refuses_newer_ptx() {
    let report =
        String::from_utf8(child("an_old_driver", &[("EMULATED_CUDA_VERSION", "12.2")]).stderr).unwrap();
    assert!(report.contains("PTX 8.3 is newer than a driver of CUDA 12.2 knows: 8.2"), "{report}");
}

unsafe extern "C" {
    fn cuInit(flags: u32) -> i32;
    fn cuDeviceGetCount(count: *mut i32) -> i32;
    fn cuDriverGetVersion(version: *mut i32) -> i32;
}

#[test]
fn a_bad_environment_stops_the_driver_and_says_why() {
    let output = child("a_bad_environment", &[("EMULATED_CUDA_MEMORY", "lots")]);
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(report.contains("EMULATED_CUDA_MEMORY=lots: "), "{report}");
}
