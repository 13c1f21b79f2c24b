//! Launches that run.

use std::{ffi::c_void, ptr::null_mut};

use cudarc::driver::{DevicePtrMut, LaunchConfig, PushKernelArg, sys};

use super::support::{Code, context, fails, function, ok, place};

#[test]
fn a_kernel_runs_through_the_safe_layer() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let add = function(&context, "add");
    let data: Vec<u32> = (0..1000).map(|i| i * i).collect();
    let mut words = stream.clone_htod(&data).unwrap();
    let config = LaunchConfig { grid_dim: (8, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
    let n = 1000u32;
    // SAFETY: the kernel stays inside its words.
    unsafe { stream.launch_builder(&add).arg(&mut words).arg(&n).launch(config) }.unwrap();
    let expected: Vec<u32> = data.iter().map(|x| x + 1).collect();
    assert_eq!(stream.clone_dtoh(&words).unwrap(), expected);
}

/// Marks in the array `extra` of a launch.
const BUFFER: usize = sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize;
const SIZE: usize = sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize;

#[test]
fn arguments_may_come_in_a_buffer() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let scale = function(&context, "scale");
    let mut words = stream.clone_htod(&[1u32, 2, 3, 4]).unwrap();
    let mut buffer = [0u8; 12];
    buffer[..8].copy_from_slice(&words.device_ptr_mut(&stream).0.to_le_bytes());
    buffer[8..].copy_from_slice(&3u32.to_le_bytes());
    let mut size = 12usize;
    let launch = |size: *mut usize, pointers: *mut *mut c_void| {
        let mut extra = [
            BUFFER as *mut c_void,
            buffer.as_ptr().cast_mut().cast(),
            SIZE as *mut c_void,
            size.cast(),
            null_mut(),
        ];
        // SAFETY: the buffer is as long as it says, or the driver refuses.
        unsafe {
            sys::cuLaunchKernel(
                scale.cu_function(),
                1,
                1,
                1,
                4,
                1,
                1,
                0,
                stream.cu_stream(),
                pointers,
                extra.as_mut_ptr(),
            )
        }
    };
    assert_eq!(launch(&mut size, null_mut()), Code::CUDA_SUCCESS);
    assert_eq!(stream.clone_dtoh(&words).unwrap(), [3, 6, 9, 4]);
    let mut short = 11usize;
    assert_eq!(launch(&mut short, null_mut()), Code::CUDA_ERROR_INVALID_VALUE);
    // Both ways at once is an error, and so is neither.
    let mut pointers = [null_mut::<c_void>(); 2];
    assert_eq!(launch(&mut size, pointers.as_mut_ptr()), Code::CUDA_ERROR_INVALID_VALUE);
    fails!(
        sys::cuLaunchKernel(
            scale.cu_function(),
            1,
            1,
            1,
            4,
            1,
            1,
            0,
            stream.cu_stream(),
            null_mut(),
            null_mut()
        ),
        CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn extended_launches_know_cooperation_but_no_clusters() {
    use sys::CUlaunchAttributeID_enum::*;
    let context = context();
    let stream = context.new_stream().unwrap();
    let add = function(&context, "add");
    let mut words = stream.clone_htod(&[10u32; 4]).unwrap();
    let address = words.device_ptr_mut(&stream).0;
    let launch = |attribute: sys::CUlaunchAttributeID, value: [u32; 3]| {
        let mut attribute = sys::CUlaunchAttribute { id: attribute, ..place() };
        let words: *mut u32 = (&raw mut attribute.value).cast();
        // SAFETY: a value is 64 bytes.
        unsafe { words.cast::<[u32; 3]>().write(value) };
        let config = sys::CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 4,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream.cu_stream(),
            attrs: &mut attribute,
            numAttrs: 1,
        };
        let mut arguments = super::support::Arguments::new(address, 4);
        // SAFETY: the pointers are those of the kernel's two arguments.
        unsafe {
            sys::cuLaunchKernelEx(&config, add.cu_function(), arguments.pointers().as_mut_ptr(), null_mut())
        }
    };
    assert_eq!(launch(CU_LAUNCH_ATTRIBUTE_COOPERATIVE, [1, 0, 0]), Code::CUDA_SUCCESS);
    assert_eq!(launch(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, [1, 1, 1]), Code::CUDA_SUCCESS);
    assert_eq!(launch(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, [2, 1, 1]), Code::CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(stream.clone_dtoh(&words).unwrap(), [12; 4]);
}

#[test]
fn each_kind_of_null_stream_is_its_own() {
    let context = context();
    let add = function(&context, "add");
    let mut address = 0;
    ok!(sys::cuMemAlloc_v2(&mut address, 4));
    ok!(sys::cuMemsetD32_v2(address, 0, 1));
    // CU_STREAM_LEGACY and CU_STREAM_PER_THREAD; each waits for what the other was given before.
    for stream in [0, 1, 2, 0, 2] {
        let launched = super::support::launch(add.cu_function(), 32, stream as sys::CUstream, address, 1);
        assert_eq!(launched, Code::CUDA_SUCCESS);
    }
    let mut value = 0u32;
    ok!(sys::cuMemcpyDtoH_v2((&raw mut value).cast(), address, 4));
    assert_eq!(value, 5);
    let (mut legacy, mut own) = (0, 0);
    ok!(sys::cuStreamGetId(1 as sys::CUstream, &mut legacy));
    ok!(sys::cuStreamGetId(2 as sys::CUstream, &mut own));
    assert_ne!(legacy, own);
    ok!(sys::cuMemFree_v2(address));
}
