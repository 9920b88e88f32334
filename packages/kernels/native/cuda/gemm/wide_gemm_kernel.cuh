// Wide GEMM: many rows (17 … 64 in one block, any number over blockIdx.z), the same sums in the same order as the decode GEMM.
//
// A block of 8 warps covers kWarpsN · 32 outputs x 8·n8 rows over one slice of k. Warps are kWarpsN along n times 8 / kWarpsN along k; a warp
// multiplies two row-tiles by all rows, so an activation fragment read from shared memory is used twice. Activations stream through shared
// memory in fragment order (cp.async, kStages deep), weights through registers, refilled as they are consumed. After each round of runs the
// warps along k put their sums into shared memory and they are added in the order of runs.
#pragma once
#include "gemm/gemm_mode.cuh"

namespace qspec::cuda {

constexpr int kWideStages = 3;

template <GemmMode mode>
constexpr int wide_depth() {
  return mode == GemmMode::kDense ? 1 : has_lo(mode) ? 2 : 4;
}
template <int n8, int warps_n>
constexpr int wide_x_bytes() {
  return kWideStages * (8 / warps_n) * n8 * 1024;
}
template <int n8, int warps_n>
constexpr int wide_shared_bytes() {
  return wide_x_bytes<n8, warps_n>() + (8 / warps_n + 1) * n8 * 8 * (warps_n * 32 + 4) * 4;
}

template <GemmMode mode, int n8, int warps_n>
__global__ void __launch_bounds__(256, 1) wide_gemm_kernel(const __grid_constant__ GemmArgs args) {
  constexpr int depth = wide_depth<mode>(), vectors = vectors_per_tile(mode), warps_k = 8 / warps_n;
  constexpr int slab_stride = warps_n * 32 + 4, slab = n8 * 8 * slab_stride;
  const DeviceWeight& w = args.w;
  const KPlan plan = k_plan(w.k_tiles);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int warp_n = warp % warps_n, warp_k = warp / warps_n;
  const int slice = blockIdx.y, slice_first = slice * plan.slice_runs * kRunTiles;
  const int slice_count = min(plan.slice_runs * kRunTiles, w.k_tiles - slice_first);
  const int runs = (slice_count + kRunTiles - 1) / kRunTiles, rounds = (runs + warps_k - 1) / warps_k;
  const int iterations = rounds * kRunTiles;
  const int row0 = blockIdx.z * n8 * 8, rows = min(args.rows - row0, n8 * 8);
  const int tile0 = (blockIdx.x * warps_n + warp_n) * 2;  // first of this warp's two row-tiles
  const int half_shift = w.group_size == 32 ? 0 : w.group_size == 64 ? 1 : 2;
  const int groups = mode == GemmMode::kDense ? 0 : w.k / w.group_size;

  // Tile within the slice of iteration `it` for k-warp `kw`; may lie past slice_count (then it is skipped).
  auto tile_of = [&](int it, int kw) { return ((it / kRunTiles) * warps_k + kw) * kRunTiles + it % kRunTiles; };

  uint4 slots[depth][2][vectors];
  uint32_t scales[depth][2][2];
  auto load = [&](int slot, int it) {
    const int tile = tile_of(it, warp_k);
    if (it >= iterations || tile >= slice_count) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int n_tile = min(tile0 + r, w.n_tiles - 1);
      const size_t at = static_cast<size_t>(n_tile) * w.k_tiles + slice_first + tile;
#pragma unroll
      for (int v = 0; v < vectors; ++v) slots[slot][r][v] = load_streaming(weight_vector<mode>(w, at, v, lane));
      if constexpr (mode != GemmMode::kDense) {
        const uint32_t* s = w.scales + static_cast<size_t>(n_tile) * groups * 8 + g;
        const int q = (slice_first + tile) * 2 >> half_shift;
        scales[slot][r][0] = __ldg(s + q * 8);
        if (half_shift == 0) scales[slot][r][1] = __ldg(s + min(q + 1, groups - 1) * 8);
      }
    }
  };
#pragma unroll
  for (int i = 0; i < depth; ++i) load(i, i);

  allow_next_kernel();
  wait_for_previous_kernel();

  extern __shared__ __align__(16) uint8_t smem[];
  uint4* x_stages = reinterpret_cast<uint4*>(smem);  // [stages][warps_k][n8][2][32]
  float* slabs = reinterpret_cast<float*>(smem + wide_x_bytes<n8, warps_n>());
  float* sums = slabs + warps_k * slab;
  auto fill = [&](int it) {
    if (it < iterations) {
      uint4* stage = x_stages + (it % kWideStages) * warps_k * n8 * 64;
#pragma unroll
      for (int j = 0; j < warps_k * n8 / 4; ++j) {
        const int i = threadIdx.x + 256 * j, kw = i / (n8 * 64), row = i / 8 % (n8 * 8), v = i % 8, tile = tile_of(it, kw);
        if (tile >= slice_count || row >= rows) continue;
        const int k = (slice_first + tile) * kTileK + v * 8;
        uint4* place = stage + ((kw * n8 + row / 8) * 2 + v / 4) * 32 + 4 * (row % 8) + v % 4;
        if (k + 8 <= w.k) copy_async_16(place, args.x + (row0 + row) * args.x_stride + k);
        else *place = k < w.k ? load_x_vector(args, row0 + row, k) : uint4{};
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
#pragma unroll
  for (int i = 0; i < kWideStages - 1; ++i) fill(i);

  float total[2][n8][4] = {}, group[2][n8][4] = {};
  const uint32_t radix2 = bf16_pair(static_cast<float>(w.radix));
  auto flush = [&](int r, uint32_t pair) {
    const float low = low_scale(pair), high = high_scale(pair);
#pragma unroll
    for (int c = 0; c < n8; ++c)
#pragma unroll
      for (int i = 0; i < 4; ++i) total[r][c][i] = fmaf(i < 2 ? low : high, group[r][c][i], total[r][c][i]), group[r][c][i] = 0.0f;
  };

  for (int base = 0; base < iterations; base += depth) {
#pragma unroll
    for (int slot = 0; slot < depth; ++slot) {
      const int it = base + slot;
      asm volatile("cp.async.wait_group %0;" ::"n"(kWideStages - 2) : "memory");
      __syncthreads();
      fill(it + kWideStages - 1);
      const int tile = tile_of(it, warp_k);
      if (tile < slice_count) {
        const uint4* x_tile = x_stages + ((it % kWideStages) * warps_k + warp_k) * n8 * 64 + lane;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t a[2][2][4];
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            a_fragment<mode>(slots[slot][r], 2 * half, radix2, a[r][0]);
            a_fragment<mode>(slots[slot][r], 2 * half + 1, radix2, a[r][1]);
          }
#pragma unroll
          for (int c = 0; c < n8; ++c) {
            const uint4 x = x_tile[(c * 2 + half) * 32];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              mma_bf16(mode == GemmMode::kDense ? total[r][c] : group[r][c], a[r][0], x.x, x.y);
              mma_bf16(mode == GemmMode::kDense ? total[r][c] : group[r][c], a[r][1], x.z, x.w);
            }
          }
          if constexpr (mode != GemmMode::kDense) {
            if (((2 * it + half + 1) & ((1 << half_shift) - 1)) == 0) {
              flush(0, half_shift == 0 && half == 1 ? scales[slot][0][1] : scales[slot][0][0]);
              flush(1, half_shift == 0 && half == 1 ? scales[slot][1][1] : scales[slot][1][0]);
            }
          }
        }
      }
      load(slot, it + depth);
      if (it % kRunTiles != kRunTiles - 1) continue;
      // End of a round: this warp's run is complete.
      const int round = it / kRunTiles;
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int c = 0; c < n8; ++c)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            slabs[warp_k * slab + (8 * c + 2 * t + (i & 1)) * slab_stride + warp_n * 32 + 16 * r + g + 8 * (i >> 1)] = total[r][c][i];
            total[r][c][i] = 0.0f;
          }
      __syncthreads();
      const int runs_here = min(warps_k, runs - round * warps_k);
      for (int i = threadIdx.x; i < rows * warps_n * 32; i += 256) {
        const int at = i / (warps_n * 32) * slab_stride + i % (warps_n * 32);
        float sum = round == 0 ? slabs[at] : sums[at] + slabs[at];
        for (int kw = 1; kw < runs_here; ++kw) sum += slabs[kw * slab + at];
        sums[at] = sum;  // read again by this thread alone
      }
    }
  }
  const int64_t padded = static_cast<int64_t>(w.n_tiles) * kTileN;
  const int column0 = blockIdx.x * warps_n * 32, column1 = min(column0 + warps_n * 32, static_cast<int>(padded));
  for (int i = threadIdx.x; i < rows * warps_n * 32; i += 256) {
    const int row = i / (warps_n * 32), column = column0 + i % (warps_n * 32);
    const float sum = sums[row * slab_stride + i % (warps_n * 32)];
    if (plan.slices > 1) {
      if (column < column1) __stcg(args.partials + (static_cast<int64_t>(slice) * args.rows + row0 + row) * padded + column, sum);
    } else if (column < w.n) {
      store_output(args, has_lo(mode), row0 + row, column, sum);
    }
  }
  if (plan.slices > 1)
    finish_slices(args, has_lo(mode), blockIdx.z * gridDim.x + blockIdx.x, plan.slices, column0, column1, row0, row0 + rows);
}

}  // namespace qspec::cuda
