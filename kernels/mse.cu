// The squared distance to constants, as a loss.
//
//   loss = sum over i of (a[i] - b[i])^2 / denominator
//   da[i] = 2 (a[i] - b[i]) dloss / denominator
//
// Shapes: any; n elements of f32. loss and dloss: one f32 each, on the device. Saved for backward: a and b. All results are overwritten.
// Deterministic: a block sums CHUNK elements and a thread of it its packs in order, squares and sums of one thread in f32, then f64 in fixed
// trees; `mse_finish`, one block, adds the chunks up.
// Memory-bound: 16 bytes a load, two loads a step. A thread has few enough elements (CHUNK / THREADS) that f32 sums of them keep six digits.

#include "common/spans.cuh"
#include "common/sums.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int N = 4;
constexpr u64 CHUNK = 8192;

// The sum of the chunk blockIdx.x.
extern "C" __global__ __launch_bounds__(THREADS) void mse_fwd_f32(const float* a, const float* b, double* parts, u64 n) {
  const u64 first = u64(blockIdx.x) * CHUNK;
  const u64 end = first + CHUNK < n ? first + CHUNK : n;
  float sums[N] = {};
  const bool packed = aligned<N>(a) && aligned<N>(b);
  const u64 packs = packed ? (end - first) / N : 0;
  for (u64 pack = threadIdx.x; pack < packs; pack += THREADS) {
    float left[N], right[N];
    load<N>(a + first + pack * N, left);
    load<N>(b + first + pack * N, right);
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float d = left[k] - right[k];
      sums[k] = fmaf(d, d, sums[k]);
    }
  }
  for (u64 i = first + packs * N + threadIdx.x; i < end; i += THREADS) {
    const float d = a[i] - b[i];
    sums[0] = fmaf(d, d, sums[0]);
  }
  const double of_thread = (double(sums[0]) + double(sums[1])) + (double(sums[2]) + double(sums[3]));
  const double sum = block_sum<WARPS>(of_thread);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

extern "C" __global__ __launch_bounds__(THREADS) void mse_finish(const double* parts, u64 chunks, float* loss, float denominator) {
  double sum = 0.0;
  for (u64 i = threadIdx.x; i < chunks; i += THREADS) sum += parts[i];
  sum = block_sum<WARPS>(sum);
  if (threadIdx.x == 0) *loss = static_cast<float>(sum / denominator);
}

extern "C" __global__ __launch_bounds__(THREADS) void mse_bwd_f32(const float* a, const float* b, const float* dloss, float denominator,
                                                                  float* da, u64 n) {
  const float factor = 2.0f * *dloss / denominator;
  for_spans<N>(n, aligned<N>(a) && aligned<N>(b) && aligned<N>(da), [=](auto span, u64 i) {
    float left[span.len], right[span.len];
    load<span.len>(a + i, left);
    load<span.len>(b + i, right);
#pragma unroll
    for (int k = 0; k < span.len; k++) left[k] = (left[k] - right[k]) * factor;
    store<span.len>(da + i, left);
  });
}
