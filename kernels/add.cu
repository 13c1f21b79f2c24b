// Sums of two tensors.
//
//   add:        y[i] = a[i] + b[i]          all of one type
//   add_assign: sum[i] = sum[i] + x[i]      of any two types, but not bf16 and f16; in place
//
// Shapes: any; n elements. Saved for backward: nothing; both gradients are dy, which is handed on without a copy.
// `add` writes every element of y, `add_assign` adds to sum. One rounding an element, in f32 arithmetic.
// Deterministic: each element is one thread's.
// Memory-bound: a thread moves 16 bytes of the larger type a step.

#include "common/spans.cuh"

constexpr int THREADS = 256;

template <class T>
__device__ __forceinline__ void add(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, u64 n) {
  constexpr int N = pack_len<T>();
  for_spans<N>(n, aligned<N>(a) && aligned<N>(b) && aligned<N>(y), [=](auto span, u64 i) {
    float left[span.len], right[span.len];
    load<span.len>(a + i, left);
    load<span.len>(b + i, right);
#pragma unroll
    for (int k = 0; k < span.len; k++) {
      left[k] += right[k];
    }
    store<span.len>(y + i, left);
  });
}

template <class S, class T> __device__ __forceinline__ void add_assign(S* sum, const T* __restrict__ x, u64 n) {
  constexpr int N = pack_len<S, T>();
  for_spans<N>(n, aligned<N>(sum) && aligned<N>(x), [=](auto span, u64 i) {
    float left[span.len], right[span.len];
    load<span.len>(sum + i, left);
    load<span.len>(x + i, right);
#pragma unroll
    for (int k = 0; k < span.len; k++) {
      left[k] += right[k];
    }
    store<span.len>(sum + i, left);
  });
}

#define ADD(NAME, T)                                                                                        \
  extern "C" __global__ __launch_bounds__(THREADS) void add_fwd_##NAME(const T* a, const T* b, T* y, u64 n) { \
    add(a, b, y, n);                                                                                        \
  }
OF_TYPES(ADD)

#define ADD_ASSIGN(NAME, S, T)                                                                                 \
  extern "C" __global__ __launch_bounds__(THREADS) void add_assign_##NAME(S* sum, const T* x, u64 n) { \
    add_assign(sum, x, n);                                                                                     \
  }
OF_PAIRS(ADD_ASSIGN)
