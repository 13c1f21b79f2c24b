// Casts between float types.
//
//   y[i] = x[i], rounded to nearest, ties to even
//
// Shapes: any; n elements. Saved for backward: nothing (no op; Tensor::to_dtype). Writes every element of y.
// Deterministic: each element is one thread's.
// Memory-bound: a thread moves 16 bytes of the f32 side a step, so that a warp's accesses are whole sectors on both sides.

#include "common/spans.cuh"

constexpr int THREADS = 256;

template <class From, class To>
__device__ __forceinline__ void cast(const From* __restrict__ x, To* __restrict__ y, u64 n) {
  constexpr int N = pack_len<From, To>();
  for_spans<N>(n, aligned<N>(x) && aligned<N>(y), [=](auto span, u64 i) {
    float values[span.len];
    load<span.len>(x + i, values);
    store<span.len>(y + i, values);
  });
}

extern "C" __global__ __launch_bounds__(THREADS) void cast_fwd_f32_bf16(const float* x, bf16* y, u64 n) {
  cast(x, y, n);
}

extern "C" __global__ __launch_bounds__(THREADS) void cast_fwd_bf16_f32(const bf16* x, float* y, u64 n) {
  cast(x, y, n);
}
