// C = epilogue(A B) on tensor cores: operands of half_t (elements.cuh), f32 sums, C half_t or f32 (epilogue.cuh: bias, residual,
// activation). A: [m, k], B: [k, n], C: [m, n]. The parts of the kernel
// stand alone (Tiles, start, advance, write), for products that go on over other operands (the rank of a LoRA) or do something
// to the sums in between.
//
// An operand lies with k along its rows (K_MAJOR: A as [m, k], B as [n, k]) or across them (A as [k, m], B as [k, n]); leading
// dimensions count elements. All sizes are free. Where a row does not start on 16 bytes (not ALIGNED), elements are loaded one by
// one. Deterministic: each element of C is one sum, in the order of k, or, where tiles would leave multiprocessors idle, of parts of k
// with fixed bounds, which are added in order (stream_k.cuh).
//
// A block of 4 warps makes 128 x 128 of C, a warp 64 x 64: a k16 step then reads 8 ldmatrix.x4 for 32 mma, half of what shared
// memory can deliver beside the tensor cores (at 32 x 32 a warp it would be all). Tiles of 32 along k come through a ring of 4
// stages. 16-byte chunks are permuted so that neither the copies nor ldmatrix meet a bank twice. Blocks walk C in groups of 8
// rows of tiles, so that those which run together share rows of A and columns of B in L2. A thread's addresses of a step
// differ from those of the step before by constants, so that the integer lanes keep up with the tensor cores.
#pragma once

#include "async_copy.cuh"
#include "elements.cuh"
#include "epilogue.cuh"
#include "mma.cuh"
#include "stream_k.cuh"

namespace gemm {

constexpr int TILE_M = 128, TILE_N = 128, TILE_K = 32, STAGES = 4, WARPS = 4, THREADS = 32 * WARPS;
constexpr int WARP_M = 64, WARP_N = 64, GROUP_M = 8;
constexpr int CHUNK = 8;  // elements of 16 bytes
constexpr int TILE_ELEMENTS = TILE_M * TILE_K;
constexpr int STAGE_ELEMENTS = 2 * TILE_ELEMENTS;
constexpr int SMEM_BYTES = STAGES * STAGE_ELEMENTS * 2;
static_assert(TILE_M == TILE_N, "one tile shape for both operands");
static_assert((TILE_M / WARP_M) * (TILE_N / WARP_N) == WARPS, "the warps cover the tile");
static_assert(TILE_M * TILE_N * 4 <= SMEM_BYTES, "the results fit the ring");
static_assert(stream_k::SPAN % TILE_K == 0, "pieces of a sum are whole steps");

// A matrix and where it ends: `outer` is m or n.
struct Operand {
  const half_t* data;
  long long ld;
  int outer, k;
};

// Where chunk `chunk` of row `row` of a tile lies. K_MAJOR: 128 rows of 32 elements, two rows in the 128 bytes that the banks
// span; else 32 rows of 128 elements, two such spans a row.
template <bool K_MAJOR>
__device__ __forceinline__ int place(int row, int chunk) {
  return K_MAJOR ? row * TILE_K + (chunk ^ (row >> 1 & 3)) * CHUNK : row * TILE_M + (chunk ^ (row & 7)) * CHUNK;
}

// What a thread copies of an operand's tiles: four chunks, which are a fixed number of rows of the matrix apart.
// WHOLE: of each chunk all is in the matrix, or nothing.
template <bool K_MAJOR, bool ALIGNED, bool WHOLE = false> struct Tiles {
  static constexpr int CHUNKS = (K_MAJOR ? TILE_K : TILE_M) / CHUNK;  // of a row
  static constexpr int ROWS = THREADS / CHUNKS;                       // that the block copies at once
  static constexpr int ROW_ELEMENTS = K_MAJOR ? TILE_K : TILE_M;
  static_assert(ROWS % 8 == 0, "the permutation of chunks repeats after 8 rows");

  const half_t* from;  // the first chunk of the tile at k = 0
  long long ld;
  int to;            // where it goes in a tile
  int down, across;  // rows and elements of the matrix from there on

  __device__ __forceinline__ Tiles(const Operand& x, int outer0) {
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    from = x.data + (K_MAJOR ? (outer0 + row) * x.ld + chunk * CHUNK : row * x.ld + outer0 + chunk * CHUNK);
    ld = x.ld;
    to = place<K_MAJOR>(row, chunk);
    down = (K_MAJOR ? x.outer - outer0 : x.k) - row;
    across = (K_MAJOR ? x.k : x.outer - outer0) - chunk * CHUNK;
  }

  // Brings the tile at k0 to shared memory; what lies outside the matrix becomes zero. No byte outside it is read.
  __device__ __forceinline__ void fetch(half_t* tile, int k0) const {
    const int rows = K_MAJOR ? down : down - k0;
    const int count = min(max(K_MAJOR ? across - k0 : across, 0), CHUNK);
    const half_t* at = from + (K_MAJOR ? k0 : k0 * ld);
#pragma unroll
    for (int i = 0; i < TILE_ELEMENTS / CHUNK / THREADS; i++) {
      const int some = i * ROWS < rows ? count : 0;
      half_t* target = tile + to + i * ROWS * ROW_ELEMENTS;
      if constexpr (ALIGNED) {
        copy_async_16(target, at, WHOLE ? (some > 0 ? 16 : 0) : 2 * some);
      } else {
        uint4 packed = {0, 0, 0, 0};
        unsigned* words = &packed.x;
#pragma unroll
        for (int e = 0; e < CHUNK; e++) {
          const unsigned bits = e < some ? bits_of(at[e]) : 0;
          words[e / 2] |= bits << (e % 2 * 16);
        }
        *reinterpret_cast<uint4*>(target) = packed;
      }
      at += ROWS * ld;
    }
  }
};

// One tile alone.
template <bool K_MAJOR, bool ALIGNED>
__device__ __forceinline__ void fetch(half_t* tile, const Operand& x, int outer0, int k0) {
  Tiles<K_MAJOR, ALIGNED>(x, outer0).fetch(tile, k0);
}

// The fragments of A for 16 rows and 16 k, from row `row` and k `k` of the tile.
template <bool K_MAJOR>
__device__ __forceinline__ void load_a(unsigned (&out)[4], const half_t* tile, int row, int k) {
  const int lane = threadIdx.x % 32, matrix = lane / 8, line = lane % 8;
  if constexpr (K_MAJOR) {
    load_matrix_x4(out, tile + place<true>(row + matrix % 2 * 8 + line, k / CHUNK + matrix / 2));
  } else {
    load_matrix_x4_transposed(out, tile + place<false>(k + matrix / 2 * 8 + line, row / CHUNK + matrix % 2));
  }
}

// The fragments of B for 16 k and 16 columns: two operations' worth.
template <bool K_MAJOR>
__device__ __forceinline__ void load_b(unsigned (&out)[4], const half_t* tile, int col, int k) {
  const int lane = threadIdx.x % 32, matrix = lane / 8, line = lane % 8;
  if constexpr (K_MAJOR) {
    load_matrix_x4(out, tile + place<true>(col + matrix / 2 * 8 + line, k / CHUNK + matrix % 2));
  } else {
    load_matrix_x4_transposed(out, tile + place<false>(k + matrix % 2 * 8 + line, col / CHUNK + matrix / 2));
  }
}

// Writes neighbouring results: 16 bytes.
__device__ __forceinline__ void store_chunk(half_t* to, const float (&v)[8]) {
  uint4 packed;
  unsigned* words = &packed.x;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    words[i] = pair_of<half_t>(v[2 * i], v[2 * i + 1]);
  }
  *reinterpret_cast<uint4*>(to) = packed;
}
__device__ __forceinline__ void store_chunk(float* to, const float (&v)[4]) {
  *reinterpret_cast<float4*>(to) = {v[0], v[1], v[2], v[3]};
}

// A warp's part of a tile of C, as mma leaves it: element e of [i][j] is at row 16 i + lane / 4 + e / 2 * 8 and column
// 8 j + lane % 4 * 2 + e % 2.
using Sums = float[WARP_M / 16][WARP_N / 8][4];

// Where a tile of C begins, by its number in the grouped order.
struct Corner {
  int m0, n0;
};
__device__ __forceinline__ Corner corner_of_tile(u32 tile, int m, int n) {
  const int tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
  const int per_group = GROUP_M * tiles_n, group = tile / per_group, first_m = group * GROUP_M;
  const int rows = min(tiles_m - first_m, GROUP_M), in_group = tile % per_group;
  return {(first_m + in_group % rows) * TILE_M, in_group / rows * TILE_N};
}
__device__ __forceinline__ Corner corner_of_block(int m, int n) { return corner_of_tile(blockIdx.x, m, n); }
__device__ __forceinline__ int tiles_of(int m, int n) { return (m + TILE_M - 1) / TILE_M * ((n + TILE_N - 1) / TILE_N); }

// And where a warp's part begins in the block's tile.
__device__ __forceinline__ Corner corner_of_warp() {
  const int warp = threadIdx.x / 32;
  return {warp % (TILE_M / WARP_M) * WARP_M, warp / (TILE_M / WARP_M) * WARP_N};
}

// Starts the first copies. bring(stage, step) copies what a step multiplies: a tile of A, a tile of B behind it.
template <class Bring> __device__ __forceinline__ void start(half_t* ring, int steps, const Bring& bring) {
#pragma unroll 1
  for (int step = 0; step < STAGES - 1; step++) {
    if (step < steps) bring(ring + step * STAGE_ELEMENTS, step);
    copy_async_commit();
  }
}

// Adds the product of a tile of A and one of B: 32 along k.
template <bool A_K_MAJOR, bool B_K_MAJOR>
__device__ __forceinline__ void multiply(Sums& sum, const half_t* tile_a, const half_t* tile_b) {
  const Corner warp = corner_of_warp();
#pragma unroll
  for (int k = 0; k < TILE_K; k += 16) {
    unsigned fa[WARP_M / 16][4], fb[WARP_N / 16][4];
#pragma unroll
    for (int i = 0; i < WARP_M / 16; i++) load_a<A_K_MAJOR>(fa[i], tile_a, warp.m0 + i * 16, k);
#pragma unroll
    for (int j = 0; j < WARP_N / 16; j++) load_b<B_K_MAJOR>(fb[j], tile_b, warp.n0 + j * 16, k);
#pragma unroll
    for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
      for (int j = 0; j < WARP_N / 8; j++) mma_half(sum[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
    }
  }
}

// Adds the products of the steps `from` to `to` of `steps`.
template <bool A_K_MAJOR, bool B_K_MAJOR, class Bring>
__device__ __forceinline__ void advance(Sums& sum, half_t* ring, int from, int to, int steps, const Bring& bring) {
#pragma unroll 1
  for (int step = from; step < to; step++) {
    copy_async_wait<STAGES - 2>();
    // Hazards: the tile of this step was copied by other threads too; and the stage that is filled next is the one that every
    // warp read in the step before.
    __syncthreads();
    const int next = step + STAGES - 1;
    if (next < steps) bring(ring + next % STAGES * STAGE_ELEMENTS, next);
    copy_async_commit();
    const half_t* tile_a = ring + step % STAGES * STAGE_ELEMENTS;
    multiply<A_K_MAJOR, B_K_MAJOR>(sum, tile_a, tile_a + TILE_ELEMENTS);
  }
}

// Where chunk `chunk` of four results of row `row` of a warp's part lies on its way out, so that neither mma's layout nor rows meet a
// bank twice.
__device__ __forceinline__ int place_result(int row, int chunk) {
  return row * WARP_N + (chunk ^ chunk >> 3 ^ (row & 3) << 1) * 4;
}

// Writes the block's tile of C. The results go out through shared memory, so that each access is 16 bytes of a row; the epilogue's operand
// is under way for four of them at once. C may be the operand itself.
template <class Out>
__device__ __forceinline__ void write_tile(const Sums& sum, unsigned char* smem, Corner block, int m, int n,
                                           const Epilogue<Out>& epilogue, Out* c, long long ldc) {
  constexpr int LEN = 16 / sizeof(Out), LANES = WARP_N / LEN, ROWS = 32 / LANES, AHEAD = 4;
  static_assert(WARP_M % (ROWS * AHEAD) == 0, "whole turns");
  const int lane = threadIdx.x % 32;
  const Corner warp = corner_of_warp();
  copy_async_wait<0>();
  __syncthreads();  // Hazard: the results lie where other warps may still read the last tiles.
  float* results = reinterpret_cast<float*>(smem) + threadIdx.x / 32 * WARP_M * WARP_N;
#pragma unroll
  for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
    for (int j = 0; j < WARP_N / 8; j++) {
      float* to = results + place_result(i * 16 + lane / 4, 2 * j + lane % 4 / 2) + lane % 2 * 2;
      store<2>(to, {sum[i][j][0], sum[i][j][1]});
      store<2>(to + 8 * WARP_N, {sum[i][j][2], sum[i][j][3]});
    }
  }
  __syncwarp();  // Hazard: lanes read what others wrote.
  const int line = lane / LANES, across = lane % LANES * LEN;
  const int row0 = block.m0 + warp.m0 + line, col = block.n0 + warp.n0 + across, count = min(n - col, LEN);
  if (count <= 0) return;
  float bias[LEN];
#pragma unroll
  for (int e = 0; e < LEN; e++) bias[e] = epilogue.bias != nullptr && e < count ? epilogue.bias[col + e] : 0.0f;
  const bool whole = count == LEN && ldc % LEN == 0 && epilogue.template packs<LEN>(c);
#pragma unroll 1
  for (int turn = 0; turn < WARP_M; turn += ROWS * AHEAD) {
    uint4 ahead[AHEAD] = {};
    if (whole && epilogue.operand != nullptr) {
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        const int row = row0 + turn + i * ROWS;
        if (row < m) ahead[i] = *reinterpret_cast<const uint4*>(epilogue.operand + row * ldc + col);
      }
    }
    // Not unrolled, as an activation of all elements of a thread would be long.
#pragma unroll 1
    for (int i = 0; i < AHEAD; i++) {
      const int row = row0 + turn + i * ROWS;
      if (row >= m) return;
      float z[LEN], with[LEN];
#pragma unroll
      for (int e = 0; e < LEN; e += 4) {
        float four[4];
        load<4>(results + place_result(line + turn + i * ROWS, (across + e) / 4), four);
#pragma unroll
        for (int f = 0; f < 4; f++) z[e + f] = four[f] + bias[e + f];
      }
      const long long at = row * ldc + col;
      if (whole) {
        const uint4 mine = i == 0 ? ahead[0] : i == 1 ? ahead[1] : i == 2 ? ahead[2] : ahead[3];
        load<LEN>(reinterpret_cast<const Out*>(&mine), with);
        epilogue.finish_pack(z, with, c, at);
      } else {
        epilogue.finish(z, c, at, count);
      }
    }
  }
}

// Writes the block's sums to their place among the parts (stream_k.cuh), as far as they are of C, in fours.
__device__ __forceinline__ void write_part(const Sums& sum, Corner block, int m, int n, float* part) {
  const Corner warp = corner_of_warp();
  const int lane = threadIdx.x % 32, row0 = warp.m0 + lane / 4, col0 = warp.n0 + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = row0 + i * 16 + half * 8;
#pragma unroll
      for (int j = 0; j < WARP_N / 8; j++) {
        const int col = col0 + j * 8;
        const bool inside = block.m0 + row < m && block.n0 + (col & ~3) < n;
        if (inside) store<2>(part + row * TILE_N + col, {sum[i][j][2 * half], sum[i][j][2 * half + 1]});
      }
    }
  }
}

// Writes what a block has made: its tile of C, or a piece of one.
template <class Piece, class Out>
__device__ __forceinline__ void write(const Sums& sum, unsigned char* smem, Corner block, int m, int n, const Piece& piece,
                                      const Epilogue<Out>& epilogue, Out* c, long long ldc) {
  if (piece.is_whole()) {
    write_tile(sum, smem, block, m, n, epilogue, c, ldc);
  } else {
    write_part(sum, block, m, n, piece.template part<TILE_M>());
  }
}

// The kernel's body, for a block that makes pieces of tiles.
template <bool A_K_MAJOR, bool B_K_MAJOR, bool ALIGNED, class Piece, typename Out>
__device__ __forceinline__ void run_pieces(Piece piece, const Operand a, const Operand b, const Epilogue<Out>& epilogue, Out* c,
                                           long long ldc) {
  extern __shared__ __align__(128) unsigned char smem[];
  half_t* ring = reinterpret_cast<half_t*>(smem);
  while (true) {
    const Corner block = corner_of_tile(piece.tile, a.outer, b.outer);
    const int from = piece.from, steps = (piece.to - from + TILE_K - 1) / TILE_K;
    const Tiles<A_K_MAJOR, ALIGNED> tiles_a(a, block.m0);
    const Tiles<B_K_MAJOR, ALIGNED> tiles_b(b, block.n0);
    auto bring = [&](half_t* stage, int step) {
      tiles_a.fetch(stage, from + step * TILE_K);
      tiles_b.fetch(stage + TILE_ELEMENTS, from + step * TILE_K);
    };
    Sums sum = {};
    start(ring, steps, bring);
    advance<A_K_MAJOR, B_K_MAJOR>(sum, ring, 0, steps, steps, bring);
    write(sum, smem, block, a.outer, b.outer, piece, epilogue, c, ldc);
    if (!piece.next()) return;
    __syncthreads();  // Hazard: the next piece's tiles come where other warps may still read the last ones.
  }
}

// The same, for a block that makes the tile of its number.
template <bool A_K_MAJOR, bool B_K_MAJOR, bool ALIGNED, typename Out>
__device__ __forceinline__ void run(const Operand a, const Operand b, const Epilogue<Out>& epilogue, Out* c, long long ldc) {
  run_pieces<A_K_MAJOR, B_K_MAJOR, ALIGNED>(stream_k::Whole(a.k), a, b, epilogue, c, ldc);
}

}  // namespace gemm
