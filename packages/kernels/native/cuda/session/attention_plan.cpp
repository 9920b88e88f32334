#include "session/attention_plan.h"

#include <algorithm>
#include <limits>

namespace qspec::cuda {

namespace {

// Microseconds, fitted to one layer of an 8B shape on an H200. The more warps a multiprocessor has at work, the longer each takes.
constexpr double kSplitTime = 2.6, kCodesTime = 3.9;  // of a split in one warp,
constexpr double kOfEachWarp = 0.22;                  // and for each warp that works,
constexpr double kColumnsTime = 3.3, kOddColumnsTime = 7;  // and if several use the same tiles: with an odd number each copies of both tiles of a pair
constexpr double kItemTime = 6;                       // queries, folding and handing in results,
constexpr double kItemOfEachWarp = 0.3, kColumnsItemTime = 12, kTilesItemTime = 1;  // a split whose tiles the team takes: what its bytes take comes to that
constexpr double kUnitTime = 1.3;                     // a further segment of an item
constexpr double kFoldTime = 1.5;                     // of what items handed in,
constexpr double kFoldTurnTime = 1;                   // for up to eight results of each thread's outputs
constexpr double kBytesTime = 1.0 / 30000;            // a byte of the cache, on one multiprocessor
constexpr size_t kMostTeamBytes = 160 << 10, kMostRingBytes = 96 << 10;  // of shared memory, with the shortest rings and with longer ones: the rest is L1

// So many teams with rings as long as there is room for; none where there isn't.
TeamShare share_of(const AttentionGeometry& geometry, TeamWay way, int team_warps, int num_teams) {
  const auto share = [&](int pairs, size_t most) -> TeamShare {
    const int bytes = team_bytes(geometry.head_dim, geometry.has_codes, way, team_warps, pairs);
    if (static_cast<size_t>(num_teams) * bytes > std::min(geometry.room, most)) return {way, team_warps, 0, 0, 0};
    return {way, team_warps, num_teams, pairs, bytes};
  };
  if (way == TeamWay::kTiles) return share(2 * kSplitPairs, kMostTeamBytes);
  for (const int ring : {kRingPairs[0], kRingPairs[1]})
    if (const TeamShare longer = share(ring, kMostRingBytes); longer.num_teams > 0) return longer;
  return share(kRingPairs[2], kMostTeamBytes);
}

// What an item takes at most. Splits that a tree's rows don't share are items of their own, row by row.
enum class Share { kSplit, kChunk, kSegment, kRows };

class Planner {
 public:
  Planner(const std::vector<SequenceRows>& sequences, const std::vector<int32_t>& positions, const AttentionGeometry& geometry, bool writes_first, Share share,
          int block_rows)
      : sequences_(sequences), positions_(positions), geometry_(geometry), writes_first_(writes_first), share_(share), block_rows_(block_rows) {}

  bool run(AttentionPlan* out) {
    out_ = out;
    *out_ = {};
    bool has_tail = false;
    for (const SequenceRows& s : sequences_) {
      const int last = positions_[s.end - 1] / kSplitPositions + 1;
      has_tail |= s.start / kSplitPositions < last;
      num_splits_ = std::max(num_splits_, last);
    }
    if (has_tail && share_ == Share::kRows) return false;
    segment_results_ = share_ == Share::kChunk && !has_tail ? kSegmentSplits / kChunkSplits : kSegmentSplits;
    out_->segment_stride = (num_splits_ + kSegmentSplits - 1) / kSegmentSplits;
    out_->result_stride = out_->segment_stride * segment_results_;
    // Only the tail's results of a segment share: two segments' slots are enough, if it lies in one segment or two.
    if (share_ == Share::kSegment) out_->result_stride = std::min(out_->result_stride, 2 * kSegmentSplits);
    int num_groups = 0, num_rows = 0;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      num_rows = std::max(num_rows, sequences_[s].end);
      for (int row = sequences_[s].begin; row < sequences_[s].end; row += block_rows_)
        add_rows(static_cast<int>(s), row, std::min(row + block_rows_, sequences_[s].end), num_groups++);
    }
    const bool needs_results = share_ != Share::kRows;
    return is_possible_ && (!needs_results || (static_cast<int64_t>(num_rows) * out_->result_stride <= geometry_.result_slots &&
                                               static_cast<int64_t>(num_rows) * out_->segment_stride <= geometry_.segment_slots &&
                                               static_cast<int>(out_->folds.size()) <= geometry_.max_folds));
  }

  // Microseconds, of the team that has most to do, with the number of teams that is best.
  double cost(TeamWay way, int team_warps) {
    const int64_t items = static_cast<int64_t>(out_->items.size()) * geometry_.num_kv_heads;
    const int64_t most = std::min<int64_t>(kStepWarps / team_warps, (items + geometry_.num_blocks - 1) / geometry_.num_blocks);
    double least = std::numeric_limits<double>::infinity();
    for (int num_teams = 1; num_teams <= std::max<int64_t>(most, 1); ++num_teams) {
      const TeamShare share = share_of(geometry_, way, team_warps, num_teams);
      if (share.num_teams == 0) break;
      const double time = cost(share, items);
      if (time < least) least = time, out_->share = share;
    }
    return least;
  }

 private:
  double cost(const TeamShare& share, int64_t items) const {
    const int64_t teams = int64_t{geometry_.num_blocks} * share.num_teams, turns = (items + teams - 1) / teams;
    int longest = 1;
    for (const AttentionItem& item : out_->items) longest = std::max(longest, item.split_end - item.split_begin);
    const int segments = (longest + kSegmentSplits - 1) / kSegmentSplits;
    const bool by_splits = share.way == TeamWay::kSplits, by_columns = share.way == TeamWay::kColumns, by_tiles = share.way == TeamWay::kTiles;
    const int of_warp = !by_splits ? longest : is_long_item(0, longest) ? segments * kChunkSplits : 1;  // splits of an item
    const double at_once = std::clamp<double>(static_cast<double>(items) / geometry_.num_blocks, 1, share.num_teams);  // teams of a multiprocessor
    const double readers = at_once * (by_splits ? std::min(longest, kMaxTeamWarps) : 1), warps = at_once * share.team_warps;
    const double split_bytes = 2.0 * kSplitPositions * geometry_.head_dim * (geometry_.has_codes ? 1 : 2);
    const double of_columns = !by_columns ? 0 : share.team_warps % 2 == 0 ? kColumnsTime : kOddColumnsTime;
    const double alone = by_tiles ? 0 : geometry_.has_codes ? kCodesTime : kSplitTime;
    const double split = std::max(alone + kOfEachWarp * warps + of_columns, readers * split_bytes * kBytesTime);
    return static_cast<double>(turns) * ((by_columns ? kColumnsItemTime : by_tiles ? kTilesItemTime : kItemTime) + kItemOfEachWarp * warps + of_warp * split + (segments - 1) * kUnitTime) + fold_cost(share);
  }
  double fold_cost(const TeamShare& share) const {
    if (share_ == Share::kRows) return 0;
    const int threads = share.team_warps * 32, outputs = block_rows_ * geometry_.num_heads / geometry_.num_kv_heads * geometry_.head_dim / 4;
    const int of_segment = std::min(num_splits_, kSegmentSplits), results = share_ == Share::kSplit ? of_segment : share_ == Share::kChunk ? (of_segment + kChunkSplits - 1) / kChunkSplits : (num_splits_ + kSegmentSplits - 1) / kSegmentSplits;
    return kFoldTime + kFoldTurnTime * ((outputs + threads - 1) / threads) * ((results + 7) / 8);
  }

  void add_rows(int sequence, int begin, int end, int group) {
    const int start = sequences_[sequence].start, splits = positions_[end - 1] / kSplitPositions + 1;
    const int tail = std::min(start / kSplitPositions, splits);  // splits from here on are each row's own
    if (share_ == Share::kSegment && splits - tail > kSegmentSplits) is_possible_ = false;
    const int segments = (splits + kSegmentSplits - 1) / kSegmentSplits;
    if (share_ == Share::kRows) {
      add_item(sequence, begin, end, 0, splits, 0, false);
      return add_fold(begin, end, 0, 1, 1, 0, group, 1);
    }
    for (int segment = 0; segment < segments; ++segment) {
      const int first = segment * kSegmentSplits, last = std::min(first + kSegmentSplits, splits), slot = segment * segment_results_ % out_->result_stride;
      const size_t before = out_->items.size();
      int results = 0, chunks = 0;
      if (share_ == Share::kSegment && last <= tail) {
        add_item(sequence, begin, end, first, last, slot, false);
        results = 1;
      } else {
        int split = first;
        for (; share_ == Share::kChunk && split < last && std::min(split + kChunkSplits, last) <= tail; split = std::min(split + kChunkSplits, last), ++chunks)
          add_item(sequence, begin, end, split, std::min(split + kChunkSplits, last), slot + results++, false);
        for (; split < last; ++split, ++results) {
          if (split < tail) add_item(sequence, begin, end, split, split + 1, slot + results, false);
          for (int row = begin; split >= tail && row < end; ++row) add_item(sequence, row, row + 1, split, split + 1, slot + results, true);
        }
      }
      add_fold(begin, end, slot, results, static_cast<int>(out_->items.size() - before), segment, group, segments);
      out_->folds.back().num_chunks = chunks;
    }
  }

  void add_fold(int begin, int end, int slot, int results, int items, int segment, int group, int segments) {
    AttentionFold fold{};
    fold.row_begin = begin, fold.num_rows = end - begin, fold.first_result = slot, fold.num_results = results, fold.num_items = items;
    fold.segment = segment, fold.group = group, fold.num_segments = segments;
    out_->folds.push_back(fold);
  }

  void add_item(int sequence, int begin, int end, int split_begin, int split_end, int result, bool is_tail) {
    const SequenceRows& rows = sequences_[sequence];
    AttentionItem item{};
    item.row_begin = begin, item.num_rows = end - begin, item.split_begin = split_begin, item.split_end = split_end;
    item.fold = static_cast<int>(out_->folds.size()), item.is_tail = is_tail;
    item.sequence_begin = rows.begin, item.page_begin = rows.page_begin;
    item.last_position = positions_[end - 1];
    item.first_new = writes_first_ ? std::numeric_limits<int>::max() : positions_[rows.begin];
    item.result = result;
    out_->items.push_back(item);
  }

  const std::vector<SequenceRows>& sequences_;
  const std::vector<int32_t>& positions_;
  const AttentionGeometry& geometry_;
  const bool writes_first_;
  const Share share_;
  const int block_rows_;  // of a sequence, that one item takes
  int segment_results_ = kSegmentSplits;  // slots of a segment
  AttentionPlan* out_ = nullptr;
  int num_splits_ = 1;
  bool is_possible_ = true;
};

}  // namespace

bool plan_attention(const std::vector<SequenceRows>& sequences, const std::vector<int32_t>& positions, const AttentionGeometry& geometry, bool writes_first,
                    AttentionPlan* out) {
  int longest = 1;
  for (const SequenceRows& s : sequences) longest = std::max(longest, s.end - s.begin);
  const int heads = geometry.num_heads / geometry.num_kv_heads;
  double least = std::numeric_limits<double>::infinity();
  // Few rows an item, whose splits a team's warps share, or each split's tiles; or many, which they share and read the cache once for.
  for (const TeamWay way : {TeamWay::kTiles, TeamWay::kSplits, TeamWay::kColumns}) {
    const bool by_columns = way == TeamWay::kColumns, by_tiles = way == TeamWay::kTiles;
    if (by_tiles && (!geometry.has_tile_teams || positions.size() > kPostedRows)) continue;
    const int most = (by_columns ? kQueryColumns : kWarpColumns) / heads, rows = std::min(most, longest), team_warps = by_columns ? (rows * heads + kWarpColumns - 1) / kWarpColumns : kMaxTeamWarps;
    if (most == 0) continue;
    for (const Share share : {Share::kSplit, Share::kChunk, Share::kSegment, Share::kRows}) {
      if (by_tiles && share != Share::kSplit) continue;
      AttentionPlan plan;
      Planner planner(sequences, positions, geometry, writes_first, share, rows);
      if (!planner.run(&plan)) continue;
      const double cost = planner.cost(way, team_warps);
      if (cost < least) least = cost, *out = std::move(plan);
    }
  }
  return !out->items.empty() || sequences.empty();
}

}  // namespace qspec::cuda
