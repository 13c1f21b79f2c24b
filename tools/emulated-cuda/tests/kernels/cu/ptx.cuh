// One thin function an instruction.
#pragma once

#include "cuda.cuh"

using bf16 = unsigned short;
using u16 = unsigned short;
using u32 = unsigned;
using u64 = unsigned long long;

constexpr u32 WARP = 32;
constexpr u32 ALL = 0xffffffff;

__device__ __forceinline__ float bf16_to_f32(bf16 x) { return __uint_as_float(u32(x) << 16); }

// Two f32, rounded to nearest even; `low` in the low half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

__device__ __forceinline__ float exp2_approx(float x) {
  float d;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
}

__device__ __forceinline__ float log2_approx(float x) {
  float d;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
}

// Loads and stores that order other accesses, seen by the whole device.
__device__ __forceinline__ u32 load_acquire(const u32* at) {
  u32 d;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(d) : "l"(at) : "memory");
  return d;
}

__device__ __forceinline__ void store_relaxed(u32* at, u32 x) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(x) : "memory");
}

__device__ __forceinline__ u32 load_relaxed(const u32* at) {
  u32 d;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(d) : "l"(at) : "memory");
  return d;
}

#ifdef __NVCC__
__device__ __forceinline__ u32 shared_address(const void* at) { return u32(__cvta_generic_to_shared(at)); }
#else
__device__ __forceinline__ u32 shared_address(const void* at) {
  return u32((u64)(const __attribute__((address_space(3))) void*)at);
}
#endif

// Starts a copy of 16 bytes, of which `bytes` are read and the rest become zeros.
__device__ __forceinline__ void copy_async(void* to, const void* from, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's groups are on their way.
template <int PENDING>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8 x 8 matrices of b16; lanes 8 i to 8 i + 7 give the rows of matrix i.
__device__ __forceinline__ void load_matrices(u32 (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(u32 (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b: 16 x 16 times 16 x 8.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void store_release(u32* at, u32 x) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(x) : "memory");
}

__device__ __forceinline__ u32 load_volatile(const u32* at) {
  u32 d;
  asm volatile("ld.volatile.global.u32 %0, [%1];" : "=r"(d) : "l"(at) : "memory");
  return d;
}

__device__ __forceinline__ void store_volatile(u32* at, u32 x) {
  asm volatile("st.volatile.global.u32 [%0], %1;" ::"l"(at), "r"(x) : "memory");
}
