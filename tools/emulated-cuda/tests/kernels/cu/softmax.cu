// Softmax of the rows of x: [rows, cols] f32, and its backward, in place of nothing: y and dx are other tensors.
//   y = exp(x - max) / sum        dx = y (dy - sum(dy y))
// One block a row. Deterministic.
#include "warp.cuh"

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS) softmax_fwd(const float* x, float* y, int cols) {
  __shared__ float scratch_max[THREADS / WARP], scratch_sum[THREADS / WARP];
  x += (long long)blockIdx.x * cols, y += (long long)blockIdx.x * cols;
  float top = -INFINITY;
#pragma unroll 1
  for (int i = threadIdx.x; i < cols; i += THREADS) top = fmaxf(top, x[i]);
  top = block_max<THREADS>(top, scratch_max);
  float sum = 0.0f;
#pragma unroll 1
  for (int i = threadIdx.x; i < cols; i += THREADS) sum += expf(x[i] - top);
  sum = block_sum<THREADS>(sum, scratch_sum);
#pragma unroll 1
  for (int i = threadIdx.x; i < cols; i += THREADS) y[i] = expf(x[i] - top) / sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    softmax_bwd(const float* y, const float* dy, float* dx, int cols) {
  __shared__ float scratch[THREADS / WARP];
  const long long row = (long long)blockIdx.x * cols;
  y += row, dy += row, dx += row;
  float dot = 0.0f;
#pragma unroll 1
  for (int i = threadIdx.x; i < cols; i += THREADS) dot += y[i] * dy[i];
  dot = block_sum<THREADS>(dot, scratch);
#pragma unroll 1
  for (int i = threadIdx.x; i < cols; i += THREADS) dx[i] = y[i] * (dy[i] - dot);
}
