// Attention forward over packed sequences.
//
//   s = scale q k^T, -inf where the mask hides a key        p = softmax(s)        o = p v        lse = log sum e^s
//
// Shapes: q, o [T_q, heads dim], k, v [T_k, kv_heads dim], with a stride from row to row each; lse f32 [heads, T_q]. Query head h uses
// key/value head h / group. Causal with or without a window, or not causal; a sequence may have fewer queries than keys
// (common/attention.cuh). Saved for backward: o and lse. Everything is overwritten.
// A block has one tile of queries of one head: the x of the grid is a row of a table (sequence, first query) that the host
// makes of the sequences' ends, longest work first, so that no block is without work and the last ones are short. The y is the
// head: blocks that run together share keys and values in L2.
// Tiles of keys that the mask hides from a whole tile of queries are skipped; a warp skips those hidden from its rows.
// Deterministic: a row's sums are over its keys in order, from the start of its sequence; nothing depends on other sequences.
// bf16 and f16: on tensor cores (common/attention_forward.cuh has tiles and what limits them), p rounded to their type, all else f32; one kernel for
// each of some head sizes, which shorter heads are padded to in shared memory; `_ragged` where rows do not start on 16 bytes.
// f32: on the ordinary cores (common/attention_f32.cuh).
#include "common/attention_f32.cuh"
#include "common/attention_forward.cuh"

#define FORWARD(NAME, T, THREADS, CALL)                                                                                            \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                            \
      NAME(const uint2* tiles, const u32* q_starts, const u32* q_ends, const u32* k_starts, const u32* k_ends, const T* q,         \
           const T* k, const T* v, T* out, float* lse, long long q_stride, long long k_stride, long long v_stride,                 \
           long long out_stride, long long lse_stride, int group, int dim, float scale, float scale2, int causal, int window) {    \
    CALL({tiles, {q_starts, q_ends}, {k_starts, k_ends}, {q, q_stride}, {k, k_stride}, {v, v_stride}, {out, out_stride}, lse,      \
          lse_stride, group, dim, scale, scale2, causal != 0, window});                                                            \
  }

#define TENSOR_CORES(HALF, D, SUFFIX, ALIGNED)                                                                                           \
  FORWARD(attention_fwd_##HALF##_d##D##SUFFIX, half_t, attention::ForwardOf<D>::Plan::THREADS,                                           \
          (attention::forward<attention::ForwardOf<D>::Plan, ALIGNED>))
#define ALL_TENSOR_CORES(HALF)            \
  TENSOR_CORES(HALF, 32, , true) \
  TENSOR_CORES(HALF, 64, , true) \
  TENSOR_CORES(HALF, 96, , true) \
  TENSOR_CORES(HALF, 128, , true) \
  TENSOR_CORES(HALF, 192, , true) \
  TENSOR_CORES(HALF, 256, , true) \
  TENSOR_CORES(HALF, 64, _ragged, false) \
  TENSOR_CORES(HALF, 128, _ragged, false) \
  TENSOR_CORES(HALF, 256, _ragged, false)
OF_HALF(ALL_TENSOR_CORES)

#ifndef WARPTUNE_F16
#define ORDINARY_CORES(D) FORWARD(attention_fwd_f32_d##D, float, attention_f32::THREADS, attention_f32::forward<D / 64>)
ORDINARY_CORES(64)
ORDINARY_CORES(128)
ORDINARY_CORES(256)
#endif
