// How the tiles of a product are shared out among blocks: stream-K (arXiv 2301.03598) in its hybrid form, with fixed bounds.
//
// A GPU runs a number of blocks at once. As many tiles as fill it a whole number of times are a block's each (`whole` of them, the first). The
// inner dimension of those that are left, too few to fill it once more, is cut in spans of SPAN; their spans are laid end to end, tile after
// tile, and each of the blocks after the first takes `each` of them. It may so begin in one tile and end in the next: two pieces. The sums of
// a piece go to `parts`, in f32, a place of a tile's size for each; sum_parts adds those of a tile in the order of k, applies the
// epilogue and rounds once. A tile takes `stride` of the line, which may be more than it has: then its last piece is shorter, and none
// crosses to the next tile. Everything follows from the arguments, which follow from the shapes and from what the GPU runs at once
// (src/device/cuda/plan.rs): no block waits for another, and the bits do not depend on which comes first.
#pragma once

#include "elements.cuh"
#include "epilogue.cuh"

namespace stream_k {

constexpr int SPAN = 64;

__device__ __forceinline__ int spans_of(int k) { return (k + SPAN - 1) / SPAN; }

// A parameter of kernels, by value; src/ops/matmul/shares.rs has the same.
struct Shares {
  float* parts;
  int whole, each, stride;
};

// A block that makes the tile of its number.
struct Whole {
  int tile, from, to;

  __device__ __forceinline__ explicit Whole(int k) : tile(blockIdx.x), from(0), to(k) {}
  __device__ __forceinline__ bool is_whole() const { return true; }
  template <int EDGE> __device__ __forceinline__ float* part() const { return nullptr; }
  __device__ __forceinline__ bool next() { return false; }
};

// What a block makes, piece by piece: of tile `tile` the part from `from` to `to` along k.
struct Pieces {
  int tile, from, to;
  float* parts;
  int place;          // of the piece among the parts; -1: the whole tile
  int tiles, k, rest;  // spans of the next tile that are the block's too

  __device__ __forceinline__ Pieces(const Shares& shares, int tiles, int k)
      : tile(blockIdx.x), from(0), to(k), parts(shares.parts), place(-1), tiles(tiles), k(k), rest(0) {
    const int block = static_cast<int>(blockIdx.x) - shares.whole;
    if (block < 0) return;
    const int at = block * shares.each, of_tail = at / shares.stride, first = at - of_tail * shares.stride;
    tile = shares.whole + of_tail;
    from = first * SPAN;
    to = end_of(first + shares.each);
    place = block + of_tail;
    rest = first + shares.each - shares.stride;
  }

  __device__ __forceinline__ int end_of(int span) const { return span < spans_of(k) ? span * SPAN : k; }

  __device__ __forceinline__ bool is_whole() const { return place < 0; }

  // Where the sums go: EDGE rows of EDGE.
  template <int EDGE> __device__ __forceinline__ float* part() const { return parts + static_cast<long long>(place) * EDGE * EDGE; }

  // Goes on to the next piece, if there is another one.
  __device__ __forceinline__ bool next() {
    if (rest <= 0 || tile + 1 == tiles) return false;
    tile++;
    place++;
    from = 0;
    to = end_of(rest);
    rest = 0;
    return true;
  }
};

constexpr int SUM_THREADS = 256, SUM_LEN = 4;

// Blocks for the sums of a tile.
template <int EDGE> constexpr int sum_blocks() { return EDGE * EDGE / (SUM_THREADS * SUM_LEN); }

// C of a tile whose sums are in parts, at (m0, n0): SUM_LEN neighbours a thread.
template <int EDGE, class C>
__device__ __forceinline__ void sum_parts(const Shares& shares, int tile, int m0, int n0, const Epilogue<C>& epilogue, C* __restrict__ c,
                                          int m, int n, int k) {
  const int in_tile = (blockIdx.x % sum_blocks<EDGE>() * SUM_THREADS + threadIdx.x) * SUM_LEN;
  const int row = m0 + in_tile / EDGE, col = n0 + in_tile % EDGE, count = min(n - col, SUM_LEN);
  if (row >= m || count <= 0) return;
  const int of_tail = tile - shares.whole, begin = of_tail * shares.stride;
  const int first = begin / shares.each, last = (begin + spans_of(k) - 1) / shares.each;
  const long long at = static_cast<long long>(row) * n + col;
  const bool packed = n % SUM_LEN == 0 && epilogue.template packs<SUM_LEN>(c);
  float with[SUM_LEN] = {};
  if (packed && epilogue.operand != nullptr) load<SUM_LEN>(epilogue.operand + at, with);
  const float* parts = shares.parts + static_cast<long long>(first + of_tail) * EDGE * EDGE + in_tile;
  float sum[SUM_LEN] = {};
#pragma unroll 8
  for (int p = 0; p <= last - first; p++) {
    float part[SUM_LEN];
    load<SUM_LEN>(parts + static_cast<long long>(p) * EDGE * EDGE, part);
#pragma unroll
    for (int i = 0; i < SUM_LEN; i++) sum[i] += part[i];
  }
  if (epilogue.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < SUM_LEN; i++) sum[i] += i < count ? epilogue.bias[col + i] : 0.0f;
  }
  if (packed) {
    epilogue.finish_pack(sum, with, c, at);
  } else {
    epilogue.finish(sum, c, at, count);
  }
}

}  // namespace stream_k
