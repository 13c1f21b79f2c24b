// Attention backward on tensor cores; kernels/attention_bwd.cu says what it computes.
//
// One scheme for all gradients. A block has a tile of rows of its own: keys and values for dk and dv, queries and dout for dq.
// The others stream by, in tiles of TILE rows of both matrices through a ring of STAGES stages, and are used STEP rows at a time.
// With own matrices x, y and streamed ones u, w: s = x u^T gives p, y w^T - delta gives ds, and sums grow by ds u and, for
// dv, p w. A warp has 16 M own rows; scores stay in its registers: rounded to half_t, the accumulators of the first products are the left
// operands of the second.
#pragma once

#include "attention.cuh"

namespace attention {

// Which gradients a kernel computes.
enum class Want { Q, K, V, KV };

template <int D_, int M_, int STEP_, int TILE_, int STAGES_, bool KEEP_X_, bool KEEP_Y_> struct BackwardPlan {
  static constexpr int D = D_, M = M_, WARPS = 4, STEP = STEP_, TILE = TILE_, STAGES = STAGES_;
  static constexpr bool KEEP_X = KEEP_X_, KEEP_Y = KEEP_Y_;  // own rows in registers
  static constexpr int THREADS = 32 * WARPS, ROWS = 16 * M * WARPS;
  // A stage: tiles of u and w, and lse and delta of streamed queries.
  static constexpr int OWN_BYTES = ROWS * 2 * D, TILE_BYTES = TILE * 2 * D, STAGE_BYTES = 2 * TILE_BYTES + 2 * TILE * 4;
  static constexpr int RING_BYTES = STAGES * STAGE_BYTES;
  static constexpr int X_BYTES = KEEP_X ? 0 : OWN_BYTES, Y_BYTES = KEEP_Y ? 0 : OWN_BYTES, KEPT_AT = RING_BYTES + X_BYTES + Y_BYTES;
  static constexpr int SMEM_BYTES = KEPT_AT + KEPT_BYTES;
  static_assert(SMEM_BYTES <= 99 * 1024, "the block fits every GPU from sm_80 on");
  static_assert(2 * OWN_BYTES <= RING_BYTES + X_BYTES + Y_BYTES, "own rows pass through the ring on their way to registers");
  static_assert(OWN_BYTES <= RING_BYTES, "results pass through the ring on their way out");
  static_assert(TILE % STEP == 0 && STEP % 16 == 0, "whole fragments");
};

// What limits each: registers. A thread holds M D / 4 of each own matrix (KEEP), M D / 2 of each sum, and twice M STEP / 2 of scores.
// M = 2, which halves the reads of shared memory for each product, goes up to D = 64, and for keys only with y in shared
// memory; M = 1 with two sums goes up to 128, where shared memory limits; longer heads have a kernel for each sum. Own rows of 256
// elements are not kept: they are read again for each step. Up to 128 two blocks fit every GPU from sm_80 on.
template <int D, Want WANT> struct BackwardOf;
template <Want WANT> struct BackwardOf<32, WANT> { using Plan = BackwardPlan<32, 2, 32, 64, 3, true, true>; };
template <> struct BackwardOf<64, Want::Q> { using Plan = BackwardPlan<64, 2, 32, 32, 4, true, true>; };
template <> struct BackwardOf<64, Want::KV> { using Plan = BackwardPlan<64, 2, 16, 32, 3, true, false>; };
template <Want WANT> struct BackwardOf<96, WANT> { using Plan = BackwardPlan<96, 1, 32, 32, 3, true, true>; };
template <Want WANT> struct BackwardOf<128, WANT> { using Plan = BackwardPlan<128, 1, 32, 32, 3, true, true>; };
template <Want WANT> struct BackwardOf<192, WANT> { using Plan = BackwardPlan<192, 1, 16, 32, 2, true, true>; };
template <Want WANT> struct BackwardOf<256, WANT> { using Plan = BackwardPlan<256, 1, 16, 16, 2, false, false>; };

template <class P, Want WANT, bool ALIGNED> __device__ __forceinline__ void backward(const BackwardArguments<half_t>& a) {
  constexpr int D = P::D, M = P::M, STEP = P::STEP, TILE = P::TILE;
  constexpr bool OWN_KEYS = WANT != Want::Q;
  constexpr bool DS = WANT != Want::V;                      // sums of ds u
  constexpr bool P_W = WANT == Want::V || WANT == Want::KV;  // sums of p w
  using L = Layout<D>;
  extern __shared__ __align__(128) unsigned char smem[];
  // What a block works on, for where it is seldom needed: registers are short in the loop.
  struct Kept {
    Sequence seq;
    int begin, end, others;             // streamed rows: the first of the first tile, behind the last that is seen, all
    int tiles, first_whole, first_cut;  // tiles that some own row sees; those between the latter are seen by all
    const half_t *u, *w;                  // streamed rows from the sequence's first on
    const float *lse, *delta;
  };
  static_assert(sizeof(Kept) <= KEPT_BYTES, "there is room for it");
  Kept& kept = *reinterpret_cast<Kept*>(smem + P::KEPT_AT);
  const u32 ring = shared_address(smem);
  const u32 own_x = P::KEEP_X ? ring : ring + P::RING_BYTES;
  const u32 own_y = P::KEEP_Y ? ring + P::OWN_BYTES : ring + P::RING_BYTES + P::X_BYTES;
  const auto warp_row = [] { return thread_again() / 32 * 16 * M; };
  const bool want_ds = DS && (WANT != Want::KV || a.dk.data != nullptr), want_p = P_W && (WANT != Want::KV || a.dv.data != nullptr);

  // Query heads share the keys of one block, which takes them one after the other; queries have one head.
  const int kv_head = OWN_KEYS ? blockIdx.y : blockIdx.y / a.group;
  const int first_head = OWN_KEYS ? kv_head * a.group : blockIdx.y, heads = OWN_KEYS ? a.group : 1;
  const auto range_of = [&](const Sequence& seq, int row) {
    return OWN_KEYS ? seq.queries_of(seq.first + row) : seq.keys_of(seq.first + row);
  };
  const auto rows_of = [&](const Sequence& seq) { return min((OWN_KEYS ? seq.keys : seq.queries) - seq.first, P::ROWS); };
  float own_lse2[M][2], own_delta[M][2];
  {
    const Sequence seq = Sequence::of_tile(a.tiles, a.q_spans, a.k_spans, a.causal, a.window);
    const int rows = rows_of(seq);
    const Rows<const half_t> q = a.q.at(seq.q_begin, first_head * a.dim), dout = a.dout.at(seq.q_begin, first_head * a.dim);
    const Rows<const half_t> k = a.k.at(seq.k_begin, kv_head * a.dim), v = a.v.at(seq.k_begin, kv_head * a.dim);
    const i64 first_query = first_head * a.lse_stride + seq.q_begin;
    if (threadIdx.x == 0) {
      // What the block's first and last row see.
      const Range low = range_of(seq, 0), high = range_of(seq, rows - 1);
      kept.seq = seq;
      kept.begin = low.begin / TILE * TILE;
      kept.end = high.end;
      kept.others = OWN_KEYS ? seq.queries : seq.keys;
      kept.tiles = max((high.end - kept.begin + TILE - 1) / TILE, 0);
      kept.first_whole = min((high.begin - kept.begin + TILE - 1) / TILE, kept.tiles);
      kept.first_cut = max((low.end - kept.begin) / TILE, kept.first_whole);
      kept.u = (OWN_KEYS ? q : k).data;
      kept.w = (OWN_KEYS ? dout : v).data;
      kept.lse = a.lse + first_query;
      kept.delta = a.delta + first_query;
    }
    fetch<D, P::ROWS, P::THREADS, ALIGNED>(own_x, (OWN_KEYS ? k : q).at(seq.first, 0), rows, a.dim);
    if constexpr (DS) fetch<D, P::ROWS, P::THREADS, ALIGNED>(own_y, (OWN_KEYS ? v : dout).at(seq.first, 0), rows, a.dim);
    copy_async_commit();
    if constexpr (!OWN_KEYS) {
#pragma unroll
      for (int m = 0; m < M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int row = warp_row() + m * 16 + half * 8 + threadIdx.x % 32 / 4;
          own_lse2[m][half] = row < rows ? a.lse[first_query + seq.first + row] * LOG2_E : 0.0f;
          own_delta[m][half] = row < rows ? a.delta[first_query + seq.first + row] : 0.0f;
        }
      }
    }
  }
  copy_async_wait<0>();
  __syncthreads();  // Hazards: a warp's own rows were copied by other threads too; `kept` was written by one.
  Left<D, M, P::KEEP_X> x;
  Left<D, M, P::KEEP_Y> y;
  x.take(own_x, warp_row());
  if constexpr (DS) y.take(own_y, warp_row());
  if constexpr (P::KEEP_X || P::KEEP_Y) __syncthreads();  // Hazard: the ring overwrites the own rows that are now in registers.

  // Tiles are numbered through the query heads.
  const auto count = [&] { return OWN_KEYS ? heads * kept.tiles : kept.tiles; };
  const auto bring = [&](int number) {
    if (number < count()) {
      const int head = OWN_KEYS ? number / kept.tiles : 0, j = number - head * kept.tiles;
      const int first = kept.begin + j * TILE, there = kept.others - first;
      const Rows<const half_t> u = {kept.u, OWN_KEYS ? a.q.stride : a.k.stride}, w = {kept.w, OWN_KEYS ? a.dout.stride : a.v.stride};
      const u32 to = ring + number % P::STAGES * P::STAGE_BYTES;
      fetch<D, TILE, P::THREADS, ALIGNED>(to, u.at(first, head * a.dim), there, a.dim);
      fetch<D, TILE, P::THREADS, ALIGNED>(to + P::TILE_BYTES, w.at(first, head * a.dim), there, a.dim);
      const int thread = thread_again();
      if (OWN_KEYS && thread < (want_ds ? 2 : 1) * TILE) {
        const int row = thread % TILE;
        const float* from = (thread < TILE ? kept.lse : kept.delta) + head * a.lse_stride + (row < there ? first + row : 0);
        copy_async_4(to + 2 * P::TILE_BYTES + thread * 4, from, row < there ? 4 : 0);
      }
    }
    copy_async_commit();
  };
  static_assert(2 * TILE <= P::THREADS, "a thread copies one of lse and delta");
#pragma unroll 1
  for (int stage = 0; stage < P::STAGES - 1; stage++) bring(stage);

  float sum_ds[DS ? M : 1][DS ? D / 8 : 1][4] = {}, sum_p[P_W ? M : 1][P_W ? D / 8 : 1][4] = {};
  // CUT: some own row does not see some row of the tile. The others, most of them, do not pay for that.
  const auto use = [&](int number, int j, auto cut) {
    constexpr bool CUT = decltype(cut)::value;
    copy_async_wait<P::STAGES - 2>();
    // Hazards: the tile was copied by other threads too; and the stage that is filled next is the one that every warp read last.
    __syncthreads();
    bring(number + P::STAGES - 1);
    const u32 stage = ring + number % P::STAGES * P::STAGE_BYTES;
#pragma unroll 1
    for (int step = 0; step < TILE; step += STEP) {
      const int column = CUT ? kept.begin + j * TILE + step : 0, first_row = CUT ? warp_row() : 0;
      const auto range = [&](int row) { return range_of(kept.seq, first_row + row); };
      if constexpr (CUT) {
        // The warp sees none of these. Rows that are not there are computed beside others, and dropped.
        if (first_row >= rows_of(kept.seq) || column >= range(16 * M - 1).end || column + STEP <= range(0).begin) continue;
      }
      const u32 u = stage + step * L::ROW_BYTES, w = u + P::TILE_BYTES;
      // lse and, a tile further on, delta of this lane's first column.
      const auto stats = [&] { return stage + 2 * P::TILE_BYTES + (step + threadIdx.x % 4 * 2) * 4; };

      float p[M][STEP / 8][4];
      clear(p);
      add_scores<D, M, STEP>(p, x, u + L::lane_across());
      const u32 lane_lse = stats();
#pragma unroll
      for (int n = 0; n < STEP / 8; n++) {
        float2 lse = {};
        if constexpr (OWN_KEYS) lse = load_shared_float2(lane_lse + n * 32);
        const float lse2[] = {lse.x * LOG2_E, lse.y * LOG2_E};
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
          for (int e = 0; e < 4; e++) {
            p[m][n][e] = exp2_approx(fmaf(p[m][n][e], a.scale2, -(OWN_KEYS ? lse2[e % 2] : own_lse2[m][e / 2])));
          }
        }
      }
      if constexpr (CUT) for_hidden<M, STEP>(column, range, [&](int m, int n, int e) { p[m][n][e] = 0.0f; });
      if constexpr (P_W) {
        if (want_p) add_rows<D, M, STEP>(sum_p, p, w + L::lane_down());
      }
      if constexpr (DS) {
        if (want_ds) {
          float ds[M][STEP / 8][4];
          clear(ds);
          add_scores<D, M, STEP>(ds, y, w + L::lane_across());
          const u32 lane_delta = stats() + TILE * 4;
#pragma unroll
          for (int n = 0; n < STEP / 8; n++) {
            float2 delta = {};
            if constexpr (OWN_KEYS) delta = load_shared_float2(lane_delta + n * 32);
#pragma unroll
            for (int m = 0; m < M; m++) {
#pragma unroll
              for (int e = 0; e < 4; e++) {
                ds[m][n][e] = p[m][n][e] * (ds[m][n][e] - (OWN_KEYS ? (e % 2 == 0 ? delta.x : delta.y) : own_delta[m][e / 2]));
              }
            }
          }
          // 0 times what is not a number must stay hidden too.
          if constexpr (CUT) for_hidden<M, STEP>(column, range, [&](int m, int n, int e) { ds[m][n][e] = 0.0f; });
          add_rows<D, M, STEP>(sum_ds, ds, u + L::lane_down());
        }
      }
    }
  };
#pragma unroll 1
  for (int number = 0; number < count(); number++) {
    const int j = OWN_KEYS ? number % kept.tiles : number;
    if (j >= kept.first_whole && j < kept.first_cut) {
      use(number, j, No());
    } else {
      use(number, j, Yes());
    }
  }

  copy_async_wait<0>();
  __syncthreads();  // Hazard: results leave through the ring, where other warps may still read the last tile.
  const int first_row = warp_row(), own_rows = rows_of(kept.seq) - first_row;  // of the warp
  const i64 out_row = (OWN_KEYS ? kept.seq.k_begin : kept.seq.q_begin) + kept.seq.first + first_row;
  const u32 slab = ring + first_row * L::ROW_BYTES;
  const auto write = [&](const auto& sum, float times, const Rows<half_t>& to, int to_head) {
    float factor[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) factor[m][0] = factor[m][1] = times;
    write_rows<D, M, ALIGNED>(sum, factor, slab, to.at(out_row, to_head * a.dim), own_rows, a.dim);
  };
  if constexpr (WANT == Want::Q) write(sum_ds, a.scale, a.dq, block_row_again());
  if constexpr (OWN_KEYS && DS) {
    if (want_ds) write(sum_ds, a.scale, a.dk, block_row_again());
  }
  if constexpr (OWN_KEYS && P_W) {
    if (want_p) write(sum_p, 1.0f, a.dv, block_row_again());
  }
}

}  // namespace attention
