// The products of a linear layer with few rows (decoding): y = epilogue(x W^T).
//
//   z[i][j] = bias[j] + sum over k of x[i][k] W[j][k]        x [m, k], W [n, k], y [m, n]; m up to the ROWS of the kernel
//
// y has x's type and is z, or z with a residual, an activation or a gate (common/epilogue.cuh); bias is f32 or null. Saved for backward:
// z, where it is wanted; y is overwritten.
// Deterministic: a sum over k is eight sums, one a warp, each over a fixed part of k in a fixed order, added in the order of the
// warps. Neither m nor n changes that: a row has the same bits whatever other rows are in the batch.
//
// Memory-bound: every weight is read once, for all rows of x, 16 bytes a load. A block makes 32 columns of y. A warp's step is 64
// bytes along k of the block's 32 rows of W: lane 4 g + t loads 16 bytes at 16 t of the rows g, g + 8, g + 16, g + 24, two
// steps in flight; the eight warps take neighbouring steps.
//
// W in bf16, or x and W in f16: tensor cores, W being the left operand and x^T, padded to 8 or 16 columns, the right one. A lane's 16 bytes are the
// fragments of two m16n8k16 as they come, because the order of k within a step is free; x comes from the caches in the same way. An
// x in f32 is three bf16 whose sum it is, so that products are exact as on the ordinary cores; only an infinite x, or one that
// bf16 rounds to infinity, makes NaN where they would make an infinity.
// W in f32, or in f16 with an x in f32, for whose pieces f16 has not the range: the ordinary cores. A warp copies its part of x to shared memory, where the eight lanes of a t read the same, three
// steps in a ring of its own: warps wait for no other before the end.

#include "common/gemv.cuh"

#define TENSOR_CORES(NAME, TILES, ALIGNED, X)                                                                                \
  extern "C" __global__ void __launch_bounds__(gemv::THREADS, ALIGNED ? 2 : 1) matmul_gemv_##NAME(                           \
      const X* x, const half_t* w, const float* bias, const X* operand, X* kept, u32 kind, X* y, int m, int n, int k) {        \
    __shared__ float parts[gemv::WARPS][8 * TILES][gemv::PART_STRIDE];                                                       \
    gemv::tensor_cores<TILES, ALIGNED, X>(x, w, {bias, operand, kept, kind}, y, m, n, k, parts);                             \
  }
#define ALL_TENSOR_CORES(HALF)                            \
  TENSOR_CORES(HALF##_##HALF##_rows8, 1, true, half_t)    \
  TENSOR_CORES(HALF##_##HALF##_rows16, 2, true, half_t)   \
  TENSOR_CORES(HALF##_##HALF##_ragged, 2, false, half_t)
OF_HALF(ALL_TENSOR_CORES)

#define ORDINARY_CORES(NAME, ROWS, ALIGNED, X, W)                                                                            \
  extern "C" __global__ void __launch_bounds__(gemv::THREADS, 2) matmul_gemv_##NAME(                                          \
      const X* x, const W* w, const float* bias, const X* operand, X* kept, u32 kind, X* y, int m, int n, int k) {           \
    gemv::ordinary_cores<ROWS, ALIGNED, X>(x, w, {bias, operand, kept, kind}, y, m, n, k);                                   \
  }
#define ALL_ROWS(NAME, X, W)                   \
  ORDINARY_CORES(NAME##_rows1, 1, true, X, W)  \
  ORDINARY_CORES(NAME##_rows2, 2, true, X, W)  \
  ORDINARY_CORES(NAME##_rows4, 4, true, X, W)  \
  ORDINARY_CORES(NAME##_rows8, 8, true, X, W)  \
  ORDINARY_CORES(NAME##_ragged, 8, false, X, W)
#ifdef WARPTUNE_F16
ALL_ROWS(f32_f16, float, half_t)
ALL_ROWS(f16_f32, half_t, float)
#else
TENSOR_CORES(f32_bf16_rows8, 1, true, float)
TENSOR_CORES(f32_bf16_rows16, 2, true, float)
TENSOR_CORES(f32_bf16_ragged, 2, false, float)
ALL_ROWS(f32_f32, float, float)
ALL_ROWS(bf16_f32, half_t, float)
#endif
