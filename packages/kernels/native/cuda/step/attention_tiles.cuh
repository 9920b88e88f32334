// Tiles of K and V as tensor cores take them, in each format of the cache.
//
// A tile is a split's 64 positions of K or V of one KV head, in shared memory as in the cache, a row a position; a warp multiplies every fourth 8
// positions of K, and a quarter of V's dims. Which dims make a step of 16 along k is free for scores, and which are a product's columns for outputs; so
// each format takes those that lie well: a lane's dims of K are those of the 16 bytes that it loads. Codes become bfloat16 exactly and in registers;
// their scales are left to the scores and to the weights.
#pragma once
#include "common/primitives.cuh"
#include "step/step_program.h"

namespace qspec::cuda {

enum class CacheCodes { kNone, kInt8, kNibbles };

// 16-byte chunks of a row exchange places by the row's last three bits: neighbouring rows lie in other banks, both for 16-byte loads of four
// lanes a row and for matrix loads of eight rows.
QSPEC_DEVICE int swizzled(int row, int chunk) { return chunk ^ ((row & 1) << 2 | (row >> 1 & 3)); }

// Bytes 0 and 2 (1 and 3) of a word of codes as bfloat16 pairs. A code is its low seven bits less 128 if its sign bit is set: 128 + the bits is 0x43xx,
// and 128 or 256 what is to be taken off. `is_offset`: bytes are codes + 128.
struct CodePairs {
  uint32_t even, odd;
};
template <bool is_offset>
QSPEC_DEVICE CodePairs code_pairs(uint32_t bytes) {
  constexpr uint32_t kBits = 0x007f007fu, kSign = 0x00800080u, kBase = 0x43004300u, kTurned = is_offset ? kBase | kSign : kBase;
  const uint32_t other = bytes >> 8;
  return {bf16x2_sub(and_or(bytes, kBits, kBase), (bytes & kSign) ^ kTurned), bf16x2_sub(and_or(other, kBits, kBase), (other & kSign) ^ kTurned)};
}
// Codes + 128 of eight elements, from both planes: even elements (x), and odd ones.
QSPEC_DEVICE uint2 nibble_bytes(uint32_t high, uint32_t low) {
  return {(high << 4 & ~kByteMask) | (low & kByteMask), (high & ~kByteMask) | (low >> 4 & kByteMask)};
}
constexpr uint32_t kMiddleNibbles = 0x88888888u;  // where the low plane isn't read

// Bytes of a position's K or V in a tile: bfloat16, or codes (int8-nested: high nibbles, then low ones); and of a query column.
QSPEC_HOST_DEVICE constexpr int attention_row_bytes(int head_dim, bool has_codes) { return has_codes || head_dim <= 64 ? 128 : 256; }
QSPEC_HOST_DEVICE constexpr int query_row_bytes(int head_dim, bool has_codes) { return !has_codes && head_dim <= 64 ? 128 : 256; }

template <CacheCodes codes, int head_dim>
struct CacheTiles {
  int dim;              // head_dim, or what stands in for it if that is 0
  bool high_plane_only;

  static constexpr bool has_codes = codes != CacheCodes::kNone;
  static constexpr int kChunkDims = codes == CacheCodes::kNone ? 8 : codes == CacheCodes::kInt8 ? 16 : 32;  // of 16 bytes
  static constexpr int kLoads = kMaxHeadDim / kChunkDims / 4;  // of a lane, of 16 bytes of K
  static constexpr int kLoadSteps = kChunkDims / 8;            // pairs of steps that one gives
  static constexpr int kPositionTiles = kSplitPositions / 8 / kGroupWarps;  // of 8 positions, a warp
  static constexpr int kDimTiles = kMaxHeadDim / 8 / kGroupWarps;           // of 8 dims, a warp

  QSPEC_DEVICE int head_dims() const { return head_dim > 0 ? head_dim : dim; }
  QSPEC_DEVICE int chunks() const { return head_dims() / kChunkDims; }  // of one plane
  QSPEC_DEVICE int row_bytes() const { return attention_row_bytes(head_dims(), has_codes); }
  QSPEC_DEVICE int query_bytes() const { return query_row_bytes(head_dims(), has_codes); }
  QSPEC_DEVICE bool has_low_plane() const { return codes == CacheCodes::kNibbles && !high_plane_only; }

  // Where an element of a query column lies: its 16 bytes are what lane t multiplies at once, in the order in which K's words give them (even bytes
  // before odd ones).
  QSPEC_DEVICE uint32_t query_place(int column, int element) const {
    constexpr int kWordBits = codes == CacheCodes::kNone ? 1 : codes == CacheCodes::kInt8 ? 2 : 3;
    const int chunk = element / kChunkDims, in_word = element & ((1 << kWordBits) - 1);
    const int place = kWordBits == 1 ? in_word : kWordBits == 2 ? (in_word & 1) << 1 | in_word >> 1 : (in_word & 1) << 2 | (in_word & 2) | in_word >> 2;
    const int value = chunk / 4 * kChunkDims + (element % kChunkDims & ~((1 << kWordBits) - 1)) + place;  // of the lane
    return column * query_bytes() + swizzled(column, value / 8 * 4 + chunk % 4) * 16 + value % 8 * 2;
  }

  // scores[j][…] += Q · Kᵀ of 16 columns and this warp's positions: lane 4·g + t has columns g (0, 1) and g + 8 (2, 3), positions 2t, 2t + 1 of every tile of 8.
  QSPEC_DEVICE void score(uint32_t k, uint32_t query, int warp, int lane, float (&scores)[kPositionTiles][4]) const {
    const int g = lane / 4, t = lane % 4;
    QSPEC_UNROLL
    for (int load = 0; load < kLoads; ++load) {
      if (4 * load >= chunks()) break;
      const bool is_there = head_dim == kMaxHeadDim || !has_codes || 4 * load + t < chunks();
      uint4 rows[kPositionTiles], low[kPositionTiles];
      QSPEC_UNROLL
      for (int j = 0; j < kPositionTiles; ++j) {
        const uint32_t row = k + ((warp + j * kGroupWarps) * 8 + g) * row_bytes();
        rows[j] = is_there ? shared_load_16(row + swizzled(g, 4 * load + t) * 16) : uint4{0, 0, 0, 0};
        low[j] = uint4{kMiddleNibbles, kMiddleNibbles, kMiddleNibbles, kMiddleNibbles};
        if (is_there && has_low_plane()) low[j] = shared_load_16(row + swizzled(g, chunks() + 4 * load + t) * 16);
      }
      QSPEC_UNROLL
      for (int i = 0; i < kLoadSteps; ++i) {
        uint32_t b[kPositionTiles][4];  // of two steps
        QSPEC_UNROLL
        for (int j = 0; j < kPositionTiles; ++j) {
          if constexpr (codes == CacheCodes::kNone) {
            b[j][0] = rows[j].x, b[j][1] = rows[j].y, b[j][2] = rows[j].z, b[j][3] = rows[j].w;
          } else {
            CodePairs first, second;
            if constexpr (codes == CacheCodes::kInt8) {
              first = code_pairs<false>(word_of(rows[j], 2 * i)), second = code_pairs<false>(word_of(rows[j], 2 * i + 1));
            } else {
              const uint2 bytes = nibble_bytes(word_of(rows[j], i), word_of(low[j], i));
              first = code_pairs<true>(bytes.x), second = code_pairs<true>(bytes.y);
            }
            b[j][0] = first.even, b[j][1] = first.odd, b[j][2] = second.even, b[j][3] = second.odd;
          }
        }
        const int place = swizzled(g, (load * kLoadSteps + i) * 4 + t) * 16;  // of column g + 8 alike
        const uint32_t column = query + g * query_bytes() + place;
        uint4 q0{0, 0, 0, 0}, q1{0, 0, 0, 0};
        if (is_there) q0 = shared_load_16(column), q1 = shared_load_16(column + 8 * query_bytes());
        const uint32_t a0[4] = {q0.x, q1.x, q0.y, q1.y}, a1[4] = {q0.z, q1.z, q0.w, q1.w};
        QSPEC_UNROLL
        for (int j = 0; j < kPositionTiles; ++j) {
          mma_bf16(scores[j], a0, b[j][0], b[j][1]);
          mma_bf16(scores[j], a1, b[j][2], b[j][3]);
        }
      }
    }
  }

  // Calls `visit(dim tile, operands of 32 positions from `base` on)` for this warp's tiles of 8 dims. Which dims these are: see for_pairs().
  template <typename Visit>
  QSPEC_DEVICE void for_values(uint32_t v, int base, int warp, int lane, const Visit& visit) const {
    const int position = base + lane;
    const auto load = [&](uint32_t (&m)[4], int chunk) { load_matrix_x4_transposed(m, v + position * row_bytes() + swizzled(position, chunk) * 16); };
    if constexpr (codes == CacheCodes::kNone) {
      QSPEC_UNROLL
      for (int d = 0; d < kDimTiles; ++d) {
        if (warp + d * kGroupWarps >= chunks()) continue;
        uint32_t m[4];
        load(m, warp + d * kGroupWarps);
        visit(d, m);
      }
    } else if constexpr (codes == CacheCodes::kInt8) {
      QSPEC_UNROLL
      for (int d = 0; d < kDimTiles; d += 2) {
        if (warp + d / 2 * kGroupWarps >= chunks()) continue;
        uint32_t m[4], even[4], odd[4];
        load(m, warp + d / 2 * kGroupWarps);
        QSPEC_UNROLL
        for (int i = 0; i < 4; ++i) {
          const CodePairs pairs = code_pairs<false>(m[i]);
          even[i] = pairs.even, odd[i] = pairs.odd;
        }
        visit(d, even);
        visit(d + 1, odd);
      }
    } else {
      if (warp >= chunks()) return;
      uint32_t high[4], low[4] = {kMiddleNibbles, kMiddleNibbles, kMiddleNibbles, kMiddleNibbles}, dims[4][4];
      load(high, warp);
      if (has_low_plane()) load(low, chunks() + warp);
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const uint2 bytes = nibble_bytes(high[i], low[i]);
        const CodePairs even = code_pairs<true>(bytes.x), odd = code_pairs<true>(bytes.y);
        dims[0][i] = even.even, dims[1][i] = odd.even, dims[2][i] = even.odd, dims[3][i] = odd.odd;
      }
      QSPEC_UNROLL
      for (int d = 0; d < kDimTiles; ++d) visit(d, dims[d]);
    }
  }

  // Calls `visit(dim, outputs of dim and dim + 1)` for what a lane has of columns g (half 0) or g + 8 (half 1).
  template <typename Visit>
  QSPEC_DEVICE void for_pairs(const float (&output)[kDimTiles][4], int half, int warp, int lane, const Visit& visit) const {
    const int t = lane % 4;
    if constexpr (codes == CacheCodes::kNone) {
      QSPEC_UNROLL
      for (int d = 0; d < kDimTiles; ++d)
        if (warp + d * kGroupWarps < chunks()) visit((warp + d * kGroupWarps) * 8 + 2 * t, float2{output[d][2 * half], output[d][2 * half + 1]});
    } else {
      QSPEC_UNROLL
      for (int d = 0; d < kDimTiles; d += 2) {
        const int chunk = codes == CacheCodes::kInt8 ? warp + d / 2 * kGroupWarps : warp;
        if (chunk >= chunks()) continue;
        QSPEC_UNROLL
        for (int e = 0; e < 2; ++e)
          visit(codes == CacheCodes::kInt8 ? chunk * 16 + 4 * t + 2 * e : chunk * 32 + 8 * t + 4 * e + d, float2{output[d][2 * half + e], output[d + 1][2 * half + e]});
      }
    }
  }
};

}  // namespace qspec::cuda
