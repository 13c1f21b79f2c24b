// Attention backward over packed sequences: see kernels/attention.cu for the forward, and for shapes, mask and grid.
//
//   delta = rowsum(dout o)        p = e^(scale q k^T - lse)        ds = p (dout v^T - delta)
//   dv = p^T dout        dk = scale ds^T q        dq = scale ds k
//
// Needs q, k, v, dout, and what the forward saved: o, lse f32 [heads, T_q]. delta f32 [heads, T_q] is computed first. Two kernels find
// the scores again: one for dk and dv, whose blocks have a tile of keys and walk over queries, and one for dq the other
// way round. So no gradient is summed across blocks, by atomics or otherwise: seven products instead of five are the price.
// A key/value head sums over its query heads in order. Everything is overwritten. Gradients that nobody wants are not computed.
// Deterministic: a row's sums are over queries or keys in order; nothing depends on other sequences.
// bf16 and f16: on tensor cores (common/attention_backward.cuh has tiles and what limits them), p and ds rounded to their type, all else
// f32; the scale is applied to the sums. In f16, a ds below 6e-8 becomes 0, one above 65504 infinity, as in FlashAttention and PyTorch:
// its size follows that of dout, which is therefore scaled where f16 is trained (loss scaling). p is at most 1, and what is below 6e-8
// of it cannot be seen in sums of terms up to 1. Above 128 elements a head, dk and dv are kernels of their own: their sums do not fit the
// registers together. `_ragged` where rows do not start on 16 bytes.
// f32: on the ordinary cores (common/attention_f32.cuh).
#include "common/attention_backward.cuh"
#include "common/attention_f32.cuh"

#define BACKWARD(NAME, T, THREADS, CALL)                                                                                           \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                            \
      NAME(const uint2* tiles, const u32* q_starts, const u32* q_ends, const u32* k_starts, const u32* k_ends, const T* q,         \
           const T* k, const T* v, const T* dout, const float* lse, const float* delta, T* dq, T* dk, T* dv, long long q_stride,   \
           long long k_stride, long long lse_stride, int group, int dim, float scale, float scale2, int causal, int window) {      \
    CALL({tiles, {q_starts, q_ends}, {k_starts, k_ends}, {q, q_stride}, {k, k_stride}, {v, k_stride}, {dout, q_stride}, lse,       \
          delta, lse_stride, {dq, q_stride}, {dk, k_stride}, {dv, k_stride}, group, dim, scale, scale2, causal != 0, window});     \
  }

#define TENSOR_CORES(HALF, D, GRADIENTS, WANT, SUFFIX, ALIGNED)                                                                          \
  BACKWARD(attention_bwd_##GRADIENTS##_##HALF##_d##D##SUFFIX, half_t, (attention::BackwardOf<D, attention::Want::WANT>::Plan::THREADS),  \
           (attention::backward<attention::BackwardOf<D, attention::Want::WANT>::Plan, attention::Want::WANT, ALIGNED>))
#define SHORT_HEADS(HALF, D, SUFFIX, ALIGNED)                                                                                            \
  TENSOR_CORES(HALF, D, dq, Q, SUFFIX, ALIGNED)                                                                                          \
  TENSOR_CORES(HALF, D, dkdv, KV, SUFFIX, ALIGNED)
#define LONG_HEADS(HALF, D, SUFFIX, ALIGNED)                                                                                             \
  TENSOR_CORES(HALF, D, dq, Q, SUFFIX, ALIGNED)                                                                                          \
  TENSOR_CORES(HALF, D, dk, K, SUFFIX, ALIGNED)                                                                                          \
  TENSOR_CORES(HALF, D, dv, V, SUFFIX, ALIGNED)
#define ALL_TENSOR_CORES(HALF) \
  SHORT_HEADS(HALF, 32, , true) \
  SHORT_HEADS(HALF, 64, , true) \
  SHORT_HEADS(HALF, 96, , true) \
  SHORT_HEADS(HALF, 128, , true) \
  LONG_HEADS(HALF, 192, , true) \
  LONG_HEADS(HALF, 256, , true) \
  SHORT_HEADS(HALF, 64, _ragged, false) \
  SHORT_HEADS(HALF, 128, _ragged, false) \
  LONG_HEADS(HALF, 256, _ragged, false)
OF_HALF(ALL_TENSOR_CORES)

#ifndef WARPTUNE_F16
#define ORDINARY_CORES(D)                                                                                                          \
  BACKWARD(attention_bwd_dq_f32_d##D, float, attention_f32::THREADS, (attention_f32::backward<D / 64, false>))                     \
  BACKWARD(attention_bwd_dkdv_f32_d##D, float, attention_f32::THREADS, (attention_f32::backward<D / 64, true>))
ORDINARY_CORES(64)
ORDINARY_CORES(128)
ORDINARY_CORES(256)
#endif

// A block has 32 tokens of 8 heads; `lanes` threads (a power of two, of one warp) sum a token's head, neighbours those of
// neighbouring heads. Sums are gathered so that a warp writes 32 tokens of a head.
constexpr int DELTA_TOKENS = 32, DELTA_HEADS = 8, DELTA_THREADS = 256;

template <int N, class T>
__device__ __forceinline__ void delta_of(const T* __restrict__ out, const T* __restrict__ dout, float* __restrict__ delta, u64 tokens,
                                         u32 heads, u32 dim, u32 lanes) {
  __shared__ float sums[DELTA_HEADS][DELTA_TOKENS + 1];
  const u64 token0 = u64(blockIdx.x) * DELTA_TOKENS;
  const u32 head0 = blockIdx.y * DELTA_HEADS, lane = threadIdx.x % lanes;
#pragma unroll 4
  for (u32 id = threadIdx.x / lanes; id < DELTA_TOKENS * DELTA_HEADS; id += DELTA_THREADS / lanes) {
    const u32 head = id % DELTA_HEADS, token = id / DELTA_HEADS;
    float sum = 0.0f;
    if (token0 + token < tokens && head0 + head < heads) {
      const u64 start = ((token0 + token) * heads + head0 + head) * dim;
      for (u32 column = lane * N; column < dim; column += lanes * N) {
        float a[N], b[N];
        load<N>(out + start + column, a);
        load<N>(dout + start + column, b);
#pragma unroll
        for (int i = 0; i < N; i++) sum = fmaf(a[i], b[i], sum);
      }
    }
    for (u32 distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
    if (lane == 0) sums[head][token] = sum;
  }
  __syncthreads();  // Hazard: sums are read by other threads than wrote them.
  const u32 head = threadIdx.x / DELTA_TOKENS, token = threadIdx.x % DELTA_TOKENS;
  if (token0 + token < tokens && head0 + head < heads) delta[(head0 + head) * tokens + token0 + token] = sums[head][token];
}
static_assert(DELTA_THREADS == DELTA_TOKENS * DELTA_HEADS, "a thread writes one sum");

#define DELTA(NAME, T)                                                                                                             \
  extern "C" __global__ void __launch_bounds__(DELTA_THREADS)                                                                      \
      attention_bwd_delta_##NAME(const T* out, const T* dout, float* delta, u64 tokens, u32 heads, u32 dim, u32 lanes,             \
                                 u32 packed) {                                                                                     \
    if (packed) {                                                                                                                  \
      delta_of<pack_len<T>()>(out, dout, delta, tokens, heads, dim, lanes);                                                        \
    } else {                                                                                                                       \
      delta_of<1>(out, dout, delta, tokens, heads, dim, lanes);                                                                    \
    }                                                                                                                              \
  }
OF_TYPES(DELTA)
