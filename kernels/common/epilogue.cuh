// What a product makes of its f32 sums before it rounds them. It is told at run time, so that one kernel does for all:
//
//   z = sum + bias
//   y = z | z + residual | gelu(z) | silu(gate) z        residual and gate lie as y, and are of its type
//
// One rounding, from f32. Where a backward wants z, it is rounded and kept as well.
#pragma once

#include "activations.cuh"
#include "elements.cuh"

// As src/ops/epilogue/cuda.rs numbers them.
enum EpilogueKind : u32 { PLAIN, RESIDUAL, GELU_ERF, GELU_TANH, SWIGLU };

template <class T> struct Epilogue {
  const float* bias = nullptr;   // null: none
  const T* operand = nullptr;    // the residual or the gate; null: there is none
  T* kept = nullptr;             // where z is kept; null: nowhere
  u32 kind = PLAIN;

  // Of a product that is only added to something, if to anything: what the compiler then leaves out is long.
  static __device__ __forceinline__ Epilogue adding(const T* residual) {
    return {nullptr, residual, nullptr, residual == nullptr ? PLAIN : RESIDUAL};
  }

  // The same for an output that begins `elements` later.
  __device__ __forceinline__ Epilogue after(long long elements) const {
    return {bias, operand == nullptr ? nullptr : operand + elements, kept == nullptr ? nullptr : kept + elements, kind};
  }

  // Whether packs of N elements can be moved where they start at multiples of N elements from y.
  template <int N> __device__ __forceinline__ bool packs(const T* y) const {
    return (reinterpret_cast<u64>(y) | reinterpret_cast<u64>(operand) | reinterpret_cast<u64>(kept)) % (N * sizeof(T)) == 0;
  }

  // Makes y of z; `with` are the operand's elements.
  template <int N> __device__ __forceinline__ void apply(float (&z)[N], const float (&with)[N]) const {
    if (kind == RESIDUAL) {
#pragma unroll
      for (int i = 0; i < N; i++) z[i] += with[i];
    } else if (kind == GELU_ERF) {
#pragma unroll
      for (int i = 0; i < N; i++) z[i] = activations::Erf::value(z[i]);
    } else if (kind == GELU_TANH) {
#pragma unroll
      for (int i = 0; i < N; i++) z[i] = activations::Tanh::value(z[i]);
    } else if (kind == SWIGLU) {
#pragma unroll
      for (int i = 0; i < N; i++) z[i] *= with[i] * activations::sigmoid(with[i]);
    }
  }

  // The same for `count` neighbours of y from element `at` on, of which z has the sums: the bias is in them. Element by element.
  template <int N> __device__ __forceinline__ void finish(float (&z)[N], T* y, long long at, int count) const {
    float with[N] = {};
#pragma unroll
    for (int i = 0; i < N; i++) {
      if (operand != nullptr && i < count) with[i] = to_f32(operand[at + i]);
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
      if (kept != nullptr && i < count) kept[at + i] = from_f32<T>(z[i]);
    }
    apply(z, with);
#pragma unroll
    for (int i = 0; i < N; i++) {
      if (i < count) y[at + i] = from_f32<T>(z[i]);
    }
  }

  // The same for N of them, which can be moved as a pack.
  template <int N> __device__ __forceinline__ void finish_pack(float (&z)[N], const float (&with)[N], T* y, long long at) const {
    if (kept != nullptr) store<N>(kept + at, z);
    apply(z, with);
    store<N>(y + at, z);
  }
};

// The epilogue that an entry point is told, of y and of gradients.
template <class T> __device__ __forceinline__ Epilogue<T> any_epilogue(const float* bias, const T* operand, T* kept, u32 kind) {
  return {bias, operand, kept, kind};
}
template <class T> __device__ __forceinline__ Epilogue<T> adding_epilogue(const float*, const T* operand, T*, u32) {
  return Epilogue<T>::adding(operand);
}
