//! Allocations, copies, sets, pools, pointers.

use std::ffi::c_void;

use cudarc::driver::{result, sys};
use proptest::prelude::*;

use super::support::{Code, code, context, fails, ok, place};

#[test]
fn bytes_come_back_as_they_went() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let data: Vec<f32> = (0..1000).map(|i| i as f32 * 0.5 - 7.0).collect();
    let on_device = stream.clone_htod(&data).unwrap();
    let copy = stream.clone_dtod(&on_device).unwrap();
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), data);
    let zeros = stream.alloc_zeros::<u64>(33).unwrap();
    assert_eq!(stream.clone_dtoh(&zeros).unwrap(), [0; 33]);
}

#[test]
fn a_range_that_leaves_its_allocation_is_refused() {
    let context = context();
    // SAFETY: a context is current.
    let address = unsafe { result::malloc_sync(256) }.unwrap();
    let mut host = [0u8; 512];
    // SAFETY: as above; the host buffer is as long as the copy.
    let copied = unsafe { result::memcpy_dtoh_sync(&mut host[..257], address) };
    assert_eq!(code(copied), Code::CUDA_ERROR_INVALID_VALUE);
    // SAFETY: as above.
    let set = unsafe { result::memset_d8_sync(address + 1, 0, 256) };
    assert_eq!(code(set), Code::CUDA_ERROR_INVALID_VALUE);
    fails!(sys::cuMemFree_v2(address + 1), CUDA_ERROR_INVALID_VALUE);
    fails!(sys::cuMemFreeHost(address as *mut c_void), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuMemFree_v2(address));
    fails!(sys::cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuMemFree_v2(0));
    drop(context);
}

#[test]
fn the_device_has_only_so_much_memory() {
    let context = context();
    let mut address = 0;
    fails!(sys::cuMemAlloc_v2(&mut address, 9 << 30), CUDA_ERROR_OUT_OF_MEMORY);
    fails!(sys::cuMemAlloc_v2(&mut address, usize::MAX), CUDA_ERROR_OUT_OF_MEMORY);
    fails!(sys::cuMemAlloc_v2(&mut address, 0), CUDA_ERROR_INVALID_VALUE);
    fails!(sys::cuMemAlloc_v2(std::ptr::null_mut(), 4), CUDA_ERROR_INVALID_VALUE);
    drop(context);
}

#[test]
fn no_bytes_in_stream_order_are_no_memory_and_no_error() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let mut address = 1;
    ok!(sys::cuMemAllocAsync(&mut address, 0, stream.cu_stream()));
    assert_eq!(address, 0);
    ok!(sys::cuMemsetD8Async(address, 0, 0, stream.cu_stream()));
    ok!(sys::cuMemcpyDtoDAsync_v2(address, address, 0, stream.cu_stream()));
    ok!(sys::cuMemFreeAsync(address, stream.cu_stream()));
    let empty = stream.clone_htod(&[0f32; 0]).unwrap();
    assert!(stream.clone_dtoh(&empty).unwrap().is_empty());
}

#[test]
fn pools_count_what_is_allocated_from_them() {
    use sys::CUmemPool_attribute_enum::*;
    let context = context();
    let stream = context.new_stream().unwrap();
    let mut properties: sys::CUmemPoolProps = place();
    properties.allocType = sys::CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location =
        sys::CUmemLocation { type_: sys::CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE, id: 0 };
    let mut pool = place();
    ok!(sys::cuMemPoolCreate(&mut pool, &properties));
    let (mut address, mut used, mut high) = (0, 0u64, 0u64);
    ok!(sys::cuMemAllocFromPoolAsync(&mut address, 1000, pool, stream.cu_stream()));
    let get = |attribute, value: &mut u64| {
        ok!(sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut *value).cast()))
    };
    get(CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &mut used);
    assert_eq!(used, 1000);
    ok!(sys::cuMemFreeAsync(address, stream.cu_stream()));
    fails!(sys::cuMemFreeAsync(address, stream.cu_stream()), CUDA_ERROR_INVALID_VALUE);
    stream.synchronize().unwrap();
    get(CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &mut used);
    get(CU_MEMPOOL_ATTR_USED_MEM_HIGH, &mut high);
    assert_eq!((used, high), (0, 1000));
    ok!(sys::cuMemPoolDestroy(pool));
    fails!(sys::cuMemPoolDestroy(pool), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn pointers_tell_what_they_point_to() {
    use sys::CUpointer_attribute_enum::*;
    let context = context();
    let (mut device, mut host) = (0, place::<*mut c_void>());
    ok!(sys::cuMemAlloc_v2(&mut device, 100));
    ok!(sys::cuMemHostAlloc(&mut host, 100, 0));
    let kind = |address: u64| {
        let mut kind = 0u32;
        // SAFETY: the attribute is an unsigned int.
        let code = unsafe {
            sys::cuPointerGetAttribute((&raw mut kind).cast(), CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address)
        };
        (code, kind)
    };
    assert_eq!(kind(device + 99), (Code::CUDA_SUCCESS, 2));
    assert_eq!(kind(host as u64), (Code::CUDA_SUCCESS, 1));
    let local = 0u32;
    assert_eq!(kind(&raw const local as u64).0, Code::CUDA_ERROR_INVALID_VALUE);
    let (mut start, mut size) = (0, 0);
    ok!(sys::cuMemGetAddressRange_v2(&mut start, &mut size, device + 50));
    assert_eq!((start, size), (device, 100));
    ok!(sys::cuMemHostGetDevicePointer_v2(&mut start, host, 0));
    assert_eq!(start, host as u64);
    ok!(sys::cuMemFree_v2(device));
    ok!(sys::cuMemFreeHost(host));
    drop(context);
}

#[test]
fn registered_memory_is_for_copies_only() {
    let context = context();
    let mut buffer = vec![0u8; 4096];
    let pointer = buffer.as_mut_ptr().cast::<c_void>();
    ok!(sys::cuMemHostRegister_v2(pointer, 4096, 0));
    fails!(sys::cuMemHostRegister_v2(pointer, 16, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    let mut address = 0;
    fails!(sys::cuMemHostGetDevicePointer_v2(&mut address, pointer, 0), CUDA_ERROR_NOT_SUPPORTED);
    ok!(sys::cuMemHostUnregister(pointer));
    fails!(sys::cuMemHostUnregister(pointer), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    fails!(sys::cuMemHostRegister_v2(pointer, 4096, 2), CUDA_ERROR_NOT_SUPPORTED);
    drop(context);
}

#[test]
fn sets_repeat_their_pattern_and_keep_to_their_rows() {
    let context = context();
    let mut address = 0;
    ok!(sys::cuMemAlloc_v2(&mut address, 64));
    ok!(sys::cuMemsetD8_v2(address, 0xee, 64));
    ok!(sys::cuMemsetD2D16_v2(address + 2, 16, 0x1234, 3, 3));
    ok!(sys::cuMemsetD32_v2(address + 60, 0x0102_0304, 1));
    let mut host = [0u8; 64];
    ok!(sys::cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), address, 64));
    let mut expected = [0xee; 64];
    for row in 0..3 {
        for word in 0..3 {
            expected[row * 16 + 2 + word * 2..][..2].copy_from_slice(&[0x34, 0x12]);
        }
    }
    expected[60..].copy_from_slice(&[4, 3, 2, 1]);
    assert_eq!(host, expected);
    // A pattern has to be aligned to its own size.
    fails!(sys::cuMemsetD32_v2(address + 2, 0, 1), CUDA_ERROR_INVALID_VALUE);
    fails!(sys::cuMemsetD2D8_v2(address, 4, 0, 8, 2), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuMemFree_v2(address));
    drop(context);
}

#[test]
fn a_device_pointer_is_no_host_pointer() {
    let context = context();
    let (mut a, mut b) = (0, 0);
    ok!(sys::cuMemAlloc_v2(&mut a, 64));
    ok!(sys::cuMemAlloc_v2(&mut b, 64));
    ok!(sys::cuMemsetD8_v2(b, 1, 64));
    fails!(sys::cuMemcpyHtoD_v2(a, b as *const c_void, 64), CUDA_ERROR_INVALID_VALUE);
    let mut host = [0u8; 64];
    fails!(sys::cuMemcpyHtoD_v2(host.as_mut_ptr() as u64, a as *const c_void, 64), CUDA_ERROR_INVALID_VALUE);
    // With unified addresses, a plain copy finds out by itself.
    ok!(sys::cuMemcpy(a, b, 64));
    ok!(sys::cuMemcpy(host.as_mut_ptr() as u64, a, 64));
    assert_eq!(host, [1; 64]);
    ok!(sys::cuMemFree_v2(a));
    ok!(sys::cuMemFree_v2(b));
    drop(context);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A box copied to the device and back lands where a loop over its bytes puts it.
    #[test]
    fn boxes_land_where_a_loop_puts_them(
        width in 1usize..20, height in 1usize..6,
        from in (0usize..5, 0usize..3, 0usize..4), to in (0usize..5, 0usize..3, 0usize..4),
        seed in any::<u8>(),
    ) {
        let context = context();
        let (from_pitch, to_pitch) = (from.0 + width + from.2, to.0 + width + to.2);
        let (from_rows, to_rows) = (from.1 + height, to.1 + height);
        let source: Vec<u8> = (0..from_pitch * from_rows).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
        let mut expected = vec![0xaa; to_pitch * to_rows];
        for y in 0..height {
            for x in 0..width {
                expected[(to.1 + y) * to_pitch + to.0 + x] = source[(from.1 + y) * from_pitch + from.0 + x];
            }
        }
        let mut address = 0;
        ok!(sys::cuMemAlloc_v2(&mut address, expected.len()));
        ok!(sys::cuMemsetD8_v2(address, 0xaa, expected.len()));
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: from.0,
            srcY: from.1,
            srcMemoryType: sys::CUmemorytype_enum::CU_MEMORYTYPE_HOST,
            srcHost: source.as_ptr().cast(),
            srcDevice: 0,
            srcArray: std::ptr::null_mut(),
            srcPitch: from_pitch,
            dstXInBytes: to.0,
            dstY: to.1,
            dstMemoryType: sys::CUmemorytype_enum::CU_MEMORYTYPE_DEVICE,
            dstHost: std::ptr::null_mut(),
            dstDevice: address,
            dstArray: std::ptr::null_mut(),
            dstPitch: to_pitch,
            WidthInBytes: width,
            Height: height,
        };
        ok!(sys::cuMemcpy2D_v2(&copy));
        let mut result = vec![0; expected.len()];
        ok!(sys::cuMemcpyDtoH_v2(result.as_mut_ptr().cast(), address, result.len()));
        ok!(sys::cuMemFree_v2(address));
        drop(context);
        prop_assert_eq!(result, expected);
    }
}
