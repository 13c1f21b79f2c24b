// Code whose threads part: loops of different length, switches, early exits, and the instructions that bring lanes together.
#include "ptx.cuh"

constexpr int THREADS = 64;

// steps[i] = how many steps of Collatz's rule take x[i] to 1, at most `limit`.
extern "C" __global__ void __launch_bounds__(THREADS) collatz(const u32* x, u32* steps, int n, u32 limit) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  u32 v = x[i], count = 0;
  while (v != 1) {
    if (count == limit) break;
    v = v % 2 == 0 ? v / 2 : 3 * v + 1;
    count++;
  }
  steps[i] = count;
}

// Calls that stay calls, with a structure in and out.
struct Pair {
  u32 a, b;
};
__device__ __noinline__ Pair mix(Pair p, u32 key) {
  p.a += p.b ^ key;
  p.b = (p.b << 13 | p.b >> 19) + p.a;
  return p;
}
__device__ __noinline__ u32 digest(u32 seed, int rounds) {
  Pair p = {seed, ~seed};
#pragma unroll 1
  for (int i = 0; i < rounds; i++) p = mix(p, i * 0x9e3779b9u);
  return p.a ^ p.b;
}

// A small machine: each thread runs its own program, one nibble an instruction.
extern "C" __global__ void __launch_bounds__(THREADS) interpret(const u64* programs, u32* out, int n) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  u32 a = i, b = 1;
  for (u64 code = programs[i];; code >>= 4) {
    switch (code & 15) {
      case 0: out[i] = a ^ b; return;
      case 1: a += b; break;
      case 2: b = a * 3 + 1; break;
      case 3: a ^= a << 7; break;
      case 4: a = b - a; break;
      case 5: b ^= b >> 5; break;
      case 6: a = digest(a, b & 3); break;
      case 7: b = __popc(a); break;
      case 8: { const u32 t = a; a = b; b = t; break; }
      case 9: a = a % (b | 1); break;
      case 10: b = a & 0xff; break;
      case 11: a |= b << 16; break;
      default: a++; break;
    }
  }
}

// out[i] = x[i] + 1, x[i] * x[i], x[i] >> 3 or ~x[i], as ops[i] % 4 says, through a table of branch targets. Neither compiler makes
// `brx.idx` of a switch, but other PTX has it.
extern "C" __global__ void __launch_bounds__(THREADS) branch_table(const u32* ops, const u32* x, u32* out, int n) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  u32 d;
  asm volatile(
      "{\n"
      "targets: .branchtargets increment, square, shift, invert;\n"
      "  brx.idx %2, targets;\n"
      "increment: add.u32 %0, %1, 1;\n"
      "  bra done;\n"
      "square: mul.lo.u32 %0, %1, %1;\n"
      "  bra done;\n"
      "shift: shr.u32 %0, %1, 3;\n"
      "  bra done;\n"
      "invert: not.b32 %0, %1;\n"
      "done:\n"
      "}"
      : "=&r"(d)
      : "r"(x[i]), "r"(ops[i] % 4));
  out[i] = d;
}

// kept: the elements with x[i] % 3 == 0, in an order that keeps those of a warp together and sorted by i. One atomic a warp,
// by the first of the lanes that are there. `counter` starts as zero.
extern "C" __global__ void __launch_bounds__(THREADS)
    compact(const u32* x, u32* kept, u32* counter, int n) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  const u32 lane = threadIdx.x % WARP;
  const bool keep = i < n && x[i] % 3 == 0;
  const u32 votes = __ballot_sync(ALL, keep);
  if (!keep) return;
  const int leader = __ffs(votes) - 1;
  u32 base = 0;
  if (int(lane) == leader) base = atomicAdd(counter, __popc(votes));
  base = __shfl_sync(votes, base, leader);
  kept[base + __popc(votes & ((1u << lane) - 1))] = x[i];
}

// Sums of groups of equal keys inside each warp: sums[i] = sum of x[j] over the lanes j of i's warp with keys[j] = keys[i].
// n is a multiple of 32. flags[i], of i's warp: bit 0: all keys are equal, bit 1: some x is 0; from bit 8 how many
// keys are odd, from bit 16 how many are that of lane 0.
extern "C" __global__ void __launch_bounds__(THREADS)
    group_sums(const u32* keys, const u32* x, u32* sums, u32* flags, int n) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  const u32 key = keys[i], value = x[i];
  const u32 peers = __match_any_sync(ALL, key);
  const u32 first = __shfl_sync(ALL, key, 0);
  const bool same = __all_sync(ALL, key == first), zero = __any_sync(ALL, value == 0);
  u32 odd;
  if (key % 2 == 1) {
    // Which other lanes are here with this one is up to the machine.
    odd = __activemask() >> threadIdx.x % WARP & 1;
    sums[i] = __reduce_add_sync(peers, value);
  } else {
    odd = 0;
    // The same by hand: every lane of the group adds up the group.
    u32 sum = 0;
    u32 left = peers;
    do {
      sum += __shfl_sync(peers, value, __ffs(left) - 1);
      left &= left - 1;
    } while (left != 0);
    sums[i] = sum;
  }
  odd = __reduce_add_sync(ALL, odd);
  flags[i] = same | zero << 1 | odd << 8 | __popc(__ballot_sync(ALL, key == first)) << 16;
}

// Sorts each thread's 12 values in local memory. x, y: [n, 12].
constexpr int VALUES = 12;
extern "C" __global__ void __launch_bounds__(THREADS) local_sort(const int* x, int* y, int n) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  int values[VALUES];
#pragma unroll 1
  for (int j = 0; j < VALUES; j++) {
    const int v = x[i * VALUES + j];
    int at = j;
#pragma unroll 1
    for (; at > 0 && values[at - 1] > v; at--) values[at] = values[at - 1];
    values[at] = v;
  }
#pragma unroll 1
  for (int j = 0; j < VALUES; j++) y[i * VALUES + j] = values[j];
}
