// One run (512 k) of a row-tile times all rows: the inner loop of every product, used by every kernel so that all sum alike.
//
// Weights come from global memory straight into registers, a chunk ahead of the tensor cores: their layout is the order of the fragments, so
// nothing has to be exchanged between lanes. Activations (x-form) lie in shared memory, from where a warp loads them, or a warpgroup's tensor cores read
// them for themselves. Accumulators: lane (g, t) holds
// for row-tile j and row block c: outputs g and g+8 of batch rows 2t, 2t+1 as [c][0..3] = (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
#pragma once
#include "common/wide_mma.cuh"
#include "step/step_program.h"

namespace qspec::cuda {

// A word of a 4-bit plane -> the four A registers of mma.m16n8k16. Codes, stored + 8, are taken as they lie: with nothing above them, bits 0-3 of a half word are
// the subnormal bfloat16 code · kLeastBf16, and bits 4-7, a row g + 8's, 16 times that, for up to the smallest exponent bfloat16 is linear in its bits. One
// multiply-add a pair makes of that code · kCodeUnit, exactly, for both rows.
constexpr uint32_t kLowNibbles = 0x000f000fu, kHighNibbles = 0x00f000f0u;
constexpr uint32_t kCodeOffset = bf16_pair_of_power(kCodeUnitLog2 + 3) | kBf16Signs;  // -8 · kCodeUnit
struct NibblePairs {
  uint32_t pairs[4];  // of rows g, g + 8 (16 times as large), g, g + 8
  QSPEC_DEVICE explicit NibblePairs(uint32_t word)
      : pairs{word & kLowNibbles, word & kHighNibbles, word >> 8 & kLowNibbles, word >> 8 & kHighNibbles} {}
};
// (value + offset) · kCodeUnit of the i-th pair.
QSPEC_DEVICE uint32_t code_pair(uint32_t pair, int i, uint32_t offset) { return bf16x2_fma(pair, i % 2 == 0 ? kCodeFactor : kCodeFactor16, offset); }

QSPEC_DEVICE void unpack_nibbles(uint32_t word, uint32_t (&a)[4]) {
  const NibblePairs codes(word);
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) a[i] = code_pair(codes.pairs[i], i, kCodeOffset);
}
// What nested codes are unpacked with, as bfloat16 pairs: the radix, and what to take off radix · (hi + 8) + lo + 8.
struct NestedRadix {
  uint32_t radix, offset;
  QSPEC_DEVICE explicit NestedRadix(int of) {
    const float value = static_cast<float>(of), taken = (value + 1.0f) * (-8.0f * kCodeUnit);
    radix = pack_bf16(value, value), offset = pack_bf16(taken, taken);
  }
};
// hi and lo words -> radix · hi + lo (an 8-bit integer).
QSPEC_DEVICE void unpack_nested(uint32_t hi, uint32_t lo, const NestedRadix& radix, uint32_t (&a)[4]) {
  const NibblePairs high(hi), low(lo);
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) a[i] = code_pair(bf16x2_fma(high.pairs[i], radix.radix, low.pairs[i]), i, radix.offset);
}

// Where the activations lie in shared memory from some tile on.
struct TileInput {
  uint32_t x;       // x-form
  uint32_t scales;  // integer: [groups][columns]
  uint32_t sums;
  RowBlocks blocks;
};
// Where a run of a row-tile begins in memory.
struct RunPlace {
  const uint8_t *high, *low;  // high: dense weights too
};

template <int n8>
struct Accumulator {
  float value[n8][4];
  QSPEC_DEVICE void clear() {
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) value[c][i] = 0.0f;
  }
};

// total += scale · group, per output row. `pair`: scales of the group's rows g and g + 8.
template <int n8>
QSPEC_DEVICE void add_group(Accumulator<n8>& total, const Accumulator<n8>& group, float low, float high) {
  QSPEC_UNROLL
  for (int c = 0; c < n8; ++c)
    QSPEC_UNROLL
    for (int i = 0; i < 4; ++i) total.value[c][i] = fmaf(i < 2 ? low : high, group.value[c][i], total.value[c][i]);
}
template <int n8>
QSPEC_DEVICE void add_group(Accumulator<n8>& total, const Accumulator<n8>& group, uint32_t pair) {
  add_group(total, group, bf16_low(pair), bf16_high(pair));
}

// Activations of half a tile (32 k), this lane's.
template <int n8>
struct HalfInput {
  uint4 b[n8];
  QSPEC_DEVICE void load(const TileInput& input, int half, int lane) {
    const uint32_t x = input.x + (input.blocks.row_of_group(lane / 4) * 4 + lane % 4) * 16;
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c) b[c] = shared_load_16(x + ((half / 2 * n8 + c) * 2 + half % 2) * input.blocks.rows * 64);
  }
};

// group (+)= half a tile's product; `is_first`: group begins here.
template <int n8>
QSPEC_DEVICE void multiply_half(Accumulator<n8>& group, const uint32_t (&a)[2][4], const HalfInput<n8>& x, bool is_first) {
  QSPEC_UNROLL
  for (int c = 0; c < n8; ++c) {
    if (is_first) mma_bf16_new(group.value[c], a[0], x.b[c].x, x.b[c].y);
    else mma_bf16(group.value[c], a[0], x.b[c].x, x.b[c].y);
    mma_bf16(group.value[c], a[1], x.b[c].z, x.b[c].w);
  }
}

// The same of half tile `half` of a warp's own input, and of one that a warpgroup's tensor cores read for themselves; waits for it.
template <int n8>
QSPEC_DEVICE void multiply_half_at(Accumulator<n8>& group, const uint32_t (&a)[2][4], const TileInput& input, int half, bool is_first, int lane) {
  HalfInput<n8> x;
  x.load(input, half, lane);
  multiply_half(group, a, x, is_first);
}
template <int n8>
QSPEC_DEVICE void multiply_half_at(Accumulator<n8>& group, const uint32_t (&a)[2][4], const WideInput& input, int half, bool is_first, int) {
  if (is_first) group.clear();
  begin_wide();
  multiply_wide<false>(group.value, a, input, wide_half_at<n8>(half));
  end_wide();
  wait_wide_sums(group.value);
}

// Integer sums of one group.
template <int n8>
struct IntegerSums {
  int value[n8][4];
  QSPEC_DEVICE void clear() {
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) value[c][i] = 0;
  }

  // (+)= half a tile (32 k): its two words.
  QSPEC_DEVICE void multiply(const uint32_t (&words)[2], const TileInput& input, int half, bool is_first, int lane) {
    const uint32_t x = input.x + (input.blocks.row_of_group(lane / 4) * 4 + lane % 4) * 8;
    uint2 b[n8];
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c) b[c] = shared_load_8(x + ((half / 2 * n8 + c) * 2 + half % 2) * input.blocks.rows * 32);
    const uint32_t w0 = words[0], w1 = words[1], a[4] = {w0 & kByteMask, w0 >> 4 & kByteMask, w1 & kByteMask, w1 >> 4 & kByteMask};
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c) {
      if (is_first) mma_u8s8_new(value[c], a, b[c].x, b[c].y);
      else mma_u8s8(value[c], a, b[c].x, b[c].y);
    }
  }
  // total += weight scale · activation scale · (sum - 8 · sum of the activations). `q`: group of the input; `pair`: scales of the weights.
  QSPEC_DEVICE void add_to(Accumulator<n8>& total, uint32_t pair, const TileInput& input, int q, int lane) const {
    const int t = lane % 4, columns = input.blocks.columns();
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c) {
      float scale[2];
      int eight[2];
      QSPEC_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int column = n8 == 1 ? input.blocks.row_of_group(2 * t + i) : 8 * c + 2 * t + i;  // missing rows read others'
        const uint32_t at = (q * columns + column) * 4;
        scale[i] = shared_load_float(input.scales + at), eight[i] = 8 * static_cast<int>(shared_load_4(input.sums + at));
      }
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float product = static_cast<float>(value[c][i] - eight[i & 1]) * scale[i & 1];
        total.value[c][i] = fmaf(i < 2 ? bf16_low(pair) : bf16_high(pair), product, total.value[c][i]);
      }
    }
  }
};

// Tiles of k that a warp holds of the weights at once where it has registers for them.
constexpr int most_chunk_tiles(GemmMode mode, int shift) { return mode == GemmMode::kDense ? 2 : mode == GemmMode::kHiLo || shift < 0 ? 4 : 8; }

// What a warp holds of the weights at once: `tiles` tiles of k of a row-tile, whole groups. `shift`: log2 of half tiles a group, or -1: told at
// run time.
template <GemmMode mode, int shift, int tiles>
struct WeightChunk {
  static constexpr bool kIsDense = mode == GemmMode::kDense, kHasLow = mode == GemmMode::kHiLo;
  static constexpr int kTiles = tiles;
  static constexpr int kChunks = kRunTiles / kTiles;  // of a run
  static constexpr int kLoads = kIsDense ? 4 * kTiles : kTiles;
  static constexpr int kGroups = kIsDense ? 1 : (2 * kTiles) >> (shift < 0 ? 0 : shift);

  uint4 high[kLoads];
  uint4 low[kHasLow ? kLoads : 1];
  static constexpr bool kIsShared = shift >= 0 && !kIsDense && tiles == most_chunk_tiles(mode, shift);  // the four lanes of a row have a group's scales each
  uint32_t scales[kIsShared ? 1 : kGroups];

  // Chunk `c` of a run. `codes_bytes`: of the piece it lies in, behind which are its scales.
  QSPEC_DEVICE void load(const RunPlace& place, int c, int half_shift, int lane, int codes_bytes = kPieceTiles * kTileBytes) {
    if constexpr (kIsDense) {
      QSPEC_UNROLL
      for (int i = 0; i < kLoads; ++i) high[i] = load_stream_16(place.high + (c * kLoads + i) * 512 + lane * 16);
    } else {
      const int shifted = shift < 0 ? half_shift : shift, piece_bytes = full_piece_bytes(32 << shifted);
      QSPEC_UNROLL
      for (int i = 0; i < kTiles; ++i) {
        const int tile = c * kTiles + i;
        high[i] = load_stream_16(place.high + tile / kPieceTiles * piece_bytes + tile % kPieceTiles * kTileBytes + lane * 16);
      }
      QSPEC_UNROLL
      for (int i = 0; kHasLow && i < kTiles; ++i) low[i] = load_stream_16(place.low + (c * kTiles + i) * kTileBytes + lane * 16);
      const auto scale_at = [&](int q) {  // of group q of the chunk
        const int half = 2 * c * kTiles + (q << shifted), piece = half / (2 * kPieceTiles);
        return place.high + piece * piece_bytes + codes_bytes + (half % (2 * kPieceTiles) >> shifted) * kScaleBytes + lane / 4 * 4;
      };
      if constexpr (kIsShared) {
        scales[0] = load_stream_4(scale_at(lane % kGroups));
      } else {
        QSPEC_UNROLL
        for (int q = 0; q < kGroups; ++q) scales[q] = q < 2 * kTiles >> shifted ? load_stream_4(scale_at(q)) : 0;
      }
    }
  }

  // Fragments of half tile `half`.
  QSPEC_DEVICE void unpack(uint32_t (&a)[2][4], int half, const NestedRadix& radix) const {
    QSPEC_UNROLL
    for (int s = 0; s < 2; ++s) {
      if constexpr (kIsDense) {
        const uint4& v = high[2 * half + s];
        a[s][0] = v.x, a[s][1] = v.y, a[s][2] = v.z, a[s][3] = v.w;
      } else if constexpr (kHasLow) {
        unpack_nested(word_of(high[half / 2], 2 * (half % 2) + s), word_of(low[half / 2], 2 * (half % 2) + s), radix, a[s]);
      } else {
        unpack_nibbles(word_of(high[half / 2], 2 * (half % 2) + s), a[s]);
      }
    }
  }

  // total += chunk · input.
  template <int n8>
  QSPEC_DEVICE void multiply(Accumulator<n8>& total, const TileInput& input, int half_shift, const NestedRadix& radix, int lane) const {
    const int shifted = shift < 0 ? half_shift : shift, mask = (1 << shifted) - 1;
    if constexpr (mode == GemmMode::kHiInt) {
      IntegerSums<n8> sums;
      sums.clear();
      QSPEC_UNROLL
      for (int half = 0; half < 2 * kTiles; ++half) {
        uint32_t words[2];
        QSPEC_UNROLL
        for (int s = 0; s < 2; ++s) words[s] = word_of(high[half / 2], 2 * (half % 2) + s);
        sums.multiply(words, input, half, (half & mask) == 0, lane);
        if ((half & mask) != mask) continue;
        sums.add_to(total, scales_of(half >> shifted), input, half >> shifted, lane);
      }
    } else {
      Accumulator<n8> group;
      group.clear();
      HalfInput<n8> x[2];
      x[0].load(input, 0, lane);
      QSPEC_UNROLL
      for (int half = 0; half < 2 * kTiles; ++half) {
        if (half + 1 < 2 * kTiles) x[(half + 1) % 2].load(input, half + 1, lane);
        uint32_t a[2][4];
        unpack(a, half, radix);
        if constexpr (kIsDense) {
          multiply_half(total, a, x[half % 2], false);
        } else {
          multiply_half(group, a, x[half % 2], (half & mask) == 0);
          if ((half & mask) != mask) continue;
          add_group(total, group, scales_of(half >> shifted));
        }
      }
    }
  }

  // The same by a warpgroup, each warp a row-tile of its own. `first`: the chunk's first tile, of those behind where `input` is.
  template <int n8>
  QSPEC_DEVICE void multiply(Accumulator<n8>& total, const WideInput& input, int first, int half_shift, const NestedRadix& radix, int lane) const {
    const int mask = (1 << (shift < 0 ? half_shift : shift)) - 1;
    if constexpr (kIsDense) {
      uint32_t a[2 * kTiles][2][4];
      QSPEC_UNROLL
      for (int half = 0; half < 2 * kTiles; ++half) unpack(a[half], half, radix);
      begin_wide();
      QSPEC_UNROLL
      for (int half = 0; half < 2 * kTiles; ++half) multiply_wide<false>(total.value, a[half], input, wide_half_at<n8>(2 * first + half));
      end_wide();
      wait_wide_sums(total.value);
    } else if constexpr (shift >= 0) {
      constexpr int kHalves = 1 << shift;  // of a group
      QSPEC_UNROLL
      for (int q = 0; q < kGroups; ++q) {
        uint32_t a[kHalves][2][4];
        QSPEC_UNROLL
        for (int i = 0; i < kHalves; ++i) unpack(a[i], q * kHalves + i, radix);
        Accumulator<n8> group;
        begin_wide();
        multiply_wide<true>(group.value, a[0], input, wide_half_at<n8>(2 * first + q * kHalves));
        QSPEC_UNROLL
        for (int i = 1; i < kHalves; ++i) multiply_wide<false>(group.value, a[i], input, wide_half_at<n8>(2 * first + q * kHalves + i));
        end_wide();
        wait_wide_sums(group.value);
        add_group(total, group, scales_of(q));
      }
    } else {
      Accumulator<n8> group;
      group.clear();
      QSPEC_UNROLL
      for (int half = 0; half < 2 * kTiles; ++half) {
        uint32_t a[2][4];
        unpack(a, half, radix);
        multiply_half_at(group, a, input, 2 * first + half, (half & mask) == 0, lane);
        if ((half & mask) == mask) add_group(total, group, scales_of(half >> half_shift));
      }
    }
  }

  // Of group q of the chunk, the pair of this lane's rows. All lanes.
  QSPEC_DEVICE uint32_t scales_of(int q) const {
    if constexpr (kIsShared) return static_cast<uint32_t>(shuffle_from(static_cast<int>(scales[0]), (lane_index() & ~3) + q));
    uint32_t pair = scales[0];
    QSPEC_UNROLL
    for (int i = 1; i < kGroups; ++i)  // a register has no index
      if (i == q) pair = scales[i];
    return pair;
  }
};

// A run that ends before 512 k: the last of a row-tile. The same sums in the same order, tile by tile. `k`: of the run. `input`: TileInput, or WideInput of a
// warpgroup.
template <GemmMode mode, int n8, typename Input>
QSPEC_DEVICE void multiply_short_run(Accumulator<n8>& total, const RunPlace& place, int k, const Input& input, int half_shift, const NestedRadix& radix,
                                     int lane) {
  const int num_tiles = (k + kTileK - 1) / kTileK, group_size = 32 << half_shift, mask = (1 << half_shift) - 1;
  Accumulator<n8> group;
  IntegerSums<n8> sums;
  group.clear(), sums.clear();
  QSPEC_NO_UNROLL
  for (int half = 0; half < 2 * num_tiles; ++half) {
    const int tile = half / 2, first = tile / kPieceTiles * kPieceTiles, piece = first / kPieceTiles * full_piece_bytes(group_size);
    const bool is_first = (half & mask) == 0;
    uint32_t words[2], a[2][4];
    QSPEC_UNROLL
    for (int s = 0; s < 2; ++s) {
      if constexpr (mode == GemmMode::kDense) {
        const uint4 v = load_stream_16(place.high + (2 * half + s) * 512 + lane * 16);
        a[s][0] = v.x, a[s][1] = v.y, a[s][2] = v.z, a[s][3] = v.w;
      } else {
        const int word = lane * 16 + (2 * (half % 2) + s) * 4;
        words[s] = load_stream_4(place.high + piece + (tile - first) * kTileBytes + word);
        if constexpr (mode == GemmMode::kHi) unpack_nibbles(words[s], a[s]);
        if constexpr (mode == GemmMode::kHiLo) unpack_nested(words[s], load_stream_4(place.low + tile * kTileBytes + word), radix, a[s]);
      }
    }
    if constexpr (mode == GemmMode::kHiInt) {
      sums.multiply(words, input, half, is_first, lane);
    } else {
      if constexpr (mode == GemmMode::kDense) multiply_half_at(total, a, input, half, false, lane);
      else multiply_half_at(group, a, input, half, is_first, lane);
    }
    const int q = half >> half_shift;
    if (mode == GemmMode::kDense || (half & mask) != mask || q * group_size >= k) continue;
    const int at = piece + (num_tiles - first < kPieceTiles ? num_tiles - first : kPieceTiles) * kTileBytes + (q - (2 * first >> half_shift)) * kScaleBytes;
    const uint32_t pair = load_stream_4(place.high + at + lane / 4 * 4);
    if constexpr (mode == GemmMode::kHiInt) sums.add_to(total, pair, input, q, lane);
    else if constexpr (mode != GemmMode::kDense) add_group(total, group, pair);
  }
}

}  // namespace qspec::cuda
