// SwiGLU.
//
//   y = gate s up with s = 1 / (1 + e^-gate)
//   dgate = dy up s (1 + gate (1 - s))        dup = dy gate s
//
// Shapes: any, all operands alike; n elements. Saved for backward: gate and up. Everything is overwritten.
// Deterministic: each element is one thread's.
// Memory-bound: 16 bytes of each operand a thread and step; both gradients come out of one pass.

#include "common/activations.cuh"
#include "common/spans.cuh"

constexpr int THREADS = 256;

using activations::sigmoid;

template <class T>
__device__ __forceinline__ void forward(const T* __restrict__ gate, const T* __restrict__ up, T* __restrict__ y,
                                        u64 n) {
  constexpr int N = pack_len<T>();
  for_spans<N>(n, aligned<N>(gate) && aligned<N>(up) && aligned<N>(y), [=](auto span, u64 at) {
    float g[span.len], u[span.len];
    load<span.len>(gate + at, g);
    load<span.len>(up + at, u);
#pragma unroll
    for (int i = 0; i < span.len; i++) {
      g[i] = g[i] * sigmoid(g[i]) * u[i];
    }
    store<span.len>(y + at, g);
  });
}

template <class T>
__device__ __forceinline__ void backward(const T* __restrict__ gate, const T* __restrict__ up,
                                         const T* __restrict__ dy, T* __restrict__ dgate, T* __restrict__ dup,
                                         u64 n) {
  constexpr int N = pack_len<T>();
  const bool packed = aligned<N>(gate) && aligned<N>(up) && aligned<N>(dy) && aligned<N>(dgate) && aligned<N>(dup);
  for_spans<N>(n, packed, [=](auto span, u64 at) {
    float g[span.len], u[span.len], d[span.len];
    load<span.len>(gate + at, g);
    load<span.len>(up + at, u);
    load<span.len>(dy + at, d);
#pragma unroll
    for (int i = 0; i < span.len; i++) {
      const float s = sigmoid(g[i]);
      const float slope = s * fmaf(g[i], 1.0f - s, 1.0f);
      u[i] = d[i] * u[i] * slope;
      d[i] = d[i] * (g[i] * s);
    }
    store<span.len>(dgate + at, u);
    store<span.len>(dup + at, d);
  });
}

#define SWIGLU(NAME, T)                                                                                           \
  extern "C" __global__ __launch_bounds__(THREADS) void swiglu_fwd_##NAME(const T* gate, const T* up, T* y, u64 n) { \
    forward(gate, up, y, n);                                                                                      \
  }                                                                                                               \
  extern "C" __global__ __launch_bounds__(THREADS) void swiglu_bwd_##NAME(const T* gate, const T* up, const T* dy, \
                                                                          T* dgate, T* dup, u64 n) {              \
    backward(gate, up, dy, dgate, dup, n);                                                                        \
  }
OF_TYPES(SWIGLU)
