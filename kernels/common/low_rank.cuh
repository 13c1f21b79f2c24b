// The thin products of low-rank adapters (LoRA, arXiv 2106.09685) on tensor cores, and what goes with them; kernels/lora_matmul.cu
// says what they are for. All of them are deterministic: sums over long dimensions go over parts, which are added in order.
#pragma once

#include "gemm.cuh"
#include "philox.cuh"

namespace low_rank {

constexpr int ROWS = gemm::TILE_M, COLUMNS = gemm::TILE_N, STEP = gemm::TILE_K, STAGES = 4, THREADS = gemm::THREADS;
constexpr int WARP_ROWS = 32, CHUNK = gemm::CHUNK;
static_assert(THREADS / 32 * WARP_ROWS == ROWS && ROWS == COLUMNS, "the warps cover a tile");

// Elements of a stage: a tile of x or dy, and a tile of hi and one of lo of RANK by STEP.
template <int RANK> constexpr int STAGE = gemm::TILE_ELEMENTS + 2 * RANK * STEP;

// Rows `begin` to `end` and their adapter, -1 for none.
struct Rows {
  int begin, end, adapter;
};

// Range `index` of a table; without one, the rows from `index` times `len` on.
__device__ __forceinline__ Rows rows_of(const int4* table, int index, int len, int m) {
  if (table != nullptr) {
    const int4 rows = table[index];
    return {rows.x, rows.y, rows.z};
  }
  return {min(index * len, m), min(index * len + len, m), 0};
}

// The 32 elements from `first` on that a dropout keeps, a bit each.
struct Mask {
  u64 seed, stream;
  u32 threshold;

  __device__ __forceinline__ u32 four(u64 block) const {
    const uint4 words = philox(seed, stream, block);
    // As dropout.cu compares the upper 24 bits.
    const u32 least = threshold << 8;
    return u32(words.x >= least) | u32(words.y >= least) << 1 | u32(words.z >= least) << 2 | u32(words.w >= least) << 3;
  }

  __device__ __forceinline__ u32 keep(u64 first) const {
    u32 bits = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) bits |= four(first / 4 + i) << 4 * i;
    const u32 ahead = first % 4;
    return ahead == 0 ? bits : __funnelshift_r(bits, four(first / 4 + 8), ahead);
  }
};

// Bits 0 and 1 of `bits` as a mask on two bf16 in a register.
__device__ __forceinline__ unsigned on_pair(u32 bits) { return ((bits & 1) | (bits & 2) << 15) * 0xffffu; }

// Both factors of each of gridDim.y adapters as bf16: A [rank, k] in z = 0, B [n, rank] in z = 1. With hi and lo as above (`lo` only
// of f32), one below the other or side by side, forward: A to [hi; lo], of rows of lda; B to [hi hi lo], a row. Backward: A to [hi; hi; lo],
// B to [hi; lo] of B^T, of rows of ldb. The rows of the rank from `rank` to `padded` are zeros.
template <bool FORWARD, class T>
__device__ __forceinline__ void pack(const T* __restrict__ a, const T* __restrict__ b, bf16* __restrict__ to_a,
                                     bf16* __restrict__ to_b, long long lda, long long ldb, int rank, int padded, int k, int n) {
  constexpr bool HAS_LOW = sizeof(T) == 4;
  const bool is_b = blockIdx.z == 1, side_by_side = is_b && FORWARD;
  const int len = is_b ? n : k;
  const u64 id = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (id >= u64(len) * padded) return;
  const int j = side_by_side ? id % padded : id / len, along = side_by_side ? id / padded : id % len;
  const int highs = is_b == FORWARD ? 2 : 1, pieces = highs + HAS_LOW;
  const T* from = is_b ? b + (u64(blockIdx.y) * n + along) * rank + j : a + (u64(blockIdx.y) * rank + j) * k + along;
  const float value = j < rank ? to_f32(*from) : 0.0f;
  const bf16 high = from_f32<bf16>(value), low = from_f32<bf16>(value - to_f32(high));
  const long long ld = is_b ? ldb : lda;
  bf16* to = (is_b ? to_b : to_a) + blockIdx.y * ld * (side_by_side ? n : pieces * padded);
  to += side_by_side ? along * ld + j : j * ld + along;
  const long long piece = side_by_side ? padded : padded * ld;
  for (int i = 0; i < pieces; i++) to[i * piece] = i < highs ? high : low;
}

// Bit i of word w of row r: whether element (r, 32 w + i) of x is kept.
__device__ __forceinline__ void keep_bits(u32* __restrict__ bits, u64 count, int words, int k, Mask mask) {
  const u64 id = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (id < count) bits[id] = mask.keep(id / words * k + id % words * 32);
}

// Copies a tile of a factor [hi; lo], `padded` rows of k elements each: rows rank0 .. rank0 + RANK of hi, and of lo below them.
template <int RANK>
__device__ __forceinline__ void fetch_factor(bf16* tile, const bf16* factor, long long ld, int rank0, int padded, bool has_low, int k0,
                                             int k) {
#pragma unroll
  for (int i = 0; i < 2 * RANK * STEP / CHUNK / THREADS; i++) {
    const int id = threadIdx.x + i * THREADS, row = id / (STEP / CHUNK), chunk = id % (STEP / CHUNK);
    const bool is_low = row >= RANK;
    const int j = rank0 + row % RANK, across = k0 + chunk * CHUNK;
    const int count = j < padded && (!is_low || has_low) ? min(max(k - across, 0), CHUNK) : 0;
    const bf16* from = count > 0 ? factor + (j + (is_low ? padded : 0)) * ld + across : factor;
    copy_async_16(tile + gemm::place<true>(row, chunk), from, 2 * count);
  }
}

// parts[part][row][j] = s sum over the part's columns of x[row] factor[j], x [m, k]. Blocks: tiles of rows, tiles of the rank, parts of
// `part_steps` steps of columns.
template <int RANK, bool ALIGNED, bool DROPOUT>
__device__ __forceinline__ void down(const bf16* __restrict__ x, const bf16* __restrict__ factor, long long ld, long long factor_stride,
                                     bool has_low, const int4* tiles, const float* scales, float scale, float* __restrict__ parts, int m,
                                     int k, int padded, int part_steps, Mask mask) {
  extern __shared__ __align__(128) unsigned char smem[];
  bf16* ring = reinterpret_cast<bf16*>(smem);
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * WARP_ROWS, rank0 = blockIdx.y * RANK;
  const Rows rows = rows_of(tiles, blockIdx.x, ROWS, m);
  const int first = blockIdx.z * part_steps;
  // Rows without an adapter get zeros.
  const int steps = rows.adapter < 0 ? 0 : min((k + STEP - 1) / STEP - first, part_steps);
  factor += max(rows.adapter, 0) * factor_stride;
  auto bring = [&](int step) {
    bf16* stage = ring + step % STAGES * STAGE<RANK>;
    const int k0 = (first + step) * STEP;
    gemm::fetch<true, ALIGNED>(stage, {x, k, rows.end, k}, rows.begin, k0);
    fetch_factor<RANK>(stage + gemm::TILE_ELEMENTS, factor, ld, rank0, padded, has_low, k0, k);
  };
#pragma unroll 1
  for (int step = 0; step < STAGES - 1; step++) {
    if (step < steps) bring(step);
    copy_async_commit();
  }
  float sum[WARP_ROWS / 16][RANK / 8][4] = {};
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    copy_async_wait<STAGES - 2>();
    // Hazards: the tiles of this step were copied by other threads too; and the stage that is filled next is the one that every
    // warp read in the step before.
    __syncthreads();
    if (step + STAGES - 1 < steps) bring(step + STAGES - 1);
    copy_async_commit();
    const bf16* tile = ring + step % STAGES * STAGE<RANK>;
    const bf16* tile_high = tile + gemm::TILE_ELEMENTS;
    u32 kept[WARP_ROWS / 16][2];
    if constexpr (DROPOUT) {
      const u64 row = rows.begin + warp_row + lane;
      const u32 bits = mask.keep(row * k + (first + step) * STEP);
#pragma unroll
      for (int i = 0; i < WARP_ROWS / 16; i++) {
        kept[i][0] = __shfl_sync(0xffffffff, bits, i * 16 + lane / 4) >> lane % 4 * 2;
        kept[i][1] = __shfl_sync(0xffffffff, bits, i * 16 + 8 + lane / 4) >> lane % 4 * 2;
      }
    }
#pragma unroll
    for (int at = 0; at < STEP; at += 16) {
      unsigned fx[WARP_ROWS / 16][4];
#pragma unroll
      for (int i = 0; i < WARP_ROWS / 16; i++) {
        gemm::load_a<true>(fx[i], tile, warp_row + i * 16, at);
        if constexpr (DROPOUT) {
          // Registers 0 and 2 are of row lane / 4, 1 and 3 of that below it by 8; 2 and 3 of 8 columns on.
#pragma unroll
          for (int e = 0; e < 4; e++) fx[i][e] &= on_pair(kept[i][e % 2] >> (at + e / 2 * 8));
        }
      }
#pragma unroll
      for (int low = 0; low < 2; low++) {
        if (low == 1 && !has_low) break;
#pragma unroll
        for (int j = 0; j < RANK / 16; j++) {
          unsigned ff[4];
          gemm::load_b<true>(ff, tile_high + low * RANK * STEP, j * 16, at);
#pragma unroll
          for (int i = 0; i < WARP_ROWS / 16; i++) {
            mma_bf16(sum[i][2 * j], fx[i], ff[0], ff[1]);
            mma_bf16(sum[i][2 * j + 1], fx[i], ff[2], ff[3]);
          }
        }
      }
    }
  }
  copy_async_wait<0>();
  const float factor_of_all = scales == nullptr || rows.adapter < 0 ? scale : scales[rows.adapter];
#pragma unroll
  for (int i = 0; i < WARP_ROWS / 16; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = rows.begin + warp_row + i * 16 + half * 8 + lane / 4;
      if (row >= rows.end) continue;
      float* to = parts + (u64(blockIdx.z) * m + row) * padded + rank0 + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < RANK / 8; j++) {
        if (rank0 + j * 8 >= padded) continue;
        *reinterpret_cast<float2*>(to + j * 8) = {factor_of_all * sum[i][j][2 * half], factor_of_all * sum[i][j][2 * half + 1]};
      }
    }
  }
}

// u or v, from `count` parts of m rows: as [hi lo hi], without the second hi unless there are three pieces; or in f32.
template <class Out>
__device__ __forceinline__ void rank_sums(const float* __restrict__ parts, Out* __restrict__ to, int count, u64 m, int padded, int pieces) {
  const u64 id = u64(blockIdx.x) * blockDim.x + threadIdx.x, row = id / (padded / 4);
  if (row >= m) return;
  float sum[4] = {}, high[4], low[4];
  for (int part = 0; part < count; part++) {
    float term[4];
    load<4>(parts + (u64(part) * m * padded + id * 4), term);
#pragma unroll
    for (int i = 0; i < 4; i++) sum[i] += term[i];
  }
  if constexpr (sizeof(Out) == 4) {
    store<4>(to + id * 4, sum);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      high[i] = to_f32(from_f32<bf16>(sum[i]));
      low[i] = sum[i] - high[i];
    }
    to += row * pieces * padded + id % (padded / 4) * 4;
    store<4>(to, high);
    store<4>(to + padded, low);
    if (pieces == 3) store<4>(to + 2 * padded, high);
  }
}

// Where a chunk lies in a tile of STEP rows of RANK elements: neighbouring rows share the 128 bytes that the banks span, and those of
// eight rows that ldmatrix reads at once are permuted to lie in different ones.
template <int RANK> __device__ __forceinline__ int place_rank(int row, int chunk) {
  constexpr int CHUNKS = RANK / CHUNK;
  return row * RANK + (chunk ^ (row * CHUNKS / 8 & CHUNKS - 1)) * CHUNK;
}

// One side of the factors' gradients: x and v for dA, dy and u for dB.
struct Side {
  const bf16* data;  // [M, cols]
  const bf16* rank;  // [M, inner], hi and then lo
  int cols;
};

// parts[chunk][column][j] = sum over the chunk's rows of data[row][column] rank[row][j], over the columns of x, then those of dy.
// Blocks: tiles of columns of x, then of dy; tiles of the rank; chunks of rows. `keep`: a bit for each element of x.
template <int RANK, bool ALIGNED>
__device__ __forceinline__ void factor_parts(Side x, Side dy, const u32* __restrict__ keep, int words, const int4* chunks, int chunk_rows,
                                             float* __restrict__ parts, int m, int padded, int inner) {
  extern __shared__ __align__(128) unsigned char smem[];
  bf16* ring = reinterpret_cast<bf16*>(smem);
  const int lane = threadIdx.x % 32, warp_col = threadIdx.x / 32 * WARP_ROWS, rank0 = blockIdx.y * RANK;
  const int tiles_x = (x.cols + COLUMNS - 1) / COLUMNS;
  const bool is_x = static_cast<int>(blockIdx.x) < tiles_x;
  const Side side = is_x ? x : dy;
  const int col0 = (blockIdx.x - (is_x ? 0 : tiles_x)) * COLUMNS;
  const Rows rows = rows_of(chunks, blockIdx.z, chunk_rows, m);
  const int steps = (rows.end - rows.begin + STEP - 1) / STEP;
  auto bring = [&](int step) {
    bf16* stage = ring + step % STAGES * STAGE<RANK>;
    const int row0 = rows.begin + step * STEP;
    gemm::fetch<false, ALIGNED>(stage, {side.data, side.cols, side.cols, rows.end}, col0, row0);
#pragma unroll
    for (int i = 0; i < 2 * RANK * STEP / CHUNK / THREADS; i++) {
      constexpr int CHUNKS = RANK / CHUNK;
      const int id = threadIdx.x + i * THREADS, low = id / (STEP * CHUNKS), row = id / CHUNKS % STEP, chunk = id % CHUNKS;
      const int across = rank0 + chunk * CHUNK;
      const bool inside = row0 + row < rows.end && across < padded;
      const bf16* from = inside ? side.rank + u64(row0 + row) * inner + low * padded + across : side.rank;
      bf16* to = stage + gemm::TILE_ELEMENTS + low * RANK * STEP + place_rank<RANK>(row, chunk);
      copy_async_16(to, from, inside ? 16 : 0);
    }
  };
  // The 32 columns of the warp are one word of each row; a lane has that of one row of a step.
  auto kept_of = [&](int step) {
    const int row = rows.begin + step * STEP + lane, word = (col0 + warp_col) / 32;
    return step < steps && row < rows.end && word < words ? keep[u64(row) * words + word] : 0u;
  };
  const bool masked = is_x && keep != nullptr;
  u32 next_bits = masked ? kept_of(0) : 0;
#pragma unroll 1
  for (int step = 0; step < STAGES - 1; step++) {
    if (step < steps) bring(step);
    copy_async_commit();
  }
  float sum[WARP_ROWS / 16][RANK / 8][4] = {};
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    copy_async_wait<STAGES - 2>();
    // Hazards: the tiles of this step were copied by other threads too; and the stage that is filled next is the one that every
    // warp read in the step before.
    __syncthreads();
    if (step + STAGES - 1 < steps) bring(step + STAGES - 1);
    copy_async_commit();
    const bf16* tile = ring + step % STAGES * STAGE<RANK>;
    const bf16* tile_high = tile + gemm::TILE_ELEMENTS;
    const u32 bits = next_bits;
    if (masked) next_bits = kept_of(step + 1);
#pragma unroll
    for (int at = 0; at < STEP; at += 16) {
      unsigned fx[WARP_ROWS / 16][4];
#pragma unroll
      for (int i = 0; i < WARP_ROWS / 16; i++) gemm::load_a<false>(fx[i], tile, warp_col + i * 16, at);
      if (masked) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          // The two rows of a register, as bits 0 and 16 once column lane / 4 is shifted down.
          const int row = at + half * 8 + lane % 4 * 2;
          const u32 first = __shfl_sync(0xffffffff, bits, row) >> lane / 4, second = __shfl_sync(0xffffffff, bits, row + 1) >> lane / 4;
#pragma unroll
          for (int i = 0; i < WARP_ROWS / 16; i++) {
#pragma unroll
            for (int below = 0; below < 2; below++) {
              const int shift = i * 16 + below * 8;
              fx[i][half * 2 + below] &= ((first >> shift & 1) | (second >> shift & 1) << 16) * 0xffffu;
            }
          }
        }
      }
#pragma unroll
      for (int low = 0; low < 2; low++) {
#pragma unroll
        for (int j = 0; j < RANK / 16; j++) {
          unsigned fr[4];
          const int matrix = lane / 8, line = lane % 8;
          load_matrix_x4_transposed(fr, tile_high + low * RANK * STEP + place_rank<RANK>(at + matrix % 2 * 8 + line, j * 2 + matrix / 2));
#pragma unroll
          for (int i = 0; i < WARP_ROWS / 16; i++) {
            mma_bf16(sum[i][2 * j], fx[i], fr[0], fr[1]);
            mma_bf16(sum[i][2 * j + 1], fx[i], fr[2], fr[3]);
          }
        }
      }
    }
  }
  copy_async_wait<0>();
#pragma unroll
  for (int i = 0; i < WARP_ROWS / 16; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int column = col0 + warp_col + i * 16 + half * 8 + lane / 4;
      if (column >= side.cols) continue;
      const u64 at = u64(blockIdx.z) * (x.cols + dy.cols) + (is_x ? 0 : x.cols) + column;
      float* to = parts + at * padded + rank0 + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < RANK / 8; j++) {
        if (rank0 + j * 8 >= padded) continue;
        *reinterpret_cast<float2*>(to + j * 8) = {sum[i][j][2 * half], sum[i][j][2 * half + 1]};
      }
    }
  }
}

// dA [E, rank, k] and dB [E, n, rank]: the sums over the chunks of each adapter (blockIdx.y) in order; without `first` there is one
// adapter of `count` chunks. A thread has a column of x or dy and eight of the rank.
__device__ __forceinline__ void factor_sums(const float* __restrict__ parts, const int* first, int count, float* __restrict__ da,
                                            float* __restrict__ db, int k, int n, int rank, int padded, float keep_scale) {
  const u64 id = u64(blockIdx.x) * blockDim.x + threadIdx.x, cols = u64(k) + n, column = id % cols;
  const int rank0 = id / cols * 8;
  if (rank0 >= padded) return;
  const int begin = first == nullptr ? 0 : first[blockIdx.y], end = first == nullptr ? count : first[blockIdx.y + 1];
  float sum[8] = {};
  for (int chunk = begin; chunk < end; chunk++) {
    float term[2][4];
    const float* from = parts + (chunk * cols + column) * padded + rank0;
    load<4>(from, term[0]);
    load<4>(from + 4, term[1]);
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] += term[i / 4][i % 4];
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int j = rank0 + i;
    if (j >= rank) continue;
    if (column < k) {
      da[(u64(blockIdx.y) * rank + j) * k + column] = keep_scale * sum[i];
    } else {
      db[(u64(blockIdx.y) * n + column - k) * rank + j] = sum[i];
    }
  }
}

}  // namespace low_rank
