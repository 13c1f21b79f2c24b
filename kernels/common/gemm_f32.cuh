// C = epilogue(A B) in f32 on the ordinary cores (epilogue.cuh): for operands that are not both half_t (elements.cuh). A, B and C are
// f32 or half_t each, sums f32; C: [m, n]. An operand lies with k along its rows (K_MAJOR) or across them, as in gemm.cuh. All sizes
// are free. Deterministic: each element of C is one sum, in the order of k, or the sum of parts as in gemm.cuh.
//
// A block of 256 threads makes 64 x 64 of C, a thread 4 x 4; tiles of 16 along k pass through shared memory as f32.
#pragma once

#include "elements.cuh"
#include "epilogue.cuh"
#include "stream_k.cuh"

namespace gemm_f32 {

constexpr int TILE = 64, TILE_K = 16, THREADS = 256, PER_THREAD = 4;
constexpr int STRIDE = TILE + 4;  // keeps the rows of float4 aligned and apart in the banks
static_assert(TILE * TILE == THREADS * PER_THREAD * PER_THREAD, "the threads cover the tile");

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

  __device__ __forceinline__ float at(long long row, int col) const {
    if (keep != nullptr && !(keep[row * words + col / 32] >> col % 32 & 1)) return 0.0f;
    return to_f32(data[row * ld + col]);
  }
};

// Where a tile of C begins, by its number.
struct Corner {
  int m0, n0;
};
__device__ __forceinline__ Corner corner_of_tile(u32 tile, int n) {
  const u32 tiles_n = (n + TILE - 1) / TILE;
  return {static_cast<int>(tile / tiles_n) * TILE, static_cast<int>(tile % tiles_n) * TILE};
}
__device__ __forceinline__ int tiles_of(int m, int n) { return (m + TILE - 1) / TILE * ((n + TILE - 1) / TILE); }

// Element (outer, k) of the tiles at (outer0, k0); zero outside.
template <bool K_MAJOR, class Part>
__device__ __forceinline__ void fetch(float (&tile)[TILE_K][STRIDE], const Part& x, int outer0, int k0, int k_end) {
#pragma unroll
  for (int i = 0; i < TILE * TILE_K / THREADS; i++) {
    const int id = threadIdx.x + i * THREADS;
    const int down = K_MAJOR ? id / TILE_K : id % TILE, along = K_MAJOR ? id % TILE_K : id / TILE;
    const int outer = outer0 + down, k = k0 + along;
    const long long row = K_MAJOR ? outer : k;
    const int col = K_MAJOR ? k : outer;
    const bool inside = outer >= x.begin && outer < x.end && k < k_end;
    tile[along][down] = inside ? x.at(row, col) : 0.0f;
  }
}

// sum += A B over `k_begin` to `k_end`.
template <bool A_K_MAJOR, bool B_K_MAJOR, class A, class B>
__device__ __forceinline__ void accumulate(Sums& sum, Tiles& tiles, const A& a, const B& b, int m0, int n0, int k_begin,
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

// Writes a thread's part of the tile at (m0, n0) of C. C may be the epilogue's operand itself.
template <class C>
__device__ __forceinline__ void write(const Sums& sum, int m0, int n0, int m, int n, const Epilogue<C>& epilogue, C* c, long long ldc) {
  const int row0 = m0 + row_of_thread(), col0 = n0 + col_of_thread(), count = min(n - col0, PER_THREAD);
  if (count <= 0) return;
  float bias[PER_THREAD];
#pragma unroll
  for (int s = 0; s < PER_THREAD; s++) bias[s] = epilogue.bias != nullptr && s < count ? epilogue.bias[col0 + s] : 0.0f;
  // Not unrolled, as an activation of all elements of a thread would be long.
#pragma unroll 1
  for (int r = 0; r < PER_THREAD && row0 + r < m; r++) {
    float z[PER_THREAD];
#pragma unroll
    for (int s = 0; s < PER_THREAD; s++) {
      z[s] = (r == 0 ? sum[0][s] : r == 1 ? sum[1][s] : r == 2 ? sum[2][s] : sum[3][s]) + bias[s];
    }
    epilogue.finish(z, c, (row0 + r) * ldc + col0, count);
  }
}

// Writes what a block has made: its tile of C, or a piece of one (stream_k.cuh), of which what is of C, in fours.
template <class Piece, class C>
__device__ __forceinline__ void write(const Sums& sum, Corner block, int m, int n, const Piece& piece, const Epilogue<C>& epilogue, C* c,
                                      long long ldc) {
  if (piece.is_whole()) {
    write(sum, block.m0, block.n0, m, n, epilogue, c, ldc);
    return;
  }
  const int row0 = row_of_thread(), col0 = col_of_thread();
  if (block.n0 + col0 >= n) return;
#pragma unroll
  for (int r = 0; r < PER_THREAD; r++) {
    if (block.m0 + row0 + r < m) store<PER_THREAD>(piece.template part<TILE>() + (row0 + r) * TILE + col0, sum[r]);
  }
}

// The kernel's body, for a block that makes pieces of tiles.
template <bool A_K_MAJOR, bool B_K_MAJOR, class Piece, class A, class B, class C>
__device__ __forceinline__ void run_pieces(Piece piece, const A* a, const B* b, long long lda, long long ldb, const Epilogue<C>& epilogue,
                                           C* c, long long ldc, int m, int n) {
  __shared__ Tiles tiles;
  do {
    const Corner block = corner_of_tile(piece.tile, n);
    Sums sum = {};
    accumulate<A_K_MAJOR, B_K_MAJOR>(sum, tiles, Part<A>{a, lda, 0, m}, Part<B>{b, ldb, 0, n}, block.m0, block.n0, piece.from, piece.to);
    write(sum, block, m, n, piece, epilogue, c, ldc);
  } while (piece.next());
}

// The same, for a block that makes the tile of its number.
template <bool A_K_MAJOR, bool B_K_MAJOR, class A, class B, class C>
__device__ __forceinline__ void run(const A* a, const B* b, long long lda, long long ldb, const Epilogue<C>& epilogue, C* c,
                                    long long ldc, int m, int n, int k) {
  run_pieces<A_K_MAJOR, B_K_MAJOR>(stream_k::Whole(k), a, b, lda, ldb, epilogue, c, ldc, m, n);
}

}  // namespace gemm_f32
