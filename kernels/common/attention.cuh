// What the attention kernels share: which rows a block works on, who sees whom, and, for those on tensor cores, how tiles of
// rows lie in shared memory.
//
// Rows of queries and of keys lie packed, the heads of a row side by side. Query i of the n_q of a sequence stands at position
// n_k - n_q + i of its n_k keys; with as many queries as keys that is i, with fewer they are the newest tokens.
#pragma once

#include "mma.cuh"
#include "shared_memory.cuh"

namespace attention {

using i64 = long long;

constexpr float LOG2_E = 1.4426950408889634f;
constexpr int CHUNK = 8;         // elements of 16 bytes
constexpr int KEPT_BYTES = 128;  // of what the threads of a block know in common

// A condition that is known when the kernel is compiled, as an argument.
template <bool VALUE> struct Known { static constexpr bool value = VALUE; };
using Yes = Known<true>;
using No = Known<false>;

// Where sequences lie: sequence s is rows starts[s] .. ends[s].
struct Spans {
  const u32* starts;
  const u32* ends;
};

// Some successive columns of a row-major matrix from an element on.
template <class T> struct Rows {
  T* data;
  i64 stride;  // elements from row to row

  __device__ __forceinline__ Rows at(i64 row, i64 column) const { return {data + row * stride + column, stride}; }
};

// A range of columns of the matrix of scores.
struct Range {
  int begin, end;
};

// A block's sequence, and who sees whom in it.
struct Sequence {
  int q_begin, queries, k_begin, keys;
  int first;  // the first row, query or key, of the block's tile
  int past;   // the position of query 0
  bool causal;
  int window;

  // The block's entry in the table of tiles: sequence, first row.
  static __device__ __forceinline__ Sequence of_tile(const uint2* tiles, const Spans& q, const Spans& k, bool causal, int window) {
    const uint2 tile = tiles[blockIdx.x];
    Sequence s;
    s.q_begin = q.starts[tile.x];
    s.queries = q.ends[tile.x] - s.q_begin;
    s.k_begin = k.starts[tile.x];
    s.keys = k.ends[tile.x] - s.k_begin;
    s.first = tile.y;
    s.past = s.keys - s.queries;
    s.causal = causal;
    s.window = min(window, s.keys);  // a wider one hides nothing, and sums with it do not overflow
    return s;
  }

  // The keys that a query sees. Both ends rise with the query.
  __device__ __forceinline__ Range keys_of(int query) const {
    const int end = past + query + 1;
    return causal ? Range{max(end - window, 0), min(end, keys)} : Range{0, keys};
  }

  // The queries that see a key. Both ends rise with the key.
  __device__ __forceinline__ Range queries_of(int key) const {
    const int begin = key - past;
    return causal ? Range{max(begin, 0), min(begin + window, queries)} : Range{0, queries};
  }
};

// What forward kernels take.
template <class T> struct ForwardArguments {
  const uint2* tiles;
  Spans q_spans, k_spans;
  Rows<const T> q, k, v;
  Rows<T> out;
  float* lse;
  i64 lse_stride;
  int group, dim;
  float scale, scale2;  // the factor on scores, for powers of e and of 2
  bool causal;
  int window;
};

// A forward kernel's keys and values where they lie packed like its queries. ALIGNED: all rows start on 16 bytes and have whole chunks.
template <class T, bool ALIGNED> struct Packed {
  static constexpr bool KEYS_ALIGNED = ALIGNED;
  // Keys and values of a block's head from its first tile on.
  struct Stream {
    const T* from[2];
  };
  const ForwardArguments<T>& a;

  __device__ __forceinline__ Sequence sequence() const {
    return Sequence::of_tile(a.tiles, a.q_spans, a.k_spans, a.causal, a.window);
  }
  __device__ __forceinline__ Stream stream(const Sequence& seq, int kv_head, int begin) const {
    return {{a.k.at(seq.k_begin + begin, kv_head * a.dim).data, a.v.at(seq.k_begin + begin, kv_head * a.dim).data}};
  }
  // Keys (0) or values (1) from row `first` of the stream on.
  __device__ __forceinline__ Rows<const T> rows(const Stream& stream, int which, int first) const {
    return Rows<const T>{stream.from[which], which == 0 ? a.k.stride : a.v.stride}.at(first, 0);
  }
  // Calls f with whether queries and outputs are aligned.
  template <class F> __device__ __forceinline__ void with_alignment(F f) const { f(Known<ALIGNED>()); }
  // Saves log sum e^s of a row, of which the largest score and the sum relative to that are known.
  __device__ __forceinline__ void save(int head, i64 row, float most, float total) const {
    a.lse[head * a.lse_stride + row] = most * a.scale + logf(total);
  }
};

// What backward kernels take.
template <class T> struct BackwardArguments {
  const uint2* tiles;
  Spans q_spans, k_spans;
  Rows<const T> q, k, v, dout;
  const float *lse, *delta;
  i64 lse_stride;
  Rows<T> dq, dk, dv;  // of dk and dv one may be null: nobody wants it
  int group, dim;
  float scale, scale2;  // the factor on scores, for powers of e and of 2
  bool causal;
  int window;
};

// How a tile of rows of D elements of 16 bits lies in shared memory. Chunks of 16 bytes are permuted within groups, by the row, so that
// neither copies nor ldmatrix meet a bank twice: where rows are whole spans of the banks (128 bytes), eight chunks by row % 8; where
// they are odd halves of it, four chunks by row / 2 % 4.
template <int D> struct Layout {
  static_assert(D % 32 == 0, "rows are halves of the banks' span");
  static constexpr int ROW_BYTES = 2 * D, GROUP = D % 64 == 0 ? 8 : 4;

  // The byte of chunk `chunk` of a row, `chunk` within its group.
  static __device__ __forceinline__ int place(int row, int chunk) {
    const int permuted = chunk / GROUP * GROUP + ((chunk % GROUP) ^ (GROUP == 8 ? row & 7 : row >> 1 & 3));
    return row * ROW_BYTES + permuted * 16;
  }

  // What this lane points to for ldmatrix, for rows from 0 and columns from 0: the fragments of a left operand (16 rows, 16 columns)
  // and, transposed, of a right one whose rows are the sum's index.
  static __device__ __forceinline__ int lane_down() {
    const int thread = threadIdx.x;
    return place(thread % 16, thread % 32 / 16);
  }
  // The fragments of a right operand whose columns are the sum's index: 16 rows, 16 columns.
  static __device__ __forceinline__ int lane_across() {
    const int thread = threadIdx.x;
    return place(thread % 32 / 16 * 8 + thread % 8, thread / 8 % 2);
  }
  // From there to row `row` (a multiple of 8) and column `column` (of 16). `lane` is the sum of a tile's start and one of the above.
  static __device__ __forceinline__ u32 fragment(u32 lane, int row, int column) {
    const int chunk = column / CHUNK;
    return (lane ^ (chunk % GROUP * 16)) + chunk / GROUP * GROUP * 16 + row * ROW_BYTES;
  }
};

// Brings ROWS rows of `dim` elements to shared memory; rows from `rows` on and columns from `dim` on become zero. ALIGNED: rows start
// on 16 bytes; the copies are asynchronous, the caller closes their group. Otherwise elements come one by one.
template <int D, int ROWS, int THREADS, bool ALIGNED>
__device__ __forceinline__ void fetch(u32 to, const Rows<const half_t> from, int rows, int dim) {
  using L = Layout<D>;
  constexpr int STEP = THREADS / L::GROUP, PASSES = (ROWS + STEP - 1) / STEP, GROUPS = D / CHUNK / L::GROUP;
  static_assert(STEP % 8 == 0, "a thread's rows are permuted alike");
  const int thread = thread_again(), row0 = thread / L::GROUP, chunk0 = thread % L::GROUP;
  const u32 place = to + L::place(row0, chunk0);
  const half_t* at = from.data + row0 * from.stride + chunk0 * CHUNK;
  if (ALIGNED && rows >= ROWS && dim == D) {  // nothing to leave out: most tiles
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
      if (ROWS % STEP != 0 && row0 + pass * STEP >= ROWS) break;
#pragma unroll
      for (int group = 0; group < GROUPS; group++) {
        copy_async_16(place + pass * STEP * L::ROW_BYTES + group * L::GROUP * 16, at + group * L::GROUP * CHUNK);
      }
      at += STEP * from.stride;
    }
    return;
  }
#pragma unroll 1
  for (int pass = 0; pass < PASSES; pass++) {
    const int row = row0 + pass * STEP;
    if (ROWS % STEP != 0 && row >= ROWS) break;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      const int left = row < rows ? dim - (chunk0 + group * L::GROUP) * CHUNK : 0;
      const half_t* source = left > 0 ? at + group * L::GROUP * CHUNK : from.data;
      const u32 target = place + pass * STEP * L::ROW_BYTES + group * L::GROUP * 16;
      if constexpr (ALIGNED) {
        copy_async_16(target, source, left > 0 ? min(left, CHUNK) * 2 : 0);
      } else {
        uint4 packed = {0, 0, 0, 0};
        u32* words = &packed.x;
#pragma unroll
        for (int e = 0; e < CHUNK; e++) {
          const u32 bits = e < left ? bits_of(source[e]) : 0;
          words[e / 2] |= bits << (e % 2 * 16);
        }
        store_shared_16(target, packed);
      }
    }
    at += STEP * from.stride;
  }
}

// A warp's 16 M rows of a tile as left operands of products over D: kept in registers, or read again each time.
template <int D, int M, bool KEEP> struct Left {
  u32 lane;  // what this lane points to in the warp's rows of the tile
  u32 kept[KEEP ? M : 1][KEEP ? D / 16 : 1][4];

  // The tile is in shared memory from `tile` on; `row` is the warp's first.
  __device__ __forceinline__ void take(u32 tile, int row) {
    lane = tile + row * Layout<D>::ROW_BYTES + Layout<D>::lane_down();
    if constexpr (KEEP) {
#pragma unroll
      for (int m = 0; m < M; m++) {
#pragma unroll
        for (int k = 0; k < D / 16; k++) load_matrix_x4(kept[m][k], Layout<D>::fragment(lane, m * 16, k * 16));
      }
    }
  }

  __device__ __forceinline__ void get(u32 (&out)[4], int m, int k) const {
    if constexpr (KEEP) {
#pragma unroll
      for (int i = 0; i < 4; i++) out[i] = kept[m][k][i];
    } else {
      load_matrix_x4(out, Layout<D>::fragment(lane, m * 16, k * 16));
    }
  }
};

template <int M, int N> __device__ __forceinline__ void clear(float (&x)[M][N][4]) {
#pragma unroll
  for (int m = 0; m < M; m++) {
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) x[m][n][e] = 0.0f;
    }
  }
}

// s += left right^T, for N rows of `right`; `at` is the start of these plus lane_across().
template <int D, int M, int N, bool KEEP>
__device__ __forceinline__ void add_scores(float (&s)[M][N / 8][4], const Left<D, M, KEEP>& left, u32 at) {
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    u32 a[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) left.get(a[m], m, k);
#pragma unroll
    for (int n = 0; n < N / 16; n++) {
      u32 b[4];
      load_matrix_x4(b, Layout<D>::fragment(at, n * 16, k * 16));
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_half(s[m][2 * n], a[m], b[0], b[1]);
        mma_half(s[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// sum += p right, p rounded to half_t, for N rows of `right`; `at` is the start of these plus lane_down().
template <int D, int M, int N>
__device__ __forceinline__ void add_rows(float (&sum)[M][D / 8][4], const float (&p)[M][N / 8][4], u32 at) {
#pragma unroll
  for (int k = 0; k < N / 16; k++) {
    u32 a[M][4];  // where the results of a product lie is where left operands do
#pragma unroll
    for (int m = 0; m < M; m++) {
      a[m][0] = pair_of<half_t>(p[m][2 * k][0], p[m][2 * k][1]);
      a[m][1] = pair_of<half_t>(p[m][2 * k][2], p[m][2 * k][3]);
      a[m][2] = pair_of<half_t>(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);
      a[m][3] = pair_of<half_t>(p[m][2 * k + 1][2], p[m][2 * k + 1][3]);
    }
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
      u32 b[4];
      load_matrix_x4_transposed(b, Layout<D>::fragment(at, k * 16, n * 16));
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_half(sum[m][2 * n], a[m], b[0], b[1]);
        mma_half(sum[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Calls hide(m, n, e) for each of a warp's 16 M x N results that lies outside its row's range. `range(row)`: of row `row` of the warp;
// `first`: the first column.
template <int M, int N, class RangeOf, class Hide>
__device__ __forceinline__ void for_hidden(int first, RangeOf range, Hide hide) {
  const int lane = thread_again() % 32;
#pragma unroll
  for (int m = 0; m < M; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Range visible = range(m * 16 + half * 8 + lane / 4);
      const u32 count = max(visible.end - visible.begin, 0), from = first + lane % 4 * 2 - visible.begin;
#pragma unroll
      for (int n = 0; n < N / 8; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          if (from + n * 8 + e >= count) hide(m, n, 2 * half + e);
        }
      }
    }
  }
}

// Writes a warp's 16 M x D results, row r times factor[r / 8], to the rows of `to`, by way of shared memory that is the warp's own from
// `slab` on (rows as in a tile), so that a store is 16 bytes of a row. Rows from `rows` on and columns from `dim` on are left out.
template <int D, int M, bool ALIGNED>
__device__ __forceinline__ void write_rows(const float (&sum)[M][D / 8][4], const float (&factor)[M][2], u32 slab, const Rows<half_t> to,
                                           int rows, int dim) {
  using L = Layout<D>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < M; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = m * 16 + half * 8 + lane / 4;
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        const float first = sum[m][n][2 * half] * factor[m][half], second = sum[m][n][2 * half + 1] * factor[m][half];
        store_shared_4(slab + L::place(row, n) + lane % 4 * 4, pair_of<half_t>(first, second));
      }
    }
  }
  __syncwarp();  // Hazard: lanes read what others wrote.
  constexpr int CHUNKS = D / CHUNK;
#pragma unroll
  for (int i = 0; i < 16 * M * CHUNKS / 32; i++) {
    const int id = lane + i * 32, row = id / CHUNKS, chunk = id % CHUNKS, left = dim - chunk * CHUNK;
    if (row >= rows || left <= 0) continue;
    const uint4 packed = load_shared_16(slab + L::place(row, chunk));
    half_t* target = to.data + row * to.stride + chunk * CHUNK;
    if constexpr (ALIGNED) {
      store_global_16(target, packed);
    } else {
      const u32 words[] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
      for (int e = 0; e < CHUNK; e++) {
        if (e < left) target[e] = of_bits<half_t>(static_cast<unsigned short>(words[e / 2] >> (e % 2 * 16)));
      }
    }
  }
  __syncwarp();  // Hazard: what is written next may take the same place.
}

}  // namespace attention
