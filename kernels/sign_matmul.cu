// A linear layer whose weight is a base and a 1-bit delta of it (BitDelta, arXiv 2402.10193):
//
//   y = epilogue(x W^T + (x S^T) a + bias)    dx = dy W + (dy a) S    da = sum of dy o (x S^T)
//
// x, dx [M, in], y, dy [M, out], W [out, in], dense or in 4-bit blocks (common/four_bit.cuh), or none: x W^T is then the epilogue's residual. S
// [out, in] is +-1, a bit an element (common/signs.cuh); a is f32, one number or one for each row of S, and da over the rows of x likewise. Saved
// for backward: nothing but the operands and what the epilogue keeps; x S^T is made again. Everything is overwritten. Deterministic: an
// element's sum goes through the signs in the order of k, is multiplied by the scale, and goes on through the base in the order of k; da is the
// sums of tiles of 128 rows (64 in f32), added in order. Neither other rows nor other columns change an element.
//
// In f16 and bf16 on tensor cores: one product after the other in the same sums and the same pipeline (common/gemm_signs.cuh), so that 128 x 128
// tiles keep their sums in registers; two sums a result would leave room for half the tile. Signs are exact; where dx has scales of rows, they
// are pairs of 16 bits, right to 2^-17. `_ragged` where rows of x or W do not start on 16 bytes. Up to 16 rows: bits and W are streamed
// (common/gemv_signs.cuh). Otherwise in f32 on the ordinary cores.
//
// Several deltas: `tenants` makes z[i] = a_t (x_i S_t^T) in f32, for runs of rows that share a delta t; a product then goes on from z.
#include "common/gemm_4bit.cuh"
#include "common/gemm_f32.cuh"
#include "common/gemm_signs.cuh"
#include "common/gemv_4bit.cuh"
#include "common/gemv_signs.cuh"

namespace sign_matmul {

using gemm::Corner, gemm::STAGE_ELEMENTS, gemm::Sums, gemm::TILE_ELEMENTS, gemm::TILE_K, gemm::TILE_M, gemm::TILE_N, gemm::WARP_M, gemm::WARP_N;
using signs::Delta;

// Sums from f32 results [m, n].
__device__ __forceinline__ void load_sums(Sums& sum, const float* from, Corner block, int m, int n) {
  const Corner warp = gemm::corner_of_warp();
  const int lane = threadIdx.x % 32, row0 = block.m0 + warp.m0 + lane / 4, col0 = block.n0 + warp.n0 + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
    for (int j = 0; j < WARP_N / 8; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = row0 + 16 * i + e / 2 * 8, col = col0 + 8 * j + e % 2;
        sum[i][j][e] = row < m && col < n ? from[static_cast<long long>(row) * n + col] : 0.0f;
      }
    }
  }
}

// sum = addend + scale (a s), of which signs lie K_MAJOR as [n, k] or else as [k, n], and then sum += a w, if there is a weight.
template <bool K_MAJOR, bool ALIGNED>
__device__ __forceinline__ void accumulate(Sums& sum, unsigned char* smem, const gemm::Operand a, const gemm::Operand w, const Delta& delta,
                                           const float* addend, Corner block, int n) {
  half_t* ring = reinterpret_cast<half_t*>(smem);
  const int m = a.outer, of_k = (a.k + TILE_K - 1) / TILE_K;
  const int steps = delta.words != nullptr ? of_k : 0, all = steps + (w.data != nullptr ? of_k : 0);
  const u32 units = gemm_signs::units_of(ring, steps);
  const gemm::Tiles<true, ALIGNED> tiles_a(a, block.m0);
  const gemm::Tiles<K_MAJOR, ALIGNED> tiles_w(w, block.n0);
  const gemm_signs::Tiles<K_MAJOR> tiles_s(delta, K_MAJOR ? n : a.k, block.n0);
  const auto bring = [&](half_t* stage, int step) {
    const bool of_signs = step < steps;
    const int k0 = (of_signs ? step : step - steps) * TILE_K;
    tiles_a.fetch(stage, k0);
    if (of_signs) {
      tiles_s.bring(units, step);
    } else {
      tiles_w.fetch(stage + TILE_ELEMENTS, k0);
    }
  };
  gemm::start(ring, all, bring);
  if (addend != nullptr) load_sums(sum, addend, block, m, n);
  if (steps > 0) {
    gemm_signs::advance<K_MAJOR>(sum, ring, units, steps, all, tiles_s.scales, bring);
    gemm_signs::scale_sums<K_MAJOR>(sum, delta, block, n);
  }
  gemm::advance<true, K_MAJOR>(sum, ring, steps, all, all, bring);
}

// c = epilogue(addend + scale (a s) + a w).
template <bool K_MAJOR, bool ALIGNED>
__device__ __forceinline__ void product(const gemm::Operand a, const gemm::Operand w, const Delta& delta, const float* addend,
                                        const Epilogue<half_t> epilogue, half_t* c, int n) {
  extern __shared__ __align__(128) unsigned char smem[];
  const Corner block = gemm::corner_of_block(a.outer, n);
  Sums sum = {};
  accumulate<K_MAJOR, ALIGNED>(sum, smem, a, w, delta, addend, block, n);
  gemm::write_tile(sum, smem, block, a.outer, n, epilogue, c, n);
}

// The same with a weight in 4-bit blocks, which has a pipeline of its own.
template <bool K_MAJOR, bool ALIGNED>
__device__ __forceinline__ void product_4bit(const gemm::Operand a, const four_bit::Matrix& w, const Delta& delta, const float* addend,
                                             const Epilogue<half_t> epilogue, half_t* c, int n) {
  extern __shared__ __align__(128) unsigned char smem[];
  __shared__ four_bit::Lookup lookup;
  lookup.fill(w);
  const Corner block = gemm::corner_of_block(a.outer, n);
  Sums sum = {};
  accumulate<K_MAJOR, ALIGNED>(sum, smem, a, {nullptr, 0, 0, 0}, delta, addend, block, n);
  copy_async_wait<0>();
  __syncthreads();  // Hazard: what comes next lies where other warps may still read the last tiles.
  gemm_4bit::accumulate<K_MAJOR, ALIGNED>(sum, smem, a, w, lookup, block, n);
  gemm::write_tile(sum, smem, block, a.outer, n, epilogue, c, n);
}

// parts[tile][j] = sum over the tile's rows of dy o (x S^T), of column j.
template <bool ALIGNED>
__device__ __forceinline__ void scale_parts(const gemm::Operand x, const Delta& delta, const half_t* dy, float* parts, int n) {
  extern __shared__ __align__(128) unsigned char smem[];
  __shared__ float of_warps[TILE_M / WARP_M][TILE_N];
  const int m = x.outer;
  const Corner block = gemm::corner_of_block(m, n), warp = gemm::corner_of_warp();
  const int steps = (x.k + TILE_K - 1) / TILE_K;
  half_t* ring = reinterpret_cast<half_t*>(smem);
  const u32 units = gemm_signs::units_of(ring, steps);
  const gemm::Tiles<true, ALIGNED> tiles_x(x, block.m0);
  const gemm_signs::Tiles<true> tiles_s(delta, n, block.n0);
  const auto bring = [&](half_t* stage, int step) {
    tiles_x.fetch(stage, step * TILE_K);
    tiles_s.bring(units, step);
  };
  Sums sum = {};
  gemm::start(ring, steps, bring);
  gemm_signs::advance<true>(sum, ring, units, steps, steps, false, bring);
  const int lane = threadIdx.x % 32, row0 = block.m0 + warp.m0 + lane / 4, col0 = block.n0 + warp.n0 + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < WARP_N / 8; j++) {
    float total[2] = {};
#pragma unroll
    for (int i = 0; i < 2 * (WARP_M / 16); i++) {
      const int row = row0 + 8 * i, col = col0 + 8 * j;
      if (row >= m || col >= n) continue;
      const half_t* from = dy + static_cast<long long>(row) * n + col;
      float with[2] = {};
      if constexpr (ALIGNED) {
        load<2>(from, with);
      } else {
        with[0] = to_f32(from[0]);
        if (col + 1 < n) with[1] = to_f32(from[1]);
      }
      total[0] = fmaf(sum[i / 2][j][i % 2 * 2], with[0], total[0]);
      total[1] = fmaf(sum[i / 2][j][i % 2 * 2 + 1], with[1], total[1]);
    }
#pragma unroll
    for (int e = 0; e < 2; e++) {
#pragma unroll
      for (int across = 4; across < 32; across *= 2) total[e] += __shfl_xor_sync(0xffffffff, total[e], across);
      if (lane < 4) of_warps[warp.m0 / WARP_M][warp.n0 + 8 * j + 2 * lane + e] = total[e];
    }
  }
  copy_async_wait<0>();
  __syncthreads();  // Hazard: the sums of a column are read by another thread than wrote them.
  const int col = block.n0 + threadIdx.x;
  if (col >= n) return;
  float total = of_warps[0][threadIdx.x];
#pragma unroll
  for (int w = 1; w < TILE_M / WARP_M; w++) total += of_warps[w][threadIdx.x];
  parts[static_cast<long long>(block.m0 / TILE_M) * n + col] = total;
}

// On the ordinary cores: a tile is half as high and half as wide.
using gemm_f32::PER_THREAD, gemm_f32::TILE;

// W in 4-bit blocks as an operand in f32.
struct Part4Bit {
  const four_bit::Matrix& w;
  const four_bit::Lookup& lookup;
  long long ld;
  int begin, end;

  __device__ __forceinline__ float at(long long row, int col) const { return four_bit::element(w, lookup, row * ld + col); }
};

// sum = a s, with the scales of the rows where these lie across k.
template <bool K_MAJOR, class X>
__device__ __forceinline__ void signs_f32(gemm_f32::Sums& sum, gemm_f32::Tiles& tiles, const X* a, const Delta& delta, int m0, int n0, int m,
                                          int n, int k) {
  const signs::Part of_signs{delta.words, delta.row_words, 0, n, !K_MAJOR && delta.of_rows ? delta.scale : nullptr};
  gemm_f32::accumulate<true, K_MAJOR>(sum, tiles, gemm_f32::Part<X>{a, k, 0, m}, of_signs, m0, n0, 0, k);
}

template <bool K_MAJOR, class X, class W>
__device__ __forceinline__ void product_f32(const X* a, const W& w, bool has_w, const Delta& delta, const float* addend,
                                            const Epilogue<X>& epilogue, X* c, int m, int n, int k) {
  __shared__ gemm_f32::Tiles tiles;
  const int tiles_n = (n + TILE - 1) / TILE, m0 = blockIdx.x / tiles_n * TILE, n0 = blockIdx.x % tiles_n * TILE;
  const int row0 = m0 + gemm_f32::row_of_thread(), col0 = n0 + gemm_f32::col_of_thread();
  gemm_f32::Sums sum = {};
  if (delta.words != nullptr) {
    signs_f32<K_MAJOR>(sum, tiles, a, delta, m0, n0, m, n, k);
#pragma unroll
    for (int s = 0; s < PER_THREAD; s++) {
      const bool of_column = K_MAJOR && delta.of_rows;
      const float factor = of_column ? (col0 + s < n ? delta.scale[col0 + s] : 0.0f) : delta.of_rows ? 1.0f : delta.scale[0];
#pragma unroll
      for (int r = 0; r < PER_THREAD; r++) sum[r][s] *= factor;
    }
  }
  if (addend != nullptr) {
#pragma unroll
    for (int r = 0; r < PER_THREAD; r++) {
#pragma unroll
      for (int s = 0; s < PER_THREAD; s++) {
        if (row0 + r < m && col0 + s < n) sum[r][s] = addend[static_cast<long long>(row0 + r) * n + col0 + s];
      }
    }
  }
  if (has_w) gemm_f32::accumulate<true, K_MAJOR>(sum, tiles, gemm_f32::Part<X>{a, k, 0, m}, w, m0, n0, 0, k);
  gemm_f32::write(sum, m0, n0, m, n, epilogue, c, n);
}

// As scale_parts, tiles of 64 rows.
template <class X>
__device__ __forceinline__ void scale_parts_f32(const X* x, const Delta& delta, const X* dy, float* parts, int m, int n, int k) {
  constexpr int LINES = TILE / PER_THREAD;
  __shared__ gemm_f32::Tiles tiles;
  __shared__ float of_lines[LINES][TILE];
  const int tiles_n = (n + TILE - 1) / TILE, m0 = blockIdx.x / tiles_n * TILE, n0 = blockIdx.x % tiles_n * TILE;
  const int row0 = gemm_f32::row_of_thread(), col0 = gemm_f32::col_of_thread();
  gemm_f32::Sums sum = {};
  const signs::Part of_signs{delta.words, delta.row_words, 0, n};
  gemm_f32::accumulate<true, true>(sum, tiles, gemm_f32::Part<X>{x, k, 0, m}, of_signs, m0, n0, 0, k);
#pragma unroll
  for (int s = 0; s < PER_THREAD; s++) {
    float total = 0.0f;
#pragma unroll
    for (int r = 0; r < PER_THREAD; r++) {
      const int row = m0 + row0 + r, col = n0 + col0 + s;
      if (row < m && col < n) total = fmaf(sum[r][s], to_f32(dy[static_cast<long long>(row) * n + col]), total);
    }
    of_lines[row0 / PER_THREAD][col0 + s] = total;
  }
  __syncthreads();  // Hazard: the sums of a column are read by another thread than wrote them.
  const int col = n0 + threadIdx.x;
  if (threadIdx.x >= TILE || col >= n) return;
  float total = of_lines[0][threadIdx.x];
#pragma unroll
  for (int l = 1; l < LINES; l++) total += of_lines[l][threadIdx.x];
  parts[static_cast<long long>(m0 / TILE) * n + col] = total;
}

// What the kernels for few rows share.
template <int TILES> struct FewShared {
  float parts[gemv::WARPS][8 * TILES][gemv::PART_STRIDE];
  float of_signs[8 * TILES][gemv::TILE_N];
};

// Fills `of_signs`: from the signs, or from f32 results [m, n].
template <int TILES, bool ALIGNED>
__device__ __forceinline__ void few_signs(FewShared<TILES>& shared, const half_t* x, const Delta& delta, const float* addend, int m, int n,
                                          int k) {
  if (addend == nullptr) {
    gemv_signs::products<TILES, ALIGNED>(x, delta, blockIdx.x * gemv::TILE_N, m, n, k, shared.parts, shared.of_signs);
    return;
  }
  const int n0 = blockIdx.x * gemv::TILE_N;
  for (int id = threadIdx.x; id < m * gemv::TILE_N; id += gemv::THREADS) {
    const int row = id / gemv::TILE_N, col = id % gemv::TILE_N;
    shared.of_signs[row][col] = n0 + col < n ? addend[static_cast<long long>(row) * n + n0 + col] : 0.0f;
  }
  __syncthreads();  // Hazard: it is read by other threads than wrote it.
}

template <int TILES, bool ALIGNED>
__device__ __forceinline__ void few(const half_t* x, const half_t* w, const Delta& delta, const float* addend, const Epilogue<half_t> epilogue,
                                    half_t* y, int m, int n, int k) {
  __shared__ FewShared<TILES> shared;
  few_signs<TILES, ALIGNED>(shared, x, delta, addend, m, n, k);
  if (w != nullptr) {
    gemv::tensor_cores<TILES, ALIGNED, half_t>(x, w, epilogue, y, m, n, k, shared.parts, gemv_signs::Plus<8 * TILES>{shared.of_signs});
    return;
  }
  const int n0 = blockIdx.x * gemv::TILE_N;
#pragma unroll 1
  for (int id = threadIdx.x; id < m * gemv::TILE_N; id += gemv::THREADS) {
    const int row = id / gemv::TILE_N, col = id % gemv::TILE_N;
    if (n0 + col >= n) continue;
    float z[1] = {shared.of_signs[row][col]};
    if (epilogue.bias != nullptr) z[0] += epilogue.bias[n0 + col];
    epilogue.finish(z, y, static_cast<long long>(row) * n + n0 + col, 1);
  }
}

// Deltas one behind the other.
struct Stack {
  Delta first;
  long long words_stride, scale_stride;

  __device__ __forceinline__ Delta of(int delta) const {
    Delta it = first;
    it.words += delta * words_stride;
    it.scale += delta * scale_stride;
    return it;
  }
};

// z[begin ..] = a_t (x S_t^T) for the rows of range blockIdx.x, [begin, end, t, 0], all of one delta; t -1 for none, whose z is 0.
template <bool ALIGNED>
__device__ __forceinline__ void tenants(const half_t* x, const Stack& stack, const int4* ranges, float* z, int n, int k) {
  extern __shared__ __align__(128) unsigned char smem[];
  const int4 range = ranges[blockIdx.x];
  const int rows = range.y - range.x;
  const Delta delta = stack.of(range.z);
  const Corner block = {0, static_cast<int>(blockIdx.y) * TILE_N};
  Sums sum = {};
  accumulate<true, ALIGNED>(sum, smem, {x + static_cast<long long>(range.x) * k, k, rows, k}, {nullptr, 0, 0, 0}, delta, nullptr, block, n);
  gemm::write_tile(sum, smem, block, rows, n, {}, z + static_cast<long long>(range.x) * n, n);
}

// The same for ranges of at most 16 rows, by streaming the bits.
template <bool ALIGNED>
__device__ __forceinline__ void tenants_few(const half_t* x, const Stack& stack, const int4* ranges, float* z, int n, int k) {
  __shared__ FewShared<2> shared;
  const int4 range = ranges[blockIdx.x];
  const int rows = range.y - range.x, n0 = blockIdx.y * gemv::TILE_N;
  if (range.z >= 0) {
    const Delta delta = stack.of(range.z);
    gemv_signs::products<2, ALIGNED>(x + static_cast<long long>(range.x) * k, delta, n0, rows, n, k, shared.parts, shared.of_signs);
  }
  for (int id = threadIdx.x; id < rows * gemv::TILE_N; id += gemv::THREADS) {
    const int row = id / gemv::TILE_N, col = id % gemv::TILE_N;
    if (n0 + col < n) z[static_cast<long long>(range.x + row) * n + n0 + col] = range.z >= 0 ? shared.of_signs[row][col] : 0.0f;
  }
}

// The same for any rows on the ordinary cores, by tiles of 64.
__device__ __forceinline__ void tenants_f32(const float* x, const Stack& stack, const int4* ranges, float* z, int n, int k) {
  __shared__ gemm_f32::Tiles tiles;
  const int4 range = ranges[blockIdx.x];
  const int rows = range.y - range.x, n0 = blockIdx.y * TILE, col0 = n0 + gemm_f32::col_of_thread();
  gemm_f32::Sums sum = {};
  if (range.z >= 0) {
    const Delta delta = stack.of(range.z);
    signs_f32<true>(sum, tiles, x + static_cast<long long>(range.x) * k, delta, 0, n0, rows, n, k);
#pragma unroll
    for (int s = 0; s < PER_THREAD; s++) {
      const float factor = col0 + s < n ? delta.scale_of(col0 + s) : 0.0f;
#pragma unroll
      for (int r = 0; r < PER_THREAD; r++) sum[r][s] *= factor;
    }
  }
  gemm_f32::write(sum, 0, n0, rows, n, Epilogue<float>{}, z + static_cast<long long>(range.x) * n, n);
}

}  // namespace sign_matmul

#define PRODUCT(NAME, K_MAJOR, ALIGNED, EPILOGUE)                                                                              \
  extern "C" __global__ void __launch_bounds__(gemm::THREADS, 2)                                                               \
      NAME(const half_t* a, const half_t* w, signs::Delta delta, const float* addend, const float* bias, const half_t* operand, \
           half_t* kept, u32 kind, half_t* c, int m, int n, int k) {                                                           \
    sign_matmul::product<K_MAJOR, ALIGNED>({a, k, m, k}, {w, K_MAJOR ? k : n, n, k}, delta, addend,                            \
                                           EPILOGUE(bias, operand, kept, kind), c, n);                                         \
  }
#define PRODUCT_4BIT(NAME, K_MAJOR, ALIGNED, EPILOGUE)                                                                         \
  extern "C" __global__ void __launch_bounds__(gemm::THREADS, 2)                                                               \
      NAME(const half_t* a, four_bit::Matrix w, signs::Delta delta, const float* addend, const float* bias,                    \
           const half_t* operand, half_t* kept, u32 kind, half_t* c, int m, int n, int k) {                                    \
    sign_matmul::product_4bit<K_MAJOR, ALIGNED>({a, k, m, k}, w, delta, addend, EPILOGUE(bias, operand, kept, kind), c, n);    \
  }
#define SCALE_PARTS(NAME, ALIGNED)                                                                                             \
  extern "C" __global__ void __launch_bounds__(gemm::THREADS, 2)                                                               \
      NAME(const half_t* x, signs::Delta delta, const half_t* dy, float* parts, int m, int n, int k) {                         \
    sign_matmul::scale_parts<ALIGNED>({x, k, m, k}, delta, dy, parts, n);                                                      \
  }
#define FEW(NAME, TILES, ALIGNED)                                                                                              \
  extern "C" __global__ void __launch_bounds__(gemv::THREADS, ALIGNED ? 2 : 1)                                                 \
      NAME(const half_t* x, const half_t* w, signs::Delta delta, const float* addend, const float* bias, const half_t* operand, \
           half_t* kept, u32 kind, half_t* y, int m, int n, int k) {                                                           \
    sign_matmul::few<TILES, ALIGNED>(x, w, delta, addend, {bias, operand, kept, kind}, y, m, n, k);                            \
  }
#define FEW_4BIT(NAME, TILES)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(gemv::THREADS, 2)                                                               \
      NAME(const half_t* x, four_bit::Matrix w, signs::Delta delta, const float* addend, const float* bias,                    \
           const half_t* operand, half_t* kept, u32 kind, half_t* y, int m, int n, int k) {                                    \
    __shared__ sign_matmul::FewShared<TILES> shared;                                                                           \
    __shared__ four_bit::Lookup lookup;                                                                                        \
    lookup.fill(w);                                                                                                            \
    sign_matmul::few_signs<TILES, true>(shared, x, delta, addend, m, n, k);                                                    \
    gemv_4bit::tensor_cores<TILES>(x, w, lookup, Epilogue<half_t>{bias, operand, kept, kind}, y, m, n, k, shared.parts,        \
                                   gemv_signs::Plus<8 * TILES>{shared.of_signs});                                              \
  }
#define TENANTS(NAME, FUNCTION, THREADS)                                                                                       \
  extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                                     \
      NAME(const half_t* x, signs::Delta deltas, long long words_stride, long long scale_stride, const int4* ranges, float* z, \
           int n, int k) {                                                                                                     \
    FUNCTION(x, {deltas, words_stride, scale_stride}, ranges, z, n, k);                                                        \
  }
#define ON_TENSOR_CORES(HALF)                                                                 \
  PRODUCT(sign_matmul_fwd_##HALF, true, true, any_epilogue)                                   \
  PRODUCT(sign_matmul_fwd_##HALF##_ragged, true, false, any_epilogue)                         \
  PRODUCT(sign_matmul_bwd_input_##HALF, false, true, adding_epilogue)                         \
  PRODUCT(sign_matmul_bwd_input_##HALF##_ragged, false, false, adding_epilogue)               \
  PRODUCT_4BIT(sign_matmul_fwd_4bit_##HALF, true, true, any_epilogue)                         \
  PRODUCT_4BIT(sign_matmul_fwd_4bit_##HALF##_ragged, true, false, any_epilogue)               \
  PRODUCT_4BIT(sign_matmul_bwd_input_4bit_##HALF, false, true, adding_epilogue)               \
  PRODUCT_4BIT(sign_matmul_bwd_input_4bit_##HALF##_ragged, false, false, adding_epilogue)     \
  SCALE_PARTS(sign_matmul_bwd_scale_parts_##HALF, true)                                       \
  SCALE_PARTS(sign_matmul_bwd_scale_parts_##HALF##_ragged, false)                             \
  FEW(sign_matmul_fwd_few_##HALF##_rows8, 1, true)                                            \
  FEW(sign_matmul_fwd_few_##HALF##_rows16, 2, true)                                           \
  FEW(sign_matmul_fwd_few_##HALF##_ragged, 2, false)                                          \
  FEW_4BIT(sign_matmul_fwd_few_4bit_##HALF##_rows8, 1)                                        \
  FEW_4BIT(sign_matmul_fwd_few_4bit_##HALF##_rows16, 2)                                       \
  TENANTS(sign_matmul_fwd_tenants_##HALF, sign_matmul::tenants<true>, gemm::THREADS)          \
  TENANTS(sign_matmul_fwd_tenants_##HALF##_ragged, sign_matmul::tenants<false>, gemm::THREADS) \
  TENANTS(sign_matmul_fwd_tenants_few_##HALF, sign_matmul::tenants_few<true>, gemv::THREADS)  \
  TENANTS(sign_matmul_fwd_tenants_few_##HALF##_ragged, sign_matmul::tenants_few<false>, gemv::THREADS)
OF_HALF(ON_TENSOR_CORES)

#define PRODUCT_F32(NAME, K_MAJOR, EPILOGUE, X, W)                                                                             \
  extern "C" __global__ void __launch_bounds__(gemm_f32::THREADS)                                                              \
      NAME(const X* a, const W* w, signs::Delta delta, const float* addend, const float* bias, const X* operand, X* kept,      \
           u32 kind, X* c, int m, int n, int k) {                                                                              \
    sign_matmul::product_f32<K_MAJOR>(a, gemm_f32::Part<W>{w, K_MAJOR ? k : n, 0, n}, w != nullptr, delta, addend,             \
                                      EPILOGUE(bias, operand, kept, kind), c, m, n, k);                                        \
  }
#define PRODUCTS_F32(NAME, X, W)                                                \
  PRODUCT_F32(sign_matmul_fwd_##NAME, true, any_epilogue, X, W)                 \
  PRODUCT_F32(sign_matmul_bwd_input_##NAME, false, adding_epilogue, X, W)
#define MIXED_PRODUCTS(HALF)             \
  PRODUCTS_F32(f32_##HALF, float, half_t) \
  PRODUCTS_F32(HALF##_f32, half_t, float)
OF_HALF(MIXED_PRODUCTS)
#ifndef WARPTUNE_F16
PRODUCTS_F32(f32_f32, float, float)

#define PRODUCT_4BIT_F32(NAME, K_MAJOR, EPILOGUE)                                                                              \
  extern "C" __global__ void __launch_bounds__(gemm_f32::THREADS)                                                              \
      NAME(const float* a, four_bit::Matrix w, signs::Delta delta, const float* addend, const float* bias,                     \
           const float* operand, float* kept, u32 kind, float* c, int m, int n, int k) {                                       \
    __shared__ four_bit::Lookup lookup;                                                                                        \
    lookup.fill(w);                                                                                                            \
    sign_matmul::product_f32<K_MAJOR>(a, sign_matmul::Part4Bit{w, lookup, K_MAJOR ? k : n, 0, n}, true, delta, addend,         \
                                      EPILOGUE(bias, operand, kept, kind), c, m, n, k);                                        \
  }
PRODUCT_4BIT_F32(sign_matmul_fwd_4bit_f32, true, any_epilogue)
PRODUCT_4BIT_F32(sign_matmul_bwd_input_4bit_f32, false, adding_epilogue)

extern "C" __global__ void __launch_bounds__(gemm_f32::THREADS)
    sign_matmul_bwd_scale_parts_f32(const float* x, signs::Delta delta, const float* dy, float* parts, int m, int n, int k) {
  sign_matmul::scale_parts_f32(x, delta, dy, parts, m, n, k);
}

extern "C" __global__ void __launch_bounds__(gemm_f32::THREADS)
    sign_matmul_fwd_tenants_f32(const float* x, signs::Delta deltas, long long words_stride, long long scale_stride, const int4* ranges,
                                float* z, int n, int k) {
  sign_matmul::tenants_f32(x, {deltas, words_stride, scale_stride}, ranges, z, n, k);
}

// out[0] = the sum of n numbers: each thread's own, with what rounding loses carried along (Kahan), and these by halves.
constexpr int TOTAL_THREADS = 256;
extern "C" __global__ void __launch_bounds__(TOTAL_THREADS) sign_matmul_bwd_scale_total(const float* x, float* out, int n) {
  __shared__ float of_threads[TOTAL_THREADS];
  float sum = 0.0f, lost = 0.0f;
  for (int i = threadIdx.x; i < n; i += TOTAL_THREADS) {
    const float term = x[i] - lost, next = sum + term;
    lost = (next - sum) - term;
    sum = next;
  }
  of_threads[threadIdx.x] = sum;
  for (int half = TOTAL_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();  // Hazard: what is added here was written by other threads.
    if (threadIdx.x < half) of_threads[threadIdx.x] += of_threads[threadIdx.x + half];
  }
  if (threadIdx.x == 0) out[0] = of_threads[0];
}
#endif
