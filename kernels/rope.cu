// Rotary position embedding.
//
//   (a, b) becomes (a cos t - b sin t, b cos t + a sin t)       t = position * inverse frequency, rounded to f32
//
// Shapes: x, y [tokens, heads * 2 pairs]; positions u32 [tokens]; frequencies f32 [pairs], radians a position. Elements i and
// i + pairs of a head turn together (half), or 2i and 2i + 1 (interleaved). Backward is the turn by -t, of dy. Saved for
// backward: nothing but the positions; angles are found again. Everything is overwritten. Deterministic: an element is one
// thread's.
//
// Memory-bound: x is read once, y written once, 16 bytes a thread where rows and halves are aligned to that. A block finds
// the cosines and sines of its tokens once, in shared memory, and turns all heads by them; it has several tokens where a
// token's heads are few, so that every thread has work.

#include "common/elements.cuh"
#include "common/sincos.cuh"

constexpr int THREADS = 256;
constexpr u32 ANGLES = 1024;  // of all tokens of a block
// Where a thread reads eight angles as two float4, those of eight lanes must lie side by side: the second four of each eight
// lie in the upper half, 16 banks away.
constexpr u32 UPPER = ANGLES / 2 + 16;

struct Angles {
  float cosines[ANGLES + 16], sines[ANGLES + 16];
};

template <int COUNT> __device__ __forceinline__ u32 place(u32 angle) {
  return COUNT == 8 ? angle % 8 / 4 * UPPER + angle / 8 * 4 + angle % 4 : angle;
}

// COUNT angles' values from the one with number `first`, a multiple of COUNT.
template <int COUNT>
__device__ __forceinline__ void read(const float* table, u32 first, float (&out)[COUNT]) {
  constexpr int STEP = COUNT < 4 ? COUNT : 4;
#pragma unroll
  for (int i = 0; i < COUNT; i += STEP) {
    const float* from = table + place<COUNT>(first + i);
    if constexpr (STEP == 2) {
      // As a double, since nvcc makes two loads of a float2 here, which meet the banks twice.
      const double both = *reinterpret_cast<const double*>(from);
      out[i] = __int_as_float(__double2loint(both));
      out[i + 1] = __int_as_float(__double2hiint(both));
    } else {
      float part[STEP];
      load<STEP>(from, part);
#pragma unroll
      for (int k = 0; k < STEP; k++) out[i + k] = part[k];
    }
  }
}

// A block turns `block_tokens` tokens from blockIdx.x times that on, in each of their heads the pairs from blockIdx.y times
// ANGLES on; block_tokens min(pairs, ANGLES) <= ANGLES. N elements are loaded at once.
template <bool INTERLEAVED, int N, class T>
__device__ __forceinline__ void turn(const T* __restrict__ x, const u32* __restrict__ positions,
                                     const float* __restrict__ frequencies, T* __restrict__ y, u64 tokens, u32 heads,
                                     u32 pairs, u32 block_tokens, float sign, Angles& angles) {
  constexpr int COUNT = INTERLEAVED && N > 1 ? N / 2 : N;  // pairs that a thread turns at once
  const u64 first = u64(blockIdx.x) * block_tokens;
  const u32 here = static_cast<u32>(min(u64(block_tokens), tokens - first));
  const u32 pair0 = blockIdx.y * ANGLES, width = min(pairs - pair0, ANGLES);
  for (u32 id = threadIdx.x; id < here * width; id += THREADS) {
    const float angle = __fmul_rn(__uint2float_rn(positions[first + id / width]), frequencies[pair0 + id % width]);
    float sine, cosine;
    sincos_f32(angle, sine, cosine);
    angles.cosines[place<COUNT>(id)] = cosine;
    angles.sines[place<COUNT>(id)] = sign * sine;
  }
  __syncthreads();  // Hazard: the angles are read by other threads than found them.

  const u32 packs = width / COUNT, items = here * heads * packs;
  for (u32 id = threadIdx.x; id < items; id += THREADS) {
    const u32 pack = id % packs, head = id / packs % heads, token = id / packs / heads;
    float c[COUNT], s[COUNT];
    read<COUNT>(angles.cosines, token * width + pack * COUNT, c);
    read<COUNT>(angles.sines, token * width + pack * COUNT, s);
    const u64 at = ((first + token) * heads + head) * 2 * pairs;
    const u32 pair = pair0 + pack * COUNT;
    if constexpr (INTERLEAVED) {
      float v[2 * COUNT];
      const u64 from = at + 2 * pair;
      if constexpr (N > 1) {
        load<N>(x + from, v);
      } else {
        v[0] = to_f32(x[from]);
        v[1] = to_f32(x[from + 1]);
      }
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        const float a = v[2 * i], b = v[2 * i + 1];
        v[2 * i] = a * c[i] - b * s[i];
        v[2 * i + 1] = b * c[i] + a * s[i];
      }
      if constexpr (N > 1) {
        store<N>(y + from, v);
      } else {
        y[from] = from_f32<T>(v[0]);
        y[from + 1] = from_f32<T>(v[1]);
      }
    } else {
      float a[N], b[N];
      load<N>(x + at + pair, a);
      load<N>(x + at + pairs + pair, b);
#pragma unroll
      for (int i = 0; i < N; i++) {
        const float left = a[i], right = b[i];
        a[i] = left * c[i] - right * s[i];
        b[i] = right * c[i] + left * s[i];
      }
      store<N>(y + at + pair, a);
      store<N>(y + at + pairs + pair, b);
    }
  }
}

#define TURN(NAME, T, INTERLEAVED, SIGN)                                                                             \
  extern "C" __global__ __launch_bounds__(THREADS) void rope_##NAME(                                                 \
      const T* x, const u32* positions, const float* frequencies, T* y, u64 tokens, u32 heads, u32 pairs,            \
      u32 block_tokens, u32 packed) {                                                                                \
    __shared__ __align__(16) Angles angles;                                                                          \
    if (packed) {                                                                                                    \
      turn<INTERLEAVED, pack_len<T>()>(x, positions, frequencies, y, tokens, heads, pairs, block_tokens, SIGN,       \
                                       angles);                                                                      \
    } else {                                                                                                         \
      turn<INTERLEAVED, 1>(x, positions, frequencies, y, tokens, heads, pairs, block_tokens, SIGN, angles);          \
    }                                                                                                                \
  }
#define ROPE(NAME, T)                             \
  TURN(fwd_##NAME##_half, T, false, 1.0f)         \
  TURN(fwd_##NAME##_interleaved, T, true, 1.0f)   \
  TURN(bwd_##NAME##_half, T, false, -1.0f)        \
  TURN(bwd_##NAME##_interleaved, T, true, -1.0f)
OF_TYPES(ROPE)
