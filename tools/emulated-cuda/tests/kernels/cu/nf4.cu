// NF4 to bf16: two values a byte, the first in the high bits; one f32 scale for each 64 values. out: [8 words] bf16.
//
// A thread turns one word (8 values) into 16 bytes. The 16 levels live in the lanes of a warp and are fetched by shuffles,
// in pairs: lane 16 + i holds the same as lane i.
#include "ptx.cuh"

constexpr int THREADS = 64, WORDS_A_SCALE = 64 / 8;

// The levels of Dettmers et al., QLoRA (2023), appendix E.
__constant__ float LEVELS[16] = {-1.0f,
                                 -0.6961928009986877f,
                                 -0.5250730514526367f,
                                 -0.39491748809814453f,
                                 -0.28444138169288635f,
                                 -0.18477343022823334f,
                                 -0.09105003625154495f,
                                 0.0f,
                                 0.07958029955625534f,
                                 0.16093020141124725f,
                                 0.24611230194568634f,
                                 0.33791524171829224f,
                                 0.44070982933044434f,
                                 0.5626170039176941f,
                                 0.7229568362236023f,
                                 1.0f};

extern "C" __global__ void __launch_bounds__(THREADS)
    nf4_dequant(const u32* packed, const float* scales, uint4* out, int words) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  const bool inside = i < words;
  const u32 word = inside ? packed[i] : 0;
  const float scale = inside ? scales[i / WORDS_A_SCALE] : 0.0f;
  const u32 level = __float_as_uint(LEVELS[threadIdx.x % 16]);
  u32 pairs[4];
#pragma unroll
  for (int byte = 0; byte < 4; byte++) {
    // Byte `byte` alone.
    const u32 both = __byte_perm(word, 0, 0x4440 + byte);
    // A lane's number counts modulo 16 in its half of the warp, which drops the other value's bits.
    const u32 high = __shfl_sync(ALL, level, both >> 4, 16), low = __shfl_sync(ALL, level, both, 16);
    const float x = __uint_as_float(high) * scale, y = __uint_as_float(low) * scale;
    pairs[byte] = pack_bf16(x, y);
  }
  if (inside) out[i] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}
