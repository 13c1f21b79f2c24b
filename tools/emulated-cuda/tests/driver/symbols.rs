//! Symbols: what the loader and `cuGetProcAddress` find.

use std::ffi::{CString, c_void};

use cudarc::driver::sys;

use super::support::{Code, context, fails, install, place};

/// Asks for a function as a program of a CUDA version does.
fn find(name: &str, version: i32, flags: u64) -> (Code, *mut c_void, u32) {
    let name = CString::new(name).unwrap();
    let (mut address, mut result) = (place(), place());
    // SAFETY: the places are the test's own.
    let code = unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, version, flags, &mut result) };
    (code, address, result as u32)
}

/// The address that the loader finds under a name in a library.
fn symbol(library: &std::ffi::CStr, name: &str) -> *mut c_void {
    let name = CString::new(name).unwrap();
    // SAFETY: the names are C strings; the libraries are the emulated driver's.
    unsafe {
        let library = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY);
        assert!(!library.is_null());
        libc::dlsym(library, name.as_ptr())
    }
}

#[test]
fn both_names_of_the_library_lead_to_this_process() {
    install();
    for name in ["cuInit", "cuMemAlloc_v2", "cuLaunchKernel", "cuLaunchKernel_ptsz", "cuTensorMapEncodeTiled"]
    {
        let found = symbol(c"libcuda.so", name);
        assert!(!found.is_null(), "{name}");
        assert_eq!(found, symbol(c"libcuda.so.1", name), "{name}");
    }
    assert!(symbol(c"libcuda.so", "cuNoSuchFunction").is_null());
    // The state behind them is that of the functions of this crate.
    let context = context();
    let mut address = 0;
    // SAFETY: the place is the test's own.
    unsafe { sys::cuMemAlloc_v2(&mut address, 77) };
    assert_eq!(cuda::device().unwrap().memory.find(address).map(|found| found.size), Some(77));
    // SAFETY: the memory is the test's own.
    unsafe { sys::cuMemFree_v2(address) };
    drop(context);
}

#[test]
fn a_name_means_what_it_meant_in_the_callers_version() {
    drop(context());
    let of = |name| symbol(c"libcuda.so", name);
    for (name, version, expected) in [
        ("cuMemAlloc", 4000, "cuMemAlloc_v2"),
        ("cuCtxCreate", 3020, "cuCtxCreate_v2"),
        ("cuCtxCreate", 11040, "cuCtxCreate_v3"),
        ("cuCtxCreate", 13000, "cuCtxCreate_v4"),
        ("cuGraphInstantiate", 11080, "cuGraphInstantiate_v2"),
        ("cuGraphInstantiate", 12000, "cuGraphInstantiateWithFlags"),
        ("cuMemPrefetchAsync", 11000, "cuMemPrefetchAsync"),
        ("cuMemPrefetchAsync", 13000, "cuMemPrefetchAsync_v2"),
        ("cuStreamGetCaptureInfo", 12000, "cuStreamGetCaptureInfo_v2"),
        ("cuStreamGetCaptureInfo", 12030, "cuStreamGetCaptureInfo_v3"),
        ("cuLaunchKernel", 13000, "cuLaunchKernel"),
    ] {
        assert_eq!(find(name, version, 0), (Code::CUDA_SUCCESS, of(expected), 0), "{name} {version}");
    }
    assert_eq!(find("cuLaunchKernel", 13000, 2), (Code::CUDA_SUCCESS, of("cuLaunchKernel_ptsz"), 0));
    assert_eq!(find("cuMemcpyHtoD", 13000, 2), (Code::CUDA_SUCCESS, of("cuMemcpyHtoD_v2_ptds"), 0));
    // What has no such variant is what it is.
    assert_eq!(find("cuMemAlloc", 13000, 2), (Code::CUDA_SUCCESS, of("cuMemAlloc_v2"), 0));
}

#[test]
fn what_is_not_there_is_said_to_be_missing_or_too_new() {
    drop(context());
    let nothing = std::ptr::null_mut();
    assert_eq!(find("cuNoSuchFunction", 13000, 0), (Code::CUDA_SUCCESS, nothing, 1));
    assert_eq!(find("cuGraphAddNode", 12010, 0), (Code::CUDA_SUCCESS, nothing, 2));
    assert_eq!(find("cuInit", 13000, 4).0, Code::CUDA_ERROR_INVALID_VALUE);
    let mut table = place();
    let id: sys::CUuuid = place();
    fails!(sys::cuGetExportTable(&mut table, &id), CUDA_ERROR_NOT_SUPPORTED);
    assert!(table.is_null());
}

#[test]
fn unsupported_functions_say_so() {
    let context = context();
    let mut address = 0;
    fails!(sys::cuMemAddressReserve(&mut address, 4096, 0, 0, 0), CUDA_ERROR_NOT_SUPPORTED);
    fails!(sys::cuArrayDestroy(std::ptr::null_mut()), CUDA_ERROR_NOT_SUPPORTED);
    drop(context);
}

/// Every function of `cuda.h` of CUDA 13.0, as cudarc lists them, is there: cudarc panics when it misses one.
#[test]
fn nothing_that_cudarc_may_ask_for_is_missing() {
    install();
    let missing: Vec<_> =
        include_str!("symbols.txt").lines().filter(|name| symbol(c"libcuda.so", name).is_null()).collect();
    assert_eq!(missing, Vec::<&str>::new());
}
