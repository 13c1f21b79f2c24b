// Sums over a block in f64, in a fixed order.
#pragma once

#include "elements.cuh"

// The sum over the block's WARPS warps, in thread 0: a tree in each warp, then the warps in order.
template <int WARPS> __device__ __forceinline__ double block_sum(double x) {
  __shared__ double parts[WARPS];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_down_sync(0xffffffff, x, distance);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();  // Hazard: thread 0 reads the warps' sums.
  for (int warp = 1; threadIdx.x == 0 && warp < WARPS; warp++) x += parts[warp];
  return x;
}
