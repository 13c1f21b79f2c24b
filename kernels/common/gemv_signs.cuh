// A few rows of x times a matrix of signs (signs.cuh), beside what gemv.cuh makes of them and a weight: memory-bound on the bits, each of which
// is read once, for all rows of x.
//
// A warp's step is 256 elements along k of the block's 32 rows of signs: lane 4 g + t loads 64 elements, 8 bytes, at 64 t of the rows g, g + 8,
// g + 16, g + 24, a step ahead, so that four lanes read a sector; they become the left operand of the tensor cores in registers, as in gemv.cuh.
// A sum over k is eight sums, one a warp, added in the order of the warps, and then multiplied by the scale: neither m nor n changes that.
#pragma once

#include "gemv.cuh"
#include "signs.cuh"

namespace gemv_signs {

using gemv::OWN, gemv::PART_STRIDE, gemv::THREADS, gemv::TILE_N, gemv::WARPS;
using signs::Delta, signs::WORD;

constexpr int OF_LANE = 64, STEP = 4 * OF_LANE, STRIDE = WARPS * STEP;

struct Words {
  u32 words[OWN][OF_LANE / WORD];

  __device__ __forceinline__ void bring(const Delta& delta, int n, int n0, int k0) {
    const int lane = threadIdx.x % 32, at = k0 / WORD + lane % 4 * (OF_LANE / WORD);
    const bool whole = delta.row_words % 2 == 0 && reinterpret_cast<u64>(delta.words) % 8 == 0;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      const int row = n0 + lane / 4 + 8 * i, left = row < n ? delta.row_words - at : 0;
      const u32* from = delta.words + static_cast<long long>(row) * delta.row_words + at;
      words[i][0] = words[i][1] = 0;
      if (whole && left > 0) {
        const uint2 two = *reinterpret_cast<const uint2*>(from);
        words[i][0] = two.x;
        words[i][1] = two.y;
      } else if (left > 0) {
        words[i][0] = from[0];
        if (left > 1) words[i][1] = from[1];
      }
    }
  }
};

// out[i][j] = scale x_i . s_(n0 + j) for the m rows of x (at most 8 TILES) and 32 rows of signs. `parts` is free again afterwards.
template <int TILES, bool ALIGNED>
__device__ __forceinline__ void products(const half_t* __restrict__ x, const Delta& delta, int n0, int m, int n, int k,
                                         float (&parts)[WARPS][8 * TILES][PART_STRIDE], float (&out)[8 * TILES][TILE_N]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  constexpr u32 NEGATIVE = HALF_ONES ^ signs::SIGN_BITS;
  float sum[OWN / 2][TILES][4] = {};
  int k0 = threadIdx.x / 32 * STEP;
  Words words;
  words.bring(delta, n, n0, k0);
#pragma unroll 1
  for (; k0 < k; k0 += STRIDE) {
    Words next;
    next.bring(delta, n, n0, k0 + STRIDE);
#pragma unroll
    for (int w = 0; w < OF_LANE / WORD; w++) {
      signs::Neighbours pairs[OWN];
#pragma unroll
      for (int i = 0; i < OWN; i++) pairs[i] = signs::Neighbours(words.words[i][w]);
#pragma unroll
      for (int c = 0; c < 4; c++) {
        const int at = k0 + t * OF_LANE + w * WORD + 8 * c;
        // The eight bits of byte c, by twos.
        u32 of_s[OWN][4];
#pragma unroll
        for (int i = 0; i < OWN; i++) {
          const u32 half = (c < 2 ? pairs[i].first : pairs[i].second) >> c % 2 * 8;
          of_s[i][0] = signs::expand<0>(half, NEGATIVE);
          of_s[i][1] = signs::expand<2>(half, NEGATIVE);
          of_s[i][2] = signs::expand<4>(half, NEGATIVE);
          of_s[i][3] = signs::expand<6>(half, NEGATIVE);
        }
#pragma unroll
        for (int j = 0; j < TILES; j++) {
          const int row = 8 * j + g;
          u32 of_x[4];
          gemv::fetch<8, ALIGNED>(x + static_cast<long long>(row) * k + at, row < m ? k - at : 0, of_x);
#pragma unroll
          for (int i = 0; i < OWN; i += 2) {
            mma_half(sum[i / 2][j], {of_s[i][0], of_s[i + 1][0], of_s[i][1], of_s[i + 1][1]}, of_x[0], of_x[1]);
            mma_half(sum[i / 2][j], {of_s[i][2], of_s[i + 1][2], of_s[i][3], of_s[i + 1][3]}, of_x[2], of_x[3]);
          }
        }
      }
    }
    words = next;
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
  __syncthreads();  // Hazard: the parts are read by other threads than wrote them.
#pragma unroll 1
  for (int id = threadIdx.x; id < m * TILE_N; id += THREADS) {
    const int row = id / TILE_N, col = id % TILE_N;
    float total = parts[0][row][col];
#pragma unroll
    for (int w = 1; w < WARPS; w++) total += parts[w][row][col];
    out[row][col] = n0 + col < n ? delta.scale_of(n0 + col) * total : 0.0f;
  }
  __syncthreads();  // Hazards: the parts are written again, and `out` is read, by other threads.
}

// Adds them to a sum.
template <int ROWS> struct Plus {
  const float (&of_signs)[ROWS][TILE_N];

  __device__ __forceinline__ float operator()(float sum, int row, int col) const { return sum + of_signs[row][col % TILE_N]; }
};

}  // namespace gemv_signs
