// One product of a warp for each shape and type of mma: d = a b + c, with a by rows, b by columns, c and d by rows. Fragments are
// loaded as the PTX ISA lays them out: group = lane / 4 picks the row of a, the column of b; lane % 4 the elements along k.
#include "ptx.cuh"

// a: [16, 32] s8, b: [8, 32] s8 (columns), c, d: [16, 8] s32.
extern "C" __global__ void __launch_bounds__(WARP) mma_s8(const u32* a, const u32* b, const int* c, int* d) {
  const int group = threadIdx.x / 4, part = threadIdx.x % 4;
  u32 fa[4], fb[2];
  int fd[4];
#pragma unroll
  for (int i = 0; i < 4; i++) fa[i] = a[(group + i % 2 * 8) * 8 + i / 2 * 4 + part];
#pragma unroll
  for (int i = 0; i < 2; i++) fb[i] = b[group * 8 + i * 4 + part];
#pragma unroll
  for (int i = 0; i < 4; i++) fd[i] = c[(group + i / 2 * 8) * 8 + part * 2 + i % 2];
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(fd[0]), "+r"(fd[1]), "+r"(fd[2]), "+r"(fd[3])
      : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
#pragma unroll
  for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + part * 2 + i % 2] = fd[i];
}

// a: [16, 256] bits, b: [8, 256] bits (columns), d: [16, 8] s32: set bits of a xor b, and of a and b.
template <bool AND>
__device__ __forceinline__ void mma_b1(const u32* a, const u32* b, int* d) {
  const int group = threadIdx.x / 4, part = threadIdx.x % 4;
  u32 fa[4], fb[2];
  int fd[4] = {};
#pragma unroll
  for (int i = 0; i < 4; i++) fa[i] = a[(group + i % 2 * 8) * 8 + i / 2 * 4 + part];
#pragma unroll
  for (int i = 0; i < 2; i++) fb[i] = b[group * 8 + i * 4 + part];
  if (AND)
    asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(fd[0]), "+r"(fd[1]), "+r"(fd[2]), "+r"(fd[3])
        : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  else
    asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(fd[0]), "+r"(fd[1]), "+r"(fd[2]), "+r"(fd[3])
        : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
#pragma unroll
  for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + part * 2 + i % 2] = fd[i];
}
extern "C" __global__ void __launch_bounds__(WARP) mma_b1_xor(const u32* a, const u32* b, int* d) {
  mma_b1<false>(a, b, d);
}
extern "C" __global__ void __launch_bounds__(WARP) mma_b1_and(const u32* a, const u32* b, int* d) {
  mma_b1<true>(a, b, d);
}

// a: [8, 128] bits, b: [8, 128] bits (columns), d: [8, 8] s32.
extern "C" __global__ void __launch_bounds__(WARP) mma_b1_small(const u32* a, const u32* b, int* d) {
  const int group = threadIdx.x / 4, part = threadIdx.x % 4;
  int fd[2] = {};
  asm("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+r"(fd[0]), "+r"(fd[1])
      : "r"(a[group * 4 + part]), "r"(b[group * 4 + part]));
#pragma unroll
  for (int i = 0; i < 2; i++) d[group * 8 + part * 2 + i] = fd[i];
}

// a: [16, 16] f16, b: [8, 16] f16 (columns), c, d: [16, 8] f16, added in f16.
extern "C" __global__ void __launch_bounds__(WARP) mma_f16(const u32* a, const u32* b, const u32* c, u32* d) {
  const int group = threadIdx.x / 4, part = threadIdx.x % 4;
  u32 fa[4], fb[2], fd[2];
#pragma unroll
  for (int i = 0; i < 4; i++) fa[i] = a[(group + i % 2 * 8) * 8 + i / 2 * 4 + part];
#pragma unroll
  for (int i = 0; i < 2; i++) fb[i] = b[group * 8 + i * 4 + part];
#pragma unroll
  for (int i = 0; i < 2; i++) fd[i] = c[(group + i * 8) * 4 + part];
  asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
      : "+r"(fd[0]), "+r"(fd[1])
      : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
#pragma unroll
  for (int i = 0; i < 2; i++) d[(group + i * 8) * 4 + part] = fd[i];
}

// a: [16, 8] f32, b: [8, 8] f32 (columns), both rounded to tf32 first; d: [16, 8] f32.
extern "C" __global__ void __launch_bounds__(WARP) mma_tf32(const float* a, const float* b, float* d) {
  const int group = threadIdx.x / 4, part = threadIdx.x % 4;
  u32 fa[4], fb[2];
  float fd[4] = {};
#pragma unroll
  for (int i = 0; i < 4; i++)
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(fa[i]) : "f"(a[(group + i % 2 * 8) * 8 + i / 2 * 4 + part]));
#pragma unroll
  for (int i = 0; i < 2; i++) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(fb[i]) : "f"(b[group * 8 + i * 4 + part]));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(fd[0]), "+f"(fd[1]), "+f"(fd[2]), "+f"(fd[3])
      : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
#pragma unroll
  for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + part * 2 + i % 2] = fd[i];
}
