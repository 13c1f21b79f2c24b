// `steps` rounds of x[i] <- (x[i - 1] + x[i] + x[i + 1]) / 3 on a ring of n f32, between two buffers: one launch, whose blocks
// wait for each other between rounds. It must be a cooperative launch, so that all of them run. The result is in `a` for
// even `steps`, in `b` for odd ones. `arrived` starts as zero.
#include "ptx.cuh"

constexpr int THREADS = 64;

// Every block has done everything before; `target` counts arrivals since the start.
__device__ __forceinline__ void grid_barrier(u32* arrived, u32 target) {
  // All threads of this block have come.
  __syncthreads();
  if (threadIdx.x == 0) {
    // What the block wrote is there before its arrival.
    __threadfence();
    atomicAdd(arrived, 1);
    while (load_acquire(arrived) < target);
  }
  // Thread 0 has seen every arrival.
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS) grid_sync(float* a, float* b, u32* arrived, int n, int steps) {
  float* from = a;
  float* to = b;
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    if (step > 0) grid_barrier(arrived, step * gridDim.x);
#pragma unroll 1
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < n; i += gridDim.x * THREADS) {
      const int left = i == 0 ? n - 1 : i - 1, right = i == n - 1 ? 0 : i + 1;
      to[i] = (from[left] + from[i] + from[right]) / 3.0f;
    }
    float* const next = from;
    from = to;
    to = next;
  }
}
