// counts[v] += how often v occurs among x[0..n], v below 64. counts starts as zeros.
//
// Two copies of the counts in shared memory, one for even and one for odd lanes, so that fewer lanes collide.
#include "ptx.cuh"

constexpr int THREADS = 128, BINS = 64, COPIES = 2;
static_assert(BINS * COPIES == THREADS, "one count a thread");

extern "C" __global__ void __launch_bounds__(THREADS) histogram(const unsigned char* x, u32* counts, int n) {
  __shared__ u32 local[BINS * COPIES];
  local[threadIdx.x] = 0;
  // The counts are zeros.
  __syncthreads();
#pragma unroll 1
  for (int i = blockIdx.x * THREADS + threadIdx.x; i < n; i += gridDim.x * THREADS)
    atomicAdd(&local[x[i] * COPIES + threadIdx.x % COPIES], 1);
  // The counts are complete.
  __syncthreads();
  atomicAdd(&counts[threadIdx.x / COPIES], local[threadIdx.x]);
}
