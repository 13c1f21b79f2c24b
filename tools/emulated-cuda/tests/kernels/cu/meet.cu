// Blocks that hand data on to each other in global memory, in the ways that are in use.
#include "ptx.cuh"

constexpr int THREADS = 64, WARPS = THREADS / WARP;

// The sum of x[0..n] by the last block to take a ticket (CUDA's threadFenceReduction). `partial` holds one f32 a block; `ticket`
// starts as zero and is left so.
extern "C" __global__ void __launch_bounds__(THREADS)
    last_block(const float* x, float* partial, float* sum, u32* ticket, int n) {
  __shared__ float scratch[WARPS];
  __shared__ bool last;
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const auto block_sum = [&](float mine) {
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) mine += __shfl_xor_sync(ALL, mine, lanes);
    if (lane == 0) scratch[warp] = mine;
    // Each warp's sum is written.
    __syncthreads();
    return scratch[0] + scratch[1];
  };
  static_assert(WARPS == 2, "two sums");
  const int i = blockIdx.x * THREADS + threadIdx.x;
  const float mine = block_sum(i < n ? x[i] : 0.0f);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = mine;
    // The block's sum is there before its ticket.
    __threadfence();
    last = atomicAdd(ticket, 1) == gridDim.x - 1;
  }
  // All know whether theirs is the last block, and have read the sums of the warps.
  __syncthreads();
  if (!last) return;
  float all = 0;
#pragma unroll 1
  for (int block = threadIdx.x; block < gridDim.x; block += THREADS) all += partial[block];
  all = block_sum(all);
  if (threadIdx.x == 0) {
    *sum = all;
    *ticket = 0;
  }
}

// c[i] = the sum over k of x[k][i], where the blocks of blockIdx.x share 64 of the columns and add to them in turn, in the order of
// blockIdx.y: bit for bit the same always. `lock` holds one u32 for each blockIdx.x and starts as zeros (CUTLASS's semaphore).
extern "C" __global__ void __launch_bounds__(THREADS) in_turn(const float* x, float* c, u32* lock, int n) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  const float mine = i < n ? x[blockIdx.y * n + i] : 0.0f;
  if (threadIdx.x == 0) {
    while (load_acquire(&lock[blockIdx.x]) != blockIdx.y);
  }
  // It is this block's turn.
  __syncthreads();
  if (i < n) c[i] = blockIdx.y == 0 ? mine : c[i] + mine;
  // All threads have added theirs.
  __syncthreads();
  if (threadIdx.x == 0) store_release(&lock[blockIdx.x], blockIdx.y + 1);
}

// y[b] = x[0] + ... + x[b], handed on from block to block by flags. `flags` holds one u32 a block and starts as zeros.
extern "C" __global__ void __launch_bounds__(WARP) hand_on(const u32* x, u32* y, u32* flags) {
  const u32 block = blockIdx.x;
  u32 before = 0;
  if (block > 0) {
    if (threadIdx.x == 0) {
      while (load_volatile(&flags[block - 1]) == 0);
      // The flag is read before what it stands for.
      __threadfence();
    }
    // The first lane has waited for all.
    __syncwarp();
    before = y[block - 1];
  }
  if (threadIdx.x != 1) return;
  y[block] = before + x[block];
  // The sum is there before its flag.
  __threadfence();
  store_volatile(&flags[block], 1);
}
