// Elements of tensors: f32 or bf16 in memory, f32 in arithmetic, packs of up to 16 bytes between the two.
#pragma once

#include <cuda_bf16.h>

using bf16 = __nv_bfloat16;
using u32 = unsigned int;
using u64 = unsigned long long;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }

// Rounds to nearest, ties to even.
template <class T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }

// The unsigned type of so many bytes, by which a pack is loaded and stored with one instruction.
template <int BYTES> struct Word;
template <> struct Word<2> { using Type = unsigned short; };
template <> struct Word<4> { using Type = u32; };
template <> struct Word<8> { using Type = u64; };  // nvcc makes two stores of a uint2, here and there
template <> struct Word<16> { using Type = uint4; };

// N elements from p, which is aligned to all of them.
template <int N, class T> __device__ __forceinline__ void load(const T* __restrict__ p, float (&x)[N]) {
  using Whole = typename Word<N * sizeof(T)>::Type;
  union {
    Whole word;
    unsigned short halves[N * sizeof(T) / 2];
    u32 words[(N * sizeof(T) + 3) / 4];
  } pack;
  pack.word = *reinterpret_cast<const Whole*>(p);
#pragma unroll
  for (int i = 0; i < N; i++) {
    if constexpr (sizeof(T) == 4) {
      x[i] = __uint_as_float(pack.words[i]);
    } else {
      x[i] = __uint_as_float(static_cast<u32>(pack.halves[i]) << 16);
    }
  }
}

// N elements to p, which is aligned to all of them; one rounding each.
template <int N, class T> __device__ __forceinline__ void store(T* __restrict__ p, const float (&x)[N]) {
  using Whole = typename Word<N * sizeof(T)>::Type;
  union {
    Whole word;
    unsigned short halves[N * sizeof(T) / 2];
    u32 words[(N * sizeof(T) + 3) / 4];
  } pack;
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      pack.words[i] = __float_as_uint(x[i]);
    }
  } else if constexpr (N == 1) {
    pack.halves[0] = __bfloat16_as_ushort(from_f32<bf16>(x[0]));
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(x[i], x[i + 1]);
      pack.words[i / 2] = *reinterpret_cast<const u32*>(&pair);
    }
  }
  *reinterpret_cast<Whole*>(p) = pack.word;
}

// Elements of a pack where T and others of at most its size move together: 16 bytes of the largest type.
template <class... T> constexpr int pack_len() {
  int largest = 2;
  ((largest = sizeof(T) > largest ? static_cast<int>(sizeof(T)) : largest), ...);
  return 16 / largest;
}

// Whether packs of N elements can be loaded from p.
template <int N, class T> __device__ __forceinline__ bool aligned(const T* p) {
  return reinterpret_cast<u64>(p) % (N * sizeof(T)) == 0;
}
