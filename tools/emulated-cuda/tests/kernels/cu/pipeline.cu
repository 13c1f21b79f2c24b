// y = x / max |x| of each row of 384 f32 (rows of zeros stay zeros), and tops[block] = the sum of the block's maxima.
//
// One warp produces: it copies rows into a ring of two stages with cp.async, whose arrival it leaves to the stage's
// `full` mbarrier. Three warps consume: they wait for `full`, scale the row, and arrive at `empty`. A named barrier joins the
// consumers alone; another one hands the sum of the maxima to the producer. A block does rows blockIdx.x, + gridDim.x, ...
#include "mbarrier.cuh"
#include "warp.cuh"

constexpr int COLS = 384, STAGES = 2, CONSUMERS = 96, THREADS = CONSUMERS + WARP;
constexpr int CHUNKS_A_LANE = COLS / 4 / WARP;
constexpr int BAR_CONSUMERS = 1, BAR_DONE = 2;

struct Ring {
  float4 rows[STAGES][COLS / 4];
  u64 full[STAGES], empty[STAGES];
  float scratch[STAGES][CONSUMERS / WARP];
  float tops;
};

__device__ __forceinline__ void produce(Ring& ring, const float4* x, float* tops, int rows) {
  const int lane = threadIdx.x % WARP;
  int stage = 0;
  u32 parity = 1;  // the phase before the first counts as complete: the stages start empty
#pragma unroll 1
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    mbarrier_wait(&ring.empty[stage], parity);
#pragma unroll
    for (int i = 0; i < CHUNKS_A_LANE; i++) {
      const int chunk = lane + i * WARP;
      copy_async(&ring.rows[stage][chunk], &x[(long long)row * (COLS / 4) + chunk], 16);
    }
    copy_arrive(&ring.full[stage]);
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
  // The consumers' sum is written.
  asm volatile("bar.sync %0, %1;" ::"n"(BAR_DONE), "n"(THREADS) : "memory");
  if (lane == 0) tops[blockIdx.x] = ring.tops;
}

__device__ __forceinline__ void consume(Ring& ring, float4* y, int rows) {
  int stage = 0;
  u32 parity = 0;
  float sum = 0.0f;
#pragma unroll 1
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    mbarrier_wait(&ring.full[stage], parity);
    float4 a = ring.rows[stage][threadIdx.x];
    mbarrier_arrive(&ring.empty[stage]);
    const float top = warp_max(fmaxf(fmaxf(fabsf(a.x), fabsf(a.y)), fmaxf(fabsf(a.z), fabsf(a.w))));
    if (threadIdx.x % WARP == 0) ring.scratch[stage][threadIdx.x / WARP] = top;
    // Each warp's maximum is written; two rows share no scratch, and a third is behind the second's barrier.
    asm volatile("bar.sync %0, %1;" ::"n"(BAR_CONSUMERS), "n"(CONSUMERS) : "memory");
    const float all = fmaxf(fmaxf(ring.scratch[stage][0], ring.scratch[stage][1]), ring.scratch[stage][2]);
    sum += all;
    const float scale = all > 0.0f ? 1.0f / all : 0.0f;
    a.x *= scale, a.y *= scale, a.z *= scale, a.w *= scale;
    y[(long long)row * (COLS / 4) + threadIdx.x] = a;
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
  if (threadIdx.x == 0) ring.tops = sum;
  asm volatile("bar.arrive %0, %1;" ::"n"(BAR_DONE), "n"(THREADS) : "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS) pipeline(const float4* x, float4* y, float* tops, int rows) {
  __shared__ Ring ring;
  if (threadIdx.x < STAGES) {
    mbarrier_init(&ring.full[threadIdx.x], WARP);
    mbarrier_init(&ring.empty[threadIdx.x], CONSUMERS);
  }
  // The mbarriers are set up.
  __syncthreads();
  if (threadIdx.x < CONSUMERS)
    consume(ring, y, rows);
  else
    produce(ring, x, tops, rows);
}
