// Products with a matrix of signs (signs.cuh) on tensor cores, as gemm.cuh has them: the other operand's tiles, the shapes and the order of the
// sums are those of gemm.cuh, and so a product can go on over other operands in the same sums and the same ring. The signs stay bits in shared
// memory, a sixteenth of what a tile would be, and become fragments in registers: about 3.5 ordinary instructions for a register that
// four mma use, on lanes that tensor cores leave idle.
//
// Signs lie as [n, k] (K_MAJOR: x S^T) or [k, n] (dy S). Rows of words that are not aligned to 16 bytes are copied by fours.
#pragma once

#include "gemm.cuh"
#include "shared_memory.cuh"
#include "signs.cuh"

namespace gemm_signs {

using gemm::STAGES, gemm::STAGE_ELEMENTS, gemm::THREADS, gemm::TILE_ELEMENTS, gemm::TILE_K, gemm::TILE_N, gemm::WARP_M, gemm::WARP_N;
using signs::Delta, signs::WORD;

static_assert(TILE_K == WORD && TILE_N == THREADS && TILE_N == 4 * WORD, "a step is a word along k; a thread copies a row");

// Words come in units, so that whole sectors are read: of 8 steps with k along the rows, of 4 across them. Two units are in memory.
constexpr int UNIT_BYTES = 4096, SCALES_AT = 2048;
static_assert(2 * UNIT_BYTES <= TILE_ELEMENTS * 2, "two units fit the tile of B of a stage");

// Scales of rows across k are pairs of 16 bits, high and low. f16 has them times a power of two, as small ones would lose their low part.
#ifdef WARPTUNE_F16
constexpr float SCALE_UP = 1024.0f;
#else
constexpr float SCALE_UP = 1.0f;
#endif

template <bool K_MAJOR> struct Tiles {
  static constexpr int STEPS = K_MAJOR ? 8 : 4;
  static constexpr int WORDS = K_MAJOR ? 8 : 4;  // of a line of a unit

  const Delta& delta;
  int rows, outer0;
  bool aligned, scales;

  __device__ __forceinline__ Tiles(const Delta& delta, int rows, int outer0)
      : delta(delta), rows(rows), outer0(outer0),
        aligned(delta.row_words % 4 == 0 && reinterpret_cast<u64>(delta.words) % 16 == 0), scales(!K_MAJOR && delta.of_rows) {}

  // Where four words of a line lie in a unit. K_MAJOR: lanes read a word of 8 lines at once, which this keeps apart in the banks.
  __device__ __forceinline__ static int place(int line, int chunk) {
    return line * WORDS * 4 + (K_MAJOR ? (chunk ^ (line >> 2 & 1)) : chunk) * 16;
  }

  // Starts the copies of what the steps from `step` on need, where a unit begins.
  __device__ __forceinline__ void bring(u32 units, int step) const {
    if (step % STEPS != 0) return;
    const u32 unit = units + step / STEPS % 2 * UNIT_BYTES;
    constexpr int CHUNKS = WORDS / 4, LINES = THREADS / CHUNKS;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      const int line = threadIdx.x / CHUNKS + i * LINES, chunk = threadIdx.x % CHUNKS;
      const int row = (K_MAJOR ? outer0 : step * TILE_K) + line, word = (K_MAJOR ? step : outer0 / WORD) + 4 * chunk;
      const u32* from = delta.words + static_cast<long long>(row) * delta.row_words + word;
      const u32 to = unit + place(line, chunk);
      const int there = row < rows ? min(max(delta.row_words - word, 0), 4) : 0;
      if (aligned) {
        copy_async_16(to, there > 0 ? from : delta.words, there > 0 ? 16 : 0);
      } else {
#pragma unroll
        for (int w = 0; w < 4; w++) copy_async_4(to + 4 * w, w < there ? from + w : delta.words, w < there ? 4 : 0);
      }
    }
    if (scales) {
      const int row = step * TILE_K + threadIdx.x;
      copy_async_4(unit + SCALES_AT + 4 * threadIdx.x, row < rows ? delta.scale + row : delta.scale, row < rows ? 4 : 0);
    }
  }
};

__device__ __forceinline__ u32 load_shared_4(u32 from) {
  u32 x;
  asm volatile("ld.shared.u32 %0, [%1];\n" : "=r"(x) : "r"(from) : "memory");
  return x;
}

__device__ __forceinline__ uint2 load_shared_8(u32 from) {
  uint2 x;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];\n" : "=r"(x.x), "=r"(x.y) : "r"(from) : "memory");
  return x;
}

// Adds the product of a tile of A and the signs of a step, which lie with k along their rows.
__device__ __forceinline__ void multiply_k_major(gemm::Sums& sum, const half_t* tile_a, u32 units, int step) {
  const gemm::Corner warp = gemm::corner_of_warp();
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const u32 unit = units + step / 8 % 2 * UNIT_BYTES + step % 4 * 4, chunk = step / 4 % 2;
  signs::Neighbours of_b[WARP_N / 8];
#pragma unroll
  for (int j = 0; j < WARP_N / 8; j++) {
    of_b[j] = signs::Neighbours(load_shared_4(unit + Tiles<true>::place(warp.n0 + 8 * j + g, chunk)) >> 2 * t);
  }
  constexpr u32 NEGATIVE = HALF_ONES ^ signs::SIGN_BITS;
#pragma unroll
  for (int k = 0; k < TILE_K; k += 16) {
    unsigned fa[WARP_M / 16][4];
#pragma unroll
    for (int i = 0; i < WARP_M / 16; i++) gemm::load_a<true>(fa[i], tile_a, warp.m0 + i * 16, k);
#pragma unroll
    for (int j = 0; j < WARP_N / 8; j++) {
      const u32 pairs = k == 0 ? of_b[j].first : of_b[j].second;
      const u32 b0 = signs::expand<0>(pairs, NEGATIVE), b1 = signs::expand<8>(pairs, NEGATIVE);
#pragma unroll
      for (int i = 0; i < WARP_M / 16; i++) mma_half(sum[i][j], fa[i], b0, b1);
    }
  }
}

// A pair of scales, and what it lacks, both with their signs turned.
__device__ __forceinline__ void split_scales(float2 scale, u32 (&pieces)[2]) {
  const float a = scale.x * SCALE_UP, b = scale.y * SCALE_UP;
  const u32 high = pair_of<half_t>(a, b);
  pieces[0] = high ^ signs::SIGN_BITS;
  pieces[1] = pair_of<half_t>(a - first_of<half_t>(high), b - second_of<half_t>(high)) ^ signs::SIGN_BITS;
}

// The same of signs that lie with k across their rows; `scales`: of which each row has one.
__device__ __forceinline__ void multiply_across(gemm::Sums& sum, const half_t* tile_a, u32 units, int step, bool scales) {
  const gemm::Corner warp = gemm::corner_of_warp();
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const u32 unit = units + step / 4 % 2 * UNIT_BYTES;
#pragma unroll
  for (int k = 0; k < TILE_K; k += 16) {
    // Rows 2 t and 2 t + 1, 2 t + 8 and 2 t + 9 of the 16: two words each, of the warp's 64 columns.
    u32 pairs[2][WARP_N / 16];
    u32 negative[2][2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int line = step % 4 * TILE_K + k + 2 * t + 8 * h;
      const u32 at = unit + Tiles<false>::place(line, 0) + warp.n0 / WORD * 4;
      const uint2 a = load_shared_8(at), b = load_shared_8(at + 16);
      pairs[h][0] = signs::lower_of_two(a.x >> g, b.x >> g);
      pairs[h][1] = signs::upper_of_two(a.x >> g, b.x >> g);
      pairs[h][2] = signs::lower_of_two(a.y >> g, b.y >> g);
      pairs[h][3] = signs::upper_of_two(a.y >> g, b.y >> g);
      negative[h][0] = HALF_ONES ^ signs::SIGN_BITS;
      negative[h][1] = 0;
      if (scales) split_scales(load_shared_float2(unit + SCALES_AT + 4 * line), negative[h]);
    }
    unsigned fa[WARP_M / 16][4];
#pragma unroll
    for (int i = 0; i < WARP_M / 16; i++) gemm::load_a<true>(fa[i], tile_a, warp.m0 + i * 16, k);
    const auto add = [&](u32 first, u32 second) {
#pragma unroll
      for (int j = 0; j < WARP_N / 8; j += 2) {
        const u32 even0 = signs::expand<0>(pairs[0][j / 2], first), even1 = signs::expand<0>(pairs[1][j / 2], second);
        const u32 odd0 = signs::expand<8>(pairs[0][j / 2], first), odd1 = signs::expand<8>(pairs[1][j / 2], second);
#pragma unroll
        for (int i = 0; i < WARP_M / 16; i++) {
          mma_half(sum[i][j], fa[i], even0, even1);
          mma_half(sum[i][j + 1], fa[i], odd0, odd1);
        }
      }
    };
    add(negative[0][0], negative[1][0]);
    if (scales) add(negative[0][1], negative[1][1]);
  }
}

// Where the units lie while a ring's first `steps` steps are with signs: in the tile of B that no other step fills before they are done.
__device__ __forceinline__ u32 units_of(half_t* ring, int steps) {
  return shared_address(ring + (steps + STAGES - 1) % STAGES * STAGE_ELEMENTS + TILE_ELEMENTS);
}

// Adds the products of the first `steps` of `all` steps, those with signs. As gemm::advance; `bring` brings a step's tile of A, and where a
// unit begins the signs.
template <bool K_MAJOR, class Bring>
__device__ __forceinline__ void advance(gemm::Sums& sum, half_t* ring, u32 units, int steps, int all, bool scales, const Bring& bring) {
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    copy_async_wait<STAGES - 2>();
    // Hazards: the tile and the signs of this step were copied by other threads too; and what is filled next is what every warp read in
    // the step before, or, of the signs, in the unit before the one in use.
    __syncthreads();
    const int next = step + STAGES - 1;
    if (next < all) bring(ring + next % STAGES * STAGE_ELEMENTS, next);
    copy_async_commit();
    const half_t* tile_a = ring + step % STAGES * STAGE_ELEMENTS;
    if constexpr (K_MAJOR) {
      multiply_k_major(sum, tile_a, units, step);
    } else {
      multiply_across(sum, tile_a, units, step, scales);
    }
  }
}

// Multiplies the sums by the scale. K_MAJOR: each column by its own, if rows have their own.
template <bool K_MAJOR>
__device__ __forceinline__ void scale_sums(gemm::Sums& sum, const Delta& delta, gemm::Corner block, int n) {
  const int col0 = block.n0 + gemm::corner_of_warp().n0 + threadIdx.x % 4 * 2;
  const bool of_columns = K_MAJOR && delta.of_rows;
  // Rows across k are multiplied by theirs already.
  const float of_all = delta.of_rows ? 1.0f / SCALE_UP : delta.scale[0];
#pragma unroll
  for (int j = 0; j < WARP_N / 8; j++) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int col = col0 + 8 * j + e;
      const float factor = of_columns ? (col < n ? delta.scale[col] : 0.0f) : of_all;
#pragma unroll
      for (int i = 0; i < WARP_M / 16; i++) {
        sum[i][j][e] *= factor;
        sum[i][j][2 + e] *= factor;
      }
    }
  }
}

}  // namespace gemm_signs
