// Attention in f32 on the ordinary cores, forward and backward: plain tiles, for activations in f32.
//
// A block of 256 threads has 64 rows of its own (queries; keys for the gradients of keys and values) and walks over the 64-row tiles of
// the others that the mask leaves. A thread has 4 x 4 of a tile of scores and, for each 64 columns of a head, 4 x 4 of each
// sum. Operands pass through shared memory: slices of 16 columns, transposed, for scores, whole 64 x 64 pieces for sums. What an
// own row is multiplied with comes from the caches again for each tile: the ordinary cores are slow enough for that.
#pragma once

#include "attention.cuh"

namespace attention_f32 {

using attention::BackwardArguments;
using attention::ForwardArguments;
using attention::i64;
using attention::LOG2_E;
using attention::Range;
using attention::Rows;
using attention::Sequence;

constexpr int TILE = 64, SLICE = 16, THREADS = 256, EACH = 4;
constexpr int STRIDE = TILE + 4;  // keeps rows of float4 aligned and apart in the banks
static_assert(TILE * TILE == THREADS * EACH * EACH, "the threads cover a tile");

struct Shared {
  float own[SLICE][STRIDE], other[SLICE][STRIDE];
  float left[TILE][STRIDE];   // transposed: [other row][own row]
  float right[TILE][STRIDE];  // [other row][column]
};

// This thread's first row and column.
__device__ __forceinline__ int first_row() { return threadIdx.x / (TILE / EACH) * EACH; }
__device__ __forceinline__ int first_column() { return threadIdx.x % (TILE / EACH) * EACH; }

__device__ __forceinline__ void add_products(float (&sum)[EACH][EACH], const float* left, const float* right) {
  const float4 a = *reinterpret_cast<const float4*>(left + first_row());
  const float4 b = *reinterpret_cast<const float4*>(right + first_column());
  const float rows[] = {a.x, a.y, a.z, a.w}, columns[] = {b.x, b.y, b.z, b.w};
#pragma unroll
  for (int r = 0; r < EACH; r++) {
#pragma unroll
    for (int c = 0; c < EACH; c++) sum[r][c] = fmaf(rows[r], columns[c], sum[r][c]);
  }
}

// 16 columns of 64 rows, transposed; zeros from row `rows` and column `dim` on.
__device__ __forceinline__ void fetch_slice(float (&slice)[SLICE][STRIDE], const Rows<const float>& from, int column0, int rows,
                                            int dim) {
#pragma unroll
  for (int i = 0; i < TILE * SLICE / THREADS; i++) {
    const int id = threadIdx.x + i * THREADS, row = id / SLICE, column = id % SLICE;
    slice[column][row] = row < rows && column0 + column < dim ? from.data[row * from.stride + column0 + column] : 0.0f;
  }
}

// scores = own other^T.
__device__ __forceinline__ void product(float (&scores)[EACH][EACH], Shared& shared, const Rows<const float>& own, int own_rows,
                                        const Rows<const float>& other, int other_rows, int dim) {
#pragma unroll
  for (int r = 0; r < EACH; r++) {
#pragma unroll
    for (int c = 0; c < EACH; c++) scores[r][c] = 0.0f;
  }
#pragma unroll 1
  for (int column = 0; column < dim; column += SLICE) {
    __syncthreads();  // Hazard: the slices before may still be read.
    fetch_slice(shared.own, own, column, own_rows, dim);
    fetch_slice(shared.other, other, column, other_rows, dim);
    __syncthreads();  // Hazard: the slices are read by other threads than wrote them.
#pragma unroll
    for (int i = 0; i < SLICE; i++) add_products(scores, shared.own[i], shared.other[i]);
  }
}

// sum += p other, over the PIECES pieces of 64 columns.
template <int PIECES>
__device__ __forceinline__ void accumulate(float (&sum)[PIECES][EACH][EACH], Shared& shared, const float (&p)[EACH][EACH],
                                           const Rows<const float>& other, int other_rows, int dim) {
  __syncthreads();  // Hazard: the left operand before may still be read.
#pragma unroll
  for (int r = 0; r < EACH; r++) {
#pragma unroll
    for (int c = 0; c < EACH; c++) shared.left[first_column() + c][first_row() + r] = p[r][c];
  }
#pragma unroll
  for (int piece = 0; piece < PIECES; piece++) {
    __syncthreads();  // Hazard: the piece before may still be read.
#pragma unroll
    for (int i = 0; i < TILE * TILE / THREADS; i++) {
      const int id = threadIdx.x + i * THREADS, row = id / TILE, column = id % TILE, across = piece * TILE + column;
      shared.right[row][column] = row < other_rows && across < dim ? other.data[row * other.stride + across] : 0.0f;
    }
    __syncthreads();  // Hazard: both operands are read by other threads than wrote them.
#pragma unroll 8
    for (int i = 0; i < TILE; i++) add_products(sum[piece], shared.left[i], shared.right[i]);
  }
}

// Writes this thread's sums, row r times factor[r].
template <int PIECES>
__device__ __forceinline__ void write(const float (&sum)[PIECES][EACH][EACH], const float (&factor)[EACH], const Rows<float>& to,
                                      int rows, int dim) {
#pragma unroll
  for (int piece = 0; piece < PIECES; piece++) {
#pragma unroll
    for (int r = 0; r < EACH; r++) {
#pragma unroll
      for (int c = 0; c < EACH; c++) {
        const int row = first_row() + r, column = piece * TILE + first_column() + c;
        if (row < rows && column < dim) to.data[row * to.stride + column] = sum[piece][r][c] * factor[r];
      }
    }
  }
}

// `from` says where the block's sequence, keys and values are (attention::Packed).
template <int PIECES, class From, class Arguments>
__device__ __forceinline__ void forward(const From& from, const Arguments& a) {
  __shared__ __align__(16) Shared shared;
  const int head = blockIdx.y, kv_head = head / a.group;
  const Sequence seq = from.sequence();
  const int rows = min(seq.queries - seq.first, TILE);
  const int begin = seq.keys_of(seq.first).begin / TILE * TILE, end = seq.keys_of(seq.first + rows - 1).end;
  const Rows<const float> q = a.q.at(seq.q_begin + seq.first, head * a.dim);
  const typename From::Stream stream = from.stream(seq, kv_head, 0);

  const float scale2 = a.scale2;
  float most[EACH], total[EACH], sum[PIECES][EACH][EACH] = {};
#pragma unroll
  for (int r = 0; r < EACH; r++) {
    most[r] = -INFINITY;
    total[r] = 0.0f;
  }
#pragma unroll 1
  for (int first = begin; first < end; first += TILE) {
    const int others = min(seq.keys - first, TILE);
    float s[EACH][EACH];
    product(s, shared, q, rows, from.rows(stream, 0, first), others, a.dim);
#pragma unroll
    for (int r = 0; r < EACH; r++) {
      const Range visible = seq.keys_of(seq.first + first_row() + r);
      float top = most[r];
#pragma unroll
      for (int c = 0; c < EACH; c++) {
        const int key = first + first_column() + c;
        if (key < visible.begin || key >= visible.end) s[r][c] = -INFINITY;
        top = fmaxf(top, s[r][c]);
      }
      // The 16 threads of a row are half a warp.
#pragma unroll
      for (int distance = 8; distance > 0; distance /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, distance));
      // A row that has seen nothing yet keeps p = 0.
      const float base = top == -INFINITY ? 0.0f : top;
      const float shrink = exp2_approx((most[r] - base) * scale2);
      most[r] = top;
      total[r] *= shrink;
#pragma unroll
      for (int c = 0; c < EACH; c++) {
        s[r][c] = exp2_approx((s[r][c] - base) * scale2);
        total[r] += s[r][c];
      }
#pragma unroll
      for (int piece = 0; piece < PIECES; piece++) {
#pragma unroll
        for (int c = 0; c < EACH; c++) sum[piece][r][c] *= shrink;
      }
    }
    accumulate<PIECES>(sum, shared, s, from.rows(stream, 1, first), others, a.dim);
  }

  float inverse[EACH];
#pragma unroll
  for (int r = 0; r < EACH; r++) {
#pragma unroll
    for (int distance = 8; distance > 0; distance /= 2) total[r] += __shfl_xor_sync(0xffffffff, total[r], distance);
    // Who sees nothing gets nothing.
    inverse[r] = total[r] == 0.0f ? 0.0f : 1.0f / total[r];
    const int row = first_row() + r;
    if (first_column() == 0 && row < rows) {
      from.save(head, seq.q_begin + seq.first + row, most[r], total[r]);
    }
  }
  write<PIECES>(sum, inverse, a.out.at(seq.q_begin + seq.first, head * a.dim), rows, a.dim);
}

template <int PIECES> __device__ __forceinline__ void forward(const ForwardArguments<float>& a) {
  forward<PIECES>(attention::Packed<float, false>{a}, a);
}

// dk and dv of a tile of keys (OWN_KEYS), or dq of a tile of queries: attention_backward.cuh has the scheme.
template <int PIECES, bool OWN_KEYS> __device__ __forceinline__ void backward(const BackwardArguments<float>& a) {
  __shared__ __align__(16) Shared shared;
  const bool want_ds = !OWN_KEYS || a.dk.data != nullptr, want_p = OWN_KEYS && a.dv.data != nullptr;
  const int kv_head = OWN_KEYS ? blockIdx.y : blockIdx.y / a.group;
  const int first_head = OWN_KEYS ? kv_head * a.group : blockIdx.y, heads = OWN_KEYS ? a.group : 1;
  const Sequence seq = Sequence::of_tile(a.tiles, a.q_spans, a.k_spans, a.causal, a.window);
  const int rows = min((OWN_KEYS ? seq.keys : seq.queries) - seq.first, TILE), others = OWN_KEYS ? seq.queries : seq.keys;
  const auto range = [&](int row) {
    return OWN_KEYS ? seq.queries_of(seq.first + row) : seq.keys_of(seq.first + row);
  };
  const int begin = range(0).begin / TILE * TILE, end = range(rows - 1).end;
  const Rows<const float> k = a.k.at(seq.k_begin, kv_head * a.dim), v = a.v.at(seq.k_begin, kv_head * a.dim);

  const float scale2 = a.scale2;
  float sum_ds[PIECES][EACH][EACH] = {}, sum_p[OWN_KEYS ? PIECES : 1][EACH][EACH] = {};
#pragma unroll 1
  for (int head = first_head; head < first_head + heads; head++) {
    const Rows<const float> q = a.q.at(seq.q_begin, head * a.dim), dout = a.dout.at(seq.q_begin, head * a.dim);
    const float* lse = a.lse + head * a.lse_stride + seq.q_begin;
    const float* delta = a.delta + head * a.lse_stride + seq.q_begin;
#pragma unroll 1
    for (int first = begin; first < end; first += TILE) {
      const int there = min(others - first, TILE);
      const Rows<const float> u = (OWN_KEYS ? q : k).at(first, 0), w = (OWN_KEYS ? dout : v).at(first, 0);
      // Zeros where nobody looks, and in rows and columns that are not there.
      const auto visible = [&](int r, int c) {
        const Range columns = range(first_row() + r);
        const int column = first + first_column() + c;
        return first_row() + r < rows && column >= columns.begin && column < columns.end;
      };
      const auto query = [&](int r, int c) { return OWN_KEYS ? first + first_column() + c : seq.first + first_row() + r; };
      float p[EACH][EACH];
      product(p, shared, (OWN_KEYS ? k : q).at(seq.first, 0), rows, u, there, a.dim);
#pragma unroll
      for (int r = 0; r < EACH; r++) {
#pragma unroll
        for (int c = 0; c < EACH; c++) {
          p[r][c] = visible(r, c) ? exp2_approx(fmaf(p[r][c], scale2, -lse[query(r, c)] * LOG2_E)) : 0.0f;
        }
      }
      if constexpr (OWN_KEYS) {
        if (want_p) accumulate<PIECES>(sum_p, shared, p, w, there, a.dim);
      }
      if (want_ds) {
        float ds[EACH][EACH];
        product(ds, shared, (OWN_KEYS ? v : dout).at(seq.first, 0), rows, w, there, a.dim);
#pragma unroll
        for (int r = 0; r < EACH; r++) {
#pragma unroll
          for (int c = 0; c < EACH; c++) ds[r][c] = visible(r, c) ? p[r][c] * (ds[r][c] - delta[query(r, c)]) : 0.0f;
        }
        accumulate<PIECES>(sum_ds, shared, ds, u, there, a.dim);
      }
    }
  }

  const i64 row = (OWN_KEYS ? seq.k_begin : seq.q_begin) + seq.first;
  const float scales[] = {a.scale, a.scale, a.scale, a.scale}, ones[] = {1.0f, 1.0f, 1.0f, 1.0f};
  const Rows<float>& to = OWN_KEYS ? a.dk : a.dq;
  if (want_ds) write<PIECES>(sum_ds, scales, to.at(row, (OWN_KEYS ? kv_head : first_head) * a.dim), rows, a.dim);
  if constexpr (OWN_KEYS) {
    if (want_p) write<PIECES>(sum_p, ones, a.dv.at(row, kv_head * a.dim), rows, a.dim);
  }
}

}  // namespace attention_f32
