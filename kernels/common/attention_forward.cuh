// Attention forward on tensor cores; kernels/attention.cu says what it computes, kernels/kv_prefill.cu does so over pages.
//
// A block of WARPS warps has a tile of 16 M WARPS queries of one head, a warp 16 M of them; keys and values stream by in tiles of KEYS
// rows, K0, V0, K1, V1, ..., through a ring of RING slots, so that RING - 1 copies are under way while one tile is used. A
// warp's scores stay in registers: the accumulators of q k^T, rounded to half_t, are the left operand of p v.
#pragma once

#include "attention.cuh"

namespace attention {

template <int D_, int M_, int KEYS_, int RING_, bool Q_IN_REGISTERS_> struct ForwardPlan {
  static constexpr int D = D_, M = M_, KEYS = KEYS_, RING = RING_;
  static constexpr bool Q_IN_REGISTERS = Q_IN_REGISTERS_;
  static constexpr int WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * M * WARPS;
  static constexpr int Q_BYTES = ROWS * 2 * D, SLOT_BYTES = KEYS * 2 * D, KEPT_AT = Q_BYTES + RING * SLOT_BYTES;
  static constexpr int SMEM_BYTES = KEPT_AT + KEPT_BYTES;
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

  __device__ __forceinline__ explicit Softmax(float scale2) : scale2(scale2) {
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

// `from` says where the block's sequence, keys and values are (Packed).
template <class P, class From, class Arguments> __device__ __forceinline__ void forward(const From& from, const Arguments& a) {
  constexpr int D = P::D, M = P::M, KEYS = P::KEYS;
  using L = Layout<D>;
  extern __shared__ __align__(128) unsigned char smem[];
  // What a block works on, for where it is seldom needed: registers are short in the loop.
  struct Kept {
    Sequence seq;
    int begin, left;                    // the first key of the first tile, the keys from there on
    int tiles, first_whole, first_cut;  // tiles that some row sees; those between the latter are seen by all rows
    typename From::Stream stream;       // keys and values from `begin` on
  };
  static_assert(sizeof(Kept) <= KEPT_BYTES, "there is room for it");
  Kept& kept = *reinterpret_cast<Kept*>(smem + P::KEPT_AT);
  const u32 q_tile = shared_address(smem), ring = q_tile + P::Q_BYTES;
  const int head = blockIdx.y, kv_head = head / a.group;
  const auto warp_row = [] { return thread_again() / 32 * 16 * M; };

  const Sequence seq = from.sequence();
  const int rows = min(seq.queries - seq.first, P::ROWS);
  // What the block's first and last row see.
  const Range low = seq.keys_of(seq.first), high = seq.keys_of(seq.first + rows - 1);
  const int begin = low.begin / KEYS * KEYS;
  if (threadIdx.x == 0) {
    kept.seq = seq;
    kept.begin = begin;
    kept.left = seq.keys - begin;
    kept.tiles = max((high.end - begin + KEYS - 1) / KEYS, 0);
    kept.first_whole = min((high.begin - begin + KEYS - 1) / KEYS, kept.tiles);
    kept.first_cut = (low.end - begin) / KEYS;
    kept.stream = from.stream(seq, kv_head, begin);
  }
  from.with_alignment([&](auto aligned) {
    constexpr bool ALIGNED = decltype(aligned)::value;
    fetch<D, P::ROWS, P::THREADS, ALIGNED>(q_tile, a.q.at(seq.q_begin + seq.first, head * a.dim), rows, a.dim);
  });
  copy_async_commit();
  __syncthreads();  // Hazard: `kept` was written by one thread.

  // The tile with a number: 2 j of keys, 2 j + 1 of values.
  auto bring = [&](int number) {
    if (number < 2 * kept.tiles) {
      const int first = number / 2 * KEYS;
      const Rows<const half_t> tile = from.rows(kept.stream, number % 2, first);
      fetch<D, KEYS, P::THREADS, From::KEYS_ALIGNED>(ring + number % P::RING * P::SLOT_BYTES, tile, kept.left - first, a.dim);
    }
    copy_async_commit();
  };
#pragma unroll 1
  for (int number = 0; number < P::RING - 1; number++) bring(number);

  copy_async_wait<P::RING - 1>();
  __syncthreads();  // Hazard: a warp's queries were copied by other threads too.
  Left<D, M, P::Q_IN_REGISTERS> q;
  q.take(q_tile, warp_row());

  Softmax<P> softmax(a.scale2);
  float sum[M][D / 8][4] = {};
  // CUT: some row of the block does not see some key of the tile. The others, most of them, do not pay for that.
  const auto use = [&](int j, auto cut) {
    constexpr bool CUT = decltype(cut)::value;
    bool seen = true;         // whether the warp's rows see any of the keys
    float s[M][KEYS / 8][4];  // where `seen`

    copy_async_wait<P::RING - 2>();
    // Hazards: the keys were copied by other threads too; and the slot that is filled next is the one that every warp read last.
    __syncthreads();
    bring(2 * j + P::RING - 1);
    const int own = CUT ? kept.seq.first + warp_row() : 0, first = CUT ? kept.begin + j * KEYS : 0;
    const auto range = [&](int row) { return kept.seq.keys_of(own + row); };
    // Rows from `rows` on are computed as well, and dropped.
    if constexpr (CUT) {
      seen = own < kept.seq.queries && first < range(16 * M - 1).end && first + KEYS > range(0).begin;
    }
    if (seen) {
      clear(s);
      add_scores<D, M, KEYS>(s, q, ring + 2 * j % P::RING * P::SLOT_BYTES + L::lane_across());
      if constexpr (CUT) for_hidden<M, KEYS>(first, range, [&](int m, int n, int e) { s[m][n][e] = -INFINITY; });
      softmax.take_in(s, sum);
    }

    copy_async_wait<P::RING - 2>();
    // Hazards: as above, of the values.
    __syncthreads();
    bring(2 * j + 1 + P::RING - 1);
    if (seen) add_rows<D, M, KEYS>(sum, s, ring + (2 * j + 1) % P::RING * P::SLOT_BYTES + L::lane_down());
  };
  int j = 0;
#pragma unroll 1
  while (j < kept.tiles) {
#pragma unroll 1
    for (; j >= kept.first_whole && j < kept.first_cut; j++) use(j, No());
#pragma unroll 1
    for (; j < kept.tiles && (j < kept.first_whole || j >= kept.first_cut); j++) use(j, Yes());
  }

  const int first_row = warp_row(), own_rows = min(kept.seq.queries - kept.seq.first, P::ROWS) - first_row;  // of the warp
  const int out_head = block_row_again();
  const i64 out_row = kept.seq.q_begin + kept.seq.first + first_row;
  const int lane = thread_again() % 32;
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
      const int row = m * 16 + half * 8 + lane / 4;
      if (lane % 4 == 0 && row < own_rows) {
        from.save(out_head, out_row + row, softmax.most[m][half], total);
      }
    }
  }
  // The warp's rows of the tile of queries, which no other warp reads, become its way out.
  __syncwarp();  // Hazard: other lanes' reads of them.
  from.with_alignment([&](auto aligned) {
    const Rows<half_t> out = a.out.at(out_row, out_head * a.dim);
    write_rows<D, M, decltype(aligned)::value>(sum, inverse, q_tile + first_row * L::ROW_BYTES, out, own_rows, a.dim);
  });
}

template <class P, bool ALIGNED> __device__ __forceinline__ void forward(const ForwardArguments<half_t>& a) {
  forward<P>(Packed<half_t, ALIGNED>{a}, a);
}

}  // namespace attention
