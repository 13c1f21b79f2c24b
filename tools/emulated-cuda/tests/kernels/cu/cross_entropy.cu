// Cross-entropy of the rows of logits: [rows, vocab] f32 against targets: [rows]; a target below 0 means no loss.
//   loss = log(sum(exp(x))) - x[target]        logits <- (softmax(x) - [i = target]) scale, in place
// One block a row, one pass for maximum and sum together. Deterministic.
#include "warp.cuh"

constexpr int THREADS = 128;

struct Running {
  float top, sum;  // the largest so far, and the sum of exp(x - top)
};

__device__ __forceinline__ Running merge(Running a, Running b) {
  const float top = fmaxf(a.top, b.top);
  // Both may be empty: their tops are then -inf, and their difference would be NaN.
  if (top == -INFINITY) return a;
  return {top, a.sum * __expf(a.top - top) + b.sum * __expf(b.top - top)};
}

extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy(float* logits, const int* targets, float* loss, int vocab, float scale) {
  __shared__ Running scratch[THREADS / WARP];
  float* x = logits + (long long)blockIdx.x * vocab;
  const int target = targets[blockIdx.x];
  if (target < 0) {
#pragma unroll 1
    for (int i = threadIdx.x; i < vocab; i += THREADS) x[i] = 0.0f;
    if (threadIdx.x == 0) loss[blockIdx.x] = 0.0f;
    return;
  }
  Running all = {-INFINITY, 0.0f};
#pragma unroll 1
  for (int i = threadIdx.x; i < vocab; i += THREADS) all = merge(all, {x[i], 1.0f});
#pragma unroll
  for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
    all = merge(all, {__shfl_down_sync(ALL, all.top, lanes), __shfl_down_sync(ALL, all.sum, lanes)});
  if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = all;
  // Each warp's part is written.
  __syncthreads();
  all = scratch[0];
#pragma unroll
  for (int warp = 1; warp < int(THREADS / WARP); warp++) all = merge(all, scratch[warp]);
  const float lse = all.top + __logf(all.sum);
#pragma unroll 1
  for (int i = threadIdx.x; i < vocab; i += THREADS) {
    const float old = x[i];
    if (i == target) loss[blockIdx.x] = lse - old;
    x[i] = (__expf(old - lse) - (i == target ? 1.0f : 0.0f)) * scale;
  }
}
