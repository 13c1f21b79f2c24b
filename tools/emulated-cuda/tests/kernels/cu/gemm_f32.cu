// c = a b. a: [m, k], b: [k, n], c: [m, n], all f32, row by row; any size.
//
// A block of 256 threads makes 32 x 32 of c, four rows a thread; tiles of 16 along k. Deterministic: each c is one sum in
// the order of k.
#include "ptx.cuh"

constexpr int TILE = 32, TILE_K = 16, ROWS = 4, THREADS = 256;
static_assert(TILE * TILE == ROWS * THREADS && TILE * TILE_K == 2 * THREADS, "whole tiles");

extern "C" __global__ void __launch_bounds__(THREADS)
    gemm_f32(const float* a, const float* b, float* c, int m, int n, int k) {
  __shared__ float tile_a[TILE][TILE_K];
  __shared__ float tile_b[TILE_K][TILE];
  const int x = threadIdx.x % TILE, y = threadIdx.x / TILE;
  const int row0 = blockIdx.y * TILE, col = blockIdx.x * TILE + x;

  float sum[ROWS] = {};
#pragma unroll 1
  for (int k0 = 0; k0 < k; k0 += TILE_K) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int id = threadIdx.x + i * THREADS;
      const int ra = id / TILE_K, ka = k0 + id % TILE_K, kb = k0 + id / TILE;
      tile_a[ra][id % TILE_K] = row0 + ra < m && ka < k ? a[(row0 + ra) * k + ka] : 0.0f;
      tile_b[id / TILE][x] = kb < k && col < n ? b[kb * n + col] : 0.0f;
    }
    // The tiles are written.
    __syncthreads();
#pragma unroll
    for (int kk = 0; kk < TILE_K; kk++)
#pragma unroll
      for (int i = 0; i < ROWS; i++) sum[i] += tile_a[y * ROWS + i][kk] * tile_b[kk][x];
    // The tiles are read; the next round overwrites them.
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const int row = row0 + y * ROWS + i;
    if (row < m && col < n) c[row * n + col] = sum[i];
  }
}
