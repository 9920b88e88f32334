// Products of one split: scores, weights and outputs of a warp's query columns, turn by turn of tiles.
//
// Scores: S = K · Qᵀ, weights and output: O = Vᵀ · Pᵀ; the sum of weights is one more product with ones, so it is rounded as the numerators are (codes,
// whose weights carry V's scale: a plain sum). Positions are summed in order by the tensor core's chain.
#pragma once
#include "step/attention_sums.cuh"
#include "step/attention_tiles.cuh"

namespace qspec::cuda {

constexpr uint32_t kOnePair = 0x3f803f80u;
constexpr float kLog2E = 1.4426950408889634f;

template <CacheCodes codes, int head_dim, TeamWay way>
struct SplitProducts {
  using Tiles = CacheTiles<codes, head_dim>;
  static constexpr bool has_codes = Tiles::has_codes;
  static constexpr int kSteps = Tiles::kSteps;
  static constexpr int kBlocks = column_blocks(way);  // of columns
  static constexpr int kAtOnce = tiles_at_once(way), kTurns = kSplitTiles / kAtOnce;  // tiles; turns that K takes in a split, and V

  const AttentionSpec& spec;
  Tiles tiles;
  int lane;

  struct Columns {  // a block of eight
    uint32_t query[kSteps][2];
    int32_t own[2];  // last position that columns 2t, 2t + 1 see
  };
  // Of the queries at `queries`, from the columns on that `first(block)` says. Behind a column's query is the last position that it sees.
  template <typename First>
  QSPEC_DEVICE void load_columns(SharedPlace queries, const First& first, Columns (&columns)[kBlocks]) const {
    QSPEC_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const SharedPlace at = queries + first(b) * query_row_bytes(tiles.head_dims());
      tiles.load_query(at, lane, columns[b].query);
      QSPEC_UNROLL
      for (int e = 0; e < 2; ++e)
        columns[b].own[e] = static_cast<int32_t>(shared_load_4(at + (2 * (lane % 4) + e) * query_row_bytes(tiles.head_dims()) + tiles.head_dims() * 2));
    }
  }

  // Scores (base 2) of `count` tiles: of each positions g and g + 8 (0, 1 and 2, 3) of columns 2t, 2t + 1.
  template <int count>
  QSPEC_DEVICE void score(SharedPlace at, const Columns (&columns)[kBlocks], float (&scores)[kBlocks][count][4]) const {
    QSPEC_UNROLL
    for (int b = 0; b < kBlocks; ++b)
      QSPEC_UNROLL
      for (int j = 0; j < count; ++j) scores[b][j][0] = scores[b][j][1] = scores[b][j][2] = scores[b][j][3] = 0;
    tiles.template for_keys<count>(at, lane, [&](int i, int j, const uint32_t (&k)[4]) {
      QSPEC_UNROLL
      for (int b = 0; b < kBlocks; ++b) mma_bf16(scores[b][j], k, columns[b].query[i][0], columns[b].query[i][1]);
    });
    const float scale = spec.scale * (has_codes ? kLog2E * kCodesAUnit : kLog2E);
    QSPEC_UNROLL
    for (int j = 0; j < count; ++j)
      QSPEC_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float factor = has_codes ? scale * shared_load_float(tiles.scale_at(at + j * tiles.bytes(), lane / 4 + 8 * h)) : scale;
        QSPEC_UNROLL
        for (int b = 0; b < kBlocks; ++b) scores[b][j][2 * h] *= factor, scores[b][j][2 * h + 1] *= factor;
      }
  }
  using Scores = float[kTurns][kBlocks][kAtOnce][4];
  // -infinity where a column of block `b` doesn't see a position.
  QSPEC_DEVICE void mask(int split, const Columns& columns, int b, Scores& scores) const {
    const int begin = split * kSplitPositions, window = spec.sliding_window > 0 ? spec.sliding_window : INT32_MAX;
    if (vote_all(begin + kSplitPositions - 1 <= columns.own[0] && begin + kSplitPositions - 1 <= columns.own[1] && window == INT32_MAX)) return;
    QSPEC_UNROLL
    for (int j = 0; j < kSplitTiles; ++j)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int position = begin + j * kTilePositions + lane / 4 + 8 * (i / 2), own = columns.own[i % 2];
        if (position > own || own - position >= window) scores[j / kAtOnce][b][j % kAtOnce][i] = -INFINITY;
      }
  }
  // Maxima over the split, and what to take off scores for weights.
  QSPEC_DEVICE void find_largest(const Scores& scores, int b, float (&largest)[2], float (&least)[2]) const {
    QSPEC_UNROLL
    for (int e = 0; e < 2; ++e) {
      float m = -INFINITY;
      QSPEC_UNROLL
      for (int j = 0; j < kSplitTiles; ++j) m = fmaxf(m, fmaxf(scores[j / kAtOnce][b][j % kAtOnce][e], scores[j / kAtOnce][b][j % kAtOnce][2 + e]));
      for (int mask = 4; mask < kWarp; mask *= 2) m = fmaxf(m, shuffle_xor(m, mask));
      largest[e] = m, least[e] = m == -INFINITY ? 0 : m;
    }
  }
  // In the end for all columns: masks a split's scores and finds their maxima.
  template <int count>
  QSPEC_DEVICE void end_scores(int split, const Columns (&columns)[kBlocks], Scores& scores, OfBlocks<AttentionSums<count>, kBlocks>& sums, float (&least)[kBlocks][2]) const {
    QSPEC_UNROLL
    for (int b = 0; b < kBlocks; ++b) mask(split, columns[b], b, scores), find_largest(scores, b, sums.of[b].largest, least[b]);
  }
  QSPEC_DEVICE static void make_weights(float (&scores)[kBlocks][kAtOnce][4], const float (&least)[kBlocks][2]) {
    QSPEC_UNROLL
    for (int b = 0; b < kBlocks; ++b)
      QSPEC_UNROLL
      for (int i = 0; i < 4 * kAtOnce; ++i) scores[b][i / 4][i % 4] = exp2_fast(scores[b][i / 4][i % 4] - least[b][i % 2]);
  }
  // Weights as operands of a turn's products, and what they come to onto those before them. `at`: the turn's tiles of V, whose scales go with them.
  using Operands = uint32_t[kBlocks][kAtOnce][2];
  template <int count>
  QSPEC_DEVICE void take_weights(SharedPlace at, const float (&weights)[kBlocks][kAtOnce][4], Operands& p, float (&ones)[kBlocks][4], OfBlocks<AttentionSums<count>, kBlocks>& sums) const {
    QSPEC_UNROLL
    for (int j = 0; j < kAtOnce; ++j) {
      float factor[2] = {1, 1};
      QSPEC_UNROLL
      for (int h = 0; has_codes && h < 2; ++h) factor[h] = shared_load_float(tiles.scale_at(at + j * tiles.bytes(), lane / 4 + 8 * h)) * kCodesAUnit;
      QSPEC_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        float a[4] = {weights[b][j][0], weights[b][j][1], weights[b][j][2], weights[b][j][3]};
        if constexpr (has_codes) {
          QSPEC_UNROLL
          for (int i = 0; i < 4; ++i) sums.of[b].weight[i % 2] += a[i], a[i] *= factor[i / 2];
        }
        p[b][j][0] = transpose_matrix(pack_bf16(a[0], a[1])), p[b][j][1] = transpose_matrix(pack_bf16(a[2], a[3]));
        if constexpr (!has_codes) {
          const uint32_t one[4] = {kOnePair, kOnePair, kOnePair, kOnePair};
          mma_bf16(ones[b], one, p[b][j][0], p[b][j][1]);
        }
      }
    }
  }
  // Outputs, from step `first` on, onto those before them.
  template <int count>
  QSPEC_DEVICE void attend(SharedPlace at, const Operands& p, int first, OfBlocks<AttentionSums<count>, kBlocks>& sums) const {
    tiles.template for_values<count, kAtOnce>(at, lane, first, [&](int i, int j, const uint32_t (&v)[4]) {
      QSPEC_UNROLL
      for (int b = 0; b < kBlocks; ++b) mma_bf16(sums.of[b].output[i], v, p[b][j][0], p[b][j][1]);
    });
  }
  // A turn's scores make way for the next's: those behind move up.
  QSPEC_DEVICE static void first_turn_leaves(Scores& scores) {
    QSPEC_UNROLL
    for (int turn = 0; turn + 1 < kTurns; ++turn)
      QSPEC_UNROLL
      for (int b = 0; b < kBlocks; ++b)
        QSPEC_UNROLL
        for (int i = 0; i < 4 * kAtOnce; ++i) scores[turn][b][i / 4][i % 4] = scores[turn + 1][b][i / 4][i % 4];
  }
  template <int count>
  QSPEC_DEVICE static void finish_weights(const float (&ones)[kBlocks][4], OfBlocks<AttentionSums<count>, kBlocks>& sums) {
    QSPEC_UNROLL
    for (int i = 0; i < 2 * kBlocks; ++i) {
      float& weight = sums.of[i / 2].weight[i % 2];
      if constexpr (!has_codes) {
        weight = ones[i / 2][i % 2];
      } else {
        for (int mask = 4; mask < kWarp; mask *= 2) weight += shuffle_xor(weight, mask);
      }
    }
  }
};

}  // namespace qspec::cuda
