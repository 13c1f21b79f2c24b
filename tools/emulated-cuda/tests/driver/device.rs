//! What the device says of itself.

use cudarc::driver::{CudaContext, sys};

use super::support::{Code, context, fails, install, ok, place};

#[test]
fn it_is_an_sm_80_part_with_a_name() {
    let context = context();
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    assert_eq!(context.name().unwrap(), "Emulated CUDA device");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert_eq!(context.total_mem().unwrap(), 8 << 30);
    let mut version = 0;
    ok!(sys::cuDriverGetVersion(&mut version));
    assert_eq!(version, 13000);
}

#[test]
fn attributes_are_those_of_an_a100() {
    use sys::CUdevice_attribute_enum::*;
    let context = context();
    let expected = [
        (CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024),
        (CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64),
        (CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, i32::MAX),
        (CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535),
        (CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
        (CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 108),
        (CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152),
        (CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 166_912),
        (CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 167_936),
        (CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 41_943_040),
        (CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1),
        (CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1),
        (CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1),
        (CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1),
        (CU_DEVICE_ATTRIBUTE_VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED, 0),
        (CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, 0),
    ];
    for (attribute, value) in expected {
        assert_eq!(context.attribute(attribute).unwrap(), value, "{attribute:?}");
    }
}

#[test]
fn other_devices_and_attributes_are_refused() {
    install();
    drop(context());
    let (mut device, mut value) = (0, 0);
    fails!(sys::cuDeviceGet(&mut device, 1), CUDA_ERROR_INVALID_DEVICE);
    fails!(sys::cuDeviceGet(std::ptr::null_mut(), 0), CUDA_ERROR_INVALID_VALUE);
    fails!(
        sys::cuDeviceGetAttribute(&mut value, sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX, 0),
        CUDA_ERROR_INVALID_VALUE
    );
    fails!(sys::cuInit(1), CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_short_buffer_gets_a_short_name() {
    drop(context());
    let mut name = [1i8; 9];
    ok!(sys::cuDeviceGetName(name.as_mut_ptr().cast(), 8, 0));
    assert_eq!(name.map(|byte| byte as u8), *b"Emulate\0\x01");
}

#[test]
fn limits_are_kept_and_unknown_ones_refused() {
    let context = context();
    use sys::CUlimit_enum::*;
    context.set_limit(CU_LIMIT_STACK_SIZE, 4096).unwrap();
    assert_eq!(context.get_limit(CU_LIMIT_STACK_SIZE).unwrap(), 4096);
    assert_eq!(context.get_limit(CU_LIMIT_MALLOC_HEAP_SIZE).unwrap(), 8 << 20);
    // What CUDA documents as the defaults of devices before sm_90.
    assert_eq!(context.get_limit(CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH).unwrap(), 2);
    assert_eq!(context.get_limit(CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT).unwrap(), 2048);
    context.set_limit(CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH, 4).unwrap();
    assert_eq!(context.get_limit(CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH).unwrap(), 4);
    // Those of contexts that share the device with graphics.
    for limit in [CU_LIMIT_SHMEM_SIZE, CU_LIMIT_CIG_ENABLED, CU_LIMIT_MAX] {
        assert_eq!(context.get_limit(limit).unwrap_err().0, Code::CUDA_ERROR_UNSUPPORTED_LIMIT);
        assert_eq!(context.set_limit(limit, 1).unwrap_err().0, Code::CUDA_ERROR_UNSUPPORTED_LIMIT);
    }
}

#[test]
fn contexts_stack_and_know_when_they_are_gone() {
    install();
    drop(context());
    let (mut first, mut second, mut current) = (place(), place(), place());
    // SAFETY: the driver writes the handle into the test's own place.
    let make = |out| unsafe { sys::cuCtxCreate_v4(out, std::ptr::null_mut(), 0, 0) };
    assert_eq!(make(&mut first), Code::CUDA_SUCCESS);
    assert_eq!(make(&mut second), Code::CUDA_SUCCESS);
    ok!(sys::cuCtxGetCurrent(&mut current));
    assert_eq!(current, second);
    ok!(sys::cuCtxPopCurrent_v2(&mut current));
    assert_eq!(current, second);
    ok!(sys::cuCtxGetCurrent(&mut current));
    assert_eq!(current, first);
    // Another thread has no current context, and may destroy ours.
    let address = first as usize;
    std::thread::spawn(move || {
        fails!(sys::cuCtxSynchronize(), CUDA_ERROR_INVALID_CONTEXT);
        ok!(sys::cuCtxDestroy_v2(address as sys::CUcontext));
    })
    .join()
    .unwrap();
    fails!(sys::cuCtxSynchronize(), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    fails!(sys::cuCtxSetCurrent(first), CUDA_ERROR_INVALID_CONTEXT);
    fails!(sys::cuCtxDestroy_v2(first), CUDA_ERROR_INVALID_CONTEXT);
    ok!(sys::cuCtxDestroy_v2(second));
}

#[test]
fn every_code_has_a_name_and_a_text() {
    use std::ffi::CStr;
    let error = cudarc::driver::DriverError(Code::CUDA_ERROR_ILLEGAL_ADDRESS);
    install();
    assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_eq!(error.error_string().unwrap(), c"an illegal memory access was encountered");
    let mut text = place();
    ok!(sys::cuGetErrorName(Code::CUDA_SUCCESS, &mut text));
    // SAFETY: the driver returns static strings.
    assert_eq!(unsafe { CStr::from_ptr(text) }, c"CUDA_SUCCESS");
}
