// The products of a linear layer with few rows: what kernels/gemv.cu says, for kernels that add something of their own to the sums.
#pragma once

#include <type_traits>

#include "elements.cuh"
#include "epilogue.cuh"
#include "mma.cuh"

namespace gemv {

constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr int TILE_N = 32, OWN = 4;         // rows of W of a block, and of a lane
constexpr int PART_STRIDE = TILE_N + 4;     // keeps the lanes of a warp apart in the banks
constexpr int AHEAD_TENSOR = 3;             // steps whose weights are under way beside the one in use
static_assert(TILE_N == 8 * OWN, "a lane has every eighth row");

// Elements of T in 16 bytes.
template <class T> constexpr int LEN = 16 / static_cast<int>(sizeof(T));

// COUNT elements from x on, of which `left` are there; the others are zeros. ALIGNED: x is aligned to all of them, and `left` is
// their number or at most 0.
template <int COUNT, bool ALIGNED, class T> __device__ __forceinline__ void fetch(const T* __restrict__ x, int left, u32 (&out)[COUNT * sizeof(T) / 4]) {
  constexpr int WORDS = COUNT * sizeof(T) / 4;
#pragma unroll
  for (int i = 0; i < WORDS; i++) out[i] = 0;
  if constexpr (ALIGNED) {
    if (left > 0) {
      constexpr int STEP = WORDS < 4 ? WORDS : 4;
#pragma unroll
      for (int i = 0; i < WORDS; i += STEP) {
        union {
          typename Word<4 * STEP>::Type whole;
          u32 words[STEP];
        } pack;
        pack.whole = *reinterpret_cast<const typename Word<4 * STEP>::Type*>(reinterpret_cast<const u32*>(x) + i);
#pragma unroll
        for (int k = 0; k < STEP; k++) out[i + k] = pack.words[k];
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      if (i >= left) continue;
      if constexpr (sizeof(T) == 4) {
        out[i] = __float_as_uint(x[i]);
      } else {
        out[i / 2] |= static_cast<u32>(bits_of(x[i])) << (i % 2 * 16);
      }
    }
  }
}

// Element i of what `fetch` got.
template <class T> __device__ __forceinline__ float element(const u32* words, int i) {
  if constexpr (sizeof(T) == 4) {
    return __uint_as_float(words[i]);
  } else {
    return i % 2 == 0 ? first_of<T>(words[i / 2]) : second_of<T>(words[i / 2]);
  }
}

// A lane's weights of one step.
template <bool ALIGNED, class W> struct Weights {
  u32 words[OWN][4];

  __device__ __forceinline__ void bring(const W* __restrict__ w, int n, int k, int n0, int k0) {
    const int lane = threadIdx.x % 32, at = k0 + lane % 4 * LEN<W>;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      const int row = n0 + lane / 4 + 8 * i;
      fetch<LEN<W>, ALIGNED>(w + static_cast<long long>(row) * k + at, row < n ? k - at : 0, words[i]);
    }
  }
};

// Adds nothing to a sum.
struct Plain {
  __device__ __forceinline__ float operator()(float sum, int, int) const { return sum; }
};

// Adds the warps' parts of the block's columns, in order, and writes y: plus(sum, row, column) goes into the epilogue.
template <int ROWS, class X, class Plus>
__device__ __forceinline__ void finish(const float (&parts)[WARPS][ROWS][PART_STRIDE], const Epilogue<X>& epilogue,
                                       X* __restrict__ y, int m, int n, int n0, const Plus& plus) {
  __syncthreads();  // Hazard: the parts are read by other threads than wrote them.
#pragma unroll 1
  for (int id = threadIdx.x; id < m * TILE_N; id += THREADS) {
    const int row = id / TILE_N, col = id % TILE_N;
    if (n0 + col >= n) continue;
    float sum = parts[0][row][col];
#pragma unroll
    for (int w = 1; w < WARPS; w++) sum += parts[w][row][col];
    if (epilogue.bias != nullptr) sum += epilogue.bias[n0 + col];
    float z[1] = {plus(sum, row, n0 + col)};
    epilogue.finish(z, y, static_cast<long long>(row) * n + n0 + col, 1);
  }
}

// Eight elements of x as fragments of PIECES half_t each, which add up to them, the smallest first. Of an x in f32 that is bf16 only: f16
// has not the range.
template <bool ALIGNED, class X> struct Pieces {
  static constexpr int PIECES = sizeof(X) == 2 ? 1 : 3;
  static_assert(PIECES == 1 || std::is_same_v<half_t, bf16>, "f16 has not the range of f32");
  u32 words[PIECES][4];

  __device__ __forceinline__ void bring(const X* __restrict__ x, int left) {
    if constexpr (PIECES == 1) {
      fetch<8, ALIGNED>(x, left, words[0]);
    } else {
      u32 whole[8];
      fetch<8, ALIGNED>(x, left, whole);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float a = __uint_as_float(whole[2 * i]), b = __uint_as_float(whole[2 * i + 1]);
#pragma unroll
        for (int p = PIECES - 1; p >= 0; p--) {
          words[p][i] = pair_of<half_t>(a, b);
          // What is left is exact: it has 8 bits less each time.
          a -= first_of<half_t>(words[p][i]);
          b -= second_of<half_t>(words[p][i]);
        }
      }
    }
  }
};

// On tensor cores: 8 TILES rows of x at most.
template <int TILES, bool ALIGNED, class X, class Plus = Plain>
__device__ __forceinline__ void tensor_cores(const X* __restrict__ x, const half_t* __restrict__ w, const Epilogue<X>& epilogue,
                                             X* __restrict__ y, int m, int n, int k, float (&parts)[WARPS][8 * TILES][PART_STRIDE],
                                             const Plus& plus = {}) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, n0 = blockIdx.x * TILE_N;
  constexpr int STEP = 4 * LEN<half_t>, STRIDE = WARPS * STEP, SLOTS = AHEAD_TENSOR + 1;
  float sum[OWN / 2][TILES][4] = {};
  Weights<ALIGNED, half_t> slots[SLOTS];
  int k0 = threadIdx.x / 32 * STEP;
#pragma unroll
  for (int s = 0; s < AHEAD_TENSOR; s++) slots[s].bring(w, n, k, n0, k0 + s * STRIDE);
#pragma unroll 1
  while (k0 < k) {
    // Whole turns of the slots: steps past the end multiply zeros.
#pragma unroll
    for (int s = 0; s < SLOTS; s++, k0 += STRIDE) {
      slots[(s + AHEAD_TENSOR) % SLOTS].bring(w, n, k, n0, k0 + AHEAD_TENSOR * STRIDE);
      const u32(&words)[OWN][4] = slots[s].words;
      const int at = k0 + t * LEN<half_t>;
#pragma unroll
      for (int j = 0; j < TILES; j++) {
        const int row = 8 * j + g;
        Pieces<ALIGNED, X> b;
        b.bring(x + static_cast<long long>(row) * k + at, row < m ? k - at : 0);
#pragma unroll
        for (const u32(&piece)[4] : b.words) {
#pragma unroll
          for (int i = 0; i < OWN; i += 2) {
            mma_half(sum[i / 2][j], {words[i][0], words[i + 1][0], words[i][1], words[i + 1][1]}, piece[0], piece[1]);
            mma_half(sum[i / 2][j], {words[i][2], words[i + 1][2], words[i][3], words[i + 1][3]}, piece[2], piece[3]);
          }
        }
      }
    }
  }
  // By a shuffle, since nvcc would find the address before the loop and have no register for it there.
  float(&part)[8 * TILES][PART_STRIDE] = parts[__shfl_sync(0xffffffff, threadIdx.x / 32, 0)];
#pragma unroll
  for (int i = 0; i < OWN / 2; i++) {
#pragma unroll
    for (int j = 0; j < TILES; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) part[8 * j + 2 * t + e % 2][16 * i + e / 2 * 8 + g] = sum[i][j][e];
    }
  }
  finish(parts, epilogue, y, m, n, n0, plus);
}

// A warp's ring of parts of x: of each step 4 LEN<W> elements of ROWS rows.
template <int ROWS, bool ALIGNED, class X, class W> struct Ring {
  static constexpr int STEP = 4 * LEN<W>, STAGES = 3, CHUNKS = STEP / LEN<X>;
  X stages[STAGES][ROWS][STEP];

  // Starts the copy of the columns from k0 on of m rows; what is not there becomes zero.
  __device__ __forceinline__ void bring(int stage, const X* __restrict__ x, int m, int k, int k0) {
#pragma unroll
    for (int id = threadIdx.x % 32; id < ROWS * CHUNKS; id += 32) {
      const int row = id / CHUNKS, at = id % CHUNKS * LEN<X>, left = row < m ? k - k0 - at : 0;
      const X* from = x + static_cast<long long>(row) * k + k0 + at;
      X* to = &stages[stage][row][at];
      if constexpr (ALIGNED) {
        copy_async_16(to, left > 0 ? from : x, left > 0 ? 16 : 0);
      } else {
        u32 words[4];
        fetch<LEN<X>, false>(from, left, words);
        *reinterpret_cast<uint4*>(to) = {words[0], words[1], words[2], words[3]};
      }
    }
    copy_async_commit();
  }
};

// On the ordinary cores: groups of up to ROWS rows of x, one a block. The blocks of a tile of W follow each other, so that all but
// the first find it in L2.
template <int ROWS, bool ALIGNED, class X, class W>
__device__ __forceinline__ void ordinary_cores(const X* __restrict__ x, const W* __restrict__ w, const Epilogue<X>& epilogue,
                                               X* __restrict__ y, int m, int n, int k) {
  const int groups = (m + ROWS - 1) / ROWS, first = blockIdx.x % groups * ROWS;
  x += static_cast<long long>(first) * k;
  y += static_cast<long long>(first) * n;
  m = min(m - first, ROWS);
  using Ring = gemv::Ring<ROWS, ALIGNED, X, W>;
  using Parts = float[WARPS][ROWS][PART_STRIDE];
  __shared__ __align__(16) unsigned char shared[sizeof(Ring) * WARPS > sizeof(Parts) ? sizeof(Ring) * WARPS : sizeof(Parts)];
  Ring& ring = reinterpret_cast<Ring*>(shared)[threadIdx.x / 32];
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, n0 = blockIdx.x / groups * TILE_N;
  constexpr int STRIDE = WARPS * Ring::STEP;
  float sum[OWN][ROWS] = {};
  Weights<ALIGNED, W> weights;
  int k0 = threadIdx.x / 32 * Ring::STEP, stage = 0;
  weights.bring(w, n, k, n0, k0);
  for (int s = 0; s < Ring::STAGES - 1; s++) ring.bring(s, x, m, k, k0 + s * STRIDE);
#pragma unroll 1
  for (; k0 < k; k0 += STRIDE) {
    Weights<ALIGNED, W> next;
    next.bring(w, n, k, n0, k0 + STRIDE);
    copy_async_wait<Ring::STAGES - 2>();
    // Hazards: the stage was copied by other lanes too; and the stage that is filled next is the one that every lane read in the
    // step before.
    __syncwarp();
    ring.bring(stage == 0 ? Ring::STAGES - 1 : stage - 1, x, m, k, k0 + (Ring::STAGES - 1) * STRIDE);
    constexpr int PACK = 4;
#pragma unroll
    for (int from = 0; from < LEN<W>; from += PACK) {
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        float v[PACK];
        load<PACK>(&ring.stages[stage][r][t * LEN<W> + from], v);
#pragma unroll
        for (int i = 0; i < OWN; i++) {
#pragma unroll
          for (int e = 0; e < PACK; e++) sum[i][r] = fmaf(element<W>(weights.words[i], from + e), v[e], sum[i][r]);
        }
      }
    }
    weights = next;
    stage = stage == Ring::STAGES - 1 ? 0 : stage + 1;
  }
  copy_async_wait<0>();
  __syncthreads();  // Hazard: the parts lie where other warps may still read their rings.
  Parts& parts = *reinterpret_cast<Parts*>(shared);
#pragma unroll
  for (int i = 0; i < OWN; i++) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float total = sum[i][r];
      total += __shfl_xor_sync(0xffffffff, total, 1);
      total += __shfl_xor_sync(0xffffffff, total, 2);
      if (t == 0) parts[threadIdx.x / 32][r][8 * i + g] = total;
    }
  }
  finish(parts, epilogue.after(static_cast<long long>(first) * n), y, m, n, n0, Plain{});
}

}  // namespace gemv
