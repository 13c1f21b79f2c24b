// Embedding: rows of a table.
//
//   y[t] = table[ids[t]]        dtable[v] = sum over the t with ids[t] == v of dy[t]
//
// Shapes: ids u32 [count], table, dtable [vocab, dim], y, dy [count, dim]; dtable is f32. Saved for backward: the ids. y is
// overwritten; of dtable, which has to be zero, the rows that occur. An id outside the table makes a row of NaN, and takes no
// part in the gradient. Deterministic: a row of dtable is one sum, in the order of t.
//
// Memory-bound: a thread moves 16 bytes of the larger type. Backward first sorts the pairs (id, t): tiles of up to 512 in shared
// memory by a bitonic network, then runs are merged two by two, where an element's place is its own index and the number of
// smaller ones in the other run. The block of an id's first pair then adds its rows, four loads in flight; the blocks of the
// others leave at once.

#include "common/elements.cuh"

constexpr int THREADS = 256;
constexpr int ROWS_IN_FLIGHT = 4;
constexpr int PACK_BWD = 4;  // columns of a thread: 16 bytes of dtable

// A block copies `block_rows` rows from blockIdx.x times that on.
template <int N, class T, class U>
__device__ __forceinline__ void gather(const u32* __restrict__ ids, const T* __restrict__ table, U* __restrict__ y, u64 count,
                                       u32 vocab, u32 dim, u32 block_rows) {
  const u64 first = u64(blockIdx.x) * block_rows;
  const u32 here = static_cast<u32>(min(u64(block_rows), count - first)), packs = dim / N;
  for (u32 item = threadIdx.x; item < here * packs; item += THREADS) {
    const u64 row = first + item / packs;
    const u32 column = item % packs * N, id = ids[row];
    float v[N];
    if (id < vocab) {
      load<N>(table + u64(id) * dim + column, v);
    } else {
#pragma unroll
      for (int i = 0; i < N; i++) v[i] = __int_as_float(0x7fffffff);
    }
    store<N>(y + row * dim + column, v);
  }
}

#define FORWARD(NAME, T, U)                                                                                                 \
  extern "C" __global__ __launch_bounds__(THREADS) void embedding_fwd_##NAME(const u32* ids, const T* table, U* y, u64 count, \
                                                                             u32 vocab, u32 dim, u32 block_rows,            \
                                                                             u32 packed) {                                  \
    if (packed) {                                                                                                           \
      gather<pack_len<T, U>()>(ids, table, y, count, vocab, dim, block_rows);                                               \
    } else {                                                                                                                \
      gather<1>(ids, table, y, count, vocab, dim, block_rows);                                                              \
    }                                                                                                                       \
  }
OF_PAIRS(FORWARD)

// Pairs are numbers that sort as they should: the id above, t below. No two are equal.
__device__ __forceinline__ u32 id_of(u64 pair) { return static_cast<u32>(pair >> 32); }
__device__ __forceinline__ u32 token_of(u64 pair) { return static_cast<u32>(pair); }

#ifndef WARPTUNE_F16
constexpr u32 MAX_TILE = 512;

// pairs[..] = the pairs of each `tile` ids, sorted; tile is a power of two, blockDim.x half of it.
extern "C" __global__ __launch_bounds__(MAX_TILE / 2) void embedding_bwd_sort_tiles(const u32* ids, u64* pairs, u32 count,
                                                                                   u32 tile) {
  __shared__ u64 sorted[MAX_TILE];
  const u64 first = u64(blockIdx.x) * tile;
  for (u32 i = threadIdx.x; i < tile; i += blockDim.x) {
    sorted[i] = first + i < count ? u64(ids[first + i]) << 32 | (first + i) : ~0ull;
  }
  for (u32 size = 2; size <= tile; size *= 2) {
    for (u32 distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();  // Hazard: the pairs of the step before were written by other threads.
      const u32 low = threadIdx.x / distance * 2 * distance + threadIdx.x % distance, high = low + distance;
      const u64 a = sorted[low], b = sorted[high];
      const bool ascending = (low & size) == 0;
      if ((a > b) == ascending) {
        sorted[low] = b;
        sorted[high] = a;
      }
    }
  }
  __syncthreads();  // Hazard: the last step's pairs are read by other threads.
  for (u32 i = threadIdx.x; i < tile && first + i < count; i += blockDim.x) {
    pairs[first + i] = sorted[i];
  }
}

// Merges sorted runs of `run` pairs two by two.
extern "C" __global__ __launch_bounds__(THREADS) void embedding_bwd_sort_merge(const u64* from, u64* to, u32 count, u32 run) {
  const u64 i = u64(blockIdx.x) * THREADS + threadIdx.x;
  if (i >= count) {
    return;
  }
  const u64 pair = from[i], own = i / run, start = own / 2 * 2 * run;
  u64 low = min((own ^ 1) * run, u64(count)), high = min(low + run, u64(count));
  const u64 other = low;
  while (low < high) {
    const u64 middle = (low + high) / 2;
    if (from[middle] < pair) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  to[start + (i - own * run) + (low - other)] = pair;
}
#endif

// Block x has the pair of that number, a thread N columns.
template <int N, class T>
__device__ __forceinline__ void add_rows(const u64* __restrict__ pairs, const T* __restrict__ dy, float* __restrict__ dtable,
                                         u32 count, u32 vocab, u32 dim) {
  const u32 first = blockIdx.x, id = id_of(pairs[first]);
  const u32 column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (column >= dim || id >= vocab || (first > 0 && id_of(pairs[first - 1]) == id)) {
    return;
  }
  float sum[N] = {};
  bool more = true;
  // The rows past the last are zeros, which change no sum: a sum that began with +0 is never -0.
  for (u32 from = first; more; from += ROWS_IN_FLIGHT) {
    float v[ROWS_IN_FLIGHT][N] = {};
    bool mine = true;
#pragma unroll
    for (int r = 0; r < ROWS_IN_FLIGHT; r++) {
      const u64 pair = from + r < count ? pairs[from + r] : ~0ull;
      mine = id_of(pair) == id;
      if (mine) load<N>(dy + u64(token_of(pair)) * dim + column, v[r]);
    }
#pragma unroll
    for (int r = 0; r < ROWS_IN_FLIGHT; r++) {
#pragma unroll
      for (int i = 0; i < N; i++) sum[i] += v[r][i];
    }
    more = mine;
  }
  store<N>(dtable + u64(id) * dim + column, sum);
}

#define BACKWARD(NAME, T)                                                                                            \
  extern "C" __global__ __launch_bounds__(THREADS) void embedding_bwd_##NAME(const u64* pairs, const T* dy,          \
                                                                             float* dtable, u32 count, u32 vocab,    \
                                                                             u32 dim, u32 packed) {                  \
    if (packed) {                                                                                                    \
      add_rows<PACK_BWD>(pairs, dy, dtable, count, vocab, dim);                                                      \
    } else {                                                                                                         \
      add_rows<1>(pairs, dy, dtable, count, vocab, dim);                                                             \
    }                                                                                                                \
  }
OF_TYPES(BACKWARD)
