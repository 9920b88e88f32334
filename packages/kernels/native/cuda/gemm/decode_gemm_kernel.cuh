// Decode GEMM: few rows (1 … 8·kN8), bound by the bytes of the weights.
//
// One CTA a row-tile (16 outputs), one warp a run of k (layout.h: k_split). Each warp has its first kDepth tiles in flight before it even
// waits for the kernel that makes its input: weights depend on nothing. Runs are added in order through shared memory.
//
//   out[r, n] = Σ_runs Σ_groups scale[n, group] · Σ_k code[n, k] · x[r, k]          (+ bias[n])
//
// Row-invariant: a column of the MMA (= a row of the batch) never sees another, and nothing in the order of sums depends on `rows`.
#pragma once
#include <cuda_bf16.h>

#include "common/fragments.cuh"
#include "common/layout.h"

namespace qspec::cuda {

enum class WeightPlanes : int { kDense = 0, kHi = 1, kHiLo = 2 };

struct DecodeGemmArgs {
  DeviceWeight weight;
  const __nv_bfloat16* x;  // [rows, x_stride], 16-byte aligned rows
  int64_t x_stride;
  const float* bias;  // [n] or nullptr
  float* out;         // [rows, out_stride], from column out_column
  int64_t out_stride, out_column;
  int rows;
};

constexpr int kDepth = 8;  // tiles in flight a warp

template <WeightPlanes planes, int group_size, int n8>
struct RunAccumulator {
  float total[n8][4] = {};
  float group[n8][4] = {};

  // Four k16 steps of one tile; the group's sum is scaled and added wherever a group ends.
  __device__ __forceinline__ void tile(const uint32_t (&hi)[4], const uint32_t (&lo)[4], const uint32_t* scales, uint32_t radix2, bool ends_group,
                                       const uint4 (&x)[n8][2]) {
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      uint32_t a[4];
      if constexpr (planes == WeightPlanes::kHiLo) unpack_nested(hi[s], lo[s], radix2, a);
      else unpack_nibbles(hi[s], a);
#pragma unroll
      for (int c = 0; c < n8; ++c) {
        const uint4& v = x[c][s / 2];
        mma_bf16(group[c], a, s % 2 ? v.z : v.x, s % 2 ? v.w : v.y);
      }
      if (group_size == 32 && s == 1) flush(scales[0]);
    }
    if (group_size == 32) flush(scales[1]);
    else if (ends_group) flush(scales[0]);
  }

  // `pair` holds the bfloat16 scales of rows g (low) and g+8 (high).
  __device__ __forceinline__ void flush(uint32_t pair) {
    const float low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000u);
#pragma unroll
    for (int c = 0; c < n8; ++c) {
      total[c][0] = fmaf(low, group[c][0], total[c][0]);
      total[c][1] = fmaf(low, group[c][1], total[c][1]);
      total[c][2] = fmaf(high, group[c][2], total[c][2]);
      total[c][3] = fmaf(high, group[c][3], total[c][3]);
#pragma unroll
      for (int i = 0; i < 4; ++i) group[c][i] = 0.0f;
    }
  }
};

template <WeightPlanes planes, int group_size, int n8>
__global__ void __launch_bounds__(512) decode_gemm_kernel(const __grid_constant__ DecodeGemmArgs args) {
  constexpr int scales_a_tile = group_size == 32 ? 2 : 1;
  const DeviceWeight& w = args.weight;
  const int lane = threadIdx.x % 32, run = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int n_tile = blockIdx.x;
  const KSplit split = k_split(w.k_tiles);
  const int first = run * split.tiles_each;
  const int count = min(split.tiles_each, w.k_tiles - first);

  const size_t line = (static_cast<size_t>(n_tile) * w.k_tiles + first) * 32 + lane;
  const uint16_t* scale_base = w.scales + static_cast<size_t>(n_tile) * (w.k / group_size) * kTileN;
  uint4 hi[kDepth], lo[planes == WeightPlanes::kHiLo ? kDepth : 1];
  uint32_t scales[kDepth][scales_a_tile];
  auto load = [&](int slot, int tile) {
    hi[slot] = load_streaming(w.hi + line + static_cast<size_t>(tile) * 32);
    if constexpr (planes == WeightPlanes::kHiLo) lo[slot] = load_streaming(w.lo + line + static_cast<size_t>(tile) * 32);
#pragma unroll
    for (int i = 0; i < scales_a_tile; ++i) {
      const int group = min(((first + tile) * kTileK + 32 * i) / group_size, w.k / group_size - 1);
      const uint16_t* s = scale_base + group * kTileN;
      scales[slot][i] = __ldg(s + g) | static_cast<uint32_t>(__ldg(s + g + 8)) << 16;
    }
  };
#pragma unroll
  for (int i = 0; i < kDepth; ++i)
    if (i < count) load(i, i);

  wait_for_previous_kernel();

  RunAccumulator<planes, group_size, n8> acc;
  const uint32_t radix_bits = __bfloat16_as_ushort(__float2bfloat16(static_cast<float>(w.radix)));
  const uint32_t radix2 = radix_bits | radix_bits << 16;
  for (int base = 0; base < count; base += kDepth) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      const int tile = base + i;
      if (tile >= count) break;
      const int k0 = (first + tile) * kTileK + 8 * t;
      uint4 x[n8][2];
#pragma unroll
      for (int c = 0; c < n8; ++c) {
        const int row = 8 * c + g;
        const uint4* p = reinterpret_cast<const uint4*>(args.x + row * args.x_stride + k0);
        x[c][0] = row < args.rows ? p[0] : uint4{};
        x[c][1] = row < args.rows && k0 + 32 < w.k ? p[4] : uint4{};
      }
      const uint32_t hi_words[4] = {hi[i].x, hi[i].y, hi[i].z, hi[i].w};
      uint32_t lo_words[4] = {};
      if constexpr (planes == WeightPlanes::kHiLo) lo_words[0] = lo[i].x, lo_words[1] = lo[i].y, lo_words[2] = lo[i].z, lo_words[3] = lo[i].w;
      uint32_t tile_scales[scales_a_tile];
#pragma unroll
      for (int j = 0; j < scales_a_tile; ++j) tile_scales[j] = scales[i][j];
      if (tile + kDepth < count) load(i, tile + kDepth);
      acc.tile(hi_words, lo_words, tile_scales, radix2, group_size == 64 || i % 2 == 1, x);
    }
  }
  allow_next_kernel();

  // Runs are added in order; thread (row of the batch, output) does one sum.
  extern __shared__ float partial[];  // [runs][8·n8][16]
  const int runs = blockDim.x / 32;
  float* mine = partial + run * (n8 * 8 * kTileN);
#pragma unroll
  for (int c = 0; c < n8; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) mine[(8 * c + 2 * t + (i & 1)) * kTileN + g + 8 * (i >> 1)] = acc.total[c][i];
  }
  __syncthreads();
  for (int index = threadIdx.x; index < args.rows * kTileN; index += blockDim.x) {
    const int row = index / kTileN, column = n_tile * kTileN + index % kTileN;
    if (column >= w.n) continue;
    float sum = partial[index];
    for (int r = 1; r < runs; ++r) sum += partial[r * (n8 * 8 * kTileN) + index];
    if (planes == WeightPlanes::kHiLo) sum /= static_cast<float>(w.radix);
    if (args.bias) sum += args.bias[column];
    args.out[row * args.out_stride + args.out_column + column] = sum;
  }
}

}  // namespace qspec::cuda
