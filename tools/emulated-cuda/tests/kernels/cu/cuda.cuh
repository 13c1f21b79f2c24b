// What the kernels use of CUDA C++. nvcc brings it along; for clang without a CUDA toolkit it is declared here.
#pragma once

#ifndef __NVCC__
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __noinline__ __attribute__((noinline))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads) __attribute__((launch_bounds(threads)))
struct uint3;
struct dim3;
#include <__clang_cuda_builtin_vars.h>

// Not the built-in barrier: clang 14 takes it that this leaves a shared variable alone whose address nobody takes, and moves
// loads of the variable across it.
#define __syncthreads() asm volatile("bar.sync 0;" ::: "memory")

__device__ __forceinline__ int min(int a, int b) { return a < b ? a : b; }
__device__ __forceinline__ int max(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
__device__ __forceinline__ void __syncwarp(unsigned mask = 0xffffffff) { __nvvm_bar_warp_sync(mask); }
__device__ __forceinline__ void __threadfence() { __nvvm_membar_gl(); }
__device__ __forceinline__ float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
__device__ __forceinline__ unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
// The last operand is the clamp: segments are whole warps.
__device__ __forceinline__ unsigned __shfl_sync(unsigned mask, unsigned x, int lane) {
  return __nvvm_shfl_sync_idx_i32(mask, x, lane, 0x1f);
}
__device__ __forceinline__ unsigned __shfl_up_sync(unsigned mask, unsigned x, int delta) {
  return __nvvm_shfl_sync_up_i32(mask, x, delta, 0);
}
__device__ __forceinline__ float __shfl_up_sync(unsigned mask, float x, int delta) {
  return __nvvm_shfl_sync_up_f32(mask, x, delta, 0);
}
__device__ __forceinline__ float __shfl_down_sync(unsigned mask, float x, int delta) {
  return __nvvm_shfl_sync_down_f32(mask, x, delta, 0x1f);
}
__device__ __forceinline__ unsigned __shfl_xor_sync(unsigned mask, unsigned x, int lanes) {
  return __nvvm_shfl_sync_bfly_i32(mask, x, lanes, 0x1f);
}
__device__ __forceinline__ float __shfl_xor_sync(unsigned mask, float x, int lanes) {
  return __nvvm_shfl_sync_bfly_f32(mask, x, lanes, 0x1f);
}
__device__ __forceinline__ unsigned __ballot_sync(unsigned mask, bool p) { return __nvvm_vote_ballot_sync(mask, p); }
__device__ __forceinline__ bool __any_sync(unsigned mask, bool p) { return __nvvm_vote_any_sync(mask, p); }
__device__ __forceinline__ bool __all_sync(unsigned mask, bool p) { return __nvvm_vote_all_sync(mask, p); }
__device__ __forceinline__ unsigned __match_any_sync(unsigned mask, unsigned x) {
  return __nvvm_match_any_sync_i32(mask, x);
}
__device__ __forceinline__ unsigned __activemask() {
  unsigned mask;
  asm volatile("activemask.b32 %0;" : "=r"(mask));
  return mask;
}
__device__ __forceinline__ unsigned __reduce_add_sync(unsigned mask, unsigned x) {
  unsigned sum;
  asm volatile("redux.sync.add.u32 %0, %1, %2;" : "=r"(sum) : "r"(x), "r"(mask));
  return sum;
}
__device__ __forceinline__ int __popc(unsigned x) { return __builtin_popcount(x); }
__device__ __forceinline__ int __ffs(int x) { return __builtin_ffs(x); }
__device__ __forceinline__ unsigned atomicAdd(unsigned* at, unsigned x) {
  return __nvvm_atom_add_gen_i((int*)at, (int)x);
}
#endif
