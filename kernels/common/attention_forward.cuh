// Attention forward on tensor cores; kernels/attention.cu says what it computes.
//
// A block of WARPS warps has a tile of 16 M WARPS queries of one head, a warp 16 M of them; keys and values stream by in tiles of KEYS
// rows, K0, V0, K1, V1, ..., through a ring of RING slots, so that RING - 1 copies are under way while one tile is used. A
// warp's scores stay in registers: the accumulators of q k^T, rounded to bf16, are the left operand of p v.
#pragma once

#include "attention.cuh"

namespace attention {

template <int D_, int M_, int KEYS_, int RING_, bool Q_IN_REGISTERS_> struct ForwardPlan {
  static constexpr int D = D_, M = M_, KEYS = KEYS_, RING = RING_;
  static constexpr bool Q_IN_REGISTERS = Q_IN_REGISTERS_;
  static constexpr int WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * M * WARPS;
  static constexpr int Q_BYTES = ROWS * 2 * D, SLOT_BYTES = KEYS * 2 * D, SMEM_BYTES = Q_BYTES + RING * SLOT_BYTES;
  // Two blocks a multiprocessor of 164 KiB, each with 1 KiB of the system's.
  static_assert(2 * (SMEM_BYTES + 1024) <= 164 * 1024, "two blocks fit");
};

// What limits each: 32 rows a warp (M = 2) halve the reads of shared memory for each product, and take 64 KEYS / 64 + D registers for
// scores and sums, so they end at D = 128; q is held in registers where these allow it (M D / 4). The ring is as long as two
// blocks allow.
template <int D> struct ForwardOf;
template <> struct ForwardOf<32> { using Plan = ForwardPlan<32, 2, 64, 4, true>; };
template <> struct ForwardOf<64> { using Plan = ForwardPlan<64, 2, 64, 4, true>; };
template <> struct ForwardOf<96> { using Plan = ForwardPlan<96, 2, 64, 4, false>; };
template <> struct ForwardOf<128> { using Plan = ForwardPlan<128, 2, 64, 3, false>; };
template <> struct ForwardOf<192> { using Plan = ForwardPlan<192, 1, 32, 4, true>; };
template <> struct ForwardOf<256> { using Plan = ForwardPlan<256, 1, 32, 3, true>; };

// The softmaxes of a warp's rows: this lane has the columns 2 (lane % 4) + {0, 1} of every 8 of the rows lane / 4 + {0, 8} of every 16.
template <class P> struct Softmax {
  float scale2;  // the factor on scores, for powers of 2
  float most[P::M][2], total[P::M][2];  // the largest score; this lane's part of the sum

  __device__ __forceinline__ explicit Softmax(float scale) : scale2(scale * LOG2_E) {
#pragma unroll
    for (int m = 0; m < P::M; m++) {
      most[m][0] = most[m][1] = -INFINITY;
      total[m][0] = total[m][1] = 0.0f;
    }
  }

  // Turns scores into 2^(scaled score - that of the largest so far); where the largest rises, the sums so far shrink with it.
  __device__ __forceinline__ void take_in(float (&s)[P::M][P::KEYS / 8][4], float (&sum)[P::M][P::D / 8][4]) {
#pragma unroll
    for (int m = 0; m < P::M; m++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float top = s[m][0][2 * half];
#pragma unroll
        for (int n = 0; n < P::KEYS / 8; n++) top = fmaxf(top, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
        top = fmaxf(top, most[m][half]);
        // A row that has seen nothing yet keeps p = 0. Where the largest stays, the factor is exactly 1.
        const float finite = top == -INFINITY ? 0.0f : top, base = finite * scale2;
        const float shrink = exp2_approx((most[m][half] - finite) * scale2);
        most[m][half] = top;
        float part = 0.0f;
#pragma unroll
        for (int n = 0; n < P::KEYS / 8; n++) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; e++) {
            s[m][n][e] = exp2_approx(fmaf(s[m][n][e], scale2, -base));
            part += s[m][n][e];
          }
        }
        total[m][half] = fmaf(total[m][half], shrink, part);
#pragma unroll
        for (int n = 0; n < P::D / 8; n++) {
          sum[m][n][2 * half] *= shrink;
          sum[m][n][2 * half + 1] *= shrink;
        }
      }
    }
  }
};

template <class P, bool ALIGNED> __device__ __forceinline__ void forward(const ForwardArguments<bf16>& a) {
  constexpr int D = P::D, M = P::M, KEYS = P::KEYS;
  using L = Layout<D>;
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 q_tile = shared_address(smem), ring = q_tile + P::Q_BYTES;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * M, head = blockIdx.y, kv_head = head / a.group;

  const Sequence seq = Sequence::of_tile(a.tiles, a.q_spans, a.k_spans, a.causal, a.window);
  const int rows = min(seq.queries - seq.first, P::ROWS);
  const int begin = seq.keys_of(seq.first).begin / KEYS * KEYS, end = seq.keys_of(seq.first + rows - 1).end;
  const int tiles = max((end - begin + KEYS - 1) / KEYS, 0);
  const Rows<const bf16> keys = a.k.at(seq.k_begin, kv_head * a.dim), values = a.v.at(seq.k_begin, kv_head * a.dim);

  // The tile with a number: 2 j of keys, 2 j + 1 of values.
  auto bring = [&](int number) {
    if (number < 2 * tiles) {
      const int first = begin + number / 2 * KEYS;
      const Rows<const bf16>& from = number % 2 == 0 ? keys : values;
      fetch<D, KEYS, P::THREADS, ALIGNED>(ring + number % P::RING * P::SLOT_BYTES, from.at(first, 0), seq.keys - first, a.dim);
    }
    copy_async_commit();
  };
  fetch<D, P::ROWS, P::THREADS, ALIGNED>(q_tile, a.q.at(seq.q_begin + seq.first, head * a.dim), rows, a.dim);
  copy_async_commit();
#pragma unroll
  for (int number = 0; number < P::RING - 1; number++) bring(number);

  copy_async_wait<P::RING - 1>();
  __syncthreads();  // Hazard: a warp's queries were copied by other threads too.
  Left<D, M, P::Q_IN_REGISTERS> q;
  q.take(q_tile, warp_row);

  // What the warp's first and last row see. Rows from `rows` on are computed as well, and dropped.
  const Range low = seq.keys_of(seq.first + warp_row), high = seq.keys_of(seq.first + warp_row + 16 * M - 1);
  Softmax<P> softmax(a.scale);
  float sum[M][D / 8][4] = {};
#pragma unroll 1
  for (int j = 0; j < tiles; j++) {
    const int first = begin + j * KEYS;
    const bool seen = first < high.end && first + KEYS > low.begin && warp_row < rows;
    float s[M][KEYS / 8][4] = {};

    copy_async_wait<P::RING - 2>();
    // Hazards: the keys were copied by other threads too; and the slot that is filled next is the one that every warp read last.
    __syncthreads();
    bring(2 * j + P::RING - 1);
    if (seen) {
      add_scores<D, M, KEYS>(s, q, ring + 2 * j % P::RING * P::SLOT_BYTES + L::lane_across());
      // Some row does not see some key.
      if (first + KEYS > low.end || first < high.begin) {
        const auto range = [&](int row) { return seq.keys_of(seq.first + warp_row + row); };
        for_hidden<M, KEYS>(first, range, [&](int m, int n, int e) { s[m][n][e] = -INFINITY; });
      }
      softmax.take_in(s, sum);
    }

    copy_async_wait<P::RING - 2>();
    // Hazards: as above, of the values.
    __syncthreads();
    bring(2 * j + 1 + P::RING - 1);
    if (seen) add_rows<D, M, KEYS>(sum, s, ring + (2 * j + 1) % P::RING * P::SLOT_BYTES + L::lane_down());
  }

  float inverse[M][2];
#pragma unroll
  for (int m = 0; m < M; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float total = softmax.total[m][half];
      total += __shfl_xor_sync(0xffffffff, total, 1);
      total += __shfl_xor_sync(0xffffffff, total, 2);
      // Who sees nothing gets nothing.
      inverse[m][half] = total == 0.0f ? 0.0f : 1.0f / total;
      const int row = warp_row + m * 16 + half * 8 + lane / 4;
      if (lane % 4 == 0 && row < rows) {
        a.lse[head * a.lse_stride + seq.q_begin + seq.first + row] = softmax.most[m][half] * a.scale + logf(total);
      }
    }
  }
  // The warp's rows of the tile of queries, which no other warp reads, become its way out.
  __syncwarp();  // Hazard: other lanes' reads of them.
  write_rows<D, M, ALIGNED>(sum, inverse, q_tile + warp_row * L::ROW_BYTES,
                            a.out.at(seq.q_begin + seq.first + warp_row, head * a.dim), rows - warp_row, a.dim);
}

}  // namespace attention
