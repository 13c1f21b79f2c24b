// A step of AdamW on many parameters in one launch, with averages in blocks of 8-bit codes.
//
//   m = map_m[code_m] absmax_m, v = map_v[code_v] absmax_v      then the step of adamw.cu in f32, and
//   absmax = the largest magnitude of the block,  code = the nearest to |x| / absmax, with the sign of x
//
// Shapes: any; a table on the device says where the tensors are (common/tensors.cuh). g f32; parameters and master copies as in adamw.cu. Codes u8,
// absmax f32, one for 256 elements of the tensor in a row; the last block may be shorter. A v above 0 takes code 1 at least: see
// src/optim/adamw/mod.rs. A block with a number that is not finite gets absmax NaN. Everything but g is changed in place.
// The same bits as src/optim/adamw/{cpu,blockwise}.rs. Deterministic: a warp has a block of elements, and a maximum has no order.
// Nearest: exponent and 7 bits of the magnitude are a cell, which has the rank of its lowest number and one bound at most; the two books
// (maps, bounds, ranks of cells: 10 KB) are copied to shared memory by each block of threads, for 8192 elements.
// Memory-bound: 16 bytes an element move (f32 parameter), and about 107 instructions are issued. Look-ups by data, 2 for decoding and 4 for
// coding, meet in banks: 18 passes for the 32 elements of a warp, which take 38 clocks of an A100's memory.

#include "common/adamw.cuh"
#include "common/tensors.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int BLOCK = 256;           // elements that share a scale; src/optim/adamw/blockwise.rs has the same numbers
constexpr int N = 4;                 // neighbouring elements of a thread
constexpr int PACKS = BLOCK / 32 / N;  // of a thread in a block of elements
constexpr int CELL_BITS = 7;
constexpr u32 FIRST_CELL = (127 - 23) << CELL_BITS, LAST_CELL = (127 << CELL_BITS) - FIRST_CELL;
constexpr int CELLS = (LAST_CELL + 1 + 255) / 256 * 256;
constexpr int ZERO = 127;  // the code of 0 in the signed map

static_assert(CHUNK % (WARPS * BLOCK) == 0, "a warp has whole blocks of a chunk");

struct Entry {
  Extent extent;
  void* param;
  float* master;  // or null
  unsigned char *exp_avg, *exp_avg_sq;
  float *absmax, *absmax_sq;
  const float* grad;
  u64 first_word;  // of the words of Philox; a multiple of 4
  u32 narrow, decay;  // whether the parameter is bf16; whether weight decay applies
};

struct Book {
  float map[256], bounds[256];
  unsigned char ranks[CELLS];

  // How many bounds are below a magnitude of at most 1.
  __device__ __forceinline__ u32 rank(float magnitude) const {
    const u32 key = __float_as_uint(magnitude) >> (23 - CELL_BITS);
    const u32 rank = ranks[min(max(key, FIRST_CELL) - FIRST_CELL, LAST_CELL)];
    return rank + (magnitude > bounds[rank]);
  }
};

struct Books {
  Book of_m, of_v;
};
static_assert(sizeof(Books) % 16 == 0, "copied in packs");

// `count` elements from p, up to N of them, the others 0; `packed`: all N can be loaded at once if they are there.
template <class T> __device__ __forceinline__ void load_some(const T* __restrict__ p, int count, bool packed, float (&x)[N]) {
  if (packed && count == N) {
    load<N>(p, x);
  } else {
#pragma unroll
    for (int k = 0; k < N; k++) x[k] = k < count ? to_f32(p[k]) : 0.0f;
  }
}

template <class T> __device__ __forceinline__ void store_some(T* __restrict__ p, int count, bool packed, const float (&x)[N]) {
  if (packed && count == N) {
    store<N>(p, x);
  } else {
#pragma unroll
    for (int k = 0; k < N; k++) {
      if (k < count) p[k] = from_f32<T>(x[k]);
    }
  }
}

// The same of codes, a byte each, which lie at multiples of 4.
__device__ __forceinline__ u32 load_codes(const unsigned char* __restrict__ p, int count) {
  if (count == N) return *reinterpret_cast<const u32*>(p);
  u32 codes = 0;
#pragma unroll
  for (int k = 0; k < N; k++) {
    if (k < count) codes |= static_cast<u32>(p[k]) << 8 * k;
  }
  return codes;
}

__device__ __forceinline__ void store_codes(unsigned char* __restrict__ p, int count, u32 codes) {
  if (count == N) {
    *reinterpret_cast<u32*>(p) = codes;
  } else {
#pragma unroll
    for (int k = 0; k < N; k++) {
      if (k < count) p[k] = static_cast<unsigned char>(codes >> 8 * k);
    }
  }
}

// The scale of a warp's numbers: the largest magnitude, or NaN if one is not finite.
__device__ __forceinline__ float scale_of(const float (&x)[PACKS][N]) {
  float largest = 0.0f;
  bool finite = true;
#pragma unroll
  for (int pack = 0; pack < PACKS; pack++) {
#pragma unroll
    for (int k = 0; k < N; k++) {
      largest = fmaxf(largest, fabsf(x[pack][k]));
      finite &= fabsf(x[pack][k]) <= 3.402823466e38f;
    }
  }
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, apart));
  return __all_sync(0xffffffff, finite) ? largest : __uint_as_float(0x7fc00000);
}

// A block of elements, from element `begin` of the tensor on, by one warp.
template <class P, bool MASTER>
__device__ __forceinline__ void step_block(const Entry& e, const Books& books, u64 begin, bool packed, const Update& u, float shrink,
                                           u64 seed, u64 stream) {
  const int lane = threadIdx.x % 32;
  const u64 block = begin / BLOCK;
  // By the thread that writes them later: shuffles order no memory.
  const float m_scale = __shfl_sync(0xffffffff, lane == 0 ? e.absmax[block] : 0.0f, 0);
  const float v_scale = __shfl_sync(0xffffffff, lane == 0 ? e.absmax_sq[block] : 0.0f, 0);
  P* param = static_cast<P*>(e.param);
  float m[PACKS][N], v[PACKS][N];
#pragma unroll
  for (int pack = 0; pack < PACKS; pack++) {
    const u64 i = begin + (pack * 32 + lane) * N;
    const int count = i < e.extent.len ? static_cast<int>(min(e.extent.len - i, u64(N))) : 0;
    float p[N], g[N];
    if constexpr (MASTER) {
      load_some(e.master + i, count, packed, p);
    } else {
      load_some(param + i, count, packed, p);
    }
    load_some(e.grad + i, count, packed, g);
    const u32 m_codes = load_codes(e.exp_avg + i, count), v_codes = load_codes(e.exp_avg_sq + i, count);
#pragma unroll
    for (int k = 0; k < N; k++) {
      m[pack][k] = k < count ? __fmul_rn(books.of_m.map[m_codes >> 8 * k & 255], m_scale) : 0.0f;
      v[pack][k] = k < count ? __fmul_rn(books.of_v.map[v_codes >> 8 * k & 255], v_scale) : 0.0f;
      p[k] = stepped(p[k], g[k], m[pack][k], v[pack][k], u, shrink);
    }
    if constexpr (MASTER) {
      store_some(e.master + i, count, packed, p);
    } else if constexpr (sizeof(P) == 2) {
      const uint4 words = philox(seed, stream, (e.first_word + i) / 4);
      p[0] = rounded_at_random(p[0], words.x);
      p[1] = rounded_at_random(p[1], words.y);
      p[2] = rounded_at_random(p[2], words.z);
      p[3] = rounded_at_random(p[3], words.w);
    }
    store_some(param + i, count, packed, p);
  }
  const float m_absmax = scale_of(m), v_absmax = scale_of(v);
  if (lane == 0) {
    e.absmax[block] = m_absmax;
    e.absmax_sq[block] = v_absmax;
  }
  // A block of zeros is divided by 1; of one that is NaN, all codes are that of 0.
  const bool m_finite = m_absmax == m_absmax, v_finite = v_absmax == v_absmax;
  const float m_divisor = m_absmax > 0.0f ? m_absmax : 1.0f, v_divisor = v_absmax > 0.0f ? v_absmax : 1.0f;
#pragma unroll
  for (int pack = 0; pack < PACKS; pack++) {
    const u64 i = begin + (pack * 32 + lane) * N;
    const int count = i < e.extent.len ? static_cast<int>(min(e.extent.len - i, u64(N))) : 0;
    u32 m_codes = 0, v_codes = 0;
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float x = m_finite ? m[pack][k] : 0.0f, y = v_finite ? v[pack][k] : 0.0f;
      const u32 m_rank = books.of_m.rank(__fdiv_rn(fabsf(x), m_divisor));
      const u32 v_rank = books.of_v.rank(__fdiv_rn(fabsf(y), v_divisor));
      m_codes |= (x < 0.0f ? ZERO - min(m_rank, u32(ZERO)) : ZERO + m_rank) << 8 * k;
      v_codes |= max(v_rank, u32(y > 0.0f)) << 8 * k;
    }
    store_codes(e.exp_avg + i, count, m_codes);
    store_codes(e.exp_avg_sq + i, count, v_codes);
  }
}

template <class P, bool MASTER>
__device__ __forceinline__ void step_chunk(const Entry& e, const Books& books, const Update& u, float shrink, u64 seed, u64 stream) {
  const bool packed = aligned<N>(static_cast<const P*>(e.param)) && aligned<N>(e.grad) && (!MASTER || aligned<N>(e.master));
  const u64 begin = (blockIdx.x - e.extent.first_chunk) * CHUNK, end = min(begin + CHUNK, e.extent.len);
  for (u64 at = begin + threadIdx.x / 32 * BLOCK; at < end; at += WARPS * BLOCK) {
    step_block<P, MASTER>(e, books, at, packed, u, shrink, seed, stream);
  }
}

extern "C" __global__ __launch_bounds__(THREADS) void adamw_step_blockwise8(const Entry* table, const uint4* books, u32 count,
                                                                            float one_minus_beta1, float beta2, float one_minus_beta2,
                                                                            float root_correction2, float eps, float minus_step_size,
                                                                            float shrink, u64 seed, u64 stream) {
  __shared__ __align__(16) unsigned char memory[sizeof(Books)];
  for (int i = threadIdx.x; i < static_cast<int>(sizeof(Books) / 16); i += THREADS) reinterpret_cast<uint4*>(memory)[i] = books[i];
  const Entry e = *entry_of_block(table, count);  // its barrier orders the books, too
  const Books& shared = *reinterpret_cast<const Books*>(memory);
  const Update u = {one_minus_beta1, beta2, one_minus_beta2, root_correction2, eps, minus_step_size};
  const float factor = e.decay ? shrink : 1.0f;
  if (!e.narrow) {
    step_chunk<float, false>(e, shared, u, factor, seed, stream);
  } else if (e.master != nullptr) {
    step_chunk<bf16, true>(e, shared, u, factor, seed, stream);
  } else {
    step_chunk<bf16, false>(e, shared, u, factor, seed, stream);
  }
}
