// Elements of tensors: f32, bf16 or f16 in memory, f32 in arithmetic, packs of up to 16 bytes between the two.
//
// A file of kernels has those for one 16-bit type, half_t: bf16, or, compiled with WARPTUNE_F16, f16. build.rs compiles files that name
// kernels by the macros below twice: module `op` has the kernels for f32 and bf16, module `op_f16` those with an operand of f16.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using bf16 = __nv_bfloat16;
using f16 = __half;
using u32 = unsigned int;
using u64 = unsigned long long;

// Kernels by the names of their types: of each, of each two, and those of half_t alone. What is of no type or of f32 alone stands in
// `#ifndef WARPTUNE_F16`.
#ifdef WARPTUNE_F16
using half_t = f16;
#define OF_TYPES(KERNEL) KERNEL(f16, half_t)
#define OF_PAIRS(KERNEL) KERNEL(f32_f16, float, half_t) KERNEL(f16_f32, half_t, float) KERNEL(f16_f16, half_t, half_t)
#define OF_HALF(KERNELS) KERNELS(f16)
constexpr u32 HALF_ONES = 0x3c003c00;  // 1 and 1
#else
using half_t = bf16;
#define OF_TYPES(KERNEL) KERNEL(f32, float) KERNEL(bf16, half_t)
#define OF_PAIRS(KERNEL) \
  KERNEL(f32_f32, float, float) KERNEL(f32_bf16, float, half_t) KERNEL(bf16_f32, half_t, float) KERNEL(bf16_bf16, half_t, half_t)
#define OF_HALF(KERNELS) KERNELS(bf16)
constexpr u32 HALF_ONES = 0x3f803f80;  // 1 and 1
#endif

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }

// Rounds to nearest, ties to even; in f16, to infinity from 65520 on.
template <class T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half_rn(x); }

// The 16 bits of an element, and the element of 16 bits.
__device__ __forceinline__ unsigned short bits_of(bf16 x) { return __bfloat16_as_ushort(x); }
__device__ __forceinline__ unsigned short bits_of(f16 x) { return __half_as_ushort(x); }
template <class T> __device__ __forceinline__ T of_bits(unsigned short bits);
template <> __device__ __forceinline__ bf16 of_bits<bf16>(unsigned short bits) { return __ushort_as_bfloat16(bits); }
template <> __device__ __forceinline__ f16 of_bits<f16>(unsigned short bits) { return __ushort_as_half(bits); }

// Two neighbouring elements of 16 bits, the first in the lower half.
template <class T> __device__ __forceinline__ u32 pair_of(float first, float second);
template <> __device__ __forceinline__ u32 pair_of<bf16>(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const u32*>(&pair);
}
template <> __device__ __forceinline__ u32 pair_of<f16>(float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  return *reinterpret_cast<const u32*>(&pair);
}

// One of them.
template <class T> __device__ __forceinline__ float first_of(u32 pair) { return to_f32(of_bits<T>(static_cast<unsigned short>(pair))); }
template <class T> __device__ __forceinline__ float second_of(u32 pair) {
  return to_f32(of_bits<T>(static_cast<unsigned short>(pair >> 16)));
}
template <> __device__ __forceinline__ float first_of<bf16>(u32 pair) { return __uint_as_float(pair << 16); }
template <> __device__ __forceinline__ float second_of<bf16>(u32 pair) { return __uint_as_float(pair & 0xffff0000); }

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
      x[i] = first_of<T>(pack.halves[i]);
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
    pack.halves[0] = bits_of(from_f32<T>(x[0]));
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      pack.words[i / 2] = pair_of<T>(x[i], x[i + 1]);
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
