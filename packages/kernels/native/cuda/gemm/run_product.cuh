// One piece (256 k) of one or two row-tiles times all rows: the inner loop of every product, used by every kernel so that all sum alike.
//
// Weights and activations (x-form) lie in shared memory. Accumulators: lane (g, t) holds
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

// Where the activations of one piece lie in shared memory.
struct PieceInput {
  uint32_t x;       // x-form at the piece's first tile
  uint32_t scales;  // integer: [groups of this piece][columns]
  uint32_t sums;
  RowBlocks blocks;
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

// total += scale · group, per output row; clears group. `scales`: of the group, per row-tile.
template <int tiles, int n8>
QSPEC_DEVICE void flush_group(Accumulator<tiles, n8>& total, Accumulator<tiles, n8>& group, const uint32_t (&scales)[tiles], int g) {
  QSPEC_UNROLL
  for (int j = 0; j < tiles; ++j) {
    const uint32_t pair = shared_load_4(scales[j] + 4 * g);
    const float low = bf16_low(pair), high = bf16_high(pair);
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        total.value[j][c][i] = fmaf(i < 2 ? low : high, group.value[j][c][i], total.value[j][c][i]);
        group.value[j][c][i] = 0.0f;
      }
  }
}

// What one tile (64 k) is multiplied from, in registers: loaded while the tile before is multiplied.
template <GemmMode mode, int tiles, int n8>
struct QuantizedTile {
  uint4 high[tiles];
  uint4 low[mode == GemmMode::kHiLo ? tiles : 1];
  uint4 b[2][n8];  // by half tile

  // `hi`, `lo`, `x`: this lane's places in the piece.
  QSPEC_DEVICE void load(const uint32_t (&hi)[tiles], const uint32_t (&lo)[tiles], uint32_t x, int half_bytes, int tile) {
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j) {
      high[j] = shared_load_16(hi[j] + tile * kTileBytes);
      if constexpr (mode == GemmMode::kHiLo) low[j] = shared_load_16(lo[j] + tile * kTileBytes);
    }
    QSPEC_UNROLL
    for (int half = 0; half < 2; ++half)
      QSPEC_UNROLL
      for (int c = 0; c < n8; ++c) b[half][c] = shared_load_16(x + (tile * n8 * 2 + c * 2 + half) * half_bytes);
  }
  QSPEC_DEVICE void multiply(Accumulator<tiles, n8>& group, uint32_t radix2, int half) const {
    uint32_t a[tiles][2][4];
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j)
      QSPEC_UNROLL
      for (int s = 0; s < 2; ++s) {
        if constexpr (mode == GemmMode::kHiLo) unpack_nested(word_of(high[j], 2 * half + s), word_of(low[j], 2 * half + s), radix2, a[j][s]);
        else unpack_nibbles(word_of(high[j], 2 * half + s), a[j][s]);
      }
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c)
      QSPEC_UNROLL
      for (int j = 0; j < tiles; ++j) {
        mma_bf16(group.value[j][c], a[j][0], b[half][c].x, b[half][c].y);
        mma_bf16(group.value[j][c], a[j][1], b[half][c].z, b[half][c].w);
      }
  }
};

// A whole piece of groups of 32 · 2^half_shift: straight code.
template <GemmMode mode, int tiles, int n8, int half_shift>
QSPEC_DEVICE void whole_piece(Accumulator<tiles, n8>& total, const uint32_t (&hi)[tiles], const uint32_t (&lo)[tiles], uint32_t radix2, const PieceInput& input,
                              int lane) {
  const int g = lane / 4, half_bytes = input.blocks.rows * 64;
  const uint32_t x = input.x + ((g & (input.blocks.rows - 1)) * 4 + lane % 4) * 16;
  uint32_t high[tiles], low[tiles];
  QSPEC_UNROLL
  for (int j = 0; j < tiles; ++j) high[j] = hi[j] + lane * 16, low[j] = lo[j] + lane * 16;
  Accumulator<tiles, n8> group;
  group.clear();
  QuantizedTile<mode, tiles, n8> now, next;
  now.load(high, low, x, half_bytes, 0);
  QSPEC_UNROLL
  for (int tile = 0; tile < kPieceTiles; ++tile) {
    if (tile + 1 < kPieceTiles) next.load(high, low, x, half_bytes, tile + 1);
    QSPEC_UNROLL
    for (int half = 0; half < 2; ++half) {
      now.multiply(group, radix2, half);
      const int halves = 2 * tile + half + 1;
      if ((halves & ((1 << half_shift) - 1)) != 0) continue;
      uint32_t scales[tiles];
      QSPEC_UNROLL
      for (int j = 0; j < tiles; ++j) scales[j] = hi[j] + kPieceTiles * kTileBytes + ((halves - 1) >> half_shift) * kScaleBytes;
      flush_group(total, group, scales, g);
    }
    now = next;
  }
}

// The last piece of a row-tile, which may be short. The same sums in the same order.
template <GemmMode mode, int tiles, int n8>
QSPEC_DEVICE void short_piece(Accumulator<tiles, n8>& total, const uint32_t (&hi)[tiles], const uint32_t (&lo)[tiles], int num_tiles, int num_groups,
                              int half_shift, uint32_t radix2, const PieceInput& input, int lane) {
  const int g = lane / 4, half_bytes = input.blocks.rows * 64;
  const uint32_t x = input.x + ((g & (input.blocks.rows - 1)) * 4 + lane % 4) * 16;
  uint32_t high[tiles], low[tiles];
  QSPEC_UNROLL
  for (int j = 0; j < tiles; ++j) high[j] = hi[j] + lane * 16, low[j] = lo[j] + lane * 16;
  Accumulator<tiles, n8> group;
  group.clear();
  QSPEC_NO_UNROLL
  for (int tile = 0; tile < num_tiles; ++tile) {
    QuantizedTile<mode, tiles, n8> now;
    now.load(high, low, x, half_bytes, tile);
    QSPEC_UNROLL
    for (int half = 0; half < 2; ++half) {
      now.multiply(group, radix2, half);
      const int halves = 2 * tile + half + 1, q = (halves - 1) >> half_shift;
      if ((halves & ((1 << half_shift) - 1)) != 0 || q >= num_groups) continue;
      uint32_t scales[tiles];
      QSPEC_UNROLL
      for (int j = 0; j < tiles; ++j) scales[j] = hi[j] + num_tiles * kTileBytes + q * kScaleBytes;
      flush_group(total, group, scales, g);
    }
  }
}

// Quantised weights, bfloat16 activations. `hi`: codes of the piece followed by its scales; `lo`: codes (kHiLo).
template <GemmMode mode, int tiles, int n8>
QSPEC_DEVICE void quantized_piece(Accumulator<tiles, n8>& total, const uint32_t (&hi)[tiles], const uint32_t (&lo)[tiles], bool is_whole, int num_tiles,
                                  int num_groups, int half_shift, int radix, const PieceInput& input, int lane) {
  const uint32_t radix2 = mode == GemmMode::kHiLo ? pack_bf16(static_cast<float>(radix), static_cast<float>(radix)) : 0;
  if (!is_whole) return short_piece<mode>(total, hi, lo, num_tiles, num_groups, half_shift, radix2, input, lane);
  if (half_shift == 2) return whole_piece<mode, tiles, n8, 2>(total, hi, lo, radix2, input, lane);
  if (half_shift == 1) return whole_piece<mode, tiles, n8, 1>(total, hi, lo, radix2, input, lane);
  whole_piece<mode, tiles, n8, 0>(total, hi, lo, radix2, input, lane);
}

// One tile (64 k) of dense weights.
template <int tiles, int n8>
QSPEC_DEVICE void dense_tile(Accumulator<tiles, n8>& total, const uint32_t (&dense)[tiles], const PieceInput& input, int lane) {
  const int half_bytes = input.blocks.rows * 64;
  const uint32_t x = input.x + ((lane / 4 & (input.blocks.rows - 1)) * 4 + lane % 4) * 16;
  QSPEC_UNROLL
  for (int half = 0; half < 2; ++half) {
    uint32_t a[tiles][2][4];
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j)
      QSPEC_UNROLL
      for (int s = 0; s < 2; ++s) {
        const uint4 v = shared_load_16(dense[j] + (2 * half + s) * 512 + lane * 16);
        a[j][s][0] = v.x, a[j][s][1] = v.y, a[j][s][2] = v.z, a[j][s][3] = v.w;
      }
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c) {
      const uint4 b = shared_load_16(x + (c * 2 + half) * half_bytes);
      QSPEC_UNROLL
      for (int j = 0; j < tiles; ++j) {
        mma_bf16(total.value[j][c], a[j][0], b.x, b.y);
        mma_bf16(total.value[j][c], a[j][1], b.z, b.w);
      }
    }
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
  // One half tile (32 k).
  QSPEC_DEVICE void multiply(const uint4 (&high)[tiles], const uint2 (&b)[n8], int half) {
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j) {
      const uint32_t w0 = word_of(high[j], 2 * half), w1 = word_of(high[j], 2 * half + 1);
      const uint32_t a[4] = {w0 & kByteMask, w0 >> 4 & kByteMask, w1 & kByteMask, w1 >> 4 & kByteMask};
      QSPEC_UNROLL
      for (int c = 0; c < n8; ++c) mma_u8s8(value[j][c], a, b[c].x, b[c].y);
    }
  }
  // total += weight scale · activation scale · (sum - 8 · sum of the activations); clears. `q`: group of the piece; `scales`: of the weights.
  QSPEC_DEVICE void flush(Accumulator<tiles, n8>& total, const uint32_t (&scales)[tiles], const PieceInput& input, int q, int lane) {
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
      for (int j = 0; j < tiles; ++j) {
        const uint32_t pair = shared_load_4(scales[j] + 4 * (lane / 4));
        QSPEC_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float product = static_cast<float>(value[j][c][i] - eight[i & 1]) * scale[i & 1];
          total.value[j][c][i] = fmaf(i < 2 ? bf16_low(pair) : bf16_high(pair), product, total.value[j][c][i]);
        }
      }
    }
    clear();
  }
};

// Quantised weights (the hi plane), integer activations: exact integer sums a group, then scales. half_shift < 0: told at run time.
template <int tiles, int n8, int half_shift>
QSPEC_DEVICE void integer_tiles(Accumulator<tiles, n8>& total, const uint32_t (&hi)[tiles], int num_tiles, int num_groups, int shift, const PieceInput& input,
                                int lane) {
  const int half_bytes = input.blocks.rows * 32;
  const uint32_t x = input.x + ((lane / 4 & (input.blocks.rows - 1)) * 4 + lane % 4) * 8;
  if (half_shift >= 0) num_tiles = kPieceTiles, num_groups = 8 >> (half_shift & 3), shift = half_shift;
  IntegerSums<tiles, n8> sums;
  sums.clear();
  const auto one_tile = [&](int tile) {
    uint4 high[tiles];
    uint2 b[2][n8];
    QSPEC_UNROLL
    for (int j = 0; j < tiles; ++j) high[j] = shared_load_16(hi[j] + tile * kTileBytes + lane * 16);
    QSPEC_UNROLL
    for (int half = 0; half < 2; ++half)
      QSPEC_UNROLL
      for (int c = 0; c < n8; ++c) b[half][c] = shared_load_8(x + (tile * n8 * 2 + c * 2 + half) * half_bytes);
    QSPEC_UNROLL
    for (int half = 0; half < 2; ++half) {
      sums.multiply(high, b[half], half);
      const int halves = 2 * tile + half + 1, q = (halves - 1) >> shift;
      if ((halves & ((1 << shift) - 1)) != 0 || q >= num_groups) continue;
      uint32_t scales[tiles];
      QSPEC_UNROLL
      for (int j = 0; j < tiles; ++j) scales[j] = hi[j] + num_tiles * kTileBytes + q * kScaleBytes;
      sums.flush(total, scales, input, q, lane);
    }
  };
  if constexpr (half_shift >= 0) {
    QSPEC_UNROLL
    for (int tile = 0; tile < kPieceTiles; ++tile) one_tile(tile);
  } else {
    QSPEC_NO_UNROLL
    for (int tile = 0; tile < num_tiles; ++tile) one_tile(tile);
  }
}
template <int tiles, int n8>
QSPEC_DEVICE void integer_piece(Accumulator<tiles, n8>& total, const uint32_t (&hi)[tiles], bool is_whole, int num_tiles, int num_groups, int half_shift,
                                const PieceInput& input, int lane) {
  if (is_whole && half_shift == 2) return integer_tiles<tiles, n8, 2>(total, hi, num_tiles, num_groups, half_shift, input, lane);
  integer_tiles<tiles, n8, -1>(total, hi, num_tiles, num_groups, half_shift, input, lane);
}

}  // namespace qspec::cuda
