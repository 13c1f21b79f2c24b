// Activation functions and their derivatives, in f32.
#pragma once

namespace activations {

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// P(x), with a small relative error in the tail too.
__device__ __forceinline__ float distribution(float x) { return 0.5f * erfcf(x * -0.70710678f); }

__device__ __forceinline__ float density(float x) { return 0.39894228f * expf(-0.5f * x * x); }

// GELU by the error function.
struct Erf {
  static __device__ __forceinline__ float value(float x) { return x * distribution(x); }
  static __device__ __forceinline__ float slope(float x) { return fmaf(x, density(x), distribution(x)); }
};

// u and, for the derivative, u' of the tanh form.
constexpr float SLOPE = 1.5957691f;
constexpr float CUBIC = SLOPE * 0.044715f;

// GELU by its tanh approximation.
struct Tanh {
  static __device__ __forceinline__ float gate(float x) { return sigmoid(x * fmaf(x * x, CUBIC, SLOPE)); }
  static __device__ __forceinline__ float value(float x) { return x * gate(x); }
  static __device__ __forceinline__ float slope(float x) {
    const float s = gate(x);
    // Where x u' overflows, s (1 - s) is exactly 0: it is cut first. fminf would lose what is not a number.
    const float reach = x * fmaf(x * x, 3.0f * CUBIC, SLOPE);
    const float cut = fabsf(reach) > 1e30f ? copysignf(1e30f, reach) : reach;
    return fmaf(cut, s * (1.0f - s), s);
  }
};

}  // namespace activations
