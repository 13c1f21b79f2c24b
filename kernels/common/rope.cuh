// Turning heads by their tokens' angles: kernels/rope.cu has the formula. Here heads may lie anywhere, for kernels that write them to
// another place than they came from.
//
// A block finds the cosines and sines of its tokens once, in shared memory, and turns all heads by them.
#pragma once

#include "elements.cuh"
#include "sincos.cuh"

namespace rope {

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

// A head's vector of one token: where it is, and where it goes.
template <class T> struct Head {
  const T* from;
  T* to;
};

// Turns the pairs from `pair0` on, ANGLES at most, of `heads` heads of `here` tokens: head `head` of token `token` is
// head_of(token, head), its position positions[token]; here min(pairs, ANGLES) <= ANGLES. N elements are loaded at once.
template <bool INTERLEAVED, int N, class T, class HeadOf>
__device__ __forceinline__ void turn(const HeadOf& head_of, const u32* __restrict__ positions, const float* __restrict__ frequencies,
                                     u32 here, u32 heads, u32 pairs, u32 pair0, float sign, Angles& angles) {
  constexpr int COUNT = INTERLEAVED && N > 1 ? N / 2 : N;  // pairs that a thread turns at once
  const u32 width = min(pairs - pair0, ANGLES);
  for (u32 id = threadIdx.x; id < here * width; id += THREADS) {
    const float angle = __fmul_rn(__uint2float_rn(positions[id / width]), frequencies[pair0 + id % width]);
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
    const Head<T> at = head_of(token, head);
    const u32 pair = pair0 + pack * COUNT;
    if constexpr (INTERLEAVED) {
      float v[2 * COUNT];
      const T* from = at.from + 2 * pair;
      T* to = at.to + 2 * pair;
      if constexpr (N > 1) {
        load<N>(from, v);
      } else {
        v[0] = to_f32(from[0]);
        v[1] = to_f32(from[1]);
      }
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        const float a = v[2 * i], b = v[2 * i + 1];
        v[2 * i] = a * c[i] - b * s[i];
        v[2 * i + 1] = b * c[i] + a * s[i];
      }
      if constexpr (N > 1) {
        store<N>(to, v);
      } else {
        to[0] = from_f32<T>(v[0]);
        to[1] = from_f32<T>(v[1]);
      }
    } else {
      float a[N], b[N];
      load<N>(at.from + pair, a);
      load<N>(at.from + pairs + pair, b);
#pragma unroll
      for (int i = 0; i < N; i++) {
        const float left = a[i], right = b[i];
        a[i] = left * c[i] - right * s[i];
        b[i] = right * c[i] + left * s[i];
      }
      store<N>(at.to + pair, a);
      store<N>(at.to + pairs + pair, b);
    }
  }
}

}  // namespace rope
