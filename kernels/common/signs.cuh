// Matrices of signs, a bit an element (BitDelta, arXiv 2402.10193), and their way to tensor cores.
//
// Element i of a row of a matrix [rows, cols] is +1 where bit i % 32 of word i / 32 of the row is 1, else -1; a row is ceil(cols / 32) words,
// the bits behind its end are zero. What is outside a matrix becomes -1, and is multiplied by zeros of the other operand or not written.
//
// A pair of neighbours of a fragment is made of the bits that are 16 apart in a register: a shift puts them where a 16-bit number has its sign,
// and one logic operation turns +-1, or +- a pair of scales, of them. No number is ever in memory.
#pragma once

#include "elements.cuh"

namespace signs {

constexpr int WORD = 32;
constexpr u32 SIGN_BITS = 0x80008000;

// A parameter of kernels, by value; src/ops/sign_matmul/cuda.rs has the same.
struct Delta {
  const u32* words;    // [rows, row_words]; null: there is none
  const float* scale;  // [1], or [rows]
  int row_words;
  u32 of_rows;  // whether each row has a scale of its own

  __device__ __forceinline__ float scale_of(int row) const { return scale[of_rows ? row : 0]; }
};

// The pair of +-1, or +- scales, of bits BIT and BIT + 16 of `pairs`, BIT at most 15. `negative` is the pair of ones, or of scales, with their signs
// turned.
template <int BIT> __device__ __forceinline__ u32 expand(u32 pairs, u32 negative) {
  return ((pairs << (15 - BIT)) & SIGN_BITS) ^ negative;
}

// The lower half of a, the upper half of b.
__device__ __forceinline__ u32 halves(u32 a, u32 b) { return (a & 0xffff) | (b & 0xffff0000); }

// A word for `expand`, where bits i and i + 1 are neighbours for every even i: those below bit 16 by `expand<i>(first)`, the others by
// `expand<i - 16>(second)`.
struct Neighbours {
  u32 first, second;

  Neighbours() = default;
  __device__ __forceinline__ explicit Neighbours(u32 word) : first(halves(word, word << 15)), second(halves(word >> 16, word >> 1)) {}
};

// Two words for `expand`, where bits i of a and b are neighbours: those below bit 16, and the others.
__device__ __forceinline__ u32 lower_of_two(u32 a, u32 b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ u32 upper_of_two(u32 a, u32 b) { return __byte_perm(a, b, 0x7632); }

// Signs as an operand of gemm_f32.cuh: +-1, or +- the row's scale.
struct Part {
  const u32* words;
  int row_words;
  int begin, end;
  const float* scale = nullptr;

  __device__ __forceinline__ float at(long long row, int col) const {
    const float size = scale != nullptr ? scale[row] : 1.0f;
    return words[row * row_words + col / WORD] >> col % WORD & 1 ? size : -size;
  }
};

}  // namespace signs
