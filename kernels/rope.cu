// Rotary position embedding, of queries and keys in one launch.
//
//   (a, b) becomes (a cos t - b sin t, b cos t + a sin t)       t = position * inverse frequency, rounded to f32
//
// Shapes: q, q_out [tokens, q_heads * 2 pairs], k, k_out [tokens, k_heads * 2 pairs]; either may have no heads; positions u32 [tokens];
// frequencies f32 [pairs], radians a position. Elements i and i + pairs of a head turn together (half), or 2i and 2i + 1
// (interleaved). Backward is the turn by -t, of the gradients. Saved for backward: nothing but the positions; angles are found again.
// Everything is overwritten. Deterministic: an element is one thread's.
//
// Memory-bound: inputs are read once, outputs written once, 16 bytes a thread where rows and halves are aligned to that. A block finds
// the cosines and sines of its tokens once, in shared memory, and turns all heads by them (common/rope.cuh); it has several tokens
// where a token's heads are few, so that every thread has work.

#include "common/rope.cuh"

using namespace rope;

// A block turns `block_tokens` tokens from blockIdx.x times that on, in each of their heads the pairs from blockIdx.y times
// ANGLES on; block_tokens min(pairs, ANGLES) <= ANGLES.
template <bool INTERLEAVED, int N, class T>
__device__ __forceinline__ void turn_block(const T* q, const T* k, const u32* positions, const float* frequencies, T* q_out, T* k_out,
                                           u64 tokens, u32 q_heads, u32 k_heads, u32 pairs, u32 block_tokens, float sign,
                                           Angles& angles) {
  const u64 first = u64(blockIdx.x) * block_tokens;
  const u32 here = static_cast<u32>(min(u64(block_tokens), tokens - first));
  const auto head_of = [=](u32 token, u32 head) -> Head<T> {
    const bool is_q = head < q_heads;
    const u64 at = ((first + token) * (is_q ? q_heads : k_heads) + (is_q ? head : head - q_heads)) * 2 * pairs;
    return {(is_q ? q : k) + at, (is_q ? q_out : k_out) + at};
  };
  turn<INTERLEAVED, N, T>(head_of, positions + first, frequencies, here, q_heads + k_heads, pairs, blockIdx.y * ANGLES, sign, angles);
}

#define TURN(NAME, T, INTERLEAVED, SIGN)                                                                                       \
  extern "C" __global__ __launch_bounds__(THREADS) void rope_##NAME(                                                           \
      const T* q, const T* k, const u32* positions, const float* frequencies, T* q_out, T* k_out, u64 tokens, u32 q_heads,     \
      u32 k_heads, u32 pairs, u32 block_tokens, u32 packed) {                                                                  \
    __shared__ __align__(16) Angles angles;                                                                                    \
    if (packed) {                                                                                                              \
      turn_block<INTERLEAVED, pack_len<T>()>(q, k, positions, frequencies, q_out, k_out, tokens, q_heads, k_heads, pairs,      \
                                             block_tokens, SIGN, angles);                                                      \
    } else {                                                                                                                   \
      turn_block<INTERLEAVED, 1>(q, k, positions, frequencies, q_out, k_out, tokens, q_heads, k_heads, pairs, block_tokens,    \
                                 SIGN, angles);                                                                                \
    }                                                                                                                          \
  }
#define ROPE(NAME, T)                             \
  TURN(fwd_##NAME##_half, T, false, 1.0f)         \
  TURN(fwd_##NAME##_interleaved, T, true, 1.0f)   \
  TURN(bwd_##NAME##_half, T, false, -1.0f)        \
  TURN(bwd_##NAME##_interleaved, T, true, -1.0f)
OF_TYPES(ROPE)
