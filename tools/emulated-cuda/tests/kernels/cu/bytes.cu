// y[row] = the sum over a row of k bytes of table[high four bits] * table[low four bits]. Rows lie `pitch` bytes apart, a multiple
// of 8; the table has 16 f32, of which number 7 is zero. A warp a row.
//
// A lane takes 8 bytes at once; the last one of a row fills its array byte by byte, as bitsandbytes' 4-bit inference kernel does.
// nvcc keeps the array in registers, and makes each byte of it an `and` and an `or` on a register that nothing has written yet.
#include "ptx.cuh"

constexpr int BYTES = 8;
constexpr unsigned char ZEROS = 0x77;

extern "C" __global__ void __launch_bounds__(WARP)
    bytes(const unsigned char* b, const float* table, float* y, int k, int pitch) {
  const unsigned char* const row = b + u64(blockIdx.x) * pitch;
  alignas(BYTES) unsigned char local[BYTES];
  float sum = 0;
#pragma unroll 1
  for (int i = threadIdx.x * BYTES; i < k; i += WARP * BYTES) {
    if (i + BYTES <= k) {
      *reinterpret_cast<uint2*>(local) = *reinterpret_cast<const uint2*>(row + i);
    } else {
#pragma unroll
      for (int j = 0; j < BYTES - 1; j++) {
        if (i + j < k) local[j] = row[i + j];
        else local[j] = ZEROS;
      }
      local[BYTES - 1] = ZEROS;
    }
#pragma unroll
    for (int j = 0; j < BYTES; j++) sum += table[local[j] >> 4] * table[local[j] & 15];
  }
#pragma unroll
  for (int lanes = WARP / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(ALL, sum, lanes);
  if (threadIdx.x == 0) y[blockIdx.x] = sum;
}
