// LayerNorm.
//
//   mean = mean(x)    r = 1 / sqrt(mean((x - mean)^2) + eps)    n = (x - mean) r    y = n w + b
//   dx = r (g - mean(g) - n mean(g n)) with g = dy w        dw = sum over rows of dy n        db = sum over rows of dy
//
// Shapes: x, y, dy, dx [rows, dim]; w, b, dw, db [dim]; moments f32 [rows, 2]: each row's mean and r. Saved for backward: x and the
// moments. Everything is overwritten, nothing added to. Deterministic: a row's sums are over a fixed tree of its threads; dw and
// db are summed in two levels, over fixed parts of the rows in order, then over the parts in order.
//
// Memory-bound: a row is read once and stays in registers (up to 32 elements a thread forward, 2 x 16 backward), so that the
// second pass, over distances from the mean, costs no traffic: a large mean costs no accuracy. A warp does a short row alone,
// without barriers, a block of up to 8 warps a longer one. dw and db are a kernel of their own: nobody wants them under LoRA.

#include "common/rows.cuh"

constexpr int MAX_THREADS = 32 * MAX_WARPS;
constexpr int KEEP_FWD = 4;
constexpr int KEEP_BWD = 2;

template <int N, class T, class W>
__device__ __forceinline__ void forward(const T* __restrict__ x, const W* __restrict__ weight, const W* __restrict__ bias,
                                        T* __restrict__ y, float2* __restrict__ moments, u64 rows, u32 dim, float eps,
                                        u32 lanes) {
  const u64 row = row_of_thread(lanes);
  if (row >= rows) {
    return;
  }
  Rows<N, KEEP_FWD, 1, T> values{{x + row * dim}, dim, threadIdx.x % lanes, lanes};
  float sum[1] = {0};
  values.first([&](u32, float (&v)[1][N]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      sum[0] += v[0][i];
    }
  });
  row_sums(sum, lanes);
  const float mean = sum[0] / dim;
  float squares[1] = {0};
  values.again([&](u32, float (&v)[1][N]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float far = v[0][i] - mean;
      squares[0] = fmaf(far, far, squares[0]);
    }
  });
  row_sums(squares, lanes);
  const float scale = 1.0f / sqrtf(squares[0] / dim + eps);
  if (values.lane == 0) {
    moments[row] = {mean, scale};
  }
  values.again([&](u32 column, float (&v)[1][N]) {
    float w[N], b[N], out[N];
    load<N>(weight + column, w);
    load<N>(bias + column, b);
#pragma unroll
    for (int i = 0; i < N; i++) {
      out[i] = fmaf((v[0][i] - mean) * scale, w[i], b[i]);
    }
    store<N>(y + row * dim + column, out);
  });
}

template <int N, class T, class W>
__device__ __forceinline__ void backward(const T* __restrict__ x, const W* __restrict__ weight,
                                         const float2* __restrict__ moments, const T* __restrict__ dy, T* __restrict__ dx,
                                         u64 rows, u32 dim, u32 lanes) {
  const u64 row = row_of_thread(lanes);
  if (row >= rows) {
    return;
  }
  Rows<N, KEEP_BWD, 2, T> values{{x + row * dim, dy + row * dim}, dim, threadIdx.x % lanes, lanes};
  const float mean = moments[row].x, scale = moments[row].y;
  float sums[2] = {0, 0};  // of g, and of g n
  values.first([&](u32 column, float (&v)[2][N]) {
    float w[N];
    load<N>(weight + column, w);
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float g = v[1][i] * w[i];
      sums[0] += g;
      sums[1] = fmaf(g, (v[0][i] - mean) * scale, sums[1]);
    }
  });
  row_sums(sums, lanes);
  const float mean_g = sums[0] / dim, pull = -sums[1] / dim;
  values.again([&](u32 column, float (&v)[2][N]) {
    float w[N], out[N];
    load<N>(weight + column, w);
#pragma unroll
    for (int i = 0; i < N; i++) {
      out[i] = scale * fmaf((v[0][i] - mean) * scale, pull, v[1][i] * w[i] - mean_g);
    }
    store<N>(dx + row * dim + column, out);
  });
}

// The parts of dw and db (one behind the other) of `part_rows` rows from blockIdx.y times that on; a thread has N columns.
template <int N, class T>
__device__ __forceinline__ void affine_part(const T* __restrict__ x, const float2* __restrict__ moments,
                                            const T* __restrict__ dy, float* __restrict__ parts, u64 rows, u32 dim,
                                            u32 part_rows) {
  const u32 column = (blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (column >= dim) {
    return;
  }
  const u64 begin = u64(blockIdx.y) * part_rows;
  const u64 end = min(begin + part_rows, rows);
  float of_weight[N] = {}, of_bias[N] = {};
  for (u64 row = begin; row < end; row++) {
    float values[N], grad[N];
    load<N>(x + row * dim + column, values);
    load<N>(dy + row * dim + column, grad);
    const float mean = moments[row].x, scale = moments[row].y;
#pragma unroll
    for (int i = 0; i < N; i++) {
      of_weight[i] = fmaf(grad[i], (values[i] - mean) * scale, of_weight[i]);
      of_bias[i] += grad[i];
    }
  }
  float* part = parts + u64(blockIdx.y) * 2 * dim + column;
  store<N>(part, of_weight);
  store<N>(part + dim, of_bias);
}

#define FORWARD_BACKWARD(NAME, T, W)                                                                             \
  extern "C" __global__ __launch_bounds__(MAX_THREADS) void layer_norm_fwd_##NAME(                               \
      const T* x, const W* weight, const W* bias, T* y, float2* moments, u64 rows, u32 dim, float eps,           \
      u32 lanes, u32 packed) {                                                                                   \
    if (packed) {                                                                                                \
      forward<pack_len<T, W>()>(x, weight, bias, y, moments, rows, dim, eps, lanes);                             \
    } else {                                                                                                     \
      forward<1>(x, weight, bias, y, moments, rows, dim, eps, lanes);                                            \
    }                                                                                                            \
  }                                                                                                              \
  extern "C" __global__ __launch_bounds__(MAX_THREADS) void layer_norm_bwd_##NAME(                               \
      const T* x, const W* weight, const float2* moments, const T* dy, T* dx, u64 rows, u32 dim, u32 lanes,      \
      u32 packed) {                                                                                              \
    if (packed) {                                                                                                \
      backward<pack_len<T, W>()>(x, weight, moments, dy, dx, rows, dim, lanes);                                  \
    } else {                                                                                                     \
      backward<1>(x, weight, moments, dy, dx, rows, dim, lanes);                                                 \
    }                                                                                                            \
  }
OF_PAIRS(FORWARD_BACKWARD)

// The parts are f32, so a pack is four elements whatever x is.
#define AFFINE_PARTS(NAME, T)                                                                                    \
  extern "C" __global__ __launch_bounds__(MAX_THREADS) void layer_norm_bwd_affine_##NAME(                        \
      const T* x, const float2* moments, const T* dy, float* parts, u64 rows, u32 dim, u32 part_rows,            \
      u32 packed) {                                                                                              \
    if (packed) {                                                                                                \
      affine_part<4>(x, moments, dy, parts, rows, dim, part_rows);                                               \
    } else {                                                                                                     \
      affine_part<1>(x, moments, dy, parts, rows, dim, part_rows);                                               \
    }                                                                                                            \
  }
OF_TYPES(AFFINE_PARTS)

#ifndef WARPTUNE_F16
extern "C" __global__ __launch_bounds__(MAX_THREADS) void layer_norm_bwd_affine_sum(const float* parts, float* sums,
                                                                                   u32 count, u32 columns) {
  sum_parts(parts, sums, count, columns);
}
#endif
