#include "session/attention_plan.h"

#include <algorithm>
#include <limits>

namespace qspec::cuda {

namespace {

constexpr double kItemOverhead = 0.3;  // of a split's time: handing in results

class Planner {
 public:
  Planner(const std::vector<SequenceRows>& sequences, const std::vector<int32_t>& positions, const AttentionGeometry& geometry, bool by_segment)
      : sequences_(sequences), positions_(positions), geometry_(geometry), by_segment_(by_segment) {}

  bool run(AttentionPlan* out) {
    out_ = out;
    *out_ = {};
    const int group = geometry_.num_heads / geometry_.num_kv_heads, block_rows = std::max(kQueryColumns / group, 1);
    int num_groups = 0, num_rows = 0;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      num_rows = std::max(num_rows, sequences_[s].end);
      for (int row = sequences_[s].begin; row < sequences_[s].end; row += block_rows)
        add_rows(static_cast<int>(s), row, std::min(row + block_rows, sequences_[s].end), num_groups++);
    }
    out_->segment_stride = (num_splits_ + kSegmentSplits - 1) / kSegmentSplits;
    out_->split_stride = by_segment_ ? std::min(num_splits_, 2 * kSegmentSplits) : num_splits_;
    return is_possible_ && static_cast<int64_t>(num_rows) * out_->split_stride <= geometry_.split_slots &&
           static_cast<int64_t>(num_rows) * out_->segment_stride <= geometry_.segment_slots && static_cast<int>(out_->folds.size()) <= geometry_.max_folds;
  }

  // In units of a split, for the block that has most to do.
  double cost() const {
    const double waves = (static_cast<double>(out_->items.size()) * geometry_.num_kv_heads + geometry_.num_blocks - 1) / geometry_.num_blocks;
    int longest = 1;
    for (const AttentionItem& item : out_->items) longest = std::max(longest, item.split_end - item.split_begin);
    return static_cast<int64_t>(waves) * (longest + kItemOverhead);
  }

 private:
  void add_rows(int sequence, int begin, int end, int group) {
    const int start = sequences_[sequence].start, splits = positions_[end - 1] / kSplitPositions + 1;
    const int tail = std::min(start / kSplitPositions, splits);  // splits from here on are each row's own
    if (by_segment_ && splits - tail > kSegmentSplits) is_possible_ = false;
    num_splits_ = std::max(num_splits_, splits);
    const int segments = (splits + kSegmentSplits - 1) / kSegmentSplits;
    for (int segment = 0; segment < segments; ++segment) {
      const int first = segment * kSegmentSplits, last = std::min(first + kSegmentSplits, splits);
      const size_t before = out_->items.size();
      if (by_segment_ && last <= tail) {
        add_item(sequence, begin, end, first, last, false);
      } else {
        for (int split = first; split < last; ++split) {
          if (split < tail) add_item(sequence, begin, end, split, split + 1, false);
          for (int row = begin; split >= tail && row < end; ++row) add_item(sequence, row, row + 1, split, split + 1, true);
        }
      }
      out_->folds.push_back({begin, end - begin, first, last, static_cast<int>(out_->items.size() - before), segment, group, segments});
    }
  }

  void add_item(int sequence, int begin, int end, int split_begin, int split_end, bool is_tail) {
    const SequenceRows& rows = sequences_[sequence];
    AttentionItem item{};
    item.row_begin = begin, item.num_rows = end - begin, item.split_begin = split_begin, item.split_end = split_end;
    item.fold = static_cast<int>(out_->folds.size()), item.is_tail = is_tail;
    item.sequence_begin = rows.begin, item.sequence_end = rows.end, item.page_begin = rows.page_begin;
    item.last_position = positions_[end - 1];
    const bool is_tree = rows.start != std::numeric_limits<int>::max();
    item.first_new = is_tree ? std::numeric_limits<int>::max() : positions_[rows.begin];
    out_->items.push_back(item);
  }

  const std::vector<SequenceRows>& sequences_;
  const std::vector<int32_t>& positions_;
  const AttentionGeometry& geometry_;
  const bool by_segment_;
  AttentionPlan* out_ = nullptr;
  int num_splits_ = 1;
  bool is_possible_ = true;
};

}  // namespace

bool plan_attention(const std::vector<SequenceRows>& sequences, const std::vector<int32_t>& positions, const AttentionGeometry& geometry, AttentionPlan* out) {
  AttentionPlan other;
  Planner splits(sequences, positions, geometry, false), segments(sequences, positions, geometry, true);
  const bool has_splits = splits.run(out), has_segments = segments.run(&other);
  if (!has_splits && !has_segments) return false;
  if (!has_splits || (has_segments && segments.cost() < splits.cost())) *out = std::move(other);
  return true;
}

}  // namespace qspec::cuda
