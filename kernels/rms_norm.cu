// RMSNorm.
//
//   r = 1 / sqrt(mean(x^2) + eps)        y = x r w
//   dx = r (g - x r^2 mean(g x)) with g = dy w        dw = sum over rows of dy x r
//
// Shapes: x, y, dy, dx [rows, dim] (a row is one group, as a head); w, dw [dim]; scales (the r) f32 [rows].
// Saved for backward: x and the r of each row. Everything is overwritten, nothing added to.
// `_sum` (the residual stream): forward, x = a + b, rounded once, is written too, and read by nobody again; backward, dx has
// another gradient of x added before it is rounded.
// Deterministic: a row's sum is over a fixed tree of its threads; dw is summed in two levels, over fixed parts of the rows in
// order, then over the parts in order. dx and dw are kernels of their own: under LoRA nobody wants dw.
// Memory-bound: a row is read once and stays in registers (up to 32 elements a thread forward, 2 x 16 backward); a warp
// does a short row alone, without barriers, a block of up to 8 warps a longer one.

#include "common/rows.cuh"

constexpr int MAX_THREADS = 32 * MAX_WARPS;
constexpr int KEEP_FWD = 4;
constexpr int KEEP_BWD = 2;

// With b, x becomes a + b.
template <int N, bool SUM, class T, class W>
__device__ __forceinline__ void forward(const T* __restrict__ a, const T* __restrict__ b, T* x, const W* __restrict__ weight,
                                        T* __restrict__ y, float* __restrict__ scales, u64 rows, u32 dim, float eps,
                                        u32 lanes) {
  const u64 row = row_of_thread(lanes);
  if (row >= rows) {
    return;
  }
  Rows<N, KEEP_FWD, 1, T> values{{a + row * dim}, dim, threadIdx.x % lanes, lanes};
  float squares[1] = {0};
  values.first([&](u32 column, float (&v)[1][N]) {
    if constexpr (SUM) {
      float other[N];
      load<N>(b + row * dim + column, other);
#pragma unroll
      for (int i = 0; i < N; i++) {
        v[0][i] = to_f32(from_f32<T>(v[0][i] + other[i]));
      }
      store<N>(x + row * dim + column, v[0]);
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
      squares[0] = fmaf(v[0][i], v[0][i], squares[0]);
    }
  });
  if constexpr (SUM) {
    values.from[0] = x + row * dim;  // what does not stay in registers is read again by the thread that wrote it
  }
  row_sums(squares, lanes);
  const float scale = 1.0f / sqrtf(squares[0] / dim + eps);
  if (values.lane == 0) {
    scales[row] = scale;
  }
  values.again([&](u32 column, float (&v)[1][N]) {
    float w[N], out[N];
    load<N>(weight + column, w);
#pragma unroll
    for (int i = 0; i < N; i++) {
      out[i] = v[0][i] * scale * w[i];
    }
    store<N>(y + row * dim + column, out);
  });
}

template <int N, bool SUM, class T, class W>
__device__ __forceinline__ void backward(const T* __restrict__ x, const W* __restrict__ weight,
                                         const float* __restrict__ scales, const T* __restrict__ dy,
                                         const T* __restrict__ other, T* __restrict__ dx, u64 rows, u32 dim,
                                         u32 lanes) {
  const u64 row = row_of_thread(lanes);
  if (row >= rows) {
    return;
  }
  Rows<N, KEEP_BWD, 2, T> values{{x + row * dim, dy + row * dim}, dim, threadIdx.x % lanes, lanes};
  float dot[1] = {0};
  values.first([&](u32 column, float (&v)[2][N]) {
    float w[N];
    load<N>(weight + column, w);
#pragma unroll
    for (int i = 0; i < N; i++) {
      dot[0] = fmaf(v[1][i] * w[i], v[0][i], dot[0]);
    }
  });
  row_sums(dot, lanes);
  const float scale = scales[row];
  const float pull = -scale * scale * (dot[0] / dim);
  values.again([&](u32 column, float (&v)[2][N]) {
    float w[N], out[N];
    load<N>(weight + column, w);
#pragma unroll
    for (int i = 0; i < N; i++) {
      out[i] = scale * fmaf(v[0][i], pull, v[1][i] * w[i]);
    }
    if constexpr (SUM) {
      float before[N];
      load<N>(other + row * dim + column, before);
#pragma unroll
      for (int i = 0; i < N; i++) {
        out[i] += before[i];
      }
    }
    store<N>(dx + row * dim + column, out);
  });
}

// The part of dw of `part_rows` rows from blockIdx.y times that on; a thread has N columns.
template <int N, class T>
__device__ __forceinline__ void weight_part(const T* __restrict__ x, const float* __restrict__ scales,
                                            const T* __restrict__ dy, float* __restrict__ parts, u64 rows, u32 dim,
                                            u32 part_rows) {
  const u32 column = (blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (column >= dim) {
    return;
  }
  const u64 begin = u64(blockIdx.y) * part_rows;
  const u64 end = min(begin + part_rows, rows);
  float sum[N] = {};
  for (u64 row = begin; row < end; row++) {
    float values[N], grad[N];
    load<N>(x + row * dim + column, values);
    load<N>(dy + row * dim + column, grad);
    const float scale = scales[row];
#pragma unroll
    for (int i = 0; i < N; i++) {
      sum[i] = fmaf(grad[i], values[i] * scale, sum[i]);
    }
  }
  store<N>(parts + u64(blockIdx.y) * dim + column, sum);
}

#define FORWARD_BACKWARD(NAME, T, W)                                                                             \
  extern "C" __global__ __launch_bounds__(MAX_THREADS) void rms_norm_fwd_##NAME(                                 \
      const T* x, const W* weight, T* y, float* scales, u64 rows, u32 dim, float eps, u32 lanes, u32 packed) {   \
    if (packed) {                                                                                                \
      forward<pack_len<T, W>(), false, T>(x, nullptr, nullptr, weight, y, scales, rows, dim, eps, lanes);       \
    } else {                                                                                                     \
      forward<1, false, T>(x, nullptr, nullptr, weight, y, scales, rows, dim, eps, lanes);                      \
    }                                                                                                            \
  }                                                                                                              \
  extern "C" __global__ __launch_bounds__(MAX_THREADS) void rms_norm_bwd_##NAME(                                 \
      const T* x, const W* weight, const float* scales, const T* dy, T* dx, u64 rows, u32 dim, u32 lanes,        \
      u32 packed) {                                                                                              \
    if (packed) {                                                                                                \
      backward<pack_len<T, W>(), false, T>(x, weight, scales, dy, nullptr, dx, rows, dim, lanes);               \
    } else {                                                                                                     \
      backward<1, false, T>(x, weight, scales, dy, nullptr, dx, rows, dim, lanes);                              \
    }                                                                                                            \
  }
#define SUMS(NAME, T, W)                                                                                         \
  extern "C" __global__ __launch_bounds__(MAX_THREADS) void rms_norm_fwd_##NAME##_sum(                           \
      const T* a, const T* b, T* x, const W* weight, T* y, float* scales, u64 rows, u32 dim, float eps,          \
      u32 lanes, u32 packed) {                                                                                   \
    if (packed) {                                                                                                \
      forward<pack_len<T, W>(), true>(a, b, x, weight, y, scales, rows, dim, eps, lanes);                        \
    } else {                                                                                                     \
      forward<1, true>(a, b, x, weight, y, scales, rows, dim, eps, lanes);                                       \
    }                                                                                                            \
  }                                                                                                              \
  extern "C" __global__ __launch_bounds__(MAX_THREADS) void rms_norm_bwd_##NAME##_sum(                           \
      const T* x, const W* weight, const float* scales, const T* dy, const T* other, T* dx, u64 rows, u32 dim,   \
      u32 lanes, u32 packed) {                                                                                   \
    if (packed) {                                                                                                \
      backward<pack_len<T, W>(), true>(x, weight, scales, dy, other, dx, rows, dim, lanes);                      \
    } else {                                                                                                     \
      backward<1, true>(x, weight, scales, dy, other, dx, rows, dim, lanes);                                     \
    }                                                                                                            \
  }
OF_PAIRS(SUMS)
OF_PAIRS(FORWARD_BACKWARD)

// The parts are f32, so a pack is four elements whatever x is.
#define WEIGHT_PARTS(NAME, T)                                                                                    \
  extern "C" __global__ __launch_bounds__(MAX_THREADS) void rms_norm_bwd_dweight_##NAME(                         \
      const T* x, const float* scales, const T* dy, float* parts, u64 rows, u32 dim, u32 part_rows,              \
      u32 packed) {                                                                                              \
    if (packed) {                                                                                                \
      weight_part<4>(x, scales, dy, parts, rows, dim, part_rows);                                                \
    } else {                                                                                                     \
      weight_part<1>(x, scales, dy, parts, rows, dim, part_rows);                                                \
    }                                                                                                            \
  }
OF_TYPES(WEIGHT_PARTS)

#ifndef WARPTUNE_F16
extern "C" __global__ __launch_bounds__(MAX_THREADS) void rms_norm_bwd_dweight_sum(const float* parts, float* dweight,
                                                                                  u32 count, u32 columns) {
  sum_parts(parts, dweight, count, columns);
}
#endif
