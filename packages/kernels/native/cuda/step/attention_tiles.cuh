// Tiles of K and V as tensor cores take them, in each format of the cache.
//
// A tile is 16 positions of K or V of one KV head in shared memory, a row a position, as in the cache. Tensor cores take it as their larger operand:
// scores are K · Qᵀ (16 positions x 8 query columns), outputs Vᵀ · Pᵀ (16 dims x 8 columns), so a warp has all dims of its columns in 32 registers.
// Which dims make a step of 16 along k is free for scores, and which are a product's rows for outputs; so each format takes those that lie well. Codes
// become bfloat16, code · kCodeUnit, exactly and in registers; their scales, and that unit, are left to the scores and to the weights.
#pragma once
#include "common/primitives.cuh"
#include "step/step_program.h"

namespace qspec::cuda {

enum class CacheCodes { kNone, kInt8, kNibbles };

// Bytes 0 and 2 (1 and 3) of a word of codes as bfloat16 pairs: code · kCodeUnit. `is_offset`: bytes are codes + 128, as they are taken here.
struct CodePairs {
  uint32_t even, odd;
};
template <bool is_offset>
QSPEC_DEVICE CodePairs code_pairs(uint32_t bytes) {
  constexpr uint32_t kOffset = bf16_pair_of_power(kCodeUnitLog2 + 7) | kBf16Signs;  // -128 · kCodeUnit
  if (!is_offset) bytes ^= 0x80808080u;
  return {bf16x2_fma(bytes & 0x00ff00ffu, kCodeFactor, kOffset), bf16x2_fma(odd_bytes(bytes), kCodeFactor, kOffset)};
}
// Codes + 128 of eight elements, from both planes: even elements (x), and odd ones.
QSPEC_DEVICE uint2 nibble_bytes(uint32_t high, uint32_t low) {
  return {(high << 4 & ~kByteMask) | (low & kByteMask), (high & ~kByteMask) | (low >> 4 & kByteMask)};
}
constexpr uint32_t kMiddleNibbles = 0x88888888u;  // where the low plane isn't read

struct DimPair {
  int dim;
  float2 values;  // of dim, dim + 1
};

// `head_dim`, or 0: told at run time.
template <CacheCodes codes, int head_dim>
struct CacheTiles {
  int dim;  // head_dim, or what stands in for it if that is 0
  bool high_plane_only;

  static constexpr bool has_codes = codes != CacheCodes::kNone;
  static constexpr int kChunkDims = codes == CacheCodes::kNone ? 8 : codes == CacheCodes::kInt8 ? 16 : 32;  // of 16 bytes
  static constexpr int kSteps = (head_dim > 0 ? head_dim : kMaxHeadDim) / 16;                               // of 16 dims, at most

  QSPEC_DEVICE int head_dims() const { return head_dim > 0 ? head_dim : dim; }
  QSPEC_DEVICE int steps() const { return head_dims() / 16; }
  QSPEC_DEVICE int chunks() const { return head_dims() / kChunkDims; }  // of one plane
  QSPEC_DEVICE int row_bytes() const { return tile_row_bytes(head_dims(), has_codes); }
  QSPEC_DEVICE int bytes() const { return tile_bytes(head_dims(), has_codes); }
  QSPEC_DEVICE SharedPlace scale_at(SharedPlace tile, int position) const { return tile + kTilePositions * row_bytes() + position * 4; }
  QSPEC_DEVICE bool has_low_plane() const { return codes == CacheCodes::kNibbles && !high_plane_only; }

  // Where an element of a query column lies: in the order in which the steps take K's dims.
  QSPEC_DEVICE uint32_t query_place(int column, int element) const {
    int step = element / 16, slot = element % 16;
    if constexpr (codes == CacheCodes::kInt8) {
      slot = (element & 1) << 3 | element % 16 / 4 * 2 | (element >> 1 & 1);
    } else if constexpr (codes == CacheCodes::kNibbles) {
      step = element / 32 * 2 + (element & 1);
      slot = (element >> 1 & 1) << 3 | element % 32 / 8 * 2 | (element >> 2 & 1);
    }
    return column * query_row_bytes(head_dims()) + step * 32 + slot * 2;
  }
  // Lane 4·g + t: the operand of eight columns from `query` on, column g.
  QSPEC_DEVICE void load_query(SharedPlace query, int lane, uint32_t (&b)[kSteps][2]) const {
    const SharedPlace at = query + lane % 8 * query_row_bytes(head_dims()) + lane / 8 * 16;
    QSPEC_UNROLL
    for (int i = 0; i < kSteps; i += 2) {
      if (i >= steps()) break;
      uint32_t m[4];
      load_matrix_x4(m, at + i * 32);
      b[i][0] = m[0], b[i][1] = m[1], b[i + 1][0] = m[2], b[i + 1][1] = m[3];
    }
  }

  // Calls `visit(step, which of the tiles, what the step takes of it)` for `count` tiles of K, one behind the other. Lane 4·g + t: positions g, g + 8.
  template <int count, typename Visit>
  QSPEC_DEVICE void for_keys(SharedPlace pair, int lane, const Visit& visit) const {
    const SharedPlace at = pair + (not_hoisted(lane) & 15) * row_bytes() + (not_hoisted(lane) & 16);
    constexpr int kLoadSteps = kChunkDims / 8;
    QSPEC_UNROLL
    for (int i = 0; i < kSteps; i += kLoadSteps) {
      if (i >= steps()) break;
      uint32_t m[count][4], low[count][4];
      QSPEC_UNROLL
      for (int j = 0; j < count; ++j) load_matrix_x4(m[j], at + j * bytes() + i / kLoadSteps * 32);
      if constexpr (has_codes) load_low<false>(low, at + i / kLoadSteps * 32);
      QSPEC_UNROLL
      for (int j = 0; j < count; ++j) {
        if constexpr (codes == CacheCodes::kNone) {
          visit(i, j, m[j]);
        } else {
          QSPEC_UNROLL
          for (int c = 0; c < 2; ++c) {
            if constexpr (codes == CacheCodes::kInt8) {
              visit_pairs(i + c, j, code_pairs<false>(m[j][2 * c]), code_pairs<false>(m[j][2 * c + 1]), visit);
            } else {
              if (i + 2 * c >= steps()) break;
              const uint2 top = nibble_bytes(m[j][2 * c], low[j][2 * c]), bottom = nibble_bytes(m[j][2 * c + 1], low[j][2 * c + 1]);
              visit_pairs(i + 2 * c, j, code_pairs<true>(top.x), code_pairs<true>(bottom.x), visit);
              visit_pairs(i + 2 * c + 1, j, code_pairs<true>(top.y), code_pairs<true>(bottom.y), visit);
            }
          }
        }
      }
    }
  }
  template <bool is_transposed, int count>
  QSPEC_DEVICE void load_low(uint32_t (&low)[count][4], SharedPlace at) const {
    QSPEC_UNROLL
    for (int j = 0; j < count; ++j) {
      low[j][0] = low[j][1] = low[j][2] = low[j][3] = kMiddleNibbles;
      if (!has_low_plane()) continue;
      if constexpr (is_transposed) load_matrix_x4_transposed(low[j], at + j * bytes() + head_dims() / 2);
      else load_matrix_x4(low[j], at + j * bytes() + head_dims() / 2);
    }
  }
  template <typename Visit>
  QSPEC_DEVICE static void visit_pairs(int step, int tile, const CodePairs& top, const CodePairs& bottom, const Visit& visit) {
    const uint32_t a[4] = {top.even, bottom.even, top.odd, bottom.odd};
    visit(step, tile, a);
  }

  // The same for `count` steps of 16 dims from step `first` on, of `tiles` tiles of V; `visit` counts them from there. Which dims these are: see dim_pair().
  template <int count, int tiles, typename Visit>
  QSPEC_DEVICE void for_values(SharedPlace pair, int lane, int first, const Visit& visit) const {
    if constexpr (codes == CacheCodes::kNone) {
      const SharedPlace at = pair + ((not_hoisted(lane) & 7) + (not_hoisted(lane) >> 4 << 3)) * row_bytes() + (not_hoisted(lane) & 8) * 2;
      QSPEC_UNROLL
      for (int i = 0; i < count; ++i) {
        if (first + i >= steps()) break;
        uint32_t a[tiles][4];
        QSPEC_UNROLL
        for (int j = 0; j < tiles; ++j) load_matrix_x4_transposed(a[j], at + j * bytes() + (first + i) * 32);
        QSPEC_UNROLL
        for (int j = 0; j < tiles; ++j) visit(i, j, a[j]);
      }
    } else {
      const SharedPlace at = pair + (not_hoisted(lane) & 15) * row_bytes() + (not_hoisted(lane) & 16);
      constexpr int kLoadSteps = kChunkDims / 8;
      static_assert(count % kLoadSteps == 0, "whole loads");
      QSPEC_UNROLL
      for (int i = 0; i < count; i += kLoadSteps) {
        if (first + i >= steps()) break;
        uint32_t m[tiles][4], low[tiles][4];
        QSPEC_UNROLL
        for (int j = 0; j < tiles; ++j) load_matrix_x4_transposed(m[j], at + j * bytes() + (first + i) / kLoadSteps * 32);
        load_low<true>(low, at + (first + i) / kLoadSteps * 32);
        QSPEC_UNROLL
        for (int j = 0; j < tiles; ++j)
          QSPEC_UNROLL
          for (int c = 0; c < 2; ++c) {  // m[j][2c]: positions 0 … 7, m[j][2c + 1]: 8 … 15
            if constexpr (codes == CacheCodes::kInt8) {
              const CodePairs top = code_pairs<false>(m[j][2 * c]), bottom = code_pairs<false>(m[j][2 * c + 1]);
              const uint32_t a[4] = {top.even, top.odd, bottom.even, bottom.odd};
              visit(i + c, j, a);
            } else {
              if (first + i + 2 * c >= steps()) break;
              const uint2 b0 = nibble_bytes(m[j][2 * c], low[j][2 * c]), b1 = nibble_bytes(m[j][2 * c + 1], low[j][2 * c + 1]);
              const CodePairs x0 = code_pairs<true>(b0.x), y0 = code_pairs<true>(b0.y), x1 = code_pairs<true>(b1.x), y1 = code_pairs<true>(b1.y);
              const uint32_t lower[4] = {x0.even, y0.even, x1.even, y1.even}, upper[4] = {x0.odd, y0.odd, x1.odd, y1.odd};
              visit(i + 2 * c, j, lower);
              visit(i + 2 * c + 1, j, upper);
            }
          }
      }
    }
  }

  // What a lane has of column 2t + e in a step's outputs: two neighbouring dims. All lanes.
  QSPEC_DEVICE DimPair dim_pair(const float (&output)[4], int step, int e, int lane) const {
    const int g = lane / 4;
    const float low = output[e], high = output[2 + e];
    if constexpr (codes == CacheCodes::kNone) {  // rows g and g + 8: neighbours exchange them
      const bool is_odd = g & 1;
      const float other = shuffle_xor(is_odd ? low : high, 4);
      return {step * 16 + (is_odd ? 8 + g - 1 : g), is_odd ? float2{other, high} : float2{low, other}};
    } else {
      return {codes == CacheCodes::kInt8 ? step * 16 + 2 * g : step / 2 * 32 + 4 * g + step % 2 * 2, float2{low, high}};
    }
  }
};

}  // namespace qspec::cuda
