// A linear layer over a weight in 4 bits (NF4 or FP4, QLoRA, arXiv 2305.14314), without adapters or with those of lora_matmul.cu:
//
//   y = epilogue(x W^T + u B^T + bias)    dx = dropout'(v A) + dy W      W[i] = round(level[code] scale), to the type of x
//
// x, dx [M, in], y [M, out], W [out, in] in blocks of 4-bit codes (common/four_bit.cuh); u, v, A, B, the mask, the segments of several
// adapters and the epilogue are those of lora_matmul.cu, whose kernels make u, v and the factors' gradients; without adapters the rank
// is 0. W is frozen: it has no gradient. Saved for backward: nothing of W, which is decoded again from the same bytes. Everything is
// overwritten; deterministic.
//
// In f16 and bf16 on tensor cores: one product, which goes through the adapters' rank and then through W, decoded on its way
// (common/gemm_4bit.cuh); `_ragged` where rows do not start on 16 bytes and 32 elements. Tiles that do not fill a GPU are made in pieces
// along k, as matmul.cu's are (common/stream_k.cuh), whose sums its kernels add. Up to 16 rows: W is streamed
// (common/gemv_4bit.cuh). In f32: the ordinary cores, with W in f32.
#include "common/gemm_4bit.cuh"
#include "common/gemv_4bit.cuh"
#include "common/lora.cuh"

namespace quantized_matmul {

using four_bit::Lookup, four_bit::Matrix;

// c = epilogue(mask(rank factor) + a w), or pieces of it.
template <bool W_K_MAJOR, bool ALIGNED, bool MASKED>
__device__ __forceinline__ void product(const gemm::Operand a, const Matrix& w, const lora::Adapters<half_t>& adapters,
                                        const Epilogue<half_t> epilogue, half_t* c, int n, const stream_k::Shares& shares) {
  extern __shared__ __align__(128) unsigned char smem[];
  __shared__ Lookup lookup;
  lookup.fill(w);
  const int m = a.outer;
  stream_k::Pieces piece(shares, gemm::tiles_of(m, n), a.k);
  while (true) {
    const gemm::Corner block = gemm::corner_of_tile(piece.tile, m, n);
    const lora::RankSteps<W_K_MAJOR> rank(adapters, block, m, n, piece.from);
    gemm::Sums sum = {};
    if (rank.count > 0) {
      half_t* ring = reinterpret_cast<half_t*>(smem);
      const auto bring = [&](half_t* stage, int step) { rank.bring(stage, step); };
      gemm::start(ring, rank.count, bring);
      gemm::advance<true, W_K_MAJOR>(sum, ring, 0, rank.count, rank.count, bring);
      copy_async_wait<0>();
      __syncthreads();  // Hazard: what comes next lies where other warps may still read the last tiles.
      if constexpr (MASKED) {
        if (adapters.keep != nullptr) lora::mask_sums(sum, adapters, block, m);
      }
    }
    gemm_4bit::accumulate<W_K_MAJOR, ALIGNED>(sum, smem, a, w, lookup, block, n, piece.from, piece.to);
    gemm::write(sum, smem, block, m, n, piece, epilogue, c, n);
    if (!piece.next()) return;
    __syncthreads();  // Hazard: the next piece's tiles come where other warps may still read the last ones.
  }
}

// W as an operand in f32.
struct Part {
  const Matrix& w;
  const Lookup& lookup;
  long long ld;
  int begin, end;

  __device__ __forceinline__ float at(long long row, int col) const { return four_bit::element(w, lookup, row * ld + col); }
};

}  // namespace quantized_matmul

#define PRODUCT(NAME, W_K_MAJOR, ALIGNED, MASKED, EPILOGUE)                                                                     \
  extern "C" __global__ void __launch_bounds__(gemm::THREADS, 2)                                                                \
      NAME(const half_t* a, four_bit::Matrix w, lora::Adapters<half_t> adapters, const float* bias, const half_t* operand,      \
           half_t* kept, u32 kind, half_t* c, int m, int n, int k, stream_k::Shares shares) {                                   \
    quantized_matmul::product<W_K_MAJOR, ALIGNED, MASKED>({a, k, m, k}, w, adapters, EPILOGUE(bias, operand, kept, kind), c, n, \
                                                          shares);                                                              \
  }
#define PRODUCTS(HALF)                                                                        \
  PRODUCT(quantized_matmul_fwd_##HALF, true, true, false, any_epilogue)                       \
  PRODUCT(quantized_matmul_fwd_##HALF##_ragged, true, false, false, any_epilogue)             \
  PRODUCT(quantized_matmul_bwd_input_##HALF, false, true, true, adding_epilogue)              \
  PRODUCT(quantized_matmul_bwd_input_##HALF##_ragged, false, false, true, adding_epilogue)
OF_HALF(PRODUCTS)

#define FEW_ROWS(NAME, TILES, F)                                                                                               \
  extern "C" __global__ void __launch_bounds__(gemv::THREADS, 2)                                                               \
      NAME(const half_t* x, four_bit::Matrix w, const float* u, const F* b, const int* adapter_of, int rank, int padded,       \
           const float* bias, const half_t* operand, half_t* kept, u32 kind, half_t* y, int m, int n, int k) {                 \
    __shared__ float parts[gemv::WARPS][8 * TILES][gemv::PART_STRIDE];                                                         \
    __shared__ four_bit::Lookup lookup;                                                                                        \
    lookup.fill(w);                                                                                                            \
    gemv_4bit::tensor_cores<TILES>(x, w, lookup, Epilogue<half_t>{bias, operand, kept, kind}, y, m, n, k, parts,               \
                                   lora::FewUp<F>{u, b, adapter_of, rank, padded, n});                                         \
  }
#define FEWS(HALF)                                                       \
  FEW_ROWS(quantized_matmul_fwd_few_##HALF##_f32_rows8, 1, float)        \
  FEW_ROWS(quantized_matmul_fwd_few_##HALF##_f32_rows16, 2, float)       \
  FEW_ROWS(quantized_matmul_fwd_few_##HALF##_##HALF##_rows8, 1, half_t)  \
  FEW_ROWS(quantized_matmul_fwd_few_##HALF##_##HALF##_rows16, 2, half_t)
OF_HALF(FEWS)

#ifndef WARPTUNE_F16
#define PRODUCT_F32(NAME, W_K_MAJOR, EPILOGUE)                                                                                 \
  extern "C" __global__ void __launch_bounds__(gemm_f32::THREADS)                                                              \
      NAME(const float* a, four_bit::Matrix w, lora::Adapters<float> adapters, const float* bias, const float* operand,        \
           float* kept, u32 kind, float* c, int m, int n, int k, stream_k::Shares shares) {                                    \
    __shared__ four_bit::Lookup lookup;                                                                                        \
    lookup.fill(w);                                                                                                            \
    lora::up_f32<W_K_MAJOR>(a, quantized_matmul::Part{w, lookup, W_K_MAJOR ? k : n, 0, n}, adapters,                           \
                            EPILOGUE(bias, operand, kept, kind), c, m, n, k, shares);                                          \
  }
PRODUCT_F32(quantized_matmul_fwd_f32, true, any_epilogue)
PRODUCT_F32(quantized_matmul_bwd_input_f32, false, adding_epilogue)
#endif
