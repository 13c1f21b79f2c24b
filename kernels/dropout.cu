// Dropout.
//
//   y[i] = keep(i) ? x[i] scale : 0,  keep(i): the upper 24 bits of random word i are at least `threshold`
//   dx[i] = keep(i) ? dy[i] scale : 0
//
// Shapes: any; n elements. Saved for backward: nothing but the generator's key; the backward is the same kernel on dy.
// Everything is overwritten. Deterministic: word i is a function of the key and of i, the same as on the CPU.
// Memory-bound, if barely: a Philox block (about 100 integer instructions) serves four elements; a pack starts at a multiple
// of four, so that no block is drawn twice.

#include "common/philox.cuh"
#include "common/spans.cuh"

constexpr int THREADS = 256;

template <class T>
__device__ __forceinline__ void dropout(const T* __restrict__ x, T* __restrict__ y, u64 n, u64 seed, u64 stream,
                                        u32 threshold, float scale) {
  constexpr int N = pack_len<T>();
  static_assert(N % 4 == 0, "a pack is whole blocks of random words");
  for_spans<N>(n, aligned<N>(x) && aligned<N>(y), [=](auto span, u64 at) {
    float v[span.len];
    load<span.len>(x + at, v);
    uint4 words;
#pragma unroll
    for (int i = 0; i < span.len; i++) {
      if (i % 4 == 0) {
        words = philox(seed, stream, (at + i) / 4);
      }
      const u32 lane = (at + i) % 4;
      const u32 word = lane == 0 ? words.x : lane == 1 ? words.y : lane == 2 ? words.z : words.w;
      v[i] = (word >> 8) >= threshold ? v[i] * scale : 0.0f;
    }
    store<span.len>(y + at, v);
  });
}

#define DROPOUT(NAME, T)                                                                                      \
  extern "C" __global__ __launch_bounds__(THREADS) void dropout_fwd_##NAME(                                   \
      const T* x, T* y, u64 n, u64 seed, u64 stream, u32 threshold, float scale) {                            \
    dropout(x, y, n, seed, stream, threshold, scale);                                                         \
  }
OF_TYPES(DROPOUT)
