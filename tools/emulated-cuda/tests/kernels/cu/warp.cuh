// Reductions over the lanes of a warp and the threads of a block, each in a fixed order.
#pragma once

#include "ptx.cuh"

// Lane 0 gets the sum.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int lanes = WARP / 2; lanes > 0; lanes /= 2) x += __shfl_down_sync(ALL, x, lanes);
  return x;
}

// Lane 0 gets the largest.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int lanes = WARP / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_down_sync(ALL, x, lanes));
  return x;
}

// Every thread gets the sum. `scratch` holds one f32 a warp and serves one call.
template <int THREADS>
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  x = warp_sum(x);
  if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
  // Each warp's sum is written.
  __syncthreads();
  x = scratch[0];
#pragma unroll
  for (int warp = 1; warp < int(THREADS / WARP); warp++) x += scratch[warp];
  return x;
}

// Every thread gets the largest. `scratch` as in `block_sum`.
template <int THREADS>
__device__ __forceinline__ float block_max(float x, float* scratch) {
  x = warp_max(x);
  if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
  // Each warp's largest is written.
  __syncthreads();
  x = scratch[0];
#pragma unroll
  for (int warp = 1; warp < int(THREADS / WARP); warp++) x = fmaxf(x, scratch[warp]);
  return x;
}
