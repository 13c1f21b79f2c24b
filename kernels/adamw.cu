// A step of AdamW on many parameters in one launch.
//
//   p = p shrink                             shrink: 1 - lr weight_decay
//   m = m + (1 - beta1) (g - m)
//   v = v beta2 + (1 - beta2) g g
//   p = p - step m / (sqrt(v) / root + eps)   step: lr / (1 - beta1^t), root: sqrt(1 - beta2^t)
//
// Shapes: any; a table on the device says where the tensors are (common/tensors.cuh). m, v, g f32. A parameter is f32; or bf16 with an f32 master
// copy, which takes the step and is rounded to nearest into it; or bf16 alone, rounded up or down at random (the upper half of a word of Philox,
// numbered through all parameters, is added to the half that is cut off: the mean over words is the value).
// Everything but g is changed in place. Products and sums are rounded one by one, in the order of src/optim/adamw/cpu.rs: the same bits.
// Deterministic: each element is one thread's.
// Memory-bound: 16 bytes a load, a block of 256 threads for 8192 elements; about 60 instructions an element (two divisions and a root),
// a third of what an A100 can issue while 28 bytes move.

#include "common/adamw.cuh"
#include "common/tensors.cuh"

constexpr int THREADS = 256;
constexpr int N = 4;  // elements of a pack: 16 bytes of f32

struct Entry {
  Extent extent;
  void* param;
  float *master, *exp_avg, *exp_avg_sq;  // no master: null
  const float* grad;
  u64 first_word;  // of the words of Philox; a multiple of 4
  u32 narrow, decay;  // whether the parameter is bf16; whether weight decay applies
};

// The chunk of a parameter of elements P, which takes the step itself or from its master copy.
template <class P, bool MASTER>
__device__ __forceinline__ void step_chunk(const Entry& e, const Update& u, float shrink, u64 seed, u64 stream) {
  P* param = static_cast<P*>(e.param);
  const bool packed = aligned<N>(param) && aligned<N>(e.exp_avg) && aligned<N>(e.exp_avg_sq) && aligned<N>(e.grad) &&
                      (!MASTER || aligned<N>(e.master));
  for_chunk<N>(e.extent, packed, [&](auto piece, u64 i) {
    float p[piece.len], g[piece.len], m[piece.len], v[piece.len];
    if constexpr (MASTER) {
      load<piece.len>(e.master + i, p);
    } else {
      load<piece.len>(param + i, p);
    }
    load<piece.len>(e.grad + i, g);
    load<piece.len>(e.exp_avg + i, m);
    load<piece.len>(e.exp_avg_sq + i, v);
#pragma unroll
    for (int k = 0; k < piece.len; k++) p[k] = stepped(p[k], g[k], m[k], v[k], u, shrink);
    store<piece.len>(e.exp_avg + i, m);
    store<piece.len>(e.exp_avg_sq + i, v);
    if constexpr (MASTER) {
      store<piece.len>(e.master + i, p);
    } else if constexpr (sizeof(P) == 2) {
      const u64 word = e.first_word + i;
      const uint4 words = philox(seed, stream, word / 4);
#pragma unroll
      for (int k = 0; k < piece.len; k++) {
        const u32 lane = (word + k) % 4;
        p[k] = rounded_at_random(p[k], lane == 0 ? words.x : lane == 1 ? words.y : lane == 2 ? words.z : words.w);
      }
    }
    store<piece.len>(param + i, p);
  });
}

extern "C" __global__ __launch_bounds__(THREADS) void adamw_step(const Entry* table, u32 count, float one_minus_beta1, float beta2,
                                                                 float one_minus_beta2, float root_correction2, float eps,
                                                                 float minus_step_size, float shrink, u64 seed, u64 stream) {
  const Entry e = *entry_of_block(table, count);
  const Update u = {one_minus_beta1, beta2, one_minus_beta2, root_correction2, eps, minus_step_size};
  const float factor = e.decay ? shrink : 1.0f;
  if (!e.narrow) {
    step_chunk<float, false>(e, u, factor, seed, stream);
  } else if (e.master != nullptr) {
    step_chunk<bf16, true>(e, u, factor, seed, stream);
  } else {
    step_chunk<bf16, false>(e, u, factor, seed, stream);
  }
}
