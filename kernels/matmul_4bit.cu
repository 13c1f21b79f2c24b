// Products with a weight in 4 bits.
#include "common/gemm_4bit.cuh"
#include "common/gemv_4bit.cuh"

template <bool B_K_MAJOR, bool ALIGNED>
__device__ __forceinline__ void product(const gemm::Operand a, const four_bit::Matrix w, const float* bias, half_t* c, int n) {
  extern __shared__ __align__(128) unsigned char smem[];
  __shared__ four_bit::Lookup lookup;
  lookup.fill(w);
  const gemm::Corner block = gemm::corner_of_block(a.outer, n);
  gemm::Sums sum = {};
  gemm_4bit::accumulate<B_K_MAJOR, ALIGNED>(sum, smem, a, w, lookup, block, n);
  gemm::write_tile(sum, smem, block, a.outer, n, bias, c, n);
}

#define PRODUCT(NAME, B_K_MAJOR, ALIGNED)                                                                                       \
  extern "C" __global__ void __launch_bounds__(gemm::THREADS, 2)                                                                   \
      NAME(const half_t* a, const unsigned char* packed, const float* levels, const float* absmax, const unsigned char* codes,   \
           const float* map, const float* nested, float offset, int block_log2, const float* bias, half_t* c, int m, int n, int k) { \
    product<B_K_MAJOR, ALIGNED>({a, k, m, k}, {packed, levels, absmax, codes, map, nested, offset, block_log2}, bias, c, n);   \
  }
#define PRODUCTS(HALF)                                \
  PRODUCT(matmul_4bit_nt_##HALF, true, true)          \
  PRODUCT(matmul_4bit_nn_##HALF, false, true)         \
  PRODUCT(matmul_4bit_nt_##HALF##_ragged, true, false) \
  PRODUCT(matmul_4bit_nn_##HALF##_ragged, false, false)
OF_HALF(PRODUCTS)

#define FEW(NAME, TILES)                                                                                                        \
  extern "C" __global__ void __launch_bounds__(gemv::THREADS, 2)                                                                   \
      NAME(const half_t* x, const unsigned char* packed, const float* levels, const float* absmax, const unsigned char* codes,   \
           const float* map, const float* nested, float offset, int block_log2, const float* bias, half_t* y, int m, int n, int k) { \
    __shared__ float parts[gemv::WARPS][8 * TILES][gemv::PART_STRIDE];                                                         \
    __shared__ four_bit::Lookup lookup;                                                                                        \
    const four_bit::Matrix w{packed, levels, absmax, codes, map, nested, offset, block_log2};                                  \
    lookup.fill(w);                                                                                                            \
    gemv_4bit::tensor_cores<TILES>(x, w, lookup, bias, y, m, n, k, parts);                                                     \
  }
#define FEWS(HALF)                      \
  FEW(matmul_4bit_few_##HALF##_rows8, 1) \
  FEW(matmul_4bit_few_##HALF##_rows16, 2)
OF_HALF(FEWS)
