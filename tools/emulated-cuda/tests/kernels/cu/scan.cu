// Inclusive prefix sums.
#include "ptx.cuh"

constexpr int THREADS = 256, WARPS = THREADS / WARP;

template <class T>
__device__ __forceinline__ T warp_scan(T x) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int delta = 1; delta < int(WARP); delta *= 2) {
    const T left = __shfl_up_sync(ALL, x, delta);
    if (lane >= delta) x += left;
  }
  return x;
}

// Prefix sum over the block; `total` gets the sum of all.
template <class T>
__device__ __forceinline__ T block_scan(T x, T* scratch, T& total) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  x = warp_scan(x);
  if (lane == WARP - 1) scratch[warp] = x;
  // Each warp's sum is written.
  __syncthreads();
  T before = 0;
  total = 0;
#pragma unroll
  for (int w = 0; w < WARPS; w++) {
    const T sum = scratch[w];
    if (w + 1 < WARPS && w < warp) before += sum;
    total += sum;
  }
  return before + x;
}

// One block, n up to 256 elements, f32.
extern "C" __global__ void __launch_bounds__(THREADS) scan_block(const float* x, float* y, int n) {
  __shared__ float scratch[WARPS];
  const int i = threadIdx.x;
  float total;
  const float sum = block_scan(i < n ? x[i] : 0.0f, scratch, total);
  if (i < n) y[i] = sum;
}

// Any n, u32, in one pass (decoupled look-back): a block publishes its own sum, adds up what the blocks before it
// published, and publishes its prefix. Tickets give blocks their order, so that a block only waits for blocks that run.
// `ticket`, `flags` (one a block) start as zeros; `sums` and `prefixes` hold one u32 a block.
constexpr u32 HAS_SUM = 1, HAS_PREFIX = 2;

extern "C" __global__ void __launch_bounds__(THREADS)
    scan_lookback(const u32* x, u32* y, u32* ticket, u32* flags, u32* sums, u32* prefixes, int n) {
  __shared__ u32 scratch[WARPS];
  __shared__ u32 order, carry;
  if (threadIdx.x == 0) order = atomicAdd(ticket, 1);
  // The block's place is written.
  __syncthreads();
  const u32 block = order, i = block * THREADS + threadIdx.x;
  u32 total;
  const u32 sum = block_scan(i < n ? x[i] : 0, scratch, total);
  if (threadIdx.x == 0) {
    if (block > 0) {
      sums[block] = total;
      // The sum is there before its flag.
      __threadfence();
      store_relaxed(&flags[block], HAS_SUM);
    }
    u32 before = 0;
    for (u32 other = block; other > 0;) {
      other--;
      u32 flag;
      do flag = load_relaxed(&flags[other]);
      while (flag == 0);
      // The flag is read before what it stands for.
      __threadfence();
      if (flag == HAS_PREFIX) {
        before += load_relaxed(&prefixes[other]);
        break;
      }
      before += load_relaxed(&sums[other]);
    }
    prefixes[block] = before + total;
    // The prefix is there before its flag.
    __threadfence();
    store_relaxed(&flags[block], HAS_PREFIX);
    carry = before;
  }
  // The sum of the blocks before is written.
  __syncthreads();
  if (i < n) y[i] = carry + sum;
}
