// Loops of elementwise kernels over the whole grid.
#pragma once

#include "elements.cuh"

// The number of elements that a call of a loop's body handles, as a type.
template <int LEN> struct Span { static constexpr int len = LEN; };

// Calls body(Span<N>, i) for packs of N elements from i, and body(Span<1>, i) for those that are left, or for all where `packed`
// is not set because an operand is not aligned. Every element is handled by one thread, so the size of the grid changes no result.
template <int N, class Body> __device__ __forceinline__ void for_spans(u64 n, bool packed, Body body) {
  const u64 thread = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  const u64 threads = u64(gridDim.x) * blockDim.x;
  const u64 packs = packed ? n / N : 0;
  for (u64 pack = thread; pack < packs; pack += threads) {
    body(Span<N>(), pack * N);
  }
  for (u64 i = packs * N + thread; i < n; i += threads) {
    body(Span<1>(), i);
  }
}
