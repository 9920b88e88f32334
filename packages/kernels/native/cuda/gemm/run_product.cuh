// One run (512 k) of one or two row-tiles times all rows: the inner loop of every product, used by every kernel so that all sum alike.
//
// Weights come from global memory straight into registers, a chunk ahead of the tensor cores: their layout is the order of the fragments, so
// nothing has to be exchanged between lanes. Activations (x-form) lie in shared memory. Accumulators: lane (g, t) holds
// for row-tile j and row block c: outputs g and g+8 of batch rows 2t, 2t+1 as [j][c][0..3] = (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
#pragma once
#include "common/primitives.cuh"
#include "step/step_program.h"

namespace qspec::cuda {

constexpr uint32_t kNibbleMask = 0x000f000fu;
constexpr uint32_t kBf16Magic = 0x43004300u;   // 128.0 twice: a nibble in the low mantissa bits makes 128 + nibble, exactly
constexpr uint32_t kBf16Offset = 0x43084308u;  // 136.0 twice: takes away the 128 and the stored + 8
constexpr uint32_t kByteMask = 0x0f0f0f0fu;

// One word of a 4-bit plane -> the four A registers of mma.m16n8k16 (codes in [-8, 7], exact).
QSPEC_DEVICE void unpack_nibbles(uint32_t word, uint32_t (&a)[4]) {
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) a[i] = bf16x2_sub(and_or(word >> (4 * i), kNibbleMask, kBf16Magic), kBf16Offset);
}
// hi and lo words -> radix · hi + lo (an 8-bit integer, exact in bf16). `radix2` is the radix as a bf16 pair.
QSPEC_DEVICE void unpack_nested(uint32_t hi, uint32_t lo, uint32_t radix2, uint32_t (&a)[4]) {
  uint32_t low[4];
  unpack_nibbles(hi, a);
  unpack_nibbles(lo, low);
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) a[i] = bf16x2_fma(a[i], radix2, low[i]);
}

// Where the activations lie in shared memory from some tile on.
struct TileInput {
  uint32_t x;       // x-form
  uint32_t scales;  // integer: [groups][columns]
  uint32_t sums;
  RowBlocks blocks;
};
// Where a job's run of each row-tile begins in memory.
template <int tiles>
struct RunPlace {
  const uint8_t *high[tiles], *low[tiles];  // high: dense weights too
};

template <int tiles, int n8>
struct Accumulator {
  float value[tiles][n8][4];
  QSPEC_DEVICE void clear() {
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j)
      QSPEC_UNROLL
      for (int c = 0; c < n8; ++c)
        QSPEC_UNROLL
        for (int i = 0; i < 4; ++i) value[j][c][i] = 0.0f;
  }
};

// total += scale · group, per output row. `pairs`: of the group, per row-tile.
template <int tiles, int n8>
QSPEC_DEVICE void add_group(Accumulator<tiles, n8>& total, const Accumulator<tiles, n8>& group, const uint32_t (&pairs)[tiles]) {
  QSPEC_UNROLL
  for (int j = 0; j < tiles; ++j) {
    const float low = bf16_low(pairs[j]), high = bf16_high(pairs[j]);
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) total.value[j][c][i] = fmaf(i < 2 ? low : high, group.value[j][c][i], total.value[j][c][i]);
  }
}

// Activations of half a tile (32 k), this lane's.
template <int n8>
struct HalfInput {
  uint4 b[n8];
  QSPEC_DEVICE void load(const TileInput& input, int half, int lane) {
    const uint32_t x = input.x + ((lane / 4 & (input.blocks.rows - 1)) * 4 + lane % 4) * 16;
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c) b[c] = shared_load_16(x + ((half / 2 * n8 + c) * 2 + half % 2) * input.blocks.rows * 64);
  }
};

// group (+)= half a tile's product; `is_first`: group begins here.
template <int tiles, int n8>
QSPEC_DEVICE void multiply_half(Accumulator<tiles, n8>& group, const uint32_t (&a)[tiles][2][4], const HalfInput<n8>& x, bool is_first) {
  QSPEC_UNROLL
  for (int c = 0; c < n8; ++c)
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j) {
      if (is_first) mma_bf16_new(group.value[j][c], a[j][0], x.b[c].x, x.b[c].y);
      else mma_bf16(group.value[j][c], a[j][0], x.b[c].x, x.b[c].y);
      mma_bf16(group.value[j][c], a[j][1], x.b[c].z, x.b[c].w);
    }
}

// Integer sums of one group.
template <int tiles, int n8>
struct IntegerSums {
  int value[tiles][n8][4];
  QSPEC_DEVICE void clear() {
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j)
      QSPEC_UNROLL
      for (int c = 0; c < n8; ++c)
        QSPEC_UNROLL
        for (int i = 0; i < 4; ++i) value[j][c][i] = 0;
  }

  // (+)= half a tile (32 k): its two words of the row-tile.
  QSPEC_DEVICE void multiply(const uint32_t (&words)[tiles][2], const TileInput& input, int half, bool is_first, int lane) {
    const uint32_t x = input.x + ((lane / 4 & (input.blocks.rows - 1)) * 4 + lane % 4) * 8;
    uint2 b[n8];
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c) b[c] = shared_load_8(x + ((half / 2 * n8 + c) * 2 + half % 2) * input.blocks.rows * 32);
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j) {
      const uint32_t w0 = words[j][0], w1 = words[j][1], a[4] = {w0 & kByteMask, w0 >> 4 & kByteMask, w1 & kByteMask, w1 >> 4 & kByteMask};
      QSPEC_UNROLL
      for (int c = 0; c < n8; ++c) {
        if (is_first) mma_u8s8_new(value[j][c], a, b[c].x, b[c].y);
        else mma_u8s8(value[j][c], a, b[c].x, b[c].y);
      }
    }
  }
  // total += weight scale · activation scale · (sum - 8 · sum of the activations). `q`: group of the input; `pairs`: scales of the weights.
  QSPEC_DEVICE void add_to(Accumulator<tiles, n8>& total, const uint32_t (&pairs)[tiles], const TileInput& input, int q, int lane) const {
    const int t = lane % 4, columns = input.blocks.columns();
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c) {
      float scale[2];
      int eight[2];
      QSPEC_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int column = n8 == 1 ? (2 * t + i) & (columns - 1) : 8 * c + 2 * t + i;  // missing rows read others'
        const uint32_t at = (q * columns + column) * 4;
        scale[i] = shared_load_float(input.scales + at), eight[i] = 8 * static_cast<int>(shared_load_4(input.sums + at));
      }
      QSPEC_UNROLL
      for (int j = 0; j < tiles; ++j)
        QSPEC_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float product = static_cast<float>(value[j][c][i] - eight[i & 1]) * scale[i & 1];
          total.value[j][c][i] = fmaf(i < 2 ? bf16_low(pairs[j]) : bf16_high(pairs[j]), product, total.value[j][c][i]);
        }
    }
  }
};

// What a warp holds of the weights at once: some tiles of k of its row-tiles, whole groups. `shift`: log2 of half tiles a group, or -1: told at
// run time. `is_small`: with many rows registers are scarce.
template <GemmMode mode, int tiles, int shift, bool is_small>
struct WeightChunk {
  static constexpr bool kIsDense = mode == GemmMode::kDense, kHasLow = mode == GemmMode::kHiLo;
  static constexpr int kTiles = (kIsDense ? 2 : 4) / ((kIsDense || kHasLow) && is_small ? 2 : 1);  // of k
  static constexpr int kChunks = kRunTiles / kTiles;                             // of a run
  static constexpr int kLoads = kIsDense ? 4 * kTiles : kTiles;
  static constexpr int kGroups = kIsDense ? 1 : (2 * kTiles) >> (shift < 0 ? 0 : shift);

  uint4 high[tiles][kLoads];
  uint4 low[kHasLow ? tiles : 1][kHasLow ? kLoads : 1];
  uint32_t scales[tiles][kGroups];

  // Before a load that may not happen: what has no value on some path would keep its registers through the whole kernel.
  QSPEC_DEVICE void clear() {
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j) {
      QSPEC_UNROLL
      for (int i = 0; i < kLoads; ++i) {
        high[j][i] = uint4{0, 0, 0, 0};
        if constexpr (kHasLow) low[j][i] = uint4{0, 0, 0, 0};
      }
      QSPEC_UNROLL
      for (int q = 0; q < kGroups; ++q) scales[j][q] = 0;
    }
  }
  // Chunk `c` of a whole run.
  QSPEC_DEVICE void load(const RunPlace<tiles>& place, int c, int half_shift, int lane) {
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j) {
      if constexpr (kIsDense) {
        QSPEC_UNROLL
        for (int i = 0; i < kLoads; ++i) high[j][i] = load_stream_16(place.high[j] + (c * kLoads + i) * 512 + lane * 16);
      } else {
        const int shifted = shift < 0 ? half_shift : shift, tile = c * kTiles;
        const uint8_t* piece = place.high[j] + tile / kPieceTiles * full_piece_bytes(32 << shifted);
        QSPEC_UNROLL
        for (int i = 0; i < kTiles; ++i) high[j][i] = load_stream_16(piece + (tile % kPieceTiles + i) * kTileBytes + lane * 16);
        QSPEC_UNROLL
        for (int i = 0; kHasLow && i < kTiles; ++i) low[j][i] = load_stream_16(place.low[j] + (tile + i) * kTileBytes + lane * 16);
        const uint8_t* scale = piece + kPieceTiles * kTileBytes + (2 * (tile % kPieceTiles) >> shifted) * kScaleBytes + lane / 4 * 4;
        QSPEC_UNROLL
        for (int q = 0; q < kGroups; ++q)
          scales[j][q] = shift >= 0 || q < 2 * kTiles >> shifted ? load_stream_4(scale + q * kScaleBytes) : 0;
      }
    }
  }

  // Fragments of half tile `half`.
  QSPEC_DEVICE void unpack(uint32_t (&a)[tiles][2][4], int half, uint32_t radix2) const {
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j)
      QSPEC_UNROLL
      for (int s = 0; s < 2; ++s) {
        if constexpr (kIsDense) {
          const uint4& v = high[j][2 * half + s];
          a[j][s][0] = v.x, a[j][s][1] = v.y, a[j][s][2] = v.z, a[j][s][3] = v.w;
        } else if constexpr (kHasLow) {
          unpack_nested(word_of(high[j][half / 2], 2 * (half % 2) + s), word_of(low[j][half / 2], 2 * (half % 2) + s), radix2, a[j][s]);
        } else {
          unpack_nibbles(word_of(high[j][half / 2], 2 * (half % 2) + s), a[j][s]);
        }
      }
  }

  // total += chunk · input.
  template <int n8>
  QSPEC_DEVICE void multiply(Accumulator<tiles, n8>& total, const TileInput& input, int half_shift, uint32_t radix2, int lane) const {
    const int shifted = shift < 0 ? half_shift : shift, mask = (1 << shifted) - 1;
    if constexpr (mode == GemmMode::kHiInt) {
      IntegerSums<tiles, n8> sums;
      sums.clear();
      QSPEC_UNROLL
      for (int half = 0; half < 2 * kTiles; ++half) {
        uint32_t words[tiles][2];
        QSPEC_UNROLL
        for (int j = 0; j < tiles; ++j)
          QSPEC_UNROLL
          for (int s = 0; s < 2; ++s) words[j][s] = word_of(high[j][half / 2], 2 * (half % 2) + s);
        sums.multiply(words, input, half, (half & mask) == 0, lane);
        if ((half & mask) != mask) continue;
        uint32_t pairs[tiles];
        take_scales(half >> shifted, pairs);
        sums.add_to(total, pairs, input, half >> shifted, lane);
      }
    } else {
      Accumulator<tiles, n8> group;
      group.clear();
      HalfInput<n8> x[2];
      x[0].load(input, 0, lane);
      QSPEC_UNROLL
      for (int half = 0; half < 2 * kTiles; ++half) {
        if (half + 1 < 2 * kTiles) x[(half + 1) % 2].load(input, half + 1, lane);
        uint32_t a[tiles][2][4];
        unpack(a, half, radix2);
        if constexpr (kIsDense) {
          multiply_half(total, a, x[half % 2], false);
        } else {
          multiply_half(group, a, x[half % 2], (half & mask) == 0);
          if ((half & mask) != mask) continue;
          uint32_t pairs[tiles];
          take_scales(half >> shifted, pairs);
          add_group(total, group, pairs);
        }
      }
    }
  }

 private:
  QSPEC_DEVICE void take_scales(int q, uint32_t (&pairs)[tiles]) const {
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j) {
      pairs[j] = scales[j][0];
      QSPEC_UNROLL
      for (int i = 1; i < kGroups; ++i)  // a register has no index
        if (i == q) pairs[j] = scales[j][i];
    }
  }
};

// A run that ends before 512 k: the last of a row-tile. The same sums in the same order, tile by tile. `k`: of the run.
template <GemmMode mode, int tiles, int n8>
QSPEC_DEVICE void multiply_short_run(Accumulator<tiles, n8>& total, const RunPlace<tiles>& place, int k, const TileInput& input, int half_shift, uint32_t radix2,
                                     int lane) {
  const int num_tiles = (k + kTileK - 1) / kTileK, group_size = 32 << half_shift, mask = (1 << half_shift) - 1;
  Accumulator<tiles, n8> group;
  IntegerSums<tiles, n8> sums;
  group.clear(), sums.clear();
  QSPEC_NO_UNROLL
  for (int half = 0; half < 2 * num_tiles; ++half) {
    const int tile = half / 2, first = tile / kPieceTiles * kPieceTiles, piece = first / kPieceTiles * full_piece_bytes(group_size);
    const bool is_first = (half & mask) == 0;
    uint32_t words[tiles][2], a[tiles][2][4];
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j)
      QSPEC_UNROLL
      for (int s = 0; s < 2; ++s) {
        if constexpr (mode == GemmMode::kDense) {
          const uint4 v = load_stream_16(place.high[j] + (2 * half + s) * 512 + lane * 16);
          a[j][s][0] = v.x, a[j][s][1] = v.y, a[j][s][2] = v.z, a[j][s][3] = v.w;
        } else {
          const int word = lane * 16 + (2 * (half % 2) + s) * 4;
          words[j][s] = load_stream_4(place.high[j] + piece + (tile - first) * kTileBytes + word);
          if constexpr (mode == GemmMode::kHi) unpack_nibbles(words[j][s], a[j][s]);
          if constexpr (mode == GemmMode::kHiLo) unpack_nested(words[j][s], load_stream_4(place.low[j] + tile * kTileBytes + word), radix2, a[j][s]);
        }
      }
    if constexpr (mode == GemmMode::kHiInt) {
      sums.multiply(words, input, half, is_first, lane);
    } else {
      HalfInput<n8> x;
      x.load(input, half, lane);
      if constexpr (mode == GemmMode::kDense) multiply_half(total, a, x, false);
      else multiply_half(group, a, x, is_first);
    }
    const int q = half >> half_shift;
    if (mode == GemmMode::kDense || (half & mask) != mask || q * group_size >= k) continue;
    uint32_t pairs[tiles];
    const int at = piece + (num_tiles - first < kPieceTiles ? num_tiles - first : kPieceTiles) * kTileBytes + (q - (2 * first >> half_shift)) * kScaleBytes;
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j) pairs[j] = load_stream_4(place.high[j] + at + lane / 4 * 4);
    if constexpr (mode == GemmMode::kHiInt) sums.add_to(total, pairs, input, q, lane);
    else if constexpr (mode != GemmMode::kDense) add_group(total, group, pairs);
  }
}

}  // namespace qspec::cuda
