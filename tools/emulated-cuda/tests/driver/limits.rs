//! The limits of launches, and occupancy.

use std::ptr::null_mut;

use cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg, sys};
use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MAX_DYNAMIC_SHARED;

use super::support::{Arguments, Code, code, context, function, ok};

/// Launches a kernel with no words, so that only its shape matters.
fn launch(function: &CudaFunction, grid: [u32; 3], block: [u32; 3], shared: u32, cooperative: bool) -> Code {
    let mut arguments = Arguments::new(0, 0);
    let mut pointers = arguments.pointers();
    let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
    let (function, stream, pointers) = (function.cu_function(), null_mut(), pointers.as_mut_ptr());
    // SAFETY: the pointers are those of the two arguments that every kernel of this shape has.
    unsafe {
        if cooperative {
            sys::cuLaunchCooperativeKernel(function, gx, gy, gz, bx, by, bz, shared, stream, pointers)
        } else {
            sys::cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, pointers, null_mut())
        }
    }
}

#[test]
fn shapes_beyond_the_device_are_refused() {
    let context = context();
    let add = function(&context, "add");
    let plain = |grid, block| launch(&add, grid, block, 0, false);
    for (grid, block) in [
        ([0, 1, 1], [1, 1, 1]),
        ([1, 65536, 1], [1, 1, 1]),
        ([1, 1, 65536], [1, 1, 1]),
        ([1 << 31, 1, 1], [1, 1, 1]),
        ([1, 1, 1], [0, 1, 1]),
        ([1, 1, 1], [1025, 1, 1]),
        ([1, 1, 1], [1, 1, 65]),
        ([1, 1, 1], [32, 33, 1]),
        ([1, 1, 1], [u32::MAX, u32::MAX, u32::MAX]),
    ] {
        assert_eq!(plain(grid, block), Code::CUDA_ERROR_INVALID_VALUE, "{grid:?} {block:?}");
    }
    assert_eq!(plain([2, 2, 2], [16, 16, 4]), Code::CUDA_SUCCESS);
    assert_eq!(
        launch(&function(&context, "bounded"), [1, 1, 1], [129, 1, 1], 0, false),
        Code::CUDA_ERROR_INVALID_VALUE
    );
    ok!(sys::cuCtxSynchronize());
}

#[test]
fn more_shared_memory_takes_a_request() {
    let context = context();
    let add = function(&context, "add");
    let with = |shared| launch(&add, [1, 1, 1], [32, 1, 1], shared, false);
    assert_eq!(with(48 << 10), Code::CUDA_SUCCESS);
    assert_eq!(with((48 << 10) + 1), Code::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(code(add.set_attribute(MAX_DYNAMIC_SHARED, (163 << 10) + 1)), Code::CUDA_ERROR_INVALID_VALUE);
    add.set_attribute(MAX_DYNAMIC_SHARED, 100 << 10).unwrap();
    assert_eq!(with(100 << 10), Code::CUDA_SUCCESS);
    assert_eq!(with(163 << 10), Code::CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuCtxSynchronize());
}

#[test]
fn a_cooperative_grid_has_to_fit() {
    let context = context();
    let add = function(&context, "add");
    // Two blocks of 1024 threads fill a multiprocessor; there are 108.
    assert_eq!(launch(&add, [216, 1, 1], [1024, 1, 1], 0, true), Code::CUDA_SUCCESS);
    assert_eq!(
        launch(&add, [217, 1, 1], [1024, 1, 1], 0, true),
        Code::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE
    );
    ok!(sys::cuCtxSynchronize());
}

#[test]
fn occupancy_is_what_the_scarcest_resource_allows() {
    let context = context();
    let add = function(&context, "add");
    let blocks =
        |threads, shared| add.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None).unwrap();
    assert_eq!(blocks(1024, 0), 2);
    assert_eq!(blocks(256, 0), 8);
    // At most 32 blocks.
    assert_eq!(blocks(32, 0), 32);
    // 164 KiB of shared memory, of which the system takes 1 KiB for each block.
    assert_eq!(blocks(32, 40 << 10), 4);
    assert_eq!(blocks(32, 40 << 10 | 1), 3);
    assert_eq!(blocks(32, 163 << 10), 1);
    assert_eq!(blocks(32, 164 << 10), 0);
    assert_eq!(add.occupancy_available_dynamic_smem_per_block(4, 32).unwrap(), 40 << 10);
}

#[test]
fn the_best_block_may_depend_on_its_shared_memory() {
    extern "C" fn no_shared(_: i32) -> usize {
        0
    }
    extern "C" fn much_for_large(block: i32) -> usize {
        if block > 256 { 160 << 10 } else { 0 }
    }
    let context = context();
    let add = function(&context, "add");
    let best = |shared, limit| add.occupancy_max_potential_block_size(shared, 0, limit, None).unwrap();
    assert_eq!(best(no_shared, 0), (2 * 108, 1024));
    assert_eq!(best(no_shared, 300), (8 * 108, 256));
    assert_eq!(best(much_for_large, 0), (8 * 108, 256));
}

#[test]
fn a_launch_of_nothing_is_an_error_in_the_safe_layer_too() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let add = function(&context, "add");
    let config = LaunchConfig { grid_dim: (0, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the launch is refused.
    let launched = unsafe { stream.launch_builder(&add).arg(&0u64).arg(&0u32).launch(config) };
    assert_eq!(code(launched.map(|_| ())), Code::CUDA_ERROR_INVALID_VALUE);
}
