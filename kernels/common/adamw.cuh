// The arithmetic of a step of AdamW, for the kernels that differ in how they keep its averages.
#pragma once

#include "philox.cuh"

struct Update {
  float one_minus_beta1, beta2, one_minus_beta2, root_correction2, eps, minus_step_size;
};

__device__ __forceinline__ float stepped(float p, float g, float& m, float& v, const Update& u, float shrink) {
  p = __fmul_rn(p, shrink);
  m = __fadd_rn(m, __fmul_rn(u.one_minus_beta1, __fsub_rn(g, m)));
  v = __fadd_rn(__fmul_rn(v, u.beta2), __fmul_rn(__fmul_rn(u.one_minus_beta2, g), g));
  const float root = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), u.root_correction2), u.eps);
  return __fadd_rn(p, __fdiv_rn(__fmul_rn(u.minus_step_size, m), root));
}

// x rounded to bf16, up if the upper half of `word` is large, widened again.
__device__ __forceinline__ float rounded_at_random(float x, u32 word) {
  const u32 bits = __float_as_uint(x);
  if (isnan(x)) return __uint_as_float((bits | 0x400000) & 0xffff0000);
  return __uint_as_float((isinf(x) ? bits : bits + (word >> 16)) & 0xffff0000);
}
