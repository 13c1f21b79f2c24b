// Attention backward on tensor cores; kernels/attention_bwd.cu says what it computes.
//
// One scheme for all gradients. A block has a tile of rows of its own: keys and values for dk and dv, queries and dout for dq.
// The others stream by, in tiles of TILE rows of both matrices through a ring of STAGES stages, and are used STEP rows at a time.
// With own matrices x, y and streamed ones u, w: s = x u^T gives p, y w^T - delta gives ds, and sums grow by ds u and, for
// dv, p w. A warp has 16 M own rows; scores stay in its registers: rounded to bf16, the accumulators of the first products are the left
// operands of the second.
#pragma once

#include "attention.cuh"

namespace attention {

// Which gradients a kernel computes.
enum class Want { Q, K, V, KV };

template <int D_, int M_, int WARPS_, int STEP_, int TILE_, int STAGES_, bool KEEP_> struct BackwardPlan {
  static constexpr int D = D_, M = M_, WARPS = WARPS_, STEP = STEP_, TILE = TILE_, STAGES = STAGES_;
  static constexpr bool KEEP = KEEP_;  // own rows in registers
  static constexpr int THREADS = 32 * WARPS, ROWS = 16 * M * WARPS;
  static constexpr int OWN_BYTES = ROWS * 2 * D, SLOT_BYTES = TILE * 2 * D, STAGE_BYTES = 2 * SLOT_BYTES;
  static constexpr int STATS_BYTES = 2 * TILE * 4;  // lse and delta of streamed queries
  static constexpr int RING_BYTES = STAGES * (STAGE_BYTES + STATS_BYTES);
  static constexpr int SMEM_BYTES = RING_BYTES + (KEEP ? 0 : 2 * OWN_BYTES);
  static_assert(SMEM_BYTES <= 99 * 1024, "the block fits every GPU from sm_80 on");
  static_assert(!KEEP || 2 * OWN_BYTES <= STAGES * STAGE_BYTES, "own rows pass through the ring on their way to registers");
  static_assert(OWN_BYTES <= STAGES * STAGE_BYTES, "results pass through the ring on their way out");
  static_assert(TILE % STEP == 0 && STEP % 16 == 0, "whole fragments");
};

// What limits each: registers. A thread holds M D / 4 of each own matrix (KEEP), M D / 2 of each sum, and twice M STEP / 2 of scores.
// Two sums beside own rows go up to D = 128 with M = 1; up to 64, M = 2 halves the reads of shared memory for each product. Where
// own rows are not kept (256), they are read again for each step. 8 warps a multiprocessor in any case.
template <int D, Want WANT> struct BackwardOf;
template <Want WANT> struct BackwardOf<32, WANT> { using Plan = BackwardPlan<32, 2, 4, 32, 64, 3, true>; };
template <Want WANT> struct BackwardOf<64, WANT> { using Plan = BackwardPlan<64, 2, 4, WANT == Want::Q ? 32 : 16, 64, 3, true>; };
template <Want WANT> struct BackwardOf<96, WANT> { using Plan = BackwardPlan<96, 1, 8, 32, 32, 4, true>; };
template <Want WANT> struct BackwardOf<128, WANT> { using Plan = BackwardPlan<128, 1, 8, 32, 32, 4, true>; };
template <Want WANT> struct BackwardOf<192, WANT> { using Plan = BackwardPlan<192, 1, 4, 32, 32, 2, true>; };
template <Want WANT> struct BackwardOf<256, WANT> { using Plan = BackwardPlan<256, 1, 4, 16, 16, 2, false>; };

template <class P, Want WANT, bool ALIGNED> __device__ __forceinline__ void backward(const BackwardArguments<bf16>& a) {
  constexpr int D = P::D, M = P::M, STEP = P::STEP, TILE = P::TILE;
  constexpr bool OWN_KEYS = WANT != Want::Q;
  constexpr bool DS = WANT != Want::V;                      // sums of ds u
  constexpr bool P_W = WANT == Want::V || WANT == Want::KV;  // sums of p w
  using L = Layout<D>;
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 ring = shared_address(smem), stats = ring + P::STAGES * P::STAGE_BYTES;
  const u32 own = P::KEEP ? ring : ring + P::RING_BYTES;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * M;
  const bool want_ds = DS && (WANT != Want::KV || a.dk.data != nullptr), want_p = P_W && (WANT != Want::KV || a.dv.data != nullptr);

  // Query heads share the keys of one block, which takes them one after the other; queries have one head.
  const int kv_head = OWN_KEYS ? blockIdx.y : blockIdx.y / a.group;
  const int first_head = OWN_KEYS ? kv_head * a.group : blockIdx.y, heads = OWN_KEYS ? a.group : 1;
  const Sequence seq = Sequence::of_tile(a.tiles, a.q_spans, a.k_spans, a.causal, a.window);
  const int rows = min((OWN_KEYS ? seq.keys : seq.queries) - seq.first, P::ROWS), others = OWN_KEYS ? seq.queries : seq.keys;
  const auto range = [&](int row) {
    return OWN_KEYS ? seq.queries_of(seq.first + row) : seq.keys_of(seq.first + row);
  };
  const int begin = range(0).begin / TILE * TILE, end = range(rows - 1).end;
  const int tiles = max((end - begin + TILE - 1) / TILE, 0) * heads;

  const Rows<const bf16> q = a.q.at(seq.q_begin, first_head * a.dim), dout = a.dout.at(seq.q_begin, first_head * a.dim);
  const Rows<const bf16> k = a.k.at(seq.k_begin, kv_head * a.dim), v = a.v.at(seq.k_begin, kv_head * a.dim);
  fetch<D, P::ROWS, P::THREADS, ALIGNED>(own, (OWN_KEYS ? k : q).at(seq.first, 0), rows, a.dim);
  if constexpr (DS) fetch<D, P::ROWS, P::THREADS, ALIGNED>(own + P::OWN_BYTES, (OWN_KEYS ? v : dout).at(seq.first, 0), rows, a.dim);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();  // Hazard: a warp's own rows were copied by other threads too.
  Left<D, M, P::KEEP> x, y;
  x.take(own, warp_row);
  if constexpr (DS) y.take(own + P::OWN_BYTES, warp_row);
  if constexpr (P::KEEP) __syncthreads();  // Hazard: the ring overwrites the own rows that are now in registers.

  // The tile that is brought next, and the one that is used.
  int next_first = begin, next_head = 0, next_slot = 0;
  auto bring = [&]() {
    if (next_head < heads) {
      const Rows<const bf16> u = (OWN_KEYS ? q : k).at(next_first, next_head * a.dim);
      const Rows<const bf16> w = (OWN_KEYS ? dout : v).at(next_first, next_head * a.dim);
      const u32 to = ring + next_slot * P::STAGE_BYTES;
      fetch<D, TILE, P::THREADS, ALIGNED>(to, u, others - next_first, a.dim);
      fetch<D, TILE, P::THREADS, ALIGNED>(to + P::SLOT_BYTES, w, others - next_first, a.dim);
      if (OWN_KEYS && threadIdx.x < (want_ds ? 2 : 1) * TILE) {
        const int row = threadIdx.x % TILE;
        const bool there = next_first + row < others;
        const float* from = threadIdx.x < TILE ? a.lse : a.delta;
        from += (first_head + next_head) * a.lse_stride + seq.q_begin + (there ? next_first + row : 0);
        copy_async_4(stats + next_slot * P::STATS_BYTES + threadIdx.x * 4, from, there ? 4 : 0);
      }
      next_slot = next_slot + 1 == P::STAGES ? 0 : next_slot + 1;
      next_first += TILE;
      if (next_first >= end) {
        next_first = begin;
        next_head++;
      }
    }
    copy_async_commit();
  };
  static_assert(2 * TILE <= P::THREADS, "a thread copies one of lse and delta");
  if (tiles == 0) next_head = heads;
#pragma unroll
  for (int stage = 0; stage < P::STAGES - 1; stage++) bring();

  const float scale2 = a.scale * LOG2_E;
  float own_lse2[M][2], own_delta[M][2];
  if constexpr (!OWN_KEYS) {
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = warp_row + m * 16 + half * 8 + lane / 4;
        const i64 at = first_head * a.lse_stride + seq.q_begin + seq.first + row;
        own_lse2[m][half] = row < rows ? a.lse[at] * LOG2_E : 0.0f;
        own_delta[m][half] = row < rows ? a.delta[at] : 0.0f;
      }
    }
  }

  // What the warp's first and last row see. Rows from `rows` on are computed as well, and dropped.
  const Range low = range(warp_row), high = range(warp_row + 16 * M - 1);
  float sum_ds[DS ? M : 1][DS ? D / 8 : 1][4] = {}, sum_p[P_W ? M : 1][P_W ? D / 8 : 1][4] = {};
  int first = begin, slot = 0;
#pragma unroll 1
  for (int tile = 0; tile < tiles; tile++) {
    copy_async_wait<P::STAGES - 2>();
    // Hazards: the tile was copied by other threads too; and the stage that is filled next is the one that every warp read last.
    __syncthreads();
    bring();
    const u32 stage = ring + slot * P::STAGE_BYTES, tile_stats = stats + slot * P::STATS_BYTES;
#pragma unroll 1
    for (int step = 0; step < TILE; step += STEP) {
      const int column = first + step;
      if (column >= high.end || column + STEP <= low.begin || warp_row >= rows) continue;
      const u32 u = stage + step * L::ROW_BYTES, w = u + P::SLOT_BYTES;
      const u32 lane_stats = tile_stats + (step + lane % 4 * 2) * 4;  // of this lane's first column
      const bool hidden = column + STEP > low.end || column < high.begin;
      const auto warp_range = [&](int row) { return range(warp_row + row); };

      float p[M][STEP / 8][4] = {};
      add_scores<D, M, STEP>(p, x, u + L::lane_across());
#pragma unroll
      for (int n = 0; n < STEP / 8; n++) {
        float2 lse = {};
        if constexpr (OWN_KEYS) lse = load_shared_float2(lane_stats + n * 32);
        const float lse2[] = {lse.x * LOG2_E, lse.y * LOG2_E};
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
          for (int e = 0; e < 4; e++) {
            p[m][n][e] = exp2_approx(fmaf(p[m][n][e], scale2, -(OWN_KEYS ? lse2[e % 2] : own_lse2[m][e / 2])));
          }
        }
      }
      if (hidden) for_hidden<M, STEP>(column, warp_range, [&](int m, int n, int e) { p[m][n][e] = 0.0f; });
      if constexpr (P_W) {
        if (want_p) add_rows<D, M, STEP>(sum_p, p, w + L::lane_down());
      }
      if constexpr (DS) {
        if (want_ds) {
          float ds[M][STEP / 8][4] = {};
          add_scores<D, M, STEP>(ds, y, w + L::lane_across());
#pragma unroll
          for (int n = 0; n < STEP / 8; n++) {
            float2 delta = {};
            if constexpr (OWN_KEYS) delta = load_shared_float2(lane_stats + TILE * 4 + n * 32);
#pragma unroll
            for (int m = 0; m < M; m++) {
#pragma unroll
              for (int e = 0; e < 4; e++) {
                ds[m][n][e] = p[m][n][e] * (ds[m][n][e] - (OWN_KEYS ? (e % 2 == 0 ? delta.x : delta.y) : own_delta[m][e / 2]));
              }
            }
          }
          // 0 times what is not a number must stay hidden too.
          if (hidden) for_hidden<M, STEP>(column, warp_range, [&](int m, int n, int e) { ds[m][n][e] = 0.0f; });
          add_rows<D, M, STEP>(sum_ds, ds, u + L::lane_down());
        }
      }
    }
    slot = slot + 1 == P::STAGES ? 0 : slot + 1;
    first += TILE;
    if (first >= end) first = begin;
  }

  copy_async_wait<0>();
  __syncthreads();  // Hazard: results leave through the ring, where other warps may still read the last tile.
  const u32 slab = ring + warp_row * L::ROW_BYTES;
  float factor[M][2];
  const auto write = [&](const auto& sum, float times, const Rows<bf16>& to, int to_head) {
#pragma unroll
    for (int m = 0; m < M; m++) factor[m][0] = factor[m][1] = times;
    const i64 row = (OWN_KEYS ? seq.k_begin : seq.q_begin) + seq.first + warp_row;
    write_rows<D, M, ALIGNED>(sum, factor, slab, to.at(row, to_head * a.dim), rows - warp_row, a.dim);
  };
  if constexpr (WANT == Want::Q) write(sum_ds, a.scale, a.dq, first_head);
  if constexpr (OWN_KEYS && DS) {
    if (want_ds) write(sum_ds, a.scale, a.dk, kv_head);
  }
  if constexpr (OWN_KEYS && P_W) {
    if (want_p) write(sum_p, 1.0f, a.dv, kv_head);
  }
}

}  // namespace attention
