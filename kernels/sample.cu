// The choice of the next token of each row of logits.
//
//   s = l, of tokens in the history l penalty (l < 0) or l / penalty
//   w = e^((s - max s) (1 / temperature)), without those below the k-th largest s
//   in the order of falling w (of equals, of rising id), those before which the sum of w is less than top_p of all; of these w >= min_p
//   id = the first, by id, at which the sum of w exceeds uniform times the sum of all
//
// Shapes: logits f32 [rows, vocab], and as large scores (with a penalty), candidates and their ids; tokens u32 [rows, capacity], lengths u32
// [rows]; uniforms f32 [rows]; ids u32 [rows]: NONE for a row in which a logit is not a number, or the largest is not finite. No backward.
// Everything is overwritten, but for bins, which are added to.
// Deterministic, and the same ids as on the CPU (src/ops/sample/cpu.rs): w is computed there with the same operations, and sums are of whole
// numbers of 2^-31, which no order changes.
//
// Rows are read by many blocks each, so that a few of them keep a device busy:
//   argmax, penalise   each part's largest score; the latter writes the scores
//   all words:         masses (the sum of w of each segment), draw (a warp finds the segment and the word)
//   top-k or top-p:    counts or weights (of words by their distance from the largest score, in 256 coarse bins), gather (the words of the bins
//                      that the k-th largest, or the end of top-p, may lie in, and of those above), choose (one block, of these few)
// Each pass is bound by its bytes, but for choose, whose words are few unless a distribution is so flat that top-p leaves most of it.
// There the k-th largest and the end of top-p are found digit by digit: a histogram of the next 8 bits of the keys that begin with what
// is known, of their number or of their sum. A histogram has a copy for each lane, in the lane's bank of shared memory: however the
// logits crowd into a few bins, a warp's additions do not collide.

#include "common/sample.cuh"

using namespace sample;

// ---- the largest ----

constexpr int PART_THREADS = 256;
constexpr u32 PART = 8192;  // src/ops/sample/cuda.rs has the same number
constexpr u32 BINS = 256;
static_assert(PART_THREADS == BINS, "a block clears a row's bins");

// The best of part blockIdx.y of row blockIdx.x. Where there are bins, clears those of the row.
__device__ __forceinline__ void best_of_part(const float* __restrict__ row, u64* __restrict__ best, u64* __restrict__ bins, u32 vocab) {
  __shared__ u64 parts[PART_THREADS / 32];
  if (bins != nullptr && blockIdx.y == 0) bins[u64(blockIdx.x) * BINS + threadIdx.x] = 0;
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

extern "C" __global__ __launch_bounds__(PART_THREADS) void sample_argmax(const float* logits, u64* best, u64* bins, u32 vocab) {
  best_of_part(logits + u64(blockIdx.x) * vocab, best, bins, vocab);
}

// The same of scores, which it makes of the logits.
extern "C" __global__ __launch_bounds__(PART_THREADS) void sample_penalise(const float* logits, const u32* tokens, const u32* lengths,
                                                                           u64 capacity, float penalty, float* scores, u64* best,
                                                                           u64* bins, u32 vocab) {
  const u64 row = blockIdx.x;
  const float* from = logits + row * vocab;
  float* to = scores + row * vocab;
  const u32 begin = blockIdx.y * PART, end = min(begin + PART, vocab);
#pragma unroll 4
  for (u32 i = begin + threadIdx.x; i < end; i += PART_THREADS) to[i] = from[i];
  __syncthreads();  // Hazard: scores are changed by other threads than copied them.
  const u64 length = min(u64(lengths[row]), capacity);
  for (u64 i = threadIdx.x; i < length; i += PART_THREADS) {
    // From the logits, not the scores: a token that occurs twice is penalised once, whichever thread is later.
    const u32 id = tokens[row * capacity + i];
    if (id >= begin && id < end) to[id] = from[id] < 0.0f ? __fmul_rn(from[id], penalty) : __fdiv_rn(from[id], penalty);
  }
  __syncthreads();  // Hazard: scores are read by other threads than changed them.
  best_of_part(to, best, bins, vocab);
}

// The best of a row's parts; a warp has a row.
extern "C" __global__ __launch_bounds__(32) void sample_argmax_finish(const u64* best, u32* ids, u32 parts) {
  const u64 largest = best_of(best + u64(blockIdx.x) * parts, parts);
  if (threadIdx.x == 0) ids[blockIdx.x] = is_good(largest) ? NONE - static_cast<u32>(largest) : NONE;
}

// ---- segments ----

constexpr u32 SEGMENT = 1024;        // words of a warp; src/ops/sample/cuda.rs has the same number, and the next
constexpr u32 MAX_VOCAB = 1 << 20;
constexpr u32 MAX_SEGMENTS = MAX_VOCAB / SEGMENT;

// Calls body(i, x[i]) for this lane's words of x[begin .. end): every 32nd. Loads come together, before what is done with them.
template <class Body> __device__ __forceinline__ void for_segment(const float* x, u32 begin, u32 end, Body body) {
  constexpr u32 FLIGHT = 8;
  u32 i = begin + threadIdx.x % 32;
  for (; i + (FLIGHT - 1) * 32 < end; i += FLIGHT * 32) {
    float words[FLIGHT];
#pragma unroll
    for (u32 k = 0; k < FLIGHT; k++) words[k] = x[i + k * 32];
#pragma unroll
    for (u32 k = 0; k < FLIGHT; k++) body(i + k * 32, words[k]);
  }
  for (; i < end; i += 32) body(i, x[i]);
}

// A warp's search: the first position at which the sum of value(0), value(1), ... exceeds target(sum of all), which is less than that sum.
// Segment i has the positions i SEGMENT and the next count(i) - 1, whose values sum to sum(i).
template <class Sum, class Count, class Value, class Target>
__device__ __forceinline__ u32 find_position(u32 segments, Sum sum_of, Count count_of, Value value, Target target) {
  const u32 lane = threadIdx.x % 32, own = (segments + 31) / 32, begin = min(lane * own, segments), end = min(begin + own, segments);
  u64 sum = 0;
  for (u32 segment = begin; segment < end; segment++) sum += sum_of(segment);
  const u64 up_to = warp_scan(sum), goal = target(__shfl_sync(ALL_LANES, up_to, 31));
  u64 before = up_to - sum;
  u32 segment = begin;
  const bool mine = before <= goal && goal < up_to;
  while (mine && before + sum_of(segment) <= goal) before += sum_of(segment++);
  const int owner = __ffs(__ballot_sync(ALL_LANES, mine)) - 1;
  segment = __shfl_sync(ALL_LANES, segment, owner);
  before = __shfl_sync(ALL_LANES, before, owner);
  const u32 first = segment * SEGMENT, last = first + count_of(segment);
  for (u32 i = first; i < last; i += 32) {
    const u64 with = before + warp_scan(i + lane < last ? value(i + lane) : 0u);
    const u32 above = __ballot_sync(ALL_LANES, with > goal);
    if (above != 0) return i + __ffs(above) - 1;
    before = __shfl_sync(ALL_LANES, with, 31);
  }
  return NONE;  // never: the sum of all is above the goal
}

// What of a sum a uniform number points to. It has 24 bits: sum uniform without rounding.
__device__ __forceinline__ u64 goal_of(u64 sum, float uniform) {
  const u64 numerator = min(static_cast<u64>(__fmul_rn(uniform, 16777216.0f)), u64(0xffffff));
  return __umul64hi(sum, numerator) << 40 | (sum * numerator) >> 24;
}

// The words before which the sum of masses is less than this are left by top-p.
__device__ __forceinline__ u64 limit_of(float top_p, u64 total) {
  return max(static_cast<u64>(ceil(static_cast<double>(top_p) * static_cast<double>(total))), u64(1));
}

// A row's scores, and what makes weights of them.
struct Row {
  const float* scores;
  u64 best;
  float top, inverse_temperature;

  __device__ __forceinline__ Row(const float* scores, const u64* best_of_parts, u32 parts, u32 vocab, float inverse_temperature)
      : scores(scores + u64(blockIdx.x) * vocab),
        best(best_of(best_of_parts + u64(blockIdx.x) * parts, parts)),
        top(score_of(best)),
        inverse_temperature(inverse_temperature) {}

  __device__ __forceinline__ float exponent(float score) const { return __fmul_rn(score - top, inverse_temperature); }
  __device__ __forceinline__ float weight(float score) const { return power(exponent(score)); }
};

// ---- of all words ----

constexpr int SEGMENT_THREADS = 256;  // 8 segments

// The mass of each segment, of weights from min_p on.
extern "C" __global__ __launch_bounds__(SEGMENT_THREADS) void sample_masses(const float* scores, const u64* best, u32 parts, u64* sums,
                                                                            u32 vocab, float inverse_temperature, float min_p) {
  const Row row(scores, best, parts, vocab, inverse_temperature);
  const u32 segments = (vocab + SEGMENT - 1) / SEGMENT, segment = blockIdx.y * (SEGMENT_THREADS / 32) + threadIdx.x / 32;
  if (segment >= segments || !is_good(row.best)) return;
  u64 sum = 0;
  for_segment(row.scores, segment * SEGMENT, min((segment + 1) * SEGMENT, vocab), [&](u32, float score) {
    const float weight = row.weight(score);
    if (weight >= min_p) sum += mass_of(weight);
  });
  sum = warp_total(sum);
  if (threadIdx.x % 32 == 0) sums[u64(blockIdx.x) * segments + segment] = sum;
}

// A token of each row; a warp has a row.
extern "C" __global__ __launch_bounds__(32) void sample_draw(const float* scores, const u64* best, u32 parts, const u64* sums,
                                                             const float* uniforms, u32* ids, u32 vocab, float inverse_temperature,
                                                             float min_p) {
  const Row row(scores, best, parts, vocab, inverse_temperature);
  const u32 segments = (vocab + SEGMENT - 1) / SEGMENT;
  const u64* own = sums + u64(blockIdx.x) * segments;
  u32 id = NONE;
  if (is_good(row.best)) {
    const float uniform = uniforms[blockIdx.x];
    id = find_position(
        segments, [=](u32 segment) { return own[segment]; }, [=](u32 segment) { return min(SEGMENT, vocab - segment * SEGMENT); },
        [=](u32 i) {
          const float weight = row.weight(row.scores[i]);
          return weight >= min_p ? mass_of(weight) : 0u;
        },
        [=](u64 sum) { return goal_of(sum, uniform); });
  }
  if (threadIdx.x == 0) ids[blockIdx.x] = id;
}

// ---- candidates ----

constexpr int THREADS = 1024, WARPS = THREADS / 32;
constexpr int COPIES = 32;
constexpr u32 HISTOGRAM_PART = 16384;  // src/ops/sample/cuda.rs has the same number

// The coarse bin of a word by how far it lies below the largest: eighths. It never falls as the score does.
__device__ __forceinline__ u32 bin_of(float below) { return static_cast<u32>(fminf(below * 8.0f, BINS - 1)); }
// With top-k bins are of scores; without, of exponents, since it is weights that are ordered then: these are equal, or out of order by a
// rounding, within a bin or in neighbours at most.
template <bool COUNTS> __device__ __forceinline__ u32 bin_of(const Row& row, float score) {
  return bin_of(COUNTS ? row.top - score : -row.exponent(score));
}

// Sums over words in 256 bins, in the dynamic shared memory: of 1 (COUNTS), else of values below 2^32, in two halves, of their lower 16 bits and of
// the rest. A lane adds vocab / 32 of each at most.
static_assert(u64(MAX_VOCAB / 32) << 16 < u64(1) << 32, "the halves' sums fit");
static_assert(2 * BINS * COPIES * 4 == 64 << 10, "the dynamic shared memory that src/ops/sample/cuda.rs asks for");
template <bool COUNTS> struct Histogram {
  u32 *low, *high;

  __device__ __forceinline__ Histogram() {
    extern __shared__ __align__(16) u32 histogram[];
    low = histogram;
    high = histogram + BINS * COPIES;
  }
  __device__ __forceinline__ void clear() {
    constexpr u32 FOURS = BINS * COPIES / 4;
    for (u32 i = threadIdx.x; i < (COUNTS ? 1 : 2) * FOURS; i += THREADS) reinterpret_cast<uint4*>(low)[i] = {0, 0, 0, 0};
    __syncthreads();  // Hazard: the bins are cleared by other threads than count in them.
  }
  __device__ __forceinline__ void add(u32 bin, u32 value) {
    const u32 at = bin * COPIES + threadIdx.x % 32;
    if (COUNTS) {
      atomicAdd(&low[at], 1);
    } else {
      atomicAdd(&low[at], value & 0xffff);
      atomicAdd(&high[at], value >> 16);
    }
  }
  // Calls take(bin, sum) for each bin, in some thread.
  template <class Take> __device__ __forceinline__ void total(Take take) {
    static_assert(THREADS == 4 * BINS && COPIES == 32, "four threads have a bin, and eight copies each");
    __syncthreads();  // Hazard: the bins are added up by other threads than counted in them.
    const u32 bin = threadIdx.x / 4, quarter = threadIdx.x % 4 * 8;
    u64 sum = 0;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
      // Each lane in a bank of its own.
      const u32 at = bin * COPIES + quarter + (i + bin) % 8;
      sum += low[at];
      if (!COUNTS) sum += u64(high[at]) << 16;
    }
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2);
    if (threadIdx.x % 4 == 0) take(bin, sum);
  }
};

// Adds the number or the masses of a part's words to its row's bins.
template <bool COUNTS>
__device__ __forceinline__ void fill_bins(const float* scores, const u64* best, u32 parts, u64* bins, u32 vocab,
                                          float inverse_temperature) {
  const Row row(scores, best, parts, vocab, inverse_temperature);
  if (!is_good(row.best)) return;
  Histogram<COUNTS> histogram;
  histogram.clear();
  constexpr u32 EACH = HISTOGRAM_PART / WARPS;
  const u32 begin = blockIdx.y * HISTOGRAM_PART + threadIdx.x / 32 * EACH;
  for_segment(row.scores, begin, min(begin + EACH, vocab), [&](u32, float score) {
    const u32 value = COUNTS ? 1 : mass_of(row.weight(score));
    if (value > 0) histogram.add(bin_of<COUNTS>(row, score), value);
  });
  u64* own = bins + u64(blockIdx.x) * BINS;
  histogram.total([=](u32 bin, u64 sum) {
    if (sum > 0) atomicAdd(&own[bin], sum);
  });
}

#define FILL_BINS(NAME, COUNTS)                                                                                                    \
  extern "C" __global__ __launch_bounds__(THREADS) void NAME(const float* scores, const u64* best, u32 parts, u64* bins, u32 vocab, \
                                                             float inverse_temperature) {                                          \
    fill_bins<COUNTS>(scores, best, parts, bins, vocab, inverse_temperature);                                                      \
  }
FILL_BINS(sample_counts, true)
FILL_BINS(sample_weights, false)

// Writes the scores that top-k, or without it top-p, may leave to `candidates`, with their ids, in the order of these: those of a segment where
// the segment begins, `counts` of them. All are there that count: for top-k, the bins down to the k-th largest's; for top-p, one bin more
// than those whose mass reaches the limit. What lies below that is lighter than all in the former by more than a rounding, and the last
// that top-p keeps is no lighter than the lightest of these.
template <bool COUNTS>
__device__ __forceinline__ void gather(const float* scores, const u64* best, u32 parts, const u64* bins, float* candidates, u32* ids,
                                       u32* counts, u32 vocab, float inverse_temperature, u32 top_k, float top_p) {
  const Row row(scores, best, parts, vocab, inverse_temperature);
  if (!is_good(row.best)) return;
  __shared__ u64 of_warps[SEGMENT_THREADS / 32];
  __shared__ u32 chosen;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  static_assert(SEGMENT_THREADS == BINS, "a thread has a bin");
  const u64 own = bins[u64(blockIdx.x) * BINS + threadIdx.x], in_warp = warp_scan(own);
  if (lane == 31) of_warps[warp] = in_warp;
  __syncthreads();  // Hazard: all read the warps' sums.
  u64 with = in_warp, total = 0;
  for (u32 i = 0; i < SEGMENT_THREADS / 32; i++) {
    with += i < warp ? of_warps[i] : 0;
    total += of_warps[i];
  }
  const u64 limit = COUNTS ? top_k : limit_of(top_p, total);
  if (with - own < limit && limit <= with) chosen = threadIdx.x + (COUNTS ? 0 : 1);
  __syncthreads();  // Hazard: all read what a thread chose.
  const u32 last = chosen;

  const u32 segments = (vocab + SEGMENT - 1) / SEGMENT, segment = blockIdx.y * (SEGMENT_THREADS / 32) + warp;
  if (segment >= segments) return;
  const u32 begin = segment * SEGMENT, end = min(begin + SEGMENT, vocab);
  const u64 start = u64(blockIdx.x) * vocab;
  constexpr u32 FLIGHT = 8;
  u32 to = begin;
  for (u32 first = begin; first < end; first += FLIGHT * 32) {
    float words[FLIGHT];
#pragma unroll
    for (u32 k = 0; k < FLIGHT; k++) {
      const u32 i = first + k * 32 + lane;
      words[k] = i < end ? row.scores[i] : 0.0f;
    }
    __syncwarp();  // Hazard: candidates may be the scores; what is written lies where all have read.
#pragma unroll
    for (u32 k = 0; k < FLIGHT; k++) {
      const u32 i = first + k * 32 + lane;
      const bool taken = i < end && bin_of<COUNTS>(row, words[k]) <= last;
      const u32 all = __ballot_sync(ALL_LANES, taken);
      if (taken) {
        const u64 at = start + to + __popc(all & ((1u << lane) - 1));
        candidates[at] = words[k];
        ids[at] = i;
      }
      to += __popc(all);
    }
    __syncwarp();  // Hazard: as above.
  }
  if (lane == 0) counts[u64(blockIdx.x) * segments + segment] = to - begin;
}

#define GATHER(NAME, COUNTS)                                                                                                       \
  extern "C" __global__ __launch_bounds__(SEGMENT_THREADS) void NAME(                                                              \
      const float* scores, const u64* best, u32 parts, const u64* bins, float* candidates, u32* ids, u32* counts, u32 vocab,       \
      float inverse_temperature, u32 top_k, float top_p) {                                                                         \
    gather<COUNTS>(scores, best, parts, bins, candidates, ids, counts, vocab, inverse_temperature, top_k, top_p);                  \
  }
GATHER(sample_gather_counts, true)
GATHER(sample_gather_weights, false)

// ---- the choice among candidates ----

// A row's candidates: of segment i, x[i SEGMENT] and the next counts[i] - 1.
struct Words {
  float* x;
  const u32* counts;
  u32 segments;

  // Calls body(position, word) for the block's words, the same thread always for the same word. Mostly a segment has few.
  template <class Body> __device__ __forceinline__ void for_each(Body body) const {
    constexpr u32 FLIGHT = 4;
    const u32 lane = threadIdx.x % 32;
    for (u32 segment = threadIdx.x / 32; segment < segments; segment += FLIGHT * WARPS) {
      float words[FLIGHT];
      u32 count[FLIGHT], most = 0;
#pragma unroll
      for (u32 k = 0; k < FLIGHT; k++) {
        const u32 i = segment + k * WARPS;
        count[k] = i < segments ? counts[i] : 0;
        most = max(most, count[k]);
        words[k] = lane < count[k] ? x[i * SEGMENT + lane] : 0.0f;
      }
#pragma unroll
      for (u32 k = 0; k < FLIGHT; k++) {
        if (lane < count[k]) body((segment + k * WARPS) * SEGMENT + lane, words[k]);
      }
      if (most <= 32) continue;
#pragma unroll 1
      for (u32 k = 0; k < FLIGHT; k++) {
        const u32 begin = (segment + k * WARPS) * SEGMENT;
        if (segment + k * WARPS < segments) for_segment(x, begin + 32, begin + counts[segment + k * WARPS], body);
      }
    }
  }
};

// The sum over the block, for all of its threads.
__device__ __forceinline__ u64 block_total(u64 x) {
  __shared__ u64 parts[WARPS];
  x = warp_total(x);
  __syncthreads();  // Hazard: threads may still read the parts of the sum before.
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();  // Hazard: all read the warps' parts.
  return warp_total(parts[threadIdx.x % 32]);
}

// A key, the sum of what has larger keys, and the sum of what has this one.
struct Found {
  u32 key;
  u64 before, own;
};

// Of words: the largest key such that the values of keys at least as large sum to `limit` or more. The sum of all is at least `limit`,
// which is above 0. COUNTS: all values are 1.
template <bool COUNTS, class Key, class Value>
__device__ __forceinline__ Found find_key(const Words& words, u64 limit, Key key_of_word, Value value_of_word) {
  __shared__ u64 totals[BINS];
  __shared__ Found chosen;
  Histogram<COUNTS> histogram;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Found found = {0, 0, 0};
  u32 known = 0;  // bits of the key
  for (int shift = 24; shift >= 0; shift -= 8) {
    histogram.clear();
    words.for_each([&](u32, float word) {
      const u32 key = key_of_word(word);
      if ((key & known) == found.key) histogram.add(key >> shift & (BINS - 1), value_of_word(word));
    });
    histogram.total([&](u32 bin, u64 sum) { totals[bin] = sum; });
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

// As find_position, of words, for all threads.
template <class Value, class Target> __device__ __forceinline__ u32 find_word(const Words& words, Value value, Target target) {
  __shared__ u64 sums[MAX_SEGMENTS];
  __shared__ u32 chosen;
  for (u32 segment = threadIdx.x / 32; segment < words.segments; segment += WARPS) {
    u64 sum = 0;
    const u32 begin = segment * SEGMENT;
    for_segment(words.x, begin, begin + words.counts[segment], [&](u32 i, float word) { sum += value(i, word); });
    sum = warp_total(sum);
    if (threadIdx.x % 32 == 0) sums[segment] = sum;
  }
  __syncthreads();  // Hazard: warp 0 reads the sums of all warps.
  if (threadIdx.x < 32) {
    const u32 found = find_position(
        words.segments, [&](u32 segment) { return sums[segment]; }, [&](u32 segment) { return words.counts[segment]; },
        [&](u32 i) { return value(i, words.x[i]); }, target);
    if (threadIdx.x == 0) chosen = found;
  }
  __syncthreads();  // Hazard: all read what warp 0 chose.
  return chosen;
}

extern "C" __global__ __launch_bounds__(THREADS) void sample_choose(const u64* best, u32 parts, const u64* bins, float* candidates,
                                                                    const u32* ids_of_candidates, const u32* counts,
                                                                    const float* uniforms, u32* ids, u32 vocab,
                                                                    float inverse_temperature, u32 top_k, float top_p, float min_p) {
  const Row row(candidates, best, parts, vocab, inverse_temperature);
  if (!is_good(row.best)) {
    if (threadIdx.x == 0) ids[blockIdx.x] = NONE;
    return;
  }
  __shared__ u32 own_counts[MAX_SEGMENTS];
  const u32 segments = (vocab + SEGMENT - 1) / SEGMENT;
  for (u32 i = threadIdx.x; i < segments; i += THREADS) own_counts[i] = counts[u64(blockIdx.x) * segments + i];
  __syncthreads();  // Hazard: all read the counts.
  const Words words = {candidates + u64(blockIdx.x) * vocab, own_counts, segments};

  float least = -INFINITY;
  if (top_k > 0) {
    least = of_key(find_key<true>(words, top_k, [](float x) { return key_of(x); }, [](float) { return 1; }).key);
  }
  u64 total = 0;
  words.for_each([&](u32 i, float score) {
    const float weight = score >= least ? row.weight(score) : 0.0f;
    words.x[i] = weight;
    total += mass_of(weight);
  });
  // With top-k, of what that leaves; without, of all words.
  if (top_k == 0) total = threadIdx.x < BINS ? bins[u64(blockIdx.x) * BINS + threadIdx.x] : 0;
  __syncthreads();  // Hazard: weights are read by other threads than wrote them.

  // What is left: weights above `cut`, and those equal to it up to position `last`.
  float cut = 0.0f;
  u32 last = NONE;
  if (top_p < 1.0f) {
    const u64 limit = limit_of(top_p, block_total(total));
    // The bits of weights that count: the distance from the least of them in 28 bits. Without a mass, the key is 0, and adds nothing.
    const u32 base = __float_as_uint(LEAST) - 1;
    const Found end = find_key<false>(
        words, limit,
        [=](float weight) {
          const u32 bits = __float_as_uint(weight);
          return bits > base ? (bits - base) << 4 : 0;
        },
        [](float weight) { return mass_of(weight); });
    cut = __uint_as_float((end.key >> 4) + base);
    // Each of these has the same mass, and the last one that is kept is the first to reach the limit.
    const u64 mass = mass_of(cut), kept = (limit - end.before + mass - 1) / mass;
    if (kept * mass < end.own) {
      last = find_word(words, [=](u32, float x) { return x == cut ? 1u : 0u; }, [=](u64) { return kept - 1; });
    }
  }
  const float uniform = uniforms[blockIdx.x];
  const u32 found = find_word(
      words,
      [=](u32 i, float weight) {
        const bool left = (weight > cut || (weight == cut && i <= last)) && weight >= min_p;
        return left ? mass_of(weight) : 0u;
      },
      [=](u64 sum) { return goal_of(sum, uniform); });
  if (threadIdx.x == 0) ids[blockIdx.x] = ids_of_candidates[u64(blockIdx.x) * vocab + found];
}
