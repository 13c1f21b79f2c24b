// The long product of a linear layer with adapters, whose base may be of several kinds: what kernels/lora_matmul.cu says. Here is what
// they share.
#pragma once

#include "gemm_f32.cuh"
#include "low_rank.cuh"

namespace lora {

using low_rank::CHUNK, low_rank::ROWS, low_rank::Rows, low_rank::rows_of, low_rank::STEP, low_rank::THREADS;

// The second pair of operands of the long product: u or v, and the factors of the adapters; and what the mask does to it. T is half_t, or
// float on the ordinary cores. A parameter of kernels, by value; src/ops/quantized_matmul/cuda.rs has the same.
template <class T> struct Adapters {
  const T* rank_rows;
  const T* factor;
  const int4* segments;  // null: one adapter for all rows
  const int2* meets;     // the segments that each tile of rows meets: from, to
  const u32* keep;       // null: no mask
  long long ld_factor, factor_stride;
  int inner;  // the length of a row of rank_rows: in 16 bits of all pieces, in f32 the padded rank
  int rank, words;
  float keep_scale;
};

// Rows m0 .. m0 + 128 of u or v, as far as they are in `rows`.
__device__ __forceinline__ void fetch_rank(half_t* tile, const half_t* rank, int inner, int m0, Rows rows, int k0) {
#pragma unroll
  for (int i = 0; i < gemm::TILE_ELEMENTS / CHUNK / THREADS; i++) {
    const int id = threadIdx.x + i * THREADS, row = m0 + id / (STEP / CHUNK), chunk = id % (STEP / CHUNK), across = k0 + chunk * CHUNK;
    // The rank is a whole number of chunks.
    const bool inside = row >= rows.begin && row < rows.end && across < inner;
    copy_async_16(tile + gemm::place<true>(id / (STEP / CHUNK), chunk), inside ? rank + u64(row) * inner + across : rank, inside ? 16 : 0);
  }
}

// Keeps of the adapter's part what the dropout kept of x.
__device__ __forceinline__ void mask_sums(gemm::Sums& sum, const Adapters<half_t>& adapters, gemm::Corner block, int m) {
  const gemm::Corner warp = gemm::corner_of_warp();
  const int lane = threadIdx.x % 32, word0 = (block.n0 + warp.n0) / 32;
#pragma unroll
  for (int i = 0; i < gemm::WARP_M / 16; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = block.m0 + warp.m0 + i * 16 + half * 8 + lane / 4;
      u32 kept[gemm::WARP_N / 32];
#pragma unroll
      for (int w = 0; w < gemm::WARP_N / 32; w++) {
        const bool inside = row < m && word0 + w < adapters.words;
        kept[w] = inside ? adapters.keep[u64(row) * adapters.words + word0 + w] >> lane % 4 * 2 : 0;
      }
#pragma unroll
      for (int j = 0; j < gemm::WARP_N / 8; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& value = sum[i][j][2 * half + e];
          value = kept[j / 4] >> (j % 4 * 8 + e) & 1 ? value * adapters.keep_scale : 0.0f;
        }
      }
    }
  }
}

// The steps of the long product that go through the rank of each segment that the block's rows meet; none without adapters, and none in a
// piece of the product that begins further along k: they are the first piece's.
template <bool B_K_MAJOR> struct RankSteps {
  const Adapters<half_t>& adapters;
  gemm::Corner block;
  int m, n, first, of_segment, count;

  __device__ __forceinline__ RankSteps(const Adapters<half_t>& adapters, gemm::Corner block, int m, int n, int from)
      : adapters(adapters), block(block), m(m), n(n) {
    const int2 meets = adapters.segments == nullptr ? make_int2(0, 1) : adapters.meets[block.m0 / ROWS];
    first = meets.x;
    of_segment = (adapters.inner + STEP - 1) / STEP;
    count = from == 0 ? (meets.y - meets.x) * of_segment : 0;
  }

  __device__ __forceinline__ void bring(half_t* stage, int step) const {
    const Rows rows = rows_of(adapters.segments, first + step / of_segment, m, m);
    const int k0 = step % of_segment * STEP;
    fetch_rank(stage, adapters.rank_rows, adapters.inner, block.m0, rows, k0);
    const half_t* factor = adapters.factor + rows.adapter * adapters.factor_stride;
    gemm::fetch<B_K_MAJOR, true>(stage + gemm::TILE_ELEMENTS, {factor, adapters.ld_factor, n, adapters.inner}, block.n0, k0);
  }
};

// In f32 on the ordinary cores u and v are f32 [M, padded], the factors are f32 as they are, and a tile is half as high.
using gemm_f32::Part;
constexpr int SMALL = gemm_f32::TILE;
static_assert(ROWS == 2 * SMALL, "a range of rows is two tiles");

// c = epilogue(mask(rank factor) + a b), with the factor B [n, rank] forward (B_K_MAJOR), A [rank, n] backward; or pieces of it. `b` is a
// gemm_f32::Part, or what reads like one.
template <bool B_K_MAJOR, class X, class W>
__device__ __forceinline__ void up_f32(const X* a, const W& b, const Adapters<float>& adapters, const Epilogue<X>& epilogue, X* c, int m,
                                       int n, int k, const stream_k::Shares& shares) {
  __shared__ gemm_f32::Tiles shared;
  stream_k::Pieces piece(shares, gemm_f32::tiles_of(m, n), k);
  do {
    const gemm_f32::Corner block = gemm_f32::corner_of_tile(piece.tile, n);
    gemm_f32::Sums sum = {};
    if (piece.from == 0) {
      const int2 meets = adapters.segments == nullptr ? make_int2(0, 1) : adapters.meets[block.m0 / ROWS];
      for (int i = meets.x; i < meets.y; i++) {
        const Rows rows = rows_of(adapters.segments, i, m, m);
        const Part<float> of_rows{adapters.rank_rows, adapters.inner, rows.begin, rows.end};
        const Part<float> factor{adapters.factor + rows.adapter * adapters.factor_stride, adapters.ld_factor, 0, n};
        gemm_f32::accumulate<true, B_K_MAJOR>(sum, shared, of_rows, factor, block.m0, block.n0, 0, adapters.rank);
      }
      if (adapters.keep != nullptr) {
        const int row0 = block.m0 + gemm_f32::row_of_thread(), col0 = block.n0 + gemm_f32::col_of_thread();
#pragma unroll
        for (int r = 0; r < gemm_f32::PER_THREAD; r++) {
#pragma unroll
          for (int s = 0; s < gemm_f32::PER_THREAD; s++) {
            const int row = row0 + r, col = col0 + s;
            const bool kept = row < m && col < n && adapters.keep[u64(row) * adapters.words + col / 32] >> col % 32 & 1;
            sum[r][s] = kept ? sum[r][s] * adapters.keep_scale : 0.0f;
          }
        }
      }
    }
    gemm_f32::accumulate<true, B_K_MAJOR>(sum, shared, Part<X>{a, k, 0, m}, b, block.m0, block.n0, piece.from, piece.to);
    gemm_f32::write(sum, block, m, n, piece, epilogue, c, n);
  } while (piece.next());
}

// What a row's adapter adds to column `col` of y.
template <class F> struct FewUp {
  const float* u;  // [m, padded]
  const F* b;
  const int* adapter_of;
  int rank, padded, n;

  __device__ __forceinline__ float operator()(float sum, int row, int col) const {
    const int adapter = adapter_of == nullptr ? 0 : adapter_of[row];
    if (adapter < 0) return sum;
    const F* factor = b + (u64(adapter) * n + col) * rank;
    float of_adapter = 0.0f;
#pragma unroll 4
    for (int j = 0; j < rank; j++) of_adapter = fmaf(u[row * padded + j], to_f32(factor[j]), of_adapter);
    return sum + of_adapter;
  }
};

}  // namespace lora
