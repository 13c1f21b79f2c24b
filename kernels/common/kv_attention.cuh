// What attention over paged caches is made of (kernels/kv_attention.cu): where sequences, pages and rows lie, and a warp's online
// softmax, on tensor cores and on the ordinary ones.
#pragma once

#include "elements.cuh"
#include "mma.cuh"
#include "shared_memory.cuh"

namespace kv_attention {

constexpr u32 PAGE = 256;  // tokens of a page, and of a split
constexpr int KEYS = 16;   // of a warp's tile: the depth of an mma
constexpr u32 WHOLE = 0xffffffff;
constexpr u32 MANY = 64;  // new tokens from which on a sequence is kernels/kv_prefill.cu's
static_assert(PAGE % KEYS == 0, "a tile of keys lies in one page");

// A sequence of a pass: its first row in q, how many tokens are new, how many lie before them in the cache, and its first row among
// those that are split; WHOLE if it is not.
struct alignas(16) Sequence {
  u32 row, fresh, past, part;

  // The keys that new token `token` sees.
  __device__ __forceinline__ u32 end(u32 token) const { return past + token + 1; }
  __device__ __forceinline__ u32 begin(u32 token, u32 window) const {
    return end(token) > window ? end(token) - window : 0;
  }
};

// One layer's part of a sequence's pages, for one key/value head: where its keys and values lie in each page, in elements.
struct Place {
  u64 keys, values;

  __device__ __forceinline__ Place(u32 layer, u32 kv_heads, u32 kv_head, u32 padded) {
    const u64 head = u64(PAGE) * padded;
    keys = (u64(layer) * 2 * kv_heads + kv_head) * head;
    values = keys + kv_heads * head;
  }
};

template <class T> __device__ __forceinline__ u32 padded_dim(u32 head_dim) {
  constexpr u32 CHUNK = 16 / sizeof(T);
  return (head_dim + CHUNK - 1) / CHUNK * CHUNK;
}

// Rows of up to DIM elements in shared memory, in chunks of 16 bytes: a row's eight chunks of a span of the banks (128 bytes) are permuted
// by the row, so that eight rows' same chunk, and eight chunks of one row, lie in different banks.
template <class T, int DIM> struct Rows {
  static constexpr int CHUNK = 16 / sizeof(T), CHUNKS = DIM / CHUNK, ROW_BYTES = DIM * sizeof(T);
  static_assert(CHUNKS % 8 == 0, "rows are whole spans of the banks");

  // The byte of a chunk of a row.
  static __device__ __forceinline__ int place(int row, int chunk) { return row * ROW_BYTES + (chunk ^ (row & 7)) * 16; }
  // Its element.
  static __device__ __forceinline__ int at(int row, int chunk) { return place(row, chunk) / static_cast<int>(sizeof(T)); }
  // From the address of a row's chunk 0 or 1 to the chunk `chunks` (even) on: as a constant but for one operation.
  static __device__ __forceinline__ u32 step(u32 from, int chunks) { return (from ^ (chunks % 8 * 16)) + chunks / 8 * 128; }
};

// What a row of the tile sees. Rows past the last see nothing.
struct RowTile {
  Sequence sequence;
  u32 first, count, group, window;

  __device__ __forceinline__ u32 token(u32 row) const { return (first + row) / group; }
  __device__ __forceinline__ u32 end(u32 row) const { return row < count ? sequence.end(token(row)) : 0; }
  __device__ __forceinline__ u32 begin(u32 row) const {
    return row < count ? sequence.begin(token(row), window) : 0;
  }
  // What all rows see.
  __device__ __forceinline__ u32 common_end() const { return end(0); }
  __device__ __forceinline__ u32 common_begin() const { return begin(count - 1); }
};

// The maximum so far made safe to subtract: a row that has seen nothing has none.
__device__ __forceinline__ float base_of(float top) { return top == -INFINITY ? 0.0f : top; }

// A warp's online softmax on tensor cores. Lane l holds rows l / 4 and l / 4 + 8, as mma has them.
template <int DIM> struct TensorCores {
  using T = half_t;
  using In = Rows<T, DIM>;
  static constexpr int ROWS = 16;
  static constexpr int SCRATCH_BYTES = 0;
  // Beyond this the queries' fragments take too many registers and are read again for each tile.
  static constexpr bool KEEP = DIM <= 128;

  u32 queries;  // what this lane points to
  int lane;
  float scale;
  u32 begin[2], end[2], common_begin, common_end;
  unsigned kept[KEEP ? DIM / 16 : 1][4];
  // Maxima; sums (of the probabilities as rounded, by the same operation: in all columns the same), outputs.
  float top[2], sum[4], acc[DIM / 8][4];

  __device__ __forceinline__ TensorCores(const T* queries, float*, const RowTile& rows, float scale, int lane)
      : queries(shared_address(queries) + In::place(lane % 16, lane / 16)),
        lane(lane),
        scale(scale),
        common_begin(rows.common_begin()),
        common_end(rows.common_end()),
        sum{},
        acc{} {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      begin[h] = rows.begin(lane / 4 + 8 * h);
      end[h] = rows.end(lane / 4 + 8 * h);
      top[h] = -INFINITY;
    }
    if constexpr (KEEP) {
#pragma unroll
      for (int k = 0; k < DIM / 16; k++) {
        load_matrix_x4(kept[k], In::step(this->queries, 2 * k));
      }
    }
  }

  // Takes in 16 keys and their values, from key `first` on.
  __device__ __forceinline__ void tile(const T* keys, const T* values, u32 first) {
    const u32 across = shared_address(keys) + In::place(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    float s[2][4] = {};
#pragma unroll
    for (int k = 0; k < DIM / 16; k++) {
      unsigned b[4];
      load_matrix_x4(b, In::step(across, 2 * k));
      if constexpr (KEEP) {
        mma_half(s[0], kept[k], b[0], b[1]);
        mma_half(s[1], kept[k], b[2], b[3]);
      } else {
        unsigned a[4];
        load_matrix_x4(a, In::step(queries, 2 * k));
        mma_half(s[0], a, b[0], b[1]);
        mma_half(s[1], a, b[2], b[3]);
      }
    }
    // Only where some row does not see some key.
    if (first < common_begin || first + KEYS > common_end) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int h = i / 2 % 2;
        const u32 key = first + i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (key < begin[h] || key >= end[h]) {
          s[i / 4][i % 4] = -INFINITY;
        }
      }
    }
    unsigned p[4];
    float keep[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float now = fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]), fmaxf(s[1][2 * h], s[1][2 * h + 1]));
      now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 1));
      now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 2));
      now = fmaxf(now * scale, top[h]);
      const float base = base_of(now);
      keep[h] = exp2_approx(top[h] - base);
      top[h] = now;
#pragma unroll
      for (int n = 0; n < 2; n++) {
        p[2 * n + h] = pair_of<half_t>(exp2_approx(fmaf(s[n][2 * h], scale, -base)),
                                       exp2_approx(fmaf(s[n][2 * h + 1], scale, -base)));
      }
    }
    // Maxima seldom rise: a factor of 1 is no factor.
    if (__any_sync(0xffffffff, keep[0] != 1.0f || keep[1] != 1.0f)) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        sum[e] *= keep[e / 2];
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
          acc[n][e] *= keep[e / 2];
        }
      }
    }
    mma_half(sum, p, HALF_ONES, HALF_ONES);
    const u32 down = shared_address(values) + In::place(lane % 16, lane / 16);
#pragma unroll
    for (int d = 0; d < DIM / 16; d++) {
      unsigned b[4];
      load_matrix_x4_transposed(b, In::step(down, 2 * d));
      mma_half(acc[2 * d], p, b[0], b[1]);
      mma_half(acc[2 * d + 1], p, b[2], b[3]);
    }
  }

  // The rows' maxima, sums and undivided outputs.
  __device__ __forceinline__ void give(float* tops, float* sums, float* out, int stride) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = lane / 4 + 8 * h;
      if (lane % 4 == 0) {
        tops[row] = top[h];
        sums[row] = sum[2 * h];
      }
#pragma unroll
      for (int n = 0; n < DIM / 8; n++) {
        const float pair[2] = {acc[n][2 * h], acc[n][2 * h + 1]};
        store<2>(out + row * stride + 8 * n + lane % 4 * 2, pair);
      }
    }
  }
};

// The same on the ordinary cores. Lane l finds the scores of key l % 16 with every other row from l / 16 on; then it holds DIM / 32
// columns of all rows' outputs.
template <int DIM> struct OrdinaryCores {
  using T = float;
  using In = Rows<T, DIM>;
  static constexpr int ROWS = 8;
  static constexpr int SCRATCH_BYTES = (ROWS * KEYS + ROWS) * 4;
  static constexpr int PACK = DIM / 32 < 4 ? DIM / 32 : 4, PACKS = DIM / 32 / PACK;

  const T* queries;
  float* scratch;  // the probabilities [ROWS][KEYS], and by what each row's output shrinks
  int lane;
  u32 count;
  float scale;
  u32 begin[ROWS / 2], end[ROWS / 2];
  float top[ROWS / 2], sum[ROWS / 2], acc[ROWS][PACKS][PACK];

  __device__ __forceinline__ OrdinaryCores(const T* queries, float* scratch, const RowTile& rows, float scale, int lane)
      : queries(queries), scratch(scratch), lane(lane), count(rows.count), scale(scale), acc{} {
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++) {
      begin[i] = rows.begin(lane / 16 + 2 * i);
      end[i] = rows.end(lane / 16 + 2 * i);
      top[i] = -INFINITY;
      sum[i] = 0;
    }
  }

  __device__ __forceinline__ void tile(const T* keys, const T* values, u32 first) {
    const int key = lane % 16, odd = lane / 16;
    float s[ROWS / 2] = {};
#pragma unroll 4
    for (int chunk = 0; chunk < In::CHUNKS; chunk++) {
      float k[4];
      load<4>(keys + In::at(key, chunk), k);
#pragma unroll
      for (int i = 0; i < ROWS / 2; i++) {
        if (2 * i < count) {
          float q[4];
          load<4>(queries + In::at(odd + 2 * i, chunk), q);
#pragma unroll
          for (int e = 0; e < 4; e++) {
            s[i] = fmaf(q[e], k[e], s[i]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++) {
      const bool seen = first + key >= begin[i] && first + key < end[i];
      const float x = seen ? s[i] * scale : -INFINITY;
      float now = fmaxf(top[i], x);
#pragma unroll
      for (int distance = 8; distance > 0; distance /= 2) {
        now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, distance));
      }
      const float base = base_of(now), keep = exp2_approx(top[i] - base), p = exp2_approx(x - base);
      top[i] = now;
      sum[i] = fmaf(sum[i], keep, p);
      scratch[(odd + 2 * i) * KEYS + key] = p;
      if (key == 0) {
        scratch[ROWS * KEYS + odd + 2 * i] = keep;
      }
    }
    __syncwarp();  // All lanes' probabilities are read by all.
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
      const float keep = scratch[ROWS * KEYS + row];
#pragma unroll
      for (int i = 0; i < PACKS * PACK; i++) {
        acc[row][i / PACK][i % PACK] *= keep;
      }
    }
#pragma unroll
    for (int four = 0; four < KEYS; four += 4) {
      float v[4][PACKS][PACK];
#pragma unroll
      for (int i = 0; i < 4 * PACKS; i++) {
        load<PACK>(values + column(four + i / PACKS, i % PACKS), v[i / PACKS][i % PACKS]);
      }
#pragma unroll
      for (int row = 0; row < ROWS; row++) {
        if (row < count) {
          float p[4];
          load<4>(scratch + row * KEYS + four, p);
#pragma unroll
          for (int i = 0; i < 4 * PACKS * PACK; i++) {
            const int at = i / (PACKS * PACK), pack = i / PACK % PACKS, e = i % PACK;
            acc[row][pack][e] = fmaf(p[at], v[at][pack][e], acc[row][pack][e]);
          }
        }
      }
    }
  }

  // Where this lane's pack of columns of a row of values lies.
  __device__ __forceinline__ int column(int row, int pack) const {
    const int element = (lane + 32 * pack) * PACK;
    return In::at(row, element / 4) + element % 4;
  }

  __device__ __forceinline__ void give(float* tops, float* sums, float* out, int stride) {
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++) {
#pragma unroll
      for (int distance = 8; distance > 0; distance /= 2) {
        sum[i] += __shfl_xor_sync(0xffffffff, sum[i], distance);
      }
      if (lane % 16 == 0) {
        tops[lane / 16 + 2 * i] = top[i];
        sums[lane / 16 + 2 * i] = sum[i];
      }
    }
#pragma unroll
    for (int i = 0; i < ROWS * PACKS; i++) {
      store<PACK>(out + i / PACKS * stride + (lane + 32 * (i % PACKS)) * PACK, acc[i / PACKS][i % PACKS]);
    }
  }
};

}  // namespace kv_attention
