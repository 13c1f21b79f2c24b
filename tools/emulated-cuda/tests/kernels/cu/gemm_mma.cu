// c = a b on tensor cores. a: [m, k] bf16, b: [k, n] bf16, c: [m, n] f32, row by row; lda and ldb count elements and are
// multiples of 8 (a row starts where a 16-byte copy may), m, n and k are free.
//
// A block makes 64 x 64 of c with 2 x 2 warps; tiles of 32 along k come in through a ring of three stages. Ragged edges
// are zeros that cp.async fills in. 16-byte chunks of a row are permuted, so that neither the copies nor ldmatrix hit a
// bank twice. Deterministic: each c is one sum in the order of k.
#include "ptx.cuh"

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32, STAGES = 3, THREADS = 128;
constexpr int CHUNK = 8;  // elements of 16 bytes

struct Stage {
  bf16 a[TILE_M * TILE_K];
  bf16 b[TILE_K * TILE_N];
};

// Four chunks a row, two rows a bank line.
__device__ __forceinline__ int at_a(int row, int chunk) { return row * TILE_K + (chunk ^ (row >> 1 & 3)) * CHUNK; }
// Eight chunks a row, one row a bank line.
__device__ __forceinline__ int at_b(int row, int chunk) { return row * TILE_N + (chunk ^ (row & 7)) * CHUNK; }

// Bytes of a chunk that starts `left` elements before the end of its row.
__device__ __forceinline__ u32 chunk_bytes(int left) { return 2 * min(max(left, 0), CHUNK); }

extern "C" __global__ void __launch_bounds__(THREADS)
    gemm_mma(const bf16* a, const bf16* b, float* c, int m, int n, int k, int lda, int ldb) {
  alignas(128) __shared__ Stage ring[STAGES];
  const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
  const int m0 = blockIdx.y * TILE_M, n0 = blockIdx.x * TILE_N;
  const int warp_m = warp / 2 * 32, warp_n = warp % 2 * 32;
  const int tiles = (k + TILE_K - 1) / TILE_K;

  auto fetch = [&](int tile) {
    Stage& stage = ring[tile % STAGES];
#pragma unroll
    for (int i = 0; i < TILE_M * TILE_K / CHUNK / THREADS; i++) {
      const int id = thread + i * THREADS, row = id / 4, chunk = id % 4;
      const int col = tile * TILE_K + chunk * CHUNK;
      const u32 bytes = m0 + row < m ? chunk_bytes(k - col) : 0;
      copy_async(&stage.a[at_a(row, chunk)], a + (long long)(m0 + row) * lda + col, bytes);
    }
#pragma unroll
    for (int i = 0; i < TILE_K * TILE_N / CHUNK / THREADS; i++) {
      const int id = thread + i * THREADS, row = id / 8, chunk = id % 8;
      const int col = n0 + chunk * CHUNK;
      const u32 bytes = tile * TILE_K + row < k ? chunk_bytes(n - col) : 0;
      copy_async(&stage.b[at_b(row, chunk)], b + (long long)(tile * TILE_K + row) * ldb + col, bytes);
    }
  };

#pragma unroll 1
  for (int tile = 0; tile < STAGES - 1; tile++) {
    if (tile < tiles) fetch(tile);
    copy_commit();
  }

  float sum[2][4][4] = {};
#pragma unroll 1
  for (int tile = 0; tile < tiles; tile++) {
    copy_wait<STAGES - 2>();
    // Every thread's part of this tile is there, and the tile before, whose stage the next fetch fills, has been read.
    __syncthreads();
    if (tile + STAGES - 1 < tiles) fetch(tile + STAGES - 1);
    copy_commit();

    const Stage& stage = ring[tile % STAGES];
#pragma unroll
    for (int step = 0; step < TILE_K / 16; step++) {
      u32 fa[2][4], fb[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        load_matrices(fa[i], &stage.a[at_a(warp_m + 16 * i + lane % 16, 2 * step + lane / 16)]);
        load_matrices_transposed(fb[i], &stage.b[at_b(16 * step + lane % 16, (warp_n + 16 * i) / CHUNK + lane / 16)]);
      }
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma_bf16(sum[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
    }
  }

#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = m0 + warp_m + 16 * i + 8 * half + lane / 4;
      if (row >= m) continue;
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int col = n0 + warp_n + 8 * j + lane % 4 * 2 + e;
          if (col < n) c[(long long)row * n + col] = sum[i][j][2 * half + e];
        }
    }
}
