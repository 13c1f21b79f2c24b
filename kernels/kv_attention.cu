// Attention of new tokens over paged caches of keys and values (inference only), which kernels/kv_append.cu fills. Sequences with MANY
// new tokens or more are left to kernels/kv_prefill.cu.
//
//   o = softmax(scale q K^T) V over the keys that a token sees: itself and those before it, at most `window` in all
//
// Shapes: q, o [tokens, heads * head_dim], the new tokens of all sequences one after the other. A page holds 256 tokens of one
// sequence: [layers][keys, values][kv_heads][256][padded], padded being head_dim up to a multiple of 16 bytes; what is padded is
// never read. Where a sequence's rows and pages are stands in a table in device memory (Sequence, pages), so that one table serves
// all layers, and a captured launch finds the lengths of the day.
//
// fwd: a block takes one key/value head and a tile of rows of one sequence, a row being one query head of one new token: all query
// heads of a key/value head share what is read. Its warps take tiles of 16 keys in turn, each through a ring of its own by
// cp.async, with an online softmax in base 2; no warp waits for another before the end, where they are merged in order. bf16:
// 16 rows on tensor cores, the probabilities rounded to bf16 and summed as rounded; f32: 8 rows on the ordinary cores.
// Sequences with few new tokens are split over blocks by pages, whatever the device: partial outputs (not yet divided) with
// their maximum and sum, which merge adds in the order of the pages. With more new tokens a block walks all pages itself.
//
// Everything is overwritten, nothing added to. Deterministic, and a row's bits depend on nothing but its own sequence: which warp
// takes a key follows from the key's place alone, and what a row does not see leaves its maximum, sum and output as they were.
// Memory-bound where tokens are few: each page is read once for each tile of rows. 64 KiB of rings a block (32 KiB for heads of 64
// in bf16): two blocks on an A100, with 64 KiB under way. A grid is as large as the tables may need; a block that finds nothing to do
// leaves at once.

#include "common/kv_attention.cuh"

using namespace kv_attention;

constexpr int STAGES = 2;  // of a warp's ring
constexpr int MAX_WARPS = 4;
constexpr int RING_BYTES = 64 << 10;  // of all warps: fits the 99 KiB of a block on sm_86 and sm_89 beside the queries

// A block's warps and shared memory: the queries, a ring for each warp (later its outputs), maxima and sums, scratch.
template <class Math, int DIM> struct Block {
  using T = typename Math::T;
  static constexpr int STAGE = 2 * KEYS * DIM;  // elements: keys, values
  static constexpr int RING = STAGES * STAGE;
  static constexpr int FIT = RING_BYTES / (RING * static_cast<int>(sizeof(T)));
  static constexpr int WARPS = FIT < MAX_WARPS ? FIT : MAX_WARPS, THREADS = 32 * WARPS;
  // The outputs on their way out: 8 floats of padding keep the banks of rows apart.
  static constexpr int STRIDE = DIM + 8;
  static_assert(WARPS >= 1, "a ring fits");
  static_assert(Math::ROWS * STRIDE * 4 <= RING * sizeof(T), "a warp's outputs fit its ring");

  static constexpr int QUERIES = 0, RINGS = QUERIES + Math::ROWS * DIM * sizeof(T),
                       TOPS = RINGS + WARPS * RING * sizeof(T), SUMS = TOPS + WARPS * Math::ROWS * 4,
                       SCRATCH = SUMS + WARPS * Math::ROWS * 4;
};

// How a warp brings tiles of 16 keys and their values from pages; what lies past the last key or outside the head becomes zero. A lane has
// one chunk of eight and every fourth row.
template <class T, int DIM> struct Copies {
  using In = Rows<T, DIM>;
  static constexpr int GROUPS = In::CHUNKS / 8;

  u32 to, from, step;  // bytes from the start of a tile, and to the fourth row on
  int row;
  int bytes[GROUPS];

  __device__ __forceinline__ Copies(u32 head_dim, int lane) : row(lane / 8) {
    const u32 row_bytes = padded_dim<T>(head_dim) * sizeof(T);
    to = In::place(row, lane % 8);
    from = row * row_bytes + lane % 8 * 16;
    step = 4 * row_bytes;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      const int left = static_cast<int>(head_dim * sizeof(T)) - (lane % 8 + 8 * group) * 16;
      bytes[group] = min(max(left, 0), 16);
    }
  }

  // `keys` and `values`: those of the tile's first key in the page; `count` of them are there.
  __device__ __forceinline__ void bring(u32 stage, const T* keys, const T* values, int count) const {
    const char *k = reinterpret_cast<const char*>(keys) + from, *v = reinterpret_cast<const char*>(values) + from;
    const u32 target = stage + to;
#pragma unroll
    for (int pass = 0; pass < KEYS / 4; pass++) {
      const bool is_there = row + 4 * pass < count;
#pragma unroll
      for (int group = 0; group < GROUPS; group++) {
        const int some = is_there ? bytes[group] : 0;
        const u32 at = (target ^ (pass % 2 * 64)) + pass * 4 * In::ROW_BYTES + group * 128;
        copy_async_16(at, k + group * 128, some);
        copy_async_16(at + KEYS * In::ROW_BYTES, v + group * 128, some);
      }
      k += step;
      v += step;
    }
  }
};

// The queries of a tile's rows; zeros outside.
template <class T, int DIM, int ROWS>
__device__ __forceinline__ void fetch_queries(T* to, const T* __restrict__ q, const RowTile& rows, u32 heads, u32 kv_head,
                                              u32 head_dim, bool packed) {
  using In = Rows<T, DIM>;
  for (int id = threadIdx.x; id < ROWS * In::CHUNKS; id += blockDim.x) {
    const int row = id / In::CHUNKS, chunk = id % In::CHUNKS;
    const int left = static_cast<int>(head_dim) - chunk * In::CHUNK;
    const int count = row < rows.count ? min(max(left, 0), In::CHUNK) : 0;
    const u32 head = kv_head * rows.group + (rows.first + row) % rows.group;
    const T* from = q + ((u64(rows.sequence.row) + rows.token(row)) * heads + head) * head_dim + chunk * In::CHUNK;
    T* at = to + In::at(row, chunk);
    if (packed) {
      *reinterpret_cast<uint4*>(at) = count > 0 ? *reinterpret_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
    } else {
#pragma unroll
      for (int e = 0; e < In::CHUNK; e++) {
        at[e] = e < count ? from[e] : from_f32<T>(0);
      }
    }
  }
}

// Writes up to four elements of a row of length head_dim, from `column` on.
template <class T>
__device__ __forceinline__ void write_four(T* row, u32 column, u32 head_dim, const float (&x)[4], bool packed) {
  if (packed) {
    if (column < head_dim) {
      store<4>(row + column, x);
    }
    return;
  }
#pragma unroll
  for (int e = 0; e < 4; e++) {
    if (column + e < head_dim) {
      row[column + e] = from_f32<T>(x[e]);
    }
  }
}

// Which sequence row tile `tile` belongs to, and which of its tiles it is. Sequence i's tiles begin at i + (rows of tiles before it) / ROWS,
// tokens_before[i] being the tokens that these are of: so there is room for all of them, and some are empty. Every warp finds it for itself.
template <int ROWS>
__device__ __forceinline__ uint2 find_tile(const u32* __restrict__ tokens_before, u32 count, u32 group, u32 tile) {
  u32 before = 0;
  u32 start = 0;
  for (u32 first = 0; first < count; first += 32) {
    const u32 i = first + threadIdx.x % 32;
    const u32 begin = i < count ? i + tokens_before[i] * group / ROWS : 0xffffffff;
    const unsigned votes = __ballot_sync(0xffffffff, begin <= tile);
    if (votes == 0) {
      break;
    }
    before += __popc(votes);
    start = __shfl_sync(0xffffffff, begin, 31 - __clz(votes));
  }
  return {before - 1, tile - start};
}

template <class Math, int DIM>
__device__ __forceinline__ void forward(const typename Math::T* __restrict__ q, const Sequence* __restrict__ sequences,
                                        const u32* __restrict__ tokens_before,
                                        const typename Math::T* const* __restrict__ pages, typename Math::T* __restrict__ out,
                                        float* __restrict__ parts, float* __restrict__ marks, u32 count,
                                        u32 page_capacity, u32 part_rows, u32 layer, u32 kv_heads, u32 group,
                                        u32 head_dim, u32 window, float scale, u32 packed) {
  using T = typename Math::T;
  using B = Block<Math, DIM>;
  constexpr u32 ROWS = Math::ROWS;
  extern __shared__ __align__(128) unsigned char shared[];  // spans of the banks begin where rows do

  const uint2 found = find_tile<ROWS>(tokens_before, count, group, blockIdx.x);
  RowTile rows{sequences[found.x], found.y * ROWS, 0, group, window};
  const Sequence sequence = rows.sequence;
  if (sequence.fresh >= MANY || rows.first >= sequence.fresh * group) {
    return;
  }
  rows.count = min(ROWS, sequence.fresh * group - rows.first);
  // The keys that the tile sees, and of these the block's.
  u32 begin = rows.begin(0), end = rows.end(rows.count - 1);
  const u32 first_page = sequence.begin(0, window) / PAGE, last_page = (sequence.end(sequence.fresh - 1) - 1) / PAGE;
  const bool whole = sequence.part == WHOLE, parted = !whole && first_page < last_page;
  if (whole) {
    if (blockIdx.y > 0) {
      return;
    }
  } else {
    const u32 page = first_page + blockIdx.y;
    begin = max(begin, page * PAGE);
    end = min(end, page * PAGE + PAGE);
    if (begin >= end) {
      return;
    }
  }

  const u32 heads = kv_heads * group, kv_head = blockIdx.z, padded = padded_dim<T>(head_dim);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  T* queries = reinterpret_cast<T*>(shared + B::QUERIES);
  T* ring = reinterpret_cast<T*>(shared + B::RINGS) + warp * B::RING;
  float* tops = reinterpret_cast<float*>(shared + B::TOPS);
  float* sums = reinterpret_cast<float*>(shared + B::SUMS);
  float* scratch = reinterpret_cast<float*>(shared + B::SCRATCH + warp * Math::SCRATCH_BYTES);
  const T* const* own_pages = pages + u64(found.x) * page_capacity;
  const Place place(layer, kv_heads, kv_head, padded);

  const Copies<T, DIM> copies(head_dim, lane);
  // This warp's tiles: every B::WARPS-th, counted from the first key of the cache.
  const u32 last = (end + KEYS - 1) / KEYS, first = begin / KEYS;
  u32 tile = first + (warp + B::WARPS - first % B::WARPS) % B::WARPS;
  const auto bring = [&](u32 tile, int stage) {
    if (tile < last) {
      const u32 key = tile * KEYS;
      const T* at = own_pages[key / PAGE] + key % PAGE * padded;
      copies.bring(shared_address(ring + stage * B::STAGE), at + place.keys, at + place.values, end - key);
    }
    copy_async_commit();
  };
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) {
    bring(tile + stage * B::WARPS, stage);
  }
  fetch_queries<T, DIM, ROWS>(queries, q, rows, heads, kv_head, head_dim, packed);
  __syncthreads();  // All warps read the queries that all have brought.
  Math math(queries, scratch, rows, scale, lane);
  for (int stage = 0; tile < last; tile += B::WARPS, stage = (stage + 1) % STAGES) {
    bring(tile + (STAGES - 1) * B::WARPS, (stage + STAGES - 1) % STAGES);
    copy_async_wait<STAGES - 1>();
    __syncwarp();  // The other lanes' copies of this stage are there too.
    math.tile(ring + stage * B::STAGE, ring + stage * B::STAGE + KEYS * DIM, tile * KEYS);
    __syncwarp();  // All lanes have read the stage before it is filled again.
  }
  // The ring takes the outputs; nothing that was asked for may still arrive there.
  copy_async_wait<0>();
  __syncwarp();
  math.give(tops + warp * ROWS, sums + warp * ROWS, reinterpret_cast<float*>(ring), B::STRIDE);
  __syncthreads();  // The warps' outputs are read by all.

  const int fours = padded / 4;
  for (int id = threadIdx.x; id < rows.count * fours; id += B::THREADS) {
    const u32 row = id / fours, column = id % fours * 4;
    float top = tops[row];
#pragma unroll
    for (int w = 1; w < B::WARPS; w++) {
      top = fmaxf(top, tops[w * ROWS + row]);
    }
    const float base = base_of(top);
    float sum = 0, x[4] = {};
#pragma unroll
    for (int w = 0; w < B::WARPS; w++) {
      const float weight = exp2_approx(tops[w * ROWS + row] - base);
      float y[4];
      load<4>(reinterpret_cast<float*>(shared + B::RINGS + w * B::RING * sizeof(T)) + row * B::STRIDE + column, y);
      sum = fmaf(weight, sums[w * ROWS + row], sum);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        x[e] = fmaf(weight, y[e], x[e]);
      }
    }
    const u32 token = rows.token(row), head = kv_head * group + (rows.first + row) % group;
    if (parted) {
      const u64 at = (u64(blockIdx.y) * part_rows + sequence.part + token) * heads + head;
      store<4>(parts + at * padded + column, x);
      if (column == 0) {
        const float mark[2] = {top, sum};
        store<2>(marks + 2 * at, mark);
      }
    } else {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        x[e] /= sum;
      }
      write_four(out + ((u64(sequence.row) + token) * heads + head) * head_dim, column, head_dim, x, packed);
    }
  }
}

// Adds up what the pages of split sequences gave, in their order. A thread has four columns of one head of token blockIdx.y of
// sequence blockIdx.z.
template <class T>
__device__ __forceinline__ void merge(const float* __restrict__ parts, const float* __restrict__ marks,
                                      const Sequence* __restrict__ sequences, T* __restrict__ out, u32 part_rows,
                                      u32 heads, u32 head_dim, u32 window, u32 packed) {
  const Sequence sequence = sequences[blockIdx.z];
  const u32 token = blockIdx.y;
  if (sequence.part == WHOLE || token >= sequence.fresh) {
    return;
  }
  const u32 first_page = sequence.begin(0, window) / PAGE;
  if (first_page == (sequence.end(sequence.fresh - 1) - 1) / PAGE) {
    return;  // Of one page alone the output is there already.
  }
  const u32 padded = padded_dim<T>(head_dim), fours = padded / 4, id = blockIdx.x * blockDim.x + threadIdx.x;
  const u32 head = id / fours, column = id % fours * 4;
  if (head >= heads) {
    return;
  }
  const u32 first = sequence.begin(token, window) / PAGE - first_page, last = (sequence.end(token) - 1) / PAGE - first_page;
  const u64 step = u64(part_rows) * heads, start = (u64(sequence.part) + token) * heads + head;
  float top = -INFINITY;
#pragma unroll 4
  for (u32 part = first; part <= last; part++) {
    top = fmaxf(top, marks[2 * (part * step + start)]);
  }
  const float base = base_of(top);
  float sum = 0, x[4] = {};
#pragma unroll 4
  for (u32 part = first; part <= last; part++) {
    const u64 at = part * step + start;
    float mark[2], y[4];
    load<2>(marks + 2 * at, mark);
    load<4>(parts + at * padded + column, y);
    const float weight = exp2_approx(mark[0] - base);
    sum = fmaf(weight, mark[1], sum);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      x[e] = fmaf(weight, y[e], x[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < 4; e++) {
    x[e] /= sum;
  }
  write_four(out + ((u64(sequence.row) + token) * heads + head) * head_dim, column, head_dim, x, packed);
}

#define FORWARD(NAME, MATH, DIM)                                                                                      \
  extern "C" __global__ __launch_bounds__(Block<MATH<DIM>, DIM>::THREADS) void kv_attention_fwd_##NAME##_##DIM(       \
      const MATH<DIM>::T* q, const Sequence* sequences, const u32* tokens_before, const MATH<DIM>::T* const* pages,   \
      MATH<DIM>::T* out, float* parts, float* marks, u32 count, u32 page_capacity, u32 part_rows, u32 layer,          \
      u32 kv_heads, u32 group, u32 head_dim, u32 window, float scale, u32 packed) {                                   \
    forward<MATH<DIM>, DIM>(q, sequences, tokens_before, pages, out, parts, marks, count, page_capacity, part_rows,   \
                            layer, kv_heads, group, head_dim, window, scale, packed);                                 \
  }
#ifndef WARPTUNE_F16
FORWARD(f32, OrdinaryCores, 64)
FORWARD(f32, OrdinaryCores, 128)
FORWARD(f32, OrdinaryCores, 256)
#endif
#define ALL_TENSOR_CORES(HALF)    \
  FORWARD(HALF, TensorCores, 64)  \
  FORWARD(HALF, TensorCores, 128) \
  FORWARD(HALF, TensorCores, 256)
OF_HALF(ALL_TENSOR_CORES)

#define MERGE(NAME, T)                                                                                                \
  extern "C" __global__ __launch_bounds__(128) void kv_attention_merge_##NAME(                                        \
      const float* parts, const float* marks, const Sequence* sequences, T* out, u32 part_rows, u32 heads,            \
      u32 head_dim, u32 window, u32 packed) {                                                                         \
    merge(parts, marks, sequences, out, part_rows, heads, head_dim, window, packed);                                  \
  }
OF_TYPES(MERGE)
