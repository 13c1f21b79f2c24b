// Causal attention of heads with 32 dimensions: o = softmax(scale q k^T) v. q, k, v: [heads, tokens, 32] bf16; o the same in
// f32; lse: [heads, tokens] f32, the logarithm of each row's sum of exponentials, for the backward pass.
//
// A block makes 64 rows with four warps and walks over tiles of 32 keys with a running maximum; k of the next tile is
// copied while this one's v is used, and the other way round. Probabilities are rounded to bf16 for the second product.
// Deterministic: each row is one sum in the order of the keys.
#include "ptx.cuh"

constexpr int DIM = 32, ROWS = 64, KEYS = 32, THREADS = 128;
constexpr int CHUNK = 8, CHUNKS = DIM / CHUNK;  // 16 bytes, and how many a row has

// Four chunks a row, two rows a bank line: permuted so that neither copies nor ldmatrix hit a bank twice.
__device__ __forceinline__ int at(int row, int chunk) { return row * DIM + (chunk ^ (row >> 1 & 3)) * CHUNK; }

// Copies COUNT rows of a head; zeros behind the last.
template <int COUNT>
__device__ __forceinline__ void fetch(bf16* to, const bf16* from, int start, int tokens) {
#pragma unroll
  for (int i = 0; i < COUNT * CHUNKS / THREADS; i++) {
    const int id = threadIdx.x + i * THREADS, row = id / CHUNKS, chunk = id % CHUNKS;
    copy_async(&to[at(row, chunk)], from + (start + row) * DIM + chunk * CHUNK, start + row < tokens ? 16 : 0);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_fwd(const bf16* q, const bf16* k, const bf16* v, float* o, float* lse, int tokens, float scale) {
  alignas(128) __shared__ bf16 tile_q[ROWS * DIM];
  alignas(128) __shared__ bf16 tile_k[KEYS * DIM];
  alignas(128) __shared__ bf16 tile_v[KEYS * DIM];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int row0 = blockIdx.x * ROWS;
  const long long head = (long long)blockIdx.y * tokens;
  q += head * DIM, k += head * DIM, v += head * DIM, o += head * DIM, lse += head;
  const int tiles = (min(row0 + ROWS, tokens) + KEYS - 1) / KEYS;

  fetch<ROWS>(tile_q, q, row0, tokens);
  fetch<KEYS>(tile_k, k, 0, tokens);
  copy_commit();
  fetch<KEYS>(tile_v, v, 0, tokens);
  copy_commit();

  // Of each of the thread's two rows: the largest score, in units of log2, and its share of the sum of exponentials.
  const float scale2 = scale * 1.44269504f;
  float largest[2] = {-INFINITY, -INFINITY}, share[2] = {};
  float out[4][4] = {};
#pragma unroll 1
  for (int tile = 0;; tile++) {
    copy_wait<1>();
    // q and k are there.
    __syncthreads();
    float score[4][4] = {};
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
      u32 fq[4];
      load_matrices(fq, &tile_q[at(16 * warp + lane % 16, 2 * step + lane / 16)]);
#pragma unroll
      for (int pair = 0; pair < 2; pair++) {
        u32 fk[4];
        load_matrices(fk, &tile_k[at(16 * pair + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2)]);
        mma_bf16(score[2 * pair], fq, fk[0], fk[1]);
        mma_bf16(score[2 * pair + 1], fq, fk[2], fk[3]);
      }
    }
    copy_wait<0>();
    // v is there, and k has been read: the next fetch overwrites it.
    __syncthreads();
    const bool more = tile + 1 < tiles;
    if (more) fetch<KEYS>(tile_k, k, (tile + 1) * KEYS, tokens);
    copy_commit();

    u32 prob[2][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = row0 + 16 * warp + 8 * half + lane / 4;
      float top = largest[half];
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& s = score[j][2 * half + e];
          s = tile * KEYS + 8 * j + lane % 4 * 2 + e <= row ? s * scale2 : -INFINITY;
          top = fmaxf(top, s);
        }
      // Four lanes share a row.
      top = fmaxf(top, __shfl_xor_sync(ALL, top, 1));
      top = fmaxf(top, __shfl_xor_sync(ALL, top, 2));
      const float shrink = exp2_approx(largest[half] - top);
      largest[half] = top;
      share[half] *= shrink;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        out[j][2 * half] *= shrink;
        out[j][2 * half + 1] *= shrink;
        const float p0 = exp2_approx(score[j][2 * half] - top), p1 = exp2_approx(score[j][2 * half + 1] - top);
        share[half] += p0 + p1;
        // The accumulator's layout is that of the next product's first factor.
        prob[j / 2][j % 2 * 2 + half] = pack_bf16(p0, p1);
      }
    }
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++)
#pragma unroll
      for (int pair = 0; pair < 2; pair++) {
        u32 fv[4];
        load_matrices_transposed(fv, &tile_v[at(16 * step + lane % 16, 2 * pair + lane / 16)]);
        mma_bf16(out[2 * pair], prob[step], fv[0], fv[1]);
        mma_bf16(out[2 * pair + 1], prob[step], fv[2], fv[3]);
      }
    if (!more) break;
    // v has been read: the fetch overwrites it.
    __syncthreads();
    fetch<KEYS>(tile_v, v, (tile + 1) * KEYS, tokens);
    copy_commit();
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row0 + 16 * warp + 8 * half + lane / 4;
    float sum = share[half];
    sum += __shfl_xor_sync(ALL, sum, 1);
    sum += __shfl_xor_sync(ALL, sum, 2);
    if (row >= tokens) continue;
#pragma unroll
    for (int j = 0; j < 4; j++)
      *reinterpret_cast<float2*>(&o[row * DIM + 8 * j + lane % 4 * 2]) =
          make_float2(out[j][2 * half] / sum, out[j][2 * half + 1] / sum);
    if (lane % 4 == 0) lse[row] = (largest[half] + log2_approx(sum)) * 0.693147181f;
  }
}
