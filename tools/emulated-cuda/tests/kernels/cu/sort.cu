// Sorts each block's 256 keys, ascending, in shared memory (Batcher's bitonic network); n keys in all, the last block's
// missing keys count as the largest.
//
// With strides below 32 a warp stays within 64 keys of its own: such steps need only the warp to be in step.
#include "ptx.cuh"

constexpr int KEYS = 256, THREADS = KEYS / 2;

extern "C" __global__ void __launch_bounds__(THREADS) sort_blocks(u32* keys, int n) {
  __shared__ u32 tile[KEYS];
  const int start = blockIdx.x * KEYS;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int i = threadIdx.x + half * THREADS;
    tile[i] = start + i < n ? keys[start + i] : 0xffffffff;
  }
  // The keys are in the tile.
  __syncthreads();

#pragma unroll 1
  for (int size = 2; size <= KEYS; size *= 2)
#pragma unroll 1
    for (int stride = size / 2;; stride /= 2) {
      // The step before wrote what this one reads: other warps did for a wide stride or after one, this warp alone else.
      if (stride >= int(WARP))
        __syncthreads();
      else
        __syncwarp();
      const int low = 2 * threadIdx.x - (threadIdx.x & (stride - 1)), high = low + stride;
      const bool ascending = (low & size) == 0;
      const u32 a = tile[low], b = tile[high];
      if ((a > b) == ascending) tile[low] = b, tile[high] = a;
      if (stride == 1) break;
    }
  // The keys are in order.
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int i = threadIdx.x + half * THREADS;
    if (start + i < n) keys[start + i] = tile[i];
  }
}
