// The choice of the next token of each row of logits.
//
//   s = l, of tokens in the history l penalty (l < 0) or l / penalty
//   w = e^((s - max s) (1 / temperature)), without those below the k-th largest s
//   in the order of falling w (of equals, of rising id), those before which the sum of w is less than top_p of all; of these w >= min_p
//   id = the first, by id, at which the sum of w exceeds uniform times the sum of all
//
// Shapes: logits f32 [rows, vocab]; scratch f32 as large (s, then w); tokens u32 [rows, capacity], lengths u32 [rows]; uniforms f32 [rows]; ids
// u32 [rows]: NONE for a row in which a logit is not a number, or the largest is not finite. No backward. ids and scratch are overwritten.
// Deterministic, and the same ids as on the CPU (src/ops/sample/cpu.rs): w is computed there with the same operations, and sums are of whole
// numbers of 2^-31, which no order changes.
//
// One block a row, whose V words are read, from L2 mostly: once for the maximum, 4 times each for top-k and top-p, and twice for the rest.
// The k-th largest and the end of top-p are found digit by digit: a histogram of the next 8 bits of the keys that begin with what is
// known, of their number or of their sum. A histogram has a copy for each lane, in the lane's bank of shared memory: however the
// logits crowd into a few bins, a warp's additions do not collide. 64 rows of 128 Ki words are modelled to take 0.14 ms on an A100 with
// top-p, 0.2 ms with top-k too: a block's instructions are the limit, not the bytes. The greedy choice alone has kernels of its own, with
// many blocks a row.

#include "common/elements.cuh"

constexpr u32 NONE = 0xffffffff;
constexpr int THREADS = 1024, WARPS = THREADS / 32;
constexpr u32 ALL_LANES = 0xffffffff;

// A number that grows with x, for x that is a number; -0 is 0.
__device__ __forceinline__ u32 key_of(float x) {
  const u32 bits = __float_as_uint(x + 0.0f);
  return bits ^ (bits >> 31 ? 0xffffffff : 0x80000000);
}
__device__ __forceinline__ float of_key(u32 key) { return __uint_as_float(key ^ (key >> 31 ? 0x80000000 : 0xffffffff)); }

// e^x for x <= 0, operation for operation that of src/ops/sample/cpu.rs.
__device__ __forceinline__ float power(float x) {
  if (x <= -87.0f) return 0.0f;
  const float n = rintf(__fmul_rn(x, 1.44269504f));
  const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0.693359375f)), __fmul_rn(n, -2.12194440e-4f));
  float q = 0.0013814467f;
  q = __fadd_rn(__fmul_rn(q, r), 0.008368781f);
  q = __fadd_rn(__fmul_rn(q, r), 0.041668393f);
  q = __fadd_rn(__fmul_rn(q, r), 0.1666652f);
  q = __fadd_rn(__fmul_rn(q, r), 0.49999994f);
  const float y = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(r, r), q), r), 1.0f);
  return __uint_as_float(__float_as_uint(y) + (static_cast<u32>(static_cast<int>(n)) << 23));
}

// A weight in whole numbers of 2^-31.
constexpr float UNITS = 2147483648.0f, LEAST = 1.0f / UNITS;
__device__ __forceinline__ u32 mass_of(float weight) { return static_cast<u32>(__fmul_rn(weight, UNITS)); }

// Calls body(i, x[i]) for the block's words, the same thread always for the same word. Loads come together, before what is done with them.
template <class Body> __device__ __forceinline__ void for_words(const float* x, u32 n, Body body) {
  constexpr int FLIGHT = 8;
  u32 i = threadIdx.x;
  for (; i + (FLIGHT - 1) * THREADS < n; i += FLIGHT * THREADS) {
    float values[FLIGHT];
#pragma unroll
    for (int k = 0; k < FLIGHT; k++) values[k] = x[i + k * THREADS];
#pragma unroll
    for (int k = 0; k < FLIGHT; k++) body(i + k * THREADS, values[k]);
  }
  for (; i < n; i += THREADS) body(i, x[i]);
}

template <class T> __device__ __forceinline__ T warp_total(T x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
  return x;
}

__device__ __forceinline__ float warp_largest(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
  return x;
}

// The sum over lanes up to and with this one.
__device__ __forceinline__ u64 warp_scan(u64 x) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const u64 other = __shfl_up_sync(ALL_LANES, x, distance);
    if (threadIdx.x % 32 >= distance) x += other;
  }
  return x;
}

// The sum over the block, for all of its threads.
__device__ __forceinline__ u64 block_total(u64 x) {
  __shared__ u64 parts[WARPS];
  x = warp_total(x);
  __syncthreads();  // Hazard: threads may still read the parts of the sum before.
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();  // Hazard: all read the warps' parts.
  return warp_total(parts[threadIdx.x % 32]);
}

// ---- digit by digit ----

constexpr int BINS = 256, COPIES = 32;
// A bin's sum is kept in two halves, of the lower 16 bits of its terms and of the rest (at most 2^15): a lane adds vocab / 32 of each.
constexpr u32 MAX_VOCAB = 1 << 20;  // src/ops/sample/cuda.rs has the same number
static_assert(u64(MAX_VOCAB / 32) << 16 < u64(1) << 32, "the halves' sums fit");
static_assert(2 * BINS * COPIES * 4 == 64 << 10, "the dynamic shared memory that src/ops/sample/cuda.rs asks for");

// A key, the sum of what has larger keys, and the sum of what has this one.
struct Found {
  u32 key;
  u64 before, own;
};

// Of n words: the largest key such that the values of keys at least as large sum to `limit` or more. The sum of all is at least `limit`,
// which is above 0. COUNTS: all values are 1.
template <bool COUNTS, class Key, class Value>
__device__ __forceinline__ Found find_key(const float* x, u32 n, u64 limit, Key key_of_word, Value value_of_word) {
  extern __shared__ u32 histogram[];
  __shared__ u64 totals[BINS];
  __shared__ Found chosen;
  u32* low = histogram;
  u32* high = histogram + BINS * COPIES;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Found found = {0, 0, 0};
  u32 known = 0;  // bits of the key
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (u32 i = threadIdx.x; i < BINS * COPIES; i += THREADS) {
      low[i] = 0;
      if (!COUNTS) high[i] = 0;
    }
    __syncthreads();  // Hazard: the bins are cleared by other threads than count in them.
    for_words(x, n, [&](u32, float word) {
      const u32 key = key_of_word(word);
      if ((key & known) != found.key) return;
      const u32 bin = (key >> shift & (BINS - 1)) * COPIES + lane;
      if (COUNTS) {
        atomicAdd(&low[bin], 1);
      } else {
        const u32 value = value_of_word(word);
        atomicAdd(&low[bin], value & 0xffff);
        atomicAdd(&high[bin], value >> 16);
      }
    });
    __syncthreads();  // Hazard: the bins are added up by other threads than counted in them.
    for (u32 bin = warp; bin < BINS; bin += WARPS) {
      u64 sum = low[bin * COPIES + lane];
      if (!COUNTS) sum += u64(high[bin * COPIES + lane]) << 16;
      sum = warp_total(sum);
      if (lane == 0) totals[bin] = sum;
    }
    __syncthreads();  // Hazard: warp 0 reads the totals of all warps.
    if (warp == 0) {
      // A lane has 8 neighbouring bins; lane 0 the largest.
      constexpr int OWN = BINS / 32;
      u64 sum = 0;
      for (int i = 0; i < OWN; i++) sum += totals[BINS - 1 - (lane * OWN + i)];
      u64 before = found.before + warp_scan(sum) - sum;
      if (before < limit && before + sum >= limit) {
        int bin = BINS - 1 - lane * OWN;
        while (before + totals[bin] < limit) before += totals[bin--];
        chosen = {found.key | static_cast<u32>(bin) << shift, before, totals[bin]};
      }
    }
    __syncthreads();  // Hazard: all read what a lane of warp 0 chose.
    found = chosen;
    known |= (BINS - 1) << shift;
  }
  return found;
}

// ---- by id ----

constexpr u32 SEGMENT = 1024;

// The first i of n words at which the sum of value(0, x[0]), ..., value(i, x[i]) exceeds target(sum of all), for all threads. The sum of all is
// above the target.
template <class Value, class Target> __device__ __forceinline__ u32 find_id(const float* x, u32 n, Value value, Target target) {
  __shared__ u64 sums[MAX_VOCAB / SEGMENT];
  __shared__ u32 chosen;
  constexpr u32 FLIGHT = 8;
  const u32 lane = threadIdx.x % 32, segments = (n + SEGMENT - 1) / SEGMENT;
  for (u32 segment = threadIdx.x / 32; segment < segments; segment += WARPS) {
    u64 sum = 0;
    u32 i = segment * SEGMENT + lane;
    const u32 end = min((segment + 1) * SEGMENT, n);
    for (; i + (FLIGHT - 1) * 32 < end; i += FLIGHT * 32) {
      float words[FLIGHT];
#pragma unroll
      for (u32 k = 0; k < FLIGHT; k++) words[k] = x[i + k * 32];
#pragma unroll
      for (u32 k = 0; k < FLIGHT; k++) sum += value(i + k * 32, words[k]);
    }
    for (; i < end; i += 32) sum += value(i, x[i]);
    sum = warp_total(sum);
    if (lane == 0) sums[segment] = sum;
  }
  __syncthreads();  // Hazard: warp 0 reads the sums of all warps.
  if (threadIdx.x < 32) {
    const u32 own = (segments + 31) / 32, begin = lane * own, end = min(begin + own, segments);
    u64 sum = 0;
    for (u32 segment = begin; segment < end; segment++) sum += sums[segment];
    const u64 up_to = warp_scan(sum), goal = target(__shfl_sync(ALL_LANES, up_to, 31));
    u64 before = up_to - sum;
    u32 segment = begin;
    const bool mine = before <= goal && goal < up_to;
    while (mine && before + sums[segment] <= goal) before += sums[segment++];
    const int owner = __ffs(__ballot_sync(ALL_LANES, mine)) - 1;
    segment = __shfl_sync(ALL_LANES, segment, owner);
    before = __shfl_sync(ALL_LANES, before, owner);
    for (u32 i = segment * SEGMENT; i < n; i += 32) {
      const u64 with = before + warp_scan(i + lane < n ? value(i + lane, x[i + lane]) : 0u);
      const u32 above = __ballot_sync(ALL_LANES, with > goal);
      if (above != 0) {
        if (lane == 0) chosen = i + __ffs(above) - 1;
        break;
      }
      before = __shfl_sync(ALL_LANES, with, 31);
    }
  }
  __syncthreads();  // Hazard: all read what warp 0 chose.
  return chosen;
}

extern "C" __global__ __launch_bounds__(THREADS) void sample_rows(const float* logits, float* scratch, const u32* tokens, const u32* lengths,
                                                                  u64 capacity, const float* uniforms, u32* ids, u32 vocab,
                                                                  float penalty, float inverse_temperature, u32 top_k, float top_p,
                                                                  float min_p) {
  const u64 row = blockIdx.x;
  const float* source = logits + row * vocab;
  float* weights = scratch + row * vocab;
  if (tokens != nullptr) {
    float* scores = weights;
    for (u32 i = threadIdx.x; i < vocab; i += THREADS) scores[i] = source[i];
    __syncthreads();  // Hazard: scores are changed by other threads than copied them.
    const u64 length = min(u64(lengths[row]), capacity);
    for (u64 i = threadIdx.x; i < length; i += THREADS) {
      // From the logits, not the scores: a token that occurs twice is penalised once, whichever thread is later.
      const u32 id = tokens[row * capacity + i];
      if (id < vocab) scores[id] = source[id] < 0.0f ? __fmul_rn(source[id], penalty) : __fdiv_rn(source[id], penalty);
    }
    __syncthreads();  // Hazard: scores are read by other threads than changed them.
    source = scores;
  }

  float top = -INFINITY;
  bool bad = false;
  for_words(source, vocab, [&](u32, float score) {
    bad |= isnan(score);
    top = fmaxf(top, score);
  });
  __shared__ float of_warps[WARPS];
  top = warp_largest(top);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = top;
  bad = __syncthreads_or(bad);  // Hazard: all read the warps' maxima.
  top = warp_largest(of_warps[threadIdx.x % 32]);
  if (bad || !isfinite(top)) {
    if (threadIdx.x == 0) ids[row] = NONE;
    return;
  }
  if (isinf(inverse_temperature)) {
    const u32 id = find_id(source, vocab, [=](u32, float x) { return x == top ? 1u : 0u; }, [](u64) { return u64(0); });
    if (threadIdx.x == 0) ids[row] = id;
    return;
  }

  float least = -INFINITY;
  if (top_k > 0 && top_k < vocab) {
    const Found kth = find_key<true>(source, vocab, top_k, [](float x) { return key_of(x); }, [](float) { return 1; });
    least = of_key(kth.key);
  }
  u64 total = 0;
  for_words(source, vocab, [&](u32 i, float score) {
    const float weight = score >= least ? power(__fmul_rn(score - top, inverse_temperature)) : 0.0f;
    weights[i] = weight;
    total += mass_of(weight);
  });
  __syncthreads();  // Hazard: weights are read by other threads than wrote them.

  // What is left: weights above `cut`, and those equal to it up to id `last`.
  float cut = 0.0f;
  u32 last = NONE;
  if (top_p < 1.0f) {
    total = block_total(total);
    const u64 limit = max(static_cast<u64>(ceil(static_cast<double>(top_p) * static_cast<double>(total))), u64(1));
    // The bits of weights that count: the distance from the least of them in 28 bits. Without a mass, the key is 0, and adds nothing.
    const u32 base = __float_as_uint(LEAST) - 1;
    const Found end = find_key<false>(
        weights, vocab, limit,
        [=](float weight) {
          const u32 bits = __float_as_uint(weight);
          return bits > base ? (bits - base) << 4 : 0;
        },
        [](float weight) { return mass_of(weight); });
    cut = __uint_as_float((end.key >> 4) + base);
    // Each of these has the same mass, and the last one that is kept is the first to reach the limit.
    const u64 mass = mass_of(cut), kept = (limit - end.before + mass - 1) / mass;
    if (kept * mass < end.own) {
      last = find_id(weights, vocab, [=](u32, float x) { return x == cut ? 1u : 0u; }, [=](u64) { return kept - 1; });
    }
  }
  const float uniform = uniforms[row];
  const u32 id = find_id(
      weights, vocab,
      [=](u32 i, float weight) {
        const bool left = (weight > cut || (weight == cut && i <= last)) && weight >= min_p;
        return left ? mass_of(weight) : 0u;
      },
      [=](u64 sum) {
        // uniform has 24 bits: sum uniform without rounding.
        const u64 numerator = min(static_cast<u64>(__fmul_rn(uniform, 16777216.0f)), u64(0xffffff));
        return __umul64hi(sum, numerator) << 40 | (sum * numerator) >> 24;
      });
  if (threadIdx.x == 0) ids[row] = id;
}

// ---- the most likely token ----

constexpr int PART_THREADS = 256;
constexpr u32 PART = 8192;  // src/ops/sample/cuda.rs has the same number
constexpr u64 BAD = 0xffffffffffffffff;

// Larger for larger x; of equals, for smaller i; the largest for what is not a number.
__device__ __forceinline__ u64 rank_of(float x, u32 i) { return isnan(x) ? BAD : u64(key_of(x)) << 32 | (NONE - i); }

__device__ __forceinline__ u64 warp_max(u64 x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x = max(x, __shfl_xor_sync(ALL_LANES, x, distance));
  return x;
}

// The best of part blockIdx.y of row blockIdx.x.
extern "C" __global__ __launch_bounds__(PART_THREADS) void sample_argmax(const float* logits, u64* best, u32 vocab) {
  __shared__ u64 parts[PART_THREADS / 32];
  const float* row = logits + u64(blockIdx.x) * vocab;
  const u32 end = min((blockIdx.y + 1) * PART, vocab);
  u64 largest = 0;
#pragma unroll 4
  for (u32 i = blockIdx.y * PART + threadIdx.x; i < end; i += PART_THREADS) largest = max(largest, rank_of(row[i], i));
  largest = warp_max(largest);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = largest;
  __syncthreads();  // Hazard: thread 0 reads the warps' best.
  if (threadIdx.x > 0) return;
  for (int warp = 1; warp < PART_THREADS / 32; warp++) largest = max(largest, parts[warp]);
  best[u64(blockIdx.x) * gridDim.y + blockIdx.y] = largest;
}

// The best of a row's parts; a warp has a row.
extern "C" __global__ __launch_bounds__(32) void sample_argmax_finish(const u64* best, u32* ids, u32 parts) {
  u64 largest = 0;
  for (u32 i = threadIdx.x; i < parts; i += 32) largest = max(largest, best[u64(blockIdx.x) * parts + i]);
  largest = warp_max(largest);
  const bool good = largest != BAD && largest != 0 && isfinite(of_key(static_cast<u32>(largest >> 32)));
  if (threadIdx.x == 0) ids[blockIdx.x] = good ? NONE - static_cast<u32>(largest) : NONE;
}
