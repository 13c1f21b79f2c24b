// Kernels that work on many tensors in one launch: a table of them, each cut into chunks; a block has a chunk.
#pragma once

#include "elements.cuh"

// Elements of a chunk; src/optim/table.rs has the same number.
constexpr u32 CHUNK = 8192;

// What a table knows of each tensor: its elements, and the chunks of those before it. Tables hold structs that begin with this.
struct Extent {
  u64 len, first_chunk;
};

// The entry that block blockIdx.x has a chunk of. Every thread of the block calls it, once.
template <class Entry> __device__ __forceinline__ const Entry* entry_of_block(const Entry* table, u32 count) {
  __shared__ u32 found;
  for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
    const Extent extent = table[i].extent;
    // Chunks before this tensor wrap around to large numbers.
    if (blockIdx.x - extent.first_chunk < (extent.len + CHUNK - 1) / CHUNK) {
      found = i;
    }
  }
  __syncthreads();  // Hazard: all read what one thread found.
  return table + found;
}

// Calls body(Piece<N>, i) for packs of N elements of the block's chunk from element i of its tensor, and body(Piece<1>, i) for those that
// are left, or for all where `packed` is not set.
template <int LEN> struct Piece { static constexpr int len = LEN; };
template <int N, class Body> __device__ __forceinline__ void for_chunk(const Extent& extent, bool packed, Body body) {
  const u64 begin = (blockIdx.x - extent.first_chunk) * CHUNK, end = min(begin + CHUNK, extent.len);
  const u64 packs = packed ? (end - begin) / N : 0;
  for (u64 pack = threadIdx.x; pack < packs; pack += blockDim.x) {
    body(Piece<N>(), begin + pack * N);
  }
  for (u64 i = begin + packs * N + threadIdx.x; i < end; i += blockDim.x) {
    body(Piece<1>(), i);
  }
}
