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

// Bits 0 and 1 of `bits` as a mask on two half_t in a register.
__device__ __forceinline__ unsigned on_pair(u32 bits) { return ((bits & 1) | (bits & 2) << 15) * 0xffffu; }

// Both factors of adapter blockIdx.z / 2 as half_t, with hi and lo as lora_matmul.cu says (lo only of f32): A [rank, k] where blockIdx.z is
// even, B [n, rank] where it is odd. Forward: A to [hi; lo], rows of lda elements below each other, B to [hi hi lo] side by side.
// Backward: A to [hi; hi; lo], B to [hi; lo] of B^T, rows of ldb. What of the rank is between `rank` and `padded` becomes zeros.
// A block has 32 elements of the rank and 32 along the other dimension; they pass through shared memory so that loads and stores go
// along rows.
template <bool FORWARD, class T>
__device__ __forceinline__ void pack(const T* __restrict__ a, const T* __restrict__ b, half_t* __restrict__ to_a,
                                     half_t* __restrict__ to_b, long long lda, long long ldb, int rank, int padded, int k, int n) {
  constexpr bool HAS_LOW = sizeof(T) == 4;
  __shared__ float tile[32][33];
  const bool is_b = blockIdx.z % 2 == 1, side_by_side = is_b && FORWARD;
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32, len = is_b ? n : k;
  const int rank0 = blockIdx.y * 32, along0 = blockIdx.x * 32;
  const T* from = (is_b ? b : a) + u64(blockIdx.z / 2) * rank * len;
#pragma unroll
  for (int i = 0; i < 32; i += 8) {
    const int down = is_b ? lane : line + i, across = is_b ? line + i : lane, j = rank0 + down, along = along0 + across;
    const bool inside = j < rank && along < len;
    tile[down][across] = inside ? to_f32(from[is_b ? u64(along) * rank + j : u64(j) * len + along]) : 0.0f;
  }
  __syncthreads();  // Hazard: elements are read by other threads than wrote them.
  const int highs = is_b == FORWARD ? 2 : 1, pieces = highs + HAS_LOW;
  const long long ld = is_b ? ldb : lda, piece = side_by_side ? padded : padded * ld;
  half_t* to = (is_b ? to_b : to_a) + blockIdx.z / 2 * ld * (side_by_side ? n : pieces * padded);
#pragma unroll
  for (int i = 0; i < 32; i += 8) {
    const int down = side_by_side ? lane : line + i, across = side_by_side ? line + i : lane, j = rank0 + down, along = along0 + across;
    if (j >= padded || along >= len) continue;
    const float value = tile[down][across];
    const half_t high = from_f32<half_t>(value), low = from_f32<half_t>(value - to_f32(high));
    half_t* at = to + (side_by_side ? along * ld + j : j * ld + along);
    for (int part = 0; part < pieces; part++) at[part * piece] = part < highs ? high : low;
  }
}

// Bit i of word w of row r: whether element (r, 32 w + i) of x is kept. A block has words of one row.
__device__ __forceinline__ void keep_bits(u32* __restrict__ bits, int words, int k, Mask mask) {
  const int word = blockIdx.y * blockDim.x + threadIdx.x;
  if (word < words) bits[u64(blockIdx.x) * words + word] = mask.keep(u64(blockIdx.x) * k + word * 32);
}

// What a thread copies of a factor's tiles: chunks of rows rank0 .. rank0 + RANK of hi, and of the same rows of lo, `padded` rows below.
template <int RANK> struct FactorTiles {
  static constexpr int COUNT = 2 * RANK * STEP / CHUNK / THREADS;

  const half_t* from[COUNT];  // the first chunk at column 0
  bool inside[COUNT];
  int to, across;  // where it goes in a tile; elements of the row from there on

  __device__ __forceinline__ FactorTiles(const half_t* factor, long long ld, int rank0, int padded, bool has_low, int k) {
    const int chunk = threadIdx.x % (STEP / CHUNK);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int row = (threadIdx.x + i * THREADS) / (STEP / CHUNK), j = rank0 + row % RANK;
      inside[i] = j < padded && (row < RANK || has_low);
      from[i] = inside[i] ? factor + (row < RANK ? j : j + padded) * ld + chunk * CHUNK : factor;
    }
    to = gemm::place<true>(threadIdx.x / (STEP / CHUNK), chunk);
    across = k - chunk * CHUNK;
  }

  __device__ __forceinline__ void fetch(half_t* tile, int k0) const {
    const int count = min(max(across - k0, 0), CHUNK);
#pragma unroll
    for (int i = 0; i < COUNT; i++) copy_async_16(tile + to + i * THREADS * CHUNK, from[i] + k0, inside[i] ? 2 * count : 0);
  }
};

// parts[part][row][j] = s sum over the part's columns of x[row] factor[j], x [m, k]. Blocks: tiles of rows, tiles of the rank, parts of
// `part_steps` steps of columns.
template <int RANK, bool ALIGNED, bool DROPOUT>
__device__ __forceinline__ void down(const half_t* __restrict__ x, const half_t* __restrict__ factor, long long ld, long long factor_stride,
                                     bool has_low, const int4* tiles, const float* scales, float scale, float* __restrict__ parts, int m,
                                     int k, int padded, int part_steps, Mask mask) {
  extern __shared__ __align__(128) unsigned char smem[];
  half_t* ring = reinterpret_cast<half_t*>(smem);
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * WARP_ROWS, rank0 = blockIdx.y * RANK;
  const Rows rows = rows_of(tiles, blockIdx.x, ROWS, m);
  const int first = blockIdx.z * part_steps;
  // Rows without an adapter get zeros.
  const int steps = rows.adapter < 0 ? 0 : min((k + STEP - 1) / STEP - first, part_steps);
  factor += max(rows.adapter, 0) * factor_stride;
  const gemm::Tiles<true, ALIGNED> tiles_x({x, k, rows.end, k}, rows.begin);
  const FactorTiles<RANK> tiles_factor(factor, ld, rank0, padded, has_low, k);
  auto bring = [&](int step) {
    half_t* stage = ring + step % STAGES * STAGE<RANK>;
    const int k0 = (first + step) * STEP;
    tiles_x.fetch(stage, k0);
    tiles_factor.fetch(stage + gemm::TILE_ELEMENTS, k0);
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
    const half_t* tile = ring + step % STAGES * STAGE<RANK>;
    const half_t* tile_high = tile + gemm::TILE_ELEMENTS;
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
            mma_half(sum[i][2 * j], fx[i], ff[0], ff[1]);
            mma_half(sum[i][2 * j + 1], fx[i], ff[2], ff[3]);
          }
        }
      }
    }
  }
  copy_async_wait<0>();
  if (scales != nullptr && rows.adapter >= 0) scale *= scales[rows.adapter];
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
        *reinterpret_cast<float2*>(to + j * 8) = {scale * sum[i][j][2 * half], scale * sum[i][j][2 * half + 1]};
      }
    }
  }
}

// u or v, from `count` parts of m rows: as [hi lo hi], without the second hi unless there are three pieces; or in f32. A thread has eight
// elements, a block whole rows or, of a long row, as much as it has threads for.
template <class Out>
__device__ __forceinline__ void rank_sums(const float* __restrict__ parts, Out* __restrict__ to, int count, int m, int padded, int pieces) {
  const int lanes = min(padded / 8, static_cast<int>(blockDim.x)), of_block = blockDim.x / lanes, line = threadIdx.x / lanes;
  const u64 row = u64(blockIdx.x) * of_block + line;
  const int column = (blockIdx.y * lanes + threadIdx.x % lanes) * 8;
  if (line >= of_block || row >= m || column >= padded) return;
  float sum[8] = {};
  for (int part = 0; part < count; part++) {
    float term[2][4];
    const float* from = parts + (u64(part) * m + row) * padded + column;
    load<4>(from, term[0]);
    load<4>(from + 4, term[1]);
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] += term[i / 4][i % 4];
  }
  to += row * pieces * padded + column;
  if constexpr (sizeof(Out) == 4) {
    gemm::store_chunk(to, {sum[0], sum[1], sum[2], sum[3]});
    gemm::store_chunk(to + 4, {sum[4], sum[5], sum[6], sum[7]});
  } else {
    float high[8], low[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      high[i] = to_f32(from_f32<half_t>(sum[i]));
      low[i] = sum[i] - high[i];
    }
    gemm::store_chunk(to, high);
    gemm::store_chunk(to + padded, low);
    if (pieces == 3) gemm::store_chunk(to + 2 * padded, high);
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
  const half_t* data;  // [M, cols]
  const half_t* rank;  // [M, inner], hi and then lo
  int cols;
};

// What a thread copies of the tiles of u or v: chunks of columns rank0 .. rank0 + RANK of hi and of lo, of STEP rows.
template <int RANK> struct RankTiles {
  static constexpr int COUNT = 2 * RANK * STEP / CHUNK / THREADS, CHUNKS = RANK / CHUNK;

  const half_t* from[COUNT];  // the first chunk at row 0
  int rows[COUNT];          // from there on; none of what is not in the rank
  int inner, to;            // length of a row; where the first chunk goes in the two tiles

  __device__ __forceinline__ RankTiles(const half_t* rank, int inner, int rank0, int padded, int end) : inner(inner) {
    const int chunk = threadIdx.x % CHUNKS, across = rank0 + chunk * CHUNK;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int id = threadIdx.x + i * THREADS, low = id / (STEP * CHUNKS), row = id / CHUNKS % STEP;
      rows[i] = across < padded ? end - row : 0;
      from[i] = across < padded ? rank + row * inner + low * padded + across : rank;
    }
    const int row = threadIdx.x / CHUNKS;
    to = row / STEP * RANK * STEP + place_rank<RANK>(row % STEP, chunk);
  }

  __device__ __forceinline__ void fetch(half_t* tile, int row0) const {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      copy_async_16(tile + to + i * THREADS * CHUNK, from[i] + u64(row0) * inner, row0 < rows[i] ? 16 : 0);
    }
  }
};

// parts[chunk][column][j] = sum over the chunk's rows of data[row][column] rank[row][j], over the columns of x, then those of dy.
// Blocks: tiles of columns of x, then of dy; tiles of the rank; chunks of rows. `keep`: a bit for each element of x.
template <int RANK, bool ALIGNED>
__device__ __forceinline__ void factor_parts(Side x, Side dy, const u32* __restrict__ keep, int words, const int4* chunks, int chunk_rows,
                                             float* __restrict__ parts, int m, int padded, int inner) {
  extern __shared__ __align__(128) unsigned char smem[];
  half_t* ring = reinterpret_cast<half_t*>(smem);
  const int lane = threadIdx.x % 32, warp_col = threadIdx.x / 32 * WARP_ROWS, rank0 = blockIdx.y * RANK;
  const int tiles_x = (x.cols + COLUMNS - 1) / COLUMNS;
  const bool is_x = static_cast<int>(blockIdx.x) < tiles_x;
  const Side side = is_x ? x : dy;
  const int col0 = (blockIdx.x - (is_x ? 0 : tiles_x)) * COLUMNS;
  const Rows rows = rows_of(chunks, blockIdx.z, chunk_rows, m);
  const int steps = (rows.end - rows.begin + STEP - 1) / STEP;
  const gemm::Tiles<false, ALIGNED> tiles_data({side.data, side.cols, side.cols, rows.end}, col0);
  const RankTiles<RANK> tiles_rank(side.rank, inner, rank0, padded, rows.end);
  auto bring = [&](int step) {
    half_t* stage = ring + step % STAGES * STAGE<RANK>;
    const int row0 = rows.begin + step * STEP;
    tiles_data.fetch(stage, row0);
    tiles_rank.fetch(stage + gemm::TILE_ELEMENTS, row0);
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
    const half_t* tile = ring + step % STAGES * STAGE<RANK>;
    const half_t* tile_high = tile + gemm::TILE_ELEMENTS;
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
            mma_half(sum[i][2 * j], fx[i], fr[0], fr[1]);
            mma_half(sum[i][2 * j + 1], fx[i], fr[2], fr[3]);
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

// dA [E, rank, k] and dB [E, n, rank]: the sums over the chunks of each adapter (blockIdx.z) in order; without `first` there is one
// adapter of `count` chunks. A block has 32 columns of x or of dy and 32 of the rank; dA passes through shared memory, so that it too
// is written along rows.
__device__ __forceinline__ void factor_sums(const float* __restrict__ parts, const int* first, int count, float* __restrict__ da,
                                            float* __restrict__ db, int k, int n, int rank, int padded, float keep_scale) {
  __shared__ float tile[32][33];
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32, tiles_x = (k + 31) / 32, rank0 = blockIdx.y * 32;
  const bool is_x = static_cast<int>(blockIdx.x) < tiles_x;
  const int cols = is_x ? k : n, col0 = (blockIdx.x - (is_x ? 0 : tiles_x)) * 32;
  const int begin = first == nullptr ? 0 : first[blockIdx.z], end = first == nullptr ? count : first[blockIdx.z + 1];
  const int j = rank0 + lane;
#pragma unroll
  for (int i = 0; i < 32; i += 8) {
    const int col = col0 + line + i;
    float sum = 0.0f;
    if (col < cols && j < padded) {
      const u64 at = u64(is_x ? 0 : k) + col;
      for (int chunk = begin; chunk < end; chunk++) sum += parts[(chunk * (u64(k) + n) + at) * padded + j];
    }
    if (is_x) {
      tile[lane][line + i] = keep_scale * sum;
    } else if (col < cols && j < rank) {
      db[(u64(blockIdx.z) * n + col) * rank + j] = sum;
    }
  }
  if (!is_x) return;  // The whole block.
  __syncthreads();    // Hazard: elements are read by other threads than wrote them.
#pragma unroll
  for (int i = 0; i < 32; i += 8) {
    const int row = rank0 + line + i, col = col0 + lane;
    if (row < rank && col < k) da[(u64(blockIdx.z) * rank + row) * k + col] = tile[line + i][lane];
  }
}

}  // namespace low_rank
