// C = A B on tensor cores, as gemm.cuh, with a B in 4 bits (four_bit.cuh), which is decoded on its way: packed bytes come to shared
// memory by asynchronous copies, are decoded there once for each block and step, and become a tile as gemm.cuh has them, while the
// tensor cores multiply that of the step before. The same bytes serve both directions; B is never in memory as a whole.
//
// B lies as [n, k] (K_MAJOR: y = x W^T) or [k, n] (dx = dy W). ALIGNED: rows of A start on 16 bytes, those of B on GROUP elements
// and 16 bytes. Else elements of B are decoded one by one, straight from memory.
#pragma once

#include "four_bit.cuh"
#include "gemm.cuh"
#include "shared_memory.cuh"

namespace gemm_4bit {

using four_bit::GROUP, four_bit::Lookup, four_bit::Matrix, four_bit::Scale;
using gemm::CHUNK, gemm::STAGES, gemm::THREADS, gemm::TILE_ELEMENTS, gemm::TILE_K, gemm::TILE_N;

static_assert(TILE_K == GROUP && TILE_N == THREADS, "a thread decodes a group of a tile");
static_assert(stream_k::SPAN % (2 * TILE_K) == 0, "pieces of a sum begin with a unit of packed bytes, and with the first tile of B");

// The ring: STAGES tiles of A; two tiles of B, that in use and that of the next step; units of packed bytes.
constexpr int UNITS = 4, UNIT_BYTES = 4096, SMEM_BYTES = STAGES * TILE_ELEMENTS * 2 + 2 * TILE_ELEMENTS * 2 + UNITS * UNIT_BYTES;
static_assert(SMEM_BYTES == gemm::SMEM_BYTES, "a product with more operands uses the same memory for both of its parts");

// What a thread does for the tiles of B: it copies packed bytes, and decodes GROUP elements of each tile. A step's addresses differ from
// those of the step before by constants.
template <bool K_MAJOR, bool ALIGNED> struct Tiles {
  // A unit has the packed bytes of so many steps: whole sectors of 32 bytes are read at once.
  static constexpr int STEPS = K_MAJOR ? 2 : 1;
  // Lines (rows of B) of a unit, and 16 bytes of them.
  static constexpr int LINES = K_MAJOR ? TILE_N : TILE_K, CHUNKS = K_MAJOR ? 2 : TILE_N / GROUP;
  static constexpr int COPIES = LINES * CHUNKS / THREADS, COPY_LINES = THREADS / CHUNKS;
  static_assert(COPY_LINES % 8 == 0, "the permutation of chunks repeats after 8 lines");

  const Matrix& w;
  const Lookup& lookup;
  int rows, cols;
  // The group's place in B at step 0.
  int row, col;
  // What is copied: the first chunk at step 0, where it goes, the lines and columns of B from there on.
  const unsigned char* from;
  int to, down, across;
  // Where the group lies in a unit and its first chunk in a tile, in bytes.
  int packed_at, tile_at;
  u32 first_group;  // the group at step 0, counted along rows
  Scale scale;      // of the next step

  // For the steps from `step` on.
  __device__ __forceinline__ Tiles(const Matrix& w, const Lookup& lookup, int rows, int cols, int outer0, int step)
      : w(w), lookup(lookup), rows(rows), cols(cols) {
    const int line = K_MAJOR ? threadIdx.x : threadIdx.x % TILE_K, group = K_MAJOR ? 0 : threadIdx.x / TILE_K;
    row = K_MAJOR ? outer0 + line : line;
    col = K_MAJOR ? 0 : outer0 + group * GROUP;
    packed_at = place(line, group);
    tile_at = gemm::place<K_MAJOR>(line, group * (GROUP / CHUNK)) * 2;
    const int copy_line = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    const int copy_row = (K_MAJOR ? outer0 : 0) + copy_line, copy_col = (K_MAJOR ? 0 : outer0) + chunk * GROUP;
    from = w.packed + (static_cast<u64>(copy_row) * cols + copy_col) / 2;
    to = place(copy_line, chunk);
    down = rows - copy_row;
    across = cols - copy_col;
    // 32 rows of `cols` elements are `cols` groups.
    first_group = (static_cast<u64>(row) * cols + col) / GROUP;
    bring_scale(step);
  }

  // Where 16 bytes of a line lie in a unit: those that are read together lie in different banks.
  __device__ __forceinline__ static int place(int line, int chunk) {
    return line * CHUNKS * 16 + (chunk ^ (line / (8 / CHUNKS) & CHUNKS - 1)) * 16;
  }

  // Starts the copies of what the steps from `step` on need, where a unit begins.
  __device__ __forceinline__ void bring(u32 packed, int step) const {
    if constexpr (!ALIGNED) return;
    if (step % STEPS != 0) return;
    const u32 unit = packed + static_cast<u32>(step) / STEPS % UNITS * UNIT_BYTES + to;
    const unsigned char* at = from + (K_MAJOR ? step * (TILE_K / 2) : static_cast<long long>(step) * cols * (TILE_K / 2));
    const int lines = K_MAJOR ? down : down - step * TILE_K, columns = K_MAJOR ? across - step * TILE_K : across;
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
      const bool inside = i * COPY_LINES < lines && columns > 0;
      copy_async_16(unit + i * COPY_LINES * CHUNKS * 16, inside ? at + static_cast<long long>(i * COPY_LINES) * cols / 2 : w.packed, inside ? 16 : 0);
    }
  }

  // Loads the scale of a step's group. Outside the matrix the one before stays: what is decoded there is multiplied by zeros of A, or
  // makes columns of C that are not written.
  __device__ __forceinline__ void bring_scale(int step) {
    if constexpr (!ALIGNED) return;
    const bool inside = K_MAJOR ? row < rows && step * TILE_K < cols : row + step * TILE_K < rows && col < cols;
    const u32 group = first_group + (K_MAJOR ? step : step * cols);
    if (inside) scale.bring(w, group >> (w.block_log2 - four_bit::GROUP_LOG2));
  }

  // Makes the group of the tile of a step.
  __device__ __forceinline__ void decode(u32 tile, u32 packed, int step) {
    if constexpr (ALIGNED) {
      tile += tile_at;
      const four_bit::Table table(lookup, scale.value(w, lookup));
      bring_scale(step + 1);
      const u32 unit = packed + static_cast<u32>(step) / STEPS % UNITS * UNIT_BYTES + (packed_at ^ (K_MAJOR ? step % 2 * 16 : 0));
      const uint4 words = load_shared_16(unit);
      // Chunks of a group lie where the bits of their number say.
      store_shared_16(tile, table.eight(words.x));
      store_shared_16(tile ^ 16, table.eight(words.y));
      store_shared_16(tile ^ 32, table.eight(words.z));
      store_shared_16(tile ^ 48, table.eight(words.w));
    } else {
#pragma unroll 1
      for (int i = 0; i < GROUP / CHUNK; i++) {
        uint4 out = {0, 0, 0, 0};
        u32* words = &out.x;
#pragma unroll
        for (int e = 0; e < CHUNK; e++) {
          const int r = K_MAJOR ? row : row + step * TILE_K, c = (K_MAJOR ? step * TILE_K : col) + i * CHUNK + e;
          if (r >= rows || c >= cols) continue;
          const half_t value = from_f32<half_t>(four_bit::element(w, lookup, static_cast<u64>(r) * cols + c));
          words[e / 2] |= static_cast<u32>(bits_of(value)) << (e % 2 * 16);
        }
        store_shared_16((tile + tile_at) ^ i * 16, out);
      }
    }
  }
};

// sum += A B, from `from` to `to` along k. `smem` has SMEM_BYTES, and nothing under way in it.
template <bool B_K_MAJOR, bool ALIGNED>
__device__ __forceinline__ void accumulate(gemm::Sums& sum, unsigned char* smem, const gemm::Operand& a, const Matrix& w,
                                           const Lookup& lookup, gemm::Corner block, int n, int from, int to) {
  half_t *ring_a = reinterpret_cast<half_t*>(smem), *ring_b = ring_a + STAGES * TILE_ELEMENTS;
  const u32 tile_b = shared_address(ring_b), packed = shared_address(ring_b + 2 * TILE_ELEMENTS);
  const int first = from / TILE_K, end = (to + TILE_K - 1) / TILE_K;
  const gemm::Tiles<true, ALIGNED, ALIGNED> tiles_a(a, block.m0);
  Tiles<B_K_MAJOR, ALIGNED> tiles_b(w, lookup, B_K_MAJOR ? n : a.k, B_K_MAJOR ? a.k : n, block.n0, first);
  // The packed bytes of a step come a step before its tile of A.
  const auto bring = [&](int step) {
    if (step < end) tiles_a.fetch(ring_a + step % STAGES * TILE_ELEMENTS, step * TILE_K);
    if (step + 1 < end) tiles_b.bring(packed, step + 1);
    copy_async_commit();
  };
  tiles_b.bring(packed, first);
#pragma unroll 1
  for (int step = first; step < first + STAGES - 1; step++) bring(step);
  copy_async_wait<STAGES - 2>();
  __syncthreads();  // Hazard: the packed bytes were copied by other threads too.
  tiles_b.decode(tile_b, packed, first);
#pragma unroll 1
  for (int step = first; step < end; step++) {
    copy_async_wait<STAGES - 2>();
    // Hazards: the tiles of this step, and the packed bytes of the next, were made by other threads too; and what is filled next is
    // what every warp read in the step before.
    __syncthreads();
    bring(step + STAGES - 1);
    if (step + 1 < end) tiles_b.decode(tile_b + (step + 1) % 2 * TILE_ELEMENTS * 2, packed, step + 1);
    gemm::multiply<true, B_K_MAJOR>(sum, ring_a + step % STAGES * TILE_ELEMENTS, ring_b + step % 2 * TILE_ELEMENTS);
  }
}

}  // namespace gemm_4bit
