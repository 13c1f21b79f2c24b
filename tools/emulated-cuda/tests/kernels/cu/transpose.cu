// y = x transposed. x: [rows, cols] f32, y: [cols, rows].
//
// Tiles of 32 x 32 by 32 x 8 threads; a column of padding keeps the reads of a tile's columns in different banks.
#include "ptx.cuh"

constexpr int TILE = 32, ROWS = 8;

extern "C" __global__ void __launch_bounds__(TILE* ROWS) transpose(const float* x, float* y, int rows, int cols) {
  __shared__ float tile[TILE][TILE + 1];
  const int col0 = blockIdx.x * TILE, row0 = blockIdx.y * TILE;
#pragma unroll
  for (int part = 0; part < TILE; part += ROWS) {
    const int i = part + threadIdx.y, row = row0 + i, col = col0 + threadIdx.x;
    if (row < rows && col < cols) tile[i][threadIdx.x] = x[row * cols + col];
  }
  // The tile is written.
  __syncthreads();
#pragma unroll
  for (int part = 0; part < TILE; part += ROWS) {
    const int i = part + threadIdx.y, row = col0 + i, col = row0 + threadIdx.x;
    if (row < cols && col < rows) y[row * rows + col] = tile[threadIdx.x][i];
  }
}
