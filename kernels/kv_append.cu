// New tokens' keys and values into the pages of caches (inference only; kernels/kv_attention.cu has how pages lie), with the rotary
// embedding of queries and keys on the way.
//
//   append          pages: k, v
//   append turned   q_out = turn(q), pages: turn(k), v            turn: kernels/rope.cu, with its bits
//
// Shapes: q, q_out [tokens, heads * head_dim]; k, v [tokens, kv_heads * head_dim], the new tokens of all sequences one after the other;
// positions u32 [tokens]; frequencies f32 [head_dim / 2]; all of the pages' type. Where a sequence's rows and pages are stands in a table
// in device memory, so that a captured launch finds the places of the day. Everything is overwritten. Deterministic: an element is
// one thread's.
//
// Memory-bound: every element is read once and written once, 16 bytes a thread where heads are aligned to that. A grid is as large as the
// sequence with the most new tokens needs; a block that finds nothing to do leaves at once.

#include "common/kv_attention.cuh"
#include "common/rope.cuh"

using namespace kv_attention;

constexpr int THREADS = rope::THREADS;

// The pages of sequence blockIdx.y, in one layer.
template <class T> struct Cache {
  T* const* pages;
  u32 past, layer, kv_heads, padded;

  __device__ __forceinline__ Cache(T* const* pages, const Sequence& sequence, u32 page_capacity, u32 layer, u32 kv_heads, u32 head_dim)
      : pages(pages + u64(blockIdx.y) * page_capacity), past(sequence.past), layer(layer), kv_heads(kv_heads),
        padded(padded_dim<T>(head_dim)) {}

  // Where the key (or value) of new token `token` goes.
  __device__ __forceinline__ T* at(bool is_key, u32 token, u32 kv_head) const {
    const u32 position = past + token;
    const Place place(layer, kv_heads, kv_head, padded);
    return pages[position / PAGE] + (is_key ? place.keys : place.values) + u64(position % PAGE) * padded;
  }
};

// Copies pack `id` of a token's heads, N elements each, of the sequence's rows from x on; those from token `fresh` on are not there.
template <int N, class T>
__device__ __forceinline__ void copy_pack(const T* __restrict__ x, const Cache<T>& cache, bool is_key, u32 id, u32 fresh, u32 head_dim) {
  using Whole = typename Word<N * sizeof(T)>::Type;
  const u32 packs = head_dim / N, row = id / packs, column = id % packs * N;
  const u32 token = row / cache.kv_heads, kv_head = row % cache.kv_heads;
  if (token >= fresh) return;
  const T* from = x + u64(row) * head_dim + column;
  *reinterpret_cast<Whole*>(cache.at(is_key, token, kv_head) + column) = *reinterpret_cast<const Whole*>(from);
}

// New keys (blockIdx.z = 0) or values (1) of sequence blockIdx.y; a thread has a pack.
template <int N, class T>
__device__ __forceinline__ void append(const T* __restrict__ x, const Sequence* __restrict__ sequences, T* const* __restrict__ pages,
                                       u32 page_capacity, u32 layer, u32 kv_heads, u32 head_dim) {
  const Sequence sequence = sequences[blockIdx.y];
  const Cache<T> cache(pages, sequence, page_capacity, layer, kv_heads, head_dim);
  x += u64(sequence.row) * kv_heads * head_dim;
  copy_pack<N>(x, cache, blockIdx.z == 0, blockIdx.x * THREADS + threadIdx.x, sequence.fresh, head_dim);
}

// `block_tokens` new tokens of sequence blockIdx.y from blockIdx.x times that on, whose angles fit a block; N elements are moved at once.
template <bool INTERLEAVED, int N, class T>
__device__ __forceinline__ void append_turned(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
                                              const u32* __restrict__ positions, const float* __restrict__ frequencies,
                                              T* __restrict__ q_out, const Sequence* __restrict__ sequences,
                                              T* const* __restrict__ pages, u32 page_capacity, u32 layer, u32 heads, u32 kv_heads,
                                              u32 pairs, u32 block_tokens, rope::Angles& angles) {
  Sequence sequence = sequences[blockIdx.y];
  const u32 first = blockIdx.x * block_tokens, head_dim = 2 * pairs;
  if (first >= sequence.fresh) return;  // The whole block.
  const u32 here = min(block_tokens, sequence.fresh - first);
  const u64 row = u64(sequence.row) + first;
  sequence.past += first;
  const Cache<T> cache(pages, sequence, page_capacity, layer, kv_heads, head_dim);
  v += row * kv_heads * head_dim;
  for (u32 id = threadIdx.x; id < here * kv_heads * (head_dim / N); id += THREADS) copy_pack<N>(v, cache, false, id, here, head_dim);
  const auto head_of = [=](u32 token, u32 head) -> rope::Head<T> {
    if (head < heads) {
      const u64 at = ((row + token) * heads + head) * head_dim;
      return {q + at, q_out + at};
    }
    return {k + ((row + token) * kv_heads + head - heads) * head_dim, cache.at(true, token, head - heads)};
  };
  rope::turn<INTERLEAVED, N, T>(head_of, positions + row, frequencies, here, heads + kv_heads, pairs, 0, 1.0f, angles);
}

#define APPEND(NAME, T)                                                                                                        \
  extern "C" __global__ __launch_bounds__(THREADS) void kv_append_##NAME(                                                      \
      const T* k, const T* v, const Sequence* sequences, T* const* pages, u32 page_capacity, u32 layer, u32 kv_heads,          \
      u32 head_dim, u32 packed) {                                                                                              \
    const T* x = blockIdx.z == 0 ? k : v;                                                                                      \
    if (packed) {                                                                                                              \
      append<pack_len<T>()>(x, sequences, pages, page_capacity, layer, kv_heads, head_dim);                                    \
    } else {                                                                                                                   \
      append<1>(x, sequences, pages, page_capacity, layer, kv_heads, head_dim);                                                \
    }                                                                                                                          \
  }                                                                                                                            \
  APPEND_TURNED(NAME##_half, T, false)                                                                                         \
  APPEND_TURNED(NAME##_interleaved, T, true)
#define APPEND_TURNED(NAME, T, INTERLEAVED)                                                                                    \
  extern "C" __global__ __launch_bounds__(THREADS) void kv_append_turned_##NAME(                                               \
      const T* q, const T* k, const T* v, const u32* positions, const float* frequencies, T* q_out, const Sequence* sequences, \
      T* const* pages, u32 page_capacity, u32 layer, u32 heads, u32 kv_heads, u32 pairs, u32 block_tokens, u32 packed) {       \
    __shared__ __align__(16) rope::Angles angles;                                                                              \
    if (packed) {                                                                                                              \
      append_turned<INTERLEAVED, pack_len<T>()>(q, k, v, positions, frequencies, q_out, sequences, pages, page_capacity,       \
                                                layer, heads, kv_heads, pairs, block_tokens, angles);                          \
    } else {                                                                                                                   \
      append_turned<INTERLEAVED, 1>(q, k, v, positions, frequencies, q_out, sequences, pages, page_capacity, layer, heads,     \
                                    kv_heads, pairs, block_tokens, angles);                                                    \
    }                                                                                                                          \
  }
OF_TYPES(APPEND)
