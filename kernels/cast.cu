// Casts between float types.
//
//   y[i] = x[i], rounded to nearest, ties to even
//
// Shapes: any; n elements. Saved for backward: nothing (no op; Tensor::to_dtype). Writes every element of y.
// Deterministic: each element is one thread's.
// Memory-bound: a thread moves 16 bytes of the larger type a step, so that a warp's accesses are whole sectors on both sides. One
// module has the casts of all types.

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

#define CAST(NAME, FROM, TO)                                                                                      \
  extern "C" __global__ __launch_bounds__(THREADS) void cast_fwd_##NAME(const FROM* x, TO* y, u64 n) { cast(x, y, n); }
CAST(f32_bf16, float, bf16)
CAST(f32_f16, float, f16)
CAST(bf16_f32, bf16, float)
CAST(bf16_f16, bf16, f16)
CAST(f16_f32, f16, float)
CAST(f16_bf16, f16, bf16)
