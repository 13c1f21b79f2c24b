// Output projection and cross-entropy in one: the loss and both gradients, a chunk of rows at a time.
//
//   l = x W^T,  p = softmax(l)              for the rows with a label, which are gathered first
//   loss = sum over rows of (log sum exp l - l[label]) / denominator
//   g = (p - onehot(label)) / denominator,  dx = g W,  dW = sum over chunks of g^T x
//
// Shapes: x, dx [total, dim]; W, dW [vocab, dim]; labels u32 [total]; l, g [rows of a chunk, ld] with ld >= vocab. What is gathered, by
// rank among the rows with a label: rows (their indices), targets (their labels), the x of each, losses (f64).
// The host does not know how many rows have a label: `count` lies on the device, grids are those of all rows, and what lies past
// the count leaves at once. A label outside the vocabulary makes the loss, and the gradient of its row, not a number.
// Saved for backward: dx of the gathered rows and dW, which the forward makes while a chunk's logits are at hand; the backward only
// scales and scatters. dW is overwritten by the first chunk and added to by the others, in order; all else is overwritten.
// Deterministic: chunks, tiles and trees follow from the shapes alone; losses are summed in f64 over fixed parts.
//
// Logits are f32: in bf16 a logit of 20 is off by up to 0.06, and so is the loss of its token. The 6 bytes more that move for each logit
// (written once, read twice) are 3 ps of an A100's memory, beside 26 ps for each product at dim 4096. Their gradient is made in place,
// in bf16 in the first half of the row where the products then run on tensor cores (x and W bf16; common/gemm.cuh has tiles and order),
// else in f32 (common/gemm_f32.cuh). With x and W f16 it is made in f16 and for a denominator of 1, since divided by that of a batch
// little of p - onehot would be left above 6e-8: `times`, with which the backward scales, is then 1 / denominator.

#include "common/gemm.cuh"
#include "common/gemm_f32.cuh"
#include "common/rows.cuh"
#include "common/spans.cuh"

constexpr u32 IGNORE = 0xffffffff;  // the label of a row without loss, and the rank of one
constexpr int THREADS = 256;

// Rows of the chunk from `first` on, `rows` of them at most, that have a label.
__device__ __forceinline__ u32 live_rows(const u32* count, u32 first, u32 rows) {
  const u32 all = *count;
  return all > first ? min(all - first, rows) : 0;
}

// ---- the rows with a label ----

#ifndef WARPTUNE_F16
constexpr int SCAN_THREADS = 1024, SCAN_WARPS = SCAN_THREADS / 32, SCAN_ITEMS = 4;

// One block, whose warps take 128 neighbouring rows each at a time. ranks[t]: the number of labels before row t if it has one, else IGNORE.
extern "C" __global__ __launch_bounds__(SCAN_THREADS) void linear_cross_entropy_rows(const u32* labels, u32* rows, u32* targets,
                                                                                     u32* ranks, u32* count, u32 total) {
  __shared__ u32 of_warps[SCAN_WARPS];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u32 before = 0;
  for (u64 start = 0; start < total; start += SCAN_THREADS * SCAN_ITEMS) {
    const u64 mine = start + warp * 32 * SCAN_ITEMS + lane;
    u32 label[SCAN_ITEMS], labelled[SCAN_ITEMS], own = 0;
#pragma unroll
    for (int i = 0; i < SCAN_ITEMS; i++) {
      label[i] = mine + i * 32 < total ? labels[mine + i * 32] : IGNORE;
      labelled[i] = __ballot_sync(0xffffffff, label[i] != IGNORE);
      own += __popc(labelled[i]);
    }
    __syncthreads();  // Hazard: threads may still read the warps' numbers of the step before.
    if (lane == 0) of_warps[warp] = own;
    __syncthreads();  // Hazard: all read what the warps found.
    u32 rank = before;
    for (u32 w = 0; w < SCAN_WARPS; w++) {
      if (w < warp) rank += of_warps[w];
      before += of_warps[w];
    }
#pragma unroll
    for (int i = 0; i < SCAN_ITEMS; i++) {
      const u64 row = mine + i * 32;
      const u32 at = rank + __popc(labelled[i] & ((1u << lane) - 1));
      rank += __popc(labelled[i]);
      if (row >= total) continue;
      ranks[row] = label[i] == IGNORE ? IGNORE : at;
      if (label[i] == IGNORE) continue;
      rows[at] = static_cast<u32>(row);
      targets[at] = label[i];
    }
  }
  if (threadIdx.x == 0) *count = before;
}
#endif

// The x of rank blockIdx.x, N elements a thread.
template <int N, class From, class To>
__device__ __forceinline__ void gather(const From* __restrict__ x, const u32* __restrict__ rows, const u32* __restrict__ count,
                                       To* __restrict__ out, u32 dim) {
  const u32 column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (blockIdx.x >= *count || column >= dim) return;
  float values[N];
  load<N>(x + u64(rows[blockIdx.x]) * dim + column, values);
  store<N>(out + u64(blockIdx.x) * dim + column, values);
}

// dx of row blockIdx.x: scale times `times` times the gradient of its rank, zero without a label.
template <int N, class From, class To>
__device__ __forceinline__ void scatter(const From* __restrict__ gathered, const u32* __restrict__ ranks,
                                        const float* __restrict__ scale, float times, To* __restrict__ dx, u32 dim) {
  const u32 column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (column >= dim) return;
  const u32 rank = ranks[blockIdx.x];
  float values[N] = {};
  if (rank != IGNORE) {
    load<N>(gathered + u64(rank) * dim + column, values);
#pragma unroll
    for (int i = 0; i < N; i++) values[i] *= *scale * times;
  }
  store<N>(dx + u64(blockIdx.x) * dim + column, values);
}

#define GATHER_SCATTER(NAME, T, U)                                                                                             \
  extern "C" __global__ __launch_bounds__(THREADS) void linear_cross_entropy_gather_##NAME(                                    \
      const T* x, const u32* rows, const u32* count, U* out, u32 dim, u32 packed) {                                            \
    if (packed) {                                                                                                              \
      gather<pack_len<T, U>()>(x, rows, count, out, dim);                                                                      \
    } else {                                                                                                                   \
      gather<1>(x, rows, count, out, dim);                                                                                     \
    }                                                                                                                          \
  }                                                                                                                            \
  extern "C" __global__ __launch_bounds__(THREADS) void linear_cross_entropy_bwd_scatter_##NAME(                               \
      const U* gathered, const u32* ranks, const float* scale, float times, T* dx, u32 dim, u32 packed) {                      \
    if (packed) {                                                                                                              \
      scatter<pack_len<T, U>()>(gathered, ranks, scale, times, dx, dim);                                                       \
    } else {                                                                                                                   \
      scatter<1>(gathered, ranks, scale, times, dx, dim);                                                                      \
    }                                                                                                                          \
  }
#define GATHERS_SCATTERS(HALF)                  \
  GATHER_SCATTER(HALF##_f32, half_t, float)     \
  GATHER_SCATTER(HALF##_##HALF, half_t, half_t)
OF_HALF(GATHERS_SCATTERS)
#ifndef WARPTUNE_F16
GATHER_SCATTER(f32_f32, float, float)

// dW *= scale times, which is 1 at the end of most tapes: then nothing is read.
extern "C" __global__ __launch_bounds__(THREADS) void linear_cross_entropy_bwd_scale(float* dw, const float* scale, float times, u64 n) {
  const float factor = *scale * times;
  if (factor == 1.0f) return;
  for_spans<4>(n, aligned<4>(dw), [=](auto span, u64 i) {
    float values[span.len];
    load<span.len>(dw + i, values);
#pragma unroll
    for (int k = 0; k < span.len; k++) values[k] *= factor;
    store<span.len>(dw + i, values);
  });
}
#endif

// ---- the three products of a chunk ----

// l = x W^T: a x, b W, c l.
template <bool ALIGNED> __device__ __forceinline__ void logits(const half_t* x, const half_t* w, float* l, long long ld, int m, int vocab, int dim) {
  gemm::run<true, true, ALIGNED>({x, dim, m, dim}, {w, dim, vocab, dim}, {}, l, ld);
}
// dx = g W: a g, b W, c dx.
template <bool ALIGNED> __device__ __forceinline__ void grad_x(const half_t* g, const half_t* w, half_t* dx, long long ld, int m, int vocab, int dim) {
  gemm::run<true, false, ALIGNED>({g, ld, m, vocab}, {w, dim, dim, vocab}, {}, dx, dim);
}
// dW = g^T x, or dW += g^T x: a g, b x, c dW.
template <bool ALIGNED>
__device__ __forceinline__ void grad_w(const half_t* g, const half_t* x, float* dw, long long ld, int live, int vocab, int dim, bool add) {
  gemm::run<false, false, ALIGNED>({g, ld, vocab, live}, {x, dim, dim, live}, Epilogue<float>::adding(add ? dw : nullptr), dw, dim);
}
__device__ __forceinline__ void grad_w_f32(const float* g, const float* x, float* dw, long long ld, int live, int vocab, int dim,
                                           bool add) {
  gemm_f32::run<false, false>(g, x, ld, dim, Epilogue<float>::adding(add ? dw : nullptr), dw, dim, vocab, dim, live);
}

// Blocks whose tile has no live row leave. `ld` is that of l; of g in bf16 it is twice that. `add` is the third product's.
#define ROWS_PRODUCT(NAME, BODY, TILE_ROWS, TILE_COLS, A, B, C, OUTER, CALL_THREADS)                                           \
  extern "C" __global__ __launch_bounds__(CALL_THREADS) void linear_cross_entropy_##NAME(                                      \
      const A* a, const B* b, C* c, long long ld, const u32* count, u32 first, u32 rows, int vocab, int dim, u32 add) {        \
    const int m = live_rows(count, first, rows);                                                                               \
    const u32 tiles_m = (m + TILE_ROWS - 1) / TILE_ROWS, tiles_n = (OUTER + TILE_COLS - 1) / TILE_COLS;                        \
    if (blockIdx.x >= tiles_m * tiles_n) return;                                                                               \
    BODY;                                                                                                                      \
  }
#define TENSOR_CORES(NAME, BODY, A, B, C, OUTER)                                                                               \
  ROWS_PRODUCT(NAME, BODY, gemm::TILE_M, gemm::TILE_N, A, B, C, OUTER, gemm::THREADS)
#define ORDINARY_CORES(NAME, BODY, A, B, C, OUTER)                                                                             \
  ROWS_PRODUCT(NAME, BODY, gemm_f32::TILE, gemm_f32::TILE, A, B, C, OUTER, gemm_f32::THREADS)

#define ROWS_PRODUCTS(HALF)                                                                                                                      \
  TENSOR_CORES(fwd_logits_##HALF, logits<true>(a, b, c, ld, m, vocab, dim), half_t, half_t, float, vocab)                                        \
  TENSOR_CORES(fwd_logits_##HALF##_ragged, logits<false>(a, b, c, ld, m, vocab, dim), half_t, half_t, float, vocab)                              \
  TENSOR_CORES(fwd_dx_##HALF, grad_x<true>(a, b, c, 2 * ld, m, vocab, dim), half_t, half_t, half_t, dim)                                         \
  TENSOR_CORES(fwd_dx_##HALF##_ragged, grad_x<false>(a, b, c, 2 * ld, m, vocab, dim), half_t, half_t, half_t, dim)                               \
  ORDINARY_CORES(fwd_logits_f32_##HALF, (gemm_f32::run<true, true>(a, b, dim, dim, {}, c, ld, m, vocab, dim)), float, half_t, float, vocab) \
  ORDINARY_CORES(fwd_dx_f32_##HALF, (gemm_f32::run<true, false>(a, b, ld, dim, {}, c, dim, m, dim, vocab)), float, half_t, float, dim)
OF_HALF(ROWS_PRODUCTS)
#ifndef WARPTUNE_F16
ORDINARY_CORES(fwd_logits_f32_f32, (gemm_f32::run<true, true>(a, b, dim, dim, {}, c, ld, m, vocab, dim)), float, float, float, vocab)
ORDINARY_CORES(fwd_dx_f32_f32, (gemm_f32::run<true, false>(a, b, ld, dim, {}, c, dim, m, dim, vocab)), float, float, float, dim)
#endif

// Sums over the live rows; without one, what is there stays, and what is not becomes zero.
#define WEIGHT_PRODUCT(NAME, BODY, T, CALL_THREADS)                                                                            \
  extern "C" __global__ __launch_bounds__(CALL_THREADS) void linear_cross_entropy_##NAME(                                      \
      const T* a, const T* b, float* c, long long ld, const u32* count, u32 first, u32 rows, int vocab, int dim, u32 add) {    \
    const int live = live_rows(count, first, rows);                                                                            \
    if (add && live == 0) return;                                                                                              \
    BODY;                                                                                                                      \
  }
#define WEIGHT_PRODUCTS(HALF)                                                                                               \
  WEIGHT_PRODUCT(fwd_dweight_##HALF, grad_w<true>(a, b, c, 2 * ld, live, vocab, dim, add), half_t, gemm::THREADS)           \
  WEIGHT_PRODUCT(fwd_dweight_##HALF##_ragged, grad_w<false>(a, b, c, 2 * ld, live, vocab, dim, add), half_t, gemm::THREADS)
OF_HALF(WEIGHT_PRODUCTS)
#ifndef WARPTUNE_F16
WEIGHT_PRODUCT(fwd_dweight_f32, grad_w_f32(a, b, c, ld, live, vocab, dim, add), float, gemm_f32::THREADS)
#endif

// ---- softmax, loss and gradient of a chunk ----

// A block has a row; its threads take packs of 4 logits, 4 packs in flight each. The first pass (largest logit and sum of powers, rescaled
// on the way) goes from the end of the row to its begin, so that the second finds in L2 what was read last.
constexpr int ROW_THREADS = 512, ROW_WARPS = ROW_THREADS / 32, PACKS = 4, PACK = 4;
constexpr u32 ROW_TILE = ROW_THREADS * PACKS * PACK;
constexpr float LOG2_E = 1.44269504f;

// Powers of e: sum e^(l - top).
struct Powers {
  float top, sum;
};

// e^(x - top): 0 for x = -inf, whatever top is; not a number where x is not, or both are +inf.
__device__ __forceinline__ float power(float x, float top) { return x == -INFINITY ? 0.0f : exp2f((x - top) * LOG2_E); }

// The same sum with a larger top; of nothing yet (top -inf), zero.
__device__ __forceinline__ float rescaled(Powers x, float top) { return x.top == top ? x.sum : x.sum * power(x.top, top); }

__device__ __forceinline__ Powers together(Powers a, Powers b) {
  const float top = fmaxf(a.top, b.top);
  return {top, rescaled(a, top) + rescaled(b, top)};
}

// This thread's logits of the tile from column `tile` on; -inf past the end of the row.
__device__ __forceinline__ void load_tile(const float* row, u32 tile, u32 vocab, float (&v)[PACKS][PACK]) {
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    const u32 column = tile + (k * ROW_THREADS + threadIdx.x) * PACK;
    if (column + PACK <= vocab) {
      load<PACK>(row + column, v[k]);
    } else {
#pragma unroll
      for (int i = 0; i < PACK; i++) v[k][i] = column + i < vocab ? row[column + i] : -INFINITY;
    }
  }
}

template <class G>
__device__ __forceinline__ void store_tile(G* row, u32 tile, u32 vocab, const float (&v)[PACKS][PACK]) {
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    const u32 column = tile + (k * ROW_THREADS + threadIdx.x) * PACK;
    if (column + PACK <= vocab) {
      store<PACK>(row + column, v[k]);
    } else {
#pragma unroll
      for (int i = 0; i < PACK; i++) {
        if (column + i < vocab) row[column + i] = from_f32<G>(v[k][i]);
      }
    }
  }
}

// The loss of a row and, if GRADIENT, its g in place, as elements G.
template <bool GRADIENT, class G>
__device__ __forceinline__ void softmax_row(float* logits, u64 ld, const u32* targets, double* losses, const u32* count, u32 first,
                                            u32 rows, u32 vocab, float denominator) {
  if (blockIdx.x >= live_rows(count, first, rows)) return;
  __shared__ Powers parts[ROW_WARPS];
  float* row = logits + blockIdx.x * ld;
  const u32 label = targets[first + blockIdx.x];
  float at_label = NAN;
  if (threadIdx.x == 0 && label < vocab) at_label = row[label];

  Powers all = {-INFINITY, 0.0f};
  const u32 tiles = (vocab + ROW_TILE - 1) / ROW_TILE;
  for (u32 tile = tiles; tile-- > 0;) {
    float v[PACKS][PACK], top = all.top, sum = 0.0f;
    load_tile(row, tile * ROW_TILE, vocab, v);
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
#pragma unroll
      for (int i = 0; i < PACK; i++) top = fmaxf(top, v[k][i]);
    }
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
#pragma unroll
      for (int i = 0; i < PACK; i++) sum += power(v[k][i], top);
    }
    all = {top, rescaled(all, top) + sum};
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Powers other = {__shfl_xor_sync(0xffffffff, all.top, distance), __shfl_xor_sync(0xffffffff, all.sum, distance)};
    all = together(all, other);
  }
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = all;
  __syncthreads();  // Hazards: all read the warps' parts; and thread 0 has read the label's logit before the row is overwritten.
  all = parts[0];
  for (int warp = 1; warp < ROW_WARPS; warp++) all = together(all, parts[warp]);

  if (threadIdx.x == 0) {
    losses[first + blockIdx.x] = log(static_cast<double>(all.sum)) + (static_cast<double>(all.top) - at_label);
  }
  if constexpr (GRADIENT) {
    const float factor = label < vocab ? 1.0f / (all.sum * denominator) : NAN, one = 1.0f / denominator;
    for (u32 tile = 0; tile < tiles; tile++) {
      float v[PACKS][PACK];
      load_tile(row, tile * ROW_TILE, vocab, v);
#pragma unroll
      for (int k = 0; k < PACKS; k++) {
        const u32 column = tile * ROW_TILE + (k * ROW_THREADS + threadIdx.x) * PACK;
#pragma unroll
        for (int i = 0; i < PACK; i++) v[k][i] = power(v[k][i], all.top) * factor - (column + i == label ? one : 0.0f);
      }
      if constexpr (sizeof(G) < sizeof(float)) {
        // Hazard: the narrow gradient of tile t goes where logits of tile t / 2 are, which others read.
        __syncthreads();
      }
      store_tile(reinterpret_cast<G*>(row), tile * ROW_TILE, vocab, v);
    }
  }
}

#define SOFTMAX(NAME, GRADIENT, G)                                                                                             \
  extern "C" __global__ __launch_bounds__(ROW_THREADS, 2) void linear_cross_entropy_fwd_##NAME(                                  \
      float* logits, u64 ld, const u32* targets, double* losses, const u32* count, u32 first, u32 rows, u32 vocab,             \
      float denominator) {                                                                                                     \
    softmax_row<GRADIENT, G>(logits, ld, targets, losses, count, first, rows, vocab, denominator);                             \
  }
#define GRADIENT(NAME, G) SOFTMAX(gradient_##NAME, true, G)
OF_TYPES(GRADIENT)
#ifndef WARPTUNE_F16
SOFTMAX(loss, false, float)

constexpr int SUM_THREADS = 1024;

// One block: loss = sum of the losses / denominator. A thread sums every SUM_THREADS-th loss in order, then a tree of the threads.
extern "C" __global__ __launch_bounds__(SUM_THREADS) void linear_cross_entropy_fwd_sum(const double* losses, const u32* count,
                                                                                       float* loss, float denominator) {
  __shared__ double parts[SUM_THREADS];
  double sum = 0.0;
  const u32 n = *count;
  for (u64 i = threadIdx.x; i < n; i += SUM_THREADS) sum += losses[i];
  parts[threadIdx.x] = sum;
  for (int half = SUM_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();  // Hazard: the upper half's sums are other threads'.
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *loss = static_cast<float>(parts[0] / denominator);
}
#endif
