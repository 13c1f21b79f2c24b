// Backward of causal attention of heads with 32 dimensions, f32, all tensors [heads, tokens, 32], lse and delta
// [heads, tokens]. In three launches:
//   attention_bwd_delta   delta = sum over dims of do * o
//   attention_bwd_dkdv    dk, dv: a block owns 16 keys and walks over the queries
//   attention_bwd_dq      dq: a block owns 16 queries and walks over the keys
// Gradients overwrite. Deterministic: every gradient is one thread's sum in a fixed order, without atomics.
#include "warp.cuh"

constexpr int DIM = 32, TILE = 16, THREADS = 128;
constexpr int ENTRIES = TILE * TILE / THREADS;  // of a tile of probabilities, a thread
constexpr int COLS = TILE * DIM / THREADS;      // of a row of a gradient, a thread
constexpr int LANES = DIM / COLS;               // threads that share a row of a gradient
constexpr int PITCH = DIM + 1;                  // keeps the rows of a tile in different banks

// One warp a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_bwd_delta(const float* o, const float* d_o, float* delta, int rows) {
  const int row = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;
  const float sum = warp_sum(o[row * DIM + lane] * d_o[row * DIM + lane]);
  if (lane == 0) delta[row] = sum;
}

// Rows of one head's tensors, zeros behind the last.
__device__ __forceinline__ void load_rows(float* to, const float* from, int start, int tokens) {
#pragma unroll
  for (int i = 0; i < TILE * DIM / THREADS; i++) {
    const int id = threadIdx.x + i * THREADS, row = id / DIM, col = id % DIM;
    to[row * PITCH + col] = start + row < tokens ? from[start * DIM + id] : 0.0f;
  }
}

struct Queries {
  float q[TILE * PITCH], d_o[TILE * PITCH], lse[TILE], delta[TILE];
};
struct Keys {
  float k[TILE * PITCH], v[TILE * PITCH];
};

__device__ __forceinline__ void load_queries(Queries& to, const float* q, const float* d_o, const float* lse,
                                             const float* delta, int start, int tokens) {
  load_rows(to.q, q, start, tokens);
  load_rows(to.d_o, d_o, start, tokens);
  if (threadIdx.x < TILE) {
    const int row = start + threadIdx.x;
    to.lse[threadIdx.x] = row < tokens ? lse[row] : 0.0f;
    to.delta[threadIdx.x] = row < tokens ? delta[row] : 0.0f;
  }
}

// p = exp(scale q k - lse) and ds = p (do v - delta) scale of a tile, zero above the diagonal.
__device__ __forceinline__ void scores(float* p, float* ds, const Queries& a, const Keys& b, int query0, int key0,
                                       float scale) {
#pragma unroll 1
  for (int i = 0; i < ENTRIES; i++) {
    const int id = threadIdx.x + i * THREADS, row = id / TILE, col = id % TILE;
    float s = 0.0f, dp = 0.0f;
#pragma unroll 8
    for (int d = 0; d < DIM; d++) {
      s += a.q[row * PITCH + d] * b.k[col * PITCH + d];
      dp += a.d_o[row * PITCH + d] * b.v[col * PITCH + d];
    }
    const float x = key0 + col <= query0 + row ? __expf(s * scale - a.lse[row]) : 0.0f;
    p[id] = x;
    ds[id] = x * (dp - a.delta[row]) * scale;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_bwd_dkdv(const float* q, const float* k, const float* v, const float* d_o, const float* lse,
                       const float* delta, float* dk, float* dv, int tokens, float scale) {
  __shared__ Queries a;
  __shared__ Keys b;
  __shared__ float p[TILE * TILE], ds[TILE * TILE];
  const int head = blockIdx.y * tokens, key0 = blockIdx.x * TILE;
  const int key = threadIdx.x / LANES, col0 = threadIdx.x % LANES * COLS;
  q += head * DIM, k += head * DIM, v += head * DIM, d_o += head * DIM, lse += head, delta += head;

  load_rows(b.k, k, key0, tokens);
  load_rows(b.v, v, key0, tokens);
  float sum_k[COLS] = {}, sum_v[COLS] = {};
#pragma unroll 1
  for (int query0 = key0; query0 < tokens; query0 += TILE) {
    load_queries(a, q, d_o, lse, delta, query0, tokens);
    // The tiles are written; the last round's p and ds have been read.
    __syncthreads();
    scores(p, ds, a, b, query0, key0, scale);
    // p and ds are written.
    __syncthreads();
#pragma unroll 4
    for (int row = 0; row < TILE; row++)
#pragma unroll
      for (int c = 0; c < COLS; c++) {
        sum_v[c] += p[row * TILE + key] * a.d_o[row * PITCH + col0 + c];
        sum_k[c] += ds[row * TILE + key] * a.q[row * PITCH + col0 + c];
      }
    // The queries have been read: the next round overwrites them.
    __syncthreads();
  }
  if (key0 + key < tokens) {
    const int to = (head + key0 + key) * DIM + col0;
#pragma unroll
    for (int c = 0; c < COLS; c++) dk[to + c] = sum_k[c], dv[to + c] = sum_v[c];
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_bwd_dq(const float* q, const float* k, const float* v, const float* d_o, const float* lse,
                     const float* delta, float* dq, int tokens, float scale) {
  __shared__ Queries a;
  __shared__ Keys b;
  __shared__ float p[TILE * TILE], ds[TILE * TILE];
  const int head = blockIdx.y * tokens, query0 = blockIdx.x * TILE;
  const int row = threadIdx.x / LANES, col0 = threadIdx.x % LANES * COLS;
  q += head * DIM, k += head * DIM, v += head * DIM, d_o += head * DIM, lse += head, delta += head;

  load_queries(a, q, d_o, lse, delta, query0, tokens);
  float sum[COLS] = {};
#pragma unroll 1
  for (int key0 = 0; key0 <= query0; key0 += TILE) {
    load_rows(b.k, k, key0, tokens);
    load_rows(b.v, v, key0, tokens);
    // The tiles are written.
    __syncthreads();
    scores(p, ds, a, b, query0, key0, scale);
    // ds is written.
    __syncthreads();
#pragma unroll 4
    for (int key = 0; key < TILE; key++)
#pragma unroll
      for (int c = 0; c < COLS; c++) sum[c] += ds[row * TILE + key] * b.k[key * PITCH + col0 + c];
    // The keys have been read: the next round overwrites them.
    __syncthreads();
  }
  if (query0 + row < tokens) {
    const int to = (head + query0 + row) * DIM + col0;
#pragma unroll
    for (int c = 0; c < COLS; c++) dq[to + c] = sum[c];
  }
}
