// out[0] = sum of x[0..n], in two launches: `reduce_partial` makes one sum a block, `reduce_final` adds those up.
// Deterministic: no atomics, each sum in a fixed order.
#include "warp.cuh"

constexpr int THREADS = 256, WARPS = THREADS / WARP;

extern "C" __global__ void __launch_bounds__(THREADS) reduce_partial(const float* x, float* partial, int n) {
  __shared__ float scratch[WARPS];
  float sum = 0.0f;
#pragma unroll 1
  for (int i = blockIdx.x * THREADS + threadIdx.x; i < n; i += gridDim.x * THREADS) sum += x[i];
  sum = warp_sum(sum);
  const int lane = threadIdx.x % WARP;
  if (lane == 0) scratch[threadIdx.x / WARP] = sum;
  // Each warp's sum is written.
  __syncthreads();
  sum = warp_sum(lane < WARPS ? scratch[lane] : 0.0f);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block of one warp.
extern "C" __global__ void __launch_bounds__(WARP) reduce_final(const float* partial, float* out, int n) {
  float sum = 0.0f;
#pragma unroll 1
  for (int i = threadIdx.x; i < n; i += WARP) sum += partial[i];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) out[0] = sum;
}
