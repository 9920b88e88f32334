#include "session/attention_plan.h"

#include <algorithm>
#include <limits>

namespace qspec::cuda {

namespace {

// In units of a split's time, fitted to steps of an 8B shape on an H100 (batch 1 to 64, 1k to 32k positions):
constexpr double kItemOverhead = 2.05;  // queries, handing in results, folding them: of one row,
constexpr double kRowOverhead = 0.8;    // and of each further one
constexpr double kSaving = 0.1;         // each chunk of a longer item, whose sums wait in the workspace

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

  // In units of a split: for the group that has most to do; and half of that for all work together: groups share a multiprocessor, so plans that do more in
  // as many turns take longer.
  struct Cost {
    double longest_group, shared;
  };
  Cost cost() const {
    const int64_t items = static_cast<int64_t>(out_->items.size()) * geometry_.num_kv_heads, waves = (items + geometry_.num_groups - 1) / geometry_.num_groups;
    const double turns = static_cast<double>(waves), of_all = std::max(static_cast<double>(items) / geometry_.num_groups, 0.5), of_item = item_cost();
    return {turns * of_item, (turns + of_all) / 2 * of_item};
  }

 private:
  double item_cost() const {
    int longest = 1, most_rows = 1;
    for (const AttentionItem& item : out_->items) longest = std::max(longest, item.split_end - item.split_begin), most_rows = std::max(most_rows, item.num_rows);
    const double saving = longest > kChunkSplits ? kSaving * longest / kChunkSplits : 0;
    return longest + kItemOverhead + kRowOverhead * (most_rows - 1) + saving;
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
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  int longest = 1;
  for (const SequenceRows& s : sequences) longest = std::max(longest, s.end - s.begin);
  // Many rows share what they read; few are sooner done, where there are warps enough.
  const int most = std::max(kQueryColumns / (geometry.num_heads / geometry.num_kv_heads), 1);
  double least_of_all = kInfinity;
  for (int rows = std::min(most, longest);; rows = (rows + 1) / 2) {
    Planner::Cost least{kInfinity, kInfinity};
    AttentionPlan best;
    for (const Share share : {Share::kSplit, Share::kChunk, Share::kSegment, Share::kRows}) {
      AttentionPlan plan;
      Planner planner(sequences, positions, geometry, writes_first, share, rows);
      if (!planner.run(&plan)) continue;
      const Planner::Cost cost = planner.cost();
      if (cost.longest_group >= least.longest_group) continue;
      least = cost;
      best = std::move(plan);
    }
    if (least.shared < least_of_all) least_of_all = least.shared, *out = std::move(best);
    if (rows == 1) break;
  }
  return !out->items.empty() || sequences.empty();
}

}  // namespace qspec::cuda
