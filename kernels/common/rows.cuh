// Rows of a matrix, each shared by some threads: the loops over a row and the sums over it, in a fixed order.
#pragma once

#include "elements.cuh"

// The sum over a warp, the same bits in all of its threads: a butterfly, in which partners add the same two numbers.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(0xffffffff, x, distance);
  }
  return x;
}

constexpr int MAX_WARPS = 8;

// Sums of COUNT numbers over the `lanes` threads of a row: those of one warp, or all of the block. Every thread of the row
// gets the same bits. Warps' sums are added in the order of the warps.
template <int COUNT> __device__ __forceinline__ void row_sums(float (&x)[COUNT], u32 lanes) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    x[i] = warp_sum(x[i]);
  }
  if (lanes == 32) {
    return;
  }
  __shared__ float parts[COUNT][MAX_WARPS];
  __syncthreads(); // Threads may still read the parts of the sum before.
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      parts[i][threadIdx.x / 32] = x[i];
    }
  }
  __syncthreads(); // The parts are read by all.
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    x[i] = parts[i][0];
    for (u32 warp = 1; warp < lanes / 32; warp++) {
      x[i] += parts[i][warp];
    }
  }
}

// One row of each of COUNT matrices, of `dim` elements, as the thread `lane` of `lanes` sees it: packs of N elements, of which
// the first KEEP stay in registers after the first pass. Only longer rows are read again, from the caches.
template <int N, int KEEP, int COUNT, class T> struct Rows {
  const T* from[COUNT];
  u32 dim, lane, lanes;
  float kept[KEEP][COUNT][N];

  // Loads the row; calls body(column, values) for each pack.
  template <class Body> __device__ __forceinline__ void first(Body body) {
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
      const u32 column = (lane + k * lanes) * N;
      if (column < dim) {
        fetch(column, kept[k]);
        body(column, kept[k]);
      }
    }
    rest(body);
  }

  // Calls body(column, values) for each pack once more.
  template <class Body> __device__ __forceinline__ void again(Body body) {
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
      const u32 column = (lane + k * lanes) * N;
      if (column < dim) {
        body(column, kept[k]);
      }
    }
    rest(body);
  }

  __device__ __forceinline__ void fetch(u32 column, float (&values)[COUNT][N]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      load<N>(from[i] + column, values[i]);
    }
  }

  template <class Body> __device__ __forceinline__ void rest(Body body) {
    for (u32 column = (lane + KEEP * lanes) * N; column < dim; column += lanes * N) {
      float values[COUNT][N];
      fetch(column, values);
      body(column, values);
    }
  }
};

// Which row a thread works on. A block has blockDim.x / lanes rows; beyond the last row there are only whole warps that have a
// row each, so that leaving early skips no barrier.
__device__ __forceinline__ u64 row_of_thread(u32 lanes) {
  return u64(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
}

// sums[c] = the sum of parts[p][c] over p in order, for `columns` columns: the second level of sums over rows.
__device__ __forceinline__ void sum_parts(const float* __restrict__ parts, float* __restrict__ sums, u32 count,
                                          u32 columns) {
  const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) {
    return;
  }
  float sum = 0;
  for (u32 part = 0; part < count; part++) {
    sum += parts[u64(part) * columns + column];
  }
  sums[column] = sum;
}
