// One step of AdamW on n parameters: a master copy in f32, its rounded copy in bf16, moments in f32, gradients in bf16.
//   m = b1 m + (1 - b1) g    v = b2 v + (1 - b2) g^2    w -= lr (m / c1 / (sqrt(v / c2) + eps) + decay w)
// Four parameters a thread through 16-byte accesses; the last n % 4 one by one. Pointwise, so deterministic.
#include <cuda_bf16.h>

#include "ptx.cuh"

constexpr int THREADS = 128;

struct Step {
  float lr, beta1, beta2, eps, decay;
  float correction1, correction2;  // 1 - beta^t
};

__device__ __forceinline__ float update(const Step& s, float w, float& m, float& v, float g) {
  m = s.beta1 * m + (1.0f - s.beta1) * g;
  v = s.beta2 * v + (1.0f - s.beta2) * g * g;
  return w - s.lr * (m / s.correction1 / (sqrtf(v / s.correction2) + s.eps) + s.decay * w);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    adamw(float* master, __nv_bfloat16* weight, float* m, float* v, const __nv_bfloat16* grad, long long n,
          __grid_constant__ const Step step) {
  const long long i = 4 * ((long long)blockIdx.x * THREADS + threadIdx.x);
  if (i + 4 <= n) {
    float4 w4 = *reinterpret_cast<float4*>(master + i);
    float4 m4 = *reinterpret_cast<float4*>(m + i), v4 = *reinterpret_cast<float4*>(v + i);
    const uint2 g4 = *reinterpret_cast<const uint2*>(grad + i);
    w4.x = update(step, w4.x, m4.x, v4.x, bf16_to_f32(bf16(g4.x)));
    w4.y = update(step, w4.y, m4.y, v4.y, bf16_to_f32(bf16(g4.x >> 16)));
    w4.z = update(step, w4.z, m4.z, v4.z, bf16_to_f32(bf16(g4.y)));
    w4.w = update(step, w4.w, m4.w, v4.w, bf16_to_f32(bf16(g4.y >> 16)));
    *reinterpret_cast<float4*>(master + i) = w4;
    *reinterpret_cast<float4*>(m + i) = m4;
    *reinterpret_cast<float4*>(v + i) = v4;
    *reinterpret_cast<uint2*>(weight + i) = make_uint2(pack_bf16(w4.x, w4.y), pack_bf16(w4.z, w4.w));
    return;
  }
#pragma unroll 1
  for (long long j = i; j < n; j++) {
    float mj = m[j], vj = v[j];
    const float w = update(step, master[j], mj, vj, __bfloat162float(grad[j]));
    master[j] = w;
    m[j] = mj;
    v[j] = vj;
    weight[j] = __float2bfloat16_rn(w);
  }
}
