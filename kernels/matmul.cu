// The products of a linear layer, and the sums over rows that are its bias' gradient.
//
//   nt: y = epilogue(x W^T)    x [m, k], W [n, k]; bias, and a residual, an activation or a gate (common/epilogue.cuh)
//   nn: dx = residual + dy W   dy [m, k], W [k, n]; the residual is the gradient that x has already, or null
//   tn: dW = dy^T x            dy [k, m], x [k, n]
//   column_sums: dbias[j] = sum over i of dy[i, j]
//
// On tensor cores where both operands are bf16, or f16 (common/gemm.cuh has shapes, tiles and order; `_ragged` where a row does not
// start on 16 bytes), else in f32 on the ordinary cores (common/gemm_f32.cuh). Saved for backward: what an activation was made
// of, if it is wanted. C is overwritten; deterministic. y of few rows is gemv.cu's.
//
// Tiles of C that do not fill a GPU, all of them or those of the last wave, are made in pieces along k, whose f32 sums sum_parts adds in
// order (common/stream_k.cuh); it applies the epilogue and rounds once. `_small`: of tiles of the ordinary cores.
#include "common/gemm.cuh"
#include "common/gemm_f32.cuh"

#define TENSOR_CORES(NAME, A_K_MAJOR, B_K_MAJOR, ALIGNED, EPILOGUE, OUT)                                                       \
  extern "C" __global__ void __launch_bounds__(gemm::THREADS)                                                                  \
      NAME(const half_t* a, const half_t* b, long long lda, long long ldb, const float* bias, const OUT* operand, OUT* kept,       \
           u32 kind, OUT* c, long long ldc, int m, int n, int k, stream_k::Shares shares) {                                    \
    gemm::run_pieces<A_K_MAJOR, B_K_MAJOR, ALIGNED>(stream_k::Pieces(shares, gemm::tiles_of(m, n), k), {a, lda, m, k},         \
                                                    {b, ldb, n, k}, EPILOGUE(bias, operand, kept, kind), c, ldc);              \
  }
#define PRODUCTS(HALF)                                                                 \
  TENSOR_CORES(matmul_nt_##HALF, true, true, true, any_epilogue, half_t)               \
  TENSOR_CORES(matmul_nn_##HALF, true, false, true, adding_epilogue, half_t)           \
  TENSOR_CORES(matmul_tn_##HALF, false, false, true, adding_epilogue, float)           \
  TENSOR_CORES(matmul_nt_##HALF##_ragged, true, true, false, any_epilogue, half_t)     \
  TENSOR_CORES(matmul_nn_##HALF##_ragged, true, false, false, adding_epilogue, half_t) \
  TENSOR_CORES(matmul_tn_##HALF##_ragged, false, false, false, adding_epilogue, float)
OF_HALF(PRODUCTS)

// The sums of tiles that were made in pieces: sum_blocks blocks for each, of the product of the same arguments.
#define SUM_PARTS(NAME, C)                                                                                                     \
  extern "C" __global__ void __launch_bounds__(stream_k::SUM_THREADS)                                                          \
      matmul_sum_parts_##NAME(const float* bias, const C* operand, C* kept, u32 kind, C* c, int m, int n, int k,               \
                              stream_k::Shares shares) {                                                                       \
    const int tile = shares.whole + blockIdx.x / stream_k::sum_blocks<gemm::TILE_M>();                                         \
    const gemm::Corner at = gemm::corner_of_tile(tile, m, n);                                                                  \
    stream_k::sum_parts<gemm::TILE_M>(shares, tile, at.m0, at.n0, Epilogue<C>{bias, operand, kept, kind}, c, m, n, k);         \
  }                                                                                                                            \
  extern "C" __global__ void __launch_bounds__(stream_k::SUM_THREADS)                                                          \
      matmul_sum_parts_##NAME##_small(const float* bias, const C* operand, C* kept, u32 kind, C* c, int m, int n, int k,       \
                                      stream_k::Shares shares) {                                                               \
    const int tile = shares.whole + blockIdx.x / stream_k::sum_blocks<gemm_f32::TILE>();                                       \
    const gemm_f32::Corner at = gemm_f32::corner_of_tile(tile, n);                                                             \
    stream_k::sum_parts<gemm_f32::TILE>(shares, tile, at.m0, at.n0, Epilogue<C>{bias, operand, kept, kind}, c, m, n, k);       \
  }
OF_TYPES(SUM_PARTS)

#define ORDINARY_CORES(NAME, A_K_MAJOR, B_K_MAJOR, EPILOGUE, A, B, C)                                                          \
  extern "C" __global__ void __launch_bounds__(gemm_f32::THREADS)                                                              \
      NAME(const A* a, const B* b, long long lda, long long ldb, const float* bias, const C* operand, C* kept, u32 kind,       \
           C* c, long long ldc, int m, int n, int k, stream_k::Shares shares) {                                                \
    gemm_f32::run_pieces<A_K_MAJOR, B_K_MAJOR>(stream_k::Pieces(shares, gemm_f32::tiles_of(m, n), k), a, b, lda, ldb,          \
                                               EPILOGUE(bias, operand, kept, kind), c, ldc, m, n);                             \
  }
#define MIXED_PRODUCTS(HALF)                                                                     \
  ORDINARY_CORES(matmul_nt_f32_##HALF, true, true, any_epilogue, float, half_t, float)           \
  ORDINARY_CORES(matmul_nt_##HALF##_f32, true, true, any_epilogue, half_t, float, half_t)        \
  ORDINARY_CORES(matmul_nn_f32_##HALF, true, false, adding_epilogue, float, half_t, float)       \
  ORDINARY_CORES(matmul_nn_##HALF##_f32, true, false, adding_epilogue, half_t, float, half_t)
OF_HALF(MIXED_PRODUCTS)
#ifndef WARPTUNE_F16
ORDINARY_CORES(matmul_nt_f32_f32, true, true, any_epilogue, float, float, float)
ORDINARY_CORES(matmul_nn_f32_f32, true, false, adding_epilogue, float, float, float)
ORDINARY_CORES(matmul_tn_f32_f32, false, false, adding_epilogue, float, float, float)
#endif

// 32 columns a block; warp w of 8 sums rows w, w + 8, ..., with what rounding loses carried along (Kahan), and then the
// eight sums are added in order.
constexpr int SUM_WARPS = 8;

template <class T> __device__ __forceinline__ void column_sums(const T* dy, float* out, int m, int n) {
  __shared__ float part[SUM_WARPS][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, col = blockIdx.x * 32 + lane;
  float sum = 0.0f, lost = 0.0f;
  if (col < n) {
    for (int row = warp; row < m; row += SUM_WARPS) {
      const float term = to_f32(dy[static_cast<long long>(row) * n + col]) - lost, next = sum + term;
      lost = (next - sum) - term;
      sum = next;
    }
  }
  part[warp][lane] = sum;
  __syncthreads();  // Hazard: warp 0 reads what the others wrote.
  if (warp == 0 && col < n) {
    float total = part[0][lane];
    for (int w = 1; w < SUM_WARPS; w++) total += part[w][lane];
    out[col] = total;
  }
}
#define COLUMN_SUMS(NAME, T)                                                                                                   \
  extern "C" __global__ void __launch_bounds__(32 * SUM_WARPS) matmul_column_sums_##NAME(const T* dy, float* out, int m, int n) { \
    column_sums(dy, out, m, n);                                                                                                \
  }
OF_TYPES(COLUMN_SUMS)
