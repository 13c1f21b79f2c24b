// What the kernels of the choice of tokens share (kernels/sample.cu): the order of logits, weights and their masses, sums of a warp.
#pragma once

#include "elements.cuh"

namespace sample {

constexpr u32 NONE = 0xffffffff;
constexpr u32 ALL_LANES = 0xffffffff;

// A number that grows with x, for x that is a number; -0 is 0.
__device__ __forceinline__ u32 key_of(float x) {
  const u32 bits = __float_as_uint(x + 0.0f);
  return bits ^ (bits >> 31 ? 0xffffffff : 0x80000000);
}
__device__ __forceinline__ float of_key(u32 key) { return __uint_as_float(key ^ (key >> 31 ? 0x80000000 : 0xffffffff)); }

// e^x for x <= 0, operation for operation that of src/ops/sample/cpu.rs.
__device__ __forceinline__ float power(float x) {
  if (x <= -87.0f) return 0.0f;
  const float n = rintf(__fmul_rn(x, 1.44269504f));
  const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0.693359375f)), __fmul_rn(n, -2.12194440e-4f));
  float q = 0.0013814467f;
  q = __fadd_rn(__fmul_rn(q, r), 0.008368781f);
  q = __fadd_rn(__fmul_rn(q, r), 0.041668393f);
  q = __fadd_rn(__fmul_rn(q, r), 0.1666652f);
  q = __fadd_rn(__fmul_rn(q, r), 0.49999994f);
  const float y = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(r, r), q), r), 1.0f);
  return __uint_as_float(__float_as_uint(y) + (static_cast<u32>(static_cast<int>(n)) << 23));
}

// A weight in whole numbers of 2^-31.
constexpr float UNITS = 2147483648.0f, LEAST = 1.0f / UNITS;
__device__ __forceinline__ u32 mass_of(float weight) { return static_cast<u32>(__fmul_rn(weight, UNITS)); }

template <class T> __device__ __forceinline__ T warp_total(T x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
  return x;
}

__device__ __forceinline__ float warp_largest(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
  return x;
}

// The sum over lanes up to and with this one.
__device__ __forceinline__ u64 warp_scan(u64 x) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const u64 other = __shfl_up_sync(ALL_LANES, x, distance);
    if (threadIdx.x % 32 >= distance) x += other;
  }
  return x;
}

constexpr u64 BAD = 0xffffffffffffffff;

// Larger for larger x; of equals, for smaller i; the largest for what is not a number.
__device__ __forceinline__ u64 rank_of(float x, u32 i) { return isnan(x) ? BAD : u64(key_of(x)) << 32 | (NONE - i); }

__device__ __forceinline__ u64 warp_max(u64 x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x = max(x, __shfl_xor_sync(ALL_LANES, x, distance));
  return x;
}

// The best of a row's parts, for the whole warp.
__device__ __forceinline__ u64 best_of(const u64* __restrict__ best, u32 parts) {
  u64 largest = 0;
  for (u32 i = threadIdx.x % 32; i < parts; i += 32) largest = max(largest, best[i]);
  return warp_max(largest);
}
__device__ __forceinline__ float score_of(u64 rank) { return of_key(static_cast<u32>(rank >> 32)); }
// Whether a row with this best has a token: all are numbers, and the largest is finite.
__device__ __forceinline__ bool is_good(u64 rank) { return rank != BAD && rank != 0 && isfinite(score_of(rank)); }

}  // namespace sample
