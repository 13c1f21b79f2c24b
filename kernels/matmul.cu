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
// `_split`: where C has too few tiles to fill a GPU, and k is long, blockIdx.y makes a part of the sum over k, f32 [parts, m, n];
// sum_parts adds the parts in order, applies the epilogue and rounds once. Bounds of the parts follow from k and their number alone.
#include "common/gemm.cuh"
#include "common/gemm_f32.cuh"

#define TENSOR_CORES(NAME, A_K_MAJOR, B_K_MAJOR, ALIGNED, EPILOGUE, OUT)                                                       \
  extern "C" __global__ void __launch_bounds__(gemm::THREADS)                                                                  \
      NAME(const half_t* a, const half_t* b, long long lda, long long ldb, const float* bias, const OUT* operand, OUT* kept,       \
           u32 kind, OUT* c, long long ldc, int m, int n, int k) {                                                             \
    gemm::run<A_K_MAJOR, B_K_MAJOR, ALIGNED>({a, lda, m, k}, {b, ldb, n, k}, EPILOGUE(bias, operand, kept, kind), c, ldc);     \
  }
#define PRODUCTS(HALF)                                                                 \
  TENSOR_CORES(matmul_nt_##HALF, true, true, true, any_epilogue, half_t)               \
  TENSOR_CORES(matmul_nn_##HALF, true, false, true, adding_epilogue, half_t)           \
  TENSOR_CORES(matmul_tn_##HALF, false, false, true, adding_epilogue, float)           \
  TENSOR_CORES(matmul_nt_##HALF##_ragged, true, true, false, any_epilogue, half_t)     \
  TENSOR_CORES(matmul_nn_##HALF##_ragged, true, false, false, adding_epilogue, half_t) \
  TENSOR_CORES(matmul_tn_##HALF##_ragged, false, false, false, adding_epilogue, float)
OF_HALF(PRODUCTS)

template <bool A_K_MAJOR, bool B_K_MAJOR, bool ALIGNED>
__device__ __forceinline__ void part_of_product(const gemm::Operand a, const gemm::Operand b, float* parts) {
  extern __shared__ __align__(128) unsigned char smem[];
  half_t* ring = reinterpret_cast<half_t*>(smem);
  const int m = a.outer, n = b.outer;
  const gemm::Corner corner = gemm::corner_of_block(m, n);
  const int all = (a.k + gemm::TILE_K - 1) / gemm::TILE_K, each = (all + gridDim.y - 1) / gridDim.y;
  const int first = blockIdx.y * each, steps = min(max(all - first, 0), each);
  const gemm::Tiles<A_K_MAJOR, ALIGNED> tiles_a(a, corner.m0);
  const gemm::Tiles<B_K_MAJOR, ALIGNED> tiles_b(b, corner.n0);
  const auto bring = [&](half_t* stage, int step) {
    tiles_a.fetch(stage, (first + step) * gemm::TILE_K);
    tiles_b.fetch(stage + gemm::TILE_ELEMENTS, (first + step) * gemm::TILE_K);
  };
  gemm::start(ring, steps, bring);
  gemm::Sums sum = {};
  gemm::advance<A_K_MAJOR, B_K_MAJOR>(sum, ring, 0, steps, steps, bring);
  gemm::write_tile(sum, smem, corner, m, n, {}, parts + static_cast<long long>(blockIdx.y) * m * n, n);
}

#define TENSOR_CORES_SPLIT(NAME, A_K_MAJOR, B_K_MAJOR, ALIGNED)                                                                \
  extern "C" __global__ void __launch_bounds__(gemm::THREADS)                                                                  \
      NAME(const half_t* a, const half_t* b, long long lda, long long ldb, float* parts, int m, int n, int k) {                    \
    part_of_product<A_K_MAJOR, B_K_MAJOR, ALIGNED>({a, lda, m, k}, {b, ldb, n, k}, parts);                                     \
  }
#define SPLIT_PRODUCTS(HALF)                                               \
  TENSOR_CORES_SPLIT(matmul_nt_##HALF##_split, true, true, true)           \
  TENSOR_CORES_SPLIT(matmul_nn_##HALF##_split, true, false, true)          \
  TENSOR_CORES_SPLIT(matmul_tn_##HALF##_split, false, false, true)         \
  TENSOR_CORES_SPLIT(matmul_nt_##HALF##_split_ragged, true, true, false)   \
  TENSOR_CORES_SPLIT(matmul_nn_##HALF##_split_ragged, true, false, false)  \
  TENSOR_CORES_SPLIT(matmul_tn_##HALF##_split_ragged, false, false, false)
OF_HALF(SPLIT_PRODUCTS)

constexpr int PARTS_THREADS = 256;

// c[i] is made of the sum of parts[p][i] over p in order; N elements a thread.
template <int N, class C>
__device__ __forceinline__ void add_parts(const float* __restrict__ parts, const Epilogue<C>& epilogue, C* __restrict__ c, u32 elements,
                                          u32 n, int count) {
  const u32 at = (blockIdx.x * PARTS_THREADS + threadIdx.x) * N;
  if (at >= elements) return;
  float with[N] = {};
  if (epilogue.operand != nullptr) load<N>(epilogue.operand + at, with);
  float sum[N] = {};
#pragma unroll 8
  for (int p = 0; p < count; p++) {
    float part[N];
    load<N>(parts + u64(p) * elements + at, part);
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] += part[i];
  }
  if (epilogue.bias != nullptr) {
    u32 column = at % n;
#pragma unroll
    for (int i = 0; i < N; i++) {
      sum[i] += epilogue.bias[column];
      column = column + 1 < n ? column + 1 : 0;
    }
  }
  epilogue.finish_pack(sum, with, c, at);
}

#define SUM_PARTS(NAME, C)                                                                                                     \
  extern "C" __global__ void __launch_bounds__(PARTS_THREADS)                                                                  \
      matmul_sum_parts_##NAME(const float* parts, const float* bias, const C* operand, C* kept, u32 kind, C* c, u32 elements,  \
                              u32 n, int count, u32 packed) {                                                                  \
    const Epilogue<C> epilogue = {bias, operand, kept, kind};                                                                  \
    if (packed) {                                                                                                              \
      add_parts<4>(parts, epilogue, c, elements, n, count);                                                                    \
    } else {                                                                                                                   \
      add_parts<1>(parts, epilogue, c, elements, n, count);                                                                    \
    }                                                                                                                          \
  }
OF_TYPES(SUM_PARTS)

#define ORDINARY_CORES(NAME, A_K_MAJOR, B_K_MAJOR, EPILOGUE, A, B, C)                                                          \
  extern "C" __global__ void __launch_bounds__(gemm_f32::THREADS)                                                              \
      NAME(const A* a, const B* b, long long lda, long long ldb, const float* bias, const C* operand, C* kept, u32 kind,       \
           C* c, long long ldc, int m, int n, int k) {                                                                         \
    gemm_f32::run<A_K_MAJOR, B_K_MAJOR>(a, b, lda, ldb, EPILOGUE(bias, operand, kept, kind), c, ldc, m, n, k);                 \
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
