// Shared memory by its own 32-bit addresses: no conversion of a generic pointer stands before each access. One function an
// instruction (PTX ISA, ldmatrix, cp.async, ld and st).
#pragma once

#include "async_copy.cuh"
#include "elements.cuh"

// Four 8 x 8 matrices of 16-bit values; lane l points to row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrix_x4(u32 (&out)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(row)
               : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrix_x4_transposed(u32 (&out)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(row)
               : "memory");
}

// Copies the first `bytes` (0 to 16) of 16 bytes and fills the rest with zeros; both addresses are multiples of 16.
__device__ __forceinline__ void copy_async_16(u32 to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// Copies all 16.
__device__ __forceinline__ void copy_async_16(u32 to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(from) : "memory");
}

// Copies the first `bytes` (0 to 4) of 4 bytes.
__device__ __forceinline__ void copy_async_4(u32 to, const void* from, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ float2 load_shared_float2(u32 from) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];\n" : "=f"(x.x), "=f"(x.y) : "r"(from) : "memory");
  return x;
}

__device__ __forceinline__ uint4 load_shared_16(u32 from) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "r"(from) : "memory");
  return x;
}

__device__ __forceinline__ void store_shared_16(u32 to, uint4 x) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

__device__ __forceinline__ void store_shared_4(u32 to, u32 x) {
  asm volatile("st.shared.u32 [%0], %1;\n" ::"r"(to), "r"(x) : "memory");
}

// To global memory, past any doubt whether the compiler sees that 16 bytes go at once.
__device__ __forceinline__ void store_global_16(void* to, uint4 x) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};\n" ::"l"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

// threadIdx.x, asked for anew: what is computed of it is not kept in registers across a loop.
__device__ __forceinline__ int thread_again() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(thread));
  return thread;
}

// blockIdx.y, likewise.
__device__ __forceinline__ int block_row_again() {
  int block;
  asm volatile("mov.u32 %0, %%ctaid.y;\n" : "=r"(block));
  return block;
}

// 2^x to about 2 ulp; denormal results are zero (PTX ISA, ex2.approx.ftz).
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
