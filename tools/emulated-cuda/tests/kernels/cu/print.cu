// printf and assert on the device.
#include <cassert>
#include <cstdio>

// Prints a line for each negative element.
extern "C" __global__ void print_negative(const float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n && x[i] < 0.0f) printf("x[%d] = %.3f (%s, %llx)\n", i, x[i], "negative", 0x123456789abcull + i);
}

// Fails where an element is not below `limit`.
extern "C" __global__ void assert_below(const int* x, int n, int limit) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) assert(x[i] < limit);
}
