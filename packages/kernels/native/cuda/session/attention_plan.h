// How attention over the rows of one launch is shared out: items for teams of warps, and which of their results are folded together.
#pragma once
#include <vector>

#include "step/step_program.h"

namespace qspec::cuda {

// Rows of one sequence, ascending by position. `start`: first position whose slot its ancestors name (tree), or INT32_MAX.
struct SequenceRows {
  int begin, end;
  int start;
  int page_begin;  // in the call's page ids
};

struct AttentionGeometry {
  int num_heads, num_kv_heads, head_dim;
  KvFormat format;       // of the cache
  int num_blocks;        // of the grid
  size_t room;           // shared memory of a block for its teams
  int result_slots;      // StepWorkspace: results of items that fit
  int segment_slots;
  int max_folds;
  bool has_codes() const { return format != KvFormat::kBf16; }
};

struct AttentionPlan {
  std::vector<AttentionItem> items;
  std::vector<AttentionFold> folds;
  int result_stride = 0, segment_stride = 0;
  FoldShape fold_shape{0, 0};
  TeamShare share{TeamWay::kSplits, kMaxTeamWarps, 0, kRingTurns[2], 0};
};

// `positions` of all rows; `writes_first`: see StepBatch; `is_long`: of a launch whose attention is a kernel of its own. False when the results don't fit the workspace.
bool plan_attention(const std::vector<SequenceRows>& sequences, const std::vector<int32_t>& positions, const AttentionGeometry& geometry, bool writes_first,
                    bool is_long, AttentionPlan* out);

}  // namespace qspec::cuda
