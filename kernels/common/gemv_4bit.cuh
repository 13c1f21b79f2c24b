// y = epilogue(x W^T) for few rows (decoding), as gemv.cuh, with a W in 4 bits (four_bit.cuh): memory-bound on its packed bytes, each of
// which is read once, for all rows of x, 16 at a load.
//
// A warp's step is 128 elements along k of the block's 32 rows of W: lane 4 g + t loads 32 elements at 32 t of the rows g, g + 8, g + 16,
// g + 24, and their scales, a step ahead; they become fragments of the tensor cores in registers. Rows of x and W start on 16 bytes.
// Levels are looked up by shuffles: every lane has one, and a nibble is the number of the lane that has its level. That is two ordinary
// instructions a weight, where the permutations of four_bit.cuh would hold up the memory, and tables that are used for 32 weights only.
#pragma once

#include "four_bit.cuh"
#include "gemv.cuh"

namespace gemv_4bit {

using four_bit::GROUP, four_bit::Lookup, four_bit::Matrix;
using gemv::OWN, gemv::PART_STRIDE, gemv::TILE_N, gemv::WARPS;

// A lane's weights of one step. What is outside W keeps a scale that is finite, and is multiplied by zeros of x or not written.
struct Weights {
  u32 words[OWN][4];
  four_bit::Scale scale[OWN];

  __device__ __forceinline__ void bring(const Matrix& w, int n, int k, int n0, int k0) {
    const int lane = threadIdx.x % 32, at = k0 + lane % 4 * GROUP;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      const int row = n0 + lane / 4 + 8 * i;
      const u64 first = static_cast<u64>(row) * k + at;
      gemv::fetch<16, true>(w.packed + first / 2, row < n && at < k ? 16 : 0, words[i]);
      if (row < n && at < k) scale[i].bring(w, static_cast<u32>(first >> w.block_log2));
    }
  }
};

// The eight elements of a word; `level` is that of number lane % 16.
__device__ __forceinline__ uint4 eight(float level, u32 packed, float scale) {
  uint4 out;
  u32* words = &out.x;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float first = __shfl_sync(0xffffffff, level, packed >> (8 * i + 4), four_bit::LEVELS);
    const float second = __shfl_sync(0xffffffff, level, packed >> 8 * i, four_bit::LEVELS);
    words[i] = pair_of<half_t>(__fmul_rn(first, scale), __fmul_rn(second, scale));
  }
  return out;
}

// 8 TILES rows of x at most.
template <int TILES, class Plus = gemv::Plain>
__device__ __forceinline__ void tensor_cores(const half_t* __restrict__ x, const Matrix& w, const Lookup& lookup,
                                             const Epilogue<half_t>& epilogue, half_t* __restrict__ y, int m, int n, int k,
                                             float (&parts)[WARPS][8 * TILES][PART_STRIDE], const Plus& plus = {}) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, n0 = blockIdx.x * TILE_N;
  constexpr int STEP = 4 * GROUP, STRIDE = WARPS * STEP;
  const float level = lookup.levels[lane % four_bit::LEVELS];
  float sum[OWN / 2][TILES][4] = {};
  int k0 = threadIdx.x / 32 * STEP;
  Weights weights;
  weights.bring(w, n, k, n0, k0);
#pragma unroll 1
  for (; k0 < k; k0 += STRIDE) {
    Weights next = weights;
    next.bring(w, n, k, n0, k0 + STRIDE);
    float scale[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) scale[i] = weights.scale[i].value(w, lookup);
#pragma unroll
    for (int c = 0; c < GROUP / 8; c++) {
      uint4 of_w[OWN];
#pragma unroll
      for (int i = 0; i < OWN; i++) of_w[i] = eight(level, weights.words[i][c], scale[i]);
      const int at = k0 + t * GROUP + 8 * c;
#pragma unroll
      for (int j = 0; j < TILES; j++) {
        const int row = 8 * j + g;
        u32 of_x[4];
        gemv::fetch<8, true>(x + static_cast<long long>(row) * k + at, row < m ? k - at : 0, of_x);
#pragma unroll
        for (int i = 0; i < OWN; i += 2) {
          mma_half(sum[i / 2][j], {of_w[i].x, of_w[i + 1].x, of_w[i].y, of_w[i + 1].y}, of_x[0], of_x[1]);
          mma_half(sum[i / 2][j], {of_w[i].z, of_w[i + 1].z, of_w[i].w, of_w[i + 1].w}, of_x[2], of_x[3]);
        }
      }
    }
    weights = next;
  }
  float(&part)[8 * TILES][PART_STRIDE] = parts[threadIdx.x / 32];
#pragma unroll
  for (int i = 0; i < OWN / 2; i++) {
#pragma unroll
    for (int j = 0; j < TILES; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) part[8 * j + 2 * t + e % 2][16 * i + e / 2 * 8 + g] = sum[i][j][e];
    }
  }
  gemv::finish(parts, epilogue, y, m, n, n0, plus);
}

}  // namespace gemv_4bit
