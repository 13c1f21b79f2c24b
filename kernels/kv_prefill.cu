// Attention of many new tokens of a sequence over its paged cache (inference only): prompts, whole or in chunks. kernels/kv_attention.cu has
// the formula, the pages and the table of sequences, and takes sequences with fewer than MANY new tokens.
//
// Shapes: q, o [tokens, heads dim], the new tokens of all sequences one after the other; their keys and values are in the pages already.
// Causal, with or without a window. Nothing is saved, everything overwritten.
// The kernels are those of attention forward (common/attention_forward.cuh, common/attention_f32.cuh), with their tiles: a block has one
// tile of queries of one head; the x of the grid is a row of the host's table (sequence, first query), longest work first, the y is the
// head. Only where a tile of keys lies is looked up: in one page always, since pages are whole tiles, its rows side by side.
// Deterministic: a row's sums are over its keys in order, in tiles counted from the start of its sequence. So neither other sequences
// nor the chunks in which a prompt came change a bit, as long as each of them has MANY tokens.
// Heads of 64, 128 and 256 elements, which shorter ones are padded to in shared memory.
#include "common/attention_f32.cuh"
#include "common/attention_forward.cuh"
#include "common/kv_attention.cuh"

using kv_attention::PAGE;

struct Table {
  const uint2* tiles;
  const kv_attention::Sequence* sequences;
  u32 page_capacity, layer, kv_heads;
  bool packed;  // whether queries and outputs start on 16 bytes and have whole chunks
  int window;
};

// A forward kernel's keys and values where they lie in pages (attention::Packed is the other kind).
template <class T> struct Paged {
  static constexpr bool KEYS_ALIGNED = true;
  struct Stream {
    const T* const* pages;
    u64 matrix[2];  // where the keys and the values of a block's head begin in each page
    u32 begin;      // the first key
  };
  const Table& table;
  const T* const* pages;
  u32 padded;

  __device__ __forceinline__ attention::Sequence sequence() const {
    const uint2 tile = table.tiles[blockIdx.x];
    const kv_attention::Sequence of = table.sequences[tile.x];
    attention::Sequence s;
    s.q_begin = of.row;
    s.queries = of.fresh;
    s.k_begin = 0;
    s.keys = of.past + of.fresh;
    s.first = tile.y;
    s.past = of.past;
    s.causal = true;
    s.window = min(table.window, s.keys);
    return s;
  }
  __device__ __forceinline__ Stream stream(const attention::Sequence&, int kv_head, int begin) const {
    const kv_attention::Place place(table.layer, table.kv_heads, kv_head, padded);
    return {pages + u64(table.tiles[blockIdx.x].x) * table.page_capacity, {place.keys, place.values}, static_cast<u32>(begin)};
  }
  __device__ __forceinline__ attention::Rows<const T> rows(const Stream& stream, int which, int first) const {
    const u32 key = stream.begin + first;
    return {stream.pages[key / PAGE] + stream.matrix[which] + u64(key % PAGE) * padded, padded};
  }
  template <class F> __device__ __forceinline__ void with_alignment(F f) const {
    if (table.packed) {
      f(attention::Yes());
    } else {
      f(attention::No());
    }
  }
  __device__ __forceinline__ void save(int, attention::i64, float, float) const {}
};

// What the kernels take beside that.
template <class T> struct Arguments {
  attention::Rows<const T> q;
  attention::Rows<T> out;
  int group, dim;
  float scale2;
};

#define PREFILL(NAME, T, THREADS, ...)                                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                             \
      NAME(const uint2* tiles, const kv_attention::Sequence* sequences, const T* const* pages, const T* q, T* out,                   \
           u32 page_capacity, u32 layer, u32 kv_heads, u32 group, u32 dim, u32 window, float scale2, u32 packed) {                   \
    const Table table = {tiles, sequences, page_capacity, layer, kv_heads, packed != 0, static_cast<int>(min(window, 0x7fffffffu))}; \
    const attention::i64 stride = attention::i64(kv_heads) * group * dim;                                                            \
    const Paged<T> paged = {table, pages, kv_attention::padded_dim<T>(dim)};                                                         \
    __VA_ARGS__(paged, Arguments<T>{{q, stride}, {out, stride}, static_cast<int>(group), static_cast<int>(dim), scale2});            \
  }

template <int D> using TensorCores = typename attention::ForwardOf<D>::Plan;
#define TENSOR_CORES(HALF, D)                                                                                                        \
  static_assert(PAGE % TensorCores<D>::KEYS == 0, "a tile of keys lies in one page");                                               \
  PREFILL(kv_prefill_fwd_##HALF##_d##D, half_t, TensorCores<D>::THREADS, attention::forward<TensorCores<D>>)
#define ALL_TENSOR_CORES(HALF) TENSOR_CORES(HALF, 64) TENSOR_CORES(HALF, 128) TENSOR_CORES(HALF, 256)
OF_HALF(ALL_TENSOR_CORES)

#ifndef WARPTUNE_F16
#define ORDINARY_CORES(D) PREFILL(kv_prefill_fwd_f32_d##D, float, attention_f32::THREADS, attention_f32::forward<D / 64>)
static_assert(PAGE % attention_f32::TILE == 0, "a tile of keys lies in one page");
ORDINARY_CORES(64)
ORDINARY_CORES(128)
ORDINARY_CORES(256)
#endif
