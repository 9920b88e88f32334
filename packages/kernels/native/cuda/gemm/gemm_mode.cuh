// What the two GEMM kernels share: modes, how a step of a tile is multiplied, and how a finished slice is stored.
#pragma once
#include "common/fragments.cuh"
#include "gemm/gemm.h"

namespace qspec::cuda {

enum class GemmMode : int { kDense, kHi, kHiLo, kHiInt, kHiLoInt };

constexpr bool is_int(GemmMode m) { return m == GemmMode::kHiInt || m == GemmMode::kHiLoInt; }
constexpr bool has_lo(GemmMode m) { return m == GemmMode::kHiLo || m == GemmMode::kHiLoInt; }
// 16-byte vectors a lane reads for one tile of 64 k.
constexpr int vectors_per_tile(GemmMode m) { return m == GemmMode::kDense ? 4 : has_lo(m) ? 2 : 1; }

struct GemmArgs {
  DeviceWeight w;
  const __nv_bfloat16* x;
  int64_t x_stride;
  const int8_t* codes;    // [rows, k]
  const float* x_scales;  // [rows, k / group]
  const int32_t* x_sums;
  const float* bias;
  float* out;
  int64_t out_stride, out_column;
  float* partials;     // [slices][rows][n_tiles·16]
  unsigned* counters;  // one a block column
  int rows, units_per_block;
  bool add;
};

__device__ __forceinline__ uint32_t word_of(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Vector `v` of tile `tile` (index n_tile · k_tiles + k_tile) for this lane.
template <GemmMode mode>
__device__ __forceinline__ const uint4* weight_vector(const DeviceWeight& w, size_t tile, int v, int lane) {
  if constexpr (mode == GemmMode::kDense) return w.dense + (tile * 4 + v) * 32 + lane;
  return (v == 0 ? w.hi : w.lo) + tile * 32 + lane;
}

// The A registers of step s (0..3) of a tile, float modes.
template <GemmMode mode>
__device__ __forceinline__ void a_fragment(const uint4* vectors, int s, uint32_t radix2, uint32_t (&a)[4]) {
  if constexpr (mode == GemmMode::kDense) {
    a[0] = vectors[s].x, a[1] = vectors[s].y, a[2] = vectors[s].z, a[3] = vectors[s].w;
  } else if constexpr (mode == GemmMode::kHiLo) {
    unpack_nested(word_of(vectors[0], s), word_of(vectors[1], s), radix2, a);
  } else {
    unpack_nibbles(word_of(vectors[0], s), a);
  }
}

__device__ __forceinline__ uint32_t bf16_pair(float value) {
  const uint32_t bits = __bfloat16_as_ushort(__float2bfloat16(value));
  return bits | bits << 16;
}
__device__ __forceinline__ float low_scale(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_scale(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// Eight bfloat16 of a row from column k on, zero past the row's end.
__device__ __forceinline__ uint4 load_x_vector(const GemmArgs& args, int64_t row, int k) {
  const __nv_bfloat16* p = args.x + row * args.x_stride + k;
  if (k + 8 <= args.w.k) return __ldcg(reinterpret_cast<const uint4*>(p));
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t low = k + 2 * i < args.w.k ? __bfloat16_as_ushort(p[2 * i]) : 0;
    const uint32_t high = k + 2 * i + 1 < args.w.k ? __bfloat16_as_ushort(p[2 * i + 1]) : 0;
    words[i] = low | high << 16;
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Sum over a slice's runs, or over slices -> the output element, in one place so that every path rounds alike.
__device__ __forceinline__ void store_output(const GemmArgs& args, bool divide, int64_t row, int column, float sum) {
  if (divide) sum /= static_cast<float>(args.w.radix);
  if (args.bias) sum += args.bias[column];
  float* p = args.out + row * args.out_stride + args.out_column + column;
  *p = args.add ? *p + sum : sum;
}

// After a block wrote its slice's sums to args.partials: the last of the slices' blocks adds them in order of slices and stores.
// Covers columns [column0, column1) of rows [row0, row1).
__device__ __forceinline__ void finish_slices(const GemmArgs& args, bool divide, int counter, int slices, int column0, int column1, int row0, int row1) {
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(args.counters + counter, 1u) == static_cast<unsigned>(slices - 1);
    if (is_last) args.counters[counter] = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  const int width = column1 - column0;
  const int64_t padded = static_cast<int64_t>(args.w.n_tiles) * kTileN;
  for (int i = threadIdx.x; i < width * (row1 - row0); i += blockDim.x) {
    const int row = row0 + i / width, column = column0 + i % width;
    if (column >= args.w.n) continue;
    float sum = __ldcg(args.partials + row * padded + column);
    for (int s = 1; s < slices; ++s) sum += __ldcg(args.partials + (static_cast<int64_t>(s) * args.rows + row) * padded + column);
    store_output(args, divide, row, column, sum);
  }
}

}  // namespace qspec::cuda
