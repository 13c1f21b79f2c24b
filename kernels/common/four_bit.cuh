// Matrices in 4 bits an element (NF4 and FP4, QLoRA, arXiv 2305.14314), as bitsandbytes lays them out, and their way to tensor cores.
//
// Element i of a matrix [rows, cols], counted along rows, is levels[q] absmax[i / block]: q is the high nibble of byte i / 2 where i
// is even, else the low one. `block` is a power of two from 64 on. absmax is f32; or, quantized once more, map[code] nested[b / 256] +
// offset for the code of block b. There are at most 2^32 blocks. A product rounds once, to the type that it is used in.
//
// Decoding to a 16-bit type: the 16 values of a block are a table of 8 registers, their low bytes and their high bytes. The nibbles of
// half a word are selectors of byte permutations: two, for values 0 to 7 and 8 to 15, and one that picks by the upper bit. That is
// about 2.6 instructions a weight, and half of one for the table, on lanes that tensor cores leave idle; no look-up in shared memory.
#pragma once

#include "async_copy.cuh"
#include "elements.cuh"

namespace four_bit {

constexpr int LEVELS = 16, CODES = 256, NESTED_LOG2 = 8;
// Elements that a thread decodes at once: those of 16 bytes. Never more than a block.
constexpr int GROUP_LOG2 = 5, GROUP = 1 << GROUP_LOG2;

// What the codes stand for, by kind, as src/tensor/quantized.rs numbers and has them: NF4 and FP4.
__constant__ float levels_of[2][LEVELS] = {
    {-1.0f, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f, 0.0795803f, 0.1609302f, 0.2461123f,
     0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1.0f},
    {0.0f / 12, 0.0625f / 12, 8.0f / 12, 12.0f / 12, 4.0f / 12, 6.0f / 12, 2.0f / 12, 3.0f / 12, 0.0f / 12, -0.0625f / 12, -8.0f / 12,
     -12.0f / 12, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12}};

// A parameter of kernels, by value; src/ops/quantized_matmul/cuda.rs has the same.
struct Matrix {
  const unsigned char* packed;
  const float* absmax;         // null: quantized once more
  const unsigned char* codes;
  const float* map;            // [256]
  const float* nested;
  u32 kind;
  float offset;
  int block_log2;
};

// Bytes of a and b, as the lower four nibbles of `selector` say, which have three bits; the upper ones do not count (PTX ISA, prmt).
__device__ __forceinline__ u32 permute(u32 a, u32 b, u32 selector) {
  u32 out;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(selector));
  return out;
}

// What decoding looks up, in shared memory.
struct Lookup {
  __align__(16) float levels[LEVELS];
  float map[CODES];

  __device__ __forceinline__ void fill(const Matrix& w) {
    for (int i = threadIdx.x; i < CODES; i += blockDim.x) {
      if (i < LEVELS) levels[i] = levels_of[w.kind][i];
      if (w.absmax == nullptr) map[i] = w.map[i];
    }
    __syncthreads();  // Hazard: elements are read by other threads than wrote them.
  }
};

// The scale of a block as it was loaded; what is to be computed waits until it is needed.
struct Scale {
  float absmax = 0.0f;  // or `nested`
  u32 code = 0;

  __device__ __forceinline__ void bring(const Matrix& w, u32 block) {
    if (w.absmax != nullptr) {
      absmax = w.absmax[block];
    } else {
      absmax = w.nested[block >> NESTED_LOG2];
      code = w.codes[block];
    }
  }

  __device__ __forceinline__ float value(const Matrix& w, const Lookup& lookup) const {
    // Rounded after the product and after the sum, as bitsandbytes does.
    return w.absmax != nullptr ? absmax : __fadd_rn(__fmul_rn(lookup.map[code], absmax), w.offset);
  }
};

// One element, from memory.
__device__ __forceinline__ float element(const Matrix& w, const Lookup& lookup, u64 at) {
  Scale scale;
  scale.bring(w, static_cast<u32>(at >> w.block_log2));
  const u32 byte = w.packed[at / 2];
  return __fmul_rn(lookup.levels[at % 2 == 0 ? byte >> 4 : byte & 15], scale.value(w, lookup));
}

// The values of a block.
struct Table {
  u32 low[4], high[4];

  __device__ __forceinline__ Table(const Lookup& lookup, float scale) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float4 l = reinterpret_cast<const float4*>(lookup.levels)[i];
      const u32 first = pair_of<half_t>(__fmul_rn(l.x, scale), __fmul_rn(l.y, scale));
      const u32 second = pair_of<half_t>(__fmul_rn(l.z, scale), __fmul_rn(l.w, scale));
      low[i] = permute(first, second, 0x6420);
      high[i] = permute(first, second, 0x7531);
    }
  }

  // Four elements: two words of two. `index` has the lower three bits of each selector, `pick` its upper one.
  __device__ __forceinline__ uint2 four(u32 index, u32 pick) const {
    const u32 lows = permute(permute(low[0], low[1], index), permute(low[2], low[3], index), pick);
    const u32 highs = permute(permute(high[0], high[1], index), permute(high[2], high[3], index), pick);
    // The low nibble, which is the first selector, is the second element.
    return {permute(lows, highs, 0x4051), permute(lows, highs, 0x6273)};
  }

  // The eight elements of a word.
  __device__ __forceinline__ uint4 eight(u32 packed) const {
    const u32 index = packed & 0x77777777u, pick = (packed >> 1 & 0x44444444u) | 0x32103210u;
    const uint2 a = four(index, pick), b = four(index >> 16, pick >> 16);
    return {a.x, a.y, b.x, b.y};
  }
};

}  // namespace four_bit
