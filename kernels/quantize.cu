// Quantization in blocks of 4-bit codes (NF4, FP4: QLoRA, arXiv 2305.14314) and back, with the bits of bitsandbytes' CPU backend.
//
//   quantize:   scale of block b = the largest |x| in it; code of x[i] = the level nearest to x[i] / scale, high nibble first
//   mean, nest: scales once more: offset = mean(scales); blocks of 256 of scale - offset to 8-bit codes of a map, with a scale each
//   dequantize: x[i] = level[code] scale, rounded to f32 and then to the output's type
//
// x [n] is f32, bf16 or f16, rows one after the other; a block is a power of two from 32 to 4096 elements, the last may be shorter.
// Everything is overwritten; deterministic. Memory-bound: a thread has eight neighbouring elements, a block of elements is 4 to 32
// lanes of a warp, or a warp for several turns, which reads it a second time, from L2.
// The mean is the sum in the order in which torch adds on one thread (cascades of 4 levels over 4 vectors of 8), so that the offset
// has the same bits: one warp, whose lanes are the elements of the vectors.
#include "common/four_bit.cuh"

namespace quantize {

constexpr int THREADS = 256, EACH = 8, WARP_ELEMENTS = 32 * EACH;
// What a scale is taken for at least when numbers are divided by it, so that blocks of zeros divide by no zero.
constexpr float SMALLEST_SCALE = 1e-38f;

// Elements `at` to `at` + 8 of n; zeros beyond.
template <class T> __device__ __forceinline__ void load_some(const T* __restrict__ x, u64 at, u64 n, float (&v)[EACH]) {
  if (at + EACH <= n) {
    constexpr int PACK = 16 / sizeof(T);
#pragma unroll
    for (int from = 0; from < EACH; from += PACK) {
      float part[PACK];
      load<PACK>(x + at + from, part);
#pragma unroll
      for (int i = 0; i < PACK; i++) v[from + i] = part[i];
    }
  } else {
#pragma unroll
    for (int i = 0; i < EACH; i++) v[i] = at + i < n ? to_f32(x[at + i]) : 0.0f;
  }
}

// `bounds`: the 15 midpoints between levels in their order; `order`: the codes of the levels, lowest first. `broken` becomes 1 if an
// element is infinite or not a number. A warp has a block, or as many as have room.
template <class T>
__device__ __forceinline__ void encode(const T* __restrict__ x, const float* __restrict__ bounds, const unsigned char* __restrict__ order,
                                       unsigned char* __restrict__ codes, float* __restrict__ scales, u32* broken, u64 n,
                                       int block_log2) {
  const int lane = threadIdx.x % 32, block = 1 << block_log2;
  const int span = max(block, WARP_ELEMENTS), lanes = min(block / EACH, 32);
  const u64 warp = (u64(blockIdx.x) * THREADS + threadIdx.x) / 32, begin = warp * span;
  if (begin >= n) return;
  float largest = 0.0f;
  bool finite = true;
  for (int turn = 0; turn < span; turn += WARP_ELEMENTS) {
    float v[EACH];
    load_some(x, begin + turn + lane * EACH, n, v);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      largest = fmaxf(largest, fabsf(v[i]));
      finite &= fabsf(v[i]) <= 3.402823466e38f;
    }
  }
  for (int apart = 1; apart < lanes; apart *= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, apart));
  if (!finite) atomicExch(broken, 1);
  const u64 first = begin + lane * EACH / block * block;
  // Whole blocks are multiplied by the reciprocal and keep the scale as it is; a shorter one is divided by it.
  const bool whole = first + block <= n;
  const float divisor = fmaxf(largest, SMALLEST_SCALE), factor = __frcp_rn(divisor);
  if (lane % lanes == 0 && first < n) scales[first >> block_log2] = whole ? largest : divisor;
  for (int turn = 0; turn < span; turn += WARP_ELEMENTS) {
    const u64 at = begin + turn + lane * EACH;
    float v[EACH];
    load_some(x, at, n, v);
    u32 packed = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const float value = whole ? __fmul_rn(v[i], factor) : __fdiv_rn(v[i], divisor);
      int rank = 0;
#pragma unroll
      for (int b = 0; b < four_bit::LEVELS - 1; b++) rank += value > bounds[b];
      packed |= static_cast<u32>(order[rank]) << (i / 2 * 8 + (i % 2 == 0 ? 4 : 0));
    }
    if (at + EACH <= n) {
      *reinterpret_cast<u32*>(codes + at / 2) = packed;
    } else {
#pragma unroll
      for (int i = 0; i < EACH; i += 2) {
        if (at + i < n) codes[at / 2 + i / 2] = packed >> 4 * i;
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void decode(const four_bit::Matrix w, T* __restrict__ x, u64 n) {
  __shared__ four_bit::Lookup lookup;
  lookup.fill(w);
  const u64 at = (u64(blockIdx.x) * THREADS + threadIdx.x) * EACH;
  if (at >= n) return;
  four_bit::Scale scale;
  scale.bring(w, static_cast<u32>(at >> w.block_log2));
  const float factor = scale.value(w, lookup);
  const bool whole = at + EACH <= n;
  u32 packed = 0;
  if (whole) {
    packed = *reinterpret_cast<const u32*>(w.packed + at / 2);
  } else {
    for (int i = 0; at + 2 * i < n; i++) packed |= static_cast<u32>(w.packed[at / 2 + i]) << 8 * i;
  }
  float v[EACH];
#pragma unroll
  for (int i = 0; i < EACH; i++) v[i] = __fmul_rn(lookup.levels[packed >> (i / 2 * 8 + (i % 2 == 0 ? 4 : 0)) & 15], factor);
  if (whole) {
    constexpr int PACK = 16 / sizeof(T);
#pragma unroll
    for (int from = 0; from < EACH; from += PACK) {
      float part[PACK];
#pragma unroll
      for (int i = 0; i < PACK; i++) part[i] = v[from + i];
      store<PACK>(x + at + from, part);
    }
  } else {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      if (at + i < n) x[at + i] = from_f32<T>(v[i]);
    }
  }
}

}  // namespace quantize

#define ENCODE(NAME, T)                                                                                                       \
  extern "C" __global__ void __launch_bounds__(quantize::THREADS)                                                             \
      quantize_4bit_##NAME(const T* x, const float* bounds, const unsigned char* order, unsigned char* codes, float* scales, u32* broken, u64 n, \
           int block_log2) {                                                                                                  \
    __shared__ float shared_bounds[four_bit::LEVELS];                                                                         \
    __shared__ unsigned char shared_order[four_bit::LEVELS];                                                                  \
    if (threadIdx.x < four_bit::LEVELS) shared_order[threadIdx.x] = order[threadIdx.x];                                       \
    if (threadIdx.x < four_bit::LEVELS - 1) shared_bounds[threadIdx.x] = bounds[threadIdx.x];                                 \
    __syncthreads(); /* Hazard: elements are read by other threads than wrote them. */                                        \
    quantize::encode(x, shared_bounds, shared_order, codes, scales, broken, n, block_log2);                                   \
  }
OF_TYPES(ENCODE)

#ifndef WARPTUNE_F16
// offset = the mean of scales [n]; one warp.
extern "C" __global__ void __launch_bounds__(32) quantize_mean(const float* __restrict__ scales, float* offset, u32 n) {
  constexpr int LANES = 8, ROWS = 4, LEVELS = 4;
  const int lane = threadIdx.x;
  const u32 vectors = n / LANES, groups = vectors / ROWS;
  const int ceil_log2 = groups <= 1 ? 0 : 32 - __clz(groups - 1), power = max(ceil_log2 / LEVELS, 4);
  const u32 step = 1u << power, whole = groups / step * step;
  float sums[LEVELS] = {};
  for (u32 i = 0; i < whole; i += step) {
#pragma unroll 8
    for (u32 j = 0; j < step; j++) sums[0] += scales[(i + j) * 32 + lane];
    const u32 done = i + step;
    bool goes_on = true;
#pragma unroll
    for (int level = 1; level < LEVELS; level++) {
      if (goes_on) {
        sums[level] += sums[level - 1];
        sums[level - 1] = 0.0f;
        goes_on = (done & (step - 1) << level * power) == 0;
      }
    }
  }
  for (u32 i = whole; i < groups; i++) sums[0] += scales[i * 32 + lane];
  float sum = sums[0];
#pragma unroll
  for (int level = 1; level < LEVELS; level++) sum += sums[level];
  // What is left of vectors goes to the first row of them.
  for (u32 i = groups * ROWS; i < vectors; i++) {
    if (lane < LANES) sum += scales[i * LANES + lane];
  }
#pragma unroll
  for (int row = 1; row < ROWS; row++) {
    const float other = __shfl_sync(0xffffffff, sum, lane % LANES + row * LANES);
    if (lane < LANES) sum += other;
  }
  float total = 0.0f;
  for (u32 i = vectors * LANES; i < n; i++) total += scales[i];
#pragma unroll
  for (int i = 0; i < LANES; i++) total += __shfl_sync(0xffffffff, sum, i);
  if (lane == 0) *offset = __fdiv_rn(total, static_cast<float>(n));
}

// Codes and scales of scales [n] - offset, a block of threads for 256. `nearest`: the code for each of 65536 numbers from -1 to 1.
extern "C" __global__ void __launch_bounds__(256)
    quantize_nest(const float* __restrict__ scales, const float* __restrict__ offset, const unsigned char* __restrict__ nearest,
                  unsigned char* __restrict__ codes, float* __restrict__ absmax, u32 n) {
  __shared__ float of_warp[8];
  const u32 at = blockIdx.x * 256 + threadIdx.x;
  const float value = at < n ? scales[at] - *offset : 0.0f;
  float largest = fabsf(value);
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, apart));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = largest;
  __syncthreads();  // Hazard: what one thread of each warp wrote is read by all.
#pragma unroll
  for (int w = 0; w < 8; w++) largest = fmaxf(largest, of_warp[w]);
  if (threadIdx.x == 0) absmax[blockIdx.x] = largest;
  if (at >= n) return;
  // Equal scales leave nothing to code.
  const float step = __fadd_rn(__fmul_rn(__fadd_rn(__fmul_rn(value, __frcp_rn(largest)), 1.0f), 32767.5f), 0.5f);
  codes[at] = largest == 0.0f ? 0 : nearest[min(static_cast<u32>(step), 65535u)];
}
#endif

#define DECODE(NAME, T)                                                                              \
  extern "C" __global__ void __launch_bounds__(quantize::THREADS)                                    \
      dequantize_4bit_##NAME(four_bit::Matrix w, T* x, u64 n) {                                      \
    quantize::decode(w, x, n);                                                                       \
  }
OF_TYPES(DECODE)
