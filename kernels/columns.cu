// A range of a matrix's columns, and its gradient.
//
//   cut:    y[r][c] = x[r][start + c]                                     y [rows, len]
//   padded: dx[r][c] = dy[r][c - start] inside start .. start + len, else 0     dx [rows, cols]
//
// Shapes: x, dx [rows, cols]; y, dy [rows, len]. Saved for backward: nothing. Everything is overwritten.
// Deterministic: copies of bits; the kernels know the size of an element and not its type.
// Memory-bound: a thread moves 16 bytes where all rows and the range are aligned to that, else one element.

#include "common/elements.cuh"

constexpr int MAX_THREADS = 256;

template <class Word>
__device__ __forceinline__ void cut(const Word* __restrict__ x, Word* __restrict__ y, u32 cols, u32 start, u32 len) {
  const u32 column = blockIdx.y * blockDim.x + threadIdx.x;
  if (column < len) {
    y[u64(blockIdx.x) * len + column] = x[u64(blockIdx.x) * cols + start + column];
  }
}

template <class Word>
__device__ __forceinline__ void padded(const Word* __restrict__ dy, Word* __restrict__ dx, u32 cols, u32 start,
                                       u32 len) {
  const u32 column = blockIdx.y * blockDim.x + threadIdx.x;
  if (column < cols) {
    // Columns before the range wrap around to large numbers.
    const bool inside = column - start < len;
    dx[u64(blockIdx.x) * cols + column] = inside ? dy[u64(blockIdx.x) * len + column - start] : Word{};
  }
}

// cols, start and len count words of so many bytes.
#define COLUMNS(BYTES)                                                                                        \
  extern "C" __global__ __launch_bounds__(MAX_THREADS) void columns_fwd_b##BYTES(                             \
      const Word<BYTES>::Type* x, Word<BYTES>::Type* y, u32 cols, u32 start, u32 len) {                       \
    cut(x, y, cols, start, len);                                                                              \
  }                                                                                                           \
  extern "C" __global__ __launch_bounds__(MAX_THREADS) void columns_bwd_b##BYTES(                             \
      const Word<BYTES>::Type* dy, Word<BYTES>::Type* dx, u32 cols, u32 start, u32 len) {                     \
    padded(dy, dx, cols, start, len);                                                                         \
  }
COLUMNS(2)
COLUMNS(4)
COLUMNS(16)
