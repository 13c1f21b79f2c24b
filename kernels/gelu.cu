// GELU, by the error function and by its tanh approximation.
//
//   erf:  y = x P(x),  dx = dy (P(x) + x p(x)),  P and p the standard normal distribution function and density
//   tanh: y = x s with s = 1 / (1 + e^-u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3),  dx = dy (s + x u' s (1 - s))
//
// Shapes: any; n elements. Saved for backward: x. Everything is overwritten.
// Deterministic: each element is one thread's.
// Memory-bound: 16 bytes of each operand a thread and step.

#include "common/spans.cuh"

constexpr int THREADS = 256;

// P(x), with a small relative error in the tail too.
__device__ __forceinline__ float distribution(float x) { return 0.5f * erfcf(x * -0.70710678f); }

__device__ __forceinline__ float density(float x) { return 0.39894228f * expf(-0.5f * x * x); }

// u and, for the derivative, u' of the tanh form.
constexpr float SLOPE = 1.5957691f;
constexpr float CUBIC = SLOPE * 0.044715f;

struct Erf {
  static __device__ __forceinline__ float value(float x) { return x * distribution(x); }
  static __device__ __forceinline__ float slope(float x) { return fmaf(x, density(x), distribution(x)); }
};

struct Tanh {
  static __device__ __forceinline__ float sigmoid(float x) {
    const float u = x * fmaf(x * x, CUBIC, SLOPE);
    return 1.0f / (1.0f + expf(-u));
  }
  static __device__ __forceinline__ float value(float x) { return x * sigmoid(x); }
  static __device__ __forceinline__ float slope(float x) {
    const float s = sigmoid(x);
    // Where x u' overflows, s (1 - s) is exactly 0: it is cut first. fminf would lose what is not a number.
    const float reach = x * fmaf(x * x, 3.0f * CUBIC, SLOPE);
    const float cut = fabsf(reach) > 1e30f ? copysignf(1e30f, reach) : reach;
    return fmaf(cut, s * (1.0f - s), s);
  }
};

template <class Kind, class T>
__device__ __forceinline__ void forward(const T* __restrict__ x, T* __restrict__ y, u64 n) {
  constexpr int N = pack_len<T>();
  for_spans<N>(n, aligned<N>(x) && aligned<N>(y), [=](auto span, u64 at) {
    float v[span.len];
    load<span.len>(x + at, v);
#pragma unroll
    for (int i = 0; i < span.len; i++) {
      v[i] = Kind::value(v[i]);
    }
    store<span.len>(y + at, v);
  });
}

template <class Kind, class T>
__device__ __forceinline__ void backward(const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx,
                                         u64 n) {
  constexpr int N = pack_len<T>();
  for_spans<N>(n, aligned<N>(x) && aligned<N>(dy) && aligned<N>(dx), [=](auto span, u64 at) {
    float v[span.len], d[span.len];
    load<span.len>(x + at, v);
    load<span.len>(dy + at, d);
#pragma unroll
    for (int i = 0; i < span.len; i++) {
      d[i] *= Kind::slope(v[i]);
    }
    store<span.len>(dx + at, d);
  });
}

#define KIND_OF_GELU(NAME, KIND, T)                                                                                      \
  extern "C" __global__ __launch_bounds__(THREADS) void gelu_fwd_##NAME(const T* x, T* y, u64 n) {               \
    forward<KIND>(x, y, n);                                                                                      \
  }                                                                                                              \
  extern "C" __global__ __launch_bounds__(THREADS) void gelu_bwd_##NAME(const T* x, const T* dy, T* dx, u64 n) { \
    backward<KIND>(x, dy, dx, n);                                                                                \
  }
#define GELU(NAME, T)              \
  KIND_OF_GELU(NAME##_erf, Erf, T) \
  KIND_OF_GELU(NAME##_tanh, Tanh, T)
OF_TYPES(GELU)
