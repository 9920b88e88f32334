// Decode GEMM: few rows (1 … 8·n8), bound by the bytes of the weights.
//
// A block takes `units_per_block` row-tiles (16 outputs) one after the other, over one slice of k; a warp takes one run (8 tiles of 64 k) of
// each, so a block of 8 warps reads 32 KB (4 bit) a row-tile. Each lane keeps kDepth tiles in flight in registers across row-tiles: a slot
// is refilled with the same k of the next row-tile as soon as it is consumed. The first fill is issued before the block waits for the
// kernel that makes its input: weights depend on nothing. Activations of the slice lie in shared memory in fragment order, loaded once.
//
// Columns of the MMA past `rows` hold leftovers of shared memory: a column only ever reaches its own output, which is not stored.
#pragma once
#include <type_traits>

#include "gemm/gemm_mode.cuh"

namespace qspec::cuda {

constexpr int kPartialStride = kTileN + 4;  // conflict-free writes of accumulators

template <GemmMode mode>
constexpr int decode_depth() {
  return mode == GemmMode::kDense || mode == GemmMode::kHiLoInt ? 2 : mode == GemmMode::kHi ? 8 : 4;
}

// Bytes of dynamic shared memory. x: bf16 [n8][tiles][2][32] uint4, or codes [n8][tiles][2][32] uint2 then scales and sums [groups][8·n8].
constexpr int decode_x_bytes(bool integer, int n8, int slice_tiles, int group_size) {
  if (!integer) return n8 * slice_tiles * 1024;
  return n8 * slice_tiles * 512 + 2 * 4 * 8 * n8 * (slice_tiles * kTileK / group_size + 1);
}
constexpr int decode_partial_bytes(int n8, int warps) { return 2 * warps * n8 * 8 * kPartialStride * 4; }

template <GemmMode mode, int n8>
struct UnitSum {
  float total[n8][4];
  float group[n8][4];
  int hi[n8][4], lo[n8][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int c = 0; c < n8; ++c)
#pragma unroll
      for (int i = 0; i < 4; ++i) total[c][i] = group[c][i] = 0.0f, hi[c][i] = lo[c][i] = 0;
  }
  // `pair`: scales of rows g, g+8. x_scales, x_sums: this group's, [8·n8] (integer modes).
  __device__ __forceinline__ void flush(uint32_t pair, const float* x_scales, const int* x_sums, int t, int radix) {
    const float low = low_scale(pair), high = high_scale(pair);
#pragma unroll
    for (int c = 0; c < n8; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float value = group[c][i];
        if constexpr (is_int(mode)) {
          const int column = 8 * c + 2 * t + (i & 1);
          int sum = hi[c][i] - 8 * x_sums[column];
          if constexpr (has_lo(mode)) sum = radix * sum + lo[c][i] - 8 * x_sums[column];
          value = static_cast<float>(sum) * x_scales[column];
          hi[c][i] = lo[c][i] = 0;
        }
        total[c][i] = fmaf(i < 2 ? low : high, value, total[c][i]);
        group[c][i] = 0.0f;
      }
    }
  }
};

// Fills shared memory with this slice's activations of all rows; the caller synchronises. Four neighbouring threads copy half a tile (32 k) of
// a row, the next four the same of the next row (shared memory is then written without gaps), kBatch pieces in flight a thread. Blocks
// begin at different pieces, so that they don't all ask L2 for the same line at once.
template <GemmMode mode, int n8>
__device__ void fill_x(const GemmArgs& args, uint8_t* smem, int slice_tiles, int first_tile, int tiles) {
  using Vector = std::conditional_t<is_int(mode), uint2, uint4>;  // of 8 k
  constexpr int kBatch = 4;
  const int row_bits = args.rows > 4 ? 3 : args.rows > 2 ? 2 : args.rows > 1 ? 1 : 0;
  const int halves = tiles * 2, items = halves << (2 + row_bits), turn = blockIdx.x * 5 % halves;
#pragma unroll
  for (int c = 0; c < n8; ++c) {
    for (int base = threadIdx.x; base < items; base += kBatch * blockDim.x) {
      Vector values[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int i = base + j * blockDim.x, row = 8 * c + (i >> 2 & ((1 << row_bits) - 1));
        int half = (i >> (2 + row_bits)) + turn;
        if (half >= halves) half -= halves;
        const int k = first_tile * kTileK + half * 32 + 8 * (i & 3);
        values[j] = Vector{};
        if (i >= items || row >= args.rows || k >= args.w.k) continue;
        if constexpr (is_int(mode)) values[j] = __ldcg(reinterpret_cast<const uint2*>(args.codes + static_cast<int64_t>(row) * args.w.k + k));
        else values[j] = load_x_vector(args, row, k);
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int i = base + j * blockDim.x, row = i >> 2 & ((1 << row_bits) - 1);
        int half = (i >> (2 + row_bits)) + turn;
        if (half >= halves) half -= halves;
        if (i < items) reinterpret_cast<Vector*>(smem)[(c * slice_tiles * 2 + half) * 32 + 4 * row + (i & 3)] = values[j];
      }
    }
  }
  if constexpr (is_int(mode)) {
    const int groups = args.w.k / args.w.group_size, first = first_tile * kTileK / args.w.group_size;
    const int count = min(tiles * kTileK / args.w.group_size, groups - first), columns = 8 * n8;
    float* scales = reinterpret_cast<float*>(smem + n8 * slice_tiles * 512);
    int* sums = reinterpret_cast<int*>(scales + columns * (slice_tiles * kTileK / args.w.group_size + 1));
    for (int row = 0; row < args.rows; ++row) {
      for (int q = threadIdx.x; q < count; q += blockDim.x) {
        scales[q * columns + row] = __ldcg(args.x_scales + static_cast<int64_t>(row) * groups + first + q);
        sums[q * columns + row] = __ldcg(args.x_sums + static_cast<int64_t>(row) * groups + first + q);
      }
    }
  }
}

// half_shift: log2 of the half tiles (32 k) in a group; a constant, so that the groups of a run are scheduled across each other.
template <GemmMode mode, int n8, int half_shift>
__global__ void __launch_bounds__(256, n8 == 1 ? 2 : 1) decode_gemm_kernel(const __grid_constant__ GemmArgs args) {
  constexpr int depth = decode_depth<mode>(), vectors = vectors_per_tile(mode);
  const DeviceWeight& w = args.w;
  const KPlan plan = k_plan(w.k_tiles);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int slice = blockIdx.y, slice_tiles = plan.slice_runs * kRunTiles;
  const int slice_first = slice * slice_tiles;
  const int slice_count = min(slice_tiles, w.k_tiles - slice_first);
  const int count = min(kRunTiles, slice_count - warp * kRunTiles);  // tiles of this warp's run; <= 0: none
  const int first = slice_first + warp * kRunTiles;
  const int unit0 = blockIdx.x * args.units_per_block, units = min(args.units_per_block, w.n_tiles - unit0);

  const int groups = mode == GemmMode::kDense ? 0 : w.k / w.group_size;
  const int first_group = first * 2 >> half_shift;

  uint4 slots[depth][vectors];
  uint32_t scales[depth][2];
  auto load = [&](int slot, int unit, int tile) {
    const size_t at = static_cast<size_t>(unit0 + unit) * w.k_tiles + first + tile;
#pragma unroll
    for (int v = 0; v < vectors; ++v) slots[slot][v] = load_streaming(weight_vector<mode>(w, at, v, lane));
    if constexpr (mode != GemmMode::kDense) {
      const uint32_t* s = w.scales + static_cast<size_t>(unit0 + unit) * groups * 8 + g;
      const int q = first_group + (2 * tile >> half_shift);
      scales[slot][0] = __ldg(s + q * 8);
      if (half_shift == 0) scales[slot][1] = __ldg(s + min(q + 1, groups - 1) * 8);
    }
  };
#pragma unroll
  for (int i = 0; i < depth; ++i)
    if (i < count) load(i, 0, i);

  allow_next_kernel();
  wait_for_previous_kernel();

  extern __shared__ __align__(16) uint8_t smem[];
  fill_x<mode, n8>(args, smem, slice_tiles, slice_first, slice_count);
  const int x_bytes = decode_x_bytes(is_int(mode), n8, slice_tiles, is_int(mode) ? w.group_size : 32);
  float* partial = reinterpret_cast<float*>(smem + x_bytes);  // [2][warps][8·n8][kPartialStride]
  const int warps = blockDim.x / 32, runs = (slice_count + kRunTiles - 1) / kRunTiles;
  constexpr int slab = n8 * 8 * kPartialStride;
  const float* x_scales = reinterpret_cast<const float*>(smem + n8 * slice_tiles * 512);
  const int* x_sums = reinterpret_cast<const int*>(x_scales + 8 * n8 * (is_int(mode) ? slice_tiles * kTileK / w.group_size + 1 : 0));
  __syncthreads();

  const uint32_t radix2 = bf16_pair(static_cast<float>(w.radix));
  const int64_t padded = static_cast<int64_t>(w.n_tiles) * kTileN;
  UnitSum<mode, n8> sum;
  // One row-tile. `whole`: this warp has all of a run's tiles (a constant again; only the last run of k is shorter).
  auto multiply = [&](int unit, auto whole) {
#pragma unroll
    for (int i = 0; i < kRunTiles; ++i) {
      const int slot = i % depth, tile = warp * kRunTiles + i;
      if (decltype(whole)::value || i < count) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if constexpr (!is_int(mode)) {
            uint32_t a0[4], a1[4];
            a_fragment<mode>(slots[slot], 2 * half, radix2, a0);
            a_fragment<mode>(slots[slot], 2 * half + 1, radix2, a1);
#pragma unroll
            for (int c = 0; c < n8; ++c) {
              const uint4 x = reinterpret_cast<const uint4*>(smem)[((c * slice_tiles + tile) * 2 + half) * 32 + lane];
              mma_bf16(mode == GemmMode::kDense ? sum.total[c] : sum.group[c], a0, x.x, x.y);
              mma_bf16(mode == GemmMode::kDense ? sum.total[c] : sum.group[c], a1, x.z, x.w);
            }
          } else {
            const uint32_t h0 = word_of(slots[slot][0], 2 * half), h1 = word_of(slots[slot][0], 2 * half + 1);
            [[maybe_unused]] const uint32_t l0 = has_lo(mode) ? word_of(slots[slot][vectors - 1], 2 * half) : 0;
            [[maybe_unused]] const uint32_t l1 = has_lo(mode) ? word_of(slots[slot][vectors - 1], 2 * half + 1) : 0;
            constexpr uint32_t mask = 0x0f0f0f0fu;
#pragma unroll
            for (int c = 0; c < n8; ++c) {
              const uint2 x = reinterpret_cast<const uint2*>(smem)[((c * slice_tiles + tile) * 2 + half) * 32 + lane];
              mma_u8s8(sum.hi[c], h0 & mask, h0 >> 4 & mask, h1 & mask, h1 >> 4 & mask, x.x, x.y);
              if constexpr (has_lo(mode)) mma_u8s8(sum.lo[c], l0 & mask, l0 >> 4 & mask, l1 & mask, l1 >> 4 & mask, x.x, x.y);
            }
          }
          if constexpr (mode != GemmMode::kDense) {
            const int q = (tile * 2 + half) >> half_shift;  // of the slice; k = 32 mod 64 ends before the tile does
            if (((2 * i + half + 1) & ((1 << half_shift) - 1)) == 0 && (half_shift > 0 || slice_first * 2 + q < groups))
              sum.flush(scales[slot][half_shift == 0 ? half : 0], x_scales + q * 8 * n8, x_sums + q * 8 * n8, t, w.radix);
          }
        }
      }
      const int next = i + depth;
      if (next < kRunTiles) {
        if (decltype(whole)::value || next < count) load(slot, unit, next);
      } else if (unit + 1 < units && (decltype(whole)::value || next - kRunTiles < count)) {
        load(slot, unit + 1, next - kRunTiles);
      }
    }
  };
  for (int unit = 0; unit < units; ++unit) {
    sum.clear();
    if (count == kRunTiles) multiply(unit, std::true_type{});
    else multiply(unit, std::false_type{});
    float* slabs = partial + (unit & 1) * warps * slab;
#pragma unroll
    for (int c = 0; c < n8; ++c)
#pragma unroll
      for (int i = 0; i < 4; ++i) slabs[warp * slab + (8 * c + 2 * t + (i & 1)) * kPartialStride + g + 8 * (i >> 1)] = sum.total[c][i];
    __syncthreads();
    for (int i = threadIdx.x; i < args.rows * kTileN; i += blockDim.x) {
      const int row = i / kTileN, column = (unit0 + unit) * kTileN + i % kTileN;
      const float* p = slabs + row * kPartialStride + i % kTileN;
      float value = p[0];
      for (int r = 1; r < runs; ++r) value += p[r * slab];
      if (plan.slices > 1) __stcg(args.partials + (static_cast<int64_t>(slice) * args.rows + row) * padded + column, value);
      else if (column < w.n) store_output(args, has_lo(mode), row, column, value);
    }
  }
  if (plan.slices > 1)
    finish_slices(args, has_lo(mode), blockIdx.x, plan.slices, unit0 * kTileN, (unit0 + units) * kTileN, 0, args.rows);
}

}  // namespace qspec::cuda
