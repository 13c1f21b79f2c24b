// Clipping gradients by their global norm: sums of squares, and the scaling, of many tensors in one launch each.
//
//   sums[t] = sum over i of g_t[i]^2        g_t[i] = g_t[i] factor
//
// Shapes: any; a table on the device says where the tensors are (common/tensors.cuh). g f32, sums f64.
// `clip_sums` writes a sum for each chunk, `clip_finish` (a block for each tensor) adds them up, `clip_scale` changes g in place.
// Deterministic: a thread sums its packs in order in four sums, then fixed trees; squares of f32 are exact in f64.
// Memory-bound: 16 bytes a load. f64 costs two operations an element, which on GPUs with few f64 lanes (2 a clock on an RTX 4090) take
// nearly as long as the 4 bytes.

#include "common/sums.cuh"
#include "common/tensors.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int N = 4;

struct Entry {
  Extent extent;
  float* grad;
};

extern "C" __global__ __launch_bounds__(THREADS) void clip_sums(const Entry* table, u32 count, double* parts) {
  const Entry e = *entry_of_block(table, count);
  double sums[N] = {};
  for_chunk<N>(e.extent, aligned<N>(e.grad), [&](auto piece, u64 i) {
    float g[piece.len];
    load<piece.len>(e.grad + i, g);
#pragma unroll
    for (int k = 0; k < piece.len; k++) sums[k] = fma(static_cast<double>(g[k]), static_cast<double>(g[k]), sums[k]);
  });
  const double sum = block_sum<WARPS>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

extern "C" __global__ __launch_bounds__(THREADS) void clip_finish(const Entry* table, const double* parts, double* sums) {
  const Extent extent = table[blockIdx.x].extent;
  const u64 chunks = (extent.len + CHUNK - 1) / CHUNK;
  double sum = 0.0;
  for (u64 i = threadIdx.x; i < chunks; i += THREADS) sum += parts[extent.first_chunk + i];
  sum = block_sum<WARPS>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ __launch_bounds__(THREADS) void clip_scale(const Entry* table, u32 count, float factor) {
  const Entry e = *entry_of_block(table, count);
  for_chunk<N>(e.extent, aligned<N>(e.grad), [&](auto piece, u64 i) {
    float g[piece.len];
    load<piece.len>(e.grad + i, g);
#pragma unroll
    for (int k = 0; k < piece.len; k++) g[k] *= factor;
    store<piece.len>(e.grad + i, g);
  });
}
