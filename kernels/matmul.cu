// The products of a linear layer, and the sums over rows that are its bias' gradient.
//
//   nt: y = x W^T + bias   x [m, k], W [n, k]
//   nn: dx = dy W          dy [m, k], W [k, n]
//   tn: dW = dy^T x        dy [k, m], x [k, n]
//   column_sums: dbias[j] = sum over i of dy[i, j]
//
// On tensor cores where both operands are bf16 (common/gemm.cuh has shapes, tiles and order; `_ragged` where a row does not
// start on 16 bytes), else in f32 on the ordinary cores (common/gemm_f32.cuh). Nothing is saved for backward; C is
// overwritten; deterministic.
#include "common/gemm.cuh"
#include "common/gemm_f32.cuh"

#define TENSOR_CORES(NAME, A_K_MAJOR, B_K_MAJOR, ALIGNED, OUT)                                                                 \
  extern "C" __global__ void __launch_bounds__(gemm::THREADS)                                                                  \
      NAME(const bf16* a, const bf16* b, long long lda, long long ldb, const float* bias, OUT* c, long long ldc, int m, int n, \
           int k) {                                                                                                            \
    gemm::run<A_K_MAJOR, B_K_MAJOR, ALIGNED>({a, lda, m, k}, {b, ldb, n, k}, bias, c, ldc);                                    \
  }
TENSOR_CORES(matmul_nt_bf16, true, true, true, bf16)
TENSOR_CORES(matmul_nn_bf16, true, false, true, bf16)
TENSOR_CORES(matmul_tn_bf16, false, false, true, float)
TENSOR_CORES(matmul_nt_bf16_ragged, true, true, false, bf16)
TENSOR_CORES(matmul_nn_bf16_ragged, true, false, false, bf16)
TENSOR_CORES(matmul_tn_bf16_ragged, false, false, false, float)

#define ORDINARY_CORES(NAME, A_K_MAJOR, B_K_MAJOR, A, B, C)                                                                    \
  extern "C" __global__ void __launch_bounds__(gemm_f32::THREADS) NAME(                                                        \
      const A* a, const B* b, long long lda, long long ldb, const float* bias, C* c, long long ldc, int m, int n, int k) {     \
    gemm_f32::run<A_K_MAJOR, B_K_MAJOR>(a, b, lda, ldb, bias, c, ldc, m, n, k);                                                \
  }
ORDINARY_CORES(matmul_nt_f32_f32, true, true, float, float, float)
ORDINARY_CORES(matmul_nt_f32_bf16, true, true, float, bf16, float)
ORDINARY_CORES(matmul_nt_bf16_f32, true, true, bf16, float, bf16)
ORDINARY_CORES(matmul_nn_f32_f32, true, false, float, float, float)
ORDINARY_CORES(matmul_nn_f32_bf16, true, false, float, bf16, float)
ORDINARY_CORES(matmul_nn_bf16_f32, true, false, bf16, float, bf16)
ORDINARY_CORES(matmul_tn_f32_f32, false, false, float, float, float)

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
extern "C" __global__ void __launch_bounds__(32 * SUM_WARPS) matmul_column_sums_f32(const float* dy, float* out, int m, int n) {
  column_sums(dy, out, m, n);
}
extern "C" __global__ void __launch_bounds__(32 * SUM_WARPS) matmul_column_sums_bf16(const bf16* dy, float* out, int m, int n) {
  column_sums(dy, out, m, n);
}
