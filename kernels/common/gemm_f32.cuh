// C = A B + bias in f32 on the ordinary cores: for operands that are not both half_t (elements.cuh). A, B and C are f32 or half_t each, sums f32;
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

// The parts of `run`, for kernels whose sums go over a range of k, over some rows only, or over what a mask keeps of A.

struct Tiles {
  __align__(16) float a[TILE_K][STRIDE];
  __align__(16) float b[TILE_K][STRIDE];
};

// A thread's part of a tile of C: element [r][s] is at row `row_of_thread() + r` and column `col_of_thread() + s`.
using Sums = float[PER_THREAD][PER_THREAD];
__device__ __forceinline__ int row_of_thread() { return threadIdx.x / (TILE / PER_THREAD) * PER_THREAD; }
__device__ __forceinline__ int col_of_thread() { return threadIdx.x % (TILE / PER_THREAD) * PER_THREAD; }

// An operand, of which the part `begin` to `end` along m or n counts. `keep`, unless it is null, is a bit for each element as it
// lies in memory: that of (row, col) is bit col % 32 of word col / 32 of `words` in the row; where it is 0, so is the element.
template <class T> struct Part {
  const T* data;
  long long ld;
  int begin, end;
  const u32* keep = nullptr;
  int words = 0;
};

template <bool K_MAJOR, class T>
__device__ __forceinline__ void fetch(float (&tile)[TILE_K][STRIDE], const Part<T>& x, int outer0, int k0, int k_end) {
#pragma unroll
  for (int i = 0; i < TILE * TILE_K / THREADS; i++) {
    const int id = threadIdx.x + i * THREADS;
    const int down = K_MAJOR ? id / TILE_K : id % TILE, along = K_MAJOR ? id % TILE_K : id / TILE;
    const int outer = outer0 + down, k = k0 + along;
    const long long row = K_MAJOR ? outer : k;
    const int col = K_MAJOR ? k : outer;
    bool inside = outer >= x.begin && outer < x.end && k < k_end;
    if (inside && x.keep != nullptr) inside = x.keep[row * x.words + col / 32] >> col % 32 & 1;
    tile[along][down] = inside ? to_f32(x.data[row * x.ld + col]) : 0.0f;
  }
}

// sum += A B over `k_begin` to `k_end`.
template <bool A_K_MAJOR, bool B_K_MAJOR, class A, class B>
__device__ __forceinline__ void accumulate(Sums& sum, Tiles& tiles, const Part<A>& a, const Part<B>& b, int m0, int n0, int k_begin,
                                           int k_end) {
  const int row0 = row_of_thread(), col0 = col_of_thread();
#pragma unroll 1
  for (int k0 = k_begin; k0 < k_end; k0 += TILE_K) {
    fetch<A_K_MAJOR>(tiles.a, a, m0, k0, k_end);
    fetch<B_K_MAJOR>(tiles.b, b, n0, k0, k_end);
    __syncthreads();  // Hazard: the tiles are read by other threads than wrote them.
#pragma unroll
    for (int i = 0; i < TILE_K; i++) {
      const float4 va = *reinterpret_cast<const float4*>(&tiles.a[i][row0]);
      const float4 vb = *reinterpret_cast<const float4*>(&tiles.b[i][col0]);
      const float left[] = {va.x, va.y, va.z, va.w}, right[] = {vb.x, vb.y, vb.z, vb.w};
#pragma unroll
      for (int r = 0; r < PER_THREAD; r++) {
#pragma unroll
        for (int s = 0; s < PER_THREAD; s++) sum[r][s] = fmaf(left[r], right[s], sum[r][s]);
      }
    }
    __syncthreads();  // Hazard: the next tiles overwrite these.
  }
}

}  // namespace gemm_f32
