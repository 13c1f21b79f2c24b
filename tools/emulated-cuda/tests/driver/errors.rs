//! Errors that stick, reports, leaks, handles that are no handles.

use std::ptr::null_mut;

use cuda::machine::FaultKind;
use cudarc::driver::{DevicePtrMut, sys};

use super::support::{Code, code, context, fails, function, launch, ok, place};

#[test]
fn a_fault_poisons_its_context_and_no_other() {
    let broken = context();
    let whole = context();
    broken.bind_to_thread().unwrap();
    let stream = broken.new_stream().unwrap();
    let crash = function(&broken, "crash");
    let mut words = stream.clone_htod(&[0u32; 4]).unwrap();
    let address = words.device_ptr_mut(&stream).0;
    // 16 GiB further on nothing is ever allocated.
    assert_eq!(launch(crash.cu_function(), 1, stream.cu_stream(), address, u32::MAX), Code::CUDA_SUCCESS);
    // The launch itself went well; whoever needs its result learns of the fault, and so does everybody after.
    for _ in 0..2 {
        fails!(sys::cuStreamSynchronize(stream.cu_stream()), CUDA_ERROR_ILLEGAL_ADDRESS);
    }
    let (mut free, mut total) = (0, 0);
    fails!(sys::cuMemGetInfo_v2(&mut free, &mut total), CUDA_ERROR_ILLEGAL_ADDRESS);
    let fault = cuda::reports().into_iter().rfind(|fault| fault.kernel == "crash").expect("a report");
    assert_eq!(fault.kind, FaultKind::IllegalAddress);
    assert!(fault.line > 0);
    whole.bind_to_thread().unwrap();
    ok!(sys::cuMemGetInfo_v2(&mut free, &mut total));
}

#[test]
fn nothing_after_a_fault_runs() {
    static RAN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    static STATUS: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);
    extern "C" fn run(_: *mut std::ffi::c_void) {
        RAN.store(true, std::sync::atomic::Ordering::Relaxed);
    }
    extern "C" fn callback(_: sys::CUstream, status: Code, _: *mut std::ffi::c_void) {
        STATUS.store(status as i32, std::sync::atomic::Ordering::Relaxed);
    }
    let context = context();
    let stream = context.new_stream().unwrap();
    let trap = function(&context, "trap");
    let null = null_mut::<std::ffi::c_void>();
    ok!(sys::cuLaunchKernel(
        trap.cu_function(),
        1,
        1,
        1,
        1,
        1,
        1,
        0,
        stream.cu_stream(),
        null.cast(),
        null.cast()
    ));
    ok!(sys::cuLaunchHostFunc(stream.cu_stream(), Some(run), null));
    ok!(sys::cuStreamAddCallback(stream.cu_stream(), Some(callback), null, 0));
    assert_eq!(code(stream.synchronize()), Code::CUDA_ERROR_LAUNCH_FAILED);
    assert!(!RAN.load(std::sync::atomic::Ordering::Relaxed));
    let status = STATUS.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(status, Code::CUDA_ERROR_LAUNCH_FAILED as i32);
}

#[test]
fn memory_that_is_gone_when_a_stream_comes_to_it_is_a_fault() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let mut address = 0;
    ok!(sys::cuMemAllocAsync(&mut address, 64, stream.cu_stream()));
    ok!(sys::cuMemFreeAsync(address, stream.cu_stream()));
    ok!(sys::cuMemsetD8Async(address, 0, 64, stream.cu_stream()));
    assert_eq!(code(stream.synchronize()), Code::CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn what_a_context_leaves_behind_is_a_leak() {
    let context = context();
    let (mut kept, mut freed) = (0, 0);
    ok!(sys::cuMemAlloc_v2(&mut kept, 12345));
    ok!(sys::cuMemAllocAsync(&mut freed, 54321, null_mut()));
    ok!(sys::cuMemFreeAsync(freed, null_mut()));
    let leaked = |address| cuda::leaks().into_iter().find(|leak| leak.address == address);
    assert_eq!(leaked(kept), None);
    drop(context);
    assert_eq!(leaked(kept).expect("a leak").size, 12345);
    assert_eq!(leaked(freed), None);
    assert_eq!(cuda::device().unwrap().memory.find(kept), None);
}

#[test]
fn stale_foreign_and_invented_handles_are_found_out() {
    let context = context();
    let (mut stream, mut event) = (place::<sys::CUstream>(), place::<sys::CUevent>());
    ok!(sys::cuStreamCreate(&mut stream, 0));
    ok!(sys::cuEventCreate(&mut event, 0));
    ok!(sys::cuStreamDestroy_v2(stream));
    fails!(sys::cuStreamDestroy_v2(stream), CUDA_ERROR_INVALID_HANDLE);
    fails!(sys::cuStreamSynchronize(stream), CUDA_ERROR_INVALID_HANDLE);
    fails!(sys::cuStreamSynchronize(event.cast()), CUDA_ERROR_INVALID_HANDLE);
    let local = 0u64;
    fails!(sys::cuEventSynchronize((&raw const local).cast_mut().cast()), CUDA_ERROR_INVALID_HANDLE);
    fails!(sys::cuEventSynchronize(null_mut()), CUDA_ERROR_INVALID_HANDLE);
    fails!(sys::cuModuleUnload(7 as sys::CUmodule), CUDA_ERROR_INVALID_HANDLE);
    let mut again = place::<sys::CUstream>();
    ok!(sys::cuStreamCreate(&mut again, 0));
    assert_ne!(again, stream, "a handle is never used again");
    ok!(sys::cuStreamDestroy_v2(again));
    // What belongs to another context is no handle of this one's work.
    let other = super::support::context();
    other.bind_to_thread().unwrap();
    let mut foreign = place::<sys::CUstream>();
    ok!(sys::cuStreamCreate(&mut foreign, 0));
    fails!(sys::cuEventRecord(event, foreign), CUDA_ERROR_INVALID_HANDLE);
    drop(context);
    other.bind_to_thread().unwrap();
    fails!(sys::cuEventSynchronize(event), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn a_null_pointer_for_a_result_is_an_invalid_value() {
    let context = context();
    fails!(sys::cuStreamCreate(null_mut(), 0), CUDA_ERROR_INVALID_VALUE);
    fails!(sys::cuEventCreate(null_mut(), 0), CUDA_ERROR_INVALID_VALUE);
    fails!(sys::cuModuleLoadData(null_mut(), c"".as_ptr().cast()), CUDA_ERROR_INVALID_VALUE);
    let mut module = place();
    fails!(sys::cuModuleLoadData(&mut module, std::ptr::null()), CUDA_ERROR_INVALID_VALUE);
    fails!(sys::cuMemcpyHtoD_v2(0, std::ptr::null(), 4), CUDA_ERROR_INVALID_VALUE);
    fails!(sys::cuCtxGetCurrent(null_mut()), CUDA_ERROR_INVALID_VALUE);
    fails!(sys::cuStreamEndCapture(null_mut(), null_mut()), CUDA_ERROR_INVALID_VALUE);
    fails!(sys::cuLaunchHostFunc(null_mut(), None, null_mut()), CUDA_ERROR_INVALID_VALUE);
    drop(context);
}
