// RMS norm of the rows of x: [rows, cols] bf16, cols even, weight: [cols] bf16.
//   y = x r w,  r = 1 / sqrt(mean(x^2) + eps)        saved: r, f32, one a row
//   dx = r w dy - x r^3 mean(x w dy)                 dw = sum over rows of dy x r
// One block a row; dw in two steps: a sum over each chunk of rows, then over the chunks. Gradients overwrite, dw in f32.
// Deterministic.
#include <cuda_bf16.h>

#include "warp.cuh"

constexpr int THREADS = 64;

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_fwd(const __nv_bfloat162* x, const __nv_bfloat162* weight, __nv_bfloat162* y, float* r, int pairs,
                float eps) {
  __shared__ float scratch[THREADS / WARP];
  const long long row = (long long)blockIdx.x * pairs;
  float squares = 0.0f;
#pragma unroll 1
  for (int i = threadIdx.x; i < pairs; i += THREADS) {
    const float2 a = __bfloat1622float2(x[row + i]);
    squares += a.x * a.x + a.y * a.y;
  }
  const float scale = rsqrtf(block_sum<THREADS>(squares, scratch) / (2 * pairs) + eps);
  if (threadIdx.x == 0) r[blockIdx.x] = scale;
#pragma unroll 1
  for (int i = threadIdx.x; i < pairs; i += THREADS) {
    const float2 a = __bfloat1622float2(x[row + i]), w = __bfloat1622float2(weight[i]);
    y[row + i] = __floats2bfloat162_rn(a.x * scale * w.x, a.y * scale * w.y);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_bwd_dx(const __nv_bfloat162* x, const __nv_bfloat162* weight, const __nv_bfloat162* dy, const float* r,
                   __nv_bfloat162* dx, int pairs) {
  __shared__ float scratch[THREADS / WARP];
  const long long row = (long long)blockIdx.x * pairs;
  float dot = 0.0f;
#pragma unroll 1
  for (int i = threadIdx.x; i < pairs; i += THREADS) {
    // Products of two bf16, rounded to bf16.
    const float2 g = __bfloat1622float2(__hmul2(dy[row + i], weight[i])), a = __bfloat1622float2(x[row + i]);
    dot += g.x * a.x + g.y * a.y;
  }
  const float scale = r[blockIdx.x];
  const float mean = block_sum<THREADS>(dot, scratch) / (2 * pairs) * scale * scale;
#pragma unroll 1
  for (int i = threadIdx.x; i < pairs; i += THREADS) {
    const float2 g = __bfloat1622float2(__hmul2(dy[row + i], weight[i])), a = __bfloat1622float2(x[row + i]);
    dx[row + i] = __floats2bfloat162_rn(scale * (g.x - a.x * mean), scale * (g.y - a.y * mean));
  }
}

// grid.y chunks of rows; partial: [chunks, 2 pairs].
extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_bwd_dw(const __nv_bfloat162* x, const __nv_bfloat162* dy, const float* r, float2* partial, int rows,
                   int pairs) {
  const int col = blockIdx.x * THREADS + threadIdx.x;
  if (col >= pairs) return;
  float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 1
  for (int row = blockIdx.y; row < rows; row += gridDim.y) {
    const long long at = (long long)row * pairs + col;
    const float2 a = __bfloat1622float2(x[at]), g = __bfloat1622float2(dy[at]);
    sum.x += g.x * a.x * r[row];
    sum.y += g.y * a.y * r[row];
  }
  partial[(long long)blockIdx.y * pairs + col] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_bwd_dw_sum(const float* partial, float* dw, int chunks, int cols) {
  const int col = blockIdx.x * THREADS + threadIdx.x;
  if (col >= cols) return;
  float sum = partial[col];
#pragma unroll 1
  for (int chunk = 1; chunk < chunks; chunk++) sum += partial[chunk * cols + col];
  dw[col] = sum;
}
