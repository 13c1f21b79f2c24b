//! Modules, functions, libraries, links, logs.

use std::{
    ffi::{CStr, CString, c_void},
    ptr::null_mut,
};

use cudarc::{driver::sys, nvrtc::Ptx};

use super::support::{Code, KERNELS, code, context, fails, function, launch, ok, place};

#[test]
fn functions_and_variables_are_found_by_name() {
    let context = context();
    let module = context.load_module(Ptx::from_src(KERNELS)).unwrap();
    assert_eq!(code(module.load_function("subtract").map(|_| ())), Code::CUDA_ERROR_NOT_FOUND);
    let stream = context.new_stream().unwrap();
    let counter = module.get_global("counter", &stream).unwrap();
    assert_eq!(counter.len(), 16);
    let bytes = stream.clone_dtoh(&counter).unwrap();
    assert_eq!(bytes[..4], [7, 0, 0, 0]);
    let function = module.load_function("bounded").unwrap();
    assert_eq!(function.max_threads_per_block().unwrap(), 128);
    assert_eq!(function.ptx_version().unwrap(), 80);
    assert_eq!(function.shared_size_bytes().unwrap(), 0);
    let mut name = place();
    ok!(sys::cuFuncGetName(&mut name, function.cu_function()));
    // SAFETY: the driver returns a string that lives as long as the module.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"bounded");
    let (mut offset, mut size) = (0, 0);
    ok!(sys::cuFuncGetParamInfo(function.cu_function(), 1, &mut offset, &mut size));
    assert_eq!((offset, size), (8, 4));
    fails!(
        sys::cuFuncGetParamInfo(function.cu_function(), 2, &mut offset, &mut size),
        CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn what_is_wrong_with_a_text_stands_in_the_callers_log() {
    use sys::CUjit_option_enum::*;
    let context = context();
    let text = CString::new(format!("{KERNELS}\n.visible .entry bad() {{ bogus.u32 %r1; }}\n")).unwrap();
    let line = text.to_str().unwrap().lines().count();
    let mut log = [0u8; 200];
    let mut options = [CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), 200 as *mut c_void];
    let mut module = place();
    fails!(
        sys::cuModuleLoadDataEx(
            &mut module,
            text.as_ptr().cast(),
            2,
            options.as_mut_ptr(),
            values.as_mut_ptr()
        ),
        CUDA_ERROR_INVALID_PTX
    );
    let log = CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap();
    assert!(log.contains("bogus") && log.contains(&format!("line {line}")), "{log}");
    assert_eq!(values[1] as usize, log.len() + 1);
    drop(context);
}

#[test]
fn text_for_a_newer_device_is_refused() {
    let context = context();
    let newer = KERNELS.replace(".target sm_80", ".target sm_90");
    let loaded = context.load_module(Ptx::from_src(newer)).map(|_| ());
    assert_eq!(code(loaded), Code::CUDA_ERROR_INVALID_PTX);
}

#[test]
fn a_library_is_loaded_by_every_context_that_uses_it() {
    let text = CString::new(KERNELS).unwrap();
    let first = context();
    let (mut library, mut kernel, mut count) = (place(), place(), 0);
    let load = |library| {
        let none = (null_mut(), null_mut(), null_mut(), null_mut());
        // SAFETY: the image is a C string, and there are no options.
        unsafe { sys::cuLibraryLoadData(library, text.as_ptr().cast(), none.0, none.1, 0, none.2, none.3, 0) }
    };
    assert_eq!(load(&mut library), Code::CUDA_SUCCESS);
    ok!(sys::cuLibraryGetKernel(&mut kernel, library, c"add".as_ptr()));
    ok!(sys::cuLibraryGetKernelCount(&mut count, library));
    assert_eq!(count, 5);
    let globals = [&first, &context()].map(|context| {
        context.bind_to_thread().unwrap();
        let stream = context.new_stream().unwrap();
        let mut words = stream.clone_htod(&[1u32, 2, 3]).unwrap();
        let address = cudarc::driver::DevicePtrMut::device_ptr_mut(&mut words, &stream).0;
        // A kernel of a library may be launched as if it were a function.
        assert_eq!(launch(kernel.cast(), 32, stream.cu_stream(), address, 3), Code::CUDA_SUCCESS);
        assert_eq!(stream.clone_dtoh(&words).unwrap(), [2, 3, 4]);
        let (mut start, mut size) = (0, 0);
        ok!(sys::cuLibraryGetGlobal(&mut start, &mut size, library, c"counter".as_ptr()));
        start
    });
    assert_ne!(globals[0], globals[1]);
    ok!(sys::cuLibraryUnload(library));
    let mut function = place();
    fails!(sys::cuKernelGetFunction(&mut function, kernel), CUDA_ERROR_INVALID_HANDLE);
    fails!(sys::cuLibraryUnload(library), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn a_library_needs_no_context_to_be_looked_at() {
    super::support::install();
    let text = CString::new(KERNELS).unwrap();
    std::thread::spawn(move || {
        ok!(sys::cuInit(0));
        let (mut library, mut count) = (place(), 0);
        let none = (null_mut(), null_mut(), null_mut(), null_mut());
        ok!(sys::cuLibraryLoadData(&mut library, text.as_ptr().cast(), none.0, none.1, 0, none.2, none.3, 0));
        ok!(sys::cuLibraryGetKernelCount(&mut count, library));
        assert_eq!(count, 5);
        ok!(sys::cuLibraryUnload(library));
    })
    .join()
    .unwrap();
}

#[test]
fn a_thread_without_a_context_finds_functions_but_cannot_launch_them() {
    let context = context();
    let text = CString::new(KERNELS).unwrap();
    let mut module = place();
    ok!(sys::cuModuleLoadData(&mut module, text.as_ptr().cast()));
    let handle = module as usize;
    std::thread::spawn(move || {
        let module = handle as sys::CUmodule;
        let mut function = place();
        fails!(sys::cuModuleGetFunction(&mut function, module, c"nothing".as_ptr()), CUDA_ERROR_NOT_FOUND);
        ok!(sys::cuModuleGetFunction(&mut function, module, c"add".as_ptr()));
        assert_eq!(launch(function, 1, null_mut(), 0, 0), Code::CUDA_ERROR_INVALID_CONTEXT);
    })
    .join()
    .unwrap();
    ok!(sys::cuModuleUnload(module));
    drop(context);
}

#[test]
fn the_linker_passes_one_text_through() {
    let context = context();
    let mut text = KERNELS.as_bytes().to_vec();
    let mut link = place();
    ok!(sys::cuLinkCreate_v2(0, null_mut(), null_mut(), &mut link));
    let (mut image, mut size) = (place(), 0);
    fails!(sys::cuLinkComplete(link, &mut image, &mut size), CUDA_ERROR_INVALID_VALUE);
    let mut add = || {
        // SAFETY: the data is as long as it says.
        unsafe {
            sys::cuLinkAddData_v2(
                link,
                sys::CUjitInputType_enum::CU_JIT_INPUT_PTX,
                text.as_mut_ptr().cast(),
                text.len(),
                c"kernels".as_ptr(),
                0,
                null_mut(),
                null_mut(),
            )
        }
    };
    assert_eq!(add(), Code::CUDA_SUCCESS);
    assert_eq!(add(), Code::CUDA_ERROR_NOT_SUPPORTED);
    ok!(sys::cuLinkComplete(link, &mut image, &mut size));
    let (mut module, mut found) = (place(), place());
    ok!(sys::cuModuleLoadData(&mut module, image));
    ok!(sys::cuLinkDestroy(link));
    ok!(sys::cuModuleGetFunction(&mut found, module, c"scale".as_ptr()));
    ok!(sys::cuModuleUnload(module));
    fails!(sys::cuModuleGetFunction(&mut found, module, c"scale".as_ptr()), CUDA_ERROR_INVALID_HANDLE);
    drop(context);
}

#[test]
fn a_function_goes_with_its_module() {
    let context = context();
    let handle = function(&context, "add").cu_function();
    // The module went with the last `CudaFunction`.
    assert_eq!(launch(handle, 1, null_mut(), 0, 0), Code::CUDA_ERROR_INVALID_HANDLE);
}
