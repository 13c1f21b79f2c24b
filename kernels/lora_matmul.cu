// A linear layer with a low-rank adapter (LoRA, arXiv 2106.09685), or with several in one batch, each for its own rows.
//
//   u = s x~ A^T             [M, r]         x~ = dropout(x): keep(i) ? x[i] / (1 - p) : 0, keep as in dropout.cu
//   y = epilogue(x W^T + u B^T) [M, out]    one product, whose inner dimension is that of the adapter and then the layer's; bias,
//                                           and a residual, an activation or a gate (common/epilogue.cuh)
//   v = s dy B               [M, r]
//   dx = dropout'(v A) + dy W + residual    one product too: the mask is put on the sums in registers, after the adapter's part; the
//                                           residual is the gradient that x has already, if any
//   dA = v^T x~ [r, in]   dB = dy^T u [out, r]
//
// Shapes: x, dx [M, in]; W [out, in]; A [r, in], B [out, r], or stacked [E, r, in], [E, out, r]; any sizes, r rounded up to 8
// (`padded`) inside. Saved for backward: x, u, and what an activation was made of. The mask is drawn again: as a bit an element, once a
// backward. Everything is overwritten. Deterministic: sums over long dimensions go over parts whose bounds follow from the shapes, and
// the parts are added in order. x is read once by each product that needs it.
//
// x and W both bf16: tensor cores. What is f32 then (u, v, and A and B where they are) becomes two bf16, hi = bf16(z) and
// lo = bf16(z - hi), which together keep 16 bits of it (both f16: the same with two f16, which keep 22 bits, but none below 2^-25, and
// nothing above 65504): u B^T = [u_hi u_lo u_hi] [B_hi B_hi B_lo]^T, and so on, so that the adapter
// is as exact as in f32 to within 2^-16 (rounding u alone to bf16, as autocast does, costs 2^-9). That is 3 r of inner dimension
// where the naive product has r: 0.8 % of a product over 4096 at r = 16. With A and B in bf16 their low parts are left out. The
// mask's 1 / (1 - p) goes to the sums, so that x~ is x, exactly, with zeros.
// Else: f32 on the ordinary cores, with the same steps.
//
// Tiles: the long product is common/gemm.cuh's, and shared out among blocks as that is (common/stream_k.cuh): of a tile that is made in
// pieces the first goes through the rank. `down` (u, v) is memory-bound on x: 128 rows a block, 32 a warp, all of a rank
// of up to 64, tiles of 32 columns in 4 stages; split over the columns where there are too few rows to fill a GPU. A thread draws the
// 32 bits of its row, and they reach the fragments by shuffles. `parts` (dA, dB in one launch) is memory-bound on x and dy: 128 of
// their columns a block, split over the rows.
// Up to 16 rows without a mask: kernels/gemv.cu's product, whose last step adds the adapter's part in f32; u comes from a kernel of
// its own, a block an element. A row's bits do not depend on the other rows.
// Several adapters: a tile of rows of `down` and of `parts` is one adapter's (table of row ranges). The long product shares its
// base among all rows: a tile goes through the rank of each segment that it meets, with other segments' rows of u as zeros.
#include "common/gemm_f32.cuh"
#include "common/gemv.cuh"
#include "common/lora.cuh"
#include "common/rows.cuh"

namespace lora {

// c = epilogue(mask(rank factor) + a b), or pieces of it.
template <bool B_K_MAJOR, bool ALIGNED, bool MASKED>
__device__ __forceinline__ void up(const gemm::Operand a, const gemm::Operand b, const Adapters<half_t>& adapters,
                                   const Epilogue<half_t> epilogue, half_t* c, const stream_k::Shares& shares) {
  extern __shared__ __align__(128) unsigned char smem[];
  half_t* ring = reinterpret_cast<half_t*>(smem);
  const int m = a.outer, n = b.outer;
  stream_k::Pieces piece(shares, gemm::tiles_of(m, n), a.k);
  while (true) {
    const gemm::Corner block = gemm::corner_of_tile(piece.tile, m, n);
    const int from = piece.from;
    const RankSteps<B_K_MAJOR> rank(adapters, block, m, n, from);
    const int steps = rank.count + (piece.to - from + STEP - 1) / STEP;
    const gemm::Tiles<true, ALIGNED> tiles_a(a, block.m0);
    const gemm::Tiles<B_K_MAJOR, ALIGNED> tiles_b(b, block.n0);
    auto bring = [&](half_t* stage, int step) {
      if (step < rank.count) {
        rank.bring(stage, step);
      } else {
        const int k0 = from + (step - rank.count) * STEP;
        tiles_a.fetch(stage, k0);
        tiles_b.fetch(stage + gemm::TILE_ELEMENTS, k0);
      }
    };
    gemm::Sums sum = {};
    gemm::start(ring, steps, bring);
    if constexpr (!MASKED) {
      gemm::advance<true, B_K_MAJOR>(sum, ring, 0, steps, steps, bring);
    } else {
      gemm::advance<true, B_K_MAJOR>(sum, ring, 0, rank.count, steps, bring);
      if (rank.count > 0 && adapters.keep != nullptr) mask_sums(sum, adapters, block, m);
      gemm::advance<true, B_K_MAJOR>(sum, ring, rank.count, steps, steps, bring);
    }
    gemm::write(sum, smem, block, m, n, piece, epilogue, c, n);
    if (!piece.next()) return;
    __syncthreads();  // Hazard: the next piece's tiles come where other warps may still read the last ones.
  }
}

// The same in f32 on the ordinary cores.

// As low_rank::down. The factor is [rank, k] (FACTOR_K_MAJOR, for u) or [k, rank] (for v).
template <bool FACTOR_K_MAJOR, class X>
__device__ __forceinline__ void down_f32(const X* x, const float* factor, const u32* keep, int words, const int4* tiles,
                                         const float* scales, float scale, float* parts, int m, int k, int rank, int padded,
                                         int part_steps) {
  __shared__ gemm_f32::Tiles shared;
  const Rows rows = rows_of(tiles, blockIdx.x / 2, ROWS, m);
  const int m0 = rows.begin + blockIdx.x % 2 * SMALL, n0 = blockIdx.y * SMALL;
  if (m0 >= rows.end) return;
  const int begin = blockIdx.z * part_steps * STEP, end = rows.adapter < 0 ? begin : min(begin + part_steps * STEP, k);
  factor += u64(max(rows.adapter, 0)) * rank * k;
  gemm_f32::Sums sum = {};
  gemm_f32::accumulate<true, FACTOR_K_MAJOR>(sum, shared, Part<X>{x, k, rows.begin, rows.end, keep, words},
                                             Part<float>{factor, FACTOR_K_MAJOR ? k : rank, 0, rank}, m0, n0, begin, end);
  if (scales != nullptr && rows.adapter >= 0) scale *= scales[rows.adapter];
#pragma unroll
  for (int r = 0; r < gemm_f32::PER_THREAD; r++) {
#pragma unroll
    for (int s = 0; s < gemm_f32::PER_THREAD; s++) {
      const int row = m0 + gemm_f32::row_of_thread() + r, col = n0 + gemm_f32::col_of_thread() + s;
      if (row < rows.end && col < padded) parts[(u64(blockIdx.z) * m + row) * padded + col] = scale * sum[r][s];
    }
  }
}

// As low_rank::factor_parts.
template <class X>
__device__ __forceinline__ void factor_parts_f32(const X* x, const float* v, const X* dy, const float* u, const u32* keep, int words,
                                                 const int4* chunks, int chunk_rows, float* parts, int m, int k, int n, int padded) {
  __shared__ gemm_f32::Tiles shared;
  const int tiles_x = (k + SMALL - 1) / SMALL;
  const bool is_x = static_cast<int>(blockIdx.x) < tiles_x;
  const int cols = is_x ? k : n, col0 = (blockIdx.x - (is_x ? 0 : tiles_x)) * SMALL, rank0 = blockIdx.y * SMALL;
  const Rows rows = rows_of(chunks, blockIdx.z, chunk_rows, m);
  gemm_f32::Sums sum = {};
  gemm_f32::accumulate<false, false>(sum, shared, Part<X>{is_x ? x : dy, cols, 0, cols, is_x ? keep : nullptr, words},
                                     Part<float>{is_x ? v : u, padded, 0, padded}, col0, rank0, rows.begin, rows.end);
#pragma unroll
  for (int r = 0; r < gemm_f32::PER_THREAD; r++) {
#pragma unroll
    for (int s = 0; s < gemm_f32::PER_THREAD; s++) {
      const int col = col0 + gemm_f32::row_of_thread() + r, j = rank0 + gemm_f32::col_of_thread() + s;
      if (col < cols && j < padded) parts[((u64(blockIdx.z) * (k + n)) + (is_x ? 0 : k) + col) * padded + j] = sum[r][s];
    }
  }
}

// Up to 16 rows, x and W of half_t and without a mask (decoding): W is streamed once as in gemv.cuh, and the factors are used as they are.

// u[row][j] = s sum over k of x[row][k] A[j][k] in f32, j below `padded`; a block each. `adapter_of` has the adapter of each row, -1 for none;
// null: adapter 0.
template <class F>
__device__ __forceinline__ void few_down(const half_t* __restrict__ x, const F* __restrict__ a, const int* adapter_of, const float* scales,
                                         float scale, float* __restrict__ u, int k, int rank, int padded) {
  constexpr int N = 4;
  const int j = blockIdx.x, row = blockIdx.y, adapter = adapter_of == nullptr ? 0 : adapter_of[row];
  float sum[1] = {};
  if (j < rank && adapter >= 0) {
    x += u64(row) * k;
    a += (u64(adapter) * rank + j) * k;
    // k is a multiple of N: rows of x start on 16 bytes.
    for (int at = threadIdx.x * N; at < k; at += blockDim.x * N) {
      float v[N], f[N];
      load<N>(x + at, v);
      load<N>(a + at, f);
#pragma unroll
      for (int i = 0; i < N; i++) sum[0] = fmaf(v[i], f[i], sum[0]);
    }
    if (scales != nullptr) scale *= scales[adapter];
  }
  row_sums(sum, blockDim.x);
  if (threadIdx.x == 0) u[u64(row) * padded + j] = scale * sum[0];
}

}  // namespace lora

#define PACK(NAME, FORWARD, T)                                                                                                    \
  extern "C" __global__ void __launch_bounds__(256) NAME(const T* a, const T* b, half_t* to_a, half_t* to_b, long long lda,           \
                                                         long long ldb, int rank, int padded, int k, int n) {                     \
    low_rank::pack<FORWARD>(a, b, to_a, to_b, lda, ldb, rank, padded, k, n);                                                          \
  }
#define PACKS(HALF)                                         \
  PACK(lora_matmul_fwd_pack_f32_##HALF, true, float)        \
  PACK(lora_matmul_fwd_pack_##HALF##_##HALF, true, half_t)  \
  PACK(lora_matmul_bwd_pack_f32_##HALF, false, float)       \
  PACK(lora_matmul_bwd_pack_##HALF##_##HALF, false, half_t)
OF_HALF(PACKS)

#ifndef WARPTUNE_F16
extern "C" __global__ void __launch_bounds__(256) lora_matmul_keep(u32* bits, int words, int k, u64 seed, u64 stream, u32 threshold) {
  low_rank::keep_bits(bits, words, k, {seed, stream, threshold});
}
#endif

#define DOWN(NAME, RANK, ALIGNED, DROPOUT)                                                                                        \
  extern "C" __global__ void __launch_bounds__(low_rank::THREADS)                                                                     \
      NAME(const half_t* x, const half_t* factor, long long ld, long long factor_stride, u32 has_low, const int4* tiles,              \
           const float* scales, float scale, float* parts, int m, int k, int padded, int part_steps, u64 seed, u64 stream,        \
           u32 threshold) {                                                                                                       \
    low_rank::down<RANK, ALIGNED, DROPOUT>(x, factor, ld, factor_stride, has_low, tiles, scales, scale, parts, m, k, padded,          \
                                       part_steps, {seed, stream, threshold});                                                    \
  }
#define DOWNS(HALF)                                                   \
  DOWN(lora_matmul_down_##HALF##_r16, 16, true, false)                \
  DOWN(lora_matmul_down_##HALF##_r32, 32, true, false)                \
  DOWN(lora_matmul_down_##HALF##_r64, 64, true, false)                \
  DOWN(lora_matmul_down_##HALF##_r32_ragged, 32, false, false)        \
  DOWN(lora_matmul_down_##HALF##_r16_dropout, 16, true, true)         \
  DOWN(lora_matmul_down_##HALF##_r32_dropout, 32, true, true)         \
  DOWN(lora_matmul_down_##HALF##_r64_dropout, 64, true, true)         \
  DOWN(lora_matmul_down_##HALF##_r32_dropout_ragged, 32, false, true)
OF_HALF(DOWNS)

#define RANK_SUMS(NAME, T)                                                                                                        \
  extern "C" __global__ void __launch_bounds__(256) lora_matmul_rank_##NAME(const float* parts, T* to, int count, int m, int padded,       \
                                                                          int pieces) {                                           \
    low_rank::rank_sums(parts, to, count, m, padded, pieces);                                                                         \
  }
OF_TYPES(RANK_SUMS)

// y [m, n] = x [m, k] W^T with W [n, k]; dx [m, n] = dy [m, k] W with W [k, n].
#define UP(NAME, B_K_MAJOR, ALIGNED, MASKED, EPILOGUE)                                                                            \
  extern "C" __global__ void __launch_bounds__(gemm::THREADS)                                                                     \
      NAME(const half_t* a, const half_t* b, lora::Adapters<half_t> adapters, const float* bias, const half_t* operand,           \
           half_t* kept, u32 kind, half_t* c, int m, int n, int k, stream_k::Shares shares) {                                     \
    lora::up<B_K_MAJOR, ALIGNED, MASKED>({a, k, m, k}, {b, B_K_MAJOR ? k : n, n, k}, adapters,                                    \
                                         EPILOGUE(bias, operand, kept, kind), c, shares);                                         \
  }
#define UPS(HALF)                                                              \
  UP(lora_matmul_fwd_##HALF, true, true, false, any_epilogue)                  \
  UP(lora_matmul_fwd_##HALF##_ragged, true, false, false, any_epilogue)        \
  UP(lora_matmul_bwd_input_##HALF, false, true, true, adding_epilogue)         \
  UP(lora_matmul_bwd_input_##HALF##_ragged, false, false, true, adding_epilogue)
OF_HALF(UPS)

#define FACTOR_PARTS(NAME, RANK, ALIGNED)                                                                                         \
  extern "C" __global__ void __launch_bounds__(low_rank::THREADS)                                                                     \
      NAME(const half_t* x, const half_t* v, const half_t* dy, const half_t* u, const u32* keep, int words, const int4* chunks,           \
           int chunk_rows, float* parts, int m, int k, int n, int padded, int inner) {                                            \
    low_rank::factor_parts<RANK, ALIGNED>({x, v, k}, {dy, u, n}, keep, words, chunks, chunk_rows, parts, m, padded, inner);           \
  }
#define ALL_FACTOR_PARTS(HALF)                                       \
  FACTOR_PARTS(lora_matmul_bwd_parts_##HALF##_r16, 16, true)         \
  FACTOR_PARTS(lora_matmul_bwd_parts_##HALF##_r32, 32, true)         \
  FACTOR_PARTS(lora_matmul_bwd_parts_##HALF##_r64, 64, true)         \
  FACTOR_PARTS(lora_matmul_bwd_parts_##HALF##_r32_ragged, 32, false)
OF_HALF(ALL_FACTOR_PARTS)

#ifndef WARPTUNE_F16
extern "C" __global__ void __launch_bounds__(256) lora_matmul_bwd_factors(const float* parts, const int* first, int count, float* da,
                                                                         float* db, int k, int n, int rank, int padded,
                                                                         float keep_scale) {
  low_rank::factor_sums(parts, first, count, da, db, k, n, rank, padded, keep_scale);
}
#endif

// On the ordinary cores, by the types of x (and dy), and of W.
#define DOWN_F32(NAME, FACTOR_K_MAJOR, X)                                                                                         \
  extern "C" __global__ void __launch_bounds__(gemm_f32::THREADS)                                                                 \
      NAME(const X* x, const float* factor, const u32* keep, int words, const int4* tiles, const float* scales, float scale,      \
           float* parts, int m, int k, int rank, int padded, int part_steps) {                                                    \
    lora::down_f32<FACTOR_K_MAJOR>(x, factor, keep, words, tiles, scales, scale, parts, m, k, rank, padded, part_steps);          \
  }
#define DOWNS_F32(NAME, T)                        \
  DOWN_F32(lora_matmul_fwd_down_##NAME, true, T)  \
  DOWN_F32(lora_matmul_bwd_down_##NAME, false, T)
OF_TYPES(DOWNS_F32)

#define UP_F32(NAME, B_K_MAJOR, EPILOGUE, X, W)                                                                                   \
  extern "C" __global__ void __launch_bounds__(gemm_f32::THREADS)                                                                 \
      NAME(const X* a, const W* b, lora::Adapters<float> adapters, const float* bias, const X* operand, X* kept, u32 kind, X* c,  \
           int m, int n, int k, stream_k::Shares shares) {                                                                        \
    lora::up_f32<B_K_MAJOR>(a, gemm_f32::Part<W>{b, B_K_MAJOR ? k : n, 0, n}, adapters, EPILOGUE(bias, operand, kept, kind), c,   \
                            m, n, k, shares);                                                                                     \
  }
#define MIXED_UPS_F32(HALF)                                                        \
  UP_F32(lora_matmul_fwd_f32_##HALF, true, any_epilogue, float, half_t)            \
  UP_F32(lora_matmul_fwd_##HALF##_f32, true, any_epilogue, half_t, float)          \
  UP_F32(lora_matmul_bwd_input_f32_##HALF, false, adding_epilogue, float, half_t)  \
  UP_F32(lora_matmul_bwd_input_##HALF##_f32, false, adding_epilogue, half_t, float)
OF_HALF(MIXED_UPS_F32)
#ifndef WARPTUNE_F16
UP_F32(lora_matmul_fwd_f32_f32, true, any_epilogue, float, float)
UP_F32(lora_matmul_bwd_input_f32_f32, false, adding_epilogue, float, float)
#endif

#define FACTOR_PARTS_F32(NAME, X)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(gemm_f32::THREADS)                                                                 \
      lora_matmul_bwd_parts_##NAME(const X* x, const float* v, const X* dy, const float* u, const u32* keep, int words, const int4* chunks,               \
           int chunk_rows, float* parts, int m, int k, int n, int padded) {                                                       \
    lora::factor_parts_f32(x, v, dy, u, keep, words, chunks, chunk_rows, parts, m, k, n, padded);                                 \
  }
OF_TYPES(FACTOR_PARTS_F32)

#define FEW(NAME, F)                                                                                                              \
  extern "C" __global__ void __launch_bounds__(32 * MAX_WARPS)                                                                    \
      lora_matmul_fwd_down_few_##NAME(const half_t* x, const F* a, const int* adapter_of, const float* scales, float scale,         \
                                      float* u, int k, int rank, int padded) {                                                    \
    lora::few_down(x, a, adapter_of, scales, scale, u, k, rank, padded);                                                          \
  }                                                                                                                               \
  FEW_UP(NAME##_rows8, 1, F)                                                                                                      \
  FEW_UP(NAME##_rows16, 2, F)
#define FEW_UP(NAME, TILES, F)                                                                                                    \
  extern "C" __global__ void __launch_bounds__(gemv::THREADS, 2)                                                                  \
      lora_matmul_fwd_few_##NAME(const half_t* x, const half_t* w, const float* u, const F* b, const int* adapter_of,                 \
                                 const float* bias, const half_t* operand, half_t* kept, u32 kind, half_t* y, int m, int n, int k,      \
                                 int rank, int padded) {                                                                          \
    __shared__ float parts[gemv::WARPS][8 * TILES][gemv::PART_STRIDE];                                                            \
    gemv::tensor_cores<TILES, true>(x, w, Epilogue<half_t>{bias, operand, kept, kind}, y, m, n, k, parts,                           \
                                    lora::FewUp<F>{u, b, adapter_of, rank, padded, n});                                           \
  }
#define FEWS(HALF)           \
  FEW(HALF##_f32, float)     \
  FEW(HALF##_##HALF, half_t)
OF_HALF(FEWS)
