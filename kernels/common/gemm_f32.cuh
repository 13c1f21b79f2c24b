// C = A B + bias in f32 on the ordinary cores: for operands that are not both bf16. A, B and C are f32 or bf16 each, sums f32;
// C: [m, n]. An operand lies with k along its rows (K_MAJOR) or across them, as in gemm.cuh. All sizes are free. Deterministic:
// each element of C is one sum, in the order of k.
//
// A block of 256 threads makes 64 x 64 of C, a thread 4 x 4; tiles of 16 along k pass through shared memory as f32.
#pragma once

#include "elements.cuh"

namespace gemm_f32 {

constexpr int TILE = 64, TILE_K = 16, THREADS = 256, PER_THREAD = 4;
constexpr int STRIDE = TILE + 4;  // keeps the rows of float4 aligned and apart in the banks
static_assert(TILE * TILE == THREADS * PER_THREAD * PER_THREAD, "the threads cover the tile");

// Element (outer, k) of the tiles at (outer0, k0) of a matrix; zero outside.
template <bool K_MAJOR, class T>
__device__ __forceinline__ void fetch(float (&tile)[TILE_K][STRIDE], const T* x, long long ld, int outer0, int k0, int outer_end,
                                      int k_end) {
#pragma unroll
  for (int i = 0; i < TILE * TILE_K / THREADS; i++) {
    const int id = threadIdx.x + i * THREADS;
    const int outer = K_MAJOR ? id / TILE_K : id % TILE, k = K_MAJOR ? id % TILE_K : id / TILE;
    const long long at = K_MAJOR ? (outer0 + outer) * ld + k0 + k : (k0 + k) * ld + outer0 + outer;
    tile[k][outer] = outer0 + outer < outer_end && k0 + k < k_end ? to_f32(x[at]) : 0.0f;
  }
}

// The kernel's body. `bias` may be null; where `add` is set, the product is added to what C holds.
template <bool A_K_MAJOR, bool B_K_MAJOR, class A, class B, class C>
__device__ __forceinline__ void run(const A* a, const B* b, long long lda, long long ldb, const float* bias, C* c, long long ldc,
                                    int m, int n, int k, bool add = false) {
  __shared__ __align__(16) float tile_a[TILE_K][STRIDE], tile_b[TILE_K][STRIDE];
  const int tiles_n = (n + TILE - 1) / TILE, m0 = blockIdx.x / tiles_n * TILE, n0 = blockIdx.x % tiles_n * TILE;
  const int row0 = threadIdx.x / (TILE / PER_THREAD) * PER_THREAD, col0 = threadIdx.x % (TILE / PER_THREAD) * PER_THREAD;
  float sum[PER_THREAD][PER_THREAD] = {};
#pragma unroll 1
  for (int k0 = 0; k0 < k; k0 += TILE_K) {
    fetch<A_K_MAJOR>(tile_a, a, lda, m0, k0, m, k);
    fetch<B_K_MAJOR>(tile_b, b, ldb, n0, k0, n, k);
    __syncthreads();  // Hazard: the tiles are read by other threads than wrote them.
#pragma unroll
    for (int i = 0; i < TILE_K; i++) {
      const float4 va = *reinterpret_cast<const float4*>(&tile_a[i][row0]);
      const float4 vb = *reinterpret_cast<const float4*>(&tile_b[i][col0]);
      const float left[] = {va.x, va.y, va.z, va.w}, right[] = {vb.x, vb.y, vb.z, vb.w};
#pragma unroll
      for (int r = 0; r < PER_THREAD; r++) {
#pragma unroll
        for (int s = 0; s < PER_THREAD; s++) sum[r][s] = fmaf(left[r], right[s], sum[r][s]);
      }
    }
    __syncthreads();  // Hazard: the next tiles overwrite these.
  }
#pragma unroll
  for (int r = 0; r < PER_THREAD; r++) {
#pragma unroll
    for (int s = 0; s < PER_THREAD; s++) {
      const int row = m0 + row0 + r, col = n0 + col0 + s;
      if (row >= m || col >= n) continue;
      const float base = add ? to_f32(c[row * ldc + col]) : bias == nullptr ? 0.0f : bias[col];
      c[row * ldc + col] = from_f32<C>(sum[r][s] + base);
    }
  }
}

}  // namespace gemm_f32
